"""The verb `doctor`: examine this machine."""

import sys


def doctor(network: str = "v2_base", kernel_size: int = 3, dtype: str = "bfloat16", repeat: bool = False) -> None:
    """Show the versions, the CPU library and the GPUs of this machine, and whether the GPU kernels are correct.

    GPU kernels that have not been tested on this machine yet are tested now, which takes about a minute. The exit code
    is 1 if something failed.

    Args:
        network: The size of the network whose GPU kernels are tested: v2_base, v2_small, v2_tiny, v2_wide, v1_s, v1_b,
            v1_m or v1_l.
        kernel_size: The kernel size of the network's depthwise convolutions.
        dtype: The data type in which the network computes: bfloat16, float16 or float32.
        repeat: Test the kernels again, even if there are results of an earlier test.

    Examples:
        mednextv2 doctor
        mednextv2 doctor --network v2_small --kernel_size 5 --repeat
    """
    from mednextv2.doctor import examine

    found = examine(network, kernel_size, dtype, repeat)
    print(found.text)
    if not found.well:
        sys.exit(1)
