"""`mednextv2 doctor`: what it prints, and its exit code; GPUs are stand-ins."""

from pathlib import Path

import torch
import trial_standin as standin
from doctor_helpers import install_gpu, rows
from verb_helpers import call

import mednextv2
from mednextv2.nets import create_mednext
from mednextv2.ops import native


def test_without_a_gpu_it_says_so_and_shows_the_cpu_library(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, _ = call(monkeypatch, capsys, "doctor")
    shown = dict(row.split(maxsplit=1) for row in rows(out.replace("CPU kernels", "CPU")))
    assert code == 0
    assert shown["mednextv2"] == mednextv2.__version__
    assert shown["PyTorch"].startswith(torch.__version__)
    assert shown["GPU"].startswith("none that PyTorch can use: ")
    library = native.load()
    assert shown["CPU"] == (f"{library.reason} ({native.built()})" if library.loaded else f"none: {library.reason}")


def test_a_gpu_is_shown_with_its_verdicts_and_a_failure_is_the_exit_code(tmp_path, monkeypatch, capsys):
    tried = install_gpu(monkeypatch, tmp_path)
    code, out, _ = call(monkeypatch, capsys, "doctor", "--network", "v2_small")
    problems = create_mednext("v2_small").problems(torch.bfloat16)
    assert tried == problems
    assert code == 1
    shown = rows(out)
    assert f"GPU 0 {standin.NAME}, compute capability 9.0, 80 GiB" in shown
    right = len(problems) - 2
    assert f"kernels of v2_small, kernel 3, bfloat16: {right} of {len(problems)} kinds give PyTorch's numbers" in shown
    assert "FAILED 32 channels, expansion to 64, kernel 3, bfloat16: gave other numbers" in shown
    assert "right 64 channels, expansion to 128, kernel 3, bfloat16" in shown
    assert sum(row.startswith("right") for row in shown) == right
    (kept,) = (row.removeprefix("kept in ") for row in shown if row.startswith("kept in"))
    assert Path(kept).is_file()

    call(monkeypatch, capsys, "doctor", "--network", "v2_small")
    assert len(tried) == len(problems)
    call(monkeypatch, capsys, "doctor", "--network", "v2_small", "--dtype", "float16")
    assert len(tried) == 2 * len(problems)
    call(monkeypatch, capsys, "doctor", "--network", "v2_small", "--repeat")
    assert len(tried) == 3 * len(problems)
    call(monkeypatch, capsys, "doctor", "--network", "v2_small", "--dtype", "float16")  # these were not forgotten
    assert len(tried) == 3 * len(problems)


def test_misspelt_options_end_in_one_line(monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "doctor", "--netwrk", "v2_tiny")
    assert (code, out) == (2, "")
    assert err.strip() == "error: --netwrk: doctor has no such option; did you mean --network?"


def test_every_size_of_network_is_named_in_the_help():
    from mednextv2.commands import doctor
    from mednextv2.nets.variants import VARIANTS

    assert all(name in doctor.__doc__ for name in VARIANTS)
