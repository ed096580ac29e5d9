"""The verb `export`: write a bundle's network as a file for other programs."""

from typing import Any


def export(bundle: str, format: str = "ts", output: str | None = None, **settings: Any) -> None:
    """Export a bundle's trained network to TorchScript, torch.export, ONNX or TensorRT, or its weights to safetensors.

    The file contains the network with its weights. It takes preprocessed windows and returns logits, both in float32.
    The result is compared with the network before the file gets its name. To segment images with the file, give it as
    --weights of predict or of a workflow. A file of safetensors has the weights alone, and takes the place of a
    model.pt everywhere.

    Args:
        bundle: The folder or the name of the bundle, such as mednextv2_hippocampus.
        format: The format: ts (TorchScript), pt2 (torch.export), onnx, trt (TensorRT; this needs an NVIDIA GPU and
            the package torch-tensorrt), or safetensors. The formats onnx and safetensors need the packages of pip
            install 'mednextv2[onnx]' and 'mednextv2[safetensors]'.
        output: The file to write. By default, it is model.ts, model.pt2, model.onnx or model_trt.ts in the folder
            models of the bundle, and for safetensors model.safetensors beside the weights.
        settings: Any setting at the top of the bundle's configs/inference.yaml, such as --weights FILE or --folds 0,1.
            The mean of several networks is exported as one network.

    Examples:
        mednextv2 export mednextv2_hippocampus --format onnx --output hippocampus.onnx
        mednextv2 export bundles/mednextv2_liver --format pt2 --folds 0
        mednextv2 export mednextv2_hippocampus --weights model.pt --output hippocampus.ts
        mednextv2 export mednextv2_hippocampus --format safetensors --output hippocampus.safetensors
    """
    from mednextv2.bundle.export import export_bundle

    print(f"written: {export_bundle(bundle, format, output, **settings)}")
