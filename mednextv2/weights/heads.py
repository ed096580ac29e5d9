"""The layers of a network that make its outputs."""

from torch import nn

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_UNET_HEADS = "decoder.seg_layers."  # in U-Nets of nnU-Net


def is_head(name: str) -> bool:
    """Tell whether a tensor of MedNeXt belongs to the layers that make the outputs."""
    return name.startswith("heads.")


def output_tensors(network: nn.Module, out_channels: int | None) -> dict[str, int]:
    """Return the tensors of the layers that make the outputs, each with the axis of its outputs.

    In MedNeXt and in nnU-Net's networks they have names of their own. In other networks, they are layers that only mix
    channels (or enlarge the image by the size of their kernel) and have as many outputs as the network.

    Args:
        network: The network.
        out_channels: The number of its outputs; only needed for networks whose heads have no names of their own.
    """
    if named := {name: 0 for name in network.state_dict() if is_head(name) or _UNET_HEADS in name}:
        return named
    found: dict[str, int] = {}
    for layer_name, layer in network.named_modules(remove_duplicate=False):  # state dicts have all names
        if isinstance(layer, nn.Linear):
            outputs, transposed = layer.out_features, False
        elif isinstance(layer, _TRANSPOSED) and layer.kernel_size == layer.stride:
            outputs, transposed = layer.out_channels, True
        elif isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED)) and {*layer.kernel_size} == {1}:
            outputs, transposed = layer.out_channels, isinstance(layer, _TRANSPOSED)
        else:
            continue
        if outputs == out_channels:
            prefix = f"{layer_name}." if layer_name else ""
            found[f"{prefix}weight"] = int(transposed)
            if layer.bias is not None:
                found[f"{prefix}bias"] = 0
    return found
