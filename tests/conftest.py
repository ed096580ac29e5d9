from pathlib import Path

import pytest
import torch

from mednextv2.data import make_phantom_dataset

collect_ignore = ["conftest.py"]  # has no examples: --doctest-modules would import it a second time


@pytest.fixture(autouse=True)
def _same_random_numbers_in_every_run():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A phantom data set of six cases, in MSD layout. Read only: copy it to change it."""
    return make_phantom_dataset(tmp_path_factory.mktemp("phantom"), cases=6)
