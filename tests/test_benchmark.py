"""The benchmark runs on a small network; a competitor that fails or crashes leaves a row; ratios are what they say."""

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from mednextv2.nets.monai_mednext import monai_mednext

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Import one of the benchmark's files by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[dict, str]:
    """One run on two patches: JSON and markdown. The stub of ResEnc-L's package kills whoever imports it."""
    folder = tmp_path_factory.mktemp("benchmark")
    package = folder / "stub" / "dynamic_network_architectures"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n")
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--output", str(folder / "out"), "--name=small"]
    command += ["--patch=32", "--patch=16", "--threads=1", "--rounds=2", "--repeats=1"]
    command += ["--ours=float32", "--settings=shipped", "--peers=monai,resenc_l"]
    paths = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report, table = ((folder / "out" / f"small.{suffix}").read_text(encoding="utf-8") for suffix in ("json", "md"))
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["small.json", "small.md"]  # and no temporary file
    assert table.strip() in done.stdout
    return json.loads(report), table


def test_every_competitor_has_times_memory_and_ratios_from_the_same_rounds(small):
    report, table = small
    sections = [section for section in report["sections"] if section["patch"] == [32, 32, 32]]
    assert [section["what"] for section in sections] == ["inference", "train"]
    for section in sections:
        ours, monai, _ = section["rows"]
        assert (ours["competitor"], monai["competitor"]) == ("ours", "monai")
        assert ours["error"] is None
        assert monai["error"] is None
        assert [len(times) for times in monai["rounds"]] == [1, 1]
        ratios = [b[0] / a[0] for a, b in zip(ours["rounds"], monai["rounds"], strict=True)]
        assert monai["ratio"][1] == pytest.approx(statistics.median(ratios))
        assert ours["ratio"] == [1, 1, 1]
        for row in (ours, monai):
            assert row["memory"]["peak_above_baseline_bytes"] > 2**20
            assert row["memory"]["peak_bytes"] > row["memory"]["baseline_bytes"]
            floor = section["floor_seconds"]["float32"]
            assert row["times_floor"] == pytest.approx(statistics.median(t[0] for t in row["rounds"]) / floor)
            assert row["heads"] == (5 if section["what"] == "train" else 1)
        assert f"MONAI as shipped takes {statistics.median(ratios):.2f}× the time of ours" in section["summary"][0]
    assert table.count("| ours | float32 |") == 4
    assert table.count("| MONAI | shipped |") == 4


def test_a_competitor_that_fails_or_crashes_is_a_row_and_the_rest_goes_on(small):
    report, table = small
    sections = [section for section in report["sections"] if section["patch"] == [16, 16, 16]]
    assert len(sections) == 2
    for section in sections:
        ours, monai, resenc = section["rows"]
        assert ours["error"] is None
        assert len(ours["rounds"]) == 2
        assert monai["error"].startswith("ValueError: Expected more than 1 value per channel")  # a map of one voxel
        assert monai["ratio"] is None
        assert "SIGKILL" in resenc["error"]
        assert section["summary"] == []
    assert table.count("| MONAI | shipped | failed: ValueError") == 2
    assert table.count("| ResEnc-L | shipped | failed: the process was ended by SIGKILL") == 4


def test_hardware_and_versions_are_told_but_no_folders(small):
    report, table = small
    assert report["versions"]["torch"] == torch.__version__
    assert report["machine"]["cores"] >= 1
    assert report["threads"] == 1
    assert report["machine"]["cpu"] in table
    for text in (json.dumps(report), table):
        assert not re.search(r"/(home|root|tmp|work|usr)/", text)
        assert str(SCRIPTS.parent) not in text


