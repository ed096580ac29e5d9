import math
from collections import defaultdict

import pytest
import torch
from loss_helpers import SCHEMES, some, value_and_gradients
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss, DiceCELoss

from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme
from mednextv2.training.loss import MEDNEXT_WEIGHTS, SegmentationLoss

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
both_dices = pytest.mark.parametrize("batch_dice", [False, True], ids=["sample Dice", "batch Dice"])


def definition(logits, label, scheme, batch_dice):
    """The loss of one head, voxel by voxel."""
    entropies, sums = [], defaultdict(lambda: [0.0, 0.0])  # per Dice: overlap, volumes
    for b, f in [(b, f) for b in range(len(label)) for f in range(len(scheme.foreground))]:
        sums[0 if batch_dice else b, f]
    for b, voxels in enumerate(label.flatten(1).tolist()):
        for n, value in enumerate(voxels):
            if value == scheme.ignore_label:
                continue
            x = logits[b].flatten(1)[:, n].tolist()
            if scheme.regions:
                p = [1 / (1 + math.exp(-v)) for v in x]
                entropies += [
                    -math.log(q if value in r.values else 1 - q) for q, r in zip(p, scheme.regions, strict=True)
                ]
            else:
                p = [math.exp(v) / sum(map(math.exp, x)) for v in x]
                entropies.append(-math.log(p[value]))
                p = p[1:]
            for f, (q, members) in enumerate(zip(p, scheme.members, strict=True)):
                total = sums[0 if batch_dice else b, f]
                total[0] += q if value in members else 0
                total[1] += q + (value in members)
    dice = [(2 * overlap + 1e-5) / (volumes + 1e-5) for overlap, volumes in sums.values()]
    return sum(entropies) / max(len(entropies), 1) + 1 - sum(dice) / len(dice)


def monai_loss(batch_dice=False):
    return DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5, batch=batch_dice
    )


# ------------------------------------------------------------------------------------------------ its definition


@pytest.mark.parametrize("size", [(6, 5, 7), (9, 8)], ids=["3D", "2D"])
@both_dices
def test_loss_of_classes_and_its_gradient_are_those_of_monai(size, batch_dice):
    heads, label = some(SCHEMES["classes"], size)
    found = value_and_gradients(SegmentationLoss(SCHEMES["classes"], batch_dice), heads, label)
    expected = value_and_gradients(lambda x, y: monai_loss(batch_dice)(x[0], y), heads, label)
    torch.testing.assert_close(found, expected)


@every_scheme
@both_dices
def test_loss_is_its_definition(scheme, batch_dice):
    (logits,), label = some(scheme, (3, 4, 3), batch=3, dtype=torch.float64)
    label[0][label[0] == 2] = 0  # a structure that one sample lacks
    found = SegmentationLoss(scheme, batch_dice)(logits, label)
    assert found.item() == pytest.approx(definition(logits, label, scheme, batch_dice), rel=1e-6)


@every_scheme
@both_dices
def test_gradient_is_that_of_finite_differences(scheme, batch_dice):
    heads, label = some(scheme, (4, 3), (2, 2), dtype=torch.float64, scale=1)
    loss = SegmentationLoss(scheme, batch_dice)
    assert torch.autograd.gradcheck(lambda *x: 1.5 * loss(x, label), heads)


@pytest.mark.parametrize("name", ["classes and ignore", "regions and ignore"])
@both_dices
def test_outputs_at_ignored_voxels_do_not_matter(name, batch_dice):
    (logits,), label = some(SCHEMES[name], (5, 4, 3))
    ignored = (label == 4).expand_as(logits)
    assert 0 < ignored.sum() < ignored.numel()
    loss = SegmentationLoss(SCHEMES[name], batch_dice)
    value, (gradient,) = value_and_gradients(loss, [logits], label)
    torch.testing.assert_close(loss(torch.where(ignored, 7.0, logits), label), value, rtol=0, atol=0)
    assert not gradient[ignored].any()
    assert gradient[~ignored].all()


