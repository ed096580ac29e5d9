"""The verb `curves`: draw the learning curves of several trainings in one figure."""


def curves(trainings: list[str], output: str = "curves.svg", over: str = "steps", names: str | None = None) -> None:
    """Draw the learning curves of one or several trainings in one figure.

    The figure has the Dice of the validations and the training loss. For a training of the workflow upkern, the curve
    begins with the training with small kernels, whose steps and time count, too.

    Args:
        trainings: The folders of the trainings, which contain a training_log.csv, such as models/fold_0 in a bundle.
        output: The .svg file to write.
        over: What the curves are drawn over: steps or hours.
        names: The names of the trainings in the figure, separated by commas. By default, they are the names of their
            folders.

    Examples:
        mednextv2 curves bundles/mednextv2_liver/models/fold_0 bundles/mednextv2_liver/models/upkern/fold_0
        mednextv2 curves models/fold_0 models/finetune/fold_0 --over hours --names "scratch,fine-tuned"
    """
    from mednextv2.report.learning_curves import write_learning_curves

    shown = None if names is None else [name.strip() for name in names.split(",")]
    print(f"written: {write_learning_curves(trainings, output, over, shown)}")
