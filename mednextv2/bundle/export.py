"""Export of a bundle's trained network: to TorchScript, torch.export, ONNX or TensorRT, or its weights alone."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from mednextv2.bundle.export_formats import FORMATS, Sizes, needs
from mednextv2.bundle.export_weights import SAFETENSORS, beside, export_weights
from mednextv2.bundle.metadata import read_facts
from mednextv2.bundle.run import as_setting, chosen_weights, configure, find_bundle, read_workflow
from mednextv2.errors import InputError, UsageError, find_input_error
from mednextv2.inference.exported_network import RECORD, ExportedNetwork
from mednextv2.inference.fold_ensemble import FoldEnsemble, describe_choice
from mednextv2.nets import AdaptedNetwork
from mednextv2.nets.legal_sizes import DIVISOR
from mednextv2.paths import absolute, new_folder, writing
from mednextv2.text_files import read_json
from mednextv2.version import __version__
from mednextv2.weights.exported_files import add_record
from mednextv2.weights.file_kinds import is_exported
from mednextv2.weights.files import digest_file
from mednextv2.weights.provenance import read_about, trained_cases
from mednextv2.weights.safetensors_file import ENDING

_TOLERANCE = 1e-3  # largest difference of logits, as a part of the largest logit; float16 has twice as much


class _Mean(nn.Module):
    """The mean of the logits of several networks, as of :class:`mednextv2.inference.FoldEnsemble`."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).mean(0)


def export_bundle(
    bundle: str | os.PathLike,
    format: str = "ts",
    output: str | os.PathLike | None = None,
    **settings: Any,
) -> Path:
    """Export the network of a bundle with its weights, and compare the file with the network before it gets its name.

    The exported network computes in float32, takes preprocessed windows of any legal size if the network does, and
    consists of PyTorch's own operators. It records what the weights record, the bundle's name and version, the labels,
    the channels, the window and the SHA-256 of the weights. As `weights` of the bundle's inference, it takes their
    place.

    Args:
        bundle: The folder or name of the bundle.
        format: One of :data:`mednextv2.bundle.export_formats.FORMATS`, or `safetensors` for the weights alone: see
            :func:`mednextv2.bundle.export_weights.export_weights`.
        output: The file to write; by default, `model` with the format's ending in the bundle's folder `models`, but for
            `safetensors` in the folder of the weights.
        **settings: Settings of the bundle's `inference.yaml`, such as `weights`, `folds` or `patch_size`.

    Returns:
        The file.

    Raises:
        InputError: If a setting is wrong, there are no weights, a package or a GPU is missing, the file cannot be
            written, or the network cannot be exported.
    """
    if format not in (*FORMATS, SAFETENSORS):
        raise UsageError(f"--format {format}: should be one of {', '.join((*FORMATS, SAFETENSORS))}")
    ending, name = (ENDING, "model") if format == SAFETENSORS else (FORMATS[format].ending, FORMATS[format].name)
    root = find_bundle(bundle)
    file = absolute(output) if output is not None else root / "models" / f"{name}{ending}"
    if file.suffix != ending or file.is_dir():
        raise UsageError(f"--output {output}: should be the name of a file that ends with {ending}")
    if settings.get("amp") not in (None, False):
        raise UsageError("--amp: an exported network computes in float32; leave this setting out")
    files, settings = configure(root, "inference", settings)
    settings = {**settings, "amp": False}
    weights = chosen_weights(files, root, settings)
    if exported := [path for path in weights if is_exported(path)]:
        raise InputError(f"{exported[0]}: is exported already; give a file of weights, such as model.pt")
    needs(format)
    parser = _parser(files, root, settings)
    network = _network(parser, weights)  # which says whether the weights fit it
    if format == SAFETENSORS:
        return export_weights(weights, file if output is not None else beside(weights, file))
    patch = [int(size) for size in _get(parser, "patch")]
    channels = [str(channel) for channel in _get(parser, "channels")]
    sizes = Sizes(len(channels), patch, window_axes(_get(parser, "network_def"), patch))
    with new_folder(file.parent, "output"), writing(file) as temporary:
        try:
            sizes = FORMATS[format].write(network, temporary, sizes, files, weights, settings | {"bundle_root": root})
        except Exception as e:  # exporters raise exceptions of many kinds
            if isinstance(e, OSError):
                raise  # it gets the name of the file
            if found := find_input_error(e):
                raise found from e
            raise InputError(
                f"{file}: this network cannot be exported to {FORMATS[format].title} ({_brief(e)}); choose another "
                "--format"
            ) from e
        about = _about(root, format, weights, _get(parser, "scheme").legend, channels, sizes)
        add_record(temporary, about, _configs(root, files, settings))
        _verify(network, temporary, file, sizes, format)
    for line in describe_choice(weights):
        print(line)
    return file


