import pytest
from postprocessing_helpers import save, strip


@pytest.fixture
def files(tmp_path):
    """Writes (prediction, label) arrays or strips, and returns the files' names."""

    def write(*cases, ending=".nii"):
        pairs = []
        for i, pair in enumerate(cases):
            arrays = [strip(a) if isinstance(a, str) else a for a in pair]
            names = (tmp_path / f"{kind}_{i}{ending}" for kind in ("pred", "label"))
            pairs.append(tuple(save(name, a) for name, a in zip(names, arrays, strict=True)))
        return pairs

    return write
