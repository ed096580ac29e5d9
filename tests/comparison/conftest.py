import pytest
from comparison_helpers import QUICK, as_options, network_file
from verb_helpers import call_verb


@pytest.fixture(scope="session")
def compared(phantom, tmp_path_factory):
    """The folder of a comparison of two networks that train and one whose process is killed, and what was printed."""
    folder = tmp_path_factory.mktemp("compared")
    files = [network_file(folder, name) for name in ("mini", "slim", "killed")]
    names = ",".join(map(str, files))
    options = ["--epochs", 2, "--bundle", "mednextv2_hippocampus", "--output", folder / "out", *as_options(QUICK)]
    return folder, call_verb("compare", phantom, names, *options), options
