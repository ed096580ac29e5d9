"""MONAI's MetaTensors as inputs of networks, recognised without importing MONAI, which takes seconds."""

from torch import Tensor


def plain_tensor(x: Tensor) -> Tensor:
    """Return the plain tensor in a MONAI `MetaTensor`, and any other tensor unchanged.

    Every operation on a `MetaTensor` costs Python time.
    """
    if type(x) is not Tensor and hasattr(x, "as_tensor"):  # of all tensors, only MONAI's have this method
        return x.as_tensor()
    return x
