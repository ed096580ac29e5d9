"""A network that was exported to TorchScript, torch.export or ONNX, in the place of the network itself."""

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.nets.metatensor import plain_tensor
from mednextv2.weights.exported_files import check_exported
from mednextv2.weights.file_kinds import ENDINGS
from mednextv2.weights.mismatch import images_in_words
from mednextv2.weights.provenance import read_about
from mednextv2.wording import count

#: The name of the record about the export, within what a file records.
RECORD = "export"
Function = Callable[[Tensor], Tensor]


class ExportedNetwork(nn.Module):
    """An exported network: `(B, channels, X, Y, Z)` to logits `(B, outputs, X, Y, Z)`, both in float32.

    Args:
        path: The file: `.ts` (TorchScript, also with engines of TensorRT), `.pt2` (torch.export) or `.onnx`.
        device: The device on which windows are predicted. ONNX Runtime uses a GPU only if it was installed for GPUs.
        outputs: The numbers of outputs that the network may have; if empty, it is not checked.

    Raises:
        InputError: If the file is missing, damaged or could run code, or a package is missing that it needs.
    """

    def __init__(
        self, path: str | os.PathLike, device: torch.device | str = "cpu", outputs: Sequence[int] = ()
    ) -> None:
        super().__init__()
        check_exported(path)
        self.path, self.outputs = os.fspath(path), tuple(outputs)
        record = read_about(path).get(RECORD)
        self.record: Mapping[str, Any] = record if isinstance(record, dict) else {}
        self.device = torch.device(device)
        load = {".onnx": _load_onnx, ".pt2": _load_program, ".ts": _load_script}[Path(path).suffix.lower()]
        try:
            self._call = (load(Path(path), self.device, self.record),)  # no submodule: some know no train() and eval()
        except InputError:
            raise
        except Exception as e:  # readers of these formats raise exceptions of many kinds
            raise InputError(
                f"{path}: not a file of {ENDINGS[Path(path).suffix.lower()]} that can be used here ({_brief(e)}); "
                "export the network again"
            ) from e

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of windows.

        Raises:
            InputError: If the file is for windows of other channels or sizes, or for other outputs.
        """
        x = plain_tensor(x)
        self._check(x)
        try:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                y = self._call[0](x.float())
        except torch.OutOfMemoryError:
            raise
        except Exception as e:
            raise InputError(
                f"{self.path}: the exported network failed on a window of the shape {tuple(x.shape)} ({_brief(e)}); "
                "export the network of this bundle again, for this size (--patch_size)"
            ) from e
        fits = isinstance(y, Tensor) and y.dim() == x.dim() and y.shape[2:] == x.shape[2:] and len(y) == len(x)
        if not fits or (self.outputs and y.shape[1] not in self.outputs):
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = " or ".join(map(str, self.outputs)) or "some"
            raise InputError(
                f"{self.path}: is not a network of this bundle: for a window of the shape {tuple(x.shape)}, it returns "
                f"{found}, where {wanted} outputs of the same size are expected; give an export of this bundle"
            )
        return y

    def _check(self, x: Tensor) -> None:
        """Compare an input with what the file records."""
        channels, axes = self.record.get("channels"), self.record.get("axes")
        sizes = list(x.shape[2:])
        if isinstance(axes, list) and len(axes) != len(sizes):
            raise InputError(
                f"{self.path}: is a network for {images_in_words(len(axes))}, but this bundle is for "
                f"{images_in_words(len(sizes))}; give an export of this bundle"
            )
        if isinstance(channels, list) and len(channels) != x.shape[1]:
            raise InputError(
                f"{self.path}: is for {count(len(channels), 'channel')} ({', '.join(map(str, channels))}), but the "
                f"images of this bundle have {x.shape[1]}; give an export of this bundle"
            )
        if not isinstance(axes, list):
            return
        if not all(_takes(axis, size) for axis, size in zip(axes, sizes, strict=True)):
            takes = " × ".join(map(_axis_in_words, axes))
            raise InputError(
                f"{self.path}: was exported for windows of {takes} voxels, but those here have {sizes}; export the "
                "network again with the same --patch_size or --context"
            )


def _takes(axis: Any, size: int) -> bool:
    if not isinstance(axis, dict):
        return True
    if isinstance(axis.get("size"), int):
        return size == axis["size"]
    multiple, least = axis.get("multiple"), axis.get("least")
    return not (isinstance(multiple, int) and multiple > 0 and size % multiple) and size >= (least or 0)


def _axis_in_words(axis: Any) -> str:
    if isinstance(axis, dict) and isinstance(axis.get("size"), int):
        return str(axis["size"])
    return f"(a multiple of {axis['multiple']}, at least {axis['least']})" if isinstance(axis, dict) else "any"


def _load_script(path: Path, device: torch.device, record: Mapping[str, Any]) -> Function:
    if record.get("format") == "trt":
        _import(path, "torch_tensorrt", "it holds engines of TensorRT; install torch-tensorrt")
    return torch.jit.load(path, map_location=device).eval()


def _load_program(path: Path, device: torch.device, record: Mapping[str, Any]) -> Function:
    program = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _load_onnx(path: Path, device: torch.device, record: Mapping[str, Any]) -> Function:
    runtime = _import(path, "onnxruntime", "install what it needs with pip install 'mednextv2[onnx]'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only; they become messages here
    found = runtime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
    session = runtime.InferenceSession(path, options, providers=[name for name in wanted if name in found])
    (name,) = (entry.name for entry in session.get_inputs())

    def call(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.contiguous().cpu().numpy()})[0]).to(x.device)

    return call


def _import(path: Path, package: str, advice: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise InputError(f"{path}: needs the package {package}, which cannot be imported ({e}); {advice}") from e


def _brief(error: Exception) -> str:
    text = " ".join(re.sub(r"\[[^\]]*\]|/\S+/", " ", str(error)).split())
    return f"{type(error).__name__}: {text[:200]}"
