import math

import numpy as np
import pytest
import torch
from forked_processes import in_two_processes, joined
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from sklearn.metrics import f1_score
from torch import nn

from mednextv2.data import PartialLabels
from mednextv2.label_scheme import LabelScheme
from mednextv2.training.pseudo_dice import PseudoDice

LABELS = ["background", "edema", "core", "enhancing"]
REGIONS = [
    {"name": "whole", "values": [1, 2, 3], "paint": 1},
    {"name": "heart", "values": [2, 3], "paint": 2},
]
CLASSES = LabelScheme(LABELS)
SCHEMES = {
    "classes": CLASSES,
    "classes and ignore": LabelScheme(LABELS, ignore_label=4),
    "regions": LabelScheme(LABELS, REGIONS),
    "regions and ignore": LabelScheme(LABELS, REGIONS, ignore_label=4),
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def patches(scheme, batch=2):
    """Random logits and labels; the first patch has much of everything, the others have little."""
    label = torch.randint(len(scheme.declared), (batch, 1, 4, 5, 3)).float()
    label[1:] *= torch.rand(label[1:].shape) < 0.2
    return torch.randn(batch, scheme.outputs, 4, 5, 3), label


def pooled_f1(scheme, logits, label):
    """F1, which is Dice, of each structure over all annotated voxels, by scikit-learn."""
    label = label.flatten().numpy()
    logits = logits.movedim(1, -1).flatten(0, -2).numpy()[label != scheme.ignore_label]
    label = label[label != scheme.ignore_label]
    if not scheme.regions:
        return f1_score(label, logits.argmax(1), labels=[1, 2, 3], average=None)
    truth = np.stack([np.isin(label, entry["values"]) for entry in REGIONS], 1)
    return f1_score(truth, 1 / (1 + np.exp(-logits)) > 0.5, average=None)


def logits_of(label, scheme=CLASSES):
    """Logits that decide for a label map."""
    return nn.functional.one_hot(label[:, 0].long(), scheme.outputs).movedim(-1, 1) * 8.0 - 4


def line(*values):
    """One patch, `(1, 1, n)`."""
    return torch.tensor(values)[None, None].float()


def epoch(metric, predicted, label):
    metric.reset()
    metric.update([logits_of(predicted), label])
    return metric.compute()


# --------------------------------------------------------------------------------------------------- of an epoch


@every_scheme
def test_dice_is_the_f1_score_of_all_voxels_of_all_patches(scheme):
    metric = PseudoDice(scheme)
    batches = [patches(scheme) for _ in range(3)]
    for batch in batches:
        metric.update(batch)
    expected = pooled_f1(scheme, *(torch.cat(parts) for parts in zip(*batches, strict=True)))
    assert metric.structures().tolist() == pytest.approx(expected.tolist())
    assert metric.compute() == pytest.approx(expected.mean())
    metric.reset()
    metric.update(batches[0])
    assert metric.structures().tolist() == pytest.approx(pooled_f1(scheme, *batches[0]).tolist())


@every_scheme
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lists_and_metadata_and_types_do_not_matter(scheme, dtype):
    logits, label = patches(scheme, batch=3)
    logits = logits.to(dtype)
    one, other = PseudoDice(scheme), PseudoDice(scheme)
    one.update((logits.float(), label))
    other.update(([MetaTensor(x) for x in logits], [MetaTensor(y) for y in label.to(torch.uint8)]))
    torch.testing.assert_close(one.structures(), other.structures(), rtol=0, atol=0)
    assert type(other.structures()) is torch.Tensor


def test_absent_structure_is_nan_and_left_out_of_the_mean():
    metric = PseudoDice(CLASSES)
    value = epoch(metric, line(0, 1, 1, 2), line(1, 1, 1, 0))
    assert metric.structures().tolist() == pytest.approx([0.8, 0, math.nan], nan_ok=True)  # 2 is a false alarm
    assert value == pytest.approx(0.4)


@every_scheme
def test_only_patches_whose_data_set_annotates_a_structure_count_for_it(scheme):
    metric, number = PseudoDice(scheme), len(scheme.foreground)
    logits, label = patches(scheme, batch=4)
    structures = torch.tensor([[True] * number, [True, *[False] * (number - 1)], [False, *[True] * (number - 1)],
                               [False] * (number - 1) + [True]])  # fmt: skip
    metric.update((logits[:2], PartialLabels(label[:2], structures[:2])))
    metric.update((logits[2:], PartialLabels(label[2:], structures[2:])))
    for s in range(number):
        known = structures[:, s]
        assert metric.structures()[s].item() == pytest.approx(pooled_f1(scheme, logits[known], label[known])[s])


# ---------------------------------------------------------------------------------------------------- over epochs


def test_value_is_the_moving_average_of_the_epochs_means_and_starts_with_the_first():
    metric = PseudoDice(CLASSES)
    label = line(1, 1, 2, 2, 3, 3)
    assert epoch(metric, line(0, 0, 0, 0, 3, 3), label) == pytest.approx(1 / 3)
    assert epoch(metric, label, label) == pytest.approx(0.9 / 3 + 0.1)
    assert epoch(metric, line(1, 1, 2, 2, 0, 0), label) == pytest.approx(0.9 * (0.9 / 3 + 0.1) + 0.1 * 2 / 3)


def test_momentum_is_the_part_of_earlier_epochs():
    metric = PseudoDice(CLASSES, momentum=0.75)
    epoch(metric, line(0, 1), line(1, 0))
    assert epoch(metric, line(1, 1), line(1, 1)) == pytest.approx(0.25)


def test_epoch_without_structures_leaves_the_average_as_it_is():
    metric = PseudoDice(CLASSES)
    assert epoch(metric, line(0, 0), line(0, 0)) == 0
    assert epoch(metric, line(1, 1), line(1, 1)) == 1  # so that one did not start it
    assert epoch(metric, line(0, 0), line(0, 0)) == 1
    assert epoch(metric, line(0, 1), line(1, 0)) == pytest.approx(0.9)


def test_epoch_counts_once_however_often_it_is_computed_and_not_at_all_if_it_is_not():
    metric = PseudoDice(CLASSES)
    epoch(metric, line(1, 1), line(1, 1))
    metric.reset()
    metric.update([logits_of(line(0, 1)), line(1, 0)])
    assert [metric.compute(), metric.compute()] == pytest.approx([0.9, 0.9])
    metric.reset()
    metric.update([logits_of(line(0, 1)), line(1, 0)])  # of an epoch that was broken off
    assert epoch(metric, line(0, 1), line(1, 0)) == pytest.approx(0.81)


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_average_goes_on_from_its_saved_state(tmp_path, epochs):
    label = line(1, 1, 2, 2, 3, 3)
    predictions = [label, line(0, 0, 0, 0, 3, 3), line(1, 1, 2, 2, 0, 0), line(1, 0, 2, 0, 3, 0), label]
    whole, first, second = PseudoDice(CLASSES), PseudoDice(CLASSES), PseudoDice(CLASSES)
    expected = [epoch(whole, prediction, label) for prediction in predictions]
    found = [epoch(first, prediction, label) for prediction in predictions[:epochs]]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found + [epoch(second, prediction, label) for prediction in predictions[epochs:]] == expected


def test_loaded_average_counts_from_the_next_patch_on():
    metric = PseudoDice(CLASSES)
    epoch(metric, line(1, 1), line(1, 1))
    other = PseudoDice(CLASSES)
    other.load_state_dict(metric.state_dict())
    other.update([logits_of(line(0, 1)), line(1, 0)])
    assert other.compute() == pytest.approx(0.9)


# ------------------------------------------------------------------------------------- in an engine, in processes


@pytest.mark.parametrize("decollate", [True, False])
def test_best_metric_of_an_evaluator_follows_the_moving_average(decollate):
    label = torch.cat([line(1, 1, 2, 2, 0, 0), line(0, 0, 1, 1, 2, 2)])
    half = torch.cat([line(1, 1, 0, 0, 0, 0), line(0, 0, 1, 1, 0, 0)])  # of the structures that there are
    batches = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        epoch_length=2,
        network=nn.Identity(),
        key_val_metric={"val_ema_dice": PseudoDice(CLASSES)},
        decollate=decollate,
    )
    means, averages, best = [], [], []
    for number, predicted in enumerate([half * 0, label, half, half * 0], start=1):
        batch = {"image": logits_of(predicted), "label": label}
        batches[:] = [batch, {"image": logits_of(0 * label), "label": 0 * label}]
        evaluator.run(number)
        means.append(evaluator.state.metrics["val_mean_dice"])
        averages.append(evaluator.state.metrics["val_ema_dice"])
        best.append((evaluator.state.best_metric, evaluator.state.best_metric_epoch))
        if number == 3:
            scores = {n: v for n, v in evaluator.state.metrics.items() if n.startswith("val_dice_")}
    assert means == pytest.approx([0, 1, 0.5, 0])
    assert averages == pytest.approx([0, 0.1, 0.14, 0.126])
    assert [number for _, number in best] == [1, 2, 3, 3]
    assert best[-1][0] == averages[2]
    expected = {"val_dice_edema": 1, "val_dice_core": 0, "val_dice_enhancing": math.nan}
    assert scores == pytest.approx(expected, nan_ok=True)


