"""Data sets of files that need not be images, for tests of how they are read."""

import json

import pytest

from mednextv2.data import read_dataset
from mednextv2.errors import InputError


def write_json(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return folder


def msd(names=("a", "b"), **changes):
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    return {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver"}, "training": training} | changes


def nnunet(**changes):
    return {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"} | changes


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def refused(folder):
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    return str(caught.value)
