"""A kernel for the tests of what is launched, compiled and predicted, and how one launch is followed."""

import gpu_standin
import torch
import triton
import triton.language as tl
from gpu_capture import Capture

BF16 = torch.bfloat16


@triton.jit(do_not_specialize=["free"])
def scale_kernel(x, y, n, free, factor, BLOCK: tl.constexpr, TWICE: tl.constexpr = False):  # noqa: N803
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < n) * factor + free
    tl.store(y + place, value + value if TWICE else value, mask=place < n)


def one_launch(run):
    """The only launch of what runs on the stand-in."""
    with gpu_standin.stand_in(), Capture() as capture:
        run()
    (launch,) = capture.launches
    return launch
