"""The C++ library: built once, by one of several processes, with every instruction set, or done without."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from mednextv2 import ops
from mednextv2.nets import create_mednext, explain
from mednextv2.ops import native

HERE = Path(__file__).parent
STEP = """
import logging, torch
logging.basicConfig(format="%(levelname)s %(message)s")
from mednextv2 import ops
from mednextv2.nets import MedNeXt
from mednextv2.ops import native
library = native.load()
torch.manual_seed(0)
net = MedNeXt(init_filters=4)
x = torch.randn(1, 1, 16, 16, 16)
y = net(x)
y.sum().backward()
with ops.use("reference"):
    expected = net(x)
print(library.state.name, "|", library.reason, "|", float((y - expected).norm() / expected.norm()) < 1e-5)
"""
NAMES = {"avx2": "AVX2", "avx512": "AVX-512", "avx512_bf16": "AVX-512 with bfloat16", "amx": "AMX with bfloat16"}
has_compiler = shutil.which(os.environ.get("CXX", "c++")) is not None
can_build = has_compiler and platform.machine() == "x86_64" and sys.platform == "linux"


def start(**environment):
    return subprocess.Popen(
        [sys.executable, "-c", STEP],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    state, reason, right = out.strip().split(" | ")
    assert right == "True"
    return native.State[state], reason, err


def test_the_library_is_there_where_it_can_be():
    library = native.load()
    assert library.loaded == can_build, library.reason
    if library.loaded:
        assert library.reason in NAMES.values()
        assert native.built().exists()
    path = explain(create_mednext("v2_tiny"), (1, 1, 16, 16, 16))[0].path
    assert path == ("native" if library.loaded else "torch")


@pytest.mark.slow
@pytest.mark.skipif(not can_build, reason="no C++ compiler for x86-64 Linux")
def test_two_processes_that_start_together_build_it_once(tmp_path):
    results = [finish(p) for p in [start(MEDNEXTV2_CACHE=str(tmp_path / "cache")) for _ in range(2)]]
    assert [r[0] for r in results] == [native.State.LOADED] * 2
    assert sum("Building the fast CPU kernels" in r[2] for r in results) == 1
    left = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert left == [native.built().with_suffix(ending).name for ending in (".lock", ".sha256", ".so", ".spare")]
    # if the copy beside it is damaged too, it is built anew
    whole = tmp_path / "cache" / native.built().name
    for file in (whole, whole.with_suffix(".spare")):
        os.truncate(file, 10_000)
    state, _, err = finish(start(MEDNEXTV2_CACHE=str(tmp_path / "cache")))
    assert state is native.State.LOADED
    assert f"{whole} is damaged, or was not finished, and is built anew" in err
    assert finish(start(MEDNEXTV2_CACHE=str(tmp_path / "cache")))[2].count("damaged") == 0


@pytest.mark.skipif(not can_build, reason="no C++ compiler for x86-64 Linux")
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "a flipped byte", "removed"])
def test_a_damaged_library_is_restored_before_it_is_loaded(damage, tmp_path, monkeypatch, caplog):
    """Loading it would end the process."""
    shutil.copytree(native.cache_folder(), tmp_path / "cache")
    monkeypatch.setenv(native.CACHE, str(tmp_path / "cache"))
    raw = native.built().read_bytes()
    if damage == "removed":
        native.built().unlink()
    else:
        flipped = raw[:5000] + bytes([raw[5000] ^ 255]) + raw[5001:]
        native.built().write_bytes({"cut": raw[:10_000], "empty": b"", "text": b"hello"}.get(damage, flipped))
    monkeypatch.setattr(native, "_build", lambda folder: pytest.fail("was built again"))
    assert native.library().read_bytes() == raw
    assert "is missing or damaged, and is restored from the copy beside it" in caplog.text
    assert not list((tmp_path / "cache").glob(".build-*"))


def test_a_cache_folder_that_is_a_file_is_named(tmp_path):
    file = tmp_path / "cache"
    file.touch()
    state, reason, _ = finish(start(MEDNEXTV2_CACHE=str(file)))
    assert state is (native.State.BROKEN if can_build else native.State.ABSENT)
    assert not can_build or f"{file} is no folder" in reason


@pytest.mark.skipif(not can_build, reason="no C++ compiler for x86-64 Linux")
@pytest.mark.parametrize(
    "isa", ["avx2", *(pytest.param(isa, marks=pytest.mark.slow) for isa in native.INSTRUCTION_SETS[1:])]
)
def test_older_instruction_sets_agree_with_the_definition(isa):
    """The comparisons of the operators again, in a process that goes no further than this instruction set."""
    if list(NAMES.values()).index(native.load().reason) < list(NAMES).index(isa):
        pytest.skip(f"this processor has no {NAMES[isa]}")
    if native.load().reason == NAMES[isa]:
        pytest.skip(f"{NAMES[isa]} is what all other tests use here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
    tests = [str(HERE / name) for name in ("test_folded_mlp.py", "test_depthwise.py", "test_block.py")]
    environment = {**os.environ, "MEDNEXTV2_ISA": isa}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [*command, "-k", "equal_the_definition and auto", *tests], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout
    assert finish(start(MEDNEXTV2_ISA=isa))[:2] == (native.State.LOADED, NAMES[isa])


def test_a_processor_with_tiles_uses_them():
    """By Linux' list of what the processor has, and PyTorch's question for the permission, not the library's own."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    tiles = {"amx_tile", "amx_bf16", "avx512_bf16"} <= set(flags.split()) and torch.cpu._init_amx()
    assert (native.load().reason == NAMES["amx"]) == (can_build and tiles and not os.environ.get(native.INSTRUCTIONS))


