"""Files of weights as other projects write them, made with the libraries that they use."""

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from mednextv2.nets import AdaptedNetwork
from mednextv2.nets.nnunet import plain_conv_unet, residual_encoder_unet

SHARED = {
    "conv_op": nn.Conv3d,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def randomised(network):
    """Give every tensor, also those that start with zeros or ones, numbers of its own."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    return network.eval()


def their_unet(channels=1, outputs=1, stages=4, kind=ResidualEncoderUNet, deep_supervision=False, filters=4):
    """A U-Net as nnU-Net and nnssl build it, with three-voxel kernels that halve every axis in each stage."""
    depth = {"n_blocks_per_stage": (1, 3, 4, 6, 6, 6)[:stages], "n_conv_per_stage_decoder": (1,) * (stages - 1)}
    if kind is PlainConvUNet:
        depth = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    network = kind(
        input_channels=channels, n_stages=stages, features_per_stage=[min(filters * 2**n, 320) for n in range(stages)],
        kernel_sizes=[[3] * 3] * stages, strides=[[1] * 3] + [[2] * 3] * (stages - 1), num_classes=outputs,
        deep_supervision=deep_supervision, **depth, **SHARED,
    )  # fmt: skip
    return randomised(network)


def our_unet(
    channels=1, outputs=3, patch=(32, 32, 32), spacing=(1.0, 1.0, 1.0), build=residual_encoder_unet, filters=4
):
    """The network `resenc_l` or `plain_conv_unet` of a bundle, with few filters."""
    inner = build(list(patch), list(spacing), channels, outputs, filters=filters)
    return AdaptedNetwork("resenc_l" if build is residual_encoder_unet else "plain_conv_unet", inner, patch).eval()


def our_plain_unet(**settings):
    return our_unet(build=plain_conv_unet, **settings)


def features_of(network, x):
    """What the last stage of a U-Net's decoder computes, before the heads."""
    found = []
    handle = network.decoder.stages[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        network(x)
    handle.remove()
    return found[0]


def nnunet_checkpoint(network, trainer="nnUNetTrainer", labels=None, configuration=None, **more):
    """The content of a checkpoint of nnU-Net v2, with the NumPy numbers of its log."""
    plans = {
        "plans_name": "nnUNetResEncUNetLPlans",
        "configurations": {
            "3d_fullres": {
                "patch_size": [32, 32, 32],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"],
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
                },
                **(configuration or {}),
            },
            "3d_cascade_fullres": {"inherits_from": "3d_fullres"},
        },
    }
    description = {"labels": labels or {"background": 0, "anterior": 1, "posterior": 2}, "channel_names": {"0": "MRI"}}
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "train_losses": [np.float32(0.5), np.float64(0.25)],
            "dice_per_class_or_region": [[np.float64(0.9), np.float32(0.8)]],
            "mean_fg_dice": [np.float64(0.85)],
            "epoch_start_timestamps": [1.0],
        },
        "_best_ema": np.float64(0.85),
        "current_epoch": 2,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": description,
            "device": torch.device("cpu"),
        },
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **more,
    }


def nnssl_plan(architecture="ResEncL", style="onemmiso", patch=(160, 160, 160), **more):
    """An adaptation plan as nnssl writes it: plain values only."""
    configuration = {
        "data_identifier": f"nnsslPlans_{style}",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": style,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "spacing": [1, 1, 1] if style == "onemmiso" else None,
        "patch_size": list(patch),
    }
    return {
        "architecture_plans": {
            "arch_class_name": architecture, "arch_kwargs": None, "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenMind",
            "plans_name": "nnsslPlans",
            "original_median_spacing_after_transp": [1, 1, 1],
            "image_reader_writer": "SimpleITKIO",
            "configurations": {style: configuration},
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": list(patch),
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
        **more,
    }  # fmt: skip


def nnssl_checkpoint(network, plan=None, state=None):
    """The content of a published checkpoint of nnssl."""
    return {
        "network_weights": state or network.state_dict(),
        "nnssl_adaptation_plan": plan or nnssl_plan(),
        "trainer_name": "BaseMAETrainer_BS8",
        "citations": ["..."],
    }


def as_sparse(state):
    """Make a U-Net's state dict one of sparse pretraining, of whose encoder only `all_modules` is trained.

    nnssl's conversion replaces the layers in each of their places by new objects, and the encoder of the decoder stays
    as it was before the training.
    """
    untrained = [
        name
        for name in state
        if "encoder." in name and (name.startswith("decoder.encoder.") or ".all_modules." not in name)
    ]
    return {name: torch.rand_like(value) if name in untrained else value for name, value in state.items()}
