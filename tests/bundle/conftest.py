import pytest
from bundle_helpers import QUICK, run_monai


@pytest.fixture(scope="session")
def small_phantom(tmp_path_factory):
    """Six cases; fold 0 trains on four and validates on two."""
    from mednextv2.data import make_phantom_dataset

    return make_phantom_dataset(tmp_path_factory.mktemp("data") / "Task04_Hippocampus", cases=6, seed=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_phantom):
    """The output folder of a training of the hippocampus bundle by MONAI's own command line."""
    output = tmp_path_factory.mktemp("trained")
    result = run_monai(
        "train", {**QUICK, "dataset_dir": small_phantom, "output_dir": output}, cwd=tmp_path_factory.getbasetemp()
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return output


@pytest.fixture(scope="session")
def shared(tmp_path_factory, small_phantom):
    """What runs of many settings have in common, in a folder that they may add to; `at:NAME` is a file of it."""
    from setting_runs import make_shared

    folder = tmp_path_factory.mktemp("shared")
    make_shared(folder, small_phantom)
    return folder


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A collection of three data sets. Read only."""
    from collection_runs import make_parts

    return make_parts(tmp_path_factory.mktemp("parts"))
