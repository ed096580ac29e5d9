"""The verb `report`: write a page about results."""


def report(
    folder: str,
    output: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    trainings: str | None = None,
) -> None:
    """Write one HTML page about an evaluation or a prediction, with tables, box plots, slices and training curves.

    About masked autoencoding, the page has training curves and pictures of reconstructions.

    Args:
        folder: The output folder of an evaluation or a prediction, which contains a results.json, or of a training or
            an evaluation of masked autoencoding, which contains pictures. A folder of label maps without a results.json
            is scored first, as by mednextv2 score, if --labels and --images are given.
        output: The .html file to write. By default it is report.html in FOLDER.
        images: The folder that contains the images, if they have been moved or FOLDER has no results.json.
        labels: The folder that contains the label maps, if they have been moved or FOLDER has no results.json.
        trainings: Folders of further trainings, separated by commas, whose learning curves are shown beside that of the
            evaluated weights, as by mednextv2 curves.

    Examples:
        mednextv2 report bundles/mednextv2_liver/output/evaluation/fold_0
        mednextv2 report masks --images scans --output masks.html
        mednextv2 report bundles/mednextv2_pretrain_mae/models
    """
    from mednextv2.paths import absolute, expand
    from mednextv2.report import write_report
    from mednextv2.scores.folders import score_folders
    from mednextv2.scores.results_json import RESULTS_NAME

    if labels is not None and images is not None and not (expand(folder) / RESULTS_NAME).exists():
        scores = absolute(folder) / "scores"
        score_folders(folder, labels, scores, images=images)
        folder, images, labels = str(scores), None, None
    others = [place.strip() for place in trainings.split(",")] if trainings else []
    print(write_report(folder, output, images, labels, trainings=others))