@pytest.mark.parametrize("before", [None, "/nowhere"])
def test_the_path_is_longer_only_while_the_library_is_built(tmp_path, monkeypatch, before):
    """As in an environment that was not activated, where ninja is beside Python and not on the path."""
    seen = []

    def load(*args, **kwargs):
        seen.append(os.environ["PATH"].split(os.pathsep)[-1])
        raise OSError("no compiler")

    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("PATH") if before is None else monkeypatch.setenv("PATH", before)
    environment = dict(os.environ)
    with pytest.raises(OSError, match="no compiler"):
        native._build(tmp_path)
    assert seen == [sysconfig.get_path("scripts")]
    assert dict(os.environ) == environment


def test_it_can_be_switched_off():
    assert finish(start(MEDNEXTV2_NATIVE="0"))[:2] == (native.State.ABSENT, "switched off by MEDNEXTV2_NATIVE=0")


def test_without_a_compiler_everything_works_and_says_why(tmp_path):
    state, reason, err = finish(start(MEDNEXTV2_CACHE=str(tmp_path), CXX="there-is-no-such-compiler"))
    assert state is native.State.ABSENT
    if "for Linux on x86-64" not in reason:
        fault = "CXX is there-is-no-such-compiler, which is not there or cannot be run"
        assert reason == f"there is no C++ compiler: {fault}"
        assert err.count("PyTorch's slower operators take the place of the fast CPU kernels") == 1


@pytest.mark.parametrize(
    ("setting", "value", "known"),
    [(native.SETTING, "no", "0 or 1"), (native.INSTRUCTIONS, "sse", "avx2 or avx512 or avx512_bf16")],
)
def test_a_setting_of_unknown_value_is_refused(setting, value, known, monkeypatch):
    monkeypatch.setenv(setting, value)
    with pytest.raises(ValueError, match=f"{setting} is {known}, not '{value}'"):
        native.load()
    monkeypatch.setenv(setting, "")
    native.load()


