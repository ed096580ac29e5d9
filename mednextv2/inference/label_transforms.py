"""From the network's outputs to label maps, and from label maps to the masks that are scored."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from mednextv2.data.partial_labels import STRUCTURES
from mednextv2.label_scheme import LabelScheme


class DecideLabelsd(MapTransform):
    """Turn logits into a label map: the class with the largest logit, or the regions painted in their order.

    Label maps, such as those of :class:`StreamingInferer`, are left unchanged.

    Args:
        keys: The keys of the logits, `(outputs, X, Y, Z)`, which the label maps `(1, X, Y, Z)` replace.
        scheme: The meaning of the outputs.
    """

    def __init__(self, keys: KeysCollection, scheme: LabelScheme) -> None:
        super().__init__(keys)
        self.scheme = scheme

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the dict with label maps."""
        logits = [key for key in self.key_iterator(data) if data[key].is_floating_point()]
        return {**data, **{key: self.scheme.decide(data[key]) for key in logits}}


class StructureMasksd(MapTransform):
    """Turn label maps into one channel per structure, the background first; unannotated voxels are in no channel.

    Of a case of a collection, the channels of structures that its data set does not annotate are empty, so that they
    have no score.

    Args:
        keys: The keys of the label maps, `(1, X, Y, Z)`, which masks `(1 + structures, X, Y, Z)`, uint8, replace.
        scheme: The meaning of the values.
        truth: The key of the reference, whose ignore label says which voxels were annotated.
    """

    def __init__(self, keys: KeysCollection, scheme: LabelScheme, truth: str = "label") -> None:
        super().__init__(keys)
        self.scheme, self.truth = scheme, truth

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the dict with masks."""
        valid = self.scheme.valid(data[self.truth])
        masks = {}
        for key in self.key_iterator(data):
            mask = self.scheme.masks(data[key])
            if STRUCTURES in data:
                known = torch.as_tensor(data[STRUCTURES]).as_subclass(torch.Tensor).bool().to(mask.device)
                mask &= known.view(-1, *[1] * (mask.ndim - 1))
            mask = torch.cat([~mask.any(0, keepdim=True), mask])
            masks[key] = (mask if valid is None else mask & valid.to(mask.device)).to(torch.uint8)
        return {**data, **masks}
