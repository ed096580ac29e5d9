"""Supervised pretraining with two processes, and on collections of many cases."""

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from benchmark_helpers import task_of
from collection_runs import NAME, configured
from forked_processes import in_two_processes, joined

from mednextv2.data import read_dataset
from mednextv2.images import volume


def gradients_of(parts, folder, ranks, rank=0):
    """The gradients of a step on a fixed batch of four patches, of which this process has its part."""
    batch = 4 // ranks
    made = configured(
        "pretrain+multi_gpu_train" if ranks > 1 else "pretrain", dataset_dir=parts, output_dir=folder / "out",
        prepared_dir=folder / "prepared", batch_size=batch, batch_dice=True, amp=False,
    )  # fmt: skip
    parser = made.parser
    take = parser.get_parsed_content
    keys = [(0, True, 1), (5, True, 2), (9, True, 3), (11, False, 4)]  # of all three data sets
    dataset, network = take("train::dataset"), take("network")
    getattr(network, "module", network).load_state_dict(torch.load(folder / "start.pt", weights_only=True))
    items = [dataset[key] for key in keys[rank * batch : (rank + 1) * batch]]
    image, labels = take("train::trainer").prepare_batch(torch.utils.data.default_collate(items), torch.device("cpu"))
    loss = take("loss")(network.train()(image), labels)
    loss.backward()
    return loss.item(), {name.removeprefix("module."): p.grad for name, p in network.named_parameters()}


def one_process_of_two(rank, folder, parts):
    torch.manual_seed(0)
    with joined(rank, folder):
        return gradients_of(parts, folder, 2, rank)


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one_with_the_doubled_batch(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    network = configured("pretrain", dataset_dir=parts, amp=False).parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "start.pt")
    loss, expected = gradients_of(parts, tmp_path, 1)
    losses = []
    for value, found in in_two_processes(one_process_of_two, tmp_path, parts):
        losses.append(value)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5)


def make_many(folder: Path, cases: int) -> Path:
    """Data sets of tiny cases; all files of a kind are copies of one."""
    image, label = folder / "image.nii.gz", folder / "label.nii.gz"
    affine = np.diag([1.5, 1.5, 1.5, 1])
    voxels = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), image)
    nib.save(nib.Nifti1Image((voxels > 1).astype(np.uint8), affine), label)
    names = ("a", "b", "c", "d")
    for name in names:
        for kind, source in (("images", image), ("labels", label)):
            (folder / name / kind).mkdir(parents=True)
            content = source.read_bytes()
            for number in range(cases // len(names)):
                (folder / name / kind / f"patient{number:05d}.nii.gz").write_bytes(content)
    entries = [
        {"root": name, "labels": {1: label}}
        for name, label in zip(names, ("spleen", "liver", "heart", "brain"), strict=True)
    ]
    (folder / "many.yaml").write_text(json.dumps({"datasets": entries}))
    return folder / "many.yaml"


def start(file, folder, monkeypatch, batches):
    """Do what a training does up to its first batches; return the seconds, and how often each file was read."""
    reads = {}
    load = volume._load_nifti

    def count(path):
        reads[str(path)] = reads.get(str(path), 0) + 1
        return load(path)

    monkeypatch.setattr(volume, "_load_nifti", count)
    began = time.perf_counter()
    made = configured("pretrain", dataset_dir=file, output_dir=folder / "out", prepared_dir=folder / "prepared")
    take = made.parser.get_parsed_content
    for name in ("settings", "network_def", "prepare", "start"):
        take(name)
    loader = iter(take("train::dataloader"))
    for _ in range(batches):
        next(loader)
    return time.perf_counter() - began, reads


def test_no_voxel_is_read_before_a_case_is_drawn_and_none_twice(tmp_path, monkeypatch):
    file = make_many(tmp_path, 80)
    seconds, reads = start(file, tmp_path, monkeypatch, batches=2)
    assert (
        len([name for name in reads if "/labels/" in name]) == len([*(tmp_path / "prepared").rglob("*case.json")]) <= 4
    )
    assert {*reads.values()} == {1}
    assert seconds < 60


@pytest.mark.slow
def test_ten_thousand_cases_start_in_a_minute(tmp_path, monkeypatch):
    file = make_many(tmp_path, 10_000)
    seconds, reads = start(file, tmp_path, monkeypatch, batches=1)
    print(f"{seconds:.1f} s")
    assert seconds < 60
    assert len(reads) <= 2
    assert len(read_dataset(file, scheme=task_of(NAME).scheme()).cases) == 10_000
