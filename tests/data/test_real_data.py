"""On the real task 4 of the Medical Segmentation Decathlon, where MEDNEXTV2_DATA names the folder that holds it."""

import os
from pathlib import Path

import pytest

from mednextv2.data import check_dataset, read_dataset

FOLDER = Path(os.environ.get("MEDNEXTV2_DATA", "")) / "Task04_Hippocampus"


@pytest.mark.skipif(not os.environ.get("MEDNEXTV2_DATA"), reason="MEDNEXTV2_DATA is not set")
def test_real_cases_are_without_defects():
    dataset = read_dataset(FOLDER)
    assert dataset.channels == ("MRI",)
    assert {name.lower(): value for name, value in dataset.labels.items()} == {
        "background": 0, "anterior": 1, "posterior": 2,
    }  # fmt: skip
    assert len(dataset.cases) >= 208
    check_dataset(dataset.cases, ["background", "anterior", "posterior"], dataset.channels)
