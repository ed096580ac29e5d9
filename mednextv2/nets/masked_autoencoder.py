"""Masked autoencoding: a network that reconstructs an image of which it sees some cells."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from mednextv2.errors import InputError
from mednextv2.nets.adapters import as_heads
from mednextv2.nets.metatensor import plain_tensor
from mednextv2.nets.visible_cells import hide

FORMS = ("dense",)


class MaskedAutoencoder(nn.Module):
    """A network that reconstructs an image, `(N, C, *space)`, from its visible cells.

    The network is inside as `network`, with all its weights; its state dict is that of the ordinary network with as
    many outputs as inputs. There is no deep supervision: of several heads, that at full resolution is used.

    Args:
        network: The network.
        form: `dense`: the network computes with an image that is zero in hidden cells.

    Raises:
        InputError: If there is no such form.

    Source:
        He et al. 2022, masked autoencoders (arXiv:2111.06377); in three dimensions, with convolutions: Wald et al.
        2025 (arXiv:2410.23132).
    """

    def __init__(self, network: nn.Module, form: str = "dense") -> None:
        super().__init__()
        if form not in FORMS:
            raise InputError(f"form {form!r}: there is no such masked autoencoder; choose one of {', '.join(FORMS)}")
        self.network = network
        self.form = form

    def forward(self, image: Tensor, visible: Tensor) -> Tensor:
        """Reconstruct an image.

        Args:
            image: The image, `(N, C, *space)`; what is in hidden cells has no influence.
            visible: The visible cells, bool, `(N, *grid)`, on any device.

        Returns:
            The reconstruction, `(N, C, *space)`, float32 (float64 for a float64 image).

        Raises:
            ValueError: If the patch is not a multiple of the grid.
        """
        image = plain_tensor(image)
        visible = visible.to(image.device, non_blocking=True)
        heads = as_heads(self.network(hide(image, visible)), image.dim())
        reconstruction = heads[0] if len(heads) == 1 else _First.apply(*heads)
        return reconstruction if reconstruction.dtype == torch.float64 else reconstruction.float()


class _First(Function):
    """The first of several heads; the others have a gradient of zeros, for which processes would wait otherwise."""

    @staticmethod
    def forward(ctx: Any, *heads: Tensor) -> Tensor:
        ctx.others = [(head.shape, head.dtype) for head in heads[1:]]
        return heads[0].view_as(heads[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(grad.new_zeros(shape, dtype=dtype) for shape, dtype in ctx.others)
