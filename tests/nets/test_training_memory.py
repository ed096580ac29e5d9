"""The estimate of a training step's memory against what a step keeps and takes."""

import math
import subprocess
import sys

import pytest
import torch

from mednextv2.nets import VARIANTS, create_mednext
from mednextv2.nets.training_memory import kept_values, training_memory

# Peak resident size above what the process has before the network, in a process of its own: arguments are variant, the
# number of resolutions whose blocks are recomputed, 1 for bfloat16, classes, batch and the patch's three sides. A step
# of a much smaller network comes first, since what the libraries load and set up for themselves is not estimated.
_PEAK = """
import ctypes, gc, sys
from pathlib import Path
import torch
from mednextv2.data import LabelScheme
from mednextv2.allocator import keep_freed_memory
from mednextv2.nets import create_mednext
from mednextv2.training.loss import SegmentationLoss

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def train(steps, batch, *size, **changes):
    network = create_mednext(
        variant, out_channels=classes, deep_supervision=True, cpu_bfloat16=bool(half), activation_checkpointing=flags,
        **changes
    ).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    for _ in range(steps):
        image, label = torch.randn(batch, 1, *size), torch.randint(0, classes, (batch, 1, *size), dtype=torch.int16)
        optimizer.zero_grad(set_to_none=True)
        loss(network(image), label).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()

# MCL_CURRENT, MCL_FUTURE and MCL_ONFAULT: what was once in memory stays, which makes a peak what it should be where the
# system takes pages back that were not used for a while. Without the right to do so, that is left to chance.
ctypes.CDLL(None).mlockall(7)
assert keep_freed_memory()
variant, (half, classes, batch, *size) = sys.argv[1], map(int, sys.argv[3:])
flags = [n < int(sys.argv[2]) for n in range(5)]
loss = SegmentationLoss(LabelScheme([str(i) for i in range(classes)]))
train(1, 1, 16, 16, 16, init_filters=2)
gc.collect()
before = status("VmRSS")
train(2, batch, *size)
print(status("VmHWM") - before)
"""


def saved_bytes(variant, size, half):
    """Count the bytes of all distinct storages that autograd keeps, without the parameters."""
    network = create_mednext(variant, out_channels=3, deep_supervision=True, cpu_bfloat16=half).train()
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(torch.randn(1, 1, *size))
    assert outputs[0].requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("half", [True, False], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("variant", ["v2_tiny", "v2_small"])
def test_values_kept_for_the_backward_pass_are_as_many_as_said(variant, half):
    small, large = (32, 32, 32), (64, 32, 32)  # the slope leaves out what does not grow with the patch
    more = saved_bytes(variant, large, half) - saved_bytes(variant, small, half)
    counted = more / (math.prod(large) - math.prod(small)) / (2 if half else 4)
    assert kept_values(variant) == pytest.approx(counted, rel=0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("variant", "patch", "half", "levels"),
    [
        ("v2_small", (48, 64, 48), True, 0),
        pytest.param("v2_small", (48, 64, 48), False, 0, marks=pytest.mark.slow),
        pytest.param("v2_small", (64, 64, 64), True, 0, marks=pytest.mark.slow),
        pytest.param("v2_tiny", (96, 96, 96), False, 0, marks=pytest.mark.slow),
        pytest.param("v2_tiny", (96, 96, 96), True, 1, marks=pytest.mark.slow),
        pytest.param("v2_tiny", (96, 96, 96), True, 5, marks=pytest.mark.slow),
        pytest.param("v2_small", (64, 64, 64), True, 5, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_near_the_peak_of_a_training_step(variant, patch, half, levels):
    estimate = training_memory(variant, patch, 2, 1, 3, half, [n < levels for n in range(5)])
    peak = 0
    for _ in range(3):  # a system that takes pages back meanwhile makes the peak smaller, never larger
        peak = max(peak, measured_peak(variant, patch, half, levels))
        if estimate <= 1.15 * peak:
            break
    assert estimate == pytest.approx(peak, rel=0.15)


def measured_peak(variant, patch, half, levels=0):
    result = subprocess.run(
        [sys.executable, "-c", _PEAK, variant, *map(str, (levels, int(half), 3, 2, *patch))],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return int(result.stdout)


def test_more_of_anything_needs_more():
    base = {"patch_size": (64, 64, 64), "batch_size": 2, "in_channels": 1, "outputs": 2}
    least = training_memory("v2_tiny", **base)
    for more in ({"patch_size": (80, 64, 64)}, {"batch_size": 3}, {"in_channels": 2}, {"outputs": 3}):
        assert training_memory("v2_tiny", **{**base, **more}) > least
    assert training_memory("v2_tiny", **base, half_precision=False) > least
    sizes = [training_memory(variant, **base) for variant in ("v2_tiny", "v2_small", "v2_base", "v2_wide")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_recomputing_more_resolutions_needs_less(variant):
    sizes = [
        training_memory(variant, (96, 96, 96), 2, checkpointing=[n < levels for n in range(5)]) for levels in range(6)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len({*sizes}) == 6


def test_activations_are_in_proportion_to_the_voxels():
    one, two, four = (training_memory("v2_tiny", (64, 64, 64), batch) for batch in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))
    assert training_memory("v2_tiny", (128, 64, 64), 1) == pytest.approx(two)


def test_weights_gradients_and_moments_are_the_least():
    network = create_mednext("v2_small", in_channels=1, out_channels=2, deep_supervision=True)
    numbers = sum(p.numel() for p in network.parameters())
    assert training_memory("v2_small", (16, 16, 16), 1) >= 4 * 4 * numbers  # float32, four of each


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_estimate_takes_no_memory_itself(variant):
    with torch.device("meta"):  # a network of 250 million parameters would take a second
        assert 1e7 < training_memory(variant, (96, 96, 96), 2, outputs=3) < 1e11
