"""The loss of masked autoencoding: the error of the reconstruction in hidden cells."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mednextv2.distributed import sum_over_processes
from mednextv2.nets.metatensor import plain_tensor
from mednextv2.nets.visible_cells import visible_positions


class ReconstructionLoss(nn.Module):
    """Mean squared error over the voxels of hidden cells.

    It is the mean over the voxels and channels of all samples of all processes of `torch.distributed`, which must
    compute the loss equally often. Every process has the same value, and its gradients, averaged over the processes,
    are those of one process with the whole batch. Everything is computed in float32 (in float64 for a float64
    reconstruction), also under autocast. If no voxel counts, the loss is 0.

    Source:
        He et al. 2022 (arXiv:2111.06377), section 3; without a normalisation of each cell: Wald et al. 2025
        (arXiv:2410.23132).
    """

    def forward(self, reconstruction: Tensor, image: Tensor, visible: Tensor, counted: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            reconstruction: The output of the network, `(N, C, *space)`.
            image: The image, `(N, C, *space)`.
            visible: The visible cells, bool, `(N, *grid)`.
            counted: The voxels that count, bool, `(N, 1, *space)` or `(N, C, *space)`, for instance those inside the
                patient or outside a removed face; None for all.

        Returns:
            A scalar, float32.

        Raises:
            ValueError: If the shapes do not fit.
        """
        reconstruction, image = plain_tensor(reconstruction), plain_tensor(image)
        if reconstruction.shape != image.shape:
            raise ValueError(f"a reconstruction {tuple(reconstruction.shape)} is not of image {tuple(image.shape)}")
        dtype = torch.float64 if reconstruction.dtype == torch.float64 else torch.float32
        hidden = ~visible_positions(visible.to(image.device, non_blocking=True), image.shape[2:])[:, None]
        if counted is not None:
            hidden = hidden & plain_tensor(counted).to(image.device).bool()
        error = torch.where(hidden, reconstruction.to(dtype) - image.to(dtype), 0.0)
        number = hidden.expand_as(image).sum().to(dtype)
        sums = torch.stack([error.square().sum(), number])
        if dist.is_available() and dist.is_initialized():
            sums = sum_over_processes(sums)
        total, number = sums.unbind()
        return total / number.detach().clamp(min=1)
