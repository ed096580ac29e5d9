import pytest
from cuda_stand_in import StandIn
from torch import nn


@pytest.fixture
def no_initialisation(monkeypatch):
    """Leave convolutions uninitialised: the large sizes are built without touching their memory."""
    monkeypatch.setattr(nn.modules.conv._ConvNd, "reset_parameters", lambda self: None)


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for CUDA graphs that computes on the CPU."""
    return StandIn(monkeypatch)
