"""What the tests of the check of a GPU share."""

import json
from pathlib import Path

import gpu_check
from gpu_check_stages import Settings

SCRIPTS = Path(gpu_check.__file__).parent


def as_dicts(found):
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def settings(seconds):
    return Settings("v2_tiny", 32, None, None, True, seconds)


def read_stages(folder, name="gpu_check"):
    return {s["stage"]: s for s in json.loads((folder / f"{name}.json").read_text("utf-8"))["stages"]}
