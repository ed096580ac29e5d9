import pytest
import torch
from net_helpers import count

from mednextv2.errors import InputError
from mednextv2.nets import VARIANTS, create_mednext
from mednextv2.nets.blocks import MedNeXtBlock

# One input channel, three classes, no deep supervision. v1 was counted on the authors' code.
COUNTS = {
    ("v1_s", 3): 5_550_947,
    ("v1_b", 3): 10_526_339,
    ("v1_m", 3): 17_548_995,
    ("v1_l", 3): 61_779_299,
    ("v1_s", 5): 5_980_579,
    ("v1_b", 5): 10_955_971,
    ("v1_m", 5): 18_260_867,
    ("v1_l", 5): 62_992_931,
    ("v2_base", 3): 61_969_507,
    ("v2_wide", 3): 246_536_387,
}
RANGES = {"v2_tiny": (1_000_000, 2_000_000), "v2_small": (5_000_000, 7_000_000)}

# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("variant", "kernel_size"), COUNTS, ids=str)
@pytest.mark.usefixtures("no_initialisation")
def test_a_variant_has_exactly_the_published_parameters(variant, kernel_size):
    network = create_mednext(variant, out_channels=3, kernel_size=kernel_size)
    assert count(network) == COUNTS[variant, kernel_size]


@pytest.mark.parametrize("variant", RANGES)
@pytest.mark.usefixtures("no_initialisation")
def test_a_small_variant_is_small(variant):
    low, high = RANGES[variant]
    assert low < count(create_mednext(variant, out_channels=3)) < high


def test_every_variant_is_counted():
    assert {v for v, k in COUNTS if k == 3} | set(RANGES) == set(VARIANTS)
    assert {v for v, k in COUNTS if k == 5} == {v for v in VARIANTS if v.startswith("v1")}


@pytest.mark.usefixtures("no_initialisation")
def test_deep_supervision_adds_four_heads_of_the_published_size():
    assert count(create_mednext("v1_s", out_channels=3, deep_supervision=True)) == COUNTS["v1_s", 3] + 2892


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("v2")])
@pytest.mark.usefixtures("no_initialisation")
def test_v2_is_v1_plus_two_numbers_a_hidden_channel(variant):
    with_grn = create_mednext(variant)
    without = create_mednext(variant, global_resp_norm=False)
    hidden = sum(m.expand.out_channels for m in with_grn.modules() if isinstance(m, MedNeXtBlock))
    assert count(with_grn) == count(without) + 2 * hidden


def test_the_network_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        assert count(create_mednext("v2_wide", out_channels=3)) == COUNTS["v2_wide", 3]


def test_arguments_win_over_those_of_the_variant():
    network = create_mednext("v2_tiny", 2, in_channels=3, out_channels=4, kernel_size=5, init_filters=2, blocks_down=1)
    assert network.stem.weight.shape == (2, 3, 1, 1)
    assert network.heads[0].weight.shape == (4, 2, 1, 1)
    assert [len(stage) for stage in network.encoder] == [1] * 4
    assert [len(stage) for stage in network.decoder] == [2] * 4
    assert network.bottleneck[0].depthwise.kernel_size == (5, 5)


@pytest.mark.usefixtures("no_initialisation")
def test_a_resampling_block_takes_the_ratio_of_the_stage_it_leads_to():
    network = create_mednext("v1_b")
    ratios = {
        n: b.expand.out_channels // b.expand.in_channels for n, b in network.named_modules() if hasattr(b, "expand")
    }
    assert [ratios[f"encoder.{i}.0"] for i in range(4)] == [2, 3, 4, 4]
    assert [ratios[f"down.{i}"] for i in range(4)] == [3, 4, 4, 4]
    assert ratios["bottleneck.0"] == 4
    assert [ratios[f"up.{i}"] for i in range(4)] == [4, 4, 3, 2]
    assert [ratios[f"decoder.{i}.0"] for i in range(4)] == [4, 4, 3, 2]


@pytest.mark.usefixtures("no_initialisation")
@pytest.mark.parametrize("variant", VARIANTS)
def test_activation_checkpointing_is_on_where_the_authors_use_it(variant):
    flags = {m.activation_checkpointing for m in create_mednext(variant).modules() if isinstance(m, MedNeXtBlock)}
    assert flags == {variant in ("v1_m", "v1_l")}


def test_an_unknown_variant_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"v3_huge.*v1_s.*v2_wide"):
        create_mednext("v3_huge")


@pytest.mark.parametrize("variant", [None, [], {}, "v2", 2])
def test_what_is_no_variant_is_refused(variant):
    with pytest.raises(InputError, match="there is no such size"):
        create_mednext(variant)