def test_ratios_are_medians_over_rounds_and_the_summary_names_the_best_hand_setting(script):
    report = script("benchmark_report")

    def row(competitor, setting, *rounds):
        memory = {"peak_above_baseline_bytes": 100}
        names = {"competitor": competitor, "setting": setting, "dtype": "bfloat16" if "bf16" in setting else "float32"}
        return {**names, "rounds": [list(r) for r in rounds], "memory": memory, "error": None}

    rows = [
        row("ours", "float32", (2, 2, 9), (4,), (2,)),
        row("ours", "bf16", (1,), (2,), (1,)),
        row("monai", "shipped", (6,), (8,), (10,)),  # 3, 2, 5 times float32's; 6, 4, 10 times bf16's
        row("monai", "bf16", (3,), (4,), (3,)),
        row("monai", "compile", (4,), (4,), (4,)),
        row("ours", "bf16+malloc", (1,), (1,), (1,)),
        row("monai", "bf16+malloc", (2,), (2,), (2,)),
        row("monai", "channels_last", (1,)),
    ]
    rows[2]["memory"] = {"peak_above_baseline_bytes": 400}
    rows[-1]["error"] = "killed in the second round"
    section = {"what": "train", "patch": [32, 32, 32], "batch": 1, "rows": rows}
    rates = {"float32_macs": 10, "bfloat16_macs": 20, "copy_bytes": 100}
    report.finish_section(section, rates, {"macs": 10, "activations": 10, "parameters": 90})
    assert rows[2]["ratio"] == [2.5, 3, 4]
    assert rows[2]["ratio_to_fastest"] == [5, 6, 8]
    assert section["floor_seconds"] == {"float32": 4.0, "bfloat16": 3.8}  # traffic: 400 and 20 + 360 bytes
    assert rows[1]["times_floor"] == pytest.approx(1 / 3.8)
    assert section["summary"] == [
        "MONAI as shipped takes 6.00× the time of ours (bf16), quartiles 5.00 to 8.00; ours has 0.25× its peak memory",
        "MONAI's best by hand (bf16) takes 3.00× the time of ours (bf16), quartiles 2.50 to 3.00; "
        "ours has 1.00× its peak memory",
        "MONAI's best by hand (bf16+malloc) takes 2.00× the time of ours (bf16+malloc), quartiles 2.00 to 2.00; "
        "ours has 1.00× its peak memory",
    ]


@pytest.mark.parametrize("what", ["inference", "train"])
def test_the_counted_work_is_that_of_the_convolutions_of_a_network_of_the_same_sizes(script, what):
    net = monai_mednext("v2_tiny", out_channels=3, deep_supervision=what == "train").train(what == "train")
    macs = [0]

    def count(module, inputs, output):
        steps = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
        macs[0] += steps[0, 0].numel() * steps.shape[0] * module.weight.numel()

    for module in net.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 1, 32, 32, 48))
    work = script("benchmark_measure").count_work("v2_tiny", 3, what, 2, (32, 32, 48))
    assert work["macs"] == 2 * macs[0] * (3 if what == "train" else 1)


def test_what_could_name_a_machine_is_removed(script, monkeypatch):
    report = script("benchmark_report")
    monkeypatch.setattr(report.platform, "node", lambda: "ward7")
    error = RuntimeError("ward7: cannot read /home/someone/a b/c.so: bad\nmore")
    assert report.one_line(error) == "RuntimeError: host: cannot read a b/c.so: bad"
    assert report.scrub("2 images/s at ~/x/y.py") == "2 images/s at y.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "40"], "--patch: '40': give three positive multiples of 16"),
        (["--patch", "32,32"], "--patch: '32,32': give three"),
        (["--settings", "shipped,fp8"], "--settings: 'fp8': there is no such setting; choose shipped, or parts of"),
        (["--ours", "channels_last"], "--ours: 'channels_last': ours is channels-last by itself"),
        (["--output", __file__], "no folder can be made there: File exists"),
        (
            ["--peers", "unet"],
            "--peers: 'unet': there is no such peer; choose of monai, resenc_l, onnxruntime, or none",
        ),
        (["--peers", "onnxruntime", "--what", "train"], "--peers: onnxruntime is measured in inference on a CPU"),
        (["--what", "test"], "--what: 'test': choose of inference, train"),
        (["--rounds", "0"], "--rounds: '0': give a whole number from 1"),
        (["--min-time", "nan"], "--min-time: 'nan': give seconds"),
        (["--kernel-size", "4"], "--kernel-size: 4: give an odd number"),
        (["--variant", "v3"], "--variant: invalid choice: 'v3'"),
        (["--name", "a/b"], "--name: 'a/b': give a name without folder"),
    ],
)
def test_a_bad_option_is_named_with_what_to_do(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        script("benchmark").parse_options(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_settings_have_one_name_whatever_their_order(script):
    options = script("benchmark").parse_options(
        ["--settings", "channels_last+bf16,bf16+channels_last", "--patch", "16"]
    )
    assert options.settings == ["bf16+channels_last"]
    assert options.patch == [(16, 16, 16)]
    assert options.name == "v2_tiny-cpu"


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("resenc_l", "resenc_l needs dynamic_network_architectures: pip install dynamic-network-architectures, or"),
        ("onnxruntime", "onnxruntime needs onnx and onnxscript and onnxruntime: pip install 'mednextv2[onnx]', or"),
    ],
)
def test_a_peer_that_is_not_installed_is_named_with_its_package(script, monkeypatch, capsys, peer, message):
    benchmark = script("benchmark")
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        benchmark.parse_options(["--peers", f"monai,{peer}"])
    assert message in capsys.readouterr().err


