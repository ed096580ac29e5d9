import time

import pytest
import yaml
from bundle_helpers import BUNDLES

from mednextv2.bundle.task import read_task
from mednextv2.errors import InputError

TEXT = (BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text(encoding="utf-8")
DOCUMENTS = list(yaml.safe_load_all(TEXT))


def write(tmp_path, text):
    folder = tmp_path / "mednextv2_x"
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    return folder / "task.yaml"


def refused(tmp_path, text) -> str:
    """Return the message about a task, which is one short line that names the file."""
    file = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_task(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert len(message) < 1500
    return message.removeprefix(f"{file}: ")


def changed(**facts) -> str:
    """Return the text of the task with other facts, in either document."""
    return yaml.safe_dump_all(
        [{key: facts.get(key, value) for key, value in document.items()} for document in DOCUMENTS], sort_keys=False
    )


NO_TEXTS = (None, 3, 1.5, True, [], ["x"], {}, {"_target_": "os.getcwd"}, "", " ")


def test_the_task_itself_is_read(tmp_path):
    assert read_task(write(tmp_path, changed())).workflow == DOCUMENTS[0]
    assert read_task(write(tmp_path, TEXT.replace("\n", "\r\n"))).public == DOCUMENTS[1]


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
@pytest.mark.parametrize("key", ["dataset_name", "variant", "title", "version", "task", "description", "data_license"])
def test_what_should_be_a_text_is_one(tmp_path, key, value):
    assert refused(tmp_path, changed(**{key: value})).startswith(f"{key} should be a text")


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
@pytest.mark.parametrize("key", ["channels", "labels"])
def test_names_are_texts(tmp_path, key, value):
    names = ["background", "anterior", value] if key == "labels" else [value]
    assert refused(tmp_path, changed(**{key: names})).startswith(f"{key}: each name should be a text of one line")


@pytest.mark.parametrize("value", [None, 3, "background", {"background": 0}, {0: "background"}, True, []], ids=repr)
@pytest.mark.parametrize("key", ["channels", "labels"])
def test_names_are_a_list(tmp_path, key, value):
    assert f"{key} should be a list of names" in refused(tmp_path, changed(**{key: value}))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"labels": ["background", "b", "b"]}, "labels: the name 'b' stands twice"),
        ({"channels": ["T1", "T1"]}, "channels: the name 'T1' stands twice"),
        ({"labels": ["background", "x" * 300]}, "labels: each name should be a text of one line and up to 200"),
        ({"labels": ["background", "a\nb"]}, "labels: each name should be"),
        ({"labels": ["background", "a::b"]}, "labels: MONAI reads more than a name into 'a::b'"),
        ({"channels": ["$1"]}, "channels: MONAI reads more than a name into '$1'"),
        ({"dataset_name": "@spacing"}, "dataset_name: MONAI reads more than a name into '@spacing'"),
        ({"version": "9\n9"}, r"the changelog has no entry for the version '9\n9'"),
        ({"description": "$print(1)"}, "description: MONAI reads more than a text into '$print(1)'"),
        ({"authors": "%metadata.json"}, "authors: MONAI reads more than a text"),
        ({"regions": [{"name": ["a"], "values": [1], "paint": 1}]}, "regions: the name ['a'] should be a text"),
        ({"regions": [{"name": "a", "values": [True], "paint": 1}]}, "made of the values [True]"),
        ({"regions": [{"name": "a", "values": [1], "paint": True}]}, "painted as True"),
        ({"regions": [{"name": "a", "values": [[1]], "paint": 1}]}, "made of the values [[1]]"),
        ({"regions": [{"name": "a", "values": [1], "paint": 1}] * 2}, "regions: the name 'a' stands twice"),
        ({"regions": [[]]}, "regions: [] should have name"),
        ({"regions": {"a": 1}}, "regions should be a list"),
        ({"ignore_label": True}, "ignore_label True"),
        ({"ignore_label": 3.0}, "ignore_label 3.0"),
        ({"ignore_label": [3]}, "ignore_label [3]"),
        ({"spacing": [1.0, True, 1.0]}, "spacing should be millimetres"),
        ({"spacing": [1.0, [1.0], 1.0]}, "spacing should be millimetres"),
        ({"patch_size": [48, True, 48]}, "patch_size [48, True, 48]"),
        ({"patch_size": [48, "64", 48]}, "patch_size [48, '64', 48]"),
        ({"patch_size": [[48], 64, 48]}, "patch_size [[48], 64, 48]"),
        ({"batch_size": 2.0}, "batch_size should be a whole number"),
        ({"mirror_axes": [False]}, "mirror_axes should be a list of axes"),
        ({"mirror_axes": [1.0]}, "mirror_axes should be a list of axes"),
        ({"mirror_axes": [2], "patch_size": [48, 48], "spacing": [1, 1]}, "mirror_axes [2] are more than the axes"),
        ({"batch_dice": "false"}, "batch_dice should be True or False"),
        ({"normalization": [{"scheme": ["zscore"]}]}, "normalization {'scheme': ['zscore']}"),
        ({"normalization": [{"scheme": "zscore", "_target_": "os.getcwd"}]}, "the scheme zscore has inside_mask"),
        ({"normalization": [{"scheme": "ct", "lower": True, "upper": 9, "mean": 1, "std": 1}]}, "needs numbers"),
        ({"normalization": [{"scheme": "ct", "lower": 0, "upper": 1e300, "mean": 1, "std": 1}]}, "needs numbers"),
        ({"changelog": {"0.1.0": 3}}, "changelog should have a text for each version"),
        ({"changelog": {0.1: "first"}}, "changelog should have a text for each version"),
        ({"changelog": ["0.1.0"]}, "changelog should have a text for each version"),
        ({"references": "one"}, "references should be a list of texts"),
        ({"references": [{"a": 1}]}, "references should be a list of texts"),
    ],
)
def test_facts_of_a_wrong_kind_are_refused(tmp_path, facts, words):
    assert words in refused(tmp_path, changed(**facts))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("batch_size: 9", "batch_size: 9\nbatch_size: 3", "the key 'batch_size' stands twice (line 10, column 1)"),
        ("spacing: [1.0, 1.0, 1.0]", "spacing: [1.0, .nan, 1.0]", "no number that can be used (line 7, column 16)"),
        ("spacing: [1.0, 1.0, 1.0]", "spacing: [1.0, .inf, 1.0]", "no number that can be used"),
        ("batch_size: 9", "batch_size: " + "9" * 50, "no number that can be used"),
        ("title: H", "title: !!python/name:os.system H", "the tag"),
        ("regions: []", "regions: &r [*r]", "stands inside of what it names"),
        ("  0.1.0: first version", "  0.1.0: &v {a: *v}\n  b: x", "stands inside of what it names"),
        ("authors:", "copyright: twice\nauthors:", "the key 'copyright' stands twice (line 2"),
        ("regions: []", "regions: " + "[" * 9000 + "]" * 9000, "nested more than"),
        ("\n---", "\n...\n---", "is not valid YAML"),
        ("regions: []", "regions: []\n3: x", "unknown facts: 3"),
    ],
)
def test_yaml_without_sense_is_refused_with_its_place(tmp_path, old, new, words):
    assert old in TEXT
    assert words in refused(tmp_path, TEXT.replace(old, new, 1))


