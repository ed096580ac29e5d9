"""The check of an input's shape that the baselines share."""

from torch import Tensor


def check_input(x: Tensor, divisor: int, network: str) -> None:
    """Raise a ValueError that names the axis, its size and what the network accepts, or return.

    Args:
        x: An input, `(N, C, X, Y, Z)`.
        divisor: The number of which each spatial axis must be a multiple.
        network: The name of the network, for the message.
    """
    if x.dim() != 5:
        raise ValueError(f"{network} expects an input of shape (N, C, X, Y, Z), got {tuple(x.shape)}")
    for axis, size in enumerate(x.shape[2:]):
        if size % divisor or not size:
            raise ValueError(
                f"{network} reduces every axis by a factor of {divisor}, so each must be a multiple of {divisor}: "
                f"spatial axis {axis} has {size} voxels"
            )
