"""The command line: `mednextv2 VERB …` or `python -m mednextv2 VERB …`."""

import difflib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import fire

from mednextv2.errors import InputError, find_input_error
from mednextv2.wording import count


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


def predict(
    bundle: str,
    input: str,
    output: str,
    *extra: Any,
    series: str | int | None = None,
    dicom_seg: bool = False,
    report: bool = False,
    probabilities: bool = False,
    **settings: Any,
) -> None:
    """Segment an image, a folder of images, or a DICOM series.

    Args:
        bundle: The bundle's folder or name, such as mednextv2_hippocampus.
        input: An image (.nii.gz, .nii, .nrrd, .mha, .mhd), a folder of images, or a folder of DICOM files.
        output: A folder for masks, named case_seg.nii.gz; or, for one image, the file to write.
        extra: Nothing.
        series: Of a DICOM study: a series' number, UID or description; all: every series that is a volume.
        dicom_seg: Also write a DICOM SEG (needs highdicom).
        report: Also write report.html, with volumes and pictures.
        probabilities: Also write case_seg_probabilities.npy, (classes, X, Y, Z) as float16.
        settings: Of the bundle's inference, such as --device cpu, --weights FILE, --overlap 0.25.
    """
    from mednextv2.allocator import keep_freed_memory
    from mednextv2.prediction.command import predict_files

    if extra:
        raise InputError(f"{' '.join(map(str, extra))}: predict takes BUNDLE INPUT OUTPUT; give settings by name")
    for name, value in (("dicom-seg", dicom_seg), ("report", report), ("probabilities", probabilities)):
        if not isinstance(value, bool):
            raise InputError(f"--{name} {value}: is a switch and takes no value")
    keep_freed_memory()
    files = predict_files(str(bundle), str(input), str(output), series, dicom_seg, report, probabilities, **settings)
    for file in files:
        print(f"written: {file}")


def check(dataset_dir: str, labels_dir: str | None = None) -> None:
    """Read every file of a data set and report all defects.

    Args:
        dataset_dir: A folder in the layout of the Medical Segmentation Decathlon or of nnU-Net; or one with the folders
            images and labels; or, with labels_dir, a folder of images.
        labels_dir: The folder of label maps of the same names.
    """
    from mednextv2.data import check_dataset, read_dataset
    from mednextv2.data.findings import dataset_warnings, found_labels

    dataset = read_dataset(str(dataset_dir), labels_dir and str(labels_dir))
    scheme = dataset.scheme()
    reports = check_dataset(dataset.cases, scheme.declared if scheme else None, dataset.channels or ("image",))
    labels = scheme.declared if scheme else found_labels(dataset, reports)
    print(f"{count(len(dataset.cases), 'case')}, no defects")
    print(f"channels: {', '.join(dataset.channels) or 1}; labels: {', '.join(labels)}")
    if scheme:
        for region in scheme.regions:
            print(f"region {region.name}: {', '.join(scheme.labels[v] for v in region.values)}")
    for warning in dataset_warnings(dataset, reports, scheme.labels if scheme else labels):
        print(f"warning: {warning}")


def plan(
    dataset_dir: str,
    labels_dir: str | None = None,
    output: str | None = None,
    spacing: Any = None,
    patch_size: Any = None,
    batch_size: int | None = None,
    variant: str = "v2_base",
    memory: float = 24.0,
) -> None:
    """Decide how to train on a data set, after nnU-Net's rules, and write the task of a new bundle.

    Args:
        dataset_dir: As for check.
        labels_dir: As for check.
        output: The new bundle's folder; bundles/mednextv2_<name> by default.
        spacing: Of the voxels that images are resampled to in mm, such as "[1.0,1.0,1.0]"; isotropic: 1 mm, as MedNeXt.
        patch_size: Voxels of a patch, such as "[96,96,96]".
        batch_size: Patches a step.
        variant: Size of the network, such as v2_base, v2_small or v2_tiny.
        memory: That a training step may take, GiB.
    """
    from mednextv2.bundle.plan import plan_dataset
    from mednextv2.bundle.plan_files import check_folder, default_folder, write_task
    from mednextv2.data import read_dataset

    dataset_dir, labels_dir = str(dataset_dir), labels_dir and str(labels_dir)
    # before every file is read, which takes minutes
    folder = check_folder(str(output) if output else default_folder(read_dataset(dataset_dir, labels_dir)))
    if isinstance(spacing, str) and spacing == "isotropic":
        spacing = (1.0, 1.0, 1.0)
    elif isinstance(spacing, (int, float)) and not isinstance(spacing, bool):
        spacing = (float(spacing),) * 3
    result = plan_dataset(dataset_dir, labels_dir, spacing, patch_size, batch_size, variant, memory)
    print(result.table())
    task = write_task(result, folder)
    data = f"--dataset_dir {dataset_dir}" + (f" --labels_dir {labels_dir}" if labels_dir else "")
    print(
        f"\nwritten: {task}\nThen:\n  mednextv2 bundle {task}\n  mednextv2 run {folder} train {data} --fold 0\n"
        f"  mednextv2 run {folder} evaluate {data} --fold 0"
    )


