"""The verb `bundle`: build the files of a bundle."""

import os
from pathlib import Path

from mednextv2.errors import InputError


def bundle(task: list[str], check: bool = False) -> None:
    """Build the configuration files, the metadata and the README of bundles from their task.yaml.

    Args:
        task: The task.yaml of a bundle, or the bundle's folder. Several can be given.
        check: Write nothing, and end with an error if a file is not up to date.

    Examples:
        mednextv2 bundle bundles/mednextv2_liver/task.yaml
        mednextv2 bundle bundles/mednextv2_liver/task.yaml --check
        mednextv2 bundle bundles/*/task.yaml
    """
    from mednextv2.bundle import write_bundle
    from mednextv2.bundle.task import read_task

    files = [os.path.join(name, "task.yaml") if Path(name).expanduser().is_dir() else name for name in task]
    tasks = [read_task(file) for file in files]  # all are read before the first is built
    outdated, written = [], []
    for file, facts in zip(files, tasks, strict=True):
        changed = write_bundle(file, check)
        if changed:
            outdated.append(f"{file}: not up to date: {', '.join(changed)}. Run: mednextv2 bundle {file}")
        written += [name if len(files) == 1 else f"{facts.name}/{name}" for name in changed]
    if check and outdated:
        raise InputError("\n".join(outdated))
    print("\n".join(f"written: {name}" for name in written) or "all files are up to date")
    for facts in tasks:
        for warning in facts.warnings():
            print(f"warning: {warning}" if len(files) == 1 else f"warning: {facts.name}: {warning}")
