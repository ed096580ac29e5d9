import json
import re
import sys
from concurrent.futures import Future
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import gpu_predict_step
import gpu_tune
import gpu_tune_search
from gpu_compile import Compiled
from gpu_predict_launches import Done, Work
from triton.runtime.errors import OutOfResources

from mednextv2.nets import create_mednext
from mednextv2.nets.blocks import MedNeXtBlock
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops._triton_configs import HALF, Config


@pytest.mark.parametrize("kernel", sorted({kernel for kernel, dtype in configs.UNTUNED if dtype == HALF}))
def test_neighbours_differ_in_one_thing(kernel):
    for config in configs.UNTUNED[kernel, HALF].values():
        found = set(gpu_tune_search.neighbours(kernel, config)) - {config}
        assert len(found) > 4
        for other in found:
            changed = [a != b for a, b in zip(astuple(config), astuple(other), strict=True)]
            assert sum(changed) == 1


def search(kernel="expand", size=256, config=None):
    config = config or configs.UNTUNED[kernel, HALF][size]
    return gpu_tune_search.Search(gpu_tune_search.Task("v2_tiny", 32, "bfloat16", 3, 90, kernel, size, config))


def climb(wave):
    """Time candidates on a hill with one best configuration."""
    for own, config in wave:
        wanted = (128, 64, 8, 4, 1056, 32, False)
        (rows, columns), *others = astuple(config)
        own.take(config, 1 + sum(a != b for a, b in zip((rows, columns, *others), wanted, strict=True)))


def test_the_best_configuration_is_found_wave_by_wave():
    own = search(config=Config((64, 128), 4, 2, 528, 64))
    waves = []
    gpu_tune_search.tune([own], lambda wave: (waves.append([config for _, config in wave]), climb(wave)))
    assert (own.best, own.before, own.after) == (Config((128, 64), 8, 4, 1056, 32), 7, 1)
    # what helped in the first wave, the table's own being wave 0, is tried together in the next: all but the blocks,
    # which changed for the better in two ways at once
    assert [(c.warps, c.stages, c.programs, c.depth) for c in waves[2][:1]] == [(8, 4, 1056, 32)]


def test_where_the_time_is_over_what_was_timed_counts():
    own = search(config=Config((64, 128), 4, 2, 528, 64))
    gpu_tune_search.tune([own], lambda wave: climb(wave[:3]))
    assert (own.before, own.after, own.tried) == (7, 6, 4)  # the table's own, and three others
    gpu_tune_search.tune([idle := search()], lambda wave: None)
    assert (idle.tried, idle.after) == (0, float("inf"))


ENTRY = '    ((9, 0), "norms", HALF, 32): Config((64, 32), 4, 2, 264, 64),  # '


@pytest.mark.parametrize(
    ("before", "after", "tried", "expected"),
    [
        (3e-3, 2e-3, 5, ENTRY + "3.000 -> 2.000 ms; configurations tried: 5"),
        (3e-3, 3e-3, 5, ENTRY + "3.000 -> 3.000 ms; configurations tried: 5"),
        (float("inf"), 2e-3, 2, ENTRY + "inf -> 2.000 ms; configurations tried: 2"),
        (3e-3, 3e-3, 1, "    # norms, 32: not tuned for lack of time; the table's configuration takes 3.000 ms"),
        (0.0, 0.0, 1, "    # norms, 32: the network has no such launch"),
        (float("inf"), float("inf"), 4, "    # norms, 32: configurations tried: 4; none of them can be launched"),
    ],
)
def test_only_what_was_tuned_is_an_entry_for_the_table(before, after, tried, expected):
    own = search("norms", 32, Config((64, 32), 4, 2, 264, 64))
    own.before, own.after, own.tried = before, after, tried
    assert gpu_tune.format_entry((9, 0), own) == expected


def test_an_entry_says_that_padding_is_kept():
    own = search("expansion", 64, Config((64, 64), 8, whole=True))
    own.before, own.after, own.tried = 3e-3, 2e-3, 5
    assert ": Config((64, 64), 8, 2, 264, 64, whole=True),  # " in gpu_tune.format_entry((9, 0), own)


class Pool:
    """Works in this process, at once, and remembers what is followed."""

    def __init__(self):
        self.tasks = []

    def map(self, function, tasks):
        self.tasks += tasks
        return map(function, tasks)

    def submit(self, function, work):
        future = Future()
        future.set_result(function(work))
        return future


class FakeLaunch(NamedTuple):
    kind: str
    config: Config

    def key(self):
        return self


