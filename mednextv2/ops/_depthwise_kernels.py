# ruff: noqa: N803, N806, RUF005  (constants of a kernel are written in capitals; Triton joins tuples only with +)
"""The Triton kernels of the depthwise convolution, channels-last: one that gathers, one for the weight's gradient.

Every convolution here, and every gradient of an input, gathers: `y[o] = sum over taps of w[t] x[stride o + t - pad]`,
or, transposed, `y[o] = sum of w[t] x[(o + pad - t) / stride]` over the taps for which the index is whole. The gradient
of the input of one kind is the other kind, with the same weights.

A program computes a tile of `PLANES` planes of a few rows and columns, for a block of channels, which are adjacent in
memory. It loads the input at one shift in y and x once for all the planes that need it: of k^3 loads per voxel, about
k^2 (1 + k / PLANES) are left, and most of these come from the L1 cache, which holds the tile and its rim. The moments
of the result that the norm needs are computed while it is in registers, and a gradient that arrives on another path is
added there. Sums over voxels are computed in parts, each by one program, and added in a fixed order afterwards, so the
result does not depend on the order of execution.
"""

import triton
import triton.language as tl

from mednextv2.ops._triton_parts import rounded

# arguments that must not cause a compilation for every new image size
_GATHER_SIZES = ["in_z", "in_y", "in_x", "out_z", "out_y", "out_x", "tiles_z", "tiles_y", "tiles_x"]
_WEIGHT_SIZES = ["a_z", "a_y", "a_x", "b_z", "b_y", "b_x", "tiles_z", "tiles_y", "tiles_x"]
_WEIGHT_SIZES += ["chunk", "tiles", "per_split"]