def test_names_of_the_scores_take_the_prefix():
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": logits_of(line(1, 2)), "label": line(1, 2)}],
        network=nn.Identity(),
        key_val_metric={"average": PseudoDice(SCHEMES["classes"], prefix="dice of ")},
    )
    engine.run()
    names = {"average", "val_mean_dice", "dice of edema", "dice of core", "dice of enhancing"}
    assert set(engine.state.metrics) == names


def scores(scheme, epochs):
    """Scores in the middle and at the end of epochs: of the first half's batches, and of all."""
    metric, found = PseudoDice(scheme), []
    for halves in epochs:
        metric.reset()
        for batches in halves:
            for batch in batches:
                metric.update(batch)
            found.append([metric.compute(), *metric.structures().tolist()])
    return found


def one_process_of_two(rank, folder, epochs):
    with joined(rank, folder):
        own = [[[batches[rank]] for batches in halves] for halves in epochs]
        return scores(SCHEMES["classes and ignore"], own)


def test_two_processes_have_the_scores_of_one_with_all_patches(tmp_path):
    scheme = SCHEMES["classes and ignore"]
    epochs = [[[patches(scheme, batch=n) for n in (1, 3)] for _ in range(2)] for _ in range(2)]
    assert in_two_processes(one_process_of_two, tmp_path, epochs) == [scores(scheme, epochs)] * 2
