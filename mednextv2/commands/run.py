"""The verb `run`: run a workflow of a bundle."""

from typing import Any


def run(bundle: str, workflow: str, **settings: Any) -> None:
    """Train, evaluate or segment with a bundle: run one of its workflows, from any folder.

    Args:
        bundle: The folder or the name of the bundle, such as mednextv2_hippocampus.
        workflow: The workflow to run: train, evaluate, inference or multi_gpu_train.
        settings: Any setting at the top of the workflow's file, such as configs/train.yaml in the bundle's folder. A
            setting that does not exist is an error. mednextv2 run BUNDLE WORKFLOW --help lists them.

    Examples:
        mednextv2 run mednextv2_hippocampus train --dataset_dir Task04_Hippocampus --fold 0 --epochs 100
        mednextv2 run mednextv2_hippocampus evaluate --dataset_dir Task04_Hippocampus --fold 0
        mednextv2 run mednextv2_hippocampus inference --input images --output_dir masks
    """
    from mednextv2.bundle import run_bundle

    run_bundle(bundle, workflow, **settings)
