"""Launch configurations of the Triton kernels: a table, and the measurement that fills it.

They are looked up, not searched at run time: a search takes time at the start of every training, and where two
configurations are close its choice, and with it the order of summation, changes from run to run. On a GPU of your own:

    python -m mednextv2.ops._triton_configs

prints the lines of `TUNED` for it.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

HALF, SINGLE = "half", "single"


@dataclass(frozen=True)
class Config:
    """How a kernel is launched.

    Attributes:
        blocks: For `mlp_*`: voxels and expanded channels of a tile. For `depthwise_gather`: planes that a program
            computes, and values of a plane. For `depthwise_weight`: planes of a chunk, and values of a plane.
        warps: Warps per program.
        stages: Depth of software pipelining.
        programs: Number of programs that sums over voxels are split into, about; 132 multiprocessors take 132 times
            as many as their registers and shared memory allow.
    """

    blocks: tuple[int, int]
    warps: int = 4
    stages: int = 2
    programs: int = 1056


# Not measured: (kernel, dtype) -> the largest size that it is for -> configuration. The size is the number of channels
# for `mlp_*`, and the edge of the kernel for `depthwise_*`. Chosen by compiling for sm_90: registers are hardly spilled
# (24 bytes at most), and less than 99 KiB of shared memory is taken, which GPUs from sm_86 have (sm_80 has more).
UNTUNED = {
    ("mlp_norms", HALF): {64: Config((64, 64), 4, 3), 256: Config((64, 32), 4, 2)},
    ("mlp_norms", SINGLE): {128: Config((32, 32), 8, 1)},
    ("mlp_output", HALF): {64: Config((64, 64), 4, 2), 256: Config((64, 32), 4, 2)},
    ("mlp_output", SINGLE): {128: Config((32, 32), 8, 1)},
    ("mlp_w2", HALF): {64: Config((64, 64), 4, 2), 256: Config((64, 32), 4, 2)},
    ("mlp_w2", SINGLE): {128: Config((32, 32), 8, 1)},
    ("mlp_w1", HALF): {64: Config((64, 64), 4, 2), 256: Config((64, 32), 4, 1)},
    ("mlp_w1", SINGLE): {64: Config((32, 32), 8, 1), 128: Config((16, 32), 4, 1)},
    ("mlp_input", HALF): {64: Config((64, 64), 4, 2), 256: Config((64, 32), 4, 1)},
    ("mlp_input", SINGLE): {128: Config((32, 32), 8, 1)},
    ("depthwise_gather", HALF): {7: Config((4, 2048), 8, 1)},
    ("depthwise_gather", SINGLE): {7: Config((4, 2048), 8, 1)},
    ("depthwise_weight", HALF): {3: Config((32, 1024), 4, 1, 2112), 7: Config((32, 512), 4, 1, 2112)},
    ("depthwise_weight", SINGLE): {3: Config((32, 1024), 4, 1, 2112), 7: Config((32, 512), 4, 1, 2112)},
}

# Measured, by `tune`: (compute capability, kernel, dtype, size). The size is the number of channels, rounded up to a
# power of two from 32 to 256, for `mlp_*`, and the edge of the kernel for `depthwise_*`.
TUNED: dict[tuple[tuple[int, int], str, str, int], Config] = {}

TRIAL: dict[str, Config] = {}  # by kernel, before both tables: what `tune` is measuring


def lookup(kernel: str, like: torch.Tensor, size: int) -> Config:
    """Return the configuration for tensors on the device and of the dtype of `like`."""
    if kernel in TRIAL:
        return TRIAL[kernel]
    dtype = SINGLE if like.dtype == torch.float32 else HALF
    capability = torch.cuda.get_device_capability(like.device) if like.is_cuda else (0, 0)
    tuned = TUNED.get((capability, kernel, dtype, bucket(kernel, size)))
    return tuned or untuned(kernel, dtype, size)


def untuned(kernel: str, dtype: str, size: int) -> Config:
    """Return the configuration for a GPU that nothing was measured on."""
    sizes = UNTUNED[kernel, dtype]
    return sizes[min((s for s in sizes if s >= size), default=max(sizes))]


def bucket(kernel: str, size: int) -> int:
    """Return the class of problem that a size belongs to."""
    return min(max(32, 1 << (size - 1).bit_length()), 256) if kernel.startswith("mlp") else size


def channel_block(channels: int) -> int:
    """Return how many channels are taken at once: a power of two that tensor cores can multiply, 128 at most."""
    return min(max(16, 1 << (channels - 1).bit_length()), 128)


def fitting(block: int, size: int) -> int:
    """Return `block`, halved until at most an eighth of the work is done on padding."""
    while block > 16 and -size % block > size // 8:
        block //= 2
    return block


def tile(values: int, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Return rows, columns and channels of a tile of `values` (fewer for a small image): a nearly square one."""
    block_c = fitting(min(32, 1 << (channels - 1).bit_length()), channels)
    voxels = max(1, values // block_c)
    square = 1 << (voxels.bit_length() // 2)
    block_x = min(square, 1 << (width - 1).bit_length())
    return min(voxels // block_x, 1 << (height - 1).bit_length()), block_x, block_c


def precision() -> str:
    """Return how float32 matrices are multiplied: with exact products, or where PyTorch may use TF32, three of these.

    One TF32 product would lose half of the digits; three are nearly exact, and still run on tensor cores.
    """
    matmul = torch.backends.cuda.matmul
    try:
        allowed = matmul.fp32_precision == "tf32"
    except AttributeError:  # before PyTorch 2.9
        allowed = matmul.allow_tf32
    return "tf32x3" if allowed else "ieee"


CHOICES = {
    "mlp": {"blocks": ((16, 32, 64, 128), (16, 32, 64, 128)), "warps": (4, 8), "stages": (1, 2, 3, 4)},
    "depthwise_gather": {"blocks": ((1, 2, 4, 8), (512, 1024, 2048, 4096)), "warps": (2, 4, 8), "stages": (1,)},
    "depthwise_weight": {"blocks": ((8, 16, 32, 64), (256, 512, 1024, 2048)), "warps": (2, 4, 8), "stages": (1,)},
}
PROGRAMS = (264, 528, 1056, 2112, 4224)


def neighbours(kernel: str, config: Config) -> Iterator[Config]:
    """Yield the configurations that differ from `config` in one thing."""
    choices = CHOICES.get(kernel, CHOICES["mlp"])
    for i, values in enumerate(choices["blocks"]):
        yield from (replace(config, blocks=(v, config.blocks[1]) if i == 0 else (config.blocks[0], v)) for v in values)
    yield from (replace(config, warps=v) for v in choices["warps"])
    yield from (replace(config, stages=v) for v in choices["stages"])
    if kernel in ("mlp_norms", "mlp_w1", "mlp_w2", "depthwise_weight"):
        yield from (replace(config, programs=v) for v in PROGRAMS)


def tune(kernel: str, dtype: torch.dtype, size: int) -> None:
    """Measure one kernel on the GPU at hand for one class of problems, and print its line of `TUNED`.

    Starting from the table's configuration, one thing at a time is changed for the better, until nothing helps.
    """
    run = _problem(kernel, dtype, size)
    best = lookup(kernel, torch.empty(0, device="cuda", dtype=dtype), size)
    first = shortest = _milliseconds(run, kernel, best)
    seen, improved = {best}, True
    while improved:
        improved = False
        for config in neighbours(kernel, best):
            if config in seen:
                continue
            seen.add(config)
            time = _milliseconds(run, kernel, config)
            if time < 0.99 * shortest:
                best, shortest, improved = config, time, True
    name = "SINGLE" if dtype == torch.float32 else "HALF"
    key = f'({torch.cuda.get_device_capability()}, "{kernel}", {name}, {bucket(kernel, size)})'
    arguments = f"{best.blocks}, {best.warps}, {best.stages}, {best.programs}"
    print(f"    {key}: Config({arguments}),  # {first:.3f} -> {shortest:.3f} ms", flush=True)


def _milliseconds(run: Callable[[], object], kernel: str, config: Config) -> float:
    import triton

    TRIAL[kernel] = config
    try:
        return triton.testing.do_bench(run, warmup=5, rep=40, return_mode="median")
    except (triton.CompilationError, triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError):
        return float("inf")  # too large for the registers or the shared memory
    finally:
        del TRIAL[kernel]


def _problem(kernel: str, dtype: torch.dtype, size: int) -> Callable[[], object]:
    """Return a call that uses the kernel, on a patch of two samples as a network of 32 channels at the top has it."""
    from mednextv2.ops import _depthwise_triton, _folded_mlp_triton

    def random(*shape: int, like: torch.dtype = torch.float32) -> torch.Tensor:
        x = torch.randn(shape, device="cuda", dtype=like)
        return x.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else x

    channels = 32 if kernel.startswith("depthwise") else size
    edge = 128 * 32 // channels
    y = random(2, channels, edge, edge, edge, like=dtype)
    if kernel.startswith("depthwise"):
        weight = random(channels, 1, size, size, size)
        if kernel == "depthwise_gather":
            return lambda: _depthwise_triton.forward(y, weight, None, 1, False)
        return lambda: _depthwise_triton.backward(y, y, weight, 1, False, False)
    wide = 3 * channels
    parameters = (random(channels), random(channels), random(wide, channels), random(wide), random(wide), random(wide),
                  random(channels, wide), random(channels))  # fmt: skip
    inputs = (y, random(2, channels), random(2, channels).square(), *parameters)
    if kernel in ("mlp_norms", "mlp_output"):
        return lambda: _folded_mlp_triton.forward(*inputs, y, 1e-5, 1e-6, False)
    norms = random(2, wide).square()
    return lambda: _folded_mlp_triton.backward(y, *inputs, norms, 1e-5, 1e-6, False)


def main() -> None:
    """Measure the kernels that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kernels = sorted({kernel for kernel, _ in UNTUNED})
    parser.add_argument("--kernels", nargs="+", default=kernels, choices=kernels)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    arguments = parser.parse_args()
    print(f"# {torch.cuda.get_device_name()}, {arguments.dtype}")
    for kernel in arguments.kernels:
        for size in (3, 5, 7) if kernel.startswith("depthwise") else (32, 64, 128, 256):
            if kernel.startswith("depthwise") or arguments.dtype != "float32" or size <= 128:
                tune(kernel, getattr(torch, arguments.dtype), size)


if __name__ == "__main__":
    # as a module of its own name: that is the one whose table the kernels look into
    from mednextv2.ops import _triton_configs

    _triton_configs.main()