def _parser(files: Sequence[str], root: Path, settings: Mapping[str, Any]) -> ConfigParser:
    parser = read_workflow(files)
    device = {"device": "cpu"}  # a file that is made on a CPU runs everywhere
    parser.update({"bundle_root": root, **{k: as_setting(k, v) for k, v in settings.items()}, **device})
    _get(parser, "settings")
    return parser


def _get(parser: ConfigParser, name: str) -> Any:
    try:
        return parser.get_parsed_content(name)
    except Exception as e:
        raise find_input_error(e) or e from None


def _network(parser: ConfigParser, weights: Sequence[str]) -> nn.Module:
    network = _get(parser, "network_def")
    ensemble = FoldEnsemble(network, weights, cuda_graph=False, labels=_get(parser, "scheme").legend)
    ensemble.load()
    networks = list(ensemble.networks)
    return (networks[0] if len(networks) == 1 else _Mean(networks)).eval()


def window_axes(network: nn.Module, patch: Sequence[int]) -> list[dict[str, int]]:
    """Return what each axis of a window may be: see :class:`mednextv2.bundle.export_formats.Sizes`."""
    multiples: Any = DIVISOR
    if isinstance(network, AdaptedNetwork):
        if network.fixed:
            return [{"size": size} for size in patch]
        multiples = network.multiples
    steps = [multiples] * len(patch) if isinstance(multiples, int) else list(multiples)
    # with one voxel at the lowest resolution, exporters take the axis for one that is always of this size
    return [
        {"multiple": step, "least": 2 * step} if size >= 2 * step else {"size": size}
        for size, step in zip(patch, steps, strict=True)
    ]


def _about(
    root: Path, format: str, weights: Sequence[str], labels: Sequence[str], channels: Sequence[str], sizes: Sizes
) -> dict[str, Any]:
    """Return what the file records: what all weights record alike, all cases they were trained on, and the export."""
    records = [read_about(file) for file in weights]
    same = {k: v for k, v in records[0].items() if all(other.get(k) == v for other in records)}
    if len(records) > 1 and all("training" in record for record in records):
        same["training"] = sorted(trained_cases(weights))
    facts = read_facts(root)
    export = {
        "format": format, "bundle": facts.name, "version": facts.version, "channels": list(channels),
        "patch": list(sizes.patch), "axes": sizes.axes, "mednextv2": __version__, "pytorch": str(torch.__version__),
        "weights": [{"file": Path(file).name, "sha256": digest_file(file)} for file in weights],
    }  # fmt: skip
    return {**same, "labels": list(labels), RECORD: export}


def _configs(root: Path, files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configurations with which other programs run the exported network: with the settings of the export."""
    config: Any = read_workflow(files).config  # a dictionary, since it was read from files
    config = {key: value for key, value in config.items() if key != ConfigParser.meta_key}
    own = ("weights", "folds", "bundle_root")
    config |= {key: value for key, value in settings.items() if key in config and key not in own}
    metadata = root / "configs" / "metadata.json"
    return {"inference": config, **({"metadata": read_json(metadata)} if metadata.is_file() else {})}


def _verify(network: nn.Module, temporary: Path, file: Path, sizes: Sizes, format: str) -> None:
    """Compare an exported file with the network, on windows of two sizes and two numbers of windows."""
    device = torch.device("cuda" if format == "trt" else "cpu")
    network = network.to(device)
    exported = ExportedNetwork(temporary, device)
    generator = torch.Generator().manual_seed(0)
    for number, shape in enumerate(sizes.examples(), 1):
        x = torch.randn((number, sizes.channels, *shape), generator=generator).to(device)
        with torch.no_grad():
            expected = network(x).float()
        difference = (exported(x) - expected).abs().max().item()
        if not difference <= _TOLERANCE * max(expected.abs().max().item(), 1e-6):
            raise InputError(
                f"{file}: not written, since the exported network differs from the network by {difference:.2g} on a "
                f"window of {list(shape)} voxels; choose another --format"
            )


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