def timed_by(monkeypatch, times, predicted):
    """Let a task have launches in two kinds of blocks; returns a timer and its pool."""
    monkeypatch.setattr(gpu_tune, "count_blocks", lambda options: {"many": 8, "one": 1})
    monkeypatch.setattr(gpu_tune, "measure", lambda launch: times(*launch))

    def follow(task):
        keys = [("many", 0), ("one", 0)]
        return {key: FakeLaunch(key[0], task.config) for key in keys if task.wanted is None or key in task.wanted}

    monkeypatch.setattr(gpu_tune, "follow_task", follow)
    monkeypatch.setattr(gpu_tune, "as_work", lambda launches, arch: [Work(None, (launch,)) for launch in launches])
    monkeypatch.setattr(gpu_tune, "compile_and_predict", lambda work: Done(
        Compiled(None, None), (SimpleNamespace(seconds=predicted(*work.launches[0])),)
    ))  # fmt: skip
    pool = Pool()
    return gpu_tune.Timer(SimpleNamespace(dry=False, arch=90), float("inf"), pool), pool


def test_launches_count_as_often_as_their_blocks_and_small_ones_are_left_out(monkeypatch):
    timer, pool = timed_by(monkeypatch, lambda kind, config: 1.0 if config.warps == 4 else 0.5, lambda *given: 1.0)
    own = search("norms", 32, Config((64, 32), 4))
    timer([(own, own.task.config)])
    assert own.before == 8  # 8 of 9 are more than 85 %
    own.waiting = [Config((64, 32), 8)]
    timer([(own, own.waiting[0])])
    assert (own.best.warps, own.after) == (8, 4)
    assert [task.wanted for task in pool.tasks] == [None, frozenset({("many", 0)})]


def test_what_is_predicted_to_be_far_slower_is_not_timed(monkeypatch):
    timed = []

    def times(kind, config):
        timed.append(config.warps)
        if config.warps == 8:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return 1.0

    guess = {4: 1.0, 2: gpu_tune.HOPELESS + 0.01, 8: 0.9, 16: 1.1}
    timer, _ = timed_by(monkeypatch, times, lambda kind, config: guess[config.warps])
    own = search("norms", 32, Config((64, 32), 4))
    timer([(own, own.task.config)])
    own.waiting += [Config((64, 32), warps) for warps in (2, 8, 16)]
    timer([(own, config) for config in list(own.waiting)])
    assert timed == [4, 4, 8, 16]  # both launches of the first; of the others the one that counts
    assert (own.tried, own.after) == (4, 8)


COMMAND = ["--dry", "--kernels", "norms", "--variant", "v2_tiny", "--patch", "32"]


@pytest.mark.slow
def test_a_dry_run_prints_lines_for_the_table(capsys):
    assert gpu_tune.main([*COMMAND, "--minutes", "6"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "# predicted, for an H100, v2_tiny, bfloat16"
    assert len(lines) == 2
    for line in lines:
        entry, times = line.split(",  # ")
        (table,) = eval(f"{{{entry}}}", {"Config": Config, "HALF": HALF}).items()
        assert table[0][:3] == ((9, 0), "norms", HALF)
        assert table[0][3] in configs.UNTUNED["norms", HALF]
        before, after, tried = map(float, re.findall(r"[\d.]+", times))
        assert 0 < after <= before
        assert tried > 1


@pytest.mark.slow
def test_without_time_no_line_looks_tuned(capsys, monkeypatch):
    now = iter(range(10**6))  # an hour passes between two looks at the clock
    monkeypatch.setattr(gpu_tune.time, "monotonic", lambda: 3600.0 * next(now))
    assert gpu_tune.main([*COMMAND, "--minutes", "0.1"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    sizes = list(configs.UNTUNED["norms", HALF])
    assert [line[: line.index(";")] for line in lines] == [
        f"    # norms, {n}: not tuned for lack of time" for n in sizes
    ]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_tune.main([]) == 2
    assert "There is no GPU to measure on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_prediction_of_a_step_says_that_it_is_one(tmp_path, capsys):
    gpu_predict_step.main(["--variant", "v2_tiny", "--patch", "32", "--output", str(tmp_path)])
    text = (tmp_path / "gpu-predicted-v2_tiny.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.startswith("# Predicted, not measured")
    found = json.loads((tmp_path / "gpu-predicted-v2_tiny.json").read_text())
    assert set(found) == {"train", "inference"}
    blocks = sum(isinstance(m, MedNeXtBlock) for m in create_mednext("v2_tiny").modules())
    assert found["inference"]["gather_kernel"]["launches"] == blocks
    assert found["train"]["gather_kernel"]["launches"] == 2 * blocks
    assert all(row["ms"] > 0 or row["unknown"] for rows in found.values() for row in rows.values())