def ensemble(bundle: str, dataset_dir: str, labels_dir: str | None = None) -> None:
    """Finish a cross-validation: one table of all folds, and the post-processing that inference applies from then on.

    Args:
        bundle: The bundle's folder or name; all five folds are trained and evaluated in it.
        dataset_dir: As for check.
        labels_dir: As for check.
    """
    from mednextv2.bundle import find_bundle
    from mednextv2.bundle.cross_validation import finish_cross_validation

    table, decision = finish_cross_validation(str(bundle), str(dataset_dir), labels_dir and str(labels_dir))
    print(table)
    for row in decision.table:
        before, after = (f"{v:.4f}" if v is not None else "none" for v in (row["dice_before"], row["dice_after"]))
        verdict = "kept" if row["accepted"] else "not kept"
        print(f"largest component of {row['name']}: Dice {before} before, {after} after: {verdict}")
    folder = find_bundle(str(bundle)) / "output" / "evaluation" / "cross_validation"
    print(f"written: {folder}\nThen, for one page about all folds:\n  mednextv2 report {folder}")


def bundle(task: str, check: bool = False) -> None:
    """Build a bundle's configurations, metadata and README from its task.yaml.

    Args:
        task: The task.yaml, in the bundle's folder.
        check: Write nothing; fail if a file is not up to date.
    """
    from mednextv2.bundle import write_bundle
    from mednextv2.bundle.task import read_task

    changed = write_bundle(str(task), check)
    if check and changed:
        raise InputError(f"{task}: not up to date: {', '.join(changed)}. Run: mednextv2 bundle {task}")
    print("\n".join(f"written: {name}" for name in changed) or "all files are up to date")
    for warning in read_task(str(task)).warnings():
        print(f"warning: {warning}")


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
    """Draw an image with the outlines of reference and prediction, on three planes.

    Args:
        image: The image file.
        output: The .png to write.
        truth: The reference, a label map in the same grid.
        prediction: Likewise.
    """
    from mednextv2.picture import save_picture

    print(save_picture(str(image), str(output), truth and str(truth), prediction and str(prediction)))


def report(folder: str, output: str | None = None, images: str | None = None, labels: str | None = None) -> None:
    """Write one HTML page about an evaluation or a prediction: tables, box plots, slices, training curves.

    Args:
        folder: The output_dir of an evaluation or a prediction; it has a results.json.
        output: The .html to write; report.html in the folder by default.
        images: Folder of the images, if they have moved.
        labels: Folder of the label maps, if they have moved.
    """
    from mednextv2.report import write_report

    print(write_report(str(folder), *(value and str(value) for value in (output, images, labels))))


def fetch(task: str, folder: str) -> None:
    """Download a task of the Medical Segmentation Decathlon, with its checksum.

    Args:
        task: Such as Task04_Hippocampus.
        folder: Where to put it.
    """
    from mednextv2.data import fetch_msd_task

    print(fetch_msd_task(str(task), str(folder)))


def doctor(
    *extra: Any, network: str = "v2_base", kernel_size: int = 3, dtype: str = "bfloat16", repeat: bool = False
) -> None:
    """Show what is found on this machine: versions, the CPU library, GPUs and whether their kernels are right.

    Kernels are tried where they were not yet, about a minute once. Ends with exit code 1 if something failed.

    Args:
        extra: Nothing; options have names.
        network: Whose kernels to try on GPUs: v2_base, v2_small, v2_tiny, v2_wide, v1_s, v1_b, v1_m or v1_l.
        kernel_size: Of the network's depthwise convolutions.
        dtype: That it computes in: bfloat16, float16 or float32.
        repeat: Try again what was tried before.
    """
    from mednextv2.doctor import examine

    if extra:
        raise InputError(f"{' '.join(map(str, extra))}: give options by name, such as --network v2_small")
    found = examine(network, kernel_size, dtype, repeat)
    print(found.text)
    if not found.well:
        sys.exit(1)


VERBS = {f.__name__: f for f in (run, predict, check, plan, bundle, ensemble, phantom, picture, report, fetch, doctor)}


def check_options(arguments: Sequence[str]) -> None:
    """Refuse options that a verb does not have; Fire would run the verb first.

    Args:
        arguments: Of the command line, the verb first.

    Raises:
        InputError: With the names that come near.
    """
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb in (None, run, predict):  # they take the settings of a bundle, and check them
        return
    names = [name for name in inspect.signature(verb).parameters if name != "extra"]
    problems = []
    for argument in arguments[1:]:
        if argument == "--":  # what follows is for Fire
            break
        if argument[:1] == "-" and argument[1:2].isalpha() and argument not in ("-h", *(f"-{n[0]}" for n in names)):
            problems.append(f"{argument}: {arguments[0]} has no such option; there are --{', --'.join(names)}")
            continue
        name = argument[2:].split("=")[0].replace("-", "_")
        if not argument.startswith("--") or name in ("help", *names, *(f"no{n}" for n in names)):
            continue
        near = difflib.get_close_matches(name, names, n=2)
        hint = f"did you mean {' or '.join('--' + n for n in near)}?" if near else f"there are --{', --'.join(names)}"
        problems.append(f"--{name}: {arguments[0]} has no such option; {hint}")
    if problems:
        raise InputError("\n".join(problems))


def main() -> None:
    """Run a verb; a user's mistake ends with its message and exit code 1, anything else with a traceback."""
    try:
        check_options(sys.argv[1:])
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
