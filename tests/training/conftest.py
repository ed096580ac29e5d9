import pytest
import torch
from monai.utils import set_determinism


@pytest.fixture(autouse=True)
def _undo_determinism():
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    set_determinism(None)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags
