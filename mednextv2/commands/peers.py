"""Words that users of nnU-Net, TotalSegmentator and other trainers type out of habit, and what to use here instead."""

#: Verbs of other programs.
VERBS = {
    "train": "train is a workflow of a bundle: mednextv2 run BUNDLE train --dataset_dir DIR --fold 0",
    "evaluate": "evaluate is a workflow of a bundle: mednextv2 run BUNDLE evaluate --dataset_dir DIR --fold 0",
    "inference": "use mednextv2 predict BUNDLE INPUT OUTPUT",
    "segment": "use mednextv2 predict BUNDLE INPUT OUTPUT",
    "finetune": "finetune is a workflow of a bundle: mednextv2 run BUNDLE finetune --pretrained FILE",
    "download": "bundles and data sets are downloaded with mednextv2 fetch",
    "plan_and_preprocess": "use mednextv2 plan DATASET_DIR; preprocessing is a part of training",
    "preprocess": "preprocessing is a part of training: mednextv2 run BUNDLE train --dataset_dir DIR",
    "find_best_configuration": "use mednextv2 ensemble BUNDLE DATASET_DIR",
    "test": "use mednextv2 run BUNDLE evaluate --dataset_dir DIR --fold 0",
    "totalsegmentator": "use mednextv2 predict BUNDLE INPUT OUTPUT",
    "version": "use mednextv2 --version",
}
#: Options of other programs, for the verbs that take settings.
SETTINGS = {
    "lr": "use --learning_rate",
    "max_epochs": "use --epochs",
    "num_epochs": "use --epochs",
    "workers": "use --num_workers",
    "npp": "use --num_workers",
    "nps": "use --num_workers",
    "disable_tta": 'use --test_mirror_axes "[]"',
    "fast": 'use --test_mirror_axes "[]" --overlap 0.25, which takes a fraction of the time',
    "step_size": "use --overlap, which is 1 minus the step size",
    "save_probabilities": "use --probabilities",
    "gpu": "use --device cuda:0",
    "gpus": "use the workflow multi_gpu_train",
    "cpu": "use --device cpu",
    "num_gpus": "use the workflow multi_gpu_train",
    "c": "training continues from its last checkpoint by default; --resume false starts anew",
    "d": "use --dataset_dir",
    "f": "use --fold",
    "chk": "use --weights FILE",
    "pretrained_weights": "use --pretrained FILE",
    "npz": "use mednextv2 predict --probabilities",
    "val": "use mednextv2 run BUNDLE evaluate",
    "task": "a bundle is trained for one task; give the bundle, mednextv2 predict BUNDLE INPUT OUTPUT",
    "ml": "a mask holds all structures, each with its own value, in any case",
    "roi_subset": "all structures of the bundle are segmented; leave those out of the mask that are not needed",
    "statistics": "use mednextv2 predict --report, which also writes the volumes as volumes.csv",
    "output_type": "use mednextv2 predict --dicom_seg or --rtstruct",
}
#: Those that mean something else in a verb.
IN_VERB = {("predict", "f"): "use --folds", ("predict", "fold"): "use --folds"}


def hint_for(verb: str, word: str) -> str:
    """Return what to use instead of a word that other programs have.

    Args:
        verb: The verb whose option the word is, or "" for a word in the place of a verb.
        word: The word, without leading dashes.

    Returns:
        The advice, or "" for an unknown word.
    """
    if not verb:
        return VERBS.get(word.lower().replace("-", "_"), "")
    return IN_VERB.get((verb, word)) or (SETTINGS.get(word, "") if verb in ("run", "predict") else "")
