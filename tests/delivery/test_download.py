import hashlib
import socket

import pytest
from delivery_helpers import refused

from mednextv2.delivery.download import download, download_json

BODY = b"bundle" * 1000


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", None])
def test_a_file_is_downloaded_and_compared(kind, hosts, tmp_path):
    hosts.files["a.zip"] = BODY
    checksum = kind and hashlib.new(kind, BODY).hexdigest()
    download(f"{hosts.address}/a.zip", tmp_path / "a", checksum)
    assert (tmp_path / "a").read_bytes() == BODY
    if checksum:
        download(f"{hosts.address}/a.zip", tmp_path / "a", checksum.upper())
        message = refused(download, f"{hosts.address}/a.zip", tmp_path / "a", "0" * len(checksum))
        assert f"has the checksum {checksum}, where {'0' * len(checksum)} is expected" in message


def test_a_file_on_this_machine_is_an_address_too(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    download((tmp_path / "a").as_uri(), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == BODY


def test_what_is_missing_is_named(hosts, tmp_path):
    message = refused(download, f"{hosts.address}/a.zip", tmp_path / "a")
    assert message.startswith(f"{hosts.address}/a.zip: is not there (HTTP status 404)")


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_connection_that_breaks_off_is_named(cut, hosts, tmp_path):
    hosts.files["a.zip"], hosts.cut = BODY, cut
    message = refused(download, f"{hosts.address}/a.zip", tmp_path / "a")
    assert f"broke off after {cut} of {len(BODY)} bytes" in message


def test_a_server_that_is_down_is_named(tmp_path):
    with socket.socket() as s:  # a port that nobody listens on
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}/a.zip"
    message = refused(download, address, tmp_path / "a")
    assert message.startswith(f"{address}: cannot be fetched (")
    assert "refused" in message


@pytest.mark.parametrize("address", ["ftp://host/a", "a.zip", "https://", "http://[/x"])
def test_an_address_that_is_none_is_refused(address, tmp_path):
    assert refused(download, address, tmp_path / "a").startswith(f"{address}: ")


def test_json(hosts):
    hosts.files["a.json"] = b'{"a": 1}'
    assert download_json(f"{hosts.address}/a.json") == {"a": 1}
    for body in (b"<html>", b"[" * 100_000, b"\xff"):
        hosts.files["a.json"] = body
        assert "is no JSON file" in refused(download_json, f"{hosts.address}/a.json")
    hosts.files["a.json"] = b" " * (20 * 2**20 + 1)
    assert "has more than 20 MiB" in refused(download_json, f"{hosts.address}/a.json")
