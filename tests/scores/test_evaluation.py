import csv
import logging
import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted

from mednextv2.data.sizes import VOLUME
from mednextv2.errors import InputError
from mednextv2.inference import EvaluationTable
from mednextv2.scores.evaluation import METRICS, format_table, score_case, summarise

SIZE = 24


def box(start, size, shape=(SIZE, SIZE, SIZE)):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def one_hot(*foreground):
    """Stack the masks of the foreground classes below the background."""
    stacked = torch.stack(foreground)
    return torch.cat([~stacked.any(0, keepdim=True), stacked]).float()


def score(pred, label, spacing=(1.0, 1.0, 1.0)):
    """Dice, surface Dice and HD95 of one class."""
    scores = score_case(one_hot(pred), one_hot(label), spacing)
    assert list(scores) == list(METRICS)
    return tuple(value for name in METRICS for value in scores[name])


# --- values worked out by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 7.0)])
def test_identical_cubes_score_best(spacing):
    cube = box((4, 5, 6), (6, 7, 8))
    assert score(cube, cube, spacing) == (1, 1, 0)


def test_identical_structures_at_the_border_and_of_one_voxel_score_best():
    for mask in (box((0, 0, 0), (SIZE, SIZE, 3)), box((5, 5, 5), (1, 1, 1)), torch.ones(6, 6, 6, dtype=torch.bool)):
        assert score(mask, mask) == (1, 1, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_shifted_cube_has_the_dice_of_the_formula(axis, k):
    # cubes of n³ voxels share n²(n - k): Dice = 2 n²(n - k) / (2 n³) = 1 - k / n
    n = 6
    start = [6, 6, 6]
    start[axis] += k
    dice, _, _ = score(box(start, (n, n, n)), box((6, 6, 6), (n, n, n)), (1.0, 2.0, 3.0))
    assert dice == pytest.approx(1 - k / n)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_shifted_plate_has_the_distance_of_the_shift_in_millimetres(axis, k):
    # a plate of one voxel is all surface, and each of its voxels is k voxels from the other plate
    spacing = (0.5, 1.25, 3.0)
    size, start, other = [10, 10, 10], [6, 6, 6], [6, 6, 6]
    size[axis] = 1
    other[axis] += k
    dice, surface_dice, distance = score(box(start, size), box(other, size), spacing)
    assert dice == 0
    assert distance == pytest.approx(k * spacing[axis])
    assert surface_dice == (1 if k * spacing[axis] <= 1 else 0)


def test_cube_shifted_by_one_voxel_of_a_millimetre_is_within_the_tolerance():
    _, surface_dice, distance = score(box((7, 6, 6), (6, 6, 6)), box((6, 6, 6), (6, 6, 6)), (1.0, 1.0, 1.0))
    assert surface_dice == 1
    assert distance == 1


@pytest.mark.parametrize("spacing", [1.0000001, 1.0000002])
def test_rounding_of_the_affine_does_not_push_a_distance_over_the_tolerance(spacing):
    # affines in NIfTI files are float32: 1 mm is often 1.0000001 mm
    assert score(box((7, 6, 6), (6, 6, 6)), box((6, 6, 6), (6, 6, 6)), [spacing] * 3)[1] == 1


def test_cube_shifted_by_one_voxel_of_three_millimetres_is_not():
    # The surface of a cube of n³ voxels has n³ - (n - 2)³ of them. After a shift along x those of the front face (n²)
    # and those inside of the back face ((n - 2)²) are a voxel away from the other surface; the rest lie on it.
    n = 6
    _, surface_dice, distance = score(box((7, 6, 6), (n, n, n)), box((6, 6, 6), (n, n, n)), (3.0, 3.0, 3.0))
    assert surface_dice == pytest.approx(1 - (n**2 + (n - 2) ** 2) / (n**3 - (n - 2) ** 3))
    assert distance == 3


def test_spacing_belongs_to_its_own_axis():
    shifted, cube = box((7, 6, 6), (6, 6, 6)), box((6, 6, 6), (6, 6, 6))
    assert score(shifted, cube, (3.0, 1.0, 1.0))[2] == pytest.approx(3)
    assert score(shifted, cube, (1.0, 3.0, 1.0))[2] == pytest.approx(1)


def test_distance_is_the_larger_of_both_directions():
    # one voxel far from a large cube of which it is no part: 95 % of the cube's surface is at distance 0,
    # the voxel itself is far less than 5 % of the prediction's surface; the other way round all is at distance 0
    cube, far = box((2, 2, 2), (8, 8, 8)), box((20, 20, 20), (1, 1, 1))
    assert score(cube | far, cube)[2] == 0
    small = box((6, 6, 2), (1, 1, 1))  # on the cube's surface
    assert score(small, cube)[2] == score(cube, small)[2] > 5


@pytest.mark.parametrize(("extra", "expected"), [(4, 0.0), (10, 4.55)])
def test_distance_is_the_95th_percentile(extra, expected):
    # The reference is a row of 100 voxels, and the prediction longer: its distances are 100 zeros, 1, 2, …, `extra`.
    # The 95th percentile of 104 is at place 97.85, a zero; of 110 it is at place 103.55, between 4 and 5.
    shape = (200, 3, 3)
    row, longer = box((0, 1, 1), (100, 1, 1), shape), box((0, 1, 1), (100 + extra, 1, 1), shape)
    assert score(longer, row)[2] == pytest.approx(expected, abs=1e-5)


def test_class_that_neither_has_is_nan():
    empty, cube = box((0, 0, 0), (0, 0, 0)), box((6, 6, 6), (6, 6, 6))
    assert all(math.isnan(value) for value in score(empty, empty))
    scores = score_case(one_hot(empty, cube), one_hot(empty, cube), (1, 1, 1))
    assert all(math.isnan(scores[name][0]) for name in METRICS)
    assert [scores[name][1] for name in METRICS] == [1, 1, 0]


def test_class_that_only_one_has_scores_worst():
    empty, cube = box((0, 0, 0), (0, 0, 0)), box((6, 6, 6), (6, 6, 6))
    assert score(cube, empty) == (0, 0, math.inf)
    assert score(empty, cube) == (0, 0, math.inf)


def test_each_class_has_its_own_score_and_the_background_none():
    a, b, c = (box((0, y, 0), (4, 4, 4)) for y in (0, 8, 16))
    scores = score_case(one_hot(a, c, b), one_hot(a, b, c), (1, 1, 1))
    assert scores["dice"] == [1, 0, 0]
    assert scores["hd95_mm"][0] == 0
    assert scores["hd95_mm"][1] == scores["hd95_mm"][2] > 4


def test_two_dimensional_masks_are_scored():
    # squares of n² pixels, shifted by one: Dice 1 - 1 / n
    square, shifted = box((6, 6), (6, 6), (SIZE, SIZE)), box((7, 6), (6, 6), (SIZE, SIZE))
    dice, surface_dice, distance = score(shifted, square, (2.0, 1.0))
    assert dice == pytest.approx(1 - 1 / 6)
    # of 20 edge pixels 6 in front are 2 mm away, and 2 inside of the back; the 2 beside those are 1 mm from a side
    assert surface_dice == pytest.approx(1 - (6 + 2) / 20)
    assert distance == 2


# --- summary ---------------------------------------------------------------------------------------------------------


def row(case, label, dice, surface_dice=0.5, distance=1.0):
    return {"case": case, "label": label} | dict(zip(METRICS, (dice, surface_dice, distance), strict=True))


def test_summary_has_the_statistics_of_each_class_and_the_mean_of_the_classes():
    rows = [row("1", "a", 0.2), row("1", "b", 1.0), row("2", "a", 0.4), row("2", "b", 0.0), row("3", "a", 0.9)]
    a, b, mean = summarise(rows, ["a", "b"])
    assert (a["label"], b["label"], mean["label"]) == ("a", "b", "mean")
    assert a["dice_mean"] == pytest.approx(0.5)
    assert a["dice_std"] == pytest.approx(math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 3))
    assert (a["dice_median"], a["dice_min"], a["dice_max"]) == (0.4, 0.2, 0.9)
    assert (a["dice_cases"], a["dice_infinite"]) == (3, 0)
    assert (b["dice_mean"], b["dice_cases"]) == (0.5, 2)
    assert mean["dice_mean"] == pytest.approx(0.5)


