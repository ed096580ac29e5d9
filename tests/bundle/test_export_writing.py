"""How an exported network comes onto the disk: wholly, or not at all."""

import resource

import pytest
from export_helpers import FORMATS, export_small, make_weights

from mednextv2.errors import InputError


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond a number of bytes, which the system reports as it does a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_message_and_leaves_what_was_there(format, full_disk, tmp_path):
    made = make_weights(tmp_path)
    file = tmp_path / f"one_convolution.{format}"
    file.write_text("before")
    there = sorted(tmp_path.iterdir())
    full_disk(1200)  # the weights have more
    with pytest.raises(InputError) as e:
        export_small(tmp_path, format, made=made)
    assert str(e.value) == f"{file}: cannot be written (File too large); make room, or choose another folder"
    assert sorted(tmp_path.iterdir()) == there
    assert file.read_text() == "before"
