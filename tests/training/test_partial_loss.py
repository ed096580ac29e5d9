"""The loss of samples whose data sets annotate only some of the structures."""

import pytest
import torch
from forked_processes import in_two_processes, joined
from loss_helpers import SCHEMES, some, value_and_gradients
from step_helpers import Calls
from test_loss_compiled import TwoHeads
from torch.nn import functional

from mednextv2.data.partial_labels import PartialLabels
from mednextv2.label_scheme import LabelScheme
from mednextv2.training.loss import SegmentationLoss
from mednextv2.training.partial_loss import group_samples

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
both_dices = pytest.mark.parametrize("batch_dice", [False, True], ids=["sample Dice", "batch Dice"])
SIZES = [(8, 6, 4), (4, 3, 2), (2, 2, 1)]
#: Annotated structures of three samples: neighbours that are the same, single ones, and all.
SETS = {
    "one each": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "two are the same": [[1, 0, 1], [1, 0, 1], [0, 1, 0]],
    "one has all": [[1, 1, 1], [0, 1, 1], [1, 0, 0]],
    "none has the first": [[0, 1, 1], [0, 1, 0], [0, 0, 1]],
}
every_set = pytest.mark.parametrize("flags", SETS.values(), ids=SETS)


def partly(scheme, flags, *sizes, dtype=torch.float32, scale=3.0):
    """Logits, and labels without the structures that a sample's data set does not annotate."""
    heads, label = some(scheme, *sizes, batch=len(flags), dtype=dtype, scale=scale)
    structures = torch.tensor(flags).bool()
    for sample, known in zip(label, structures, strict=True):
        for values, there in zip(scheme.members, known, strict=True):
            own = [v for v in values if not scheme.regions or there or v == values[0]]
            if not there:
                sample[torch.isin(sample, torch.tensor(own))] = 0
    return heads, PartialLabels(label, structures)


def reference(scheme, batch_dice, heads, labels, weights=(16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31)):
    """The formulas of the documentation, with PyTorch's own functions."""
    label, structures = labels
    loss = 0
    for weight, x in zip(weights if len(heads) > 1 else [1], heads, strict=False):
        y = functional.interpolate(label.double(), size=x.shape[2:], mode="nearest-exact")[:, 0].long()
        valid = torch.ones_like(y, dtype=torch.bool) if scheme.ignore_label is None else y != scheme.ignore_label
        entropies, parts = [], {}
        for b, known in enumerate(structures.tolist()):
            kept = [i for i, there in enumerate(known) if there]
            if scheme.regions:
                p = x[b].sigmoid()
                targets = torch.stack([torch.isin(y[b], torch.tensor(scheme.members[i])) for i in kept]).to(x.dtype)
                each = functional.binary_cross_entropy_with_logits(x[b, kept], targets, reduction="none")
                entropies.append((each * valid[b]).sum() * len(known) / len(kept))
                p = p[kept]
            else:
                rest = [0] + [i + 1 for i in range(len(known)) if i not in kept]
                merged = torch.stack([x[b, rest].logsumexp(0), *(x[b, i + 1] for i in kept)])
                renumbered = torch.zeros_like(y[b])
                for place, i in enumerate(kept, 1):
                    renumbered[y[b] == i + 1] = place
                each = functional.cross_entropy(merged[None], renumbered[None], reduction="none")[0]
                entropies.append((each * valid[b]).sum())
                p = merged.softmax(0)[1:]
                targets = torch.stack([y[b] == i + 1 for i in kept]).to(x.dtype)
            for i, q, t in zip(kept, p, targets, strict=True):
                q, t = q * valid[b], t * valid[b]
                sums = torch.stack([(q * t).sum(), q.sum() + t.sum()])
                key = (0, i) if batch_dice else (b, i)
                parts[key] = parts.get(key, 0) + sums
        count = valid.sum().clamp(min=1) * (len(scheme.regions) or 1)
        dice = {key: (2 * i + 1e-5) / (v + 1e-5) for key, (i, v) in parts.items()}
        samples = sorted({key[0] for key in dice})
        means = [torch.stack([d for key, d in dice.items() if key[0] == b]).mean() for b in samples]
        loss = loss + weight * (sum(entropies) / count + 1 - torch.stack(means).mean())
    return loss


