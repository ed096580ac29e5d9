import pytest
from torch import nn


@pytest.fixture
def no_initialisation(monkeypatch):
    """Leave convolutions uninitialised: the large sizes are built without touching their memory."""
    monkeypatch.setattr(nn.modules.conv._ConvNd, "reset_parameters", lambda self: None)
