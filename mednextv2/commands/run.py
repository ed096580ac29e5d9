"""The verb `run`: run a workflow of a bundle."""

import os
from contextlib import nullcontext
from typing import Any

from mednextv2.locks import holding_from_the_start
from mednextv2.paths import absolute

_WITHOUT_TRAINING = ("evaluate", "inference")


def run(bundle: str, workflow: str, network: str | None = None, **settings: Any) -> None:
    """Train, evaluate or segment with a bundle: run one of its workflows, from any folder.

    Args:
        bundle: The folder or the name of the bundle, such as mednextv2_hippocampus.
        workflow: The workflow to run: train, finetune, upkern, evaluate, inference or multi_gpu_train. The workflows
            finetune or upkern and multi_gpu_train can be joined, as finetune+multi_gpu_train. The workflow upkern
            trains with kernels of 3 voxels, and then with kernels of 5 that start from these.
        network: Another network in place of the bundle's own: a name such as resenc_l, or a file such as
            ./my_network.yaml. Evaluation and inference find the network of trained weights by themselves.
        settings: Any setting at the top of the workflow's file, such as configs/train.yaml in the bundle's folder. A
            setting that does not exist is an error. mednextv2 run BUNDLE WORKFLOW --help lists the settings; with
            --network, it also lists the settings of that network.

    Examples:
        mednextv2 run mednextv2_hippocampus train --dataset_dir Task04_Hippocampus --fold 0 --epochs 100
        mednextv2 run mednextv2_hippocampus train --dataset_dir Task04_Hippocampus --network resenc_l
        mednextv2 run mednextv2_hippocampus finetune --dataset_dir Task04_Hippocampus --pretrained model.pt
        mednextv2 run mednextv2_hippocampus upkern --dataset_dir Task04_Hippocampus --first_epochs 300
        mednextv2 run mednextv2_hippocampus evaluate --dataset_dir Task04_Hippocampus --fold 0
        mednextv2 run mednextv2_hippocampus inference --input images --output_dir masks
    """
    # torchrun starts several processes, of which only the first, with rank 0, writes files
    training = workflow not in _WITHOUT_TRAINING and os.environ.get("RANK", "0") == "0"
    output_dir = settings.get("output_dir")
    # held before the slow imports: otherwise a second training would not notice a first one that is only seconds ahead
    held = holding_from_the_start(absolute(output_dir), "output_dir") if training and output_dir else nullcontext()
    with held:
        from mednextv2.bundle import run_bundle
        from mednextv2.bundle.upkern import is_upkern, run_upkern

        chosen = settings if network is None else {**settings, "network": network}
        try:
            if is_upkern(workflow):
                run_upkern(bundle, workflow, **chosen)
            else:
                run_bundle(bundle, workflow, **chosen)
        except KeyboardInterrupt as e:
            if workflow in ("evaluate", "inference"):
                raise
            raise KeyboardInterrupt("stopped by Ctrl-C; the same command goes on after the last whole epoch") from e
