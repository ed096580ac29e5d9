"""The verb `ensemble`: finish a cross-validation."""


def ensemble(bundle: str, dataset_dir: str, labels_dir: str | None = None, experiment: str = "") -> None:
    """Finish a cross-validation: write one table of all folds, and choose the post-processing for inference.

    Args:
        bundle: The folder or the name of the bundle. All folds must have been trained and evaluated in it.
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir, a folder of images is enough.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.
        experiment: The experiment whose folds are combined, such as resenc_l or finetune. It is the name of a folder in
            models. By default, the folds are directly in models.

    Examples:
        mednextv2 ensemble bundles/mednextv2_liver Dataset042_Liver
    """
    from mednextv2.bundle import find_bundle
    from mednextv2.bundle.cross_validation import finish_cross_validation

    table, decision = finish_cross_validation(bundle, dataset_dir, labels_dir, experiment=experiment)
    print(table)
    for row in decision.table:
        before, after = (f"{v:.4f}" if v is not None else "none" for v in (row["dice_before"], row["dice_after"]))
        verdict = "kept" if row["accepted"] else "not kept"
        print(f"largest component of {row['name']}: Dice {before} before, {after} after: {verdict}")
    folder = find_bundle(bundle) / "output" / "evaluation" / experiment / "cross_validation"
    print(f"written: {folder}\nThen, for one page about all folds:\n  mednextv2 report {folder}")
