"""The settings of the bundles that no paper gives are those of `mednextv2 plan`, or the difference is explained."""

import re

import numpy as np
import pytest
import yaml
from benchmark_helpers import facts_about, make_data, task_of
from bundle_helpers import BUNDLES
from verb_helpers import call_verb

from mednextv2.bundle.plan import _decide
from mednextv2.bundle.task import read_task
from mednextv2.data.fingerprint import ChannelFacts, Fingerprint

#: Median voxels along right, anterior, superior, where the facts have none; the READMEs say that they are assumed.
ASSUMED_SHAPES = {
    "mednextv2_brainmetshare": (149, 182, 137),  # 140 x 171 x 137 mm, the median brain of BraTS
    "mednextv2_ctspine1k": (384, 384, 384),  # 384 mm
    "mednextv2_oaizib_cm": (160, 384, 384),  # the protocol of the Osteoarthritis Initiative
    "mednextv2_pediatric_ct_seg": (320, 320, 160),  # 320 mm
    "mednextv2_totalsegmentator": (256, 256, 256),  # 384 mm
}
PLANNED = sorted([*ASSUMED_SHAPES, "mednextv2_panther", "mednextv2_toothfairy2"])
#: What differs from the plan, and the words of the comment in the task that says why.
DIFFERENT = {
    "mednextv2_ctspine1k": {"mirror_axes": "not up and down, which contradicts the numbering"},
    "mednextv2_oaizib_cm": {"mirror_axes": "left-right exchanges medial and lateral"},
    "mednextv2_toothfairy2": {"mirror_axes": "front-back and up-down as the challenge's winner did"},
    "mednextv2_totalsegmentator": {"mirror_axes": "as TotalSegmentator's own training"},
}
ANY = ChannelFacts(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0)  # intensities, which only CT's normalisation needs


def shape_of(name):
    zyx = facts_about(name).get("median_shape_zyx")
    return tuple(zyx[::-1]) if zyx else ASSUMED_SHAPES[name]


def planned(name):
    """Return what the rules decide for the published or assumed spacing and shape of a data set."""
    facts, task = facts_about(name), task_of(name)
    kept = 0.5 if "masked" in facts["normalisation"] else 1.0  # skull-stripped images have a wide border of zeros
    fingerprint = Fingerprint(
        facts["num_training"], (tuple(task.workflow["spacing"]),), (shape_of(name),), kept,
        (ANY,) * len(task.workflow["channels"]), {}, {},
    )  # fmt: skip
    decisions = _decide(fingerprint, task.scheme(), task.workflow["channels"], None, None, None, "v2_base", 24.0)
    return {key: decision.value for key, decision in decisions.items()}


@pytest.mark.parametrize("name", PLANNED)
def test_settings_are_the_planners(name):
    task, plan = task_of(name), planned(name)
    facts = task.workflow
    found = {
        key: (facts[key], list(plan[key]) if isinstance(plan[key], tuple) else plan[key])
        for key in ("spacing", "patch_size", "batch_size", "mirror_axes", "batch_dice")
    }
    other = {key for key, (ours, theirs) in found.items() if ours != theirs}
    assert other == {*DIFFERENT.get(name, {})}, found
    comments = " ".join(task.text.replace("#", " ").split())
    assert all(words in comments for words in DIFFERENT.get(name, {}).values())


@pytest.mark.parametrize("name", PLANNED)
def test_the_kind_of_normalisation_is_the_planners(name):
    ours, theirs = task_of(name).workflow["normalization"], planned(name)["normalization"]
    if ours[0]["scheme"] == "ct":  # whose numbers come from the data
        assert [set(entry) for entry in ours] == [set(entry) for entry in theirs]
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", ASSUMED_SHAPES)
def test_an_assumed_shape_is_said_to_be_assumed(name):
    assert not facts_about(name).get("median_shape_zyx")
    assert "assumed" in task_of(name).text
    text = " ".join(" ".join(task_of(name).public["assumptions"]).split())
    size = r"(shape( of the files)? are|size of the images[\w ]* is) not known"
    assert re.search(size, text), text


def test_a_window_without_statistics_is_normalised_as_a_uniform_distribution():
    """Where the foreground's statistics are not published, they are those of a uniform distribution over the window."""
    found = []
    for name in ("mednextv2_btcv", "mednextv2_amos22", "mednextv2_ctspine1k"):
        (entry,) = task_of(name).workflow["normalization"]
        low, high = entry["lower"], entry["upper"]
        assert entry["mean"] == (low + high) / 2
        assert entry["std"] == pytest.approx((high - low) / np.sqrt(12), abs=0.05)
        assert "uniform distribution" in task_of(name).text
        found.append((low, high))
    assert found == [(-175, 250), (-175, 250), (-200, 1000)]


@pytest.mark.slow
def test_plan_on_generated_images_of_the_published_size_gives_the_committed_task(tmp_path):
    """The whole verb, on images of PANTHER's median shape and spacing."""
    name = "mednextv2_panther"
    data = make_data(name, tmp_path / task_of(name).workflow["dataset_name"], shape=shape_of(name), cases=2)
    code, out, err = call_verb("plan", data, "--output", tmp_path / name)
    assert code == 0, err[-2000:]
    assert "median size" in out
    assert "318 × 258 × 72" in out
    ours, theirs = (read_task(folder / name / "task.yaml").workflow for folder in (BUNDLES, tmp_path))
    assert theirs == ours
    assert yaml.safe_load((tmp_path / name / "fingerprint.json").read_text())["cases"] == 2
