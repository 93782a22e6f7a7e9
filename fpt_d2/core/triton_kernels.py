"""Triton's kernels of the mixture: its forward pass, and the two halves of its backward pass.

:mod:`.triton_mixture` launches them, and is the only module that imports this one: nothing else needs Triton. They keep
what they have of each part in a tuple, which early versions of Triton do not know; 3.8 and 3.9 are tested.

A program has a block of queries (or of keys) and walks over the blocks of the other side, so that scores exist in tiles
only. No two programs write to one place: there are no atomics, and every run gives the same numbers. Scores are in
units of log2, because a GPU has an instruction for exp2. A bias of -inf keeps the places of a block that hold no valid
key out of a softmax, which costs no pass over a tile.

Shape legend: B images, N parts of the mixture, Q queries, K keys, D channels of a part, V value channels. All tensors
are contiguous. The arguments:
    q: (B, Q, N * D). k: (B, K, N * D). v: (B, K, V). gate: (B, N). bias: (B, N or 1, K) or None.
    order: (B, K) int32, in which an image's valid keys come before its padding; None where all keys are valid.
    lengths: (B,) int32, how many keys are valid; None where all are.
    lse: (B, N, Q) float32, log2 of the sum over the keys of exp2 of the scores.
    delta: (B, N, Q) float32, the mean under each part's softmax of the weights' gradient ``grad_out v^T``.
    factor: of the scores, log2(e) included. scale: without it.
    PARTS, WIDTH, VALUES: N, D, V. BIAS_PARTS: parts of the bias; 1 for None.
    *_TILE: the power of two that holds WIDTH or VALUES. *_CHUNK: the columns that a product sums in one step.
    BLOCK_Q, BLOCK_K: queries and keys of a block.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Float32 is multiplied as float32, and not in TF32, which rounds to 10 bits.
PRECISION = tl.constexpr("ieee")

# A kernel is compiled once for maps of all sizes.
SIZES = ["num_queries", "num_keys", "split"]


@triton.jit
def _place(num_blocks):
    """The image and the block of a program; the image as int64, or the offsets in a large batch would overflow."""
    return (tl.program_id(0) // num_blocks).to(tl.int64), tl.program_id(0) % num_blocks


# In Triton's interpreter, which runs kernels on the CPU (TRITON_INTERPRET=1 in the environment).
INTERPRETED = tl.constexpr(not isinstance(_place, triton.JITFunction))


@triton.jit
def _dot(a, b, total):
    """``total + a b``."""
    if INTERPRETED:  # it would multiply the bits of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _tile(matrix, rows, valid, stride, first, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """(R, COLUMNS): the columns from ``first`` of ``rows``; zeros behind SIZE columns and where a row is not valid."""
    columns = first + tl.arange(0, COLUMNS)
    mask = valid[:, None] & (columns < SIZE)[None, :]
    return tl.load(matrix + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store_tile(matrix, rows, valid, stride, tile, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    mask = valid[:, None] & (columns < SIZE)[None, :]
    tl.store(matrix + rows[:, None] * stride + columns[None, :], tile, mask=mask)


@triton.jit
def _zeros(shape: tl.constexpr, PARTS: tl.constexpr):
    """A tuple of every part's accumulator."""
    tiles = ()
    for _ in tl.static_range(PARTS):
        tiles = tiles + (tl.zeros(shape, tl.float32),)
    return tiles


@triton.jit
def _add(tiles, part: tl.constexpr, tile):
    """The tuple with ``tile`` added to one member."""
    return tiles[:part] + (tiles[part] + tile,) + tiles[part + 1 :]


@triton.jit
def _num_valid(lengths, image, num_keys):
    if lengths is None:
        return num_keys
    else:
        return tl.load(lengths + image)


@triton.jit
def _keys(order, image, num_keys, places, end):
    """The keys at ``places`` of the order, and which of these are before its ``end``."""
    valid = places < end
    if order is None:
        return places, valid
    else:
        return tl.load(order + image * num_keys + places, mask=valid, other=0), valid


@triton.jit
def _bias(bias, image, part: tl.constexpr, num_keys, keys, valid, factor, BIAS_PARTS: tl.constexpr):
    """What is added to the scores of ``keys``."""
    if bias is None:
        return tl.where(valid, 0.0, float("-inf"))
    else:
        row = bias + (image * BIAS_PARTS + part % BIAS_PARTS) * num_keys
        return tl.load(row + keys, mask=valid, other=float("-inf")).to(tl.float32) * factor


