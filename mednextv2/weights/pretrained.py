"""Weights of any origin as the start of a training: everything that fits, and a report about the rest.

What a file is and which name each of its tensors has here is known to :mod:`mednextv2.weights.foreign`; what fits is
decided here for all formats.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.weights.adaptation import adapt_channels, convert_grn_gain, enlarge_kernel
from mednextv2.weights.checksums import check_checksum
from mednextv2.weights.expectations import read_expectations, recorded_expectations
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.foreign import Source, State, describe_origin, find_source
from mednextv2.weights.heads import is_head, output_tensors
from mednextv2.weights.loading import broken_numbers, wrong_tensors
from mednextv2.weights.mismatch import describe_mismatch, read_size
from mednextv2.weights.pretrained_report import ADAPTED, LOADED, NEW, UNUSED, PretrainedReport, Row
from mednextv2.weights.provenance import describe_network, label_difference, other_labels, read_about
from mednextv2.wording import brief, count

_AUTOENCODER = "autoencoder.network."  # where checkpoint_latest.pt of a masked autoencoder has its network
_LEAST = 0.5  # the smallest part of the parameters that is worth the name of a transfer
_OTHER = "of another network"  # the status of what makes a network another one
_IDENTITY = "GRN that starts as the identity"
_GRN = (".grn.gamma", ".grn.beta")


@dataclass(frozen=True)
class _Target:
    """What a tensor is fitted to: the network's numbers of channels, its heads, and its form of GRN."""

    source: Source
    in_channels: int | None
    out_channels: int | None
    heads: dict[str, int]
    new_heads: str
    grn: tuple[str, str]  # the denominator of the file's, and of the network's


def load_pretrained(
    network: nn.Module,
    file: str | os.PathLike,
    in_channels: int | None = None,
    out_channels: int | None = None,
    labels: Sequence[str] | None = None,
    partial: bool = False,
    sha256: str | None = None,
    grn_denominator: str | None = None,
) -> PretrainedReport:
    """Load everything that fits from weights of this or another project.

    Understood are this project's files (`model.pt`, a checkpoint, safetensors), those of MedNeXt's authors (v1, and
    with GRN in checkpoints of nnU-Net v2), MONAI's MedNeXt, U-Nets of nnU-Net v2 and nnssl for the networks `resenc_l`
    and `plain_conv_unet`, and state dicts with the names of the network itself. docs/finetuning.md lists them.

    The networks must be the same, but may differ in these things:

    - Number or meaning of the outputs: the segmentation heads keep their random values. So they do if the file's heads
      reconstruct images.
    - Input channels: the filters of the first layer are adapted: see
      :func:`mednextv2.weights.adaptation.adapt_channels`.
    - Larger kernels: they are enlarged with :func:`mednextv2.weights.adaptation.enlarge_kernel`. Smaller ones are
      refused, since what would be cut off was trained.
    - GRN that the file does not have: it starts as the identity, with which the network computes the same. GRN that the
      network does not have is refused, unless it is the identity.
    - Deep supervision, and the number type of the tensors.

    Args:
        network: The network, on any device; it is changed in place.
        file: The file of weights.
        in_channels: The number of the network's input channels; by default, the first layer must fit.
        out_channels: The number of the network's outputs; by default, the heads must fit.
        labels: The meaning of the network's outputs, the background first; by default, it is not compared with what the
            file records.
        partial: Load whatever has a name and a shape of the network, also if the networks differ in more, or less than
            half of the parameters are in the file. What this leaves random is part of the report.
        sha256: The checksum that the file must have; by default, that of a file `<file>.sha256` beside it, if there is
            one, or of the bundle's `large_files.yml`.
        grn_denominator: What GRN of the file divides by, `mean` or `sum`; by default, what the file records, else mean.

    Returns:
        What was loaded, adapted, newly initialised and not used.

    Raises:
        InputError: If the file is missing, damaged, unsafe or has another checksum, if it is of another network, or if
            less than half of the parameters would be loaded. The network is left as it was.
    """
    check_checksum(file, sha256)
    content = load_file(file)
    state, own = _without_autoencoder(unwrap_state(content)), network.state_dict()
    if not isinstance(state, dict) or not state or (problem := wrong_tensors(state)):
        detail = problem if isinstance(state, dict) and state else f"It holds {brief(state)} in their place."
        raise InputError(
            f"{file}: holds no weights of this network{_of(file)}. {detail} Give the model.pt of a training, or "
            "another of the files that docs/finetuning.md lists"
        )
    source = find_source(content, state, own)
    if source is not None and (about := read_about(file)):
        source.expects = recorded_expectations(about)
    if source is None or own.keys().isdisjoint(source.tensors):
        raise _another_family(file, content, source, own, state)
    report, values = _fit_all(network, own, source, file, in_channels, out_channels, labels, grn_denominator)
    _settle(report, source, own, state, file, partial)
    _check_values(file, values, own)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}  # each once, if it is shared
    taken = {*report.loaded, *report.adapted}
    report.parameters = sum(size for name, size in sizes.items() if name in taken), sum(sizes.values())
    if not taken:
        raise _other_network(file, own, source)
    if report.fraction < _LEAST and not partial:
        raise InputError(
            f"{report.headline()}. That is less than half of the network: if this is what you want, give "
            "--pretrained_partial true"
        )
    if report.fraction < _LEAST:
        report.remarks.append(
            "less than half of the network was loaded, so that this is nearly a training from random weights"
        )
    network.load_state_dict(values, strict=False)
    return report


