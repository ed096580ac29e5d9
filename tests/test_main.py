"""The command line as a program: exit status, streams, the working directory."""

import os
import shutil
import subprocess
import sys

import pytest
from verb_helpers import call

from mednextv2 import __main__ as program
from mednextv2.errors import InputError, UsageError


def test_the_status_tells_a_mistake_from_input_that_cannot_be_used(monkeypatch, capsys):
    def fail(error):
        def check(dataset_dir: str) -> None:
            raise error

        monkeypatch.setattr(program, "VERBS", {"check": check})
        return call(monkeypatch, capsys, "check", "d")

    assert fail(UsageError("a: b")) == (2, "", "error: a: b\n")
    assert fail(InputError("a: b")) == (1, "", "error: a: b\n")
    assert fail(KeyboardInterrupt())[0] == 130


def test_other_errors_keep_their_traceback():
    code = "import sys, mednextv2.__main__ as m; m.VERBS['check'] = lambda: 1 / 0; sys.argv[1:] = ['check']; m.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")


def test_a_terminal_that_is_not_utf8_gets_question_marks(tmp_path):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "mednextv2", "check", "größe"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "dataset_dir gr??e" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_working_directory_that_is_gone_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f'rmdir "{tmp_path}/gone"; exec "{sys.executable}" -m mednextv2 check data'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path / "gone", capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: the working directory was deleted")


_NOBODY = ["unshare", "-U", "--map-user=12345", "--map-group=12345"]  # as docker run --user 12345


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*_NOBODY, "true"], capture_output=True).returncode != 0,
    reason="needs unshare, and user namespaces that anybody may make",
)
def test_a_user_without_a_name_and_a_home_needs_to_set_nothing(tmp_path):
    known = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    env = {name: value for name, value in os.environ.items() if name not in known}
    words = [*_NOBODY, sys.executable, "-m", "mednextv2", "phantom", "data", "--cases", "1"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "data" / "dataset.json").is_file()


@pytest.mark.parametrize("closed", [*(pytest.param(c, marks=pytest.mark.slow) for c in (">&-", "2>&-")), ">&- 2>&-"])
def test_closed_streams_are_no_mistake(closed, tmp_path):
    def status(words):
        command = f'"{sys.executable}" -m mednextv2 {words} {closed}'
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)

    assert status("--version").returncode == 0
    failed = status("check nothing")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr + failed.stdout
