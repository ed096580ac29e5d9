"""Learning-rate schedule: linear warm-up, then polynomial decay."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_poly(optimizer: Optimizer, epochs: int, warmup_epochs: int = 0, power: float = 0.9) -> LambdaLR:
    """Schedule `lr * (1 - t) ** power`, with `t` from 0 to 1 over the epochs after the warm-up.

    In warm-up epoch `i` of `w` the factor is `(i + 1) / (w + 1)`. Step it once an epoch.

    Args:
        optimizer: Its learning rate is the peak.
        epochs: Of the whole training.
        warmup_epochs: Of linear growth at the start.
        power: Of the decay.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): power 0.9, once an epoch.
    """
    return LambdaLR(optimizer, partial(_factor, epochs=epochs, warmup=min(warmup_epochs, epochs - 1), power=power))


def _factor(epoch: int, epochs: int, warmup: int, power: float) -> float:
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return max(0.0, 1 - (epoch - warmup) / (epochs - warmup)) ** power
