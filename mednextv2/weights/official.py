"""Import of checkpoints made with the MedNeXt authors' v1 code (its nnU-Net trainers included)."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.nets.mednext import MedNeXt
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.mismatch import describe_mismatch

#: The layers of a block by their names in the authors' code.
LAYERS = {"conv1": "depthwise", "norm": "norm", "conv2": "expand", "conv3": "compress", "res_conv": "shortcut"}
_STAGES = [f"enc_block_{i}" for i in range(4)] + ["bottleneck"] + [f"dec_block_{i}" for i in (3, 2, 1, 0)]


#: A tensor of the authors' networks that takes part in no computation.
DUMMY = "dummy_tensor"


def import_official(source: str | os.PathLike | Mapping[str, Any]) -> MedNeXt:
    """Build the network from which a checkpoint of the MedNeXt authors' v1 code was saved, and load the checkpoint.

    The configuration is read from the weights: dimensions, channels, classes, kernel size, depth and expansion of each
    stage, GRN, residual connections of the resampling blocks. Deep supervision is on if the file contains its heads.
    Two things leave no trace in a file and are assumed to be as in every published size: channel-wise GroupNorm, and
    residual connections inside the standard blocks wherever the resampling blocks have them.

    Args:
        source: A checkpoint file (a bare state dict, or the dict of an nnU-Net v1 or v2 trainer), or such a dict.

    Returns:
        The network with the weights, in eval mode.

    Raises:
        InputError: When the file cannot be read safely, or is not from a MedNeXt of that code; the message says why.

    Source:
        The names and shapes of state dicts in the authors' repository for Roy et al. 2023 (arXiv:2303.09975).
    """
    name = "the given state dict" if isinstance(source, Mapping) else str(source)
    state = _find_state_dict(source if isinstance(source, Mapping) else load_file(source), name)
    try:
        network = MedNeXt(**_read_configuration(state))
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as e:
        reason = f"it has no tensor {e}" if isinstance(e, KeyError) else str(e)
        raise InputError(f"{name}: not a MedNeXt of the authors' v1 code: {reason}") from e
    converted = translate(state)
    problem = describe_mismatch(network.state_dict(), converted)
    if problem:
        raise InputError(f"{name}: not a MedNeXt of the authors' v1 code. {problem}")
    network.load_state_dict(converted)
    return network.eval()


def is_official(state: Mapping[str, Any]) -> bool:
    """Tell whether a state dict has names of the authors' code."""
    return "stem.weight" in state and any(k.startswith("enc_block_0.0.") for k in state)


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the authors' code with the names and shapes of this project's network."""
    return {rename(k): _reshape(k, v) for k, v in state.items() if k != DUMMY}


def _find_state_dict(content: Any, name: str) -> dict[str, Tensor]:
    state = unwrap_state(content)
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, Tensor) and v.is_floating_point() and isinstance(k, str) for k, v in state.items())
    ):
        raise InputError(f"{name}: holds no state dict: a dict of names and tensors was expected")
    if not is_official(state):
        shown = ", ".join(list(state)[:3])
        raise InputError(
            f"{name}: not a MedNeXt of the authors' v1 code: its tensors are named {shown}, … "
            "where stem.weight, enc_block_0.0.conv1.weight, … were expected"
        )
    return state


def _read_configuration(state: dict[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of :class:`MedNeXt` from the names and shapes of its tensors."""
    stem, kernel = state["stem.weight"], state["enc_block_0.0.conv1.weight"].shape[2:]
    depths = [len({m[1] for k in state if (m := re.match(rf"{s}\.(\d+)\.", k))}) for s in _STAGES]
    if 0 in depths:
        raise ValueError(f"its stage {_STAGES[depths.index(0)]} has no block")
    first = [state[f"{s}.0.conv2.weight"] for s in _STAGES]
    ratios = [w.shape[0] // w.shape[1] for w in first]
    if len({w.shape[2:] for k, w in state.items() if k.endswith("conv1.weight")}) > 1 or len(set(kernel)) > 1:
        raise ValueError("its depthwise kernels differ in size, which this network does not have")
    grn = "enc_block_0.0.grn_gamma" in state
    return {
        "spatial_dims": stem.dim() - 2,
        "in_channels": stem.shape[1],
        "out_channels": state["out_0.conv_out.weight"].shape[1],
        "init_filters": stem.shape[0],
        "blocks_down": depths[:4],
        "blocks_bottleneck": depths[4],
        "blocks_up": depths[5:],
        "encoder_expansion_ratio": ratios[:4],
        "bottleneck_expansion_ratio": ratios[4],
        "decoder_expansion_ratio": ratios[5:],
        "kernel_size": kernel[0],
        "deep_supervision": "out_1.conv_out.weight" in state,
        "use_residual_connection": "down_0.res_conv.weight" in state,
        "global_resp_norm": grn,
        "grn_in_first_down": "down_0.grn_gamma" in state,
    }


def rename(key: str) -> str:
    """Translate one name: `dec_block_3.0.conv2.weight` to `decoder.0.0.expand.weight`."""
    key = re.sub(r"^enc_block_(\d)", r"encoder.\1", key)
    key = re.sub(r"^(dec_block|up)_(\d)", lambda m: f"{'up' if m[1] == 'up' else 'decoder'}.{3 - int(m[2])}", key)
    key = re.sub(r"^down_(\d)", r"down.\1", key)
    key = re.sub(r"^out_(\d)\.conv_out", r"heads.\1", key)
    key = re.sub(r"\.grn_(gamma|beta)$", r".grn.\1", key)
    return re.sub(r"\.(conv[123]|norm|res_conv)\.(weight|bias)$", lambda m: f".{LAYERS[m[1]]}.{m[2]}", key)


def _reshape(key: str, value: Tensor) -> Tensor:
    """Turn GRN's `(1, E, 1, 1, 1)` into `(E,)`, and a head's `(in, out, 1, 1, 1)` into `(out, in, 1, 1, 1)`."""
    if key.endswith(("grn_gamma", "grn_beta")):
        return value.flatten()
    if re.match(r"out_\d\.conv_out\.weight$", key) and value.dim() > 1:
        return torch.transpose(value, 0, 1).contiguous()
    return value
