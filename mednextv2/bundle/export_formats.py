"""The formats to which a network can be exported, and how each is written.

PyTorch ends the process when it finds the disk full, so it writes into memory, and Python writes the file.
"""

import importlib
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mednextv2.errors import InputError

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ALIGNMENT = 64  # bytes; PyTorch begins the content of each part of an archive at a multiple
_HEADER, _FIELD = 30, 4  # bytes of a part's header before its name, and of the extra field's own header


@dataclass(frozen=True)
class Sizes:
    """What an exported network takes.

    Attributes:
        channels: The number of channels of the image.
        patch: The bundle's window in voxels.
        axes: For each spatial axis, `{"multiple": m, "least": l}` if windows of other sizes can be taken, or
            `{"size": n}`.
    """

    channels: int
    patch: Sequence[int]
    axes: list[dict[str, int]]

    def examples(self) -> list[tuple[int, ...]]:
        """Return two sizes of windows, one small and the bundle's own; if nothing can vary, the same twice."""
        small = [axis.get("size") or axis["least"] + axis["multiple"] * (n % 2) for n, axis in enumerate(self.axes)]
        return [tuple(self.patch), tuple(small)]


def _write_script(network: nn.Module, file: Path, sizes: Sizes, *_: Any) -> Sizes:
    with torch.no_grad(), _quietly():
        traced = torch.jit.trace(network, _example(sizes), check_trace=False)  # the file itself is compared
        torch.jit.save(traced, buffer := io.BytesIO())
    file.write_bytes(_without_debug_files(buffer).getbuffer())
    return sizes


def _write_program(network: nn.Module, file: Path, sizes: Sizes, *_: Any) -> Sizes:
    program, sizes = _program(network, sizes)
    with _quietly():
        torch.export.save(program, buffer := io.BytesIO())
    file.write_bytes(buffer.getbuffer())
    return sizes


def _write_onnx(network: nn.Module, file: Path, sizes: Sizes, *_: Any) -> Sizes:
    program, sizes = _program(network, sizes)
    with torch.no_grad(), _quietly():
        onnx = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["image"], output_names=["logits"], optimize=True
        )
    assert onnx is not None
    model = onnx.model_proto
    _clear_notes(model)
    file.write_bytes(model.SerializeToString())
    return sizes


def _without_debug_files(script: io.BytesIO) -> io.BytesIO:
    """Leave out the parts of a TorchScript archive that only say from which lines of which files it was traced."""
    out = io.BytesIO()
    with zipfile.ZipFile(script) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.infolist():
            if part.filename.endswith(".debug_pkl"):
                continue
            copy = zipfile.ZipInfo(part.filename)
            copy.compress_type = part.compress_type
            start = out.tell() + _HEADER + len(part.filename.encode()) + _FIELD
            gap = -start % _ALIGNMENT
            copy.extra = b"FB" + gap.to_bytes(2, "little") + b"Z" * gap  # as PyTorch fills the gap
            new.writestr(copy, old.read(part))
    return out


def _clear_notes(message: Any) -> None:
    """Empty the texts of an ONNX model that only describe its parts, some of which are paths of this machine."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _clear_notes(part)


def _write_trt(
    network: nn.Module,
    file: Path,
    sizes: Sizes,
    configuration: Sequence[str],
    weights: Sequence[str],
    settings: Mapping[str, Any],
) -> Sizes:
    """Write engines of TensorRT with MONAI's own command, which needs a GPU, for windows of the bundle's size."""
    from monai.bundle import trt_export

    if len(weights) > 1:
        raise InputError("--format trt: takes the weights of one training; choose them with --weights or --folds")
    most = max(2, int(settings.get("window_batch_size", 2)))
    trt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=weights[0],
        config_file=list(configuration),
        meta_file=None,
        precision="fp32",
        input_shape=[1, sizes.channels, *sizes.patch],
        dynamic_batchsize=[1, most, most],
        use_trace=True,
        **{key: value for key, value in settings.items() if key not in ("weights", "folds")},
    )
    return replace(sizes, axes=[{"size": size} for size in sizes.patch])


class _Format(NamedTuple):
    title: str
    name: str  # of the file, without its ending
    ending: str
    write: Callable[..., Sizes]


#: The formats by the names that `--format` takes.
FORMATS = {
    "ts": _Format("TorchScript", "model", ".ts", _write_script),
    "pt2": _Format("torch.export", "model", ".pt2", _write_program),
    "onnx": _Format("ONNX", "model", ".onnx", _write_onnx),
    "trt": _Format("TensorRT", "model_trt", ".ts", _write_trt),
}


def needs(format: str) -> None:
    """Check that the packages are there that a format needs.

    Raises:
        InputError: If a package is missing.
    """
    for package in _ONNX_PACKAGES if format == "onnx" else ():
        try:
            importlib.import_module(package)
        except ImportError as e:
            raise InputError(
                f"--format onnx: needs the package {package}, which cannot be imported ({e}); install what it needs "
                "with pip install 'mednextv2[onnx]'"
            ) from e


def _program(network: nn.Module, sizes: Sizes) -> tuple[torch.export.ExportedProgram, Sizes]:
    """Export a network for windows of any legal size, or of the bundle's only if its code depends on the size."""
    x = _example(sizes)
    batch = torch.export.Dim("batch", min=1, max=1024)
    spatial = {
        n + 2: axis["multiple"] * torch.export.Dim(f"axis{n}", min=2, max=4096)
        for n, axis in enumerate(sizes.axes)
        if "multiple" in axis
    }
    with torch.no_grad(), _quietly():
        program = torch.export.export(network, (x,), dynamic_shapes=({0: batch, **spatial},))
    # conditions of the sizes with which it was traced: code that a reader would have to run; sizes are checked by us
    if hasattr(program, "_guards_code"):
        program._guards_code = []
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program, sizes


def _example(sizes: Sizes) -> torch.Tensor:
    small = sizes.examples()[1]  # of three windows, since one and two are special for exporters
    return torch.randn((3, sizes.channels, *small), generator=torch.Generator().manual_seed(1))


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide what exporters say about themselves; what a user must know is an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
