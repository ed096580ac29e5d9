"""Networks of ours as the authors' code saves them."""

import torch

from mednextv2.nets import MedNeXt

PARTS = {"depthwise": "conv1", "norm": "norm", "expand": "conv2", "compress": "conv3", "shortcut": "res_conv"}


def tiny(**kwargs):
    settings = {
        "init_filters": 4,
        "blocks_down": 1,
        "blocks_bottleneck": 1,
        "blocks_up": 1,
        "global_resp_norm": False,
        "grn_in_first_down": False,  # as in the authors' code
    }
    return MedNeXt(**{**settings, **kwargs}).eval()


def as_the_authors_save_it(network):
    """Name and shape our tensors as the authors do: the inverse of the import, written independently of it."""
    official = {"dummy_tensor": torch.ones(1)}
    for key, value in network.state_dict().items():
        words, leaf = key.split("."), key.split(".")[-1]
        value = value.clone() + torch.rand_like(value)  # no two tensors alike, no GRN of zeros
        network.get_parameter(key).data.copy_(value)
        if words[0] == "heads":
            official[f"out_{words[1]}.conv_out.{leaf}"] = value.swapaxes(0, 1) if leaf == "weight" else value
            continue
        if words[0] == "stem":
            official[key] = value
            continue
        place = {
            "encoder": lambda w: f"enc_block_{w[1]}.{w[2]}",
            "bottleneck": lambda w: f"bottleneck.{w[1]}",
            "decoder": lambda w: f"dec_block_{3 - int(w[1])}.{w[2]}",
            "down": lambda w: f"down_{w[1]}",
            "up": lambda w: f"up_{3 - int(w[1])}",
        }[words[0]](words)
        if words[-2] == "grn":
            official[f"{place}.grn_{leaf}"] = value.reshape(1, -1, *[1] * network.spatial_dims)
        else:
            official[f"{place}.{PARTS[words[-2]]}.{leaf}"] = value
    return official
