import gzip
import zlib

import pytest

from mednextv2.errors import InputError
from mednextv2.images.declared_data import check_compressed, check_expansion, check_plain, declared_bytes


def test_the_bytes_of_a_shape_are_counted(tmp_path):
    assert declared_bytes(tmp_path, (3, 4, 5), 2) == 120
    assert declared_bytes(tmp_path, (7,), 1) == 7


@pytest.mark.parametrize("shape", [(), (0,), (3, -1), (2**31, 1), (1,) * 6])
def test_shapes_that_no_image_has_are_refused(tmp_path, shape):
    with pytest.raises(InputError, match="an image has 1 to 5 axes"):
        declared_bytes(tmp_path, shape, 1)


def test_more_than_the_memory_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"65536×65536×65536 voxels, 5.24e\+05 GiB, but this machine has"):
        declared_bytes(tmp_path, (65536,) * 3, 2)


def test_a_plain_file_may_be_longer_but_not_shorter(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(bytes(10))
    check_plain(file, file, 2, 8)
    check_plain(file, file, 2, 7)
    with pytest.raises(InputError, match="declares 9 bytes of voxels, but f has 8"):
        check_plain(file, file, 2, 9)
    with pytest.raises(InputError, match="but f has 0"):
        check_plain(file, file, 20, 1)


def test_compression_has_a_limit(tmp_path):
    check_expansion(tmp_path, 1000, 1_000_000)
    with pytest.raises(InputError, match="cannot be in 1000 compressed ones"):
        check_expansion(tmp_path, 1000, 3_000_000)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_data_are_counted_to_their_end(tmp_path, pack):
    file, data = tmp_path / "f", bytes(range(256)) * 20_000
    file.write_bytes(b"head" + pack(data) + b"behind the end")
    check_compressed(file, file, 4, len(data))
    with pytest.raises(
        InputError, match="is truncated; its header declares 5120001 bytes of voxels, but there are 5120000"
    ):
        check_compressed(file, file, 4, len(data) + 1)
    with pytest.raises(InputError, match="expand beyond the 9 bytes"):
        check_compressed(file, file, 4, 9)
    with pytest.raises(InputError, match="damaged"):
        check_compressed(file, file, 3, len(data))
