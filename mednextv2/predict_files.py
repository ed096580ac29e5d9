"""The command `mednextv2 predict`: images in; masks, DICOM objects and a report out."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple
from tqdm import tqdm

from mednextv2.bundle.metadata import read_facts
from mednextv2.bundle.run import chosen_weights, configure, find_bundle, read_workflow
from mednextv2.data.sizes import AREA, size_kind
from mednextv2.errors import InputError
from mednextv2.images.dicom_references import Model
from mednextv2.inference.inputs import CheckImaged, find_images
from mednextv2.inference.prediction_orders import (
    CheckOrder,
    Extras,
    Order,
    check_extras,
    place_masks,
    warn_of_modalities,
)
from mednextv2.inference.preflight import find_defects
from mednextv2.inference.weights_choice import describe_choice
from mednextv2.paths import new_folder
from mednextv2.predictor import Predictor
from mednextv2.scores.csv_tables import write_csv
from mednextv2.wording import count

logger = logging.getLogger(__name__)

#: The name of the table of volumes, or of areas of 2D images, that comes with a report.
VOLUMES_NAME = "volumes.csv"


def predict_files(
    bundle: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    series: str | int | None = None,
    dicom_seg: bool = False,
    report: bool = False,
    probabilities: bool = False,
    rtstruct: bool = False,
    dicom_seg_storage: str | None = None,
    **settings: Any,
) -> list[Path]:
    """Segment images and write their masks.

    Everything that can be checked is checked before weights are loaded: settings, the places of masks, all images. If
    there are several DICOM series, one that cannot be segmented does not stop the others.

    Args:
        bundle: The folder or name of the bundle.
        source: The images: see :func:`mednextv2.inference.find_images`.
        output: For a single image, a file to write: `.nii.gz`, `.nii`, `.nrrd` or `.mha`. Otherwise, a folder, in which
            masks are named `case_seg.nii.gz`.
        series: The series of a DICOM study: see :func:`mednextv2.inference.find_images`.
        dicom_seg: Whether to write a DICOM SEG beside each mask.
        report: Whether to write `report.html`, `volumes.csv` (with areas if images are 2D) and `results.json` beside
            the masks.
        probabilities: Whether to write each output's probabilities beside each mask: see
            :meth:`mednextv2.Predictor.__call__`.
        rtstruct: Whether to write a DICOM RT Structure Set beside each mask.
        dicom_seg_storage: How segments are stored: see :func:`mednextv2.images.dicom_seg.write_dicom_seg`.
        **settings: Settings of the bundle's `inference.yaml`.

    Returns:
        The files that were written.

    Raises:
        InputError: If something cannot work; then nothing is written, except the masks of other series.
    """
    root = find_bundle(bundle)
    extras = Extras(dicom_seg, dicom_seg_storage, rtstruct, probabilities, report)
    files, _ = configure(root, "inference", settings, more=("series", *(field.name for field in fields(extras))))
    if wrong := [name for name in ("input", "output_dir", "series") if name in settings]:
        raise InputError(f"--{wrong[0]}: predict takes it as an argument: mednextv2 predict BUNDLE INPUT OUTPUT")
    if dicom_seg_storage is not None and not dicom_seg:
        raise InputError(f"--dicom_seg_storage {dicom_seg_storage}: is about a DICOM SEG; ask for one with --dicom_seg")
    channels, spatial_dims = _facts(files)
    orders = place_masks(find_images(source, channels, series), output, extras.beside)
    folder = orders[0].mask.parent
    if Path(source).is_dir() and folder.resolve() in {Path(source).resolve(), _home(orders[0])}:
        raise InputError(f"{folder}: holds the images; choose another output, or masks would be taken for images later")
    if report:
        _check_report(folder)
    check_extras(orders, extras)
    facts = read_facts(root)
    warn_of_modalities(orders, facts.modalities)
    with new_folder(folder, "output"):
        check = CheckOrder(CheckImaged("image", len(channels), spatial_dims), extras)
        orders, failed = _sound(orders, check)
        predictor = Predictor(bundle, **settings)
        for line in describe_choice(chosen_weights(files, root, settings)):
            print(line)
        return _carry_out(orders, predictor, extras, failed, Model(facts.name, facts.version))


def _home(order: Order) -> Path:
    """Return the folder of an image, which within a data set is not the folder that the user named."""
    return Path(ensure_tuple(order.item["image"])[0]).resolve().parent


def _sound(orders: list[Order], check: CheckOrder) -> tuple[list[Order], list[str]]:
    """Return the orders that can be carried out, and the problem of each of the others."""
    defects = find_defects([order.item for order in orders], check)
    failed = [f"{order.case}: {defect}" for order, defect in zip(orders, defects, strict=True) if defect]
    sound = [order for order, defect in zip(orders, defects, strict=True) if not defect]
    if failed and len(orders) == 1:
        raise InputError(next(filter(None, defects)))
    if failed and not (sound and orders[0].series):  # files were chosen by the user, so none is left out
        lines = [f"{len(failed)} of {count(len(orders), 'image')} cannot be segmented: mend or remove them"]
        raise InputError("\n".join(lines + [f"- {text}" for text in filter(None, defects)]))
    return sound, failed


def _carry_out(
    orders: Sequence[Order], predictor: Predictor, extras: Extras, failed: list[str], model: Model
) -> list[Path]:
    written: list[Path] = []
    done: dict[str, dict[str, float]] = {}  # the sizes of structures by the cases' names
    total = len(orders) + len(failed)
    for text in failed:
        logger.error("%s", text)
    for order in tqdm(orders, desc="segmenting", unit="image", disable=len(orders) < 2, file=sys.stderr):
        try:
            files, done[order.case] = _segment(order, predictor, extras, model)
            written += files
        except InputError as e:
            if total == 1 or not order.series:
                raise
            failed.append(f"{order.case}: {e}")
            logger.error("%s", failed[-1])  # its traceback would not help a user
    if extras.report and done:
        written += _report(predictor, [order for order in orders if order.case in done], done)
    if failed:
        lines = [f"{len(failed)} of {count(total, 'series', 'series')} could not be segmented; the others were"]
        raise InputError("\n".join(lines + [f"- {text}" for text in failed]))
    return written


def _segment(order: Order, predictor: Predictor, extras: Extras, model: Model) -> tuple[list[Path], dict[str, float]]:
    """Segment one image and write the requested files; return the files and the structures' sizes.

    `model` is named in DICOM objects if the predictor, which may be the caller's own, does not say what its model is.
    """
    for one in order.series:
        tqdm.write(f"series {one.row()}", file=sys.stdout)
        for note in one.notes():
            logger.warning("%s", note)
    into = order.beside(Extras.ENDINGS["probabilities"]) if extras.probabilities else None
    segmentation = predictor(order.item["image"], case=order.case, probabilities=into)
    if segmentation.model is None:
        segmentation = replace(segmentation, model=model)
    written = [segmentation.save(order.mask)]
    objects: dict[str, Callable[[Path], Path]] = {
        "dicom_seg": lambda path: segmentation.save_dicom_seg(path, extras.dicom_seg_storage),
        "rtstruct": segmentation.save_rtstruct,
    }
    wanted = {name: save for name, save in objects.items() if getattr(extras, name)}
    if wanted and not segmentation.labels.any():
        logger.warning("%s: nothing was segmented, so that there is no DICOM object", order.case)
    else:
        written += [save(order.beside(Extras.ENDINGS[name])) for name, save in wanted.items()]
    sizes = segmentation.sizes
    tqdm.write(f"{order.mask}: {_shown(sizes, segmentation.size_kind.unit)}", file=sys.stdout)
    return [*written, into] if into else written, sizes


def _facts(files: Sequence[str]) -> tuple[list[str], int]:
    parser = read_workflow(files)
    return parser.get_parsed_content("channels"), len(parser.get_parsed_content("patch_size"))


def _check_report(folder: Path) -> None:
    from mednextv2.scores.results_json import RESULTS_NAME, read_results

    if (folder / RESULTS_NAME).is_file() and read_results(folder).kind != "prediction":
        raise InputError(
            f"{folder}: holds the results of an evaluation, which a report would replace; choose another output"
        )


def _shown(sizes: Mapping[str, float], unit: str) -> str:
    found = [(name, size) for name, size in sizes.items() if size > 0]
    shown = ", ".join(f"{name} {size:.3g} {unit}" for name, size in found[:8])
    return (shown or "nothing was segmented") + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def _report(predictor: Predictor, orders: Sequence[Order], sizes: Mapping[str, dict[str, float]]) -> list[Path]:
    """Write the report's page, the structures' sizes as a table, and the data from which the page can be made again."""
    from mednextv2.report import CaseFiles, Results, write_report, write_results

    folder, scheme, kind = orders[0].mask.parent, predictor.scheme, size_kind(predictor.spatial_dims)
    images = {order.case: ensure_tuple(order.item["image"]) for order in orders}
    cases = [
        CaseFiles(
            order.case,
            tuple(os.path.abspath(os.fspath(file)) for file in images[order.case]),
            str(order.mask.absolute()),
            volumes_ml=None if kind is AREA else sizes[order.case],
            areas_mm2=sizes[order.case] if kind is AREA else None,
        )
        for order in orders
    ]
    column = kind.columns[0]
    rows = [{"case": case, "label": name, column: size} for case, own in sizes.items() for name, size in own.items()]
    write_csv(folder / VOLUMES_NAME, rows)
    title = f"Prediction with {predictor.root.name}"
    write_results(folder, Results("prediction", title, scheme.foreground, scheme.members, cases))
    return [folder / VOLUMES_NAME, write_report(folder, sources=images)]
