"""The names of MONAI's MedNeXt, translated into those of this project's.

The two are the same network in the size S. In B, M and L, MONAI's down blocks have the expansion ratio of the stage
before them, not of the one after, so the first two are narrower. With GRN, MONAI's down blocks have none.
"""

import re

import torch
from torch import Tensor

from mednextv2.weights.official import LAYERS

_GRN = {"global_resp_gamma": "grn.gamma", "global_resp_beta": "grn.beta"}
_STAGES = {"enc_stages": "encoder", "dec_stages": "decoder", "down_blocks": "down", "up_blocks": "up"}
_LAST_HEAD = 4  # of the lowest resolution, which is the first in MONAI's list


def is_monai(state: dict[str, Tensor]) -> bool:
    """Tell whether a state dict is of MONAI's MedNeXt."""
    return "stem.weight" in state and "enc_stages.0.0.conv1.weight" in state


def rename(key: str) -> str:
    """Translate one name.

    Example:
        >>> rename("dec_stages.0.1.conv2.weight"), rename("out_blocks.0.conv_out.bias")
        ('decoder.0.1.expand.weight', 'heads.4.bias')
    """
    key = re.sub(r"^(\w+_(?:stages|blocks))\.(?=\d)", lambda m: f"{_STAGES.get(m[1], m[1])}.", key)
    key = re.sub(r"^out_0\.conv_out", "heads.0", key)
    key = re.sub(r"^out_blocks\.(\d+)\.conv_out", lambda m: f"heads.{_LAST_HEAD - int(m[1])}", key)
    key = re.sub(r"\.(global_resp_(?:gamma|beta))$", lambda m: f".{_GRN[m[1]]}", key)
    return re.sub(r"\.(conv[123]|norm|res_conv)\.(weight|bias)$", lambda m: f".{LAYERS[m[1]]}.{m[2]}", key)


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the names and shapes of this project's network."""
    return {rename(key): _reshape(key, value) for key, value in state.items()}


def depends_on_down_ratio(name: str) -> bool:
    """Tell whether a tensor of this project's network has a size that is another in MONAI's down blocks."""
    return re.fullmatch(r"down\.\d\.(expand\.(weight|bias)|compress\.weight)", name) is not None


def _reshape(key: str, value: Tensor) -> Tensor:
    if key.endswith(tuple(_GRN)):
        return value.flatten()
    if re.fullmatch(r"out_(0|blocks\.\d+)\.conv_out\.weight", key) and value.dim() > 1:
        return torch.transpose(value, 0, 1).contiguous()
    return value