# ---------------------------------------------------------------------------------------------- deep supervision


@pytest.mark.parametrize(
    "sizes",
    [
        [(16, 32, 16), (8, 16, 8), (4, 8, 4), (2, 4, 2), (1, 2, 1)],
        [(15, 7), (8, 4), (4, 2), (2, 1), (1, 1)],
    ],
    ids=["3D", "2D of odd sizes"],
)
def test_heads_are_weighted_and_compared_as_monai_does(sizes):
    heads, label = some(SCHEMES["classes"], *sizes)
    found = value_and_gradients(SegmentationLoss(SCHEMES["classes"]), heads, label)
    theirs = DeepSupervisionLoss(monai_loss(), weights=[16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31])
    torch.testing.assert_close(found, value_and_gradients(theirs, heads, label.float()))


@every_scheme
def test_target_of_a_head_is_the_label_at_its_voxels_centres(scheme):
    (full, half, third), label = some(scheme, (6, 12), (3, 6), (2, 4), dtype=torch.float64)
    found = SegmentationLoss(scheme, weights=(0.5, 2.0, 3.0, 9.0))([full, half, third], label)
    parts = zip([full, half, third], [label, label[..., 1::2, 1::2], label[..., 1::3, 1::3]], strict=True)
    losses = [definition(head, target, scheme, False) for head, target in parts]
    assert found.item() == pytest.approx(0.5 * losses[0] + 2 * losses[1] + 3 * losses[2], rel=1e-6)


def test_single_output_counts_once_in_a_list_or_not():
    heads, label = some(SCHEMES["classes"], (6, 6))
    loss = SegmentationLoss(SCHEMES["classes"])
    expected = monai_loss()(heads[0], label)
    torch.testing.assert_close(loss(heads[0], label), expected)
    torch.testing.assert_close(loss(heads, label), expected)


@pytest.mark.parametrize("heads", [6, 7])
def test_more_heads_than_mednext_has_continue_its_weights(heads):
    """As in nnU-Net, where each head weighs half as much as the one before."""
    scheme = SCHEMES["classes"]
    outputs, label = some(scheme, *[(8, 8)] * heads)
    halves = [16 / 31 / 2**i for i in range(heads)]
    given = SegmentationLoss(scheme, weights=halves)(outputs, label)
    torch.testing.assert_close(SegmentationLoss(scheme)(outputs, label), given)
    with pytest.raises(InputError, match=f"{heads} outputs, but 5 weights"):
        SegmentationLoss(scheme, weights=halves[:5])(outputs, label)


def test_default_weights_are_those_of_mednext_and_sum_to_one():
    assert SegmentationLoss(SCHEMES["classes"]).weights == MEDNEXT_WEIGHTS
    assert [31 * w for w in MEDNEXT_WEIGHTS] == [16, 8, 4, 2, 1]


def test_outputs_that_do_not_fit_are_refused():
    loss = SegmentationLoss(SCHEMES["classes"], weights=(0.7, 0.3))
    heads, label = some(SCHEMES["classes"], (4, 4), (2, 2), (1, 1))
    with pytest.raises(ValueError, match="3 outputs, but 2 weights"):
        loss(heads, label)
    with pytest.raises(ValueError, match="0 outputs"):
        loss([], label)
    with pytest.raises(ValueError, match="3 channels, but the labels need 4"):
        loss(heads[0][:, :3], label)


# --------------------------------------------------------------------------------------------- types and extremes


@every_scheme
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64])
def test_type_of_the_label_does_not_matter(scheme, dtype):
    heads, label = some(scheme, (6, 6), (3, 3))
    loss = SegmentationLoss(scheme)
    torch.testing.assert_close(loss(heads, label.to(dtype)), loss(heads, label), rtol=0, atol=0)


