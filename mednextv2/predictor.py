"""Segmentation of single images from Python: a bundle's inference workflow, loaded once."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd, SaveImage, SaveImaged

from mednextv2.bundle.metadata import read_facts
from mednextv2.bundle.run import as_setting, configure, find_bundle, read_workflow
from mednextv2.errors import InputError, find_input_error
from mednextv2.images.dicom import DicomSeries, series_affine
from mednextv2.images.dicom_references import Model
from mednextv2.images.dicom_tilt import is_tilted, to_slices
from mednextv2.images.planes import restore_axes
from mednextv2.images.volume import affine_4x4
from mednextv2.inference.inputs import find_images, series_of
from mednextv2.inference.probabilities import bring_to_slices, probabilities_into
from mednextv2.label_scheme import LabelScheme
from mednextv2.segmentation import Segmentation
from mednextv2.weights.files import digest_file

#: An image to segment: a file, one file for each channel, the folder of a DICOM series, or an image in memory.
Image = str | os.PathLike | Sequence[str | os.PathLike] | nib.spatialimages.SpatialImage | tuple[Any, Any] | MetaTensor


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the InputError itself, which MONAI's parser and `Compose` wrap in other exceptions."""
    try:
        yield
    except Exception as e:
        raise find_input_error(e) or e from None


