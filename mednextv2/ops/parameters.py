"""What the operators of a block are given and keep beside tensors of features, by name.

The custom operators of torch take tensors and numbers alone: their arguments have the names of these fields, in this
order, so that `operator(y, *statistics, *mlp, residual, *settings)` is right; a test compares them.
"""

from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T", bound=NamedTuple)


def pick(kind: type[T], values: Any) -> T:
    """Return the named tuple of a kind from an object that has its fields, among others."""
    return kind._make(getattr(values, name) for name in kind._fields)


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


class Statistics(NamedTuple):
    """The moments of every channel over space.

    Attributes:
        mean: `(N, C)`.
        variance: Biased, `(N, C)`.
    """

    mean: Tensor
    variance: Tensor


class Mlp(NamedTuple):
    """The weights of a block's inside: norm, expansion, GRN and compression.

    Attributes:
        norm_weight: Scale of the norm, `(C,)`.
        norm_bias: Shift of the norm, `(C,)`.
        w1: Expansion, `(E, C)`; for the operators that users call, also the weight of a convolution of kernel 1.
        b1: `(E,)`.
        gamma: Gain of GRN, `(E,)`; None for a block without.
        beta: Shift of GRN, `(E,)`; None where gamma is.
        w2: Compression, `(O, E)`, as `w1`.
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
        return Mlp._make(None if weight is None else weight.contiguous() for weight in self)

    def with_dtypes(self, gradients: "Mlp") -> "Mlp":
        """Return gradients in the dtypes of these weights; empty tensors for those of GRN where there is none."""
        return Mlp(*(
            self.w1.new_empty(0) if weight is None or gradient is None else gradient.to(weight.dtype)
            for weight, gradient in zip(self, gradients, strict=True)
        ))  # fmt: skip

    def where_given(self, gradients: "Mlp") -> "Mlp":
        """Return gradients as autograd takes them: None for those of GRN where there is none."""
        pairs = zip(self, gradients, strict=True)
        return Mlp._make(None if weight is None else gradient for weight, gradient in pairs)


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


class Saved(NamedTuple):
    """What a whole block keeps for its backward pass beside its input and its weights.

    Attributes:
        y: Result of the convolution, `(N, C, *spatial)`.
        mean: Of `y` over space, `(N, C)`.
        variance: Biased, `(N, C)`.
        g: Norms of the expanded channels, `(N, E)`; empty without GRN.
        w1n: Expansion with the norm folded in, `(E, C)`; only the joined kernels make it and the next two, which are
            empty otherwise.
        b1n: `(E,)`.
        taps: Weights of the convolution as the kernels read them, `(taps, C)`.
    """

    y: Tensor
    mean: Tensor
    variance: Tensor
    g: Tensor
    w1n: Tensor
    b1n: Tensor
    taps: Tensor
