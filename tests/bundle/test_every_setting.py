"""Every setting of every recipe, run with each of its values once."""

import functools
import shutil

import pretraining_settings
import pytest
import torch
from bundle_helpers import HIPPOCAMPUS
from cuda_stand_in import StandIn
from recipe_settings import EVALUATE, FACTS, INFERENCE, OF_EVALUATION, TRAIN, is_default
from setting_runs import TABLES, Workflow, at, recipe, settings_of

from mednextv2.bundle.build import RECIPES
from mednextv2.inference import preflight
from mednextv2.settings import RULES
from mednextv2.training import preflight as training

#: Scalars that are no settings, but made of them.
DERIVED = {"network_on_device", "nnunet"}
DERIVED |= {"about", "engine_amp", "network", "network_name", "patch", "flat_axis", "training", "key_metric"}
DERIVED |= {"ahead"}  # of prepare_ahead
DERIVED |= {"new_layers", "new_tensors"}  # of warmup_new_layers and pretrained
DERIVED |= {"training_dir", "length", "warmup", "served"}  # of a training on given cases: see test_monai_label.py


def joined(workflow):
    config = {}
    for name in RECIPES[workflow]:
        config |= recipe(name)
    return config


def rows():
    """All values; slow are those that others run as well: defaults, and what evaluation shares with the others."""
    tables = {**TABLES, "train": {**TRAIN, **FACTS}}
    for workflow, table in tables.items():
        config = joined(workflow)
        for name, values in table.items():
            elsewhere = workflow == "evaluate" and name not in OF_EVALUATION
            for value, taken, more in values:
                marks = [pytest.mark.slow] if elsewhere or is_default(config, name, value) else []
                yield pytest.param(workflow, name, value, taken, more, id=f"{workflow} {name} {value}", marks=marks)


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


@pytest.mark.parametrize("workflow", TABLES)
def test_no_setting_of_a_recipe_is_untested(workflow):
    config = joined(workflow)
    scalars = {name for name, value in config.items() if not isinstance(value, (dict, list))}
    assert scalars - DERIVED == set(TABLES[workflow])


#: Settings of the overlay finetune, each of whose values has a test in test_finetune.py.
FINETUNE = {
    "experiment", "pretrained", "context", "epochs", "warmup_epochs", "optimizer_name", "learning_rate",
    "warmup_new_layers", "layer_decay", "freeze", "deep_supervision_weights", "checkpointing",
}  # fmt: skip


@pytest.mark.parametrize(
    ("overlay", "settings"),
    [
        ("multi_gpu_train", {"device", "cuda_graph"}),  # test_every_expression.py, test_workflows.py
        ("pretrain", {"epochs", "warmup_epochs"}),  # test_pretrain_ready_made.py
        (
            "finetune",  # test_finetune.py
            FINETUNE,
        ),
    ],
)
def test_no_setting_of_an_overlay_is_untested(overlay, settings):
    assert {
        name for name, value in recipe(overlay).items() if not isinstance(value, (dict, list))
    } - DERIVED == settings


def test_every_rule_is_about_a_setting_that_is_tested():
    tables = (TRAIN, FACTS, EVALUATE, INFERENCE, pretraining_settings.TRAIN, pretraining_settings.EVALUATE)
    assert set(RULES) <= {name for table in tables for name in table} | FINETUNE


def test_switches_are_tested_on_and_off():
    for table in (*TABLES.values(), FACTS):
        for name, values in table.items():
            switched = {value for value, *_ in values if isinstance(value, bool)}
            assert switched in (set(), {True, False}), name


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
    seconds = found[0][1][0].index("seconds")
    assert [r[:seconds] + r[seconds + 1 :] for r in found[1][1]] == [
        r[:seconds] + r[seconds + 1 :] for r in found[0][1]
    ]
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
