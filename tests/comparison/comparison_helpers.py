"""What the tests of comparisons share: tiny networks in files of a user, and settings for seconds on a CPU."""

import json

from mednextv2.comparison.entries import Entry
from mednextv2.comparison.runs import Run
from mednextv2.scores.csv_tables import write_csv
from mednextv2.scores.results_json import Results, write_results

QUICK = {
    "patch_size": [16, 16, 16], "batch_size": 1, "num_workers": 0, "val_iterations": 1, "iterations_per_epoch": 2,
    "overlap": 0.0, "test_mirror_axes": [],
}  # fmt: skip
_MEDNEXT = (
    "{_target_: mednextv2.nets.create_mednext, variant: v1_s, init_filters: %d, blocks_down: 1, blocks_bottleneck: 1, "
    'blocks_up: 1, in_channels: "$len(@channels)", out_channels: "$@scheme.outputs", deep_supervision: true}'
)
NETWORKS = {
    "mini": _MEDNEXT % 2,
    "slim": _MEDNEXT % 3,
    "killed": '"$os.kill(os.getpid(), 9)"',
    "greedy": "{_target_: torch.nn.Linear, in_features: 10000000, out_features: 10000000}",
    "clumsy": "{_target_: torch.nn.Conv3d, in_channels: 7, out_channels: 3, kernel_size: 1}",
}


def network_file(folder, name):
    """Write the file of a user's own network."""
    file = folder / f"{name}.yaml"
    file.write_text(f"network_name: {name}\nnetwork_def: {NETWORKS[name]}\n")
    return file


def as_options(settings):
    return [str(part) for key, value in settings.items() for part in (f"--{key}", value)]


def make_done(folder, name, scores, seed=0, fold=0, pretrained=None, start="", **outcome):
    """Write the files of a run that is done, with the Dice of each case and structure; return the run."""
    entry = Entry(name, {"variant": name}, pretrained, start=start)
    run = Run(entry, fold, seed, folder / "runs" / f"{name}{pretrained}_{fold}_{seed}")
    evaluation = run.folder / "evaluation"
    structures = [f"s{n}" for n in range(len(next(iter(scores.values()))))]
    values = [(n + 1,) for n in range(len(structures))]
    cases = [
        {"case": c, "image": f"{c}.nii.gz", "prediction": f"{c}_seg.nii.gz", "label": f"{c}_l.nii.gz"} for c in scores
    ]
    write_results(evaluation, Results("evaluation", "test", structures, values, cases))
    rows = [
        {
            "case": case, "label": label, "dice": dice, "surface_dice_1mm": dice / 2, "hd95_mm": 1.0, "volume_ml": 1.0,
            "reference_ml": 1.0,
        }
        for case, found in scores.items()
        for label, dice in zip(structures, found, strict=True)
    ]  # fmt: skip
    write_csv(evaluation / "cases.csv", rows)
    facts = {
        "status": "done", "parameters": 1_500_000, "epochs": 10, "planned_epochs": 10, "steps": 200, "stopped": False,
        "step_seconds": 0.25, "training_seconds": 60.0, "peak_memory": 2**30, "memory_of": "process",
    }  # fmt: skip
    (run.folder / "outcome.json").write_text(json.dumps({**facts, **outcome}))
    return run
