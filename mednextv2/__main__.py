"""The command line: `mednextv2 VERB …` or `python -m mednextv2 VERB …`."""

import sys
from typing import Any

import fire

from mednextv2.errors import InputError, find_input_error
from mednextv2.usage import check_options, find_help
from mednextv2.wording import count


def run(bundle: str, workflow: str, *extra: Any, **settings: Any) -> None:
    """Train, evaluate or segment with a bundle: run one of its workflows, from any folder.

    Args:
        bundle: The folder or the name of the bundle, such as mednextv2_hippocampus.
        workflow: The workflow to run: train, evaluate, inference or multi_gpu_train.
        extra: Words without a name, which are refused.
        settings: Any setting at the top of the workflow's file, such as configs/train.yaml in the bundle's folder. A
            setting that does not exist is an error.

    Examples:
        mednextv2 run mednextv2_hippocampus train --dataset_dir Task04_Hippocampus --fold 0 --epochs 100
        mednextv2 run mednextv2_hippocampus evaluate --dataset_dir Task04_Hippocampus --fold 0
        mednextv2 run mednextv2_hippocampus inference --input images --output_dir masks
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
        bundle: The folder or the name of the bundle, such as mednextv2_hippocampus.
        input: An image (.nii.gz, .nii, .nrrd, .mha, .mhd), a folder of images, or a folder of DICOM files.
        output: The folder for the masks, which are named CASE_seg.nii.gz. For a single image it may also be the name of
            the file to write.
        extra: Words without a name, which are refused.
        series: The series to segment, if the DICOM folder holds several: its number in the list that is printed, its
            UID, or a part of its description. With the value all, every series that is a volume is segmented.
        dicom_seg: Also write each mask as a DICOM SEG file. This needs the package highdicom.
        report: Also write report.html, a page with the volume of each class and pictures of the cases.
        probabilities: Also write CASE_seg_probabilities.npy, an array of the shape (classes, X, Y, Z) in float16.
        settings: Any setting at the top of the bundle's configs/inference.yaml, such as --device cpu, --weights FILE or
            --overlap 0.25.

    Examples:
        mednextv2 predict mednextv2_hippocampus head.nii.gz masks --report
        mednextv2 predict mednextv2_hippocampus images masks --device cpu
        mednextv2 predict mednextv2_hippocampus dicom_study masks --series 4 --dicom-seg
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
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir it may hold images alone.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.

    Examples:
        mednextv2 check Dataset042_Liver
        mednextv2 check ct_images --labels_dir ct_labels
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
    """Choose the training settings for a data set by nnU-Net's rules, and write the task.yaml of a new bundle.

    Args:
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir it may hold images alone.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.
        output: The folder of the new bundle. By default it is bundles/mednextv2_NAME, after the name of the data set.
        spacing: The voxel spacing in mm that images are resampled to, such as "[1.0,1.0,2.0]"; the word isotropic means
            1 mm along each axis. By default it is chosen by nnU-Net's rule.
        patch_size: The size of a training patch in voxels, such as "[96,96,96]"; each side is a multiple of 16. By
            default it is chosen from the images and from --memory.
        batch_size: The number of patches in a training step. By default it is chosen by nnU-Net's rules to fit into
            --memory.
        variant: The size of the network, such as v2_base, v2_small or v2_tiny.
        memory: The memory in GiB that a training step may take.

    Examples:
        mednextv2 plan Dataset042_Liver --output bundles/mednextv2_liver
        mednextv2 plan ct_images --labels_dir ct_labels --memory 12 --variant v2_small
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
    """Finish a cross-validation: write one table of all folds, and choose the post-processing for inference.

    Args:
        bundle: The folder or the name of the bundle. All five folds must have been trained and evaluated in it.
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir it may hold images alone.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.

    Examples:
        mednextv2 ensemble bundles/mednextv2_liver Dataset042_Liver
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
    """Build the configuration files, the metadata and the README of a bundle from its task.yaml.

    Args:
        task: The task.yaml in the folder of the bundle.
        check: Write nothing, and end with an error if a file is not up to date.

    Examples:
        mednextv2 bundle bundles/mednextv2_liver/task.yaml
        mednextv2 bundle bundles/mednextv2_liver/task.yaml --check
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
    """Generate a small synthetic data set for trying things out: images of two touching ellipsoids, with labels.

    Args:
        folder: The folder to write the data set to, in the layout of the Medical Segmentation Decathlon.
        cases: The number of cases.
        seed: The seed of the random numbers.

    Examples:
        mednextv2 phantom phantom_data --cases 20
    """
    from mednextv2.data import make_phantom_dataset

    print(make_phantom_dataset(str(folder), cases, seed))


