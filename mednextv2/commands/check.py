"""The verb `check`: read a data set and report its defects."""

from mednextv2.wording import count


def check(dataset_dir: str, labels_dir: str | None = None) -> None:
    """Read every file of a data set and report all defects.

    Args:
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir, a folder of images is enough. A
            collection file (.yaml) lists several data sets: see docs/collections.md.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.

    Examples:
        mednextv2 check Dataset042_Liver
        mednextv2 check ct_images --labels_dir ct_labels
    """
    from mednextv2.data import check_dataset, read_dataset, split_dataset
    from mednextv2.data.check import find_dimensions
    from mednextv2.data.check_warnings import dataset_warnings, found_labels

    dataset = read_dataset(dataset_dir, labels_dir)
    scheme = dataset.scheme()
    declared, channels = scheme.declared if scheme else None, dataset.channels or ("image",)
    spatial_dims = find_dimensions(dataset)
    reports = check_dataset(dataset.cases, declared, channels, spatial_dims)
    labels = scheme.declared if scheme else found_labels(dataset, reports)
    print(f"{count(len(dataset.cases), 'case')}{' of 2D images' if spatial_dims == 2 else ''}, no defects")
    print(f"channels: {', '.join(dataset.channels) or 1}; labels: {', '.join(labels)}")
    if scheme:
        for region in scheme.regions:
            print(f"region {region.name}: {', '.join(scheme.labels[v] for v in region.values)}")
    if len(dataset.cases) > 1:
        print(f"split: {split_dataset(dataset).source}")
    for warning in dataset_warnings(dataset, reports, scheme.labels if scheme else labels):
        print(f"warning: {warning}")
