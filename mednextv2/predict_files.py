"""The command `mednextv2 predict`: images in, masks, DICOM SEG and a report out."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple
from tqdm import tqdm

from mednextv2.bundle.run import check_overrides, find_bundle, workflow_files
from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries
from mednextv2.images.dicom_seg import check_dicom_seg
from mednextv2.images.writer import MASK_SUFFIXES, mask_path
from mednextv2.inference.fold_ensemble import describe_choice
from mednextv2.inference.inputs import CheckImaged, find_images
from mednextv2.inference.preflight import check_images
from mednextv2.paths import new_folder
from mednextv2.predictor import Predictor, Segmentation

logger = logging.getLogger(__name__)


_SEG, _PROBABILITIES = ".dcm", "_probabilities.npy"  # endings of what comes beside a mask
_OTHER_FILES = (".gz", ".dcm", ".png", ".jpg", ".zip", ".json", ".mhd", ".img", ".hdr")


@dataclass(frozen=True)
class Order:
    """One image and where its mask goes."""

    item: dict[str, Any]
    mask: Path

    def beside(self, ending: str) -> Path:
        """Return the mask's file with another ending."""
        name = self.mask.name
        own = next(suffix for suffix in MASK_SUFFIXES if name.lower().endswith(suffix))
        return self.mask.with_name(name[: -len(own)] + ending)


def predict_files(
    bundle: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    series: str | int | None = None,
    dicom_seg: bool = False,
    report: bool = False,
    probabilities: bool = False,
    **settings: Any,
) -> list[Path]:
    """Segment images and write their masks.

    Everything that can be checked is, before weights are loaded: settings, where masks go, all images.

    Args:
        bundle: Its folder or name.
        source: See :func:`mednextv2.inference.find_images`.
        output: For one image a file to write, `.nii.gz`, `.nii`, `.nrrd` or `.mha`; or a folder, in which
            masks are named `case_seg.nii.gz`.
        series: Which series of a DICOM study: see :func:`mednextv2.data.choose_series`.
        dicom_seg: Write a DICOM SEG beside each mask.
        report: Write `report.html` beside the masks.
        probabilities: Write each output's probabilities beside each mask: see :meth:`Predictor.__call__`.
        **settings: Of the bundle's `inference.yaml`.

    Returns:
        The files that were written.

    Raises:
        InputError: For whatever cannot work; nothing is written then.
    """
    files = workflow_files(find_bundle(bundle), "inference")
    check_overrides(files, settings, more=("series", "dicom_seg", "report", "probabilities"))
    if wrong := [name for name in ("input", "output_dir", "series") if name in settings]:
        raise InputError(f"--{wrong[0]}: predict takes it as an argument: mednextv2 predict BUNDLE INPUT OUTPUT")
    channels, spatial_dims = _facts(files)
    beside = [ending for ending, wanted in ((_SEG, dicom_seg), (_PROBABILITIES, probabilities)) if wanted]
    orders = place_masks(find_images(source, channels, series), output, beside)
    folder = orders[0].mask.parent
    if Path(source).is_dir() and folder.resolve() == Path(source).resolve():
        raise InputError(f"{folder}: holds the images; choose another output, or masks would be taken for images later")
    if report:
        _check_report(folder)
    if dicom_seg:
        check_dicom_seg()
        if others := [o.item["case"] for o in orders if not isinstance(o.item["image"], DicomSeries)]:
            raise InputError(f"--dicom-seg: refers to DICOM images, but {', '.join(others[:5])} is no DICOM series")
    with new_folder(folder, "output"):
        check_images([o.item for o in orders], CheckImaged("image", len(channels), spatial_dims))
        predictor = Predictor(bundle, **settings)
        for line in describe_choice(predictor.network.weights):
            print(line)
        return _carry_out(orders, predictor, dicom_seg, report, probabilities)