@every_scheme
@both_dices
@every_set
def test_loss_and_gradients_are_those_of_the_formulas(scheme, batch_dice, flags):
    heads, labels = partly(scheme, flags, *SIZES, dtype=torch.float64)
    found = value_and_gradients(SegmentationLoss(scheme, batch_dice), heads, labels)
    expected = value_and_gradients(lambda x, y: reference(scheme, batch_dice, x, y), heads, labels)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@every_scheme
@both_dices
def test_gradient_is_that_of_finite_differences(scheme, batch_dice):
    heads, labels = partly(scheme, SETS["one has all"], (4, 3), (2, 2), dtype=torch.float64, scale=1)
    loss = SegmentationLoss(scheme, batch_dice)
    assert torch.autograd.gradcheck(lambda *x: 1.5 * loss(x, labels), heads)


@every_scheme
@both_dices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_everything_annotated_it_is_the_ordinary_loss(scheme, batch_dice, dtype):
    heads, label = some(scheme, *SIZES, batch=3, dtype=dtype)
    labels = PartialLabels(label, torch.ones(3, len(scheme.foreground), dtype=torch.bool))
    loss = SegmentationLoss(scheme, batch_dice)
    torch.testing.assert_close(value_and_gradients(loss, heads, labels), value_and_gradients(loss, heads, label))


@pytest.mark.parametrize("name", ["regions", "regions and ignore"])
@both_dices
def test_outputs_of_regions_that_are_not_annotated_do_not_matter(name, batch_dice):
    heads, labels = partly(SCHEMES[name], SETS["one has all"], *SIZES)
    loss = SegmentationLoss(SCHEMES[name], batch_dice)
    value, gradients = value_and_gradients(loss, heads, labels)
    other = [h.detach().clone() for h in heads]
    for head, gradient in zip(other, gradients, strict=True):
        head[~labels.structures] = float("inf")
        assert not gradient[~labels.structures].any()
        assert gradient[labels.structures].any()
    torch.testing.assert_close(loss(other, labels), value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["classes", "classes and ignore"])
@both_dices
def test_only_the_sum_of_the_probabilities_of_classes_that_are_not_annotated_matters(name, batch_dice):
    """Where none of them is annotated, probability moves from one to another without an effect."""
    scheme, flags = SCHEMES[name], [[0, 1, 0]] * 2
    (logits,), labels = partly(scheme, flags, (6, 5, 4))
    loss = SegmentationLoss(scheme, batch_dice)
    other = logits.detach().clone()
    other[:, [0, 1, 3]] = logits.detach()[:, [3, 0, 1]]
    torch.testing.assert_close(loss(other, labels), loss(logits, labels))
    p = logits.detach().softmax(1)
    merged = torch.cat([p[:, [0, 1, 3]].sum(1, keepdim=True), p[:, 2:3]], 1).log()
    two = LabelScheme(["background", "core"], ignore_label=2 if scheme.ignore_label else None)
    renumbered = torch.where(labels.label == 2, 1, torch.where(labels.label == 4, 2, 0))
    torch.testing.assert_close(loss(logits, labels), SegmentationLoss(two, batch_dice)(merged, renumbered))


@every_scheme
@both_dices
def test_certain_outputs_have_finite_losses_and_gradients(scheme, batch_dice):
    (logits,), labels = partly(scheme, SETS["one has all"], (4, 4, 4))
    for sign in (1, -1):
        certain = (sign * 1e4 * torch.sign(logits.detach())).requires_grad_()
        value, (gradient,) = value_and_gradients(SegmentationLoss(scheme, batch_dice), [certain], labels)
        assert value.isfinite()
        assert gradient.isfinite().all()
        expected = reference(scheme, batch_dice, [certain.detach().double()], labels)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@both_dices
def test_batch_dice_of_a_structure_is_that_of_the_samples_that_annotate_it(batch_dice):
    scheme = SCHEMES["classes"]
    (logits,), labels = partly(scheme, [[1, 0, 0], [1, 1, 0]], (5, 5))
    changed = logits.detach().clone()
    changed[0, 2] += 3  # of a class that only the second sample has
    changed[0, [0, 3]] = torch.stack([logits.detach()[0, [0, 2, 3]].logsumexp(0), torch.full((5, 5), -40.0)])
    changed[0, 2] = -40
    loss = SegmentationLoss(scheme, batch_dice)
    torch.testing.assert_close(loss(changed, labels), loss(logits, labels))


