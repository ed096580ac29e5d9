"""Short workflows of the bundle for masked autoencoding, also as a program: see `main`."""

import sys
from pathlib import Path

import torch
from bundle_helpers import BUNDLES
from configured_runs import Run, make_workflow
from monai.engines.utils import IterationEvents

from mednextv2.bundle.run import configure
from mednextv2.data import PatchSampler

MAE = BUNDLES / "mednextv2_pretrain_mae"
QUICK = {
    "train": {
        "variant": "v2_tiny", "patch_size": [16, 16, 16], "block_size": 8, "batch_size": 2, "epochs": 1,
        "iterations_per_epoch": 1, "val_iterations": 1, "num_workers": 0, "picture_interval": 0,
    },
    "evaluate": {"patches_per_image": 1, "pictures": 1},
}  # fmt: skip


class Pretraining(Run):
    """A workflow of the bundle."""

    def __init__(self, workflow, folder, network=None, **settings):
        self.folder = Path(folder)
        quick = QUICK["evaluate" if workflow == "evaluate" else "train"]
        given = {"prepared_dir": self.folder / "prepared", "output_dir": self.folder / "out", **quick, **settings}
        files, given = configure(MAE, workflow, {**given, **({"network": network} if network else {})})
        super().__init__(make_workflow(MAE, workflow, files, given))


def main(data, folder, network, form):
    """Save the loss, the validation loss and the gradients of one step, of this process or of several.

    The joint batch has the same four patches, however many processes there are, and so has the validation.
    """
    distributed = torch.distributed.is_torchelastic_launched()
    workflow, batch = ("multi_gpu_train", 2) if distributed else ("train", 4)
    PatchSampler.__iter__ = lambda self: iter(_keys(batch))
    more = {"network_filters": 4} if network == "resenc_l" else {}
    work = Pretraining(
        workflow, folder, None if network == "mednext" else network, dataset_dir=data, batch_size=batch, amp=False,
        gradient_clipping=1e9, form=form, output_dir=Path(folder) / f"{workflow}_{network}_{form}", **more,
    )  # fmt: skip
    if not torch.distributed.is_initialized():  # a group of processes is made once
        work.workflow.initialize()
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    trainer = work["train::trainer"]
    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda engine: found.update(_gradients(work)))
    trainer.run()
    found["validation"] = torch.tensor(work["validate::evaluator"].state.metrics["val_loss"])
    rank = torch.distributed.get_rank() if distributed else 0
    if rank == 0:
        torch.save(found, Path(folder) / f"{workflow}_{network}_{form}.pt")


def _keys(batch):
    keys = [(0, 0, 11), (1, 0, 12), (2, 0, 13), (1, 0, 14)]
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return keys[rank * batch : (rank + 1) * batch]


def _gradients(work):
    return {name: p.grad.clone() for name, p in work["packed"].named_parameters() if p.grad is not None}


if __name__ == "__main__":
    for pair in sys.argv[3:]:
        main(sys.argv[1], sys.argv[2], *pair.split(","))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