def _carry_out(
    orders: Sequence[Order], predictor: Predictor, dicom_seg: bool, report: bool, probabilities: bool
) -> list[Path]:
    written: list[Path] = []
    bar = tqdm(orders, desc="segmenting", unit="image", disable=len(orders) < 2, file=sys.stderr)
    for order in bar:
        if isinstance(order.item["image"], DicomSeries):
            tqdm.write(f"series {order.item['image'].row()}", file=sys.stdout)
        into = order.beside(_PROBABILITIES) if probabilities else None
        segmentation = predictor(order.item["image"], case=order.item["case"], probabilities=into)
        written += _write(segmentation, order, dicom_seg)
        written += [into] if into else []
        tqdm.write(f"{order.mask}: {_volumes(segmentation)}", file=sys.stdout)
    if report:
        written.append(_report(predictor, orders))
    return written


def place_masks(items: Sequence[dict[str, Any]], output: str | os.PathLike, beside: Sequence[str] = ()) -> list[Order]:
    """Decide the file of each mask, and make sure that neither it nor what comes beside it replaces an image.

    Args:
        items: The images.
        output: A file or a folder.
        beside: Endings of the files that come beside each mask.

    Raises:
        InputError: When it cannot.
    """
    output = Path(output).expanduser()
    name = output.name.lower()
    if name.endswith(MASK_SUFFIXES) and not output.is_dir():
        if len(items) > 1:
            raise InputError(f"{output}: is one file for {len(items)} images; give a folder")
        orders = [Order(items[0], output)]
    elif output.is_file() or name.endswith(_OTHER_FILES):
        raise InputError(f"{output}: give a folder, or a file that ends in {', '.join(MASK_SUFFIXES)}")
    else:
        places = [i["case"] if isinstance(i["image"], DicomSeries) else ensure_tuple(i["image"])[0] for i in items]
        orders = [Order(item, mask_path(output, place)) for item, place in zip(items, places, strict=True)]
    inputs = {Path(f).resolve() for item in items for f in _files(item)}
    for order in orders:
        for file in (order.mask, *map(order.beside, beside)):
            if file.resolve() in inputs:
                raise InputError(f"{file}: is one of the images, which would be replaced; choose another output")
            if file.is_dir():
                raise InputError(f"{file}: is a folder; choose another output")
    return orders


def _files(item: dict[str, Any]) -> Sequence[str]:
    return item["image"].files if isinstance(item["image"], DicomSeries) else ensure_tuple(item["image"])


def _facts(files: Sequence[str]) -> tuple[list[str], int]:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(files)
    return parser.get_parsed_content("channels"), len(parser.get_parsed_content("patch_size"))


def _check_report(folder: Path) -> None:
    from mednextv2.scores.results_json import RESULTS_NAME, read_results

    if (folder / RESULTS_NAME).is_file() and read_results(folder).kind != "prediction":
        raise InputError(
            f"{folder}: holds the results of an evaluation, which a report would replace; choose another output"
        )


def _write(segmentation: Segmentation, order: Order, dicom_seg: bool) -> list[Path]:
    written = [segmentation.save(order.mask)]
    if dicom_seg and segmentation.labels.any():
        written.append(segmentation.save_dicom_seg(order.beside(_SEG)))
    elif dicom_seg:
        logger.warning("%s: nothing was segmented, so that there is no DICOM SEG", order.item["case"])
    return written


def _volumes(segmentation: Segmentation) -> str:
    found = [(name, ml) for name, ml in segmentation.volumes.items() if ml > 0]
    shown = ", ".join(f"{name} {ml:.3g} ml" for name, ml in found[:8])
    return (shown or "nothing was segmented") + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def _report(predictor: Predictor, orders: Sequence[Order]) -> Path:
    from mednextv2.report import CaseFiles, Results, write_report, write_results

    folder = orders[0].mask.parent
    cases = [
        CaseFiles(
            order.item["case"],
            tuple(os.path.abspath(os.fspath(file)) for file in ensure_tuple(order.item["image"])),
            str(order.mask.absolute()),
        )
        for order in orders
    ]
    scheme = predictor.scheme
    title = f"Prediction with {predictor.root.name}"
    write_results(folder, Results("prediction", title, scheme.foreground, scheme.members, cases))
    return write_report(folder)
