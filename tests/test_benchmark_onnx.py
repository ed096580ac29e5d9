"""ONNX Runtime as a row of the benchmark: its labels are compared with ours, and other labels are no row."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Import one of the benchmark's files by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def pointwise(weight: np.ndarray) -> onnx.ModelProto:
    """A network of one 1×1×1 convolution, written by hand."""
    shape = ["n", "x", "y", "z"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weight"], ["logits"], kernel_shape=[1, 1, 1])],
        "pointwise",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [shape[0], 1, *shape[1:]])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [shape[0], 3, *shape[1:]])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def onnx_stepper(script, tmp_path):
    """A function that makes the step of a network written by hand, compared with logits of PyTorch's convolution."""
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(3, 1, 1, 1, 1)).astype("f"), rng.normal(size=(1, 1, 16, 16, 16)).astype("f")
    measured = script("benchmark_onnx")
    sizes = {"what": "inference", "variant": "v2_tiny", "patch": (16, 16, 16), "batch": 1, "kernel_size": 3}
    case = script("benchmark_models").Case(
        "onnxruntime", "float32", device="cpu", threads=1, cache=str(tmp_path), **sizes
    )

    def make(changed: int):
        onnx.save(pointwise(weight), measured.network_file(case))
        logits = nn.functional.conv3d(torch.from_numpy(x), torch.from_numpy(weight)).numpy()
        logits[:, 0, 0, 0, :changed] += 9 - 18 * (logits[:, 0, 0, 0, :changed] > logits[:, 1:, 0, 0, :changed].max(1))
        np.savez(measured.reference_file(case), logits=logits, x=x, parameters=3)
        return measured.OnnxStepper(case)

    return make


def test_the_step_of_onnx_runtime_is_timed_and_its_labels_are_compared(script, onnx_stepper):
    stepper = onnx_stepper(0)
    first = script("benchmark_measure").measure_memory(stepper)
    assert first["equal_labels"] == 1
    assert first["parameters"] == 3
    assert first["memory"]["peak_bytes"] >= first["memory"]["baseline_bytes"] > 0
    times = stepper.turn(2, 0.0)
    assert len(times) == 2
    assert min(times) > 0


def test_a_network_with_other_labels_is_no_row(onnx_stepper):
    with pytest.raises(RuntimeError, match=r"only 99\.9[0-9]{3} % of the labels equal ours"):
        onnx_stepper(2).step()


def test_equal_labels_are_counted_where_every_class_is_frequent(script):
    share = script("benchmark_onnx").share_of_equal_labels
    expected = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    expected[:, 1] += 100  # all labels would be 1
    other = expected.clone()
    other[:, 0, 0] += 20
    assert share(expected, expected) == 1
    assert 0.9 < share(other, expected) < 1 - 0.5 / 8


def test_onnx_runtime_has_its_lines_and_its_column(script):
    report = script("benchmark_report")

    def row(competitor, setting, seconds, peak, equal=None):
        dtype = "bfloat16" if "bf16" in setting else "float32"
        names = {"competitor": competitor, "setting": setting, "dtype": dtype, "compile_seconds": None}
        memory = {"peak_above_baseline_bytes": peak}
        return {**names, "rounds": [[s] for s in seconds], "memory": memory, "error": None, "equal_labels": equal}

    rows = [
        row("ours", "float32", (2, 4), 100),
        row("ours", "bf16", (1, 2), 50),
        row("onnxruntime", "float32", (3, 6), 400, 0.99995),
    ]
    section = {"what": "inference", "patch": [32, 32, 32], "batch": 1, "rows": rows}
    rates = {"float32_macs": 10, "bfloat16_macs": 20, "copy_bytes": 100}
    report.finish_section(section, rates, {"macs": 10, "activations": 10, "parameters": 90})
    assert section["summary"] == [
        "ONNX Runtime takes 1.50× the time of ours (float32), quartiles 1.50 to 1.50; ours has 0.25× its peak memory",
        "ONNX Runtime takes 3.00× the time of ours (bf16), quartiles 3.00 to 3.00; ours has 0.12× its peak memory",
        "ONNX Runtime's labels equal ours (float32) in 99.9950 % of the voxels",
    ]
    text = "\n".join(report.format_section(section))
    assert "| ratio to fastest | labels equal to ours |" in text
    assert "| 3.00 | 99.9950 % |" in text
    rows[2]["error"] = "too little memory"
    lines = [line for line in report.format_section(section) if line.startswith("|")]
    assert {line.count("|") for line in lines} == {12}


@pytest.mark.slow
def test_onnx_runtime_is_a_row_of_inference_alone(tmp_path):
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--output", str(tmp_path), "--name=onnx", "--patch=32"]
    command += ["--threads=1", "--rounds=2", "--repeats=1", "--ours=float32", "--peers=onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "onnx.json").read_text(encoding="utf-8"))
    inference, train = report["sections"]
    ours, row = inference["rows"]
    assert row["error"] is None
    assert row["equal_labels"] >= 0.9999
    assert row["parameters"] == ours["parameters"]
    assert [len(times) for times in row["rounds"]] == [1, 1]
    assert [r["competitor"] for r in train["rows"]] == ["ours"]
    assert "| ONNX Runtime | float32 |" in (tmp_path / "onnx.md").read_text(encoding="utf-8")
