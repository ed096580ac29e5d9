"""The verb `plan`: choose the settings for a data set."""

from typing import Any


def plan(
    dataset_dir: str,
    labels_dir: str | None = None,
    output: str | None = None,
    spacing: Any = None,
    patch_size: Any = None,
    batch_size: Any = None,
    variant: str = "v2_base",
    memory: float = 24.0,
) -> None:
    """Choose the training settings for a data set by nnU-Net's rules, and write the task.yaml of a new bundle.

    Args:
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir, a folder of images is enough. A
            collection file (.yaml) lists several data sets: see docs/collections.md.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.
        output: The folder of the new bundle. By default it is bundles/mednextv2_NAME, after the name of the data set.
        spacing: The voxel spacing in mm to which images are resampled, such as "[1.0,1.0,2.0]", or "[0.5,0.5]" for 2D
            images; the word isotropic means 1 mm along each axis. By default it is chosen by nnU-Net's rule.
        patch_size: The size of a training patch in voxels, such as "[96,96,96]"; each side is a multiple of 16. By
            default it is chosen from the images and from --memory.
        batch_size: The number of patches in a training step. By default it is chosen by nnU-Net's rules to fit into
            --memory.
        variant: The size of the network, such as v2_base, v2_small or v2_tiny.
        memory: The memory in GiB that a training step may use.

    Examples:
        mednextv2 plan Dataset042_Liver --output bundles/mednextv2_liver
        mednextv2 plan ct_images --labels_dir ct_labels --memory 12 --variant v2_small
    """
    from mednextv2.bundle.plan import plan_dataset
    from mednextv2.bundle.plan_to_task import check_folder, default_folder, write_task
    from mednextv2.data import read_dataset

    dataset_dir, labels_dir = dataset_dir, labels_dir
    # before every file is read, which takes minutes
    folder = check_folder(output if output else default_folder(read_dataset(dataset_dir, labels_dir)))
    if isinstance(spacing, str) and spacing == "isotropic":
        spacing = 1.0
    result = plan_dataset(dataset_dir, labels_dir, spacing, patch_size, batch_size, variant, memory)
    print(result.table())
    task = write_task(result, folder)
    data = f"--dataset_dir {dataset_dir}" + (f" --labels_dir {labels_dir}" if labels_dir else "")
    print(
        f"\nwritten: {task}\nThen:\n  mednextv2 bundle {task}\n  mednextv2 run {folder} train {data} --fold 0\n"
        f"  mednextv2 run {folder} evaluate {data} --fold 0"
    )
