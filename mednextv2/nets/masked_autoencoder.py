"""Masked autoencoding: a network that reconstructs an image of which it sees some cells."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from mednextv2 import ops
from mednextv2.errors import InputError
from mednextv2.nets import sparse_mednext, sparse_residual_encoder
from mednextv2.nets.adapters import AdaptedNetwork, as_heads
from mednextv2.nets.densification import Densification
from mednextv2.nets.legal_sizes import LEVELS
from mednextv2.nets.mednext import MedNeXt
from mednextv2.nets.metatensor import plain_tensor
from mednextv2.nets.visible_cells import Level, hide, plan_level

#: What a network does about hidden cells.
FORMS = ("dense", "sparse", "tokens", "s3d")


class MaskedAutoencoder(nn.Module):
    """A network that reconstructs an image, `(N, C, *space)`, from its visible cells.

    The ordinary network is inside as `network`, with all its weights: its state dict is that of the network with as
    many outputs as inputs, in every form. What the forms `tokens` and `s3d` learn besides is in `densification`, and is
    not needed afterwards. There is no deep supervision: of several heads, that at full resolution is used.

    | form | what it does |
    | --- | --- |
    | `dense` | the whole network computes with an image that is zero in hidden cells |
    | `sparse` | hidden positions are zero in the whole encoder, and in no mean, variance or norm of GRN |
    | `tokens` | besides, the features of every resolution are normalised, and a learned token takes hidden positions |
    | `s3d` | besides, a convolution with kernel size 3 follows, at every resolution but the full one |

    The decoder is the ordinary one in all forms. The form `dense` is for every network, the others are for MedNeXt and
    for nnU-Net's ResidualEncoderUNet, also as an :class:`AdaptedNetwork`. Masks are arguments: the forms have no state
    that depends on them. Except in the form `dense`, the sizes of tensors depend on the mask, so that a pass cannot be
    replayed as a CUDA graph.

    Args:
        network: The network.
        form: The name of the form.

    Raises:
        InputError: If there is no such form, or the network does not have it.

    Source:
        He et al. 2022, masked autoencoders (arXiv:2111.06377), here with convolutions. `s3d`: Wald et al. 2025, Spark3D
        (arXiv:2410.23132), of which `sparse` and `tokens` are the steps of the ablation.

    Example:
        >>> from mednextv2.nets import MedNeXt
        >>> network = MaskedAutoencoder(MedNeXt(out_channels=1, init_filters=4), "s3d")
        >>> visible = torch.tensor([[[[True, False], [False, False]]] * 2])  # of 2×2×2 cells, two
        >>> network(torch.zeros(1, 1, 32, 32, 32), visible).shape
        torch.Size([1, 1, 32, 32, 32])
    """

    def __init__(self, network: nn.Module, form: str = "dense") -> None:
        super().__init__()
        if form not in FORMS:
            raise InputError(f"form {form!r}: there is no such masked autoencoder; choose one of {', '.join(FORMS)}")
        self.network = network
        self.form = form
        _freeze_unused_heads(network)
        if form == "dense":
            return
        dims, channels, self._strides = _resolutions(network, form)
        if form != "sparse":
            self.densification = nn.ModuleList(
                Densification(dims, number, convolution=form == "s3d" and level > 0)
                for level, number in enumerate(channels)
            )

    def forward(self, image: Tensor, visible: Tensor) -> Tensor:
        """Reconstruct an image.

        Args:
            image: The image, `(N, C, *space)`; what is in hidden cells has no influence.
            visible: The visible cells, bool, `(N, *grid)`, on any device; best on the CPU, where a GPU need not be
                waited for.

        Returns:
            The reconstruction, `(N, C, *space)`, float32 (float64 for a float64 image).

        Raises:
            ValueError: If the patch is not a multiple of the grid.
            InputError: If the network cannot take patches of this size.
        """
        image = plain_tensor(image)
        if self.form == "dense":
            heads = as_heads(self.network(hide(image, visible.to(image.device, non_blocking=True))), image.dim())
        else:
            heads = self._reconstruct(image, visible)
        reconstruction = heads[0] if len(heads) == 1 else _First.apply(*heads)
        return reconstruction if reconstruction.dtype == torch.float64 else reconstruction.float()

    def _reconstruct(self, image: Tensor, visible: Tensor) -> list[Tensor]:
        """Apply the sparse encoder, densification and the ordinary decoder; return the heads."""
        if isinstance(self.network, AdaptedNetwork):
            self.network.check_input(image)
        network = _inner(self.network)
        if isinstance(network, MedNeXt):
            network.prepare(image, rows=True)
        cells = visible.cpu()
        levels = [plan_level(cells, image.shape[2:], stride, image.device) for stride in self._strides]
        with _own_precision(network, image):
            *skips, deepest = self._features(network, image, visible, levels)
            if isinstance(network, MedNeXt):
                return as_heads(network.decode(skips, deepest), image.dim())
            return as_heads(network.decoder([*skips, deepest]), image.dim())

    def _features(self, network: Any, image: Tensor, visible: Tensor, levels: list[Level]) -> list[Tensor]:
        """Return what the decoder gets: features of all resolutions, `(N, C, *positions)`, full resolution first."""
        if isinstance(network, MedNeXt):
            rows = sparse_mednext.encode(network, image, levels)
            if self.form == "sparse":
                return [level.scatter(each) for level, each in zip(levels, rows, strict=True)]
        else:
            dense = sparse_residual_encoder.encode(network.encoder, image, visible.to(image.device, non_blocking=True))
            if self.form == "sparse":
                return dense
            rows = [level.gather(each) for level, each in zip(levels, dense, strict=True)]
        return [fill(each, level) for fill, each, level in zip(self.densification, rows, levels, strict=True)]


def _inner(network: nn.Module) -> Any:
    return network.network if isinstance(network, AdaptedNetwork) else network


def _resolutions(network: nn.Module, form: str) -> tuple[int, list[int], list[list[int]]]:
    """Return the number of axes, the channels of every resolution, and the voxels of a position along each axis."""
    inner = _inner(network)
    if isinstance(inner, MedNeXt):
        channels = [inner.stem.out_channels * 2**level for level in range(LEVELS)]
        return inner.spatial_dims, channels, [[2**level] * inner.spatial_dims for level in range(LEVELS)]
    if sparse_residual_encoder.is_residual_unet(inner):
        sparse_residual_encoder.check(inner)
        strides = sparse_residual_encoder.total_strides(inner.encoder)
        return len(strides[0]), list(inner.encoder.output_channels), strides
    raise InputError(
        f"form {form!r}: exists for MedNeXt and for ResEnc networks of nnU-Net only, not for {_name(network)}; choose "
        "the form dense, or another network"
    )


def _name(network: nn.Module) -> str:
    return network.name if isinstance(network, AdaptedNetwork) else type(network).__name__


def _freeze_unused_heads(network: nn.Module) -> None:
    """Let heads that nnU-Net's decoders have without using them get no gradient, for which processes would wait."""
    for module in network.modules():
        heads = getattr(module, "seg_layers", None)
        if isinstance(heads, nn.ModuleList) and not getattr(module, "deep_supervision", True):
            heads[:-1].requires_grad_(False)


def _own_precision(network: Any, image: Tensor) -> contextlib.AbstractContextManager:
    """Let a MedNeXt compute in bfloat16 on a CPU if it does so by itself."""
    if getattr(network, "cpu_bfloat16", False) and image.device.type == "cpu" and not ops.plain():
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


class _First(Function):
    """The first of several heads; the others have a gradient of zeros, for which processes would wait otherwise."""

    @staticmethod
    def forward(ctx: Any, *heads: Tensor) -> Tensor:
        ctx.others = [(head.shape, head.dtype) for head in heads[1:]]
        return heads[0].view_as(heads[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(grad.new_zeros(shape, dtype=dtype) for shape, dtype in ctx.others)