def test_nan_is_left_out_and_infinite_distances_are_counted():
    rows = [
        row("1", "a", 0.8, 0.9, 2.0),
        row("2", "a", math.nan, math.nan, math.nan),
        row("3", "a", 0.0, 0.0, math.inf),
        row("4", "a", 0.4, 0.3, 4.0),
    ]
    a, _ = summarise(rows, ["a"])
    assert a["dice_mean"] == pytest.approx(0.4)
    assert (a["dice_cases"], a["dice_infinite"]) == (3, 0)
    assert (a["hd95_mm_mean"], a["hd95_mm_max"], a["hd95_mm_median"]) == (3.0, 4.0, 3.0)
    assert (a["hd95_mm_cases"], a["hd95_mm_infinite"]) == (3, 1)


def test_class_without_any_case_is_nan_and_no_part_of_the_mean():
    rows = [row("1", "a", 0.8), row("1", "b", math.nan, math.nan, math.nan)]
    _, b, mean = summarise(rows, ["a", "b"])
    assert math.isnan(b["dice_mean"])
    assert b["dice_cases"] == 0
    assert mean["dice_mean"] == pytest.approx(0.8)


def test_summary_of_nothing_is_nan():
    summary = summarise([], ["a"])
    assert [r["label"] for r in summary] == ["a", "mean"]
    assert all(math.isnan(r["dice_mean"]) for r in summary)


