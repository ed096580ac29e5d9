"""What the tests of masked autoencoding share: masks, and plain definitions of what sparse encoders compute."""

import torch
import torch.nn.functional as F
from torch import nn

from mednextv2.nets.visible_cells import plan_level


def cells(*grid, samples=2, seen=0.4, seed=0):
    """Random visible cells, one more in each further sample."""
    number = torch.Size(grid).numel()
    visible = torch.zeros(samples, number, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for n in range(samples):
        count = min(max(1, int(seen * number)) + n, number - 1)
        visible[n, torch.randperm(number, generator=generator)[:count]] = True
    return visible.view(samples, *grid)


def seen_positions(visible, space, stride):
    """Enlarge cells to voxels, and ask for each position of a feature map whether one of its voxels is visible."""
    voxels = visible[:, None].double()
    for axis, size in enumerate(space):
        voxels = voxels.repeat_interleave(size // visible.shape[1 + axis], 2 + axis)
    pool = F.max_pool3d if len(space) == 3 else F.max_pool2d
    return pool(voxels, stride, stride)[:, 0].bool()


def levels_of(visible, space, strides):
    return [plan_level(visible, space, stride, torch.device("cpu")) for stride in strides]


def hidden_voxels(visible, space):
    """Return a mask of hidden voxels, `(N, 1, *space)`."""
    return ~seen_positions(visible, space, [1] * len(space))[:, None]


def scattered(rows, mask):
    """Put the rows of one sample into a map of zeros, `(1, C, *space)`."""
    out = rows.new_zeros(*mask.shape, rows.shape[1])
    return out.index_put(mask.nonzero(as_tuple=True), rows).movedim(-1, 0)[None]


def gathered(x, mask):
    """Take the rows of visible positions from a map `(1, C, *space)`."""
    return x[0].movedim(0, -1)[mask]


def standardised(rows, eps=1e-5):
    return (rows - rows.mean(0)) / (rows.var(0, correction=0) + eps).sqrt()


def plain_inside(block, rows):
    """Everything in a MedNeXt block after its convolution, of the rows of one sample."""
    y = standardised(rows) * block.norm.weight + block.norm.bias
    y = F.linear(y, block.expand.weight.flatten(1), block.expand.bias)
    y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
    if not isinstance(block.grn, nn.Identity):
        norms = y.square().sum(0).sqrt()
        whole = norms.sum() if block.grn.denominator == "sum" else norms.mean()
        y = y + y * block.grn.gamma * norms / (whole + 1e-6) + block.grn.beta
    return F.linear(y, block.compress.weight.flatten(1), block.compress.bias)


def plain_block(block, rows, before, after):
    """A standard or down block on the rows of one sample, given masks of the visible positions of input and output."""
    x = scattered(rows, before)
    convolve = {4: F.conv2d, 5: F.conv3d}[x.dim()]
    own = block.depthwise
    y = gathered(convolve(x, own.weight, own.bias, own.stride, own.padding, 1, x.shape[1]), after)
    y = plain_inside(block, y)
    if not block.residual:
        return y
    if hasattr(block, "shortcut"):
        second = gathered(x[(..., *[slice(None, None, 2)] * (x.dim() - 2))], after)
        rows = F.linear(second, block.shortcut.weight.flatten(1), block.shortcut.bias)
    return rows + y


def plain_mednext(network, image, visible):
    """The rows of visible positions after each stage, `[level][sample]`, sample by sample."""
    dims = image.dim() - 2
    masks = [seen_positions(visible, image.shape[2:], [2**level] * dims) for level in range(5)]
    found = [[] for _ in range(5)]
    for n in range(len(image)):
        rows = gathered(image[n : n + 1], masks[0][n])
        rows = F.linear(rows, network.stem.weight.flatten(1), network.stem.bias)
        for level in range(5):
            mask = masks[level][n]
            if level:
                rows = plain_block(network.down[level - 1], rows, masks[level - 1][n], mask)
            for block in network.bottleneck if level == 4 else network.encoder[level]:
                rows = plain_block(block, rows, mask, mask)
            found[level].append(rows)
    return found


def plain_resenc(encoder, image, visible):
    """The rows of visible positions after each stage of a residual encoder, `[stage][sample]`."""
    strides, product = [], torch.ones(image.dim() - 2, dtype=torch.int64)
    for stride in encoder.strides:
        product = product * torch.tensor(stride)
        strides.append(product.tolist())
    masks = [seen_positions(visible, image.shape[2:], stride) for stride in strides]
    found = [[] for _ in strides]
    for n in range(len(image)):
        mask = seen_positions(visible, image.shape[2:], [1] * len(strides[0]))[n]

        def unit(part, x, mask, slope=None):
            """Convolve a map, and normalise its visible positions."""
            rows = gathered(part.conv(x), mask)
            rows = standardised(rows, part.norm.eps) * part.norm.weight + part.norm.bias
            return scattered(rows if slope is None else F.leaky_relu(rows, slope), mask)

        x = unit(encoder.stem.convs[0], torch.where(mask, image[n : n + 1], 0.0), mask, 0.01)
        for index, stage in enumerate(encoder.stages):
            for block in stage.blocks:
                residual = x
                if isinstance(block.skip, nn.Sequential):
                    for part in block.skip:
                        pool = not hasattr(part, "conv")
                        residual = part(residual) if pool else unit(part, residual, masks[index][n])
                if hasattr(block, "conv3"):
                    x = unit(block.conv1, x, mask, 0.01)
                    x = unit(block.conv2, x, masks[index][n], 0.01)
                    x = unit(block.conv3, x, masks[index][n])
                else:
                    x = unit(block.conv1, x, masks[index][n], 0.01)
                    x = unit(block.conv2, x, masks[index][n])
                x = F.leaky_relu(x + residual, 0.01)
                mask = masks[index][n]
            found[index].append(gathered(x, mask))
    return found


def weighted(stages):
    """One number of all features, to which each contributes otherwise."""
    parts = [rows.flatten() for rows in stages]
    return sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).cos()).sum() for y in parts)


def parameter_gradients(module, stages):
    module.zero_grad()
    weighted(stages).backward()
    return {k: p.grad for k, p in module.named_parameters() if p.grad is not None}
