import importlib
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dataset_helpers import make_nnunet
from predict_helpers import BUNDLE, QUICK, SHAPE, save

import mednextv2
from mednextv2.data import make_phantom_dataset

collect_ignore = ["conftest.py"]  # has no examples: --doctest-modules would import it a second time


@pytest.fixture(autouse=True)
def _same_random_numbers_in_every_run():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A phantom data set of six cases, in MSD layout. Read only: copy it to change it."""
    return make_phantom_dataset(tmp_path_factory.mktemp("phantom"), cases=6)


@pytest.fixture(scope="session")
def tumour(tmp_path_factory) -> Path:
    """An nnU-Net data set of CT and PET in thick slices, with regions. Read only."""
    return make_nnunet(tmp_path_factory.mktemp("tumour") / "Dataset007_Tumour")


@pytest.fixture(scope="session")
def predictor():
    """The inference of the hippocampus bundle, with the weights that are shipped."""
    return mednextv2.Predictor(BUNDLE, **QUICK)


@pytest.fixture(scope="session")
def voxels(phantom):
    """An image for it: whole numbers of at most 12 bits, which every format holds."""
    array = np.asarray(nib.load(next((phantom / "imagesTr").glob("*.nii.gz"))).dataobj, dtype=np.float32)
    padded = np.zeros(SHAPE, np.float32)
    part = tuple(slice(0, min(n, m)) for n, m in zip(array.shape, SHAPE, strict=True))
    padded[part] = array[part]
    return (1500 * (padded - padded.min()) / np.ptp(padded) + 20).astype(np.int16)


@pytest.fixture(scope="session")
def torchvision():
    """Let timm be imported where torchvision's library is not of this PyTorch; no test uses its operators."""
    for _ in range(50):
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as e:
            missing = re.search(r"operator (torchvision::\w+) does not exist", str(e))
            if missing is None:
                raise
            torch.library.define(missing[1], "(Tensor x) -> Tensor")
    raise AssertionError("torchvision cannot be imported")


@pytest.fixture
def image(tmp_path, voxels) -> Path:
    """The same as a file, alone in the folder `in`."""
    return save(tmp_path / "in" / "case.nii.gz", voxels)