def _without_autoencoder(state: Any) -> Any:
    """Return only the network of a checkpoint of masked autoencoding, which may have more, such as mask tokens."""
    if not isinstance(state, dict) or not any(str(name).startswith(_AUTOENCODER) for name in state):
        return state
    return {k.removeprefix(_AUTOENCODER): value for k, value in state.items() if str(k).startswith(_AUTOENCODER)}


def _fit_all(
    network: nn.Module,
    own: State,
    source: Source,
    file: str | os.PathLike,
    in_channels: int | None,
    out_channels: int | None,
    labels: Sequence[str] | None,
    grn_denominator: str | None,
) -> tuple[PretrainedReport, State]:
    """Return what becomes of each tensor, and the new values of those that get any."""
    heads = output_tensors(network, out_channels)
    difference = other_labels(file, labels) or label_difference(source.expects.labels, labels)
    target = _Target(
        source, in_channels, out_channels, heads, source.new_heads or difference,
        (grn_denominator or _recorded_denominator(file), _denominator(network)),
    )  # fmt: skip
    report = PretrainedReport(str(file), source.title, remarks=list(source.remarks), expects=source.expects)
    values: State = {}
    for name, tensor in own.items():
        given = source.tensors.get(name)
        status, how, value = _fit(name, tensor, given, target)
        if value is not None:
            values[name] = value
        shape = tuple(given.shape) if given is not None else ()
        report.rows.append(Row(name, status, how, source.names.get(name, ""), tuple(tensor.shape), shape))
    if target.new_heads and not heads:
        report.remarks.append(f"{target.new_heads}, but the last layer is not known")
    return report, values


def _fit(name: str, own: Tensor, given: Tensor | None, target: _Target) -> tuple[str, str, Tensor | None]:
    """Return what becomes of a tensor of the network, how or why, and its new values."""
    if name in target.heads and target.new_heads:
        return NEW, target.new_heads, None
    if given is None:
        if name.endswith(_GRN):
            return NEW, _IDENTITY, torch.zeros_like(own)
        if name in target.heads or is_head(name):
            return NEW, "", None
        reason = target.source.absent.get(name, "")
        return (NEW, reason, None) if reason else (_OTHER, "not in the file", None)
    if given.shape == own.shape:
        return _same_shape(name, own, given, target)
    if reason := target.source.differs.get(name, ""):
        return NEW, reason, None
    other = _OTHER, f"{_shape(given)} in the file, {_shape(own)} in the network", None
    if given.dim() != own.dim():
        return other
    axes = [axis for axis in range(own.dim()) if own.shape[axis] != given.shape[axis]]
    if (name in target.heads and axes == [target.heads[name]]) or (axes == [0] and own.shape[0] == target.out_channels):
        return NEW, "another number of outputs", None
    if axes == [1] and own.dim() > 2 and own.shape[1] == target.in_channels:
        how = f"from {count(given.shape[1], 'input channel')} to {own.shape[1]}"
        return ADAPTED, how, adapt_channels(given, own.shape[1]).to(own.dtype)
    dims = own.dim() - 2
    if name.endswith("depthwise.weight") and axes == list(range(2, 2 + dims)) and own.shape[2] > given.shape[2]:
        how = f"kernels enlarged from {given.shape[2]} to {own.shape[2]} voxels"
        return ADAPTED, how, enlarge_kernel(given, tuple(own.shape[2:])).to(own.dtype)
    return other