def test_facts_in_braces_cannot_be_continued(tmp_path):
    first = yaml.safe_dump(DOCUMENTS[0], default_flow_style=True, width=10**6)
    message = refused(tmp_path, f"{first}\n---\n{yaml.safe_dump(DOCUMENTS[1])}")
    assert "not valid YAML" in message or "recipes cannot follow" in message


def test_lists_that_expand_are_refused_in_no_time(tmp_path):
    start = time.process_time()
    names = "[background, &a [x, y, z, u, v, w, p, q, r, s]"
    for before, after in zip("abcdefg", "bcdefgh", strict=True):
        names += f", &{after} [{', '.join([f'*{before}'] * 10)}]"
    message = refused(tmp_path, TEXT.replace("[background, anterior, posterior]", names + "]"))
    assert "expand to more than 5000 entries" in message
    assert time.process_time() - start < 2


def test_texts_that_are_no_utf8_or_no_file_are_refused(tmp_path):
    file = write(tmp_path, "")
    file.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_task(file)
    with pytest.raises(InputError, match="there is no such file"):
        read_task(tmp_path / "task.yaml")
    with pytest.raises(InputError, match="not a file"):
        read_task(tmp_path)


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
@pytest.mark.parametrize("key", ["weights", "data_access", "official_split"])
def test_optional_texts_are_texts(tmp_path, key, value):
    assert refused(tmp_path, with_public(**{key: value})).startswith(f"{key} should be a text")


