"""What a pretraining was done with, as far as a file of weights records it, and in what a bundle differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import lt
from typing import Any

from mednextv2.nets.legal_sizes import scaled_patch
from mednextv2.wording import times

#: The schemes of normalisation of nnU-Net and nnssl, by their names there.
_SCHEMES = {
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RGBTo01Normalization": "rgb_to_0_1",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "ZScoreNormalization": "zscore",
}
_TOLERANCE = 0.1  # spacings that differ by less, as a part of the larger, count as the same
_MOST = 100  # largest number of labels or channels that are read from a file


@dataclass(frozen=True)
class Expectations:
    """What a pretraining was done with; empty where the file does not say it.

    Attributes:
        architecture: The name of the network.
        patch_size: The size of the patches in voxels.
        recommended_patch_size: The size that is recommended for what follows.
        spacing: The spacing in mm of the images; None if they were not resampled, or it is not known.
        resampled: Whether images were resampled; None if it is not known.
        normalization: The scheme of each channel.
        labels: The meaning of the outputs, the background first.
    """

    architecture: str = ""
    patch_size: tuple[int, ...] = ()
    recommended_patch_size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    resampled: bool | None = None
    normalization: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return what is known in words, or an empty text.

        Example:
            >>> Expectations(patch_size=(160, 160, 160), spacing=(1.0, 1.0, 1.0), normalization=("zscore",)).describe()
            'patches of 160×160×160 voxels, a spacing of 1×1×1 mm and the normalisation zscore'
        """
        parts = [f"patches of {times(self.patch_size)} voxels"] if self.patch_size else []
        if self.spacing:
            parts.append(f"a spacing of {times(self.spacing)} mm")
        elif self.resampled is False:
            parts.append("images that were not resampled")
        if self.normalization:
            parts.append(f"the normalisation {', '.join(dict.fromkeys(self.normalization))}")
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)

    def differences(
        self,
        patch_size: Sequence[int] | None = None,
        spacing: Sequence[float] | None = None,
        normalization: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Say in what a bundle differs from the pretraining, in a sentence each.

        Args:
            patch_size: The bundle's patch in voxels.
            spacing: Its spacing in mm.
            normalization: Its scheme of each channel, as in `task.yaml`.
        """
        lines = []
        if spacing and self.spacing and not _alike(self.spacing, spacing):
            lines.append(
                f"the pretraining had a spacing of {times(self.spacing)} mm, the spacing here is "
                f"{times([float(length) for length in spacing])} mm; the network knows structures at the former size, "
                "so give --spacing of the pretraining unless your structures need another"
            )
        schemes = tuple(str(entry.get("scheme")) for entry in normalization or [] if isinstance(entry, Mapping))
        if schemes and self.normalization and {*schemes} != {*self.normalization}:
            lines.append(
                f"the pretraining had images with the normalisation {', '.join(dict.fromkeys(self.normalization))}, "
                f"those here have {', '.join(dict.fromkeys(schemes))}; enter the former in task.yaml "
                "(normalization), or let the training adapt to the latter"
            )
        wanted = self.recommended_patch_size or self.patch_size
        if patch_size and len(patch_size) == len(wanted) and any(map(lt, patch_size, wanted)):
            lines.append(
                f"the pretraining had patches of {times(wanted)} voxels, those here have {times(patch_size)}; "
                f'--patch_size "{list(wanted)}" gives the network as much context, if the memory allows it'
            )
        return lines


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = zip(sorted(one), sorted(other), strict=False)  # axes may be in another order
    return len(one) == len(other) and all(abs(a - b) <= _TOLERANCE * max(a, b) for a, b in pairs)


def read_expectations(content: Any) -> Expectations:
    """Return what a checkpoint of nnssl or nnU-Net records about its training.

    Args:
        content: The content of the file. An adaptation plan of nnssl (`nnssl_adaptation_plan`) and the plans and the
            description of the data set of nnU-Net (`init_args`) are understood; anything else is ignored.

    Source:
        Wald et al. 2025, OpenMind (arXiv:2412.17041), for the former; Isensee et al. 2021, nnU-Net, for the latter.
    """
    content = content if isinstance(content, Mapping) else {}
    plan = _mapping(content, "nnssl_adaptation_plan")
    if plan:
        return _of_nnssl(plan)
    arguments = _mapping(content, "init_args")
    configurations = _mapping(_mapping(arguments, "plans"), "configurations")
    configuration = _inherited(configurations, arguments.get("configuration"))
    return Expectations(
        architecture=_architecture(configuration),
        patch_size=_whole(configuration.get("patch_size")),
        spacing=_lengths(configuration.get("spacing")),
        normalization=_schemes(configuration.get("normalization_schemes")),
        labels=_labels(_mapping(arguments, "dataset_json")),
    )


def recorded_expectations(about: Mapping[str, Any]) -> Expectations:
    """Return with what weights of this project were trained, as far as they record it.

    Args:
        about: The record: see :func:`mednextv2.weights.provenance.read_about`.
    """
    settings = _mapping(about, "settings")
    channels = about.get("normalization")
    entries = channels if isinstance(channels, list) else []
    return Expectations(
        patch_size=tuple(scaled_patch(_whole(settings.get("patch_size")), settings.get("context"))),
        spacing=_lengths(settings.get("spacing")),
        normalization=_schemes([entry.get("scheme") for entry in entries if isinstance(entry, Mapping)]),
    )


def _of_nnssl(plan: Mapping[str, Any]) -> Expectations:
    configurations = _mapping(_mapping(plan, "pretrain_plan"), "configurations")
    # either the configurations by their names, of which a slim file has the one that was used, or that one itself
    several = [value for value in configurations.values() if isinstance(value, Mapping) and "patch_size" in value]
    used = configurations if "patch_size" in configurations else next(iter(several), {})
    style = used.get("spacing_style")
    spacing = (1.0, 1.0, 1.0) if style == "onemmiso" else _lengths(used.get("spacing"))
    return Expectations(
        architecture=_text(_mapping(plan, "architecture_plans").get("arch_class_name")),
        patch_size=_whole(plan.get("pretrain_patch_size")) or _whole(used.get("patch_size")),
        recommended_patch_size=_whole(plan.get("recommended_downstream_patchsize")),
        spacing=() if style == "noresample" else spacing,
        resampled=None if style is None else style != "noresample",
        normalization=_schemes(used.get("normalization_schemes")),
    )


def _inherited(configurations: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """Return a configuration of nnU-Net's plans together with what it inherits."""
    found: dict[str, Any] = {}
    for _ in range(len(configurations)):
        own = _mapping(configurations, name) if isinstance(name, str) else {}
        found = {**own, **found}
        name = own.get("inherits_from")
    return found


def _architecture(configuration: Mapping[str, Any]) -> str:
    return _text(_mapping(configuration, "architecture").get("network_class_name")).rpartition(".")[2]


def _labels(description: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the outputs of a `dataset.json` of nnU-Net, if every label is one value; regions overlap."""
    labels = _mapping(description, "labels")
    values = {str(name): value for name, value in labels.items() if name != "ignore"}
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values.values())
    if not whole or not 1 < len(values) <= _MOST or sorted(values.values()) != list(range(len(values))):
        return ()
    return tuple(sorted(values, key=values.__getitem__))


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value[:_MOST] if isinstance(value, str) else ""


def _numbers(value: Any, whole: bool) -> list[Any]:
    listed: list[Any] = list(value) if isinstance(value, (list, tuple)) and 2 <= len(value) <= 3 else []
    fit = all(isinstance(n, int if whole else (int, float)) and type(n) is not bool and 0 < n < 1e6 for n in listed)
    return listed if fit else []


def _whole(value: Any) -> tuple[int, ...]:
    return tuple(_numbers(value, whole=True))


def _lengths(value: Any) -> tuple[float, ...]:
    return tuple(float(n) for n in _numbers(value, whole=False))


def _schemes(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, (list, tuple)) and len(value) <= _MOST else []
    return tuple(_SCHEMES.get(name, name) for name in names if isinstance(name, str))