def _same_shape(name: str, own: Tensor, given: Tensor, target: _Target) -> tuple[str, str, Tensor]:
    theirs, ours = target.grn
    if name.endswith(".grn.gamma") and theirs != ours:
        gamma = convert_grn_gain(given, theirs, ours).to(own.dtype)
        return ADAPTED, f"GRN of the {theirs} over channels as that of the {ours}", gamma
    if given.dtype != own.dtype and given.is_floating_point() and own.is_floating_point():
        return ADAPTED, f"from {str(given.dtype).removeprefix('torch.')}", given.to(own.dtype)
    return LOADED, "", given


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _settle(
    report: PretrainedReport, source: Source, own: State, state: State, file: str | os.PathLike, partial: bool
) -> None:
    """Add what is not used of the file, and decide about what makes the network another one."""
    known = {source.names[name]: reason for name, reason in _not_in_network(source, own).items()}
    for name, reason in {**known, **source.left}.items():
        report.rows.append(Row("", UNUSED if reason else _OTHER, reason, name, (), tuple(state[name].shape)))
    if all(row.status != _OTHER for row in report.rows):
        return
    if not partial:
        raise _other_network(file, own, source)
    report.rows = [
        row._replace(status=NEW if row.tensor else UNUSED, how=row.how or "not in the network")
        if row.status == _OTHER
        else row
        for row in report.rows
    ]
    report.remarks.append("the networks differ, and what does not fit was left out, as --pretrained_partial asks for")


def _not_in_network(source: Source, own: State) -> dict[str, str]:
    """Return why tensors with names of a network, but not of this one, may be left out; empty if they may not."""
    reasons = {}
    for name in source.tensors:
        if name in own:
            continue
        if is_head(name):
            reasons[name] = "a head of deep supervision" if name[6:7] != "0" else "a head"
        elif name.endswith(_GRN) and not source.tensors[name].any():
            reasons[name] = "GRN that is the identity"
        else:
            reasons[name] = ""
    return reasons


def _denominator(network: nn.Module) -> str:
    found = (str(part.denominator) for part in network.modules() if hasattr(part, "denominator"))
    return next(found, "mean")


def _recorded_denominator(file: str | os.PathLike) -> str:
    settings = read_about(file).get("settings")
    known = settings if isinstance(settings, dict) else {}
    return next((str(v) for k, v in known.items() if k.endswith("grn_denominator") and v in ("mean", "sum")), "mean")


def _check_values(file: str | os.PathLike, values: State, own: State) -> None:
    if problem := wrong_tensors(values, own):
        raise InputError(f"{file}: {problem}")
    if problem := broken_numbers(values):
        raise InputError(
            f"{file}: {problem}, so its training failed; give weights of another training, or an earlier state"
        )


def _other_network(file: str | os.PathLike, own: State, source: Source) -> InputError:
    kind = f" The file was recognised as: {source.title}." if source.title else ""
    more = " To load what fits all the same, give --pretrained_partial true."
    lost = [name for name in source.tensors if name.endswith(_GRN) and name not in own]
    if lost and not any(name.endswith(_GRN) for name in own):
        size = read_size(source.tensors)
        variant = f", such as --variant {size.variant}" if size and size.variant else ""
        return InputError(
            f"{file}: the weights are of a network with GRN (v2), and the network here has none (v1){_of(file)}. Every "
            f"block would compute something else; choose a variant with GRN{variant}.{kind}{more}"
        )
    kept = {name: tensor for name, tensor in source.tensors.items() if name not in source.differs}
    ours = {name: tensor for name, tensor in own.items() if name not in {*source.absent, *source.differs}}
    left = [name for name, reason in source.left.items() if not reason]
    text = describe_mismatch(ours, kept) or f"{count(len(left), 'tensor')} not in this network: {', '.join(left[:3])}."
    return InputError(f"{file}: the weights are of another network{_of(file)}. {text}{kind}{more}")


def _another_family(
    file: str | os.PathLike, content: Any, source: Source | None, own: State, state: State
) -> InputError:
    what = source.title if source is not None else describe_origin(content, read_expectations(content).architecture)
    known = f" It was recognised as: {what}." if what else ""
    remedy = (
        f"To use it, {source.network}"
        if source is not None and source.network
        else describe_mismatch(own, state, "Which weights fit is in docs/finetuning.md")
    )
    return InputError(f"{file}: holds no weights of this network{_of(file)}.{known} {remedy}")


def _of(file: str | os.PathLike) -> str:
    network = describe_network(file)
    return f", {network}" if network else ""
