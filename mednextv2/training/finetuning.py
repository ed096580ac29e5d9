"""How a training that starts from weights treats them: frozen parts, new layers first, rates that fall with depth."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.nets.parts import PARTS, encoder_of, stages_from_output
from mednextv2.wording import brief, count

logger = logging.getLogger(__name__)


def freeze_part(network: nn.Module, part: str | None = None) -> nn.Module:
    """Freeze a part of a network: its parameters get no gradient, and batch norms in it keep their statistics.

    Do this before the network is wrapped in DistributedDataParallel, which waits for the gradients of all parameters
    that need one then.

    Args:
        network: The network, which is changed in place.
        part: `encoder`: see :func:`mednextv2.nets.parts.encoder_of`; None freezes nothing.

    Returns:
        The network.

    Raises:
        InputError: If the part does not exist.
    """
    modules = _frozen_modules(network, part)
    for module in modules:
        module.requires_grad_(False)
        for norm in module.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                _keep_in_eval_mode(norm)
    if modules and is_main_process():
        frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        whole = sum(p.numel() for p in network.parameters())
        logger.info("freeze %s: %s of %s parameters are not trained", part, f"{frozen:,}", f"{whole:,}")
    return network


def _keep_in_eval_mode(norm: nn.Module) -> None:
    norm.eval()

    def train(mode: bool = True) -> nn.Module:
        return norm

    norm.train = train  # type: ignore[method-assign]


def _frozen_modules(network: nn.Module, part: str | None) -> list[nn.Module]:
    if part is None:
        return []
    if part not in PARTS:
        raise InputError(f"freeze {brief(part)}: should be {' or '.join(PARTS)}, or none")
    return encoder_of(network)


def parameter_groups(
    network: nn.Module, learning_rate: float, layer_decay: float = 1.0, freeze: str | None = None
) -> list[dict[str, Any]]:
    """Return a network's parameters in the groups of an optimizer, whose learning rates fall with the distance.

    The learning rate of a stage is `learning_rate * layer_decay ** d`, with its distance `d` from the output: its place
    in :func:`mednextv2.nets.parts.stages_from_output`, from 0 for the heads. A table of the rates is logged.

    Args:
        network: The network, also when wrapped in DistributedDataParallel.
        learning_rate: The rate of the heads.
        layer_decay: The factor from one stage to the next; 1 for one group with one rate.
        freeze: A part whose parameters are left out: see :func:`freeze_part`.

    Raises:
        InputError: If the part does not exist, or the order of the network's layers is not known.

    Source:
        Layer-wise decay of the learning rate: Clark et al. 2020, ELECTRA, section 3 (arXiv:2003.10555); ConvNeXt V2
        fine-tunes with it (Woo et al. 2023, arXiv:2301.00808).
    """
    network = getattr(network, "module", network)
    frozen = {id(p) for module in _frozen_modules(network, freeze) for p in module.parameters()}
    trained = [p for p in network.parameters() if id(p) not in frozen]
    if layer_decay == 1.0:
        return [{"params": trained, "lr": learning_rate}]
    groups, lines = [], []
    left = {id(p) for p in trained}
    for distance, (name, modules) in enumerate(stages_from_output(network)):
        own = [p for module in modules for p in module.parameters() if id(p) in left]
        left -= {id(p) for p in own}
        rate = learning_rate * layer_decay**distance
        if own:
            groups.append({"params": own, "lr": rate})
        lines.append((name, f"{rate:.2e}" if own else "frozen"))
    if left:
        raise ValueError(f"{count(len(left), 'parameter')} of the network are in no stage")
    if is_main_process():
        width = max(len(name) for name, _ in lines)
        rows = "\n".join(f"  {name:<{width}}  {rate}" for name, rate in lines)
        logger.info("layer_decay %g: the peak of the learning rate of each stage\n%s", layer_decay, rows)
    return groups


class NewLayersFirst:
    """For the first epochs of a training, train only the layers that pretrained weights did not fill.

    Random layers make large gradients at first, which would change what the others have learned. The gradients of the
    others are therefore dropped before they are clipped and used, so that these layers, their momentum and their weight
    decay do nothing until then.

    Args:
        network: The network, also when wrapped in DistributedDataParallel.
        names: The names of the parameters that are newly initialised; with none, all layers are trained at once.
        epochs: The number of epochs.

    Attributes:
        epochs: The number of epochs in which only these layers are trained: 0 without new layers.
    """

    def __init__(self, network: nn.Module, names: Sequence[str] = (), epochs: int = 0) -> None:
        network = getattr(network, "module", network)
        new = {*names}
        unnamed = [(name, p) for name, p in network.named_parameters() if name not in new]
        trained = [name for name, p in network.named_parameters() if name in new and p.requires_grad]
        self.epochs = epochs if trained and any(p.requires_grad for _, p in unnamed) else 0
        self._held = [p for _, p in unnamed]
        self._released = False
        if not is_main_process():
            return
        if frozen := [name for name, p in network.named_parameters() if name in new and not p.requires_grad]:
            logger.warning(
                "freeze: %s of the frozen part keep their random values, since the pretrained weights do not have them "
                "(%s, ...), which spoil what comes after them; a training without --freeze will be better",
                count(len(frozen), "tensor"), frozen[0],
            )  # fmt: skip
        if epochs and not self.epochs:
            logger.info("warmup_new_layers: no layer is new, so all layers are trained from the first epoch on")
        elif epochs:
            logger.info(
                "warmup_new_layers: in the first %s, only the new layers are trained (%s, such as %s)",
                "epoch" if epochs == 1 else f"{epochs} epochs", count(len(trained), "tensor"), trained[0],
            )  # fmt: skip

    def prepare_step(self, epoch: int, optimizer: Optimizer) -> None:
        """Drop the gradients of the layers that are not trained yet.

        Args:
            epoch: The epoch, from 1.
            optimizer: The optimizer that makes the step.
        """
        if epoch <= self.epochs:
            for parameter in self._held:
                parameter.grad = None
        elif self.epochs and not self._released:
            self._released = True
            _add_momentum(optimizer)


def _add_momentum(optimizer: Optimizer) -> None:
    """Give weights that were not trained so far a momentum of zero, as before any first step.

    PyTorch's fused SGD cannot make a step in which some weights of a group have a momentum and others have none.
    """
    for group in optimizer.param_groups:
        if "momentum" in group:
            for parameter in group["params"]:
                if not optimizer.state[parameter]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
