"""Rows put back at some positions of a feature map, with zeros or a token at all others."""

from collections.abc import Sequence

from torch import Tensor

from mednextv2.ops import implementations
from mednextv2.ops._row_runs import scatter_rows_op
from mednextv2.ops.shape_checks import check_rows


def scatter_rows_reference(
    rows: Tensor, runs: Tensor, shape: Sequence[int], length: int = 1, fill: Tensor | None = None
) -> Tensor:
    """Define :func:`scatter_rows` by PyTorch's indexing; the arguments and the result are the same."""
    channels = rows.shape[1]
    empty = rows.new_zeros(channels) if fill is None else fill.to(rows.dtype)
    out = empty.expand(shape[0], *shape[1:], channels).reshape(-1, length, channels)
    out = out.index_put((runs,), rows.reshape(-1, length, channels))
    return out.view(*shape, channels).movedim(-1, 1)


def scatter_rows(
    rows: Tensor, runs: Tensor, shape: Sequence[int], length: int = 1, fill: Tensor | None = None
) -> Tensor:
    """Put rows at some positions of a feature map; the opposite of :func:`gather_rows`.

    Args:
        rows: The rows, `(K * length, C)`.
        runs: The indices of runs, as :func:`gather_rows` takes them.
        shape: The shape of the map without its channels, `(N, *space)`.
        length: The positions of a run.
        fill: What all other positions hold, `(C,)`; None for zeros. It has a gradient, too.

    Returns:
        The features, `(N, C, *space)`, channels-last, in the dtype of `rows`.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    check_rows(rows, runs, length, shape, fill)
    if implementations.plain(rows):
        return scatter_rows_reference(rows, runs, shape, length, fill)
    return scatter_rows_op(rows, runs, length, list(shape), fill)
