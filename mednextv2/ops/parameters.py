"""What the operators of a block are given beside tensors of features: weights and settings, by name."""

from typing import NamedTuple

from torch import Tensor


class Convolution(NamedTuple):
    """A depthwise convolution.

    Attributes:
        weight: `(C, 1, k, k, k)`, or two k.
        bias: `(C,)` or None.
        stride: 1 or 2.
        transposed: Whether it is the transposed convolution.
    """

    weight: Tensor
    bias: Tensor | None
    stride: int = 1
    transposed: bool = False


class Mlp(NamedTuple):
    """The weights of a block's inside: norm, expansion, GRN and compression.

    Attributes:
        norm_weight: Scale of the norm, `(C,)`.
        norm_bias: Shift of the norm, `(C,)`.
        w1: Expansion, `(E, C)`.
        b1: `(E,)`.
        gamma: Gain of GRN, `(E,)`; None for a block without.
        beta: Shift of GRN, `(E,)`; None where gamma is.
        w2: Compression, `(O, E)`.
        b2: `(O,)`.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    w1: Tensor
    b1: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    w2: Tensor
    b2: Tensor

    def contiguous(self) -> "Mlp":
        """Return the weights as the GPU kernels read them, row by row without gaps; mostly they are that already."""
        return Mlp(*(None if weight is None else weight.contiguous() for weight in self))

    def with_dtypes(self, gradients: "Mlp") -> "Mlp":
        """Return gradients in the dtypes of these weights; empty tensors for those of GRN where there is none."""
        return Mlp(*(
            self.w1.new_empty(0) if weight is None else gradient.to(weight.dtype)
            for weight, gradient in zip(self, gradients, strict=True)
        ))  # fmt: skip


class Settings(NamedTuple):
    """The constants of a block's norms.

    Attributes:
        norm_eps: Added to the variance.
        grn_eps: Added to the denominator of GRN.
        grn_sum: Whether that denominator is the sum of the norms over channels, instead of their mean.
    """

    norm_eps: float = 1e-5
    grn_eps: float = 1e-6
    grn_sum: bool = False
