"""Locks on folders."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from mednextv2 import locks
from mednextv2.errors import InputError

HOLD = """
import sys, time
from mednextv2.locks import hold_folder
hold_folder(sys.argv[1], "output_dir")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path, holder):
    with pytest.raises(InputError) as error:
        locks.hold_folder(tmp_path, "output_dir")
    text = str(error.value)
    assert text.startswith(f"output_dir {tmp_path}: process {holder.pid} on {socket.gethostname()}, since ")
    assert "give another --output_dir" in text


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_goes_with_its_process(tmp_path, holder, sign):
    holder.send_signal(sign)
    holder.wait()
    locks.hold_folder(tmp_path, "output_dir")
    assert json.loads((tmp_path / locks.NAME).read_text())["process"] == os.getpid()
    locks.hold_folder(tmp_path, "output_dir")  # this process has it already
    locks.release_folder(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    locks.hold_folder(tmp_path, "output_dir")
    assert "has no locks (No locks available)" in caplog.text
    assert tmp_path / locks.NAME not in locks._held


def test_a_lock_file_that_says_nothing_is_no_obstacle(tmp_path, holder):
    (tmp_path / locks.NAME).write_text("{")
    with pytest.raises(InputError, match="another process writes there"):
        locks.hold_folder(tmp_path, "output_dir")


def test_a_folder_held_from_the_start_is_created_and_removed_if_nothing_was_written(tmp_path):
    folder = tmp_path / "new" / "output"
    with locks.holding_from_the_start(folder, "output_dir"):
        assert json.loads((folder / locks.NAME).read_text())["process"] == os.getpid()
        locks.hold_folder(folder, "output_dir")  # as the training does, once it has begun
    assert not (tmp_path / "new").exists()
    with locks.holding_from_the_start(folder, "output_dir"):
        (folder / "model.pt").write_text("weights")
    assert [file.name for file in folder.iterdir()] == ["model.pt"]


def test_a_folder_that_another_process_holds_is_refused_from_the_start(tmp_path, holder):
    with pytest.raises(InputError, match=f"process {holder.pid}"), locks.holding_from_the_start(tmp_path, "output_dir"):
        pytest.fail("the block ran")
    assert (tmp_path / locks.NAME).exists()


def test_a_folder_that_cannot_be_created_is_left_to_the_block(tmp_path):
    (tmp_path / "file").write_text("")
    ran = []
    with locks.holding_from_the_start(tmp_path / "file", "output_dir"):
        ran.append(True)
    assert ran
    assert (tmp_path / "file").is_file()
