import subprocess

import pytest
from delivery_helpers import refused

from mednextv2.delivery.manifest import MANIFEST, find_additions, find_changes, manifest_text, read_manifest, verify

# of "abc" and of nothing, from FIPS 180-4 and its examples
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.json").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / MANIFEST).write_text(manifest_text({"configs/a.json": tmp_path / "configs" / "a.json", "b": b""}))
    return tmp_path


def test_it_is_what_sha256sum_reads(bundle):
    assert (bundle / MANIFEST).read_text() == f"{EMPTY}  b\n{ABC}  configs/a.json\n"
    assert read_manifest(bundle) == {"b": EMPTY, "configs/a.json": ABC}
    subprocess.run(["sha256sum", "--check", "--strict", MANIFEST], cwd=bundle, check=True, capture_output=True)


def test_a_bundle_as_it_was_packed_is_verified(bundle):
    (bundle / "mednextv2" / "__pycache__").mkdir(parents=True)
    (bundle / "mednextv2" / "__pycache__" / "x.pyc").touch()
    verify(bundle, "here")
    assert find_changes(bundle) == find_additions(bundle) == []


def test_every_difference_is_named(bundle):
    (bundle / "b").unlink()
    (bundle / "configs" / "a.json").write_bytes(b"abd")
    (bundle / "new").touch()
    message = refused(verify, bundle, "https://host/x.zip")
    assert message.startswith("https://host/x.zip: the bundle is not as it was packed: ")
    assert f"b is missing; configs/a.json has another content; new is not in {MANIFEST}" in message


def test_links_are_additions(bundle):
    (bundle / "link").symlink_to(bundle / "configs")
    assert find_additions(bundle) == ["link"]


def test_a_bundle_without_a_manifest_cannot_be_verified(bundle):
    (bundle / MANIFEST).unlink()
    assert f"has no {MANIFEST}" in refused(verify, bundle, "here")


@pytest.mark.parametrize("line", ["what", f"{ABC} b", f"{ABC}  b\n{ABC}  b", f"{ABC[1:]}  b"])
def test_a_manifest_of_another_kind_is_refused(bundle, line):
    (bundle / MANIFEST).write_text(line + "\n")
    assert refused(read_manifest, bundle).startswith(f"{bundle / MANIFEST}: line ")
