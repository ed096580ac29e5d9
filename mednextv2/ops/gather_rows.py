"""The rows of some positions of a feature map: what a mask leaves visible."""

from torch import Tensor

from mednextv2.ops import implementations, memory_layout
from mednextv2.ops._row_runs import gather_rows_op
from mednextv2.ops.shape_checks import check_runs


def gather_rows_reference(x: Tensor, runs: Tensor, length: int = 1) -> Tensor:
    """Define :func:`gather_rows` by PyTorch's indexing; the arguments and the result are the same."""
    return memory_layout.rows(x).reshape(-1, length, x.shape[1])[runs].flatten(0, 1)


def gather_rows(x: Tensor, runs: Tensor, length: int = 1) -> Tensor:
    """Return the rows of some positions, in the order of the runs; the opposite of :func:`scatter_rows`.

    Memory is channels-last, so that the channels of a position are one row, and the positions of a line of the last
    axis follow each other. A run is `length` positions of a line.

    Args:
        x: The features, `(N, C, *space)`.
        runs: The indices of runs, int64, `(K,)`, each at most once: run `i` begins at position `i * length`, where
            positions are counted over the whole batch, the last axis fastest.
        length: The positions of a run; it divides the last axis.

    Returns:
        The rows, `(K * length, C)`, in the dtype of `x`.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    check_runs(runs, length, x.shape[-1])
    if implementations.plain(x):
        return gather_rows_reference(x, runs, length)
    return gather_rows_op(memory_layout.channels_last(x), runs, length)