def test_resenc_l_has_fewer_stages_for_a_small_patch(script):
    models = script("benchmark_models")
    for size, stages in ((16, 3), (32, 4), (64, 5), (128, 6), (144, 5)):
        case = models.Case("resenc_l", "shipped", "train", "v2_tiny", (size,) * 3, 1, 3, "cpu", None, "")
        with torch.device("meta"):
            net = models.build(case)
        assert len(net.encoder.stages) == stages


# --- the other benchmarks --------------------------------------------------------------------------------------------


def run_script(name, folder, *arguments):
    command = [sys.executable, str(SCRIPTS / f"benchmark_{name}.py"), *map(str, arguments), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (table,), (report,) = ([p.read_text(encoding="utf-8") for p in folder.glob(f"*.{s}")] for s in ("md", "json"))
    assert "- Hardware: " in table
    return json.loads(report), table


@pytest.mark.slow
def test_memory_of_a_large_image_is_that_of_its_process(tmp_path):
    settings = ["--shape=32,32,48", "--patch=16,16,16", "--classes=5"]
    report, table = run_script("inference", tmp_path / "out", "large", *settings)
    (row,) = report["rows"]
    assert row["windows"] == 3 * 3 * 5
    assert row["monai_bytes"] == 4 * 32 * 32 * 48 * 6
    assert 2**27 < row["peak_bytes"] < 2**32
    assert "| 5 | 32×32×48 | 45 |" in table


def test_export_is_compared_with_that_of_monai(tmp_path):
    settings = ["--shape=32,30,34", "--patch=16,16,16", "--classes=4", "--rounds=2"]
    report, table = run_script("inference", tmp_path / "out", "export", *settings)
    assert len(report["rows"]) == 2
    for row in report["rows"]:
        assert row["equal_to_monai"] >= 0.9999
        assert row["equal_to_invert"] >= 0.9999
        assert 0 < row["streaming_labels_seconds"] < row["streaming_seconds"]
    assert "| 4 | 32×30×34 | 21×20×23 |" in table


@pytest.mark.slow
def test_export_of_a_known_label_map(tmp_path):
    labels = np.zeros((20, 22, 24), np.uint8)
    labels[4:12, 5:15, 6:16], labels[12:16, 5:15, 6:16] = 7, 40
    image = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    for name, array in (("image", image), ("labels", labels)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    files = ["--image", tmp_path / "image.nii.gz", "--labels", tmp_path / "labels.nii.gz"]
    settings = ["--shape=32,30,34", "--patch=16,16,16", "--classes=4", "--rounds=1"]
    report, table = run_script("inference", tmp_path / "out", "export", *files, *settings)
    assert report["rows"][0]["equal_to_monai"] >= 0.9999
    assert "a lead of 6 for the classes of its label map" in table


@pytest.mark.slow
def test_windows_of_air_are_counted(tmp_path):
    image = np.full((40, 40, 40), -1000, np.int16)
    image[12:28, 12:28, 12:28] = np.random.default_rng(0).normal(40, 20, (16, 16, 16))
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "ct.nii.gz")
    settings = ["--image", tmp_path / "ct.nii.gz", "--patch=16,16,16", "--rounds=1", "--field=56,56,56"]
    report, _ = run_script("inference", tmp_path / "out", "air", *settings)
    assert report["windows"] == 6**3
    assert 0 < report["skipped"] < report["windows"]
    assert report["rows"][0]["equal_inside"] is True


@pytest.mark.slow
def test_memory_of_a_training_step_is_compared_with_its_estimate(tmp_path):
    settings = ["--variant=v2_tiny", "--patch=32,32,32", "--batch=1"]
    report, table = run_script("recipe", tmp_path / "out", "memory", *settings)
    (row,) = report["rows"]
    assert row["measured_bytes"] > 2**23
    assert f"| {row['estimate_bytes'] / row['measured_bytes']:.2f} |" in table
