"""Processors, home folder and name of the user."""

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mednextv2 import machine


@pytest.fixture
def free(tmp_path, monkeypatch):
    """A machine of 64 processors without limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("nonsense", 64), ("", 64)],
)
def test_the_quota_of_a_container_counts(free, cpu_max, expected):
    (free / "cpu.max").write_text(cpu_max)
    assert machine.usable_cpus() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 3 * 2**30),
        ({"memory.max": "max", "memory.current": "5"}, 3 * 2**30),
        ({"memory.max": str(2**30), "memory.current": str(2**29)}, 2**29),
        (
            {"memory.max": str(2**30), "memory.current": str(2**29), "memory.stat": f"anon 5\ninactive_file {2**28}\n"},
            2**29 + 2**28,
        ),
        ({"memory.max": str(2**29), "memory.current": str(2**30)}, 0),
    ],
)
def test_free_memory_is_that_of_the_system_and_of_the_container(files, expected, free, monkeypatch):
    (free / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    3145728 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", free / "meminfo")
    for name, text in files.items():
        (free / name).write_text(text)
    assert machine.free_memory() == expected


def test_where_the_system_does_not_tell_there_is_no_limit(free, monkeypatch):
    monkeypatch.setattr(machine, "_MEMINFO", free / "none")
    assert machine.free_memory() == float("inf")


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("400000", 4)])
def test_the_quota_of_an_older_container_counts(free, quota, expected):
    (free / "cpu").mkdir()
    (free / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (free / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cpus() == expected


@pytest.mark.parametrize(("value", "expected"), [("8", 8), ("100", 64), ("0", 64), ("x", 64), ("", 64)])
def test_slurms_share_counts(free, monkeypatch, value, expected):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", value)
    assert machine.usable_cpus() == expected


def test_the_processors_that_are_allowed_count():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + (
        "from mednextv2.machine import usable_cpus; print(usable_cpus())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "1"


def test_a_user_without_a_name_gets_one(monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setenv("USER", "before")
    machine.name_user()
    assert os.environ["USER"] == "before"
    monkeypatch.setattr(getpass, "getuser", unknown)
    machine.name_user()
    assert os.environ["USER"] == f"user{os.getuid()}"


def test_a_user_without_a_home_gets_a_folder_for_matplotlib_and_another_keeps_its_own(monkeypatch):
    monkeypatch.setenv("MPLCONFIGDIR", "mine")  # so that it is as before after the test
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(machine, "home_folder", lambda: None)
    machine.name_user()
    assert os.environ["MPLCONFIGDIR"] == "mine"
    del os.environ["MPLCONFIGDIR"]
    machine.name_user()
    made = Path(os.environ["MPLCONFIGDIR"])
    assert made.is_dir()
    made.rmdir()
    monkeypatch.setattr(machine, "home_folder", lambda: Path("/home/me"))
    del os.environ["MPLCONFIGDIR"]
    machine.name_user()
    assert "MPLCONFIGDIR" not in os.environ


def test_a_user_without_a_home_has_none(monkeypatch):
    assert machine.home_folder() == Path.home()
    monkeypatch.setattr(Path, "home", lambda: Path("relative"))
    assert machine.home_folder() is None

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert machine.home_folder() is None


def test_the_memory_of_the_machine_is_what_linux_says():
    said = Path("/proc/meminfo")
    if not said.exists():
        pytest.skip("not Linux")
    kilobytes = int(said.read_text().split()[1])
    assert machine.machine_memory() == pytest.approx(kilobytes * 1024, rel=0.01)


def test_the_command_line_reads_files_as_utf8_whatever_the_locale():
    code = "from mednextv2.machine import use_utf8; use_utf8(); print(open(0, closefd=False).encoding)"
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout.strip().lower()) == (0, "utf-8"), done.stderr
