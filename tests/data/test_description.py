"""What a transform does, as plain data."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.transforms import Compose, CropForegroundd, Orientationd

from mednextv2.data.description import describe
from mednextv2.transforms import NormalizeChannelsd, Resampled, is_content

PIPELINE = """
import json
from monai.transforms import Compose, CropForegroundd, Orientationd
from mednextv2.data.description import describe
from mednextv2.transforms import NormalizeChannelsd, Resampled, is_content
print(json.dumps(describe(Compose([
    Orientationd("image", axcodes="RAS"), CropForegroundd("image", source_key="image", select_fn=is_content),
    NormalizeChannelsd("image", [{"scheme": "zscore"}]), Resampled("image", pixdim=(1.0, 1.0, 2.0)),
])), sort_keys=True))
"""


def pipeline(axcodes="RAS", margin=0, scheme="zscore", pixdim=(1.0, 1.0, 2.0), order=(0, 1, 2, 3)):
    parts = [
        Orientationd("image", axcodes=axcodes),
        CropForegroundd("image", source_key="image", select_fn=is_content, margin=margin),
        NormalizeChannelsd("image", [{"scheme": scheme}]),
        Resampled("image", pixdim=pixdim),
    ]
    return json.dumps(describe(Compose([parts[i] for i in order])), sort_keys=True)


@pytest.mark.parametrize(
    "change",
    [{"axcodes": "LPS"}, {"margin": 2}, {"scheme": "rescale_to_0_1"}, {"pixdim": (2.0, 1.0, 2.0)}, {"order": (0, 1, 2)},
     {"order": (1, 0, 2, 3)}],
)  # fmt: skip
def test_every_argument_and_the_order_count(change):
    assert pipeline() == pipeline()
    assert pipeline(**change) != pipeline()


def test_another_process_says_the_same():
    done = subprocess.run([sys.executable, "-c", PIPELINE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == pipeline()


def test_values_of_every_kind_are_plain():
    value = {
        1: np.arange(3), "t": torch.ones(2, dtype=torch.float16), "d": torch.float32, "s": {2, 1}, "f": is_content,
        "p": functools.partial(is_content, x=np.float32(1)), "r": np.random.RandomState(1), "n": None,
        "c": np.dtype("u1"),
    }  # fmt: skip
    text = json.dumps(describe(value))
    assert "0x" not in text  # no place in memory
    assert describe(np.random.RandomState(1)) == describe(np.random.RandomState(2))
    assert describe(np.arange(3)) != describe(np.arange(4))


def test_parts_without_end_are_refused():
    part: list = []
    part.append(part)
    with pytest.raises(ValueError, match="without end"):
        describe(part)
