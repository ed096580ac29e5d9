"""The values of every setting of the recipes, and what tells that each was taken."""

from pathlib import Path
from typing import Any

import torch

from mednextv2.data import AugmentBatch, prepare_patches


def row(value: Any, taken, **more) -> tuple:
    """One value of a setting, with what tells from the workflow and the value that it was taken.

    Texts that begin with `at:` are places in the folder that all runs share. `more` are settings that it needs.
    """
    return value, taken, more


def each(values, taken, **more) -> list[tuple]:
    return [row(value, taken, **more) for value in values]


def is_default(config: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a recipe's configuration has this value already, so that every run without the setting takes it."""
    return name in config and type(config[name]) is type(value) and config[name] == value


def _first_weight(d, name="encoder.0.0.depthwise.weight"):
    return d["network_def"].state_dict()[name]


def _labels_from(d, v):
    folder = str(d.shared / "labels") if v else "labelsTr"
    return all(folder in c.label for c in d["folder"].cases)


def _trained_on(d, v):
    return len(d["train::dataset"]) == (6 if v == "all" else 4)


def _scored(d, v):
    return len(d.masks) == (6 if v == "all" else 2)


def _started_from(d, v):
    """With next to no learning rate, weights stay those that the training started from."""
    if v is None:
        return d["train::handlers::6"].pretrained is None
    old = torch.load(v, weights_only=True)
    return all(torch.allclose(w, old[k], atol=1e-6) for k, w in d.load("model.pt").items())


def _started_from_file(d, v):
    """The report, a table with a line for each tensor, says that some were loaded."""
    lines = (d.output / "pretrained_report.csv").read_text(encoding="utf-8").splitlines()[1:]
    left = [line for line in lines if ",newly initialised," in line]
    return len(lines) == len(d["network_def"].state_dict()) and bool(left) is (v is True)


def _resumed(d, v):
    """The output folder holds a training of one epoch."""
    return len(d.log) == 3 and (d.output / "model.previous-1.pt").exists() is not v


def _ended(d, v):
    epoch, best = d["train::trainer"].state.epoch, d["validate::evaluator"].state.best_metric_epoch
    return epoch == 3 or (v > 0 and epoch - best == v)


def _prepared(d, v):
    """Whether a case was prepared before it was drawn; those of a single data set are."""
    return (d["train::dataset"]._waiting is None) is (v is not False)


def _augmented_on(d, v):
    workers = d["train::dataset"].transform is not None and d["train::trainer"].prepare_batch is prepare_patches
    device = d["train::dataset"].transform is None and isinstance(d["train::trainer"].prepare_batch, AugmentBatch)
    return (workers, device) == (v == "workers", v == "device")


def _validated(d, v):
    dice = d.log[0].index("val_mean_dice")
    return [bool(r[dice]) for r in d.log[1:]] == ([True, True] if v == 1 else [False, True])


def _air(d, v):
    return d["inferer"].air == v


def _postprocessed(d, v):
    return d["postprocessing"].transforms[2].steps == ([[1]] if v else [])


def _of_folds(d, v):
    expected = [f"fold_{fold}" for fold in ([v] if isinstance(v, int) else v or [])] or ["models"]
    return [Path(file).parent.name for file in d["predictor"].weights] == expected


def _has_context(d, v):
    used = d["train::dataset"].patch_size if "train" in d.parser.config else d["inferer"].roi_size
    return [*used] == [round(n * v) for n in d["patch_size"]]


def _in_folder(d, v):
    from setting_runs import Workflow  # which needs the tables of this file

    folder = Path(Workflow("train", d.shared, {"experiment": v})["output_dir"])
    return folder.parts[-3:] == (("models", v, "fold_0") if v else (Path(d["bundle_root"]).name, "models", "fold_0"))


COMMON = {
    "bundle_root": each(["at:copy"], lambda d, v: str(d["bundle_root"]) == v),
    "dataset_dir": each(["at:Task04_Hippocampus"], lambda d, v: str(d["folder"].path) == v),
    "labels_dir": [
        row(None, _labels_from),
        row("at:labels", _labels_from, dataset_dir="at:Task04_Hippocampus/imagesTr"),
    ],
    "device": each(["cpu", "cpu:0"], lambda d, v: str(d["device"]) == v),
    "amp": each([True, False], lambda d, v: d["network_def"].cpu_bfloat16 is v and not d["engine_amp"]),
    "context": each([1.0, 2], _has_context),
    "kernel_size": each([1, 3, 5], lambda d, v: _first_weight(d).shape[2] == v),
}
#: Of the task, which a command line may change, too.
FACTS = {
    "patch_size": each([[16, 32, 16], [32, 16, 16]], lambda d, v: list(d["train::dataset"].patch_size) == v),
    "batch_size": each([1, 3], lambda d, v: d["train::dataloader"].batch_size == v),
    "variant": each(["v1_s", "v2_tiny"], lambda d, v: _first_weight(d).shape[0] == (32 if v == "v1_s" else 16)),
    "mirror_axes": each([[], [0, 1, 2]], lambda d, v: len(d["train::mirror"]) == len(v)),
    "batch_dice": each([True, False], lambda d, v: d["loss"].batch_dice is v),
    "spacing": each(
        [[1.0, 1.0, 1.0], [1.0, 1.0, 4.0]],
        lambda d, v: list(d["preprocess"][-1].pixdim) == v and d["flat_axis"] == (2 if v[2] == 4 else None),
        patch_size=[64, 16, 16],
    ),
    "normalization": each(
        [[{"scheme": "zscore", "inside_mask": m}] for m in (True, False)],
        lambda d, v: d["train::finish"][0].channels == ([0] if v[0]["inside_mask"] else []),
    ),
    "regions": each(
        [[], [{"name": "whole", "values": [1, 2], "paint": 1}, {"name": "end", "values": [2], "paint": 2}]],
        lambda d, v: d["network_def"].heads[0].weight.shape[0] == (2 if v else 3),
    ),
    "ignore_label": each([None, 3], lambda d, v: d["scheme"].ignore_label == v),
}
SPLIT = {
    "num_folds": each([None, 2, 6], lambda d, v: d["split"].num_folds == (v or 5)),
    "splits": [
        row(None, lambda d, v: d["split"].source == "5 folds by nnU-Net's rule"),
        row("at:splits.json", lambda d, v: [i["case"] for i in d["split"].validation] == ["phantom_005"]),
    ],
    "group": each([None, "phantom_00([0-5])"], lambda d, v: d["split"].num_folds == 5),
}
TRAIN = {
    **COMMON,
    "fold": each([0, 4, "all"], lambda d, v: len(d["train::dataset"]) == {0: 4, 4: 5, "all": 6}[v]),
    **SPLIT,
    "experiment": each(["", "wide"], _in_folder),
    "output_dir": each(["at:elsewhere"], lambda d, v: (d.shared / "elsewhere" / "model.pt").is_file()),
    "prepared_dir": each(["at:prepared anew"], lambda d, v: any((d.shared / "prepared anew").iterdir())),
    "epochs": each([1, 2], lambda d, v: d.load("checkpoint_latest.pt")["epoch"] == v),
    "iterations_per_epoch": each([1, 3], lambda d, v: d["train::trainer"].state.iteration == v),
    "warmup_epochs": each([0, 5], lambda d, v: float(d.log[1][1]) == (1e-3 if v == 0 else 0.5e-3), epochs=2),
    "early_stopping": each([0, 1], _ended, epochs=3, learning_rate=1e-9),
    "optimizer_name": [
        row("adamw", lambda d, v: isinstance(d["optimizer"], torch.optim.AdamW)),
        row("sgd", lambda d, v: isinstance(d["optimizer"], torch.optim.SGD), learning_rate=1e-2),
    ],
    "learning_rate": each([1e-3, 0.5], lambda d, v: d["optimizer"].param_groups[0]["initial_lr"] == v),
    "weight_decay": each([0, 0.1], lambda d, v: d["optimizer"].param_groups[0]["weight_decay"] == v),
    "gradient_clipping": each([12.0, 1], lambda d, v: d["train::handlers::0"].max_norm == v),
    "deep_supervision_weights": [
        row([1.0, 0.5, 0.25, 0.125, 0.0625], lambda d, v: list(d["loss"].weights) == v),
        row(None, lambda d, v: [31 * w for w in d["loss"].weights] == [16, 8, 4, 2, 1]),
    ],
    "foreground_patches": each([0, 0.33, 1], lambda d, v: sum(d["train::sampler"].centred) == {0: 0, 0.33: 1, 1: 2}[v]),
    "augment_on": each(["workers", "device"], _augmented_on),
    "val_interval": each([1, 2], _validated, epochs=2),
    "val_iterations": each([1, 2], lambda d, v: d["validate::evaluator"].state.iteration == v),
    "num_workers": each([0, 1], lambda d, v: d["train::dataloader"].num_workers == v),
    "resume": each([True, False], _resumed, output_dir="at:trained copy", epochs=2),
    "pretrained": each([None, "at:trained/model.pt"], _started_from, learning_rate=1e-9),
    "pretrained_partial": [
        row(False, _started_from_file, pretrained="at:trained/model.pt", learning_rate=1e-9),
        row(True, _started_from_file, pretrained="at:kernel 5.pt", learning_rate=1e-9),  # whose kernels do not fit
    ],
    "pretrained_sha256": [
        row(None, lambda d, v: True),
        row("of the file", _started_from_file, pretrained="at:trained/model.pt", learning_rate=1e-9),
    ],
    "save_safetensors": each([True, False], lambda d, v: (d.output / "model.safetensors").is_file() is v),
    "check_data": each([True, False], lambda d, v: (len(d.checked) > 0) is v),
    "prepare_ahead": each([None, True, False], _prepared),
    "cuda_graph": each([True, False], lambda d, v: d["train::inferer"].graphs.enabled is v),
    "compile": each(
        [True, False],
        lambda d, v: (
            isinstance(d["train::trainer"].network, torch._dynamo.eval_frame.OptimizedModule) is v
            and d["graphs"].enabled is not v
        ),
    ),
    "seed": each([0, 7], lambda d, v: d["train::handlers::6"].seed == v),
}
#: Of evaluation and inference alike.
PREDICT = {
    "output_dir": each(["at:masks"], lambda d, v: any((d.shared / "masks").rglob("*_seg.nii.gz"))),
    "overlap": each([0, 0.25], lambda d, v: d["inferer"].overlap == v),
    "window_batch_size": each([1, 3], lambda d, v: d["inferer"].sw_batch_size == v),
    "test_mirror_axes": each([[], [0], [0, 1, 2]], lambda d, v: list(d["inferer"].mirror_axes) == v),
    "air": each([None, -0.9, [-0.9]], _air),
    "postprocessing_file": each([None, "at:postprocessing.json"], _postprocessed),
    "check_data": each([True, False], lambda d, v: (len(d.checked) > 0) is v),
    "num_workers": each([0, 1], lambda d, v: d["dataloader"].num_workers == v),
    "cuda_graph": each([True, False], lambda d, v: d["predictor"].graphs.enabled is v),
}
_OWN = {"bundle_root": "at:two folds", "weights": "the bundle's"}  # a bundle with weights of its own
EVALUATE = {
    **COMMON,
    **PREDICT,
    "fold": each([0, "all"], _scored),
    **SPLIT,
    "experiment": [
        row(v, lambda d, v: Path(d["predictor"].weights[0]).parts[-3] == (v or "models"), **_OWN) for v in ("", "wide")
    ],
    "score_trained_cases": [
        row(True, lambda d, v: len(d.masks) == 6, weights="at:trained/model.pt", fold="all"),
        row(False, lambda d, v: len(d.masks) == 2, weights="at:trained/model.pt"),
    ],
    "weights": [
        row("at:trained/model.pt", lambda d, v: d["predictor"].weights == [v]),
        row(["at:trained/model.pt"] * 2, lambda d, v: len(d["predictor"].networks) == 2),
    ],
}
#: Those that neither training nor inference has.
OF_EVALUATION = {"fold", "experiment", "score_trained_cases", "weights"}
INFERENCE = {
    **COMMON,
    **PREDICT,
    "dataset_dir": each(["at:images"], lambda d, v: len(d.masks) == 2, input="$None"),  # what input is by default
    "labels_dir": [row(None, lambda d, v: d["labels_dir"] is None)],  # it takes no labels
    "input": [
        row("at:images", lambda d, v: len(d.masks) == 2),
        row("at:images/phantom_000.nii.gz", lambda d, v: d.masks == ["phantom_000_seg.nii.gz"]),
        row("at:list.json", lambda d, v: len(d.masks) == 1),
        row("at:one series", lambda d, v: len(d.masks) == 1),
    ],
    "series": [
        row(None, lambda d, v: len(d.masks) == 2),
        row(4, lambda d, v: len(d.masks) == 1, input="at:study"),
        row("all", lambda d, v: len(d.masks) == 2, input="at:study"),
    ],
    "experiment": each(["", "wide"], lambda d, v: Path(d["postprocessing_file"]).parts[-2] == (v or "models"), **_OWN),
    "weights": EVALUATE["weights"],
    "folds": [
        row(value, _of_folds, bundle_root="at:two folds", weights="the bundle's") for value in (None, 0, (0, 2), [2])
    ],
}
