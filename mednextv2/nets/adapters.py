"""Networks of other projects in the form that the workflows need: see docs/networks.md."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.nets.metatensor import plain_tensor


class AdaptedNetwork(nn.Module):
    """A network whose outputs are those of this project's networks, and which says what sizes it takes.

    Workflows need one tensor of logits in eval mode, and in training mode one tensor or a list of them, full resolution
    first. MONAI's DynUNet returns its heads as one tensor with an axis more, and nnU-Net's networks return a list also
    in eval mode. This class makes both alike.

    Args:
        name: The name of the network, for messages.
        network: The network, or a function without arguments that builds it. A function is better, since sizes are
            checked before it is called. In YAML, that is an entry with `_target_` and `_mode_: callable`.
        patch_size: The size of a patch and a window in voxels.
        multiples: The number, or the numbers, one an axis, of which a patch must be a multiple along each axis.
        spatial_dims: The numbers of axes that the network knows.
        more_than_one: Whether the patch must be larger than `multiples` along one axis, since the network normalises
            over the voxels at its lowest resolution, of which there must be more than one.
        fixed: Whether the network takes only inputs of the size `patch_size`.
        unused: Parts of the names of parameters that the network has, but does not use. They get no gradient, for which
            processes that train together would wait.

    Raises:
        InputError: If the network cannot take patches of this size, or a package that it needs is missing.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module | Callable[[], nn.Module],
        patch_size: Sequence[int],
        multiples: int | Sequence[int] = 1,
        spatial_dims: Sequence[int] = (2, 3),
        more_than_one: bool = False,
        fixed: bool = False,
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_patch(name, patch_size, multiples, spatial_dims, more_than_one)
        self.name, self.multiples, self.more_than_one, self.fixed = name, multiples, more_than_one, fixed
        self.patch_size = list(patch_size)
        self.network = network if isinstance(network, nn.Module) else _built(name, network)
        for parameter_name, parameter in self.network.named_parameters():
            if any(part in parameter_name for part in unused):
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = plain_tensor(x)
        self.check_input(x)
        heads = as_heads(self.network(x), x.dim())
        return heads if self.training and len(heads) > 1 else heads[0]

    def check_input(self, x: Tensor) -> None:
        """Raise an InputError if the network cannot take an input, or return.

        Args:
            x: The input, `(N, C, *spatial)`.
        """
        shape = list(x.shape[2:])
        if self.fixed and shape != self.patch_size:
            raise InputError(
                f"network {self.name}: takes only patches of {self.patch_size} voxels, with which it was built, not "
                f"{shape}; give this size as patch_size"
            )
        check_patch(self.name, shape, self.multiples, (len(self.patch_size),), self.more_than_one)


def _built(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except ImportError as e:
        raise InputError(f"network {name}: {e}; install what it needs with pip install 'mednextv2[networks]'") from e


def check_patch(
    name: str,
    patch_size: Sequence[int],
    multiples: int | Sequence[int],
    spatial_dims: Sequence[int] = (2, 3),
    more_than_one: bool = False,
) -> None:
    """Raise an InputError if a network cannot take patches of a size.

    Args:
        name: The name of the network.
        patch_size: The size in voxels.
        multiples: The number, or the numbers, one an axis, of which the size must be a multiple.
        spatial_dims: The numbers of axes that the network knows.
        more_than_one: Whether the size must be larger than `multiples` along one axis.
    """
    if len(patch_size) not in spatial_dims:
        known = " or ".join(map(str, spatial_dims))
        raise InputError(
            f"network {name}: has {known} spatial axes, but patch_size {list(patch_size)} has {len(patch_size)}; "
            "choose another --network"
        )
    steps = [multiples] * len(patch_size) if isinstance(multiples, int) else list(multiples)
    if any(n % step for n, step in zip(patch_size, steps, strict=True)):
        near = [max(step, step * round(n / step)) for n, step in zip(patch_size, steps, strict=True)]
        raise InputError(
            f"network {name}: patch_size {list(patch_size)} should be multiples of {multiples} for this network; give "
            f'the nearest with --patch_size "{near}", or choose another --network'
        )
    if more_than_one and list(patch_size) == steps:
        raise InputError(
            f"network {name}: patch_size {list(patch_size)} is too small for this network, of which one voxel would be "
            f'left at the lowest resolution; give a larger one, such as --patch_size "{[2 * n for n in patch_size]}"'
        )


def as_heads(outputs: Any, dims: int) -> list[Tensor]:
    """Return a network's outputs as a list of logits, `(B, outputs, *spatial)`, full resolution first.

    Args:
        outputs: A tensor, a list or tuple of tensors, or a tensor of heads of one size,
            `(B, heads, outputs, *spatial)`.
        dims: The number of axes of one head.
    """
    if isinstance(outputs, Tensor):
        return list(outputs.unbind(1)) if outputs.dim() == dims + 1 else [outputs]
    if isinstance(outputs, (list, tuple)) and outputs and all(isinstance(head, Tensor) for head in outputs):
        return list(outputs)
    raise TypeError(
        f"a network returned {type(outputs).__name__}, where a tensor of logits or a list of them, full resolution "
        "first, was expected: see docs/networks.md"
    )
