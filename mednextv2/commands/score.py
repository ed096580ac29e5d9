"""The verb `score`: compare label maps with references."""


def score(
    masks: str,
    labels: str,
    output: str | None = None,
    names: str | None = None,
    images: str | None = None,
    skip_missing: bool = False,
) -> None:
    """Score label maps of any program against references: Dice, surface Dice and Hausdorff distance in tables.

    Args:
        masks: The folder of the predicted label maps.
        labels: The folder of the reference label maps. A mask has the file name of its reference, with or without an
            ending such as _seg.
        output: The folder for cases.csv, summary.csv and results.json. By default it is MASKS/scores.
        names: A bundle, or a folder with a dataset.json, that names the label values. By default, the names are read
            from a dataset.json in or beside LABELS or MASKS; without one, classes are named after their values.
        images: The folder of the images. With it, mednextv2 report can draw cases.
        skip_missing: Leave out references that have no mask, instead of ending with an error.

    Examples:
        mednextv2 score masks Dataset042_Liver/labelsTs
        mednextv2 score nnunet_predictions labelsTs --names mednextv2_liver --output scores --images imagesTs
    """
    from pathlib import Path

    from mednextv2.bundle.cross_validation import bundle_scheme
    from mednextv2.bundle.run import find_bundle
    from mednextv2.data.dataset import read_scheme
    from mednextv2.paths import absolute, expand
    from mednextv2.scores.evaluation import format_table
    from mednextv2.scores.folders import score_folders

    scheme = None
    if names is not None:
        folder = expand(names)
        folder = folder.parent if folder.name == "dataset.json" else folder
        described = (folder / "dataset.json").is_file()
        scheme = read_scheme(folder) if described else bundle_scheme(find_bundle(names))
    where = absolute(output if output is not None else Path(masks) / "scores")
    print(format_table(score_folders(masks, labels, where, scheme, images, skip_missing)))
    print(f"written: {where}")
    if images is not None:
        print(f"Then, for a page with pictures:\n  mednextv2 report {where}")