@triton.jit(do_not_specialize=_GATHER_SIZES)
def gather_kernel(x, w, bias, onto, y, counts, means, squares, in_z, in_y, in_x, out_z, out_y, out_x, tiles_z, tiles_y,
                   tiles_x, C: tl.constexpr, KZ: tl.constexpr, K: tl.constexpr, SZ: tl.constexpr, S: tl.constexpr,
                   TRANSPOSED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ONTO: tl.constexpr, MOMENTS: tl.constexpr,
                   PLANES: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
                   BLOCK_C: tl.constexpr):  # fmt: skip
    """Compute a tile of `PLANES` x `BLOCK_Y` x `BLOCK_X` voxels; `SZ` and `S` are the strides in z and in y and x.

    In the transposed convolution, the voxels of a tile have the same remainder of division by the stride on each axis:
    these need the same taps, every `S`-th one. `w` is `(taps, C)`. `onto` is added to the result.
    """
    tile = tl.program_id(0)
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += n * in_z * in_y * in_x * C
    y += n * out_z * out_y * out_x * C
    place, px, py, pz = tile, 0, 0, 0
    if TRANSPOSED:  # the remainders
        px, py, pz = place % S, place // S % S, place // (S * S) % SZ
        place = place // (S * S * SZ)
    voxel = tl.arange(0, BLOCK_Y * BLOCK_X)
    qx = place % tiles_x * BLOCK_X + voxel % BLOCK_X
    qy = place // tiles_x % tiles_y * BLOCK_Y + voxel // BLOCK_X
    qz = place // (tiles_x * tiles_y) * PLANES
    TAPS_Z: tl.constexpr = (KZ + SZ - 1) // SZ if TRANSPOSED else KZ
    loaded: tl.constexpr = PLANES + TAPS_Z - 1 if TRANSPOSED else SZ * (PLANES - 1) + KZ
    if TRANSPOSED:
        first_z, first_y, first_x = (pz + KZ // 2) % SZ, (py + K // 2) % S, (px + K // 2) % S
        start_z = qz + (pz + KZ // 2) // SZ - (TAPS_Z - 1)
        start_y, start_x = qy + (py + K // 2) // S, qx + (px + K // 2) // S
        oy, ox = qy * S + py, qx * S + px
    else:
        first_z, first_y, first_x = 0, 0, 0
        start_z, start_y, start_x = qz * SZ - KZ // 2, qy * S - K // 2, qx * S - K // 2
        oy, ox = qy, qx

    total: tl.tuple = ()
    for _ in tl.static_range(PLANES):
        total = total + (tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_C], tl.float32),)
    step: tl.constexpr = S if TRANSPOSED else 1
    for ky in range(first_y, K, step):
        for kx in range(first_x, K, step):
            if TRANSPOSED:
                iy, ix = start_y - ky // S, start_x - kx // S
            else:
                iy, ix = start_y + ky, start_x + kx
            inside = ((iy >= 0) & (ix >= 0) & (ix < in_x))[:, None] & (c < C)[None, :]
            pointer = x + (iy.to(tl.int64) * in_x + ix)[:, None] * C + c[None, :]
            for plane in tl.static_range(loaded):
                iz = start_z + plane
                rows = tl.where((iz >= 0) & (iz < in_z), in_y, 0)  # a plane outside has no rows
                mask = inside & (iy < rows)[:, None]
                shift = iz.to(tl.int64) * in_y * in_x * C
                value = tl.load(pointer + shift, mask=mask, other=0.0).to(tl.float32)
                for r in tl.static_range(PLANES):
                    for tap in tl.static_range(TAPS_Z):
                        if plane == (r - tap + TAPS_Z - 1 if TRANSPOSED else SZ * r + tap):
                            kz = first_z + tap * SZ if TRANSPOSED else tap
                            channels = tl.where(kz < KZ, C, 0)
                            weight = tl.load(w + ((kz * K + ky) * K + kx) * C + c, mask=c < channels, other=0.0)
                            total = total[:r] + (total[r] + value * weight[None, :],) + total[r + 1 :]

    b = tl.load(bias + c, mask=c < C, other=0.0) if HAS_BIAS else tl.zeros([BLOCK_C], tl.float32)
    pointer = y + (oy.to(tl.int64) * out_x + ox)[:, None] * C + c[None, :]
    added = tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_C], tl.float32)
    voxels = tl.zeros([BLOCK_Y * BLOCK_X], tl.float32)
    for r in tl.static_range(PLANES):
        oz = (qz + r) * SZ + pz if TRANSPOSED else qz + r
        mask = (oy < tl.where(oz < out_z, out_y, 0)) & (ox < out_x)
        value = total[r] + b[None, :]
        shift = tl.cast(oz, tl.int64) * out_y * out_x * C
        if HAS_ONTO:
            place = onto + n * out_z * out_y * out_x * C + (oy.to(tl.int64) * out_x + ox)[:, None] * C + c[None, :]
            value += tl.load(place + shift, mask=mask[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        value = rounded(value, y.dtype.element_ty)
        tl.store(pointer + shift, value, mask=mask[:, None] & (c < C)[None, :])
        if MOMENTS:  # moments of the values as they are stored
            added += tl.where(mask[:, None], value.to(tl.float32), 0.0)
            voxels += mask.to(tl.float32)
    if MOMENTS:
        count = tl.sum(voxels, 0)
        mean = tl.sum(added, 0) / tl.maximum(count, 1.0)
        added = tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_C], tl.float32)
        for r in tl.static_range(PLANES):
            oz = (qz + r) * SZ + pz if TRANSPOSED else qz + r
            mask = (oy < tl.where(oz < out_z, out_y, 0)) & (ox < out_x)
            value = rounded(total[r] + b[None, :], y.dtype.element_ty).to(tl.float32)
            centred = tl.where(mask[:, None], value - mean[None, :], 0.0)
            added += centred * centred
        own = (n * tl.num_programs(0) + tile) * C + c
        tl.store(means + own, mean, mask=c < C)
        tl.store(squares + own, tl.sum(added, 0), mask=c < C)
        tl.store(counts + tile, count)  # the same value for all samples and channels