def test_heads_and_labels_of_2d_and_of_half_precision_are_taken():
    heads, labels = partly(SCHEMES["classes"], [[1, 0, 1], [0, 1, 0]], (16, 8), (8, 4), dtype=torch.float16)
    value, gradients = value_and_gradients(SegmentationLoss(SCHEMES["classes"]), heads, labels)
    assert value.dtype == torch.float32
    assert all(g.dtype == torch.float16 for g in gradients)


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        (torch.ones(2, 2, dtype=torch.bool), "have the shape"),
        (torch.tensor([[True] * 3, [False] * 3]), "no annotated structure"),
        (torch.ones(2, 3, dtype=torch.bool, device="meta"), "on the CPU"),
    ],
)
def test_sets_that_cannot_be_are_refused(structures, message):
    (logits,), label = some(SCHEMES["classes"], (4, 4))
    with pytest.raises(ValueError, match=message):
        SegmentationLoss(SCHEMES["classes"])(logits, PartialLabels(label, structures))


def test_samples_are_grouped_with_neighbours_that_are_the_same():
    groups = group_samples([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]])
    assert groups[0] == (slice(0, 2), [slice(1, 3), slice(4, 5)], [slice(0, 1), slice(3, 4)])
    assert groups[1] == (slice(2, 3), [slice(4, 5)], [slice(0, 4)])


def test_compiled_loss_is_the_same():
    heads, labels = partly(SCHEMES["classes"], [[1, 0, 1], [0, 1, 0]], (8, 6), (4, 3))
    loss = SegmentationLoss(SCHEMES["classes"])
    compiled = torch.compile(lambda outputs, label: loss(outputs, PartialLabels(label, labels.structures)),
                             backend="aot_eager")  # fmt: skip
    found = value_and_gradients(compiled, heads, labels.label)
    torch.testing.assert_close(found, value_and_gradients(loss, heads, labels))


# ------------------------------------------------------------------------------------------------- two processes


def distributed_loss(scheme, data, rank):
    network = TwoHeads(scheme.outputs).double()
    network.load_state_dict(data["model"])
    network = torch.nn.parallel.DistributedDataParallel(network)
    rows = slice(2 * rank, 2 * rank + 2)
    labels = PartialLabels(data["label"][rows], data["structures"][rows])
    value = SegmentationLoss(scheme, data["batch_dice"])(network(data["x"][rows]), labels)
    value.backward()
    return {"value": value.detach(), "gradients": [p.grad for p in network.parameters()]}


def one_process_of_two(rank, folder, data):
    with joined(rank, folder):
        return {key: distributed_loss(SCHEMES[key.split()[0]], data[key], rank) for key in data}


def test_two_processes_have_the_loss_and_the_gradients_of_one_with_all_samples(tmp_path):
    """Also if the samples of one process annotate structures that those of the other do not."""
    data = {}
    flags = [[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 1]]
    for name in ("classes", "regions"):
        for batch_dice in (False, True):
            _, labels = partly(SCHEMES[name], flags, (8, 10))
            x = labels.label + torch.randn(labels.label.shape, dtype=torch.float64)
            state = TwoHeads(SCHEMES[name].outputs).double().state_dict()
            data[f"{name} {batch_dice}"] = {"model": state, "x": x, "batch_dice": batch_dice, **labels._asdict()}
    found = in_two_processes(one_process_of_two, tmp_path, data)
    for key, one in data.items():
        scheme = SCHEMES[key.split()[0]]
        network = TwoHeads(scheme.outputs).double()
        network.load_state_dict(one["model"])
        loss = SegmentationLoss(scheme, one["batch_dice"])
        value = loss(network(one["x"]), PartialLabels(one["label"], one["structures"]))
        value.backward()
        torch.testing.assert_close((found[0][key]["value"] + found[1][key]["value"]) / 2, value.detach())
        for rank in range(2):
            torch.testing.assert_close(found[rank][key]["gradients"], [p.grad for p in network.parameters()])


@pytest.mark.parametrize("scheme", [SCHEMES["classes"], SCHEMES["regions and ignore"]], ids=["classes", "regions"])
def test_nothing_waits_for_the_device(scheme):
    """After the first step, which makes constants."""
    heads, labels = partly(scheme, SETS["one has all"], (8, 6), (4, 3))
    heads = [head.detach().to("meta").requires_grad_() for head in heads]
    labels = PartialLabels(labels.label.to("meta"), labels.structures)
    loss = SegmentationLoss(scheme)
    loss(heads, labels).backward()
    with Calls() as calls:
        loss(heads, labels).backward()
    assert calls.waits == []
