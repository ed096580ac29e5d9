from collections import Counter

import pytest
import torch

from mednextv2.data.collection_sampling import add_chances
from mednextv2.data.patches import PatchSampler
from mednextv2.errors import InputError

ITEMS = [{"dataset": "large"}] * 16 + [{"dataset": "small"}] * 4


@pytest.mark.parametrize(
    ("sampling", "large"),
    [("square_root", 4 / 6), ("proportional", 16 / 20), ("uniform", 1 / 2), ({"large": 1.0, "small": 3.0}, 1 / 4)],
)
def test_data_sets_are_drawn_by_the_rule_and_their_cases_alike(sampling, large):
    chances = [item["chance"] for item in add_chances(ITEMS, sampling)]
    assert chances == pytest.approx([large / 16] * 16 + [(1 - large) / 4] * 4)
    drawn = Counter(key[0] for key in PatchSampler(20, 5, 4000, chances=chances))
    found = torch.tensor([drawn[case] for case in range(20)]) / 20000
    torch.testing.assert_close(found, torch.tensor(chances, dtype=found.dtype), rtol=0, atol=0.012)


def test_a_case_of_weight_0_is_never_drawn():
    chances = [item["chance"] for item in add_chances(ITEMS, {"large": 0.0, "small": 1.0})]
    assert {key[0] for key in PatchSampler(20, 5, 100, chances=chances)} == {16, 17, 18, 19}


def test_only_weights_of_0_are_refused():
    with pytest.raises(InputError, match="the data sets large have the weight 0"):
        add_chances(ITEMS[:3], {"large": 0.0, "small": 1.0})
