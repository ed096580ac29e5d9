"""A training of a few weights that writes checkpoints, and can be killed."""

import copy

import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn

from mednextv2.training import (
    GradientClipping,
    Progress,
    TrainingCheckpoint,
    TrainingLog,
    warmup_poly,
)

EPOCHS, STEPS = 4, 3
GENERATOR = torch.Generator().manual_seed(7)
BATCHES = [
    {"image": torch.randn(4, 3, generator=GENERATOR), "label": torch.randn(4, 1, generator=GENERATOR)}
    for _ in range(EPOCHS * STEPS)
]


class Scripted(Metric):
    """A metric whose value of each epoch was written before."""

    def __init__(self, values):
        self.values = values
        super().__init__()

    def attach(self, engine, name):
        self.engine = engine
        super().attach(engine, name)

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return self.values[self.engine.state.epoch]


class KilledError(Exception):
    pass


class Run:
    """A training as the bundle configures it, of a network of a few weights, on batches that the step chooses."""

    def __init__(
        self, folder, scores=(0.1, 0.3, 0.2, 0.25), features=5, kill_at=None, epochs=EPOCHS, interval=1, **settings
    ):
        torch.manual_seed(3)
        hidden, norm = nn.Linear(3, features), nn.BatchNorm1d(features)
        self.network = nn.Sequential(hidden, norm, nn.ReLU(), nn.Linear(features, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.schedule = warmup_poly(self.optimizer, epochs, 1)
        self.evaluator = None
        if scores is not None:
            self.evaluator = SupervisedEvaluator(
                device=torch.device("cpu"),
                val_data_loader=BATCHES[:1],
                network=self.network,
                key_val_metric={"score": Scripted(dict(enumerate(scores, 1)))},
            )
        self.steps, self.best = [], {}
        self.checkpoint = TrainingCheckpoint(
            folder, self.network, self.optimizer, self.schedule, self.evaluator, **settings
        )
        handlers = [
            GradientClipping(self.network, self.optimizer, 1.0),
            Progress("training"),
            *([ValidationHandler(interval, self.evaluator)] if self.evaluator else []),
            TrainingLog(folder, self.optimizer, self.evaluator),
            LrScheduleHandler(self.schedule, print_lr=False),
            self.checkpoint,
        ]

        def choose(batch, device, non_blocking, **kwargs):
            step = self.trainer.state.iteration
            if step == kill_at:
                raise KilledError
            self.steps.append(step)
            chosen = BATCHES[step - 1]
            return chosen["image"], chosen["label"]

        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=[{"image": torch.zeros(4, 3)}] * STEPS,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            prepare_batch=choose,
            train_handlers=handlers,
        )
        self.weights = []  # after each epoch
        self.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _: self.weights.append(copy.deepcopy(self.network.state_dict()))
        )

    def run(self):
        self.trainer.run()
        return self


def same(a, b):
    """Compare nested dicts and lists with tensors, to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def load(path):
    return torch.load(path, weights_only=True)


def names(folder):
    return sorted(p.name for p in folder.iterdir())