@triton.jit
def _lse(lse, image, part: tl.constexpr, num_queries, rows, inside, PARTS: tl.constexpr):
    """Of one part; inf makes the weights of a query that does not exist zero."""
    return tl.load(lse + (image * PARTS + part) * num_queries + rows, mask=inside, other=float("inf"))


@triton.jit
def _products(
    a, a_rows, a_valid, b, b_rows, b_valid, stride, SIZE: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """(R, S) float32: every row of one matrix times every row of another.

    In chunks, because the registers do not hold whole rows of float32. Where one chunk is all, the compiler keeps the
    rows that do not change from step to step of the caller's loop.
    """
    total = tl.zeros([a_rows.shape[0], b_rows.shape[0]], tl.float32)
    for first in range(0, SIZE, CHUNK):
        left = _tile(a, a_rows, a_valid, stride, first, SIZE, CHUNK)
        right = _tile(b, b_rows, b_valid, stride, first, SIZE, CHUNK)
        total = _dot(left, tl.trans(right), total)
    return total


@triton.jit
def _log_sum_exp(
    q, k, bias, order, rows, inside, image, part: tl.constexpr, num_keys, num_valid, factor,
    PARTS: tl.constexpr, BIAS_PARTS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_CHUNK: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(BLOCK_Q,) of one part's scores of a block of queries."""
    largest, total = tl.full([BLOCK_Q], float("-inf"), tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    for start in range(0, num_valid, BLOCK_K):
        keys, valid = _keys(order, image, num_keys, start + tl.arange(0, BLOCK_K), num_valid)
        offset = _bias(bias, image, part, num_keys, keys, valid, factor, BIAS_PARTS)
        products = _products(
            q + part * WIDTH, rows, inside, k + part * WIDTH, keys, valid, PARTS * WIDTH, WIDTH, WIDTH_CHUNK
        )
        scores = products * factor + offset[None, :]
        larger = tl.maximum(largest, tl.max(scores, 1))
        # Where a caller's bias has made all scores so far -inf, -inf - -inf would be nan.
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(largest - shift) + tl.sum(tl.exp2(scores - shift[:, None]), 1)
        largest = larger
    return largest + tl.log2(total)


@triton.jit
def _weights(
    a, a_rows, a_valid, b, b_rows, b_valid, offset, part: tl.constexpr, factor,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_CHUNK: tl.constexpr,
):  # fmt: skip
    """(R, S) of one part's softmax, by rows of q and of k, or of k and of q; ``offset`` is the bias less the lse."""
    stride = PARTS * WIDTH
    products = _products(
        a + part * WIDTH, a_rows, a_valid, b + part * WIDTH, b_rows, b_valid, stride, WIDTH, WIDTH_CHUNK
    )
    return tl.exp2(products * factor + offset)


@triton.jit
def _store_parts(
    matrix, rows, valid, tiles, gate, scale, PARTS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_TILE: tl.constexpr
):  # fmt: skip
    """Gradients of q or k: the tiles, times what they have in common in every part."""
    for part in tl.static_range(PARTS):
        tile = tiles[part] * (tl.load(gate + part).to(tl.float32) * scale)
        _store_tile(matrix + part * WIDTH, rows, valid, PARTS * WIDTH, tile, WIDTH, WIDTH_TILE)


@triton.jit(do_not_specialize=SIZES)
def mixture_forward(
    q, k, v, gate, bias, order, lengths, out, lse, num_queries, num_keys, factor,
    PARTS: tl.constexpr, BIAS_PARTS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_CHUNK: tl.constexpr,
    VALUES: tl.constexpr, VALUES_TILE: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``out``, (B, Q, V), and ``lse``. A program has a block of queries, and walks over the keys N + 1 times."""
    image, block = _place(tl.cdiv(num_queries, BLOCK_Q))
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = rows < num_queries
    num_valid = _num_valid(lengths, image, num_keys)
    q += image * num_queries * (PARTS * WIDTH)
    k += image * num_keys * (PARTS * WIDTH)
    v += image * num_keys * VALUES
    lse_rows = ()
    for part in tl.static_range(PARTS):
        lse_row = _log_sum_exp(
            q, k, bias, order, rows, inside, image, part, num_keys, num_valid, factor,
            PARTS, BIAS_PARTS, WIDTH, WIDTH_CHUNK, BLOCK_Q, BLOCK_K,
        )  # fmt: skip
        tl.store(lse + (image * PARTS + part) * num_queries + rows, lse_row, mask=inside)
        lse_rows = lse_rows + (lse_row,)
    mean = tl.zeros([BLOCK_Q, VALUES_TILE], tl.float32)
    for start in range(0, num_valid, BLOCK_K):
        keys, valid = _keys(order, image, num_keys, start + tl.arange(0, BLOCK_K), num_valid)
        mixed = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
        for part in tl.static_range(PARTS):
            share = tl.load(gate + image * PARTS + part).to(tl.float32)
            offset = _bias(bias, image, part, num_keys, keys, valid, factor, BIAS_PARTS)[None, :]
            offset = offset - lse_rows[part][:, None]
            mixed += share * _weights(
                q, rows, inside, k, keys, valid, offset, part, factor, PARTS, WIDTH, WIDTH_CHUNK
            )  # fmt: skip
        # One product with the values for all parts.
        values = _tile(v, keys, valid, VALUES, 0, VALUES, VALUES_TILE)
        mean = _dot(mixed.to(values.dtype), values, mean)
    _store_tile(out + image * num_queries * VALUES, rows, inside, VALUES, mean, VALUES, VALUES_TILE)


@triton.jit(do_not_specialize=SIZES)
def mixture_backward_queries(
    grad_out, q, k, v, gate, bias, order, lengths, lse, grad_q, delta, num_queries, num_keys, factor, scale,
    PARTS: tl.constexpr, BIAS_PARTS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_TILE: tl.constexpr,
    WIDTH_CHUNK: tl.constexpr, VALUES: tl.constexpr, VALUES_CHUNK: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``grad_q``, (B, Q, N * D), and ``delta``. A program has a block of queries, and walks over the keys twice."""
    image, block = _place(tl.cdiv(num_queries, BLOCK_Q))
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = rows < num_queries
    num_valid = _num_valid(lengths, image, num_keys)
    q += image * num_queries * (PARTS * WIDTH)
    k += image * num_keys * (PARTS * WIDTH)
    v += image * num_keys * VALUES
    grad_out += image * num_queries * VALUES
    deltas = _zeros([BLOCK_Q], PARTS)
    for start in range(0, num_valid, BLOCK_K):
        keys, valid = _keys(order, image, num_keys, start + tl.arange(0, BLOCK_K), num_valid)
        grad_weights = _products(grad_out, rows, inside, v, keys, valid, VALUES, VALUES, VALUES_CHUNK)
        for part in tl.static_range(PARTS):
            offset = _bias(bias, image, part, num_keys, keys, valid, factor, BIAS_PARTS)[None, :]
            offset = offset - _lse(lse, image, part, num_queries, rows, inside, PARTS)[:, None]
            weights = _weights(q, rows, inside, k, keys, valid, offset, part, factor, PARTS, WIDTH, WIDTH_CHUNK)
            deltas = _add(deltas, part, tl.sum(weights * grad_weights, 1))
    sums = _zeros([BLOCK_Q, WIDTH_TILE], PARTS)
    for start in range(0, num_valid, BLOCK_K):
        keys, valid = _keys(order, image, num_keys, start + tl.arange(0, BLOCK_K), num_valid)
        grad_weights = _products(grad_out, rows, inside, v, keys, valid, VALUES, VALUES, VALUES_CHUNK)
        for part in tl.static_range(PARTS):
            offset = _bias(bias, image, part, num_keys, keys, valid, factor, BIAS_PARTS)[None, :]
            offset = offset - _lse(lse, image, part, num_queries, rows, inside, PARTS)[:, None]
            weights = _weights(q, rows, inside, k, keys, valid, offset, part, factor, PARTS, WIDTH, WIDTH_CHUNK)
            grad_scores = weights * (grad_weights - deltas[part][:, None])
            tile = _tile(k + part * WIDTH, keys, valid, PARTS * WIDTH, 0, WIDTH, WIDTH_TILE)
            sums = sums[:part] + (_dot(grad_scores.to(tile.dtype), tile, sums[part]),) + sums[part + 1 :]
    for part in tl.static_range(PARTS):
        tl.store(delta + (image * PARTS + part) * num_queries + rows, deltas[part], mask=inside)
    grad_q += image * num_queries * (PARTS * WIDTH)
    _store_parts(grad_q, rows, inside, sums, gate + image * PARTS, scale, PARTS, WIDTH, WIDTH_TILE)


@triton.jit(do_not_specialize=SIZES)
def mixture_backward_keys(
    grad_out, q, k, v, gate, bias, order, lengths, lse, delta, grad_k, grad_v, grad_bias,
    num_queries, num_keys, split, factor, scale,
    PARTS: tl.constexpr, BIAS_PARTS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_TILE: tl.constexpr,
    WIDTH_CHUNK: tl.constexpr, VALUES: tl.constexpr, VALUES_TILE: tl.constexpr, VALUES_CHUNK: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of keys, values and bias in float32, as sums over each of the S runs of ``split`` queries.

    ``grad_k`` (S, B, K, N * D), ``grad_v`` (S, B, K, V), ``grad_bias`` (S, B, N, K) or None. A program has a block of
    keys and a run of queries. Its tiles are transposed: keys by queries.
    """
    image, block = _place(tl.cdiv(num_keys, BLOCK_K))
    target = tl.program_id(1) * (tl.num_programs(0) // tl.cdiv(num_keys, BLOCK_K)) + image  # in the gradients
    num_valid = _num_valid(lengths, image, num_keys)
    places = block * BLOCK_K + tl.arange(0, BLOCK_K)
    keys, exists = _keys(order, image, num_keys, places, num_keys)
    valid = places < num_valid
    q += image * num_queries * (PARTS * WIDTH)
    k += image * num_keys * (PARTS * WIDTH)
    v += image * num_keys * VALUES
    grad_out += image * num_queries * VALUES
    sums, bias_sums = _zeros([BLOCK_K, WIDTH_TILE], PARTS), _zeros([BLOCK_K], PARTS)
    value_sums = tl.zeros([BLOCK_K, VALUES_TILE], tl.float32)
    first = tl.program_id(1) * split
    # A block of padding alone takes no step, and stores its zeros.
    last = tl.where(block * BLOCK_K < num_valid, tl.minimum(first + split, num_queries), first)
    for start in range(first, last, BLOCK_Q):
        rows = start + tl.arange(0, BLOCK_Q)
        inside = rows < last
        grad_weights = _products(v, keys, valid, grad_out, rows, inside, VALUES, VALUES, VALUES_CHUNK)
        mixed = tl.zeros([BLOCK_K, BLOCK_Q], tl.float32)
        for part in tl.static_range(PARTS):
            offset = _bias(bias, image, part, num_keys, keys, valid, factor, BIAS_PARTS)[:, None]
            offset = offset - _lse(lse, image, part, num_queries, rows, inside, PARTS)[None, :]
            weights = _weights(k, keys, valid, q, rows, inside, offset, part, factor, PARTS, WIDTH, WIDTH_CHUNK)
            mixed += tl.load(gate + image * PARTS + part).to(tl.float32) * weights
            delta_row = tl.load(delta + (image * PARTS + part) * num_queries + rows, mask=inside, other=0.0)
            grad_scores = weights * (grad_weights - delta_row[None, :])
            tile = _tile(q + part * WIDTH, rows, inside, PARTS * WIDTH, 0, WIDTH, WIDTH_TILE)
            sums = sums[:part] + (_dot(grad_scores.to(tile.dtype), tile, sums[part]),) + sums[part + 1 :]
            bias_sums = _add(bias_sums, part, tl.sum(grad_scores, 1))
        grads = _tile(grad_out, rows, inside, VALUES, 0, VALUES, VALUES_TILE)
        value_sums = _dot(mixed.to(grads.dtype), grads, value_sums)
    _store_tile(grad_v + target * num_keys * VALUES, keys, exists, VALUES, value_sums, VALUES, VALUES_TILE)
    grad_k += target * num_keys * (PARTS * WIDTH)
    _store_parts(grad_k, keys, exists, sums, gate + image * PARTS, scale, PARTS, WIDTH, WIDTH_TILE)
    if grad_bias is not None:
        for part in tl.static_range(PARTS):
            share = tl.load(gate + image * PARTS + part).to(tl.float32) * scale
            tl.store(grad_bias + (target * PARTS + part) * num_keys + keys, share * bias_sums[part], mask=exists)
