"""Write checkpoints with nnU-Net's own package, and what its networks compute: see check_foreign_weights.sh.

    python foreign_weights_make.py OUTPUT

Runs in an environment with nnunetv2, without this project. For each network, OUTPUT gets `<name>.pth`, a checkpoint as
nnU-Net's trainer saves it, and `<name>_expected.pt` with an input and the logits at every resolution.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

CASES, SHAPE = 6, (48, 48, 48)
LARGE_PATCH, LARGE_INPUT = 160, 64  # voxels; for the former, nnU-Net plans the six stages of its preset L


def make_dataset(folder: Path) -> None:
    """Write a data set of noise with two labels in nnU-Net's layout."""
    import SimpleITK

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(CASES):
        image = random.normal(size=SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[12:30, 10:34, 14:30], label[18:24, 16:24, 18:24] = 1, 2
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), folder / "imagesTr" / f"case_{number}_0000.nii.gz")
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label), folder / "labelsTr" / f"case_{number}.nii.gz")
    description = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": CASES, "file_ending": ".nii.gz",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def make_plans(planner: str) -> dict:
    """Let nnU-Net plan for the data set, whose number is 999, and preprocess it, which its trainer asks for."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    nnunet.extract_fingerprints([999], num_processes=1)
    name = nnunet.plan_experiments([999], experiment_planner_class_name=planner)
    nnunet.preprocess([999], name, configurations=["3d_fullres"], num_processes=[1])
    preprocessed = Path(os.environ["nnUNet_preprocessed"])  # noqa: SIM112  (its name there)
    return json.loads((preprocessed / "Dataset999_Noise" / f"{name}.json").read_text())


def enlarge(plans: dict) -> dict:
    """Return plans for a large patch, with the stages that nnU-Net plans for it."""
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [LARGE_PATCH] * 3
    stages = 6
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages, "features_per_stage": [32, 64, 128, 256, 320, 320], "kernel_sizes": [[3] * 3] * stages,
        "strides": [[1] * 3] + [[2] * 3] * (stages - 1), "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }  # fmt: skip
    return plans


def save(output: Path, name: str, plans: dict, description: dict, size: int) -> None:
    """Build the network and the optimizer with nnU-Net's trainer, and save its checkpoint and what it computes."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(0)
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, description, torch.device("cpu"))
    trainer.initialize()
    network = trainer.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.rand_like(parameter))
    x = torch.randn(1, 1, size, size, size)
    loss = sum(head.square().mean() for head in network.train()(x))
    loss.backward()
    trainer.optimizer.step()
    trainer.logger.log("train_losses", np.float32(loss.item()), 0)
    trainer.logger.log("dice_per_class_or_region", [np.float64(0.5), np.float64(0.25)], 0)
    trainer.save_checkpoint(str(output / f"{name}.pth"))
    with torch.no_grad():
        heads = network.eval()(x)
    torch.save({"input": x, "heads": list(heads), "patch": [size] * 3}, output / f"{name}_expected.pt")
    print(f"written: {name}.pth, {sum(p.numel() for p in network.parameters()):,} parameters")


def main(output: Path) -> None:
    """Write all files."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(Path(folder) / name)
        dataset = Path(folder) / "raw" / "Dataset999_Noise"
        make_dataset(dataset)
        description = json.loads((dataset / "dataset.json").read_text())
        plain, residual = make_plans("ExperimentPlanner"), make_plans("nnUNetPlannerResEncL")
        size = residual["configurations"]["3d_fullres"]["patch_size"][0]
        save(output, "plain_conv_unet", plain, description, size)
        save(output, "resenc_l_small", residual, description, size)
        save(output, "resenc_l", enlarge(residual), description, LARGE_INPUT)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
