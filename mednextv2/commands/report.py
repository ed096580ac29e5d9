"""The verb `report`: write a page about results."""


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

    print(write_report(folder, *(value and str(value) for value in (output, images, labels))))