def test_class_whose_distances_are_all_infinite_has_no_mean_distance():
    a, mean = summarise([row("1", "a", 0.0, 0.0, math.inf)], ["a"])
    assert math.isnan(a["hd95_mm_mean"])
    assert (a["hd95_mm_cases"], a["hd95_mm_infinite"]) == (1, 1)
    assert math.isnan(mean["hd95_mm_mean"])


def test_table_for_people_has_a_line_a_class():
    summary = summarise([row("1", "anterior", 0.81239, 0.98765, 1.23456)], ["anterior", "posterior"])
    head, anterior, posterior, mean = format_table(summary).splitlines()
    assert head.split() == ["class", "Dice", "surface", "Dice", "(1", "mm)", "HD95", "(mm)"]
    assert anterior.split() == ["anterior", "0.812", "0.988", "1.23"]
    assert posterior.split() == ["posterior", "nan", "nan", "nan"]
    assert mean.split() == ["mean", "0.812", "0.988", "1.23"]
    assert len({len(line) for line in (head, anterior, posterior, mean)}) == 1


# --- the handler -----------------------------------------------------------------------------------------------------

LABELS = ["background", "a", "b"]


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def scored(outputs, folder, labels=LABELS):
    engine = Engine(lambda engine, batch: batch)
    EvaluationTable(folder, labels).attach(engine)
    engine.run([[item] for item in outputs])
    return read_csv(folder / "cases.csv"), read_csv(folder / "summary.csv")


def output(case, shift=0, affine=None):
    """Class a shifted along x, class b perfect."""
    a, b = box((6, 2, 6), (6, 6, 6)), box((6, 12, 6), (6, 6, 6))
    pred, label = one_hot(box((6 + shift, 2, 6), (6, 6, 6)), b), one_hot(a, b)
    return {"pred": MetaTensor(pred), "label": MetaTensor(label, affine=affine), "case": case}


