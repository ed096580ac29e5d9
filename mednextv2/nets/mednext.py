"""The MedNeXt network: a U-shaped ConvNeXt with five resolutions, in its v1 and v2 forms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2 import ops
from mednextv2.nets.blocks import POINTWISE, MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock
from mednextv2.nets.kernel_problems import list_problems, list_problems_apart
from mednextv2.nets.legal_sizes import LEVELS, check_spatial_shape
from mednextv2.nets.metatensor import plain_tensor
from mednextv2.ops import implementations, memory_layout
from mednextv2.ops.problem_sizes import Problem
from mednextv2.wording import count


class MedNeXt(nn.Module):
    """MedNeXt in two or three dimensions: `(N, in_channels, *spatial)` to `(N, out_channels, *spatial)`.

    It has a stem (kernel size 1), four encoder stages with `init_filters` times 1, 2, 4 and 8 channels, a bottleneck
    with 16 times as many, and four decoder stages; skip connections are added. v2 is v1 plus global response
    normalisation (GRN) in every block: standard, down and up. :func:`mednextv2.nets.create_mednext` builds the
    published sizes by name.

    The memory layout is channels-last from the stem on, as far as PyTorch's convolutions keep it (on small maps, its
    CPU code may return contiguous ones); callers can ignore it. The input may be a MONAI `MetaTensor`; the outputs are
    plain tensors.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input image.
        out_channels: Channels of the output: classes, or regions.
        init_filters: Channels at full resolution.
        blocks_down: Blocks of the four encoder stages, from full resolution down.
        blocks_bottleneck: Blocks at 1/16 resolution.
        blocks_up: Blocks of the four decoder stages, from 1/8 resolution up.
        encoder_expansion_ratio: Expansion of the encoder stages, as one int or four. A down block has the ratio of the
            stage to which it leads.
        bottleneck_expansion_ratio: Expansion of the bottleneck and of the down block before it.
        decoder_expansion_ratio: Expansion of the decoder stages and of the up block before each, one int or four.
        kernel_size: Size of the depthwise kernels along each axis, an odd number; the papers use 3 and 5.
        deep_supervision: Whether logits at all five scales are returned in training mode.
        use_residual_connection: Whether all blocks have residual connections.
        global_resp_norm: Whether every block has GRN (v2).
        grn_denominator: `"mean"` over channels, as in ConvNeXt V2 and the MedNeXt authors' code, or `"sum"`.
        grn_in_first_down: Whether the first down block has GRN. It does not in the authors' v1 code; False is only for
            weights that come from there.
        activation_checkpointing: Whether the blocks of a resolution are recomputed in the backward pass instead of
            storing their activations: one bool for all, or five, from full resolution to the bottleneck.
        drop_path_rate: Largest probability of skipping a standard block in training; it grows linearly with depth.
        cpu_bfloat16: Whether CPU tensors are computed in bfloat16 as under autocast, with results in float32; it is
            worthwhile if :func:`mednextv2.ops.half_is_fast`. (MONAI's engines switch autocast on for CUDA only.)

    Returns:
        Logits `(N, out_channels, *spatial)`. In training mode with `deep_supervision`, a list of five such tensors at
        1, 1/2, 1/4, 1/8 and 1/16 of the resolution.

    Raises:
        ValueError: If an axis of the input is not a multiple of 16.

    Source:
        Roy et al. 2023, MedNeXt, section 2 (arXiv:2303.09975); MedNeXt-v2 (arXiv:2512.17774).

    Example:
        >>> net = MedNeXt(in_channels=1, out_channels=3, init_filters=4, deep_supervision=True)
        >>> [tuple(y.shape[2:]) for y in net(torch.zeros(1, 1, 32, 32, 32))][:2]
        [(32, 32, 32), (16, 16, 16)]
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (2, 2, 2, 2),
        blocks_bottleneck: int = 2,
        blocks_up: Sequence[int] = (2, 2, 2, 2),
        encoder_expansion_ratio: Sequence[int] | int = 2,
        bottleneck_expansion_ratio: int = 2,
        decoder_expansion_ratio: Sequence[int] | int = 2,
        kernel_size: int = 3,
        deep_supervision: bool = False,
        use_residual_connection: bool = True,
        global_resp_norm: bool = True,
        grn_denominator: str = "mean",
        grn_in_first_down: bool = True,
        activation_checkpointing: bool | Sequence[bool] = False,
        drop_path_rate: float = 0.0,
        cpu_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        down_ratios = _four(encoder_expansion_ratio, "encoder_expansion_ratio")
        up_ratios = _four(decoder_expansion_ratio, "decoder_expansion_ratio")
        for name, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("init_filters", init_filters),
            ("blocks_bottleneck", blocks_bottleneck),
            ("bottleneck_expansion_ratio", bottleneck_expansion_ratio),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a positive int: got {value!r}")
        depths = [*_four(blocks_down, "blocks_down"), blocks_bottleneck, *_four(blocks_up, "blocks_up")]
        ratios = [*down_ratios, bottleneck_expansion_ratio, *up_ratios]
        _check_arguments(spatial_dims, kernel_size, drop_path_rate, grn_denominator)
        self.spatial_dims = spatial_dims
        self.deep_supervision = deep_supervision
        self.cpu_bfloat16 = cpu_bfloat16
        grn = grn_denominator if global_resp_norm else None
        rates = [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        shared: dict[str, Any] = {"kernel_size": kernel_size, "residual": use_residual_connection}

        def filters(level: int) -> int:
            return init_filters * 2**level

        def stage(index: int) -> nn.Sequential:
            channels, first = filters(index if index < LEVELS else 2 * LEVELS - 2 - index), sum(depths[:index])
            return nn.Sequential(
                *(
                    MedNeXtBlock(
                        spatial_dims, channels, channels, ratios[index], grn=grn, drop_path_rate=rates[first + i],
                        **shared,
                    )
                    for i in range(depths[index])
                )
            )  # fmt: skip

        def down(level: int) -> MedNeXtDownBlock:
            own = grn if level > 0 or grn_in_first_down else None
            return MedNeXtDownBlock(
                spatial_dims, filters(level), filters(level + 1), ratios[level + 1], grn=own, **shared
            )

        def up(index: int) -> MedNeXtUpBlock:  # index of the decoder stage to which it leads, as in `ratios`
            level = 2 * LEVELS - 2 - index
            return MedNeXtUpBlock(spatial_dims, filters(level + 1), filters(level), ratios[index], grn=grn, **shared)

        self.stem = POINTWISE[spatial_dims](in_channels, init_filters, 1)
        self.encoder = nn.ModuleList(stage(i) for i in range(LEVELS - 1))
        self.down = nn.ModuleList(down(i) for i in range(LEVELS - 1))
        self.bottleneck = stage(LEVELS - 1)
        self.up = nn.ModuleList(up(i) for i in range(LEVELS, 2 * LEVELS - 1))  # deepest first
        self.decoder = nn.ModuleList(stage(i) for i in range(LEVELS, 2 * LEVELS - 1))
        self.heads = nn.ModuleList(  # full resolution first, bottleneck last
            POINTWISE[spatial_dims](filters(i), out_channels, 1) for i in range(LEVELS if deep_supervision else 1)
        )
        self.set_activation_checkpointing(activation_checkpointing)
        self._tried: set[tuple[torch.device, torch.dtype, bool]] = set()  # for which the kernels have their verdicts

    def set_activation_checkpointing(self, value: bool | Sequence[bool]) -> None:
        """Choose whether the blocks of a resolution are recomputed in the backward pass.

        A resampling block belongs to the finer of its two resolutions.

        Args:
            value: As the argument `activation_checkpointing`.
        """
        flags = _per_level(value)
        for level, flag in enumerate(flags[:-1]):
            for part in (self.encoder[level], self.down[level], self.decoder[3 - level], self.up[3 - level]):
                _mark(part, flag)
        _mark(self.bottleneck, flags[-1])

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if not torch.jit.is_scripting():
            x = plain_tensor(x)
            if not torch.jit.is_tracing():
                self.prepare(x)
            if self.cpu_bfloat16 and x.device.type == "cpu" and not ops.plain():
                return self._forward_bfloat16(x)
        return self.compute(x)

    @torch.jit.unused
    def prepare(self, x: Tensor, rows: bool = False) -> None:
        """Check an input, and have the kernels tried that it needs.

        Args:
            x: The input, a plain tensor.
            rows: Whether the blocks before the decoder compute with the rows of visible positions: see
                :mod:`mednextv2.nets.sparse_mednext`.

        Raises:
            ValueError: If an axis of the input is not a multiple of 16, or it has another number of channels.
        """
        check_spatial_shape(x, self.spatial_dims)
        channels = self.stem.in_channels
        if x.shape[1] != channels:
            raise ValueError(f"the network takes {count(channels, 'channel')}, not {x.shape[1]}: got {tuple(x.shape)}")
        if not ops.plain():
            self._try_kernels(x.device, memory_layout.autocast_dtype(x), rows)

    @torch.jit.unused
    def _forward_bfloat16(self, x: Tensor) -> Tensor | list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.compute(x)
        return [each.float() for each in y] if isinstance(y, list) else y.float()

    @torch.compiler.assume_constant_result  # runs while a graph is traced, and is not part of it
    def _try_kernels(self, device: torch.device, dtype: torch.dtype, rows: bool) -> bool:
        """Have all kernels tried at once before the first of them is needed: see :mod:`mednextv2.ops.trial`."""
        if implementations.by_verdict(device) and (device, dtype, rows) not in self._tried:
            from mednextv2.ops import trial  # on GPUs only

            if trial.ensure(self.problems(dtype, rows), device):
                self._tried.add((device, dtype, rows))
        return True

    def problems(self, dtype: torch.dtype, rows: bool = False) -> list[Problem]:
        """List the problems for which kernels are compiled in this network, each once, in the order of its modules.

        Args:
            dtype: The dtype of the features.
            rows: Whether the blocks before the decoder compute with the rows of visible positions.
        """
        found: dict[Problem, None] = {}
        for name, module in self.named_modules():
            if isinstance(module, MedNeXtBlock):
                apart = rows and name.split(".")[0] not in ("up", "decoder")
                found.update(dict.fromkeys((list_problems_apart if apart else list_problems)(module, dtype)))
        return list(found)

    def compute(self, x: Tensor) -> Tensor | list[Tensor]:
        """Apply the network to a plain tensor of legal shape."""
        layout = torch.channels_last_3d if self.spatial_dims == 3 else torch.channels_last
        x = self.stem(x).contiguous(memory_format=layout)
        skips: list[Tensor] = []
        for stage, down in zip(self.encoder, self.down):  # noqa: B905  (TorchScript knows no strict=)
            x = stage(x)
            skips.append(x)
            x = down(x)
        return self.decode(skips, self.bottleneck(x))

    def decode(self, skips: list[Tensor], x: Tensor) -> Tensor | list[Tensor]:
        """Apply the decoder and the heads.

        Args:
            skips: The features of the four encoder stages, from full resolution down; the list is emptied.
            x: The features of the bottleneck.
        """
        features = [x]
        for up, stage in zip(self.up, self.decoder):  # noqa: B905
            x = up(x, skips.pop())
            x = stage(x)
            if self.training:
                features.append(x)
            else:  # release the coarser features
                features = [x]
        outputs: list[Tensor] = []
        for index, head in enumerate(self.heads):
            if index == 0 or self.training:
                outputs.append(head(features[-1 - index]))
        if self.deep_supervision and self.training:
            return outputs
        return outputs[0]


def _mark(part: nn.Module, activation_checkpointing: bool) -> None:
    for block in part.modules():
        if isinstance(block, MedNeXtBlock):
            block.activation_checkpointing = activation_checkpointing


def _four(value: Sequence[int] | int, name: str) -> list[int]:
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * 4
    if len(values) != 4 or not all(isinstance(v, int) and v > 0 for v in values):
        raise ValueError(f"{name} is one positive int or four, from the first stage to the last: got {value!r}")
    return values


def _per_level(value: bool | Sequence[bool]) -> list[bool]:
    flags: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * LEVELS
    if len(flags) != LEVELS or not all(isinstance(f, bool) for f in flags):
        raise ValueError(f"activation_checkpointing is one bool or {LEVELS}, one a resolution: got {value!r}")
    return flags


def _check_arguments(spatial_dims: int, kernel_size: int, drop_path_rate: float, grn_denominator: str) -> None:
    if grn_denominator not in ("mean", "sum"):
        raise ValueError(f"grn_denominator is 'mean' or 'sum', not {grn_denominator!r}")
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is 2 or 3, not {spatial_dims!r}")
    if not isinstance(kernel_size, int) or isinstance(kernel_size, bool) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is an odd int such as 3, 5 or 7, not {kernel_size!r}")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate is at least 0 and below 1, not {drop_path_rate!r}")