@pytest.mark.parametrize("value", ["scripts/btcv.py", "../x", "Btcv", "a b", *NO_TEXTS], ids=repr)
def test_a_converter_is_the_name_of_a_script(tmp_path, value):
    assert refused(tmp_path, with_public(converter=value)).startswith("converter should be")


@pytest.mark.parametrize("value", [None, 3, "a", {}, [3], [None], [""], [["a"]], [{"a": "b"}]], ids=repr)
@pytest.mark.parametrize("key", ["data_traps", "assumptions"])
def test_optional_lists_are_lists_of_texts(tmp_path, key, value):
    assert refused(tmp_path, with_public(**{key: value})).startswith(f"{key} should be a list of texts")


SCORE = {"method": "a", "score": "b", "source": "c", "comparable": "d"}


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "a", {}, ["a"], [{}], [SCORE, {**SCORE, "more": "x"}], [{**SCORE, "score": 83.5}],
        [{**SCORE, "comparable": True}], [{**SCORE, "method": ""}], [{"method": "a"}],
    ],
    ids=repr,
)  # fmt: skip
def test_scores_have_four_texts_each(tmp_path, value):
    assert refused(tmp_path, with_public(reference_scores=value)).startswith(
        "reference_scores should be a list of entries"
    )


@pytest.mark.parametrize(
    "value",
    [
        None, 0.9, [], {}, {"dice": 0.9}, {1: 0.9}, {"mean_dice": "0.9"}, {"mean_dice": True}, {"mean_dice": -0.1},
        {"mean_dice": 0.9, "more": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_measured_scores_are_numbers_of_known_metrics(tmp_path, value):
    message = refused(tmp_path, with_public(eval_metrics=value))
    assert message.startswith("eval_metrics should be a number for mean_dice or mean_surface_dice_1mm or mean_hd95_mm")


def test_measured_scores_come_with_how_they_were_measured(tmp_path):
    facts = {"eval_metrics": {"mean_dice": 0.9}, "evaluation": "Of fold 1."}
    without = {key: value for key, value in DOCUMENTS[1].items() if key not in facts}
    for key, value in facts.items():
        text = yaml.safe_dump_all([DOCUMENTS[0], {**without, key: value}])
        assert "eval_metrics and evaluation, which says how they were measured, belong together" in refused(
            tmp_path, text
        )
    text = yaml.safe_dump_all([DOCUMENTS[0], {**without, **facts, "weights": "none"}])
    assert "eval_metrics are scores of weights, but weights is none" in refused(tmp_path, text)


def test_optional_texts_that_monai_would_evaluate_are_refused(tmp_path):
    text = with_public(reference_scores=[{**SCORE, "source": "$import os"}])
    assert "reference_scores: MONAI reads more than a text" in refused(tmp_path, text)


def with_public(**facts) -> str:
    """Return the text of the task with further facts in its second document."""
    return yaml.safe_dump_all([DOCUMENTS[0], {**DOCUMENTS[1], **facts}], sort_keys=False)
