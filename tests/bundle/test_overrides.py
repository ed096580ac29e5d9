"""Settings that a user gives, compared with those of a configuration."""

import pytest

from mednextv2.bundle.overrides import override_problems

CONFIG = {
    "epochs": 3,
    "train": {"trainer": {"max_epochs": 3}, "parts": [{"prob": 1}]},
    "channels": ["CT"],
    "_meta_": {},
}


@pytest.mark.parametrize("key", ["epochs", "train::trainer::max_epochs", "train#parts#0#prob", "run_id"])
def test_settings_that_exist_are_no_problem(key):
    assert override_problems(CONFIG, {key: 1}) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epohcs", 1, "--epohcs: there is no such setting; did you mean --epochs?"),
        ("sees", 1, "--sees: there is no such setting; did you mean --seeds?"),
        ("zzz", 1, "--zzz: there is no such setting; see the help"),
        ("train::trainr::x", 1, "did you mean --train::trainer::x?"),
        ("train::parts::1", 1, "--train::parts::1: there is no such setting"),
        ("train", 1, "--train 1: is a section, not a setting"),
        ("channels", "CT", "--channels 'CT': should be a list"),
    ],
)
def test_others_are_a_line_each(key, value, words):
    (line,) = override_problems(CONFIG, {key: value}, ["seeds"], "the help")
    assert words in line
