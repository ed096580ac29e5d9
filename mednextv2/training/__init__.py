"""What a training run needs beyond MONAI: loss, schedule, checkpoints that resume, progress, per-class scores."""

from mednextv2.training.activation_checkpointing import set_checkpointing
from mednextv2.training.autoencoding import (
    AutoencodingLoss,
    MaskSteps,
    PackedAutoencoder,
    ReconstructedChannels,
    ReconstructionError,
    TrainingMasks,
    ValidationMasks,
)
from mednextv2.training.checkpoint import TrainingCheckpoint
from mednextv2.training.curves import CurveWriter
from mednextv2.training.engine import RecordingInferer, Trainer
from mednextv2.training.finetuning import NewLayersFirst, freeze_part, parameter_groups
from mednextv2.training.handlers import EarlyStopping, GradientClipping, Progress, TrainingLog, step_loss
from mednextv2.training.loss import SegmentationLoss
from mednextv2.training.masking import BlockMasks
from mednextv2.training.preflight import prepare_output, prepare_training, tensorboard_available
from mednextv2.training.pseudo_dice import PseudoDice
from mednextv2.training.reconstruction_loss import ReconstructionLoss
from mednextv2.training.reconstruction_pictures import ReconstructionPictures
from mednextv2.training.reconstruction_table import ReconstructionTable, find_autoencoder, load_autoencoder
from mednextv2.training.replacement import Replacement, check_served
from mednextv2.training.schedule import OPTIMIZERS, create_optimizer, warmup_poly
from mednextv2.training.start_check import check_start

__all__ = [
    "OPTIMIZERS",
    "AutoencodingLoss",
    "BlockMasks",
    "CurveWriter",
    "EarlyStopping",
    "GradientClipping",
    "MaskSteps",
    "NewLayersFirst",
    "PackedAutoencoder",
    "Progress",
    "PseudoDice",
    "ReconstructedChannels",
    "ReconstructionError",
    "ReconstructionLoss",
    "ReconstructionPictures",
    "ReconstructionTable",
    "RecordingInferer",
    "Replacement",
    "SegmentationLoss",
    "Trainer",
    "TrainingCheckpoint",
    "TrainingLog",
    "TrainingMasks",
    "ValidationMasks",
    "check_served",
    "check_start",
    "create_optimizer",
    "find_autoencoder",
    "freeze_part",
    "load_autoencoder",
    "parameter_groups",
    "prepare_output",
    "prepare_training",
    "set_checkpointing",
    "step_loss",
    "tensorboard_available",
    "warmup_poly",
]
