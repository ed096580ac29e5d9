import pytest
from delivery_helpers import HIPPOCAMPUS

from mednextv2.delivery import pack_bundle


@pytest.fixture
def hosts():
    """A loopback server that stands for GitHub, Hugging Face and a web server."""
    import release_hosts

    with release_hosts.serving() as found:
        yield found


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """The hippocampus bundle, packed for every host. Read only."""
    output = tmp_path_factory.mktemp("packed")
    pack_bundle(HIPPOCAMPUS, output, github="alice/bundles/v1", hugging_face=True)
    return output
