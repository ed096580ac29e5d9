import torch
from torch import nn

from mednextv2.nets.baselines.grid_transformer import GridTransformer


def test_a_layer_is_that_of_pytorch():
    ours = GridTransformer((2, 3, 2), width=12, layers=1, heads=3, mlp_width=20)
    peer = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True)
    block = ours.blocks[0]
    with torch.no_grad():
        peer.self_attn.in_proj_weight.copy_(block.attn.qkv.weight)
        peer.self_attn.in_proj_bias.zero_()  # ours has none
    peer.self_attn.out_proj.load_state_dict(block.attn.out_proj.state_dict())
    for theirs, name in (("norm1", "norm1"), ("norm2", "norm2")):
        getattr(peer, theirs).load_state_dict(getattr(block, name).state_dict())
    peer.linear1.load_state_dict(block.mlp.linear1.state_dict())
    peer.linear2.load_state_dict(block.mlp.linear2.state_dict())
    x = torch.randn(2, 12, 2, 3, 2)
    expected = nn.functional.layer_norm(peer((x + ours.positions).flatten(2).transpose(1, 2)), (12,))
    torch.testing.assert_close(ours(x).flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_positions_are_interpolated_for_another_grid():
    ours = GridTransformer((2, 2, 2), width=4, layers=0, heads=1, mlp_width=4)
    with torch.no_grad():
        ours.positions.copy_(torch.tensor([1.0, 2, 4, 8]).view(1, 4, 1, 1, 1).expand(1, 4, 2, 2, 2))
    x = torch.zeros(1, 4, 3, 4, 5)
    expected = nn.functional.layer_norm(torch.tensor([1.0, 2, 4, 8]), (4,))
    torch.testing.assert_close(ours(x), expected.view(1, 4, 1, 1, 1).expand(x.shape))


def test_without_positions_the_order_of_tokens_does_not_matter():
    ours = GridTransformer((2, 2, 2), width=8, layers=2, heads=2, mlp_width=16)
    nn.init.zeros_(ours.positions)
    x = torch.randn(1, 8, 2, 2, 2)
    torch.testing.assert_close(ours(x.flip(2)), ours(x).flip(2))
