"""The values of every setting of the bundle for masked autoencoding, and what tells that each was taken."""

from pathlib import Path

import torch
from recipe_settings import _started_from_file, each, row


def _started_from(d, v):
    """With next to no learning rate, weights stay those that the training started from."""
    if v is None:
        return d["start"] == []  # no tensor is left to be filled
    old = torch.load(v, weights_only=True)
    return all(torch.allclose(w, old[k], atol=1e-6) for k, w in d.load("model.pt").items())


def _validated(d, v):
    loss = d.log[0].index("val_loss")
    return [bool(r[loss]) for r in d.log[1:]] == ([True, True] if v == 1 else [False, True])


def _ended(d, v):
    epoch, best = d["train::trainer"].state.epoch, d["validate::evaluator"].state.best_metric_epoch
    return epoch == 3 or (v > 0 and epoch - best == v)


def _spaced(d, v):
    shape = d["train::dataset"].cases[0].image.shape[1:]
    original = d.shape_of(d["split"].training[0]["image"])
    return (shape == original) == (v is None)


def _resumed(d, v):
    """The output folder holds a training of one epoch."""
    return len(d.log) == 3 and (d.output / "model.previous-1.pt").exists() is not v


def _pictures(d, number):
    return len(list((d.output / "pictures").glob("*.png"))) == number


COMMON = {
    "bundle_root": each(["at:copy"], lambda d, v: str(d["bundle_root"]) == v),
    "dataset_dir": [
        row("at:data", lambda d, v: d["sources"] == "data"),
        row(["at:data", "at:more"], lambda d, v: d["sources"] == "data, more"),
    ],
    "several_channels": [
        row("refuse", lambda d, v: len(d["folder"].cases) == 6),
        row("split", lambda d, v: len(d["images"].cases) == 8, dataset_dir="at:channels"),
    ],
    "form": each(["dense", "sparse", "tokens", "s3d"], lambda d, v: d["autoencoder"].form == v),
    "device": each(["cpu"], lambda d, v: str(d["device"]) == v),
    "amp": each([True, False], lambda d, v: d["network_def"].cpu_bfloat16 is v),
    "context": each([1.0, 2], lambda d, v: d["masks"].patch_size == (16 * v,) * 3),
    "kernel_size": each([1, 5], lambda d, v: d["network_def"].encoder[0][0].depthwise.weight.shape[2] == v),
    "experiment": each(["", "large"], lambda d, v: Path(d.default_output).name == (v or d.no_experiment)),
    "defective": [
        row("stop", lambda d, v: len(d["images"].cases) == 6),
        row("exclude", lambda d, v: (d.output / "left_out.csv").is_file(), dataset_dir="at:defective"),
    ],
    "check_data": each([True, False], lambda d, v: (len(d.checked) > 0) is v),
    "num_workers": each([0, 1], lambda d, v: d.loader.num_workers == v),
    "seed": each([0, 7], lambda d, v: d["masks"].seed == v),
    "prepared_dir": each(["at:prepared anew"], lambda d, v: any(Path(v).iterdir())),
    "output_dir": each(["at:elsewhere"], lambda d, v: (Path(v) / d.made).is_file()),
    "pictures": each([0, 2], lambda d, v: _pictures(d, v), picture_interval=1),
}
#: Of the task, which a command line may change, too.
FACTS = {
    "patch_size": each([[16, 32, 16]], lambda d, v: list(d["train::dataset"].patch_size) == v),
    "batch_size": each([1, 3], lambda d, v: d["train::dataloader"].batch_size == v),
    "variant": each(["v1_s"], lambda d, v: d["network_def"].encoder[0][0].depthwise.weight.shape[0] == 32),
    "mirror_axes": each([[], [0, 1]], lambda d, v: len(d["train::mirror"]) == len(v)),
    "spacing": each([None, [2.0, 2.0, 2.0]], _spaced),
    "normalization": each([[{"scheme": "none"}]], lambda d, v: d["train::dataset"][0, 0, 1]["image"].max() > 20),
    "block_size": each([4, [8, 4, 16]], lambda d, v: d["masks"].block_size == (tuple(v) if v != 4 else (4, 4, 4))),
    "mask_ratio": [
        row(0.5, lambda d, v: (d["masks"].low, d["masks"].high) == (v, v)),
        row([0.6, 0.9], lambda d, v: [d["masks"].low, d["masks"].high] == v),
    ],
}
TRAIN = {
    **COMMON,
    "splits": each([None, "at:splits.json"], lambda d, v: len(d["split"].validation) == (1 if v else 3)),
    "group": each([None, "phantom_00([0-5])"], lambda d, v: len(d["split"].validation) == 3),
    "epochs": each([1, 2], lambda d, v: d.load("checkpoint_latest.pt")["epoch"] == v),
    "iterations_per_epoch": each([1, 3], lambda d, v: d["train::trainer"].state.iteration == v),
    "warmup_epochs": each([0, 5], lambda d, v: float(d.log[1][1]) == (1e-3 if v == 0 else 0.5e-3), epochs=2),
    "early_stopping": each([0, 1], _ended, epochs=3, learning_rate=1e-12),
    "optimizer_name": [
        row("adamw", lambda d, v: isinstance(d["optimizer"], torch.optim.AdamW)),
        row("sgd", lambda d, v: isinstance(d["optimizer"], torch.optim.SGD), learning_rate=1e-2),
    ],
    "learning_rate": each([1e-3, 0.5], lambda d, v: d["optimizer"].param_groups[0]["initial_lr"] == v),
    "weight_decay": each([0, 0.1], lambda d, v: d["optimizer"].param_groups[0]["weight_decay"] == v),
    "gradient_clipping": each([12.0, 1], lambda d, v: d["train::handlers::1"].max_norm == v),
    "val_interval": each([1, 2], _validated, epochs=2),
    "val_iterations": each([1, 2], lambda d, v: d["validate::evaluator"].state.iteration == v),
    "picture_interval": each([0, 2], lambda d, v: _pictures(d, 3 * 2 if v else 0), epochs=3, val_iterations=2),
    "resume": each([True, False], _resumed, output_dir="at:trained copy", epochs=2),
    "pretrained": each([None, "at:trained/model.pt"], _started_from, learning_rate=1e-9),
    "pretrained_partial": [
        row(False, _started_from_file, pretrained="at:trained/model.pt"),
        row(True, _started_from_file, pretrained="at:kernel 5.pt"),  # whose kernels do not fit
    ],
    "pretrained_sha256": [
        row(None, lambda d, v: True),
        row("of the file", _started_from_file, pretrained="at:trained/model.pt"),
    ],
    "save_safetensors": each([True, False], lambda d, v: (d.output / "model.safetensors").is_file() is v),
    "cuda_graph": each([True, False], lambda d, v: d["train::inferer"].graphs.enabled is v),
    "compile": each(
        [True, False],
        lambda d, v: isinstance(d["train::trainer"].network, torch._dynamo.eval_frame.OptimizedModule) is v,
    ),
}  # fmt: skip
EVALUATE = {
    **COMMON,
    "weights": each(["at:trained/model.pt", "at:trained/checkpoint_latest.pt"], lambda d, v: str(d["weights"]) == v),
    "score_trained_cases": each([True, False], lambda d, v: len(d["split"].validation) == (6 if v else 3)),
    "patches_per_image": each([1, 3], lambda d, v: len(d["sampler"]) == 3 * v),
}
#: Settings of a network, which evaluation takes from the weights unless they are given; other weights do not fit them.
OF_WEIGHTS = ("kernel_size", "form", "context", "bundle_root")
