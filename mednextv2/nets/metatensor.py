"""MONAI's MetaTensors among the networks' inputs, known without an import of MONAI, which takes seconds."""

from torch import Tensor


def plain_tensor(x: Tensor) -> Tensor:
    """Return a MONAI `MetaTensor` as the plain tensor that it holds, and any other tensor as it is.

    Every operation on a `MetaTensor` costs Python time.
    """
    if type(x) is not Tensor and hasattr(x, "as_tensor"):  # of all tensors, MONAI's alone has this method
        return x.as_tensor()
    return x
