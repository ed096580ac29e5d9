"""The command line: `mednextv2 VERB …` or `python -m mednextv2 VERB …`."""

import sys
from typing import Any

import fire

from mednextv2.errors import InputError, find_input_error


def run(bundle: str, workflow: str, *extra: Any, **settings: Any) -> None:
    """Run a workflow of a bundle, from any directory.

    Args:
        bundle: The bundle's folder or name, such as mednextv2_hippocampus.
        workflow: train, evaluate, inference or multi_gpu_train.
        extra: Nothing; settings have names.
        settings: Settings of the configuration, such as --dataset_dir DIR --epochs 100.
    """
    from mednextv2.bundle import run_bundle

    if extra:
        raise InputError(f"{' '.join(map(str, extra))}: give settings by name, such as --dataset_dir DIR")

    run_bundle(str(bundle), str(workflow), **settings)


def check(dataset_dir: str) -> None:
    """Read every file of a data set and report all defects.

    Args:
        dataset_dir: A folder in the layout of the Medical Segmentation Decathlon or of nnU-Net.
    """
    from mednextv2.data import check_dataset, read_dataset

    dataset = read_dataset(str(dataset_dir))
    values = dataset.label_values
    if not values:
        raise InputError(f'{dataset.path / "dataset.json"}: declares no "labels"')
    labels = [values.get(i, f"undeclared {i}") for i in range(max(values) + 1)]
    check_dataset(dataset.cases, labels, dataset.channels or ("image",))
    print(f"{len(dataset.cases)} cases, no defects")
    print(f"channels: {', '.join(dataset.channels)}; labels: {', '.join(labels)}")


def bundle(task: str, check: bool = False) -> None:
    """Build a bundle's configurations, metadata and README from its task.yaml.

    Args:
        task: The task.yaml, in the bundle's folder.
        check: Write nothing; fail if a file is not up to date.
    """
    from mednextv2.bundle import write_bundle

    changed = write_bundle(str(task), check)
    if check and changed:
        raise InputError(f"{task}: not up to date: {', '.join(changed)}. Run: mednextv2 bundle {task}")
    print("\n".join(f"written: {name}" for name in changed) or "all files are up to date")


def phantom(folder: str, cases: int = 60, seed: int = 0) -> None:
    """Make a phantom data set to try things on: two touching ellipsoids, in MSD layout.

    Args:
        folder: Where to write it.
        cases: Number of cases.
        seed: Of the random numbers.
    """
    from mednextv2.data import make_phantom_dataset

    print(make_phantom_dataset(str(folder), cases, seed))


def picture(image: str, output: str, truth: str | None = None, prediction: str | None = None) -> None:
    """Draw an image with the outlines of truth and prediction, on three planes.

    Args:
        image: The image file.
        output: The .png to write.
        truth: A label map in the same grid.
        prediction: Another one.
    """
    from mednextv2.picture import save_picture

    print(save_picture(str(image), str(output), truth and str(truth), prediction and str(prediction)))


def fetch(task: str, folder: str) -> None:
    """Download a task of the Medical Segmentation Decathlon, with its checksum.

    Args:
        task: Such as Task04_Hippocampus.
        folder: Where to put it.
    """
    from mednextv2.data import fetch_msd_task

    print(fetch_msd_task(str(task), str(folder)))


VERBS = {f.__name__: f for f in (run, check, bundle, phantom, picture, fetch)}


def main() -> None:
    """Run a verb; a user's mistake ends with its message and exit code 1, anything else with a traceback."""
    try:
        fire.Fire(VERBS, name="mednextv2")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as e:
        error = find_input_error(e)
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
