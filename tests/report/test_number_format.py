"""Numbers as text."""

import math

import pytest

from mednextv2.report.number_format import digits, mean_sd, number


def test_numbers_that_are_none_or_infinite_have_signs():
    assert [number(v) for v in (math.nan, math.inf, 0.12345)] == ["–", "∞", "0.123"]
    assert [digits(v) for v in (math.nan, 0.0, 0.012345, 1.2345, 123.45, 1234.5)] == [
        "–",
        "0",
        "0.0123",
        "1.23",
        "123",
        "1234",
    ]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0006, 3, "0.001"), (-1.5, 3, "-1.500"), (12.34, 1, "12.3"), (2.5, 0, "2"), (1e6, 0, "1000000")],
)
def test_numbers_have_as_many_digits_as_wanted(value, digits, text):
    assert number(value, digits) == text


def test_infinity_keeps_its_sign():
    assert number(-math.inf) == "-∞"


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.994, "9.99"), (10.04, "10.0"), (99.96, "100.0"), (-1.2345, "-1.23"), (0.00001234, "0.0000"), (math.inf, "∞")],
)
def test_volumes_have_three_significant_digits_and_four_after_the_point_at_most(value, text):
    assert digits(value) == text


def test_a_volume_can_have_the_digits_of_another():
    assert digits(0.5, like=123.4) == "0"  # whole millilitres, as the mean that it is the deviation of
    assert digits(123.456, like=1.2) == "123.46"
    assert digits(1.5, like=math.nan) == "2"


def test_a_mean_and_its_deviation_are_joined_where_there_are_any():
    assert mean_sd("0.9", "0.1") == "0.9 ± 0.1"
    assert mean_sd(number(math.nan), number(math.nan)) == "–"
