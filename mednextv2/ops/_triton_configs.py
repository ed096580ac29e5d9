"""Launch configurations of the Triton kernels: a table, and the arithmetic of tiles.

They are looked up, not searched at run time: a search takes time at the start of every training, and if two
configurations are close, its choice and therefore the order of summation change from run to run.
`scripts/gpu_tune.py` measures them on a GPU.
"""

from dataclasses import dataclass

import torch

HALF, SINGLE = "half", "single"
SMALL, LARGE = 64, 256  # sizes of the configurations for products with few tiles and with many
MOMENTS = (8, 1024)  # channels of a program that combines moments, and tiles at a time


@dataclass(frozen=True)
class Config:
    """The launch configuration of a kernel.

    Attributes:
        blocks: For the folded MLP: voxels and channels of a tile. For `depthwise_gather`: planes that a program
            computes, and values per plane. For `depthwise_weight`: planes of a chunk, and values per plane.
        warps: Warps per program.
        stages: Depth of software pipelining.
        programs: The approximate number of programs between which sums over voxels are divided; for products, the
            number of large tiles that there must be. 132 multiprocessors take 132 times as many as their registers and
            shared memory allow.
        depth: For a product: how much of its inner dimension is taken at a time.
        whole: For thin blocks: whether the channels of a tile are kept whole even if some are padding, since more tiles
            of fewer channels would take more registers than there are.
    """

    blocks: tuple[int, int]
    warps: int = 4
    stages: int = 2
    programs: int = 264
    depth: int = 64
    whole: bool = False


# (kernel, dtype) -> the largest size for which it is used -> configuration. The size is the number of channels for the
# folded MLP and the size of the kernel for `depthwise_*`. `expansion` was measured on an H100. The others were chosen
# by compiling: registers are hardly spilled, and the shared memory fits each GPU for which `is_thin` allows them.
UNTUNED = {
    ("norms", HALF): {32: Config((128, 32), 8, 2, 264), 64: Config((64, 64), 8, 2, 264)},
    ("output", HALF): {32: Config((128, 32), 4, 2, 1056), 64: Config((64, 64), 4, 2, 1056)},
    ("compression", HALF): {32: Config((64, 32), 4, 2, 264), 64: Config((128, 64), 8, 2, 264)},
    ("expansion", HALF): {32: Config((64, 32), 4, 2, 264), 64: Config((128, 64), 8, 2, 264, whole=True)},
    ("expand", HALF): {LARGE: Config((64, 128), 4, 2, 528, 64)},
    ("expand_again", HALF): {LARGE: Config((64, 128), 4, 2, 528, 64)},
    ("expanded_gradient", HALF): {LARGE: Config((128, 64), 8, 2, 528, 64)},
    ("compress", HALF): {SMALL: Config((64, 64), 4, 3, 0, 64), LARGE: Config((128, 128), 8, 3, 132, 64)},
    ("input", HALF): {SMALL: Config((64, 64), 4, 3, 0, 64), LARGE: Config((128, 128), 8, 3, 132, 64)},
    ("depthwise_gather", HALF): {3: Config((8, 1024), 4, 1), 7: Config((4, 2048), 8, 1)},
    ("depthwise_gather", SINGLE): {7: Config((4, 2048), 8, 1)},
    ("depthwise_weight", HALF): {3: Config((32, 1024), 4, 1, 2112), 7: Config((32, 512), 4, 1, 2112)},
    ("depthwise_weight", SINGLE): {3: Config((32, 1024), 4, 1, 2112), 7: Config((32, 512), 4, 1, 2112)},
}

# Measured on one kind of GPU: (compute capability, kernel, dtype, size).
TUNED: dict[tuple[tuple[int, int], str, str, int], Config] = {
    ((9, 0), "expanded_gradient", HALF, 256): Config((128, 64), 4, 2, 528, 64),  # v2_base on an H100: 7.8 -> 6.2 ms
}

TRIAL: dict[str, Config] = {}  # by kernel, used before both tables: a configuration under measurement or test


def lookup(kernel: str, like: torch.Tensor, size: int) -> Config:
    """Return the configuration for tensors on the device and of the dtype of `like`."""
    if kernel in TRIAL:
        return TRIAL[kernel]
    own = bucket(kernel, like, size)
    return TUNED.get((capability(like), kernel, _kind(kernel, like), own)) or UNTUNED[kernel, _kind(kernel, like)][own]


def bucket(kernel: str, like: torch.Tensor, size: int) -> int:
    """Return the size in the table that covers a size."""
    sizes = UNTUNED[kernel, _kind(kernel, like)]
    return min((s for s in sizes if s >= size), default=max(sizes))


def _kind(kernel: str, like: torch.Tensor) -> str:
    single = like.dtype == torch.float32 and (kernel, SINGLE) in UNTUNED
    return SINGLE if single else HALF


def capability(x: torch.Tensor) -> tuple[int, int]:
    """Return the compute capability of a tensor's GPU; for the interpreter's tensors, that of an H100."""
    return torch.cuda.get_device_capability(x.device) if x.is_cuda else (9, 0)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below `n`."""
    return 1 << (n - 1).bit_length()


def channel_block(channels: int) -> int:
    """Return a power of two for all channels of a thin block, which tensor cores can multiply."""
    return max(16, power_of_two(channels))


def depth(config: Config, channels: int) -> int:
    """Return how many channels are taken at a time if they are the inner dimension of a product."""
    return max(16, min(config.depth, power_of_two(max(1, channels))))


def split(tiles: int, programs: int) -> tuple[int, int]:
    """Return how many tiles a program processes, and how many programs that gives."""
    per_split = -(-tiles // max(1, programs))
    return per_split, -(-tiles // per_split)


def fitting(block: int, size: int) -> int:
    """Return `block`, halved until at most an eighth of the work is done on padding."""
    while block > 16 and -size % block > size // 8:
        block //= 2
    return block


def tile(values: int, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Return the rows, columns and channels of a tile of `values` (fewer for a small image): a nearly square one."""
    block_c = fitting(min(32, power_of_two(channels)), channels)
    voxels = max(1, values // block_c)
    square = 1 << (voxels.bit_length() // 2)
    block_x = min(square, power_of_two(width))
    return min(voxels // block_x, power_of_two(height)), block_x, block_c
