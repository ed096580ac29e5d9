"""From images to masks and scores."""

from mednextv2.images.writer import MaskWriter, SaveMaskd
from mednextv2.inference.air_skipping import air_level
from mednextv2.inference.fold_ensemble import FoldEnsemble
from mednextv2.inference.inputs import CheckImaged, find_images
from mednextv2.inference.label_transforms import DecideLabelsd, StructureMasksd
from mednextv2.inference.mirroring import MirroringInferer
from mednextv2.inference.postprocessing import ApplyPostprocessingd
from mednextv2.inference.preflight import prepare_evaluation, prepare_inference
from mednextv2.inference.sliding_window import StreamingInferer
from mednextv2.inference.weights_choice import find_postprocessing, find_weights
from mednextv2.scores.evaluation import EvaluationTable

__all__ = [
    "ApplyPostprocessingd",
    "CheckImaged",
    "DecideLabelsd",
    "EvaluationTable",
    "FoldEnsemble",
    "MaskWriter",
    "MirroringInferer",
    "SaveMaskd",
    "StreamingInferer",
    "StructureMasksd",
    "air_level",
    "find_images",
    "find_postprocessing",
    "find_weights",
    "prepare_evaluation",
    "prepare_inference",
]
