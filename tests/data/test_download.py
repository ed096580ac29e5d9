import contextlib
import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
from types import SimpleNamespace

import pytest

from mednextv2.data import fetch_msd_task
from mednextv2.errors import InputError

TASK = "Task04_Hippocampus"
FILES = {"dataset.json": b'{"training": []}', "imagesTr/a.nii.gz": b"image" * 1000, "labelsTr/a.nii.gz": b"label"}


def make_tar(files=FILES, top=TASK, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(f"{top}/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server():
    """An HTTP server on this machine: `content` by path, and the `requests` it got."""
    content, requests = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = content.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: state.cut])

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_port}/task.tar"
    state = SimpleNamespace(content=content, requests=requests, url=url, cut=None)
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def serve(server, body):
    server.content["/task.tar"] = body
    return {"url": server.url, "md5": md5(body)}


def refused(folder, task=TASK, **settings):
    with pytest.raises(InputError) as caught:
        fetch_msd_task(task, folder, **settings)
    return str(caught.value)


def test_task_is_downloaded_and_unpacked(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert fetch_msd_task(TASK, folder, **serve(server, make_tar())) == folder / TASK
    for name, content in FILES.items():
        assert (folder / TASK / name).read_bytes() == content
    assert server.requests == ["/task.tar"]


def test_task_that_is_there_is_not_requested_again(server, tmp_path):
    settings = serve(server, make_tar())
    first = fetch_msd_task(TASK, tmp_path, **settings)
    (tmp_path / f"{TASK}.tar").unlink(missing_ok=True)
    assert fetch_msd_task(TASK, tmp_path, **settings) == first
    assert len(server.requests) == 1


def test_folder_by_hand_needs_no_network_and_no_known_name(tmp_path):
    (tmp_path / "Task99_Own").mkdir()
    (tmp_path / "Task99_Own" / "dataset.json").write_text("{}")
    assert fetch_msd_task("Task99_Own", tmp_path) == tmp_path / "Task99_Own"


def test_wrong_checksum_leaves_nothing(server, tmp_path):
    serve(server, make_tar())
    message = refused(tmp_path, url=server.url, md5="0" * 32)
    assert TASK in message
    assert server.url in message
    assert re.search("hash|checksum", message)
    assert list(tmp_path.iterdir()) == []


def test_checksum_of_monai_is_used_when_none_is_given(server, tmp_path):
    serve(server, make_tar())
    assert re.search("hash|checksum", refused(tmp_path, url=server.url))
    assert not (tmp_path / TASK).exists()


def test_download_works_after_one_with_a_wrong_checksum(server, tmp_path):
    settings = serve(server, make_tar())
    refused(tmp_path, **settings | {"md5": "0" * 32})
    assert (fetch_msd_task(TASK, tmp_path, **settings) / "dataset.json").is_file()


def test_damaged_archive_of_an_earlier_attempt_is_in_the_way_only_once(server, tmp_path):
    settings = serve(server, make_tar())
    (tmp_path / f"{TASK}.tar").write_bytes(b"half of it")
    with contextlib.suppress(InputError):
        fetch_msd_task(TASK, tmp_path, **settings)
    assert (fetch_msd_task(TASK, tmp_path, **settings) / "dataset.json").is_file()


def test_connection_that_breaks_off_leaves_nothing(server, tmp_path):
    settings = serve(server, make_tar())
    server.cut = 2000
    assert server.url in refused(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_server_that_is_down_is_named(tmp_path):
    with socket.socket() as s:  # a port that nobody listens on
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/task.tar"
    message = refused(tmp_path, url=url, md5="0" * 32)
    assert f"{TASK}: could not be downloaded from {url}" in message
    assert "refused" in message
    assert list(tmp_path.iterdir()) == []


def test_address_that_does_not_exist_is_named(server, tmp_path):
    message = refused(tmp_path, url=server.url, md5="0" * 32)
    assert server.url in message
    assert "404" in message


def test_unknown_task_is_refused_with_the_names_of_the_tasks(tmp_path):
    message = refused(tmp_path, task="Task04_Hippocampous")
    assert message.startswith("Task04_Hippocampous: ")
    assert TASK in message
    assert "Task01_BrainTumour" in message
    assert list(tmp_path.iterdir()) == []


def test_archive_without_dataset_json_is_named(server, tmp_path):
    message = refused(tmp_path, **serve(server, make_tar({"imagesTr/a.nii.gz": b"image"})))
    assert f"/task.tar: the archive holds no {TASK}/dataset.json" in message


def test_archive_of_another_task_is_named(server, tmp_path):
    assert f"holds no {TASK}/dataset.json" in refused(tmp_path, **serve(server, make_tar(top="Task02_Heart")))


def test_file_that_is_no_archive_is_named(server, tmp_path):
    assert TASK in refused(tmp_path, **serve(server, b"<html>log in first</html>"))


def test_archive_with_links_is_refused_with_its_name(server, tmp_path):
    assert TASK in refused(tmp_path, **serve(server, make_tar(links=[("imagesTr/b.nii.gz", "/etc/passwd")])))


def test_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    message = refused(tmp_path / "file" / "data", **serve(server, make_tar()))
    assert message.startswith(f"folder {tmp_path / 'file' / 'data'}: cannot be written (")
    assert "choose another folder" in message


def test_unpacking_that_was_cut_short_is_not_taken_for_the_whole_task(server, tmp_path, monkeypatch):
    settings = serve(server, make_tar())  # dataset.json comes first in the archive

    def disk_full(source, target, *rest, written=[]):  # noqa: B006
        written.append(source)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        target.write(source.read())

    with monkeypatch.context() as patch:
        patch.setattr("monai.apps.utils.shutil.copyfileobj", disk_full)
        message = refused(tmp_path, **settings)
    assert f"{tmp_path}: {TASK} cannot be written (No space left on device); make room" in message
    assert not any(tmp_path.iterdir())
    task = fetch_msd_task(TASK, tmp_path, **settings)
    for name, content in FILES.items():
        assert (task / name).read_bytes() == content