@every_scheme
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_outputs_are_computed_with_in_float32(scheme, dtype, autocast):
    heads, label = some(scheme, (8, 8, 8), (4, 4, 4), dtype=dtype)
    loss = SegmentationLoss(scheme)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value, gradients = value_and_gradients(loss, heads, label)
    expected, wanted = value_and_gradients(loss, [h.detach().float().requires_grad_() for h in heads], label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients, tuple(g.to(dtype) for g in wanted), rtol=0, atol=0)


@every_scheme
def test_layout_of_the_outputs_does_not_matter(scheme):
    (logits,), label = some(scheme, (6, 4, 5))
    last = logits.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    loss = SegmentationLoss(scheme)
    found, expected = value_and_gradients(loss, [last], label), value_and_gradients(loss, [logits], label)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_metadata_is_dropped():
    (logits,), label = some(SCHEMES["classes"], (6, 6))
    loss = SegmentationLoss(SCHEMES["classes"])
    found = loss(MetaTensor(logits), MetaTensor(label))
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, loss(logits, label), rtol=0, atol=0)


@every_scheme
@both_dices
@pytest.mark.parametrize("shift", [0, 18], ids=["expected", "hardly expected"])
def test_absent_structures_are_learned_from(scheme, batch_dice, shift):
    (logits,), label = some(scheme, (4, 4, 4), scale=1)
    logits = logits.detach()
    logits[:, -len(scheme.foreground) :] -= shift
    label.zero_()
    value, (gradient,) = value_and_gradients(SegmentationLoss(scheme, batch_dice), [logits.requires_grad_()], label)
    assert value.item() == pytest.approx(definition(logits, label, scheme, batch_dice), rel=1e-5)
    assert gradient.isfinite().all()
    assert (gradient[:, -1] > 0).all()  # less of it everywhere


@pytest.mark.parametrize("name", ["classes and ignore", "regions and ignore"])
@both_dices
def test_batch_without_annotated_voxels_has_a_loss_and_a_gradient_of_zero(name, batch_dice):
    heads, label = some(SCHEMES[name], (4, 4, 4), (2, 2, 2))
    loss = SegmentationLoss(SCHEMES[name], batch_dice)
    value, gradients = value_and_gradients(loss, heads, torch.full_like(label, 4))
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


@every_scheme
@both_dices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_certain_outputs_have_finite_gradients(scheme, batch_dice, dtype):
    _, label = some(scheme, (4, 4, 4), batch=1)
    label = torch.cat([label, label.flip(2)])
    structures = scheme.masks(label, 1)
    channels = structures if scheme.regions else torch.cat([~structures.any(1, keepdim=True), structures], 1)
    perfect = torch.where(channels, 1e4, -1e4).to(dtype).requires_grad_()
    loss = SegmentationLoss(scheme, batch_dice)
    value, (gradient,) = value_and_gradients(loss, [perfect], label)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6
    value, (gradient,) = value_and_gradients(loss, [-perfect], label)  # every annotated voxel is wrong
    assert value > 5e3
    assert gradient.isfinite().all()


@every_scheme
def test_loss_of_a_prediction_that_is_nearly_right_is_small_and_positive(scheme):
    _, label = some(scheme, (16, 16, 16))
    structures = scheme.masks(label, 1)
    channels = structures if scheme.regions else torch.cat([~structures.any(1, keepdim=True), structures], 1)
    logits = torch.where(channels, 9.0, -9.0) + torch.rand(channels.shape)
    assert 0 < SegmentationLoss(scheme)(logits, label) < 1e-3


@pytest.mark.parametrize("weights", [[], ["nan", 1, 1, 1, 1], [math.nan] * 5, [0] * 5, [-1, 1, 1, 1, 1], 3])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(InputError, match="deep_supervision_weights"):
        SegmentationLoss(LabelScheme(["background", "a"]), weights=weights)