@pytest.mark.skipif(not can_build, reason="no C++ compiler for x86-64 Linux")
def test_a_compiler_that_fails_leaves_a_warning_and_nothing_else(tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo 12.2.0 && exit 0\necho "out of order" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    state, reason, err = finish(start(MEDNEXTV2_CACHE=str(tmp_path / "cache"), CXX=str(broken)))
    assert state is native.State.BROKEN
    assert reason.startswith("the library could not be built")
    assert "PyTorch's slower operators take their place" in err
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"]


@pytest.mark.skipif(not can_build, reason="no C++ compiler for x86-64 Linux")
def test_a_cache_that_cannot_be_written_does_not_stop_anybody(tmp_path):
    (tmp_path / "file").write_text("in the way")
    state, reason, _ = finish(start(MEDNEXTV2_CACHE=str(tmp_path / "file" / "cache")))
    assert state is native.State.BROKEN
    assert "could not be built" in reason
    assert "MEDNEXTV2_CACHE names another" in reason


def test_gelu_in_bfloat16_is_closer_than_its_rounding():
    """A voxel of zeros, so that the expansion's bias is what GELU gets; its value is the gradient of the compression's
    weight, and its slope that of the bias."""
    u = torch.linspace(-9, 9, 8192).requires_grad_()
    w2 = torch.ones(1, u.numel(), requires_grad=True)
    one, zero = torch.ones(16), torch.zeros(16)

    def run(bias):
        y = torch.zeros(1, 16, 1, 1, 1, dtype=torch.bfloat16)
        return ops.folded_mlp(
            y, ops.Mlp(one, zero, torch.zeros(bias.numel(), 16), bias, None, None, w2, torch.zeros(1))
        )  # fmt: skip

    run(u).sum().backward()
    exact = u.detach().double().requires_grad_()
    value = torch.nn.functional.gelu(exact)
    value.sum().backward()
    assert ((w2.grad[0] - value).abs() <= 2e-4 + value.abs() * 2**-8).all()
    assert ((u.grad - exact.grad).abs() <= 4e-4 + exact.grad.abs() * 2**-8).all()
    near = exact.abs() < 0.1  # in relation to the value itself where that is small
    assert ((w2.grad[0] - value).abs()[near] <= value.abs()[near] * 2**-7).all()

    with torch.no_grad():
        u[17] = float("nan")
    w2.grad = u.grad = None
    out = run(u)
    out.sum().backward()
    assert out.isnan().all()
    assert w2.grad[0, 17].isnan()
    assert u.grad[17].isnan()


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Error building 'x': [1/4] c++\na.cpp:3:1: error: no such thing\nmore", "a.cpp:3:1: error: no such thing"),
        ("Error building\nc++: fatal error: cannot execute 'cc1plus'\n", "c++: fatal error: cannot execute 'cc1plus'"),
        ("x\nas: a.o: _ZN5: No space left on device\nerror: other", "No space left on device"),
        ("one line", "one line"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_cause_of_a_failed_build_is_one_line(message, cause):
    assert native._cause(message) == cause


def test_the_folder_of_built_libraries_is_where_the_user_may_write(tmp_path, monkeypatch):
    for name in (native.CACHE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / ".cache" / "mednextv2"
    monkeypatch.setenv(native.CACHE, "~/kernels")
    assert native.cache_folder() == tmp_path / "kernels"
    monkeypatch.setenv(native.CACHE, "kernels")
    assert native.cache_folder() == Path("kernels").absolute()
    monkeypatch.delenv(native.CACHE)
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    native._own_temporary.cache_clear()
    monkeypatch.setattr(native, "home_folder", lambda: None)
    own = tmp_path / f"mednextv2-{os.getuid()}"
    assert native.cache_folder() == own
    assert own.stat().st_mode & 0o777 == 0o700
    native._own_temporary.cache_clear()
    own.chmod(0o777)  # others could put a library there
    monkeypatch.setattr(native.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "private"))
    assert native.cache_folder() == tmp_path / "private"
    native._own_temporary.cache_clear()
    monkeypatch.setattr(native, "home_folder", lambda: tmp_path / "home")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert native.cache_folder() == tmp_path / "private"
    native._own_temporary.cache_clear()


@pytest.mark.skipif(not can_build, reason="no C++ compiler for x86-64 Linux")
def test_a_folder_in_the_place_of_the_library_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv(native.CACHE, str(tmp_path))
    native.built().mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"\.so is a folder; remove it"):
        native.library()
