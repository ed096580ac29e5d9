"""Every setting of every recipe, run with each of its values once; and every expression evaluated."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from bundle_helpers import HIPPOCAMPUS
from cuda_stand_in import StandIn
from dicom_helpers import numbers, write_series
from monai.bundle import ConfigWorkflow
from monai.bundle.config_item import ConfigExpression
from recipe_settings import EVALUATE, FACTS, INFERENCE, TRAIN
from torch import nn

from mednextv2 import recipes
from mednextv2.bundle.build import RECIPES
from mednextv2.bundle.run import as_setting, check_overrides, workflow_files
from mednextv2.inference import preflight
from mednextv2.nets import create_mednext
from mednextv2.settings import RULES
from mednextv2.training import preflight as training

TABLES = {"train": TRAIN, "evaluate": EVALUATE, "inference": INFERENCE}
QUICK = {
    "train": {"batch_size": 2, "epochs": 1, "iterations_per_epoch": 1, "val_iterations": 1, "num_workers": 0},
    "evaluate": {"overlap": 0.0, "num_workers": 0, "test_mirror_axes": []},
    "inference": {"overlap": 0.0, "num_workers": 0, "test_mirror_axes": []},
}
#: Scalars that are no settings, but made of them.
DERIVED = {"engine_amp", "network", "flat_axis", "training", "key_metric"}


class Workflow:
    """A bundle's workflow; `[...]` is what an entry of its configuration becomes."""

    def __init__(self, workflow, shared, settings):
        self.shared = shared
        files = workflow_files(HIPPOCAMPUS, workflow)
        check_overrides(files, settings)
        self.settings = {"bundle_root": str(HIPPOCAMPUS), "patch_size": [16, 16, 16], **settings}
        self._workflow = ConfigWorkflow(
            config_file=files, meta_file=str(HIPPOCAMPUS / "configs" / "metadata.json"), logging_file=False,
            workflow_type="train" if workflow == "train" else "infer",
            **{name: as_setting(name, value) for name, value in self.settings.items()},
        )  # fmt: skip
        self.parser = self._workflow.parser

    def run(self):
        self._workflow.initialize()
        self._workflow.run()
        return self

    def __getitem__(self, name):
        return self.parser.get_parsed_content(name)

    @property
    def output(self):
        return Path(self["output_dir"])

    @property
    def log(self):
        return [line.split(",") for line in (self.output / "training_log.csv").read_text().splitlines()]

    @property
    def masks(self):
        return sorted(p.name for p in self.output.rglob("*_seg.nii.gz"))

    def load(self, name):
        return torch.load(self.output / name, weights_only=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, small_phantom):
    """What the runs have in common: data, prepared cases, weights, DICOM series, a decision on post-processing."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(small_phantom, folder / "Task04_Hippocampus")
    (folder / "images").mkdir()
    for name in ("phantom_000.nii.gz", "phantom_001.nii.gz"):
        shutil.copy(small_phantom / "imagesTr" / name, folder / "images")
    shutil.copytree(small_phantom / "labelsTr", folder / "labels")
    for name, number in (("study/a", 3), ("study/b", 4), ("one series", 5)):
        write_series(folder / name, numbers((20, 18, 17), seed=number), SeriesNumber=number)
    (folder / "list.json").write_text(json.dumps({"testing": [{"image": "images/phantom_000.nii.gz"}]}))
    (folder / "postprocessing.json").write_text('{"steps": [[1]]}')
    Workflow("train", folder, settings_of("train", folder, folder / "trained")).run()
    shutil.copytree(HIPPOCAMPUS, folder / "two folds", ignore=shutil.ignore_patterns("output", "fold_*"))
    for fold in (0, 2):
        (folder / "two folds" / "models" / f"fold_{fold}").mkdir()
        shutil.copy(folder / "trained" / "model.pt", folder / "two folds" / "models" / f"fold_{fold}")
    names = [f"phantom_{i:03d}" for i in range(6)]
    (folder / "splits.json").write_text(json.dumps([{"train": names[:5], "val": names[5:]}]))
    for size in (1, 3, 5):
        weights = create_mednext("v2_tiny", out_channels=3, deep_supervision=True, kernel_size=size).state_dict()
        torch.save(weights, folder / f"kernel {size}.pt")
    return folder


def settings_of(workflow, shared, output, **settings):
    given = {**QUICK[workflow], "output_dir": "at:out", "dataset_dir": "at:Task04_Hippocampus", **settings}
    if workflow == "train":
        given = {"prepared_dir": "at:prepared", **given}
    else:
        given = {"weights": f"at:kernel {given.get('kernel_size', 3)}.pt", **given}
    if workflow == "inference":
        given = {"input": "at:images", **given}
        if given["input"] == "$None":
            del given["input"]
    if given.get("weights") == "the bundle's":
        del given["weights"]
    if given["output_dir"] == "at:out":
        given["output_dir"] = str(output)
    return {name: at(value, shared) for name, value in given.items()}


def at(value, shared):
    if isinstance(value, list):
        return [at(v, shared) for v in value]
    return str(shared / value[3:]) if isinstance(value, str) and value.startswith("at:") else value


def rows():
    tables = {**TABLES, "train": {**TRAIN, **FACTS}}
    for workflow, table in tables.items():
        for name, values in table.items():
            for value, taken, more in values:
                yield pytest.param(workflow, name, value, taken, more, id=f"{workflow} {name} {value}")


def count_checks(monkeypatch):
    """The looks at the data before anything is done with it."""
    found = []
    for module, name in ((training, "check_dataset"), (preflight, "check_dataset"), (preflight, "check_images")):
        check = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, check=check: (found.append(check), check(*args))[1])
    return found


@pytest.mark.parametrize(("workflow", "name", "value", "taken", "more"), list(rows()))
def test_setting(workflow, name, value, taken, more, shared, tmp_path, monkeypatch):
    if name == "compile":  # Inductor would take a minute
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    if name == "bundle_root":
        shutil.copytree(HIPPOCAMPUS, shared / "copy", dirs_exist_ok=True)
    if "at:trained copy" in more.values():
        shutil.rmtree(shared / "trained copy", ignore_errors=True)
        shutil.copytree(shared / "trained", shared / "trained copy")
    settings = settings_of(workflow, shared, tmp_path / "out", **more, **{name: value})
    checked = count_checks(monkeypatch)
    done = Workflow(workflow, shared, settings).run()
    done.checked = checked
    assert taken(done, at(value, shared))


# --- nothing is left out ---------------------------------------------------------------------------------------------


def recipe(name):
    text = (Path(recipes.__path__[0]) / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def joined(workflow):
    config = {}
    for name in RECIPES[workflow]:
        config |= recipe(name)
    return config


@pytest.mark.parametrize("workflow", TABLES)
def test_no_setting_of_a_recipe_is_untested(workflow):
    config = joined(workflow)
    scalars = {name for name, value in config.items() if not isinstance(value, (dict, list))}
    assert scalars - DERIVED == set(TABLES[workflow])


def test_no_setting_of_the_overlay_is_untested():
    scalars = {name for name, value in recipe("multi_gpu_train").items() if not isinstance(value, (dict, list))}
    assert scalars == {"device", "cuda_graph"}  # test_the_overlays_expressions, test_workflows.py


def test_every_rule_is_about_a_setting_that_is_tested():
    assert set(RULES) <= set(TRAIN) | set(FACTS) | set(EVALUATE) | set(INFERENCE)


def test_switches_are_tested_on_and_off():
    for table in (*TABLES.values(), FACTS):
        for name, values in table.items():
            switched = {value for value, *_ in values if isinstance(value, bool)}
            assert switched in (set(), {True, False}), name


# --- expressions -----------------------------------------------------------------------------------------------------


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
    assert {"device", "amp", "engine_amp", "network", "amp_kwargs::dtype"} <= set(names)
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
    assert ended == [True]


# --- what only a GPU does, with a stand-in ----------------------------------------------------------------------------


def test_a_training_is_the_same_with_and_without_recording(shared, tmp_path, monkeypatch):
    found = []
    for recorded in (False, True):
        cuda = StandIn(monkeypatch) if recorded else None
        settings = settings_of("train", shared, tmp_path / str(recorded), cuda_graph=recorded)
        done = Workflow(
            "train", shared, {**settings, "iterations_per_epoch": 3, "val_iterations": 3, "epochs": 2}
        ).run()
        found.append((done.load("model.pt"), done.log))
    assert cuda.captured == 2 + 1
    assert cuda.replayed == 2 * 5 + 5  # all steps but the first, and all validation batches but the first
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    assert found[1][1] == found[0][1]
    trainer = done["train::trainer"]
    assert trainer.non_blocking
    assert trainer.optim_set_to_none  # gradients that are only set to zero are in a replay's way
    assert done["validate::evaluator"].non_blocking


@pytest.mark.parametrize(
    "more", [{}, {"test_mirror_axes": [0]}, {"weights": ["at:kernel 3.pt", "at:trained/model.pt"]}]
)
def test_masks_are_the_same_with_and_without_recording(more, shared, tmp_path, monkeypatch):
    masks = []
    for recorded in (False, True):
        cuda = StandIn(monkeypatch) if recorded else None
        settings = settings_of("inference", shared, tmp_path / str(recorded), cuda_graph=recorded, **more)
        done = Workflow("inference", shared, settings).run()
        masks.append({p.name: p.read_bytes() for p in done.output.iterdir()})
    assert masks[0] == masks[1]
    assert len(masks[0]) == 2
    assert cuda.captured >= 1
    assert cuda.replayed > 2
