"""From images to masks and scores."""

from mednextv2.inference.evaluation import EvaluationTable
from mednextv2.inference.inputs import CheckImaged, find_images
from mednextv2.inference.preparation import prepare_evaluation, prepare_inference
from mednextv2.inference.writer import MaskWriter, SaveMaskd

__all__ = [
    "CheckImaged",
    "EvaluationTable",
    "MaskWriter",
    "SaveMaskd",
    "find_images",
    "prepare_evaluation",
    "prepare_inference",
]