def picture(image: str, output: str, truth: str | None = None, prediction: str | None = None) -> None:
    """Draw an image on three planes, with the outlines of a reference and of a prediction.

    Args:
        image: The image file.
        output: The .png file to write.
        truth: The reference label map, on the same voxel grid as the image.
        prediction: The predicted label map, on the same voxel grid as the image.

    Examples:
        mednextv2 picture case.nii.gz case.png --prediction masks/case_seg.nii.gz
        mednextv2 picture case.nii.gz case.png --truth labels/case.nii.gz --prediction masks/case_seg.nii.gz
    """
    from mednextv2.picture import save_picture

    print(save_picture(str(image), str(output), truth and str(truth), prediction and str(prediction)))


def report(folder: str, output: str | None = None, images: str | None = None, labels: str | None = None) -> None:
    """Write one HTML page about an evaluation or a prediction, with tables, box plots, slices and training curves.

    Args:
        folder: The output folder of an evaluation or a prediction, which contains a results.json.
        output: The .html file to write. By default it is report.html in FOLDER.
        images: The folder that the images are in now, if they have been moved.
        labels: The folder that the label maps are in now, if they have been moved.

    Examples:
        mednextv2 report bundles/mednextv2_liver/output/evaluation/fold_0
        mednextv2 report masks --output masks.html
    """
    from mednextv2.report import write_report

    print(write_report(str(folder), *(value and str(value) for value in (output, images, labels))))


def fetch(task: str, folder: str) -> None:
    """Download a task of the Medical Segmentation Decathlon and verify its checksum.

    Args:
        task: The name of the task, such as Task04_Hippocampus.
        folder: The folder to put the task's folder into.

    Examples:
        mednextv2 fetch Task04_Hippocampus data
    """
    from mednextv2.data import fetch_msd_task

    print(fetch_msd_task(str(task), str(folder)))


def doctor(
    *extra: Any, network: str = "v2_base", kernel_size: int = 3, dtype: str = "bfloat16", repeat: bool = False
) -> None:
    """Show the versions, the CPU library and the GPUs of this machine, and whether the GPU kernels are correct.

    GPU kernels that have not been tested on this machine yet are tested now, which takes about a minute. The exit code
    is 1 if something failed.

    Args:
        extra: Words without a name, which are refused.
        network: The size of network whose GPU kernels are tested: v2_base, v2_small, v2_tiny, v2_wide, v1_s, v1_b, v1_m
            or v1_l.
        kernel_size: The kernel size of the network's depthwise convolutions.
        dtype: The data type that the network computes in: bfloat16, float16 or float32.
        repeat: Test the kernels again, even if there are results of an earlier test.

    Examples:
        mednextv2 doctor
        mednextv2 doctor --network v2_small --kernel_size 5 --repeat
    """
    from mednextv2.doctor import examine

    if extra:
        raise InputError(f"{' '.join(map(str, extra))}: give options by name, such as --network v2_small")
    found = examine(network, kernel_size, dtype, repeat)
    print(found.text)
    if not found.well:
        sys.exit(1)


VERBS = {f.__name__: f for f in (run, predict, check, plan, bundle, ensemble, phantom, picture, report, fetch, doctor)}


def main() -> None:
    """Run a verb; a user's mistake ends with its message and exit code 1, anything else with a traceback."""
    try:
        text = find_help(VERBS, sys.argv[1:])
        if text is not None:
            print(text)
            return
        if sys.argv[1] in VERBS:
            check_options(VERBS[sys.argv[1]], sys.argv[2:])
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
