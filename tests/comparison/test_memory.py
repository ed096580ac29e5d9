import subprocess
import sys

import numpy as np
import torch

from mednextv2.comparison.memory import peak_memory

_CHILD = """
from mednextv2.comparison.memory import peak_memory
import numpy as np
before, _ = peak_memory()
array = np.ones(40 * 2**20)
del array
after, whose = peak_memory()
print(before, after, whose)
"""


def test_the_peak_is_that_of_the_process_itself():
    """Memory of the parent counts nothing, and memory that was given back counts."""
    held = np.ones(100 * 2**20)  # 800 MiB
    result = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True)
    before, after, whose = result.stdout.split()
    assert held.size
    assert int(before) < 700 * 2**20
    assert 300 * 2**20 < int(after) - int(before) < 360 * 2**20
    assert whose == "process"


def test_on_a_gpu_it_is_that_of_tensors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    assert peak_memory() == (5, "GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)  # a run with --device cpu
    assert peak_memory()[1] == "process"
