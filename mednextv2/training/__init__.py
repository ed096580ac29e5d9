"""What a training run needs beyond MONAI: schedule, checkpoints that resume, progress, per-class scores."""

from mednextv2.training.checkpoint import TrainingCheckpoint
from mednextv2.training.handlers import GradientClipping, Progress, TrainingLog
from mednextv2.training.metrics import class_dice, full_resolution
from mednextv2.training.preparation import prepare_training, tensorboard_available
from mednextv2.training.schedule import warmup_poly

__all__ = [
    "GradientClipping",
    "Progress",
    "TrainingCheckpoint",
    "TrainingLog",
    "class_dice",
    "full_resolution",
    "prepare_training",
    "tensorboard_available",
    "warmup_poly",
]
