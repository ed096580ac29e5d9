"""The files of a choice of post-processing: their forms, how often they are read, and what is refused."""

import itertools
import weakref

import numpy as np
import pytest
from choice_helpers import decide_by_definition, mean_dice_by_definition, row
from postprocessing_helpers import AB, strip

from mednextv2.errors import InputError
from mednextv2.images import label_map_files
from mednextv2.inference import postprocessing_choice
from mednextv2.inference.postprocessing_choice import choose_postprocessing
from mednextv2.label_scheme import LabelScheme


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, in order, and the largest number of their arrays in memory at once."""
    log = {"files": [], "alive": 0, "most": 0}
    read = label_map_files.read_volume

    def dropped():
        log["alive"] -= 1

    def counted(path):
        array, affine = read(path)
        array = np.array(array)
        log["files"].append(path)
        log["alive"] += 1
        log["most"] = max(log["most"], log["alive"])
        weakref.finalize(array, dropped)
        return array, affine

    monkeypatch.setattr(label_map_files, "read_volume", counted)
    return log


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_label_maps_may_be_compressed_or_floating_or_have_an_axis_of_one_channel(files, ending):
    pairs = files((strip("1122..1"), strip("1122...").astype(np.float64)[..., None]), ending=ending)
    assert choose_postprocessing(pairs, AB).steps == [[1, 2]]


@pytest.mark.parametrize(("pred_order", "ref_order"), list(itertools.product("CF", "CF")))
def test_arrays_may_be_in_any_order_in_memory(monkeypatch, pred_order, ref_order):
    rng = np.random.default_rng(1)
    ref = np.zeros((7, 9, 8), np.uint8)
    ref[1:4, 2:8, 3:6], ref[4:6, 3:7, 1:7] = 1, 2
    pred = np.where(rng.random(ref.shape) < 0.1, 1, ref).astype(np.uint8)
    arrays = {"pred": pred.copy(order=pred_order), "ref": ref.copy(order=ref_order)}
    monkeypatch.setattr(label_map_files, "read_volume", lambda name: (arrays[name], np.eye(4)))
    monkeypatch.setattr(postprocessing_choice, "_CHUNK", 50)  # voxels are counted in several parts
    decision = choose_postprocessing([("pred", "ref")], AB)
    assert decision.table[0]["dice_before"] == pytest.approx(mean_dice_by_definition([pred], [ref], AB)[1])
    assert decision.steps == decide_by_definition([pred], [ref], AB) != []


def test_more_labels_than_a_byte_holds_are_told_apart(files):
    scheme = LabelScheme(["background", *(f"class_{i}" for i in range(1, 300))])
    high = strip("11.1").astype(np.int16) * 257
    decision = choose_postprocessing(files((high, high)), scheme)
    assert row(decision, "class_257")["dice_before"] == 1.0
    assert row(decision, "class_1")["dice_before"] is None


def test_classes_take_one_pass_over_the_files_and_a_second_one_after_an_accepted_union(files, reads):
    many = LabelScheme(["background", *"abcdefgh"])
    pairs = files(("12345678", "12345678"), ("112.1.2.3", "112...2.3"))
    decision = choose_postprocessing(pairs, many, workers=1)
    assert decision.steps == [[1]]
    assert reads["files"] == [name for pair in pairs for name in pair]
    reads["files"].clear()
    pairs = files(("12345678.1", "12345678.."), ("11.1", "11.."))
    assert choose_postprocessing(pairs, many, workers=1).steps == [list(range(1, 9))]
    assert len(reads["files"]) == 2 * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_cases_than_workers_are_in_memory(files, reads, workers):
    choose_postprocessing(files(*[("1122..1", "1122...")] * 12), AB, workers)
    assert len(reads["files"]) == 2 * 24
    assert reads["most"] <= 2 * workers


def test_decision_needs_cases():
    with pytest.raises(InputError, match="no predictions"):
        choose_postprocessing([], AB)


@pytest.mark.parametrize(
    ("pred", "ref", "wrong", "message"),
    [
        (strip("113"), strip("112"), "pred_1", r"outside the declared labels: 3 \("),
        (strip("112"), strip("113"), "label_1", r"outside the declared labels: 3 \("),
        (strip("112"), strip("112") - 0.5, "label_1", r"labels: 0\.5, 1\.5 \("),
        (strip("112").astype(np.int16) - 2, strip("112"), "pred_1", r"labels: -1 \("),
        (strip("112") * np.float32(np.nan), strip("112"), "pred_1", r"labels: nan \("),
        (strip("112"), strip("1122"), "pred_1", r"\(3, 1, 1\).*label_1.*\(4, 1, 1\)"),
    ],
)
def test_files_that_do_not_fit_are_named(files, pred, ref, wrong, message):
    with pytest.raises(InputError, match=f"{wrong}.*{message}"):
        choose_postprocessing(files(("112", "112"), (pred, ref)), AB)


def test_ignore_label_is_no_prediction(files):
    with pytest.raises(InputError, match=r"pred_0.*outside the declared labels: 3 \("):
        choose_postprocessing(files(("113", "113")), LabelScheme(AB.labels, ignore_label=3))


def test_missing_file_is_named(files, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        choose_postprocessing([*files(("1", "1")), (tmp_path / "nowhere.nii", tmp_path / "label_0.nii")], AB)
