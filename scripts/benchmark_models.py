"""The networks that `benchmark.py` compares, and one step of each network."""

import contextlib
import ctypes
import gc
import sys
import time
from dataclasses import dataclass

import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import Tensor, nn

from mednextv2.nets import create_mednext
from mednextv2.nets.monai_mednext import monai_mednext
from mednextv2.training.loss import MEDNEXT_WEIGHTS

IN_CHANNELS, CLASSES = 1, 3


@dataclass(frozen=True)
class Case:
    """One row of the tables: a network, its setting, its task and its input.

    Attributes:
        competitor: `ours`, `monai`, `resenc_l` or `onnxruntime`.
        setting: Parts joined by `+`: either `shipped` or `float32`, or some of compile, bf16, channels_last,
            checkpointing.
        what: `inference` or `train`.
        variant: A key of `mednextv2.nets.VARIANTS`; `resenc_l` has one size.
        patch: The size of the patch in voxels along the three axes.
        batch: The number of samples in a step.
        kernel_size: The size of MedNeXt's depthwise kernels.
        device: `cpu` or `cuda`.
        threads: The number of PyTorch's threads on CPU, or None for its own choice.
        cache: The folder of the exported network and of the cache of `torch.compile`: one for each row, so that none
            profits from another's compilation.
    """

    competitor: str
    setting: str
    what: str
    variant: str
    patch: tuple[int, int, int]
    batch: int
    kernel_size: int
    device: str
    threads: int | None
    cache: str

    @property
    def parts(self) -> list[str]:
        """The parts of the setting."""
        return self.setting.split("+")

    @property
    def dtype(self) -> str:
        """The dtype of matrix products, `float32` or `bfloat16`."""
        return "bfloat16" if "bf16" in self.parts else "float32"


def build(case: Case) -> nn.Module:
    """Build a case's network, in float32 on CPU in contiguous memory, with deep supervision only in training."""
    train = case.what == "train"
    if case.competitor == "ours":
        return create_mednext(
            case.variant,
            in_channels=IN_CHANNELS,
            out_channels=CLASSES,
            kernel_size=case.kernel_size,
            deep_supervision=train,
            activation_checkpointing="checkpointing" in case.parts,  # not from the variant, since MONAI's has none
        )
    if case.competitor == "monai":
        sizes = {"in_channels": IN_CHANNELS, "out_channels": CLASSES, "kernel_size": case.kernel_size}
        return monai_mednext(case.variant, **sizes, deep_supervision=train)
    return build_resenc_l(case)


def build_resenc_l(case: Case) -> nn.Module:
    """Build nnU-Net's ResEnc-L, with fewer stages if the bottleneck would be narrower than four voxels."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    stages = 6
    while stages > 2 and any(size % 2 ** (stages - 1) or size // 2 ** (stages - 1) < 4 for size in case.patch):
        stages -= 1
    return ResidualEncoderUNet(
        input_channels=IN_CHANNELS,
        n_stages=stages,
        features_per_stage=[32, 64, 128, 256, 320, 320][:stages],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1, 2, 2, 2, 2, 2][:stages],
        n_blocks_per_stage=[1, 3, 4, 6, 6, 6][:stages],
        num_classes=CLASSES,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=case.what == "train",
    )


class Stepper:
    """A network, its batch, loss and optimizer, and the step that is timed."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        if case.threads:
            torch.set_num_threads(case.threads)
        self.case, self.train, self.device = case, case.what == "train", torch.device(case.device)
        self.seen, self.equal_labels = False, None
        self.net = self.build().to(self.device).train(self.train)
        self.x = torch.randn(case.batch, IN_CHANNELS, *case.patch, device=self.device)
        self.y = torch.randint(CLASSES, (case.batch, 1, *case.patch), device=self.device).float()
        if "channels_last" in case.parts:
            self.net = self.net.to(memory_format=torch.channels_last_3d)
            self.x = self.x.contiguous(memory_format=torch.channels_last_3d)
        self.parameters = sum(p.numel() for p in self.net.parameters())
        # ONNX Runtime holds the weights itself, so that there is nothing to optimize
        self.optimizer = recipe_optimizer(self.net) if self.parameters else None
        self.loss = recipe_loss()
        if "compile" in case.parts:
            self.net = torch.compile(self.net)

    def build(self) -> nn.Module:
        """Build the network."""
        return build(self.case)

    def step(self) -> None:
        """Run one step; the outputs of the first step are checked."""
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.dtype == "bfloat16")
        if not self.train:
            with torch.inference_mode(), half:
                self._check(self.net(self.x))
            return
        self.optimizer.zero_grad(set_to_none=True)
        with half:  # for the forward pass and the loss, as in MONAI's SupervisedTrainer
            outputs = self.net(self.x)
            loss = self.loss(outputs, self.y)
        loss.backward()
        self.optimizer.step()
        self._check(outputs)

    def _check(self, outputs: Tensor | list[Tensor]) -> None:
        """Check the outputs, so that a network that computes something else, or nothing, cannot win."""
        if self.seen:
            return
        heads = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        self.seen, self.heads = True, len(heads)
        if heads[0].shape != (self.case.batch, CLASSES, *self.case.patch):
            raise RuntimeError(f"wrong shape of the output: {tuple(heads[0].shape)}")
        if not heads[0].isfinite().all():
            raise RuntimeError("the output has values that are not finite")

    def seconds(self) -> float:
        """Run one step and return how long it took."""
        synchronize(self.device)
        start = time.perf_counter()
        self.step()
        synchronize(self.device)
        return time.perf_counter() - start

    def turn(self, repeats: int, min_time: float) -> list[float]:
        """Return the seconds of each of at least `repeats` steps and `min_time` seconds, after an uncounted one."""
        self.seconds()
        times: list[float] = []
        while len(times) < repeats or sum(times) < min_time:
            times.append(self.seconds())
        self.rest()
        return times

    def optimizer_bytes(self) -> int:
        """Return the size of the optimizer's state."""
        values = [v for state in (self.optimizer.state.values() if self.optimizer else ()) for v in state.values()]
        return sum(v.nbytes for v in values if isinstance(v, Tensor))

    def rest(self) -> None:
        """Return memory to the system, since the processes of all other rows wait on the same machine."""
        if self.optimizer:
            self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        trim()


def recipe_loss() -> nn.Module:
    """Return the loss of our training recipe; a network with fewer heads uses the first weights."""
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5)
    return DeepSupervisionLoss(loss, weights=MEDNEXT_WEIGHTS)


def recipe_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of our training recipe."""
    return torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=3e-5, eps=1e-4, fused=True)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def trim() -> None:
    """Let glibc return freed memory to the system."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):  # musl
            ctypes.CDLL(None).malloc_trim(0)
