"""The choice of a post-processing by its definition."""

import numpy as np
from postprocessing_helpers import step_by_definition


def mean_dice_by_definition(preds, refs, scheme):
    """Dice by structure (the mean over cases), and that of the foreground."""
    scores = []
    for pred, ref in zip(preds, refs, strict=True):
        valid = np.ones(ref.shape, bool) if scheme.ignore_label is None else ref != scheme.ignore_label
        scores.append([])
        for values in scheme.members:
            p, r = np.isin(pred, values) & valid, np.isin(ref, values) & valid
            total = p.sum() + r.sum()
            scores[-1].append(2 * (p & r).sum() / total if total else np.nan)
    scores = np.ma.masked_invalid(scores).mean(axis=0)
    return scores.filled(np.nan), float(np.ma.filled(scores.mean(), np.nan))


def decide_by_definition(preds, refs, scheme):
    """The steps: the union first, then one structure after the other, each on top of what was accepted."""
    steps = []
    union = list(range(1, len(scheme.labels)))
    before, mean = mean_dice_by_definition(preds, refs, scheme)
    tried = [step_by_definition(p, union) for p in preds]
    after, new_mean = mean_dice_by_definition(tried, refs, scheme)
    if new_mean > mean and not (after < before).any():
        steps, preds, before = [union], tried, after
    for i, values in enumerate(scheme.members if len(scheme.members) > 1 else []):
        tried = [step_by_definition(p, values) for p in preds]
        after, _ = mean_dice_by_definition(tried, refs, scheme)
        if after[i] > before[i]:
            steps, preds, before = [*steps, list(values)], tried, after
    return steps


def row(decision, name):
    return next(r for r in decision.table if r["name"] == name)
