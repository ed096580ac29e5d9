"""Windows where the memory is too small for all at once, and what stays of it afterwards."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from streaming_helpers import WINDOW, Blobs, axes_of, batch_of, scheme_of
from torch import nn

from mednextv2.errors import InputError
from mednextv2.inference import StreamingInferer
from mednextv2.inference.window_cells import most_waiting


class Small(nn.Module):
    """A network on a device that has room for some windows only."""

    def __init__(self, room, network):
        super().__init__()
        self.room, self.network, self.seen = room, network, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(x)


def test_windows_are_predicted_one_by_one_where_the_memory_is_too_small(caplog):
    image, net = batch_of((30, 30, 30), np.eye(4), (1, 1, 1))[0]["image"].as_tensor(), Blobs(4)
    small = Small(1, net)
    infer = StreamingInferer((16, 16, 16), scheme_of(4, False), **{**WINDOW, "sw_batch_size": 4})
    labels = infer(image, small)
    assert small.seen[0] == 4
    assert set(small.seen[1:]) == {1}
    assert len([r for r in caplog.records if "going on with one" in r.getMessage()]) == 1
    assert torch.equal(labels, infer(image, net))


def test_a_window_that_does_not_fit_at_all_ends_with_what_to_do():
    infer = StreamingInferer((16, 16, 16), scheme_of(4, False), **WINDOW)
    with pytest.raises(InputError, match=re.escape("16×16×16 voxels; use --device cpu")):
        infer(torch.zeros(1, 1, 30, 30, 30), Small(0, Blobs(4)))


_GROWTH = """
import torch
from mednextv2.data import LabelScheme
from mednextv2.inference import StreamingInferer, sliding_window
from mednextv2.allocator import keep_freed_memory

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

assert keep_freed_memory()
sliding_window._KEPT = 64 * 2**20  # in proportion to the image
infer = StreamingInferer((48, 48, 48), LabelScheme([str(i) for i in range(100)]), memory=0.05, overlap=0.5)
network = lambda x: x[:, :1].repeat(1, 100, 1, 1, 1)  # 42 MiB a window
infer(torch.zeros(1, 1, 48, 48, 48), network)
before = resident("VmRSS")
infer(torch.randn(1, 1, 96, 96, 384), network)
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_keeps_freed_memory_does_not_grow_with_the_windows():
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    waiting = 2 * 100 * most_waiting(axes_of((96, 96, 384), 48, 24))  # float16
    window, kept = 4 * 100 * 48**3, 64 * 2**20
    # with all of the freed memory kept it grows by up to four times of what waits
    assert int(done.stdout) < waiting + kept + window