class Predictor:
    """A bundle's inference, loaded once for many images.

    No settings of the process are changed: see docs/predict.md for those that a program may change, such as
    :func:`mednextv2.keep_freed_memory` for speed on CPUs.

    Args:
        bundle: The folder or name of the bundle: see :func:`mednextv2.bundle.run.find_bundle`.
        **settings: Settings of the bundle's `inference.yaml`, such as `device="cpu"`, `weights=FILE`, `overlap=0.25`,
            `test_mirror_axes=[]`.

    Raises:
        InputError: If the bundle or a setting does not exist, or the weights are missing or of another network.
    """

    def __init__(self, bundle: str | os.PathLike, **settings: Any) -> None:
        root = find_bundle(bundle)
        files, settings = configure(root, "inference", settings)
        parser = read_workflow(files)
        parser.update({"bundle_root": root, **{k: as_setting(k, v) for k, v in settings.items()}})
        self.root, self._parser = root, parser
        self._get("settings")
        with torch.random.fork_rng(devices=[]):  # keeps the host's random numbers; these weights are replaced
            self._get("network_def")
        self.channels: list[str] = self._get("channels")
        self.spatial_dims = len(self._get("patch_size"))
        self.scheme: LabelScheme = self._get("scheme")
        self.device = torch.device(self._get("device"))
        self.network = self._get("predictor")
        self.network.load()
        self.network.eval()
        self.inferer = self._get("inferer")
        self.preprocessing = self._get("preprocessing")
        after = self._get("postprocessing")
        self.postprocessing = Compose([t for t in after.transforms if not isinstance(t, (SaveImage, SaveImaged))])
        self._inverse = next(t for t in after.transforms if isinstance(t, Invertd))
        facts = read_facts(root)
        self.model = Model(facts.name, facts.version, tuple(digest_file(file) for file in self.network.weights))
        self._autocast = {"enabled": bool(self._get("engine_amp")), **self._get("amp_kwargs")}

    def __call__(
        self,
        image: Image,
        series: str | int | None = None,
        case: str | None = None,
        probabilities: str | os.PathLike | None = None,
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: A file; a list of files, one for each channel; a folder of a DICOM series, a
                :class:`mednextv2.data.DicomSeries` or a list of them, one for each channel; a nibabel image; a pair of
                an array `(X, Y, Z)` (with channels, if there are several, as the last axis) and an affine `(4, 4)`; or
                a MetaTensor `(C, X, Y, Z)` or `(X, Y, Z)`. A 2D image has no Z, or a Z of length one.
            series: The DICOM series, if there are several: see :func:`mednextv2.inference.find_images`.
            case: A name for messages.
            probabilities: A `.npy` file to write, `(outputs, X, Y, Z)`, float16, in the image's geometry. It is written
                piece by piece, so that it is never in memory as a whole.

        Returns:
            The label map in the image's geometry.

        Raises:
            InputError: If the image cannot be read or does not fit the bundle.
        """
        item = self._item(image, series)
        item["case"] = case or item["case"]
        batch = list_data_collate([self._prepared(item)])
        if probabilities is None:
            pred = self._segmented(batch["image"])
        else:
            with probabilities_into(probabilities, self.inferer, bool(self.scheme.regions)) as finish:
                pred = self._segmented(batch["image"])
                finish(decollate_batch(batch)[0]["image"], self._inverse)
        result = self.postprocessing(decollate_batch({**batch, "pred": pred})[0])["pred"]
        meta = dict(result.meta)
        affine = np.asarray(torch.as_tensor(meta.get("original_affine", result.affine)).cpu(), dtype=np.float64)
        labels = restore_axes(result.as_tensor()[0].to(self.scheme.dtype).cpu().numpy(), meta)
        for first in series_of(item)[:1]:
            slices, shape = series_affine(first), (*first.slices[0].shape, len(first.slices))
            if is_tilted(slices):
                labels, affine = to_slices(labels, slices, shape), slices
                if probabilities is not None:
                    bring_to_slices(probabilities, slices, shape)
        source = item["image"] if not isinstance(item["image"], MetaTensor) else None
        return Segmentation(labels, affine, self.scheme, source, meta, self.model, self.spatial_dims)

    def _segmented(self, images: MetaTensor) -> MetaTensor:
        with torch.no_grad(), torch.autocast(self.device.type, **self._autocast):
            return self.inferer(images.to(self.device), self.network)

    def _get(self, name: str) -> Any:
        with _plain_errors():
            return self._parser.get_parsed_content(name)

    def _prepared(self, item: dict[str, Any]) -> dict[str, Any]:
        with _plain_errors():
            return self.preprocessing(item)

    def _item(self, image: Image, series: str | int | None) -> dict[str, Any]:
        if isinstance(image, DicomSeries):
            return {"image": image, "case": image.label}
        if isinstance(image, (list, tuple)) and image and all(isinstance(i, DicomSeries) for i in image):
            return {"image": list(image), "case": image[0].label}
        if series is not None and not isinstance(image, (str, os.PathLike)):
            raise InputError(f"series {series}: is for a folder of DICOM files")
        if isinstance(image, (str, os.PathLike)):
            found = find_images(image, self.channels, series)
            if len(found) > 1:
                raise InputError(f"{image}: holds {len(found)} images; give one, or call it for each")
            return found[0]
        if isinstance(image, MetaTensor):
            return {"image": self._from_tensor(image), "case": "image"}
        if isinstance(image, nib.spatialimages.SpatialImage):
            try:
                array = np.asanyarray(image.dataobj)
            except (OSError, ValueError, EOFError) as e:
                raise InputError(
                    f"image: its voxels cannot be read ({e}); copy or convert {image.get_filename()}"
                ) from e
            return {"image": self._from_array(array, image.affine), "case": "image"}
        if isinstance(image, (list, tuple)) and image and all(isinstance(i, (str, os.PathLike)) for i in image):
            return {"image": [str(i) for i in image], "case": "image"}
        if isinstance(image, (list, tuple)) and len(image) == 2:
            return {"image": self._from_array(*image), "case": "image"}
        raise InputError(
            f"image: is a {type(image).__name__}; give a path, a nibabel image, a pair of array and affine, or a "
            "MetaTensor"
        )

    def _from_array(self, array: Any, affine: Any) -> MetaTensor:
        try:
            array, affine = np.asarray(array), np.asarray(affine, dtype=np.float64)
        except (TypeError, ValueError) as e:
            raise InputError(f"image: should be an array and a 4×4 affine of numbers ({e})") from e
        dims = self.spatial_dims
        axes = 3 if dims == 2 and array.shape[2:3] == (1,) else dims  # a plane's axis of length one is dropped later
        if array.ndim not in (axes, axes + 1):
            raise InputError(f"image: has the shape {array.shape}; expected {dims}D, several channels as last axis")
        return self._in_memory(array[None] if array.ndim == axes else np.moveaxis(array, -1, 0), affine)

    def _in_memory(self, array: np.ndarray, affine: np.ndarray) -> MetaTensor:
        """Return a channel-first image that has its present geometry as that of its file."""
        if affine.shape != (4, 4):
            raise InputError(f"image: its affine should be 4×4, but has the shape {affine.shape}")
        if array.dtype.kind not in "biuf":
            raise InputError(f"image: has voxels of type {array.dtype}, not one number each")
        voxels = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        position = torch.from_numpy(affine)
        return MetaTensor(voxels, affine=position, meta={"original_affine": position.clone()})

    def _from_tensor(self, image: MetaTensor) -> MetaTensor:
        tensor = image.as_tensor().detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor  # NumPy has no bfloat16
        flat = self.spatial_dims == 2 and tensor.shape[-1] == 1
        if tensor.ndim == self.spatial_dims or (flat and tensor.ndim == 3 and len(tensor) != len(self.channels)):
            tensor = tensor[None]
        if tensor.ndim != self.spatial_dims + 1 and not (flat and tensor.ndim == 4):
            raise InputError(
                f"image: has the shape {tuple(image.shape)}; expected (C, X, Y{', Z' * (self.spatial_dims == 3)})"
            )
        affine = image.affine.cpu().numpy().astype(np.float64)
        return self._in_memory(tensor.numpy(), affine_4x4(affine) if self.spatial_dims == 2 else affine)


def predict(bundle: str | os.PathLike, image: Image, series: str | int | None = None, **settings: Any) -> Segmentation:
    """Segment one image with a bundle; use :class:`Predictor` for several.

    Args:
        bundle: The folder or name of the bundle.
        image: The image: see :meth:`Predictor.__call__`.
        series: The DICOM series, if there are several: see :meth:`Predictor.__call__`.
        **settings: Settings of the bundle's `inference.yaml`.

    Returns:
        The label map in the image's geometry.

    Raises:
        InputError: As in :class:`Predictor`.
    """
    return Predictor(bundle, **settings)(image, series)
