"""The arguments and saved tensors of a block's operators besides the features, by name.

The custom operators of torch take only tensors and numbers. Their arguments have the names of these fields, in this
order, so that `operator(y, *statistics, *mlp, residual, *settings)` is right; a test compares them.
"""

from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T", bound=NamedTuple)


def pick(kind: type[T], values: Any) -> T:
    """Return the named tuple of a given type from an object that has its fields, among others."""
    return kind._make(getattr(values, name) for name in kind._fields)


class Convolution(NamedTuple):
    """A depthwise convolution.

    Attributes:
        weight: The weight, `(C, 1, k, k, k)`, or `(C, 1, k, k)` in two dimensions.
        bias: The bias, `(C,)`, or None.
        stride: The stride, 1 or 2.
        transposed: Whether it is the transposed convolution.
    """

    weight: Tensor
    bias: Tensor | None
    stride: int = 1
    transposed: bool = False


class Statistics(NamedTuple):
    """The moments of every channel over space.

    Attributes:
        mean: The mean, `(N, C)`.
        variance: The biased variance, `(N, C)`.
    """

    mean: Tensor
    variance: Tensor


class Mlp(NamedTuple):
    """The weights of a block's inside: norm, expansion, GRN and compression.

    Attributes:
        norm_weight: The scale of the norm, `(C,)`.
        norm_bias: The shift of the norm, `(C,)`.
        w1: The weight of the expansion, `(E, C)`; the operators that users call also accept the weight of a convolution
            with kernel size 1.
        b1: The bias of the expansion, `(E,)`.
        gamma: The gain of GRN, `(E,)`; None for a block without GRN.
        beta: The shift of GRN, `(E,)`; None if gamma is None.
        w2: The weight of the compression, `(O, E)`, with the same alternative as `w1`.
        b2: The bias of the compression, `(O,)`.
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
        """Return the weights as the GPU kernels read them, row by row without gaps; they usually are so already."""
        return Mlp._make(None if weight is None else weight.contiguous() for weight in self)

    def with_dtypes(self, gradients: "Mlp") -> "Mlp":
        """Return gradients in the dtypes of these weights; those of GRN are empty tensors without GRN."""
        return Mlp(*(
            self.w1.new_empty(0) if weight is None or gradient is None else gradient.to(weight.dtype)
            for weight, gradient in zip(self, gradients, strict=True)
        ))  # fmt: skip

    def where_given(self, gradients: "Mlp") -> "Mlp":
        """Return gradients as autograd takes them: those of GRN are None without GRN."""
        pairs = zip(self, gradients, strict=True)
        return Mlp._make(None if weight is None else gradient for weight, gradient in pairs)


class Settings(NamedTuple):
    """The constants of a block's norms.

    Attributes:
        norm_eps: The number that is added to the variance.
        grn_eps: The number that is added to the denominator of GRN.
        grn_sum: Whether that denominator is the sum of the norms over channels, instead of their mean.
    """

    norm_eps: float = 1e-5
    grn_eps: float = 1e-6
    grn_sum: bool = False


class Saved(NamedTuple):
    """The tensors that a whole block keeps for its backward pass besides its input and its weights.

    Attributes:
        y: The result of the convolution, `(N, C, *spatial)`.
        mean: The mean of `y` over space, `(N, C)`.
        variance: The biased variance of `y` over space, `(N, C)`.
        g: The norms of the expanded channels, `(N, E)`; empty without GRN.
        w1n: The weight of the expansion with the norm folded in, `(E, C)`; only the joined kernels compute it and the
            next two, which are empty otherwise.
        b1n: The bias of the expansion with the norm folded in, `(E,)`.
        taps: The weights of the convolution as the kernels read them, `(taps, C)`.
    """

    y: Tensor
    mean: Tensor
    variance: Tensor
    g: Tensor
    w1n: Tensor
    b1n: Tensor
    taps: Tensor
