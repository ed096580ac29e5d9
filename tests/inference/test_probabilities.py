"""Probabilities on disk, against those of the route that holds all logits."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from predict_helpers import BUNDLE, QUICK, save

import mednextv2
from mednextv2.errors import InputError
from mednextv2.inference import StreamingInferer
from mednextv2.inference.probabilities import probabilities_into
from mednextv2.label_scheme import LabelScheme


@pytest.fixture(scope="module")
def regional(tmp_path_factory):
    """The bundle with regions, other voxels and weights of chance."""
    from mednextv2.bundle import write_bundle
    from mednextv2.nets import create_mednext

    root = tmp_path_factory.mktemp("regions") / "mednextv2_regions"
    root.mkdir()
    text = (BUNDLE / "task.yaml").read_text(encoding="utf-8")
    regions = "regions: [{name: whole, values: [1, 2], paint: 1}, {name: core, values: [2], paint: 2}]"
    text = text.replace("regions: []", regions).replace("spacing: [1.0, 1.0, 1.0]", "spacing: [1.3, 1.2, 1.4]")
    (root / "task.yaml").write_text(text, encoding="utf-8")
    write_bundle(root / "task.yaml")
    (root / "models").mkdir()
    torch.manual_seed(3)
    network = create_mednext("v2_tiny", in_channels=1, out_channels=2, deep_supervision=True)
    torch.save({"model": network.state_dict()}, root / "models" / "model.pt")
    return mednextv2.Predictor(root, **QUICK)


def logits_by_monai(predictor, image):
    """MONAI's sliding window, and the linear inverse of the preprocessing."""
    from monai.data import decollate_batch
    from monai.data.utils import list_data_collate
    from monai.inferers import SlidingWindowInferer

    batch = list_data_collate([predictor.preprocessing({"image": str(image), "case": "x"})])
    window = SlidingWindowInferer((48, 64, 48), 2, 0.5, "gaussian")
    with torch.no_grad():
        logits = window(batch["image"], predictor.network)
    return predictor._inverse(decollate_batch({**batch, "pred": logits})[0])["pred"].as_tensor()


def frame(voxels):
    """Return an image larger than a window, in a frame of zeros that preprocessing cuts off."""
    return np.pad(np.concatenate([voxels, voxels[::-1]]), ((3, 5), (4, 0), (0, 6)))


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_probabilities_are_those_of_monais_route(tmp_path, voxels, predictor, regional, kind):
    used = predictor if kind == "classes" else regional
    image = save(tmp_path / "x.nii.gz", frame(voxels))
    expected_labels = used(image).labels
    found = used(image, probabilities=tmp_path / "p.npy")
    assert np.array_equal(found.labels, expected_labels)
    stored = np.load(tmp_path / "p.npy", mmap_mode="r")
    logits = logits_by_monai(used, image)
    expected = logits.softmax(0) if kind == "classes" else logits.sigmoid()
    assert stored.dtype == np.float16
    assert stored.shape == expected.shape == (len(expected), *found.labels.shape)
    inside = (slice(None), slice(4, -6), slice(5, None), slice(None, -7))  # beside the frame
    np.testing.assert_allclose(stored[inside], expected[inside], atol=2e-3)
    outside = stored[:, :3]
    assert (outside == (np.array([1, 0, 0]) if kind == "classes" else np.zeros(2)).reshape(-1, 1, 1, 1)).all()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert used.inferer.probabilities is None


@pytest.mark.parametrize(("name", "text"), [("p.npz", "should end in .npy"), ("file/p.npy", "cannot be written")])
def test_probabilities_that_cannot_be_written(tmp_path, predictor, image, name, text):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=text):
        predictor(image, probabilities=tmp_path / name)


def test_an_inferer_that_does_not_stream_is_refused(tmp_path):
    inferer = SlidingWindowInferer((8, 8, 8))
    used = probabilities_into(tmp_path / "p.npy", inferer, regions=False)
    with pytest.raises(InputError, match=r"p\.npy: .*StreamingInferer, not SlidingWindowInferer"), used:
        pytest.fail("it began")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_file_and_an_inferer_that_writes_none(tmp_path):
    inferer = StreamingInferer((8, 8, 8), LabelScheme(["background", "organ"]))

    def fail():
        with probabilities_into(tmp_path / "p.npy", inferer, regions=False):
            room = inferer.probabilities((2, 4, 5, 6))
            assert room.shape == (2, 4, 5, 6)
            assert room.dtype == np.float16
            assert len(list(tmp_path.iterdir())) == 1  # the room is on the disk
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inferer.probabilities is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("regions", [False, True])
def test_what_the_preprocessing_cut_off_is_background(tmp_path, regions):
    """The inverse pads with zeros: of classes the background's probability is 1 there, of regions every one is 0."""
    inferer = StreamingInferer((8, 8, 8), LabelScheme(["background", "organ"]))
    values = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float16)

    def inverse(item):
        return {"pred": MetaTensor(torch.nn.functional.pad(item["pred"].as_tensor(), (0, 0, 0, 0, 1, 2)))}

    with probabilities_into(tmp_path / "p.npy", inferer, regions) as finish:
        inferer.probabilities(values.shape)[:] = values
        finish(MetaTensor(torch.zeros(1, 4, 5, 6)), inverse)
    found = np.load(tmp_path / "p.npy")
    assert found.shape == (2, 7, 5, 6)
    np.testing.assert_allclose(found[:, 1:-2], values, atol=1e-3)
    cut = np.concatenate([found[:, :1], found[:, -2:]], axis=1)
    assert (cut[0] == (0 if regions else 1)).all()
    assert (cut[1] == 0).all()
