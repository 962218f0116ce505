"""The kernel of Winograd's algorithm: plain Numba loops around the vector blocks of :mod:`.winograd_blocks`.

A tile of 4x4 outputs comes from 6x6 inputs d and the 3x3 weights g as  A^T [(G g G^T) * (B^T d B)] A  (Winograd 1980;
Lavin and Gray 2015, https://arxiv.org/abs/1509.09308), the product taken element by element and summed over the input
channels: 36 matrix products, one for each element f of the 6x6, a quarter of the multiplications. 5x5 kernels have 2x2
outputs of the same 36; in a row of R taps, 9 - R outputs come from 8 inputs and 8 products. At stride 2 (see
:mod:`.winograd_plan`) 4x4 outputs come from 81 products, 7 outputs of a row from 15. backward_input is the same with
the weights flipped and their channels swapped.

Stride 2 is a kernel of its own, of the same functions: the type of the plan's record says which one is compiled.

Channels are in the lanes, L of them. v (inputs), u (weights) and m (products) are

    v [register tile][chunk of L in-channels][f][tile][L]
    u [slab of 8 in-channels][f][in-channel][2 L]         m [f][tile][2 L]

so that all f of a tile lie within a few pages. Planes are turned to channels-in-lanes some tiles of a row at a time on
their way into the transform, and back after the last one. Two orders of work, of two stages each; all shares end the
first before one begins the second:

    many tiles   all weights are transformed once; then a block of tiles and one group is carried through all steps
    few tiles    (one block) all inputs are transformed once; then a part of the out-channels, whose weights are
                 transformed, some in-channels at a time, just before they are used
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
from numba import types

from .flags import BIAS_PER_CHANNEL, BIAS_PER_POSITION, SECOND_STAGE, STRICT
from .vector import address, all_finite, fill_with, flush_denormals, lanes, restore_mode
from .winograd_blocks import (
    multiply_tiles,
    store_turned,
    transform_inputs,
    transform_outputs,
    transform_weights,
    turn_rows,
)
from .winograd_plan import RECORD, STRIDED_RECORD


def tile_start(outputs: int, step: int, tile: int) -> int:
    """The first output of tile number `tile` along an axis."""
    return outputs * step * (tile // step) + tile % step


def tile_begin(advance: int, step: int, tile: int) -> int:
    """Its first input, but for the padding: from one tile to the next they `advance`."""
    return advance * step * (tile // step) + tile % step


def tile_reach(outputs: int, step: int, tiles: int, to: int, first: int, end: int) -> int:
    """Outputs that tiles `first` to `end` reach over, `first` a multiple of the step."""
    stop = to
    if end < tiles:
        stop = min(tile_start(outputs, step, (end + step - 1) // step * step), to)
    return stop - tile_start(outputs, step, first)


def segment_of(p: Any, block: int, number: int) -> tuple[int, int, int, int, int, int]:
    """Segment `number` of a block, all of one image: (image, tile rows from, to, tile columns from, to, first tile)."""
    if p.block_images > 1:
        return block * p.block_images + number, 0, p.tiles_h, 0, p.tiles_w, number * p.tiles_h * p.tiles_w
    w_from = block % p.blocks_w * p.block_w
    h_from = block // p.blocks_w % p.blocks_h * p.block_h
    h_to, w_to = min(h_from + p.block_h, p.tiles_h), min(w_from + p.block_w, p.tiles_w)
    return block // p.blocks_w // p.blocks_h, h_from, h_to, w_from, w_to, 0


def segments_of(p: Any, block: int) -> int:
    """How many segments a block has: one an image."""
    if p.block_images == 1:
        return 1
    return min(p.block_images, p.images - block * p.block_images)


def inputs_to_v(source: Any, p: Any, segment: Any, group: int, chunk: int, columns: int, v: int) -> None:
    """One chunk of channels of a segment, transformed, to the v of that chunk."""
    item, vector_bytes = source.itemsize, lanes(source) * source.itemsize
    image, h_from, h_to, w_from, w_to, tile = segment
    first = chunk * lanes(source)
    channels = min(lanes(source), p.channels_in - first)
    plane = p.from_h * p.from_w
    begin = address(source) + ((image * p.groups + group) * p.channels_in + first) * plane * item
    apart = p.points_h * vector_bytes
    for th in range(h_from, h_to):
        top = tile_begin(p.advance_h, p.step_h, th) - p.pad_h
        for w0 in range(w_from, w_to, p.span):
            tiles = min(p.span, w_to - w0)
            left = tile_begin(p.advance_w, p.step_w, w0) - p.pad_w
            count = tile_begin(p.advance_w, p.step_w, tiles - 1) + (p.inputs_w - 1) * p.step_w + 1
            for i in range(p.inputs_h):
                row = top + i * p.step_h
                low, high = count, count
                if 0 <= row < p.from_h:
                    low = max(0, min(-left, count))
                    high = max(low, min(p.from_w - left, count))
                place = begin + (row * p.from_w + left) * item
                turn_rows(source, columns + i * vector_bytes, apart, place, plane * item, channels, low, high, count)
            transform_inputs(
                source,
                p,
                p.transform,
                columns,
                count,
                tiles,
                p.apart_h,
                p.second_h,
                p.apart_w,
                p.second_w,
                p.advance_w,
                p.step_w,
                v,
                tile,
                p.rows,
                p.v_rows,
                p.v_point,
            )
            tile += tiles


def weights_to_u(weights: Any, p: Any, group: int, part: int, in_from: int, in_to: int, u: int) -> int:
    """One part of the out-channels of in-channels `in_from` to `in_to`, transformed, to u; returns its vectors."""
    count = lanes(weights)
    out = part * 2 * count
    there = p.channels_out - out
    vectors = min((there + count - 1) // count, 2)
    begin = address(weights) + group * p.w_group + out * p.w_out
    run = 1 if p.flipped else in_to - in_from  # weights that lie together are read together
    for c in range(in_from, in_to, run):
        for k in range(vectors):
            transform_weights(
                weights,
                p,
                p.kernel,
                p.flipped,
                begin + k * count * p.w_out + c * p.w_in,
                p.w_out,
                p.w_in,
                there - k * count,
                c - in_from,
                run,
                vectors,
                u + k * count * weights.itemsize,
                p.u_slab,
            )
    return vectors


def multiply(like: Any, p: Any, v: int, u: int, inputs: int, tiles: int, vectors: int, m: int, again: int) -> None:
    """All products of `tiles` tiles with one part of the out-channels; v: of the first of the `inputs` channels."""
    tile_bytes = vectors * lanes(like) * like.itemsize
    for f in range(p.points_h * p.points_w):
        point = min(f // p.points_w, p.weights_h - 1) * p.weights_w + min(f % p.points_w, p.weights_w - 1)
        for first in range(0, tiles, p.rows):
            now = min(p.rows, tiles - first)
            multiply_tiles(
                like,
                (vectors - 1) * p.most_rows + now - 1,
                v + f * p.v_point + first // p.rows * p.v_rows,
                p.v_chunk,
                u + point * p.u_point,
                p.u_slab,
                inputs,
                m + f * p.m_point + first * tile_bytes,
                again,
            )


def outputs_of(target: Any, bias: Any, p: Any, block: int, group: int, part: int, worker: int, flags: int) -> None:
    """One part of the out-channels of all segments of a block, from m to the target."""
    item, count = target.itemsize, lanes(target)
    plane = p.to_h * p.to_w
    vectors = min((p.channels_out - part * 2 * count + count - 1) // count, 2)
    outputs = worker + p.outputs_at
    for number in range(segments_of(p, block)):
        image, h_from, h_to, w_from, w_to, first_tile = segment_of(p, block, number)
        top, left = tile_start(p.outputs_h, p.step_h, h_from), tile_start(p.outputs_w, p.step_w, w_from)
        rows = tile_reach(p.outputs_h, p.step_h, p.tiles_h, p.to_h, h_from, h_to)
        cols = tile_reach(p.outputs_w, p.step_w, p.tiles_w, p.to_w, w_from, w_to)
        run = rows * cols if cols == p.to_w else cols
        across = w_to - w_from
        for k in range(vectors):
            first = part * 2 * count + k * count
            channels = min(count, p.channels_out - first)
            channel = group * p.channels_out + first
            biases = worker + 64
            if flags & BIAS_PER_CHANNEL:
                biases = address(bias) + channel * item
            m = worker + p.m_at + (first_tile * vectors + k) * count * item
            for th in range(h_to - h_from):
                row = tile_start(p.outputs_h, p.step_h, th)
                there = (rows - row + p.step_h - 1) // p.step_h
                transform_outputs(
                    target,
                    p,
                    p.result,
                    m + th * across * vectors * count * item,
                    p.m_point,
                    vectors * count * item,
                    across,
                    p.step_w,
                    p.lead_h,
                    p.lead_w,
                    outputs + row * cols * count * item,
                    there,
                    p.step_h * cols * count * item,
                    cols,
                    biases,
                    channels,
                    worker,
                )
            untied = 0
            place = (top * p.to_w + left) * item
            if flags & BIAS_PER_POSITION:
                untied = address(bias) + channel * plane * item + place
            to = address(target) + (image * p.groups * p.channels_out + channel) * plane * item + place
            for at in range(0, rows * cols, run):
                further = at // cols * p.to_w * item
                store_turned(
                    target,
                    outputs + at * count * item,
                    run,
                    channels,
                    to + further,
                    plane * item,
                    untied + further if untied else 0,
                )


def _winograd() -> Callable[[Any, Any, Any, Any, Any, Any, int, int], int]:
    def winograd(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of a stage of forward (source x, target y) or backward_input (source y, target x).

        Returns 1 where an output is not finite: inf and NaN spread over a tile, and large numbers may overflow on the
        way, so that the call has to be made again by direct summation; else 0.
        """
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        count = lanes(source)
        shared = (address(scratch) + 63) // 64 * 64
        worker = shared + p.shared_bytes + share * p.worker_bytes
        fill_with(source, worker, 0, 2 * 64 // source.itemsize)
        own, columns, m = worker + p.own_at, worker + p.columns_at, worker + p.m_at
        second = flags & SECOND_STAGE != 0
        zero = types.int64(0)  # for a literal, Numba would compile the functions that take it once more
        parts = p.groups * p.parts
        if p.few and not second:
            items = p.images * p.groups * p.chunks
            for item in range(items * share // p.shares, items * (share + 1) // p.shares):
                chunk, group, image = item % p.chunks, item // p.chunks % p.groups, item // p.chunks // p.groups
                v = shared + group * p.v_group + chunk * p.v_chunk
                inputs_to_v(source, p, segment_of(p, zero, image), group, chunk, columns, v)
        elif p.few:
            for item in range(parts * share // p.shares, parts * (share + 1) // p.shares):
                group, part = item // p.parts, item % p.parts
                for low in range(zero, p.channels_in, p.depth):
                    high = min(low + p.depth, p.channels_in)
                    vectors = weights_to_u(weights, p, group, part, low, high, own)
                    v = shared + group * p.v_group + low // count * p.v_chunk
                    multiply(source, p, v, own, high - low, p.tiles, vectors, m, low)
                outputs_of(target, bias, p, zero, group, part, worker, flags)
        elif not second:
            for item in range(parts * share // p.shares, parts * (share + 1) // p.shares):
                weights_to_u(weights, p, item // p.parts, item % p.parts, zero, p.channels_in, shared + item * p.u_part)
        else:
            items = p.blocks * p.groups
            for item in range(items * share // p.shares, items * (share + 1) // p.shares):
                group, block = item % p.groups, item // p.groups
                tiles = 0
                for number in range(segments_of(p, block)):
                    segment = segment_of(p, block, number)
                    tiles = segment[5] + (segment[2] - segment[1]) * (segment[4] - segment[3])
                    for chunk in range(p.chunks):
                        inputs_to_v(source, p, segment, group, chunk, columns, own + chunk * p.v_chunk)
                for part in range(p.parts):
                    vectors = min((p.channels_out - part * 2 * count + count - 1) // count, 2)
                    u = shared + (group * p.parts + part) * p.u_part
                    for low in range(zero, p.channels_in, p.depth):
                        inputs = min(p.depth, p.channels_in - low)
                        v, slab = own + low // count * p.v_chunk, low // p.slab * p.u_slab
                        multiply(source, p, v, u + slab, inputs, tiles, vectors, m, low)
                    outputs_of(target, bias, p, block, group, part, worker, flags)
        if not flags & STRICT:
            restore_mode(mode)
        return 0 if all_finite(source, worker, count) else 1

    return winograd


def _signature(plan: Any, element: Any) -> Any:
    inputs, output = types.Array(element, 4, "C", readonly=True), types.Array(element, 4, "C")
    values = types.Array(element, 1, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(plan), 1, "C")
    return types.int64(inputs, inputs, output, values, words, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"winograd": _winograd, "winograd_strided": _winograd}
SIGNATURES: dict[str, Callable[[Any], Any]] = {
    "winograd": functools.partial(_signature, RECORD),
    "winograd_strided": functools.partial(_signature, STRIDED_RECORD),
}
HELPERS = (  # callees first
    *("tile_start", "tile_begin", "tile_reach", "segment_of", "segments_of"),
    *("inputs_to_v", "weights_to_u", "multiply", "outputs_of"),
)
