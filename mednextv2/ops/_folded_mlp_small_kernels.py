# ruff: noqa: N803  (constants of a kernel are written in capitals)
"""The small Triton kernels between the large ones of a block: operations on channels alone, in few launches.

- `moments_kernel`, `fold_kernel`: after the depthwise convolution: mean and variance from the parts of its tiles, and
  the affine part of the norm folded into the expansion, `W1' = W1 * norm_weight`, `b1' = b1 + W1 norm_bias`.
- `response_kernel`: after the norms: GRN's scale `s` in the compression, `W2' = W2 * s` for each sample, and
  `b2' = b2 + W2 beta`.
- `scale_gradient_kernel`: after `G2 = h^T D`: gradients of compression and GRN, and the parts of `k`.
- `expand_gradient_kernel`: after `G1 = du^T z`: gradients of expansion and norm, and the two corrections of `dy`.

Sums over programs of other kernels are computed here, in a fixed order. The names are those of `docs/fast_block.md`.
"""

import triton
import triton.language as tl

from mednextv2.ops._triton_parts import load_tile, load_vector, store_tile


@triton.jit
def _moments(counts, means, squares, mean, variance, tiles, n, c, C: tl.constexpr, BLOCK_T: tl.constexpr):
    """Combine the moments of tiles (Chan's rule) around the mean of the first `BLOCK_T`, so that float32 is enough.

    However far that mean is from the mean of all, the loss by cancellation is at most the ratio of the other tiles to
    the first ones times a rounding, since the first ones then cause a large variance.
    """
    means, squares = means + n * tiles * C, squares + n * tiles * C
    t = tl.arange(0, BLOCK_T)
    count = load_vector(counts, t, tiles)
    first = tl.sum(count[:, None] * load_tile(means, t, c, C, 1, tiles, C), 0) / tl.sum(count, 0)
    shift, spread, voxels = tl.zeros_like(first), tl.zeros_like(first), 0.0
    for start in range(0, tiles, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        count = load_vector(counts, t, tiles)
        difference = load_tile(means, t, c, C, 1, tiles, C) - first[None, :]
        shift += tl.sum(count[:, None] * difference, 0)
        spread += tl.sum(
            count[:, None] * difference * difference + load_tile(squares, t, c, C, 1, tiles, C), 0
        )  # fmt: skip
        voxels += tl.sum(count, 0)
    shift = shift / voxels
    tl.store(mean + n * C + c, first + shift, mask=c < C)
    tl.store(variance + n * C + c, tl.maximum(spread / voxels - shift * shift, 0.0), mask=c < C)


@triton.jit(do_not_specialize=["tiles"])
def moments_kernel(counts, means, squares, mean, variance, tiles, C: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_T: tl.constexpr):  # fmt: skip
    """Compute the mean and variance of `BLOCK_M` channels of one sample."""
    c = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    _moments(counts, means, squares, mean, variance, tiles, tl.program_id(1), c, C, BLOCK_T)


@triton.jit(do_not_specialize=["tiles", "moment_programs"])
def fold_kernel(counts, means, squares, mean, variance, w1, b1, norm_weight, norm_bias, w1n, b1n, tiles,
                moment_programs, C: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr,
                BLOCK_E: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Compute moments in the first `moment_programs` programs, and `W1'` and `b1'` in the others."""
    blocks: tl.constexpr = (C + BLOCK_M - 1) // BLOCK_M
    program = tl.program_id(0)
    if program < moment_programs:
        c = program % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
        _moments(counts, means, squares, mean, variance, tiles, program // blocks, c, C, BLOCK_T)
    else:
        e = (program - moment_programs) * BLOCK_E + tl.arange(0, BLOCK_E)
        total = load_vector(b1, e, E)
        for start in tl.static_range(0, C, BLOCK_C):
            k = start + tl.arange(0, BLOCK_C)
            w = load_tile(w1, e, k, C, 1, E, C).to(tl.float32)
            store_tile(w1n, w * load_vector(norm_weight, k, C)[None, :], e, k, C, 1, E, C)
            total += tl.sum(w * load_vector(norm_bias, k, C)[None, :], 1)
        tl.store(b1n + e, total, mask=e < E)


@triton.jit
def _norms(squares, e, splits, E: tl.constexpr, BLOCK_S: tl.constexpr):
    """Return the norms of a block of channels, from the sums of squares of all programs."""
    total = tl.zeros_like(e).to(tl.float32)
    for start in range(0, splits, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        total += tl.sum(load_tile(squares, s, e, E, 1, splits, E), 0)
    return tl.sqrt(total)


@triton.jit(do_not_specialize=["splits", "eps"])
def response_kernel(squares, gamma, beta, w2, b2, g, w2n, b2n, splits, eps, GRN_SUM: tl.constexpr, E: tl.constexpr,
                    OUT: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_E: tl.constexpr,
                    BLOCK_O: tl.constexpr):  # fmt: skip
    """Compute a block of rows of `W2'` and `b2'` for one sample, and, in its first program, the norms `g`."""
    o, n = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O), tl.program_id(1)
    squares, w2n, g = squares + n * splits * E, w2n + n * OUT * E, g + n * E
    total = tl.zeros([BLOCK_E], tl.float32)
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        norm = _norms(squares, e, splits, E, BLOCK_S)
        total += norm  # zero beyond the last channel
        if tl.program_id(0) == 0:
            tl.store(g + e, norm, mask=e < E)
    denominator = (tl.sum(total, 0) if GRN_SUM else tl.sum(total, 0) / E) + eps
    bias = load_vector(b2, o, OUT)
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        norm = total if BLOCK_E >= E else _norms(squares, e, splits, E, BLOCK_S)  # recomputed: cheaper than a barrier
        scale = 1.0 + load_vector(gamma, e, E) * (norm / denominator)
        w = load_tile(w2, o, e, E, 1, OUT, E).to(tl.float32)
        store_tile(w2n, w * scale[None, :], o, e, E, 1, OUT, E)
        bias += tl.sum(w * load_vector(beta, e, E)[None, :], 1)
    if n == 0:
        tl.store(b2n + o, bias, mask=o < OUT)


@triton.jit(do_not_specialize=["samples", "splits", "sum_splits", "eps"])
def scale_gradient_kernel(g2, d_sum, w2, gamma, beta, g, w2n, change, inverse, shared, dw2, db2, dgamma, dbeta,
                          samples, splits, sum_splits, eps, GRN: tl.constexpr, GRN_SUM: tl.constexpr, E: tl.constexpr,
                          OUT: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_S: tl.constexpr,
                          BLOCK_N: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Compute the gradients of a block of columns of `W2`, and of GRN, from `G2` and the sums of `D`.

    With `dn` the gradient of GRN's `n`: `change` is `dn / (d g)` of every channel, `inverse` is `1 / g` (both are zero
    if `g` is zero), and `shared` is this program's part of `sum(dn g) / d²` (divided by E in the mean's form). So `k`
    is `change` minus the sum of all programs' `shared` times `inverse`.
    """
    e, o = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_O)
    db = tl.zeros([BLOCK_O], tl.float32)
    for start in range(0, samples * sum_splits, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        db += tl.sum(load_tile(d_sum, s, o, OUT, 1, samples * sum_splits, OUT), 0)
    w = load_tile(w2, e, o, 1, E, E, OUT).to(tl.float32)
    dw, d_gain = tl.zeros([BLOCK_E, BLOCK_O], tl.float32), tl.zeros([BLOCK_E], tl.float32)
    for n in range(0, samples):
        part = tl.zeros([BLOCK_E, BLOCK_O], tl.float32)
        for start in range(0, splits, UNROLL):
            for i in tl.static_range(UNROLL):  # several loads in flight at a time
                rows = tl.where(start + i < splits, E, 0)
                base = g2 + (tl.cast(n, tl.int64) * splits + start + i) * E * OUT
                part += load_tile(base, e, o, OUT, 1, rows, OUT)
        if GRN:
            total = tl.zeros([BLOCK_N], tl.float32)
            for first in range(0, E, BLOCK_N):
                total += load_vector(g + n * E, first + tl.arange(0, BLOCK_N), E)
            denominator = (tl.sum(total, 0) if GRN_SUM else tl.sum(total, 0) / E) + eps
            norm, gain = load_vector(g + n * E, e, E), load_vector(gamma, e, E)
            ds = tl.sum(w * part, 1)
            scale = 1.0 + gain * (norm / denominator)
            dn = ds * gain
            over = tl.where(norm > 0, 1.0 / tl.where(norm > 0, norm, 1.0), 0.0)
            tl.store(change + n * E + e, dn / denominator * over, mask=e < E)
            tl.store(inverse + n * E + e, over, mask=e < E)
            own = tl.sum(dn * norm, 0) / (denominator * denominator)
            tl.store(shared + n * tl.num_programs(0) + tl.program_id(0), own if GRN_SUM else own / E)
            d_gain += ds * (norm / denominator)
            dw += part * scale[:, None]
            store_tile(w2n + n * OUT * E, w * scale[:, None], e, o, 1, E, E, OUT)
        else:
            dw += part
    if GRN:
        dw += load_vector(beta, e, E)[:, None] * db[None, :]
        tl.store(dgamma + e, d_gain, mask=e < E)
        tl.store(dbeta + e, tl.sum(w * db[None, :], 1), mask=e < E)
    else:
        store_tile(w2n, w, e, o, 1, E, E, OUT)
    store_tile(dw2, dw, e, o, 1, E, E, OUT)
    if tl.program_id(0) == 0:
        tl.store(db2 + o, db, mask=o < OUT)


@triton.jit(do_not_specialize=["voxels", "samples", "splits", "g1_stride", "sum_stride"])
def expand_gradient_kernel(g1, b_sum, w1, w1n, norm_weight, norm_bias, offset, slope, dw1, db1, dnw, dnb, zeros,
                           voxels, samples, splits, g1_stride, sum_stride, C: tl.constexpr, E: tl.constexpr,
                           BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
                           BLOCK_K: tl.constexpr):  # fmt: skip
    """Compute the gradients of `W1` and of the norm from `G1` and the sums of `du`.

    The first programs sum over the expanded channels, for `BLOCK_C` channels each: the gradients of the norm, and
    `offset` and `slope` of a sample, which are the means of `dz` and of `dz z` over its voxels. `zeros` is the gradient
    of the bias of the convolution before the norm, which removes the bias again. The other programs compute `BLOCK_R`
    rows of the gradient of `W1` each. The strides are those between samples.
    """
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0)
    if program < blocks:
        c = program * BLOCK_C + tl.arange(0, BLOCK_C)
        d_weight, d_bias = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
        for n in range(0, samples):
            mean, product = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
            for start in range(0, E, BLOCK_E):
                e = start + tl.arange(0, BLOCK_E)
                total = _sum(b_sum + n * sum_stride, e, splits, E, BLOCK_S)
                part = load_tile(g1 + tl.cast(n, tl.int64) * g1_stride, e, c, C, 1, E, C)
                exact = load_tile(w1, e, c, C, 1, E, C).to(tl.float32)
                rounded = load_tile(w1n, e, c, C, 1, E, C).to(tl.float32)
                mean += tl.sum(rounded * total[:, None], 0)
                product += tl.sum(rounded * part, 0)
                d_bias += tl.sum(exact * total[:, None], 0)
                d_weight += tl.sum(exact * part, 0)
            tl.store(offset + n * C + c, mean / voxels, mask=c < C)
            tl.store(slope + n * C + c, product / voxels, mask=c < C)
        tl.store(dnw + c, d_weight, mask=c < C)
        tl.store(dnb + c, d_bias, mask=c < C)
        tl.store(zeros + c, tl.zeros([BLOCK_C], tl.float32), mask=c < C)
    else:
        e, k = (program - blocks) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_K)
        dw, db = tl.zeros([BLOCK_R, BLOCK_K], tl.float32), tl.zeros([BLOCK_R], tl.float32)
        for n in range(0, samples):
            dw += load_tile(g1 + tl.cast(n, tl.int64) * g1_stride, e, k, C, 1, E, C)
            db += _sum(b_sum + n * sum_stride, e, splits, E, BLOCK_S)
        weight, bias = load_vector(norm_weight, k, C), load_vector(norm_bias, k, C)
        store_tile(dw1, dw * weight[None, :] + db[:, None] * bias[None, :], e, k, C, 1, E, C)
        tl.store(db1 + e, db, mask=e < E)


@triton.jit
def _sum(parts, e, splits, E: tl.constexpr, BLOCK_S: tl.constexpr):
    """Return the sum of a block of a vector over the programs that computed its parts."""
    total = tl.zeros_like(e).to(tl.float32)
    for start in range(0, splits, BLOCK_S):
        total += tl.sum(load_tile(parts, start + tl.arange(0, BLOCK_S), e, E, 1, splits, E), 0)
    return total