@triton.jit(do_not_specialize=_WEIGHT_SIZES)
def weight_kernel(a, b, partial, a_z, a_y, a_x, b_z, b_y, b_x, tiles_z, tiles_y, tiles_x, chunk, tiles, per_split,
                   C: tl.constexpr, KZ: tl.constexpr, K: tl.constexpr, SZ: tl.constexpr, S: tl.constexpr,
                   TAPS_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
                   BLOCK_C: tl.constexpr):  # fmt: skip
    """Sum `a[i] b[stride i + t - pad]` over the voxels of one split, for taps t of one ky, `TAPS_X` kx and all kz.

    A tile is a column of `chunk` planes. With stride 1 in z, the planes of `a` by which a plane of `b` is multiplied
    stay in registers; so a step loads one plane of `a` and `TAPS_X` shifted ones of `b`.
    """
    groups: tl.constexpr = (K + TAPS_X - 1) // TAPS_X
    first_x = tl.program_id(0) % groups * TAPS_X
    ky = tl.program_id(0) // groups % K
    c = tl.program_id(0) // (groups * K) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = tl.program_id(1)
    voxel = tl.arange(0, BLOCK_Y * BLOCK_X)
    total: tl.tuple = ()
    for _ in tl.static_range(KZ * TAPS_X):
        total = total + (tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_C], tl.float32),)
    for tile in range(split * per_split, tl.minimum((split + 1) * per_split, tiles)):
        x = tile % tiles_x * BLOCK_X + voxel % BLOCK_X
        y = tile // tiles_x % tiles_y * BLOCK_Y + voxel // BLOCK_X
        z = tile // (tiles_x * tiles_y) % tiles_z * chunk
        n = tl.cast(tile // (tiles_x * tiles_y * tiles_z), tl.int64)
        length = tl.minimum(chunk, a_z - z)
        inside_a = (x < a_x)[:, None] & (c < C)[None, :]
        pointer_a = a + n * a_z * a_y * a_x * C + (y.to(tl.int64) * a_x + x)[:, None] * C + c[None, :]
        iy, ix = y * S + ky - K // 2, x * S + first_x - K // 2
        inside_b = inside_a & ((y < a_y) & (iy >= 0))[:, None]
        pointer_b = b + n * b_z * b_y * b_x * C + (iy.to(tl.int64) * b_x + ix)[:, None] * C + c[None, :]
        if SZ == 1:
            window: tl.tuple = ()
            for _ in tl.static_range(KZ):
                window = window + (tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_C], tl.float32),)
            for step in range(0, length + KZ - 1):
                shift = tl.cast(z + step, tl.int64) * a_y * a_x * C
                mask = inside_a & (y < tl.where(step < length, a_y, 0))[:, None]
                new = tl.load(pointer_a + shift, mask=mask, other=0.0).to(tl.float32)
                window = (new,) + window[: KZ - 1]
                iz = z + step - KZ // 2
                shift = tl.cast(iz, tl.int64) * b_y * b_x * C
                inside = inside_b & (iy < tl.where((iz >= 0) & (iz < b_z), b_y, 0))[:, None]
                for kx in tl.static_range(TAPS_X):
                    mask = inside & ((ix + kx >= 0) & (ix + kx < b_x))[:, None]
                    value = tl.load(pointer_b + shift + kx * C, mask=mask, other=0.0).to(tl.float32)
                    for kz in tl.static_range(KZ):
                        value_at = total[kz * TAPS_X + kx] + window[kz] * value
                        total = total[: kz * TAPS_X + kx] + (value_at,) + total[kz * TAPS_X + kx + 1 :]
        else:
            for step in range(0, length):
                shift = tl.cast(z + step, tl.int64) * a_y * a_x * C
                own = tl.load(pointer_a + shift, mask=inside_a & (y < a_y)[:, None], other=0.0).to(tl.float32)
                for kz in tl.static_range(KZ):
                    iz = (z + step) * SZ + kz - KZ // 2
                    shift = tl.cast(iz, tl.int64) * b_y * b_x * C
                    inside = inside_b & (iy < tl.where((iz >= 0) & (iz < b_z), b_y, 0))[:, None]
                    for kx in tl.static_range(TAPS_X):
                        mask = inside & ((ix + kx >= 0) & (ix + kx < b_x))[:, None]
                        value = tl.load(pointer_b + shift + kx * C, mask=mask, other=0.0).to(tl.float32)
                        value_at = total[kz * TAPS_X + kx] + own * value
                        total = total[: kz * TAPS_X + kx] + (value_at,) + total[kz * TAPS_X + kx + 1 :]
    for kz in tl.static_range(KZ):
        for kx in tl.static_range(TAPS_X):
            tap = (kz * K + ky) * K + first_x + kx
            if first_x + kx < K:
                target = partial + (tl.cast(split, tl.int64) * C + c) * KZ * K * K + tap
                tl.store(target, tl.sum(total[kz * TAPS_X + kx], 0), mask=c < C)
