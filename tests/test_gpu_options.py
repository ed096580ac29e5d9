"""Options of the commands for a GPU, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import gpu_check
import gpu_launches
import gpu_options
import gpu_predict_step
import gpu_tune

from mednextv2.errors import InputError

COMMANDS = {"check": gpu_check, "launches": gpu_launches, "predict_step": gpu_predict_step, "tune": gpu_tune}
NEEDED = {"check": ["--dry", "--output", "never made"], "tune": ["--dry"]}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("value", ["33", "0", "-16", "1040", "1000000000000", "9" * 5000, "16.0", "wide", ""])
def test_a_wrong_patch_is_one_line_before_anything_else(name, value, capsys):
    with pytest.raises(SystemExit) as error:
        COMMANDS[name].main([*NEEDED.get(name, []), f"--patch={value}"])
    assert error.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument --patch: {value}: give a positive multiple of 16 up to 1024, such as 128" in line


@pytest.mark.parametrize("name", ["check", "tune"])
@pytest.mark.parametrize("value", ["-1", "0", "0.09", "1441", "nan", "inf", "five"])
def test_wrong_minutes_are_one_line(name, value, capsys):
    with pytest.raises(SystemExit):
        COMMANDS[name].main([*NEEDED[name], f"--minutes={value}"])
    assert f"argument --minutes: {value}: give minutes from 0.1 to 1440" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("value", ["0", "-1", "1025", "two"])
def test_a_wrong_batch_is_one_line(value, capsys):
    with pytest.raises(SystemExit):
        gpu_launches.main([f"--batch={value}"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument --batch: {value}: give a whole number from 1 to 1024" in line


def test_limits_themselves_are_allowed():
    assert [gpu_options.edge(text) for text in ("16", "1024")] == [16, 1024]
    assert [gpu_options.batch(text) for text in ("1", "1024")] == [1, 1024]
    assert [gpu_options.minutes(text) for text in ("0.1", "1440")] == [0.1, 1440]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_tells_what_a_patch_may_be(name, capsys):
    with pytest.raises(SystemExit) as error:
        COMMANDS[name].main(["--help"])
    assert error.value.code == 0
    assert "a multiple of 16 up to 1024 (default: 128" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("output", "reason"),
    [("file", "cannot be written"), ("/proc/x", "cannot be written"), ("", "an empty name"), (" ", "an empty name")],
)
def test_a_folder_that_cannot_be_written_is_told_before_the_work(output, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(gpu_predict_step, "predict_step", lambda *given: pytest.fail("it began to work"))
    with pytest.raises(SystemExit) as error:
        gpu_predict_step.main(["--output", output])
    assert error.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert reason in line
    assert "--output" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_prediction_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_predict_step, "predict_step", lambda *given: {})
    place = tmp_path / "new" / "folder"
    gpu_predict_step.main(["--output", str(place)])
    names = {f"gpu-predicted-v2_base.{ending}" for ending in ("md", "json")}
    assert {path.name for path in place.iterdir()} == names
    written = Path.write_text

    def half(self, text, encoding):
        written(self, text[: len(text) // 2], encoding=encoding)
        raise OSError(28, "No space left on device")

    before = {name: (place / name).read_text("utf-8") for name in names}
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(InputError, match="No space left on device"):
        gpu_predict_step.main(["--output", str(place)])
    assert {path.name: path.read_text("utf-8") for path in place.iterdir()} == before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(KeyboardInterrupt(), 130, "interrupted"), (InputError("x: is wrong; mend it"), 2, "error: x: is wrong; mend it")],
)
def test_commands_end_with_one_line(error, code, line, capsys):
    def main():
        raise error

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            gpu_options.end(main)
        assert ended.value.code == code
        assert capsys.readouterr().err == line + "\n"
        for answer in (0, 1):
            with pytest.raises(SystemExit) as ended:
                gpu_options.end(lambda answer=answer: answer)
            assert ended.value.code == answer
    finally:
        signal.signal(signal.SIGTERM, before)


def heed_interruptions():
    """A shell's background job, as these tests may be, ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# the processes that compile begin, or are at work
@pytest.mark.slow
@pytest.mark.parametrize("start", ["| kernel ", "| "])
def test_an_interruption_while_others_compile_is_one_line(start):
    script = str(Path(gpu_tune.__file__).with_name("gpu_compile.py"))
    few = ["--variants", "v2_tiny", "--arch", "90", "--dtypes", "bfloat16", "--kernel-sizes", "3"]
    environment = {**os.environ, "TRITON_ALWAYS_COMPILE": "1"}
    process = subprocess.Popen(
        [sys.executable, script, *few], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True, preexec_fn=heed_interruptions,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith(start) and ("_kernel" in line) is (start == "| "):
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error == "interrupted\n"
