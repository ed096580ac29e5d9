"""The smallest kernel, which shows whether Triton can compile and launch anything here."""

import triton
import triton.language as tl


@triton.jit
def add_one(x, n, BLOCK: tl.constexpr = 8):  # noqa: N803  (constants of a kernel are written in capitals)
    """Add one to the first `n` values of `x`, at most 8."""
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)
