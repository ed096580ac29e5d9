"""Short trainings and evaluations for tests of their handlers."""

import torch
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn


class Scripted(Metric):
    """A metric whose values were written before."""

    def __init__(self, *values):
        self.values = iter(values)
        super().__init__()

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return next(self.values)


def batches(count, scale=1.0):
    return [{"image": scale * torch.randn(2, 3), "label": scale * torch.randn(2, 1)} for _ in range(count)]


def make_trainer(network, optimizer, handlers, epochs=1, data=None, **settings):
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=batches(2) if data is None else data,
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=handlers,
        **settings,
    )


def make_evaluator(**metrics):
    first, *rest = metrics
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches(1),
        network=nn.Linear(3, 1),
        key_val_metric={first: metrics[first]},
        additional_metrics={name: metrics[name] for name in rest},
    )