def test_tables_have_a_row_a_case_and_class(tmp_path):
    cases, summary = scored([output("x", 0), output("y", 1), output("z", 3)], tmp_path / "new" / "folder")
    assert [(r["case"], r["label"]) for r in cases] == [(c, name) for c in "xyz" for name in "ab"]
    assert list(cases[0]) == ["case", "label", *METRICS, *VOLUME.columns]
    assert [float(r[name]) for r in cases for name in VOLUME.columns] == pytest.approx([6**3 / 1000] * 12)
    assert [float(r["dice"]) for r in cases] == pytest.approx([1, 1, 1 - 1 / 6, 1, 1 - 3 / 6, 1], abs=1e-5)
    assert [r["label"] for r in summary] == ["a", "b", "mean"]
    assert float(summary[0]["dice_mean"]) == pytest.approx((1 + 5 / 6 + 1 / 2) / 3, abs=1e-5)
    assert summary[0]["dice_cases"] == "3"
    assert float(summary[2]["dice_mean"]) == pytest.approx(((1 + 5 / 6 + 1 / 2) / 3 + 1) / 2, abs=1e-5)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["cases.csv", "summary.csv"]


def test_spacing_is_that_of_the_label_maps_affine(tmp_path):
    affine = torch.tensor([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, 0.5, 7], [0, 0, 0, 1]])  # the first axis: 3 mm
    cases, _ = scored([output("x", 1, affine)], tmp_path)
    assert float(cases[0]["hd95_mm"]) == pytest.approx(3)
    assert float(cases[0]["surface_dice_1mm"]) < 1
    assert float(cases[0]["volume_ml"]) == pytest.approx(6**3 * 3 * 2 * 0.5 / 1000)


def test_plain_tensors_count_as_voxels_of_a_millimetre(tmp_path):
    item = {k: v.as_tensor() if isinstance(v, MetaTensor) else v for k, v in output("x", 1).items()}
    cases, _ = scored([item], tmp_path)
    assert float(cases[0]["hd95_mm"]) == 1


def test_infinite_and_missing_values_are_written_as_such(tmp_path):
    item = output("x")
    item["pred"] = one_hot(torch.zeros(SIZE, SIZE, SIZE, dtype=torch.bool), item["pred"][2] > 0)
    item["label"] = one_hot(item["label"][1] > 0, item["label"][2] > 0)
    cases, summary = scored([item], tmp_path)
    assert [cases[0][m] for m in METRICS] == ["0", "0", "inf"]
    assert (summary[0]["hd95_mm_mean"], summary[0]["hd95_mm_infinite"]) == ("nan", "1")


def test_second_run_starts_from_nothing(tmp_path):
    engine = Engine(lambda engine, batch: batch)
    EvaluationTable(tmp_path, LABELS).attach(engine)
    engine.run([[output("x")]])
    engine.run([[output("y")]])
    assert {r["case"] for r in read_csv(tmp_path / "cases.csv")} == {"y"}


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    engine = Engine(lambda engine, batch: batch)
    EvaluationTable(tmp_path / "file" / "out", LABELS).attach(engine)
    with pytest.raises(InputError, match="output_dir"):
        engine.run([[output("x")]])


def test_monais_evaluator_fills_the_tables(tmp_path, caplog):
    truth = torch.stack([torch.argmax(output("x", shift)["label"].as_tensor(), 0) for shift in range(3)])
    items = [{"image": t[None].float(), "label": t[None], "case": f"case_{i}"} for i, t in enumerate(truth)]
    items[2]["image"] = items[2]["image"].roll(1, dims=1)  # the network copies its input: this case is off by a voxel

    class Copy(torch.nn.Module):
        def forward(self, x):
            return torch.cat([(x == value).float() for value in range(3)], dim=1)

    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=Copy(),
        postprocessing=AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=3),
        val_handlers=[EvaluationTable(tmp_path, LABELS)],
    )
    with caplog.at_level(logging.INFO, "mednextv2"):
        evaluator.run()
    cases, summary = read_csv(tmp_path / "cases.csv"), read_csv(tmp_path / "summary.csv")
    assert [(r["case"], r["label"]) for r in cases] == [(f"case_{i}", name) for i in range(3) for name in "ab"]
    assert [float(r["dice"]) for r in cases] == pytest.approx([1, 1, 1, 1, 5 / 6, 5 / 6], abs=1e-5)
    assert len(summary) == 3
    assert "Scores of 3 cases" in caplog.text
    assert str(tmp_path) in caplog.text
