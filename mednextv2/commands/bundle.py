"""The verb `bundle`: build the files of a bundle."""

import os
from pathlib import Path

from mednextv2.errors import InputError


def bundle(task: str, check: bool = False) -> None:
    """Build the configuration files, the metadata and the README of a bundle from its task.yaml.

    Args:
        task: The task.yaml in the folder of the bundle, or that folder.
        check: Write nothing, and end with an error if a file is not up to date.

    Examples:
        mednextv2 bundle bundles/mednextv2_liver/task.yaml
        mednextv2 bundle bundles/mednextv2_liver/task.yaml --check
    """
    from mednextv2.bundle import write_bundle
    from mednextv2.bundle.task import read_task

    if Path(task).expanduser().is_dir():
        task = os.path.join(task, "task.yaml")
    changed = write_bundle(task, check)
    if check and changed:
        raise InputError(f"{task}: not up to date: {', '.join(changed)}. Run: mednextv2 bundle {task}")
    print("\n".join(f"written: {name}" for name in changed) or "all files are up to date")
    for warning in read_task(task).warnings():
        print(f"warning: {warning}")
