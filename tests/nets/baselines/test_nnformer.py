import pytest
import torch
from baseline_helpers import check_learning, check_parameters, check_refusal, check_shapes, check_training
from monai.networks.nets.swin_unetr import WindowAttention

from mednextv2.nets.baselines import NnFormer
from mednextv2.nets.baselines.nnformer import _CrossWindowAttention, _SkipAttention


def small(**kwargs):
    return NnFormer(2, 3, width=8, heads=(1, 2, 2, 2), **kwargs)


def test_it_has_the_published_number_of_parameters():
    check_parameters(lambda: NnFormer(1, 14), 149.6e6, share=0.02)  # 149 to 150 million: MedNeXt, table 2


@pytest.mark.parametrize("size", [96, 128])
def test_outputs_have_the_sizes_of_deep_supervision(size):
    check_shapes(lambda: NnFormer(1, 14), size, [1, 4, 8])  # Zhou et al. 2023, section III


def test_a_step_reaches_every_parameter():
    check_training(small(windows=(4, 4, 4, 2)), (64, 64, 64))


def test_without_deep_supervision_there_is_one_output():
    network = small(deep_supervision=False)
    assert len(network.heads) == 0
    assert isinstance(network(torch.zeros(1, 2, 32, 32, 32)), torch.Tensor)


def test_it_learns():
    check_learning(small(), (32, 32, 32), steps=25)


def test_a_patch_that_cannot_be_halved_five_times_is_refused():
    check_refusal(small(), (32, 48, 32), "multiple of 32: spatial axis 1 has 48 voxels")


def test_attention_to_the_same_map_is_the_attention_of_monai():
    ours = _CrossWindowAttention(12, 3, (2, 3, 2), qkv_bias=True)
    peer = WindowAttention(12, 3, (2, 3, 2), qkv_bias=True)
    torch.nn.init.normal_(ours.relative_position_bias_table)
    torch.nn.init.normal_(ours.qkv.bias)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(5, 12, 12)
    torch.testing.assert_close(ours(x, x), peer(x, None), rtol=1e-5, atol=1e-6)


def test_keys_and_values_come_from_the_encoder():
    attention = _CrossWindowAttention(8, 2, (2, 2, 2), qkv_bias=True)
    x, context = torch.randn(1, 8, 8), torch.randn(1, 8, 8)
    with torch.no_grad():
        attention.qkv.weight[16:] = 0  # no values
        attention.qkv.bias[16:] = 0
        assert torch.equal(attention(x, context), attention.proj.bias.expand(1, 8, 8))
        attention.qkv.weight[16:] = torch.eye(8)
        attention.qkv.weight[:16] = 0  # queries and keys are all equal: the result is the mean of the values
        attention.qkv.bias[:16] = 0
        attention.relative_position_bias_table.zero_()
        expected = attention.proj(context.mean(1, keepdim=True)).expand(1, 8, 8)
        torch.testing.assert_close(attention(x, context), expected)


@pytest.mark.parametrize("size", [(8, 8, 8), (6, 8, 5)])
def test_skip_attention_stays_within_a_volume(size):
    block = _SkipAttention(4, 2, 4)
    x, skip = torch.randn(1, *size, 4), torch.randn(1, *size, 4)
    changed = skip.clone()
    changed[0, 5, 1, 1] += torch.randn(4)
    different = (block(x, changed) - block(x, skip)).abs().amax(-1)[0] > 1e-7
    assert different[4:, :4, :4].all()
    different[4:, :4, :4] = False
    assert not different.any()


@pytest.mark.slow
def test_it_computes_at_full_size():
    with torch.no_grad():
        assert NnFormer(1, 14).eval()(torch.randn(1, 1, 96, 96, 96)).isfinite().all()
