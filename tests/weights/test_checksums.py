"""The checksum of a file of weights."""

import hashlib
import subprocess

import pytest

from mednextv2.errors import InputError
from mednextv2.weights.checksums import check_checksum

OTHER = "0" * 64


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    return tmp_path / "model.pt"


def test_a_checksum_that_holds_is_accepted(file):
    digest = hashlib.sha256(b"weights").hexdigest()
    check_checksum(file)
    check_checksum(file, digest)
    check_checksum(file, f" {digest.upper()}\n")


def test_a_wrong_one_is_told_with_both(file):
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(InputError) as caught:
        check_checksum(file, OTHER)
    assert str(file) in str(caught.value)
    assert f"Its SHA-256 is {digest}, but pretrained_sha256 says {OTHER}; download the file again" in str(caught.value)


@pytest.mark.parametrize("given", ["", "abc", "g" * 64, 12])
def test_what_is_no_checksum_is_refused(given, file):
    with pytest.raises(InputError, match=r"pretrained_sha256 .*: should be 64 hexadecimal digits"):
        check_checksum(file, given)


def test_the_output_of_sha256sum_beside_the_file_is_compared(file):
    beside = file.with_name("model.pt.sha256")
    beside.write_bytes(
        subprocess.run(["sha256sum", file.name], cwd=file.parent, capture_output=True, check=True).stdout
    )
    check_checksum(file)
    beside.write_text(f"{OTHER} *model.pt\n")
    with pytest.raises(InputError, match=f"but {beside} says {OTHER}"):
        check_checksum(file)
    check_checksum(file, hashlib.sha256(b"weights").hexdigest())  # what is given counts more
    beside.write_text(f"{OTHER}\n")
    with pytest.raises(InputError, match="download the file again"):
        check_checksum(file)
    for text in ("", "no digits", f"{OTHER}  other.pt\n"):
        beside.write_text(text)
        with pytest.raises(InputError, match=r"model\.pt\.sha256: should hold the SHA-256 of model\.pt"):
            check_checksum(file)


def test_a_file_that_is_not_there_is_left_to_its_reader(tmp_path):
    check_checksum(tmp_path / "none.pt", OTHER)
