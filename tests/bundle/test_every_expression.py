"""Every expression of every recipe, evaluated, also where there is a GPU."""

import pytest
import torch
from monai.bundle.config_item import ConfigExpression
from setting_runs import QUICK, TABLES, Workflow, recipe, settings_of
from torch import nn


def expressions(parser, words=("",)):
    """The entries of a configuration that are expressions with one of these words."""

    def walk(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, [*path, key])
        elif isinstance(node, list):
            for key, value in enumerate(node):
                yield from walk(value, [*path, str(key)])
        elif ConfigExpression.is_expression(node) and any(word in node for word in words):
            yield "::".join(path)

    return [name for name in walk(parser.config, []) if not name.startswith(("imports", "_meta_"))]


@pytest.fixture
def evaluated(monkeypatch):
    """The expressions that were evaluated."""
    found, evaluate = set(), ConfigExpression.evaluate

    def remember(self, *args, **kwargs):
        result = evaluate(self, *args, **kwargs)
        found.add(self.get_id())
        return result

    monkeypatch.setattr(ConfigExpression, "evaluate", remember)
    return found


@pytest.mark.parametrize("workflow", TABLES)
def test_every_expression_can_be_evaluated(workflow, shared, tmp_path, evaluated, monkeypatch):
    monkeypatch.setenv("MEDNEXTV2_DATA", str(shared))  # what dataset_dir is made of
    settings = settings_of(workflow, shared, tmp_path / "out")
    if workflow == "inference":
        settings["input"] = str(shared / "images")
    keep = {"prepared_dir", "input", "iterations_per_epoch", "val_iterations", "epochs", "batch_size"}
    settings = {name: value for name, value in settings.items() if name in keep}
    work = Workflow(workflow, shared, settings)
    work.parser.update(
        {"output_dir": str(tmp_path / "out"), "num_workers": 0, **({} if workflow == "train" else QUICK[workflow])}
    )
    expected = expressions(Workflow(workflow, shared, {}).parser)
    work.run()
    for name in expected:
        work[name]
    settled = {"output_dir", "num_workers", "overlap", "test_mirror_axes", *settings}
    assert set(expected) - evaluated - settled == set()
    # those that were settled here, so that the bundle's folder stays as it is
    for name in settled & set(expected):
        Workflow(workflow, shared, {})[name]
    assert set(expected) - evaluated == set()


GPU_WORDS = ("cuda", "@device", "half_is_fast", "@amp")


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says that it has a GPU, whose bfloat16 is as `gpu.bfloat16` says."""

    def is_bf16_supported(including_emulation=True):
        return gpu.bfloat16 == "real" or (including_emulation and gpu.bfloat16 == "emulated")

    gpu = type("Gpu", (), {"bfloat16": "real", "chosen": []})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: gpu.chosen.append(device))
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    return gpu


@pytest.mark.parametrize("workflow", TABLES)
def test_expressions_about_the_device_can_be_evaluated_where_there_is_a_gpu(workflow, shared, tmp_path, gpu, evaluated):
    settings = settings_of(workflow, shared, tmp_path / "out")
    work = Workflow(workflow, shared, settings)
    names = expressions(work.parser, GPU_WORDS)
    assert {"device", "amp", "engine_amp", "network_on_device", "amp_kwargs::dtype"} <= set(names)
    if workflow == "train":
        assert {"train::dataloader::pin_memory", "validate::dataloader::pin_memory"} <= set(names)
    for name in names:
        work[name]
    assert set(names) <= evaluated
    assert work["device"] == torch.device("cuda")
    assert work["amp"] is work["engine_amp"] is True
    if workflow == "train":
        assert work["train::dataloader"].pin_memory is work["validate::dataloader"].pin_memory is True


@pytest.mark.parametrize(
    ("bfloat16", "dtype"), [("real", torch.bfloat16), ("emulated", torch.float16), ("", torch.float16)]
)
def test_half_precision_is_what_the_gpu_computes_in(bfloat16, dtype, shared, tmp_path, gpu):
    gpu.bfloat16 = bfloat16
    work = Workflow("inference", shared, settings_of("inference", shared, tmp_path / "out"))
    assert work["amp_kwargs"] == {"dtype": dtype}


@pytest.mark.parametrize("cuda", [True, False])
def test_the_overlays_expressions(cuda, shared, tmp_path, gpu, evaluated, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    ended = []
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append(True))
    work = Workflow("multi_gpu_train", shared, settings_of("train", shared, tmp_path / "out"))
    names = [*recipe("multi_gpu_train")]
    assert names == ["cuda_graph", "device", "network", "initialize", "finalize"]
    mine = [n for n in expressions(work.parser) if n.split("::")[0] in names]
    for name in mine:
        work[name]
    assert set(mine) <= evaluated
    device = torch.device("cuda", 1) if cuda else torch.device("cpu")
    assert work["device"] == device
    assert work["network::device_ids"] == ([device] if cuda else None)
    assert work["initialize::1::backend"] == ("nccl" if cuda else "gloo")
    assert gpu.chosen == ([device] if cuda else [])
    assert work["graphs"].enabled is False
    work["finalize::0"]
    assert ended == [True]
