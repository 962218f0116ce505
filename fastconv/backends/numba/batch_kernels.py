"""Small planes with an image in each lane: forward and backward_input.

::

    to[k][i][j] = sum over taps t = (c, r, s) of  w[k][t] * packed[offset[t] + i * pitch + j]        a vector each

The method is told in ``csrc/batch.h``. The pixels of as many images as there are lanes are turned to vectors, padded,
stride phases apart, and stay in level 2 while all output channels pass, a register tile of some channels x pixels of a
row at a time; the planes of a block of channels are turned back into place. The last images come with some of those
before them, which are not stored again. backward_input is forward with w turned round, phase by phase of x (see
:mod:`.batch_plan`), its taps in the order [s][r][k], so that those beyond the edges of y, which are no summands, can be
left out in runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import vector
from .batch_plan import CHUNK, COUNT, FIRST, LAST_TAP, LEAD, PERIOD, RECORD, TAPS, tile_shapes
from .objects import ArrayObject, data, item_bytes, number_at, put
from .vector import (
    I64,
    Emit,
    address,
    addresses,
    all_finite,
    call_apart,
    fill_with,
    flush_denormals,
    lanes,
    restore_mode,
    void,
)

_MOST = 16  # vectors of any tile
_FACTS = 6  # of a phase, in the tables


def _tile(outputs: int, cols: int, e: Emit, args: Sequence[Any]) -> None:
    x, w, w_step, taps, offsets, start, again, out, out_step, col_step = args
    builder = e.builder
    sums = e.variables(outputs * cols)
    row_of, out_of = [w], [out]
    for _ in range(outputs - 1):
        row_of.append(builder.add(row_of[-1], w_step))
        out_of.append(builder.add(out_of[-1], out_step))

    def add(c: int, v: int, weight: Any, pixels: Any) -> None:
        slot = sums[c * cols + v]
        builder.store(e.fma(weight, pixels, builder.load(slot)), slot)

    with e.loop(taps) as t:
        at = builder.add(x, e.word(e.plus(offsets, e.times(t, 8))))
        column = e.times(t, e.element_bytes)
        if outputs <= cols:  # the shorter side of the tile stays in registers, the longer one streams by
            weights = [e.broadcast(builder.add(row, column)) for row in row_of]
            for v in range(cols):
                pixels = e.load(e.plus(at, v * e.vector_bytes))
                for c in range(outputs):
                    add(c, v, weights[c], pixels)
        else:
            held = [e.load(e.plus(at, v * e.vector_bytes)) for v in range(cols)]
            for c in range(outputs):
                weight = e.broadcast(builder.add(row_of[c], column))
                for v in range(cols):
                    add(c, v, weight, held[v])
    columns = [e.const(0)]
    for _ in range(cols - 1):
        columns.append(builder.add(columns[-1], col_step))
    first = builder.icmp_signed("==", again, e.const(0))
    with builder.if_else(first) as (then, otherwise):
        with then:
            for c in range(outputs):
                bias = e.broadcast(e.plus(start, c * e.element_bytes))
                for v in range(cols):
                    total = builder.fadd(builder.load(sums[c * cols + v]), bias)
                    e.store(total, builder.add(out_of[c], columns[v]))
        with otherwise:
            for c in range(outputs):
                for v in range(cols):
                    place = builder.add(out_of[c], columns[v])
                    e.store(builder.fadd(builder.load(sums[c * cols + v]), e.load(place)), place)


@intrinsic
def batch_tile(
    typingctx: Any,
    like: Any,
    number: Any,
    x: Any,
    w: Any,
    w_step: Any,
    taps: Any,
    offsets: Any,
    start: Any,
    again: Any,
    out: Any,
    out_step: Any,
    col_step: Any,
) -> Any:
    """Tile `number` = 16 * outputs + cols - 1: out[c][v] = start[c] + sum over t of w[c][t] * x[offsets[t] + v].

    With `again` to what is in `out` in place of `start`. Steps (of w, of out's c and v), and what is at `offsets`
    (int64), in bytes.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(outputs: int, cols: int) -> Callable[[], None]:
            tile = functools.partial(_tile, outputs, cols)
            return lambda: call_apart(e, f"batch_tile.{outputs}.{cols}", tile, args[1:])

        shapes = enumerate(tile_shapes(vector.target.registers), 1)
        sizes = [(outputs, cols) for outputs, most in shapes for cols in range(1, most + 1)]
        e.cases(args[0], {_MOST * outputs + cols - 1: case(outputs, cols) for outputs, cols in sizes}, lambda: None)

    return addresses(like, 11), void(body)


@intrinsic
def turn_in(typingctx: Any, like: Any, box: Any, places: Any, source: Any, image: Any, pixels: Any) -> Any:
    """The `pixels` of as many images as there are lanes, `image` bytes apart, to vectors at box + places[pixel].

    Whole squares, the last one over part of that before it; `places` has at least as many entries as there are lanes.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        box, places, source, image, pixels = args
        builder = e.builder
        few = builder.icmp_signed("<", pixels, e.const(e.lanes))
        last = e.larger(e.plus(pixels, -e.lanes), e.const(0))

        def turn(at: Any, load: Callable[[Any], Any]) -> None:
            row, rows = builder.add(source, e.times(at, e.element_bytes)), []
            for _ in range(e.lanes):
                rows.append(load(row))
                row = builder.add(row, image)
            table = builder.add(places, e.times(at, 8))
            for pixel, turned in enumerate(e.transposed(rows)):
                e.store(turned, builder.add(box, e.word(e.plus(table, 8 * pixel))))

        with builder.if_else(few) as (then, otherwise):
            with then:
                there = e.between(e.const(0), 1, e.const(0), pixels)
                turn(e.const(0), lambda place: e.load_masked(place, there))
            with otherwise, e.loop(builder.sdiv(e.plus(pixels, e.lanes - 1), e.const(e.lanes))) as number:
                turn(e.smaller(e.times(number, e.lanes), last), e.load)

    return addresses(like, 5), void(lambda e, args: call_apart(e, "turn_in", body, args))


@intrinsic
def turn_out(
    typingctx: Any, like: Any, out: Any, image: Any, plane: Any, pixels: Any, skip: Any, bias: Any, positions: Any
) -> Any:
    """The `pixels` of a plane of vectors into place: lane l goes to out + l * image, those before `skip` nowhere.

    Where `positions` is not 0, bias[pixel] is added. The plane is readable for one vector a lane more.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, image, plane, pixels, skip, bias, positions = args
        builder = e.builder
        nowhere = builder.ptrtoint(cgutils.alloca_once(builder, e.vector), I64)
        few = builder.icmp_signed("<", pixels, e.const(e.lanes))
        last = e.larger(e.plus(pixels, -e.lanes), e.const(0))
        squares = builder.sdiv(e.plus(pixels, e.lanes - 1), e.const(e.lanes))

        def turn(with_bias: bool, load: Callable[[Any], Any], store: Callable[[Any, Any], None]) -> None:
            with e.loop(squares) as number:
                at = e.smaller(e.times(number, e.lanes), last)
                step = e.times(at, e.element_bytes)
                begin = builder.add(plane, e.times(at, e.vector_bytes))
                rows = e.transposed([e.load(e.plus(begin, i * e.vector_bytes)) for i in range(e.lanes)])
                more = load(builder.add(bias, step)) if with_bias else None
                place = builder.add(out, step)
                for lane, row in enumerate(rows):
                    wanted = builder.icmp_signed(">=", e.const(lane), skip)
                    value = row if more is None else builder.fadd(row, more)
                    store(value, builder.select(wanted, place, nowhere))
                    place = builder.add(place, image)

        def all_squares(with_bias: bool) -> None:
            with builder.if_else(few) as (then, otherwise):
                with then:
                    there = e.between(e.const(0), 1, e.const(0), pixels)
                    turn(
                        with_bias,
                        lambda place: e.load_masked(place, there),
                        lambda value, place: e.store_masked(value, place, there),
                    )
                with otherwise:
                    turn(with_bias, e.load, e.store)

        e.cases(positions, {0: lambda: all_squares(False)}, lambda: all_squares(True))

    return addresses(like, 7), void(lambda e, args: call_apart(e, "turn_out", body, args))


# ---- in plain Numba


def place_pixels(scratch: Any, word: int, vector_bytes: int, count: int, p: Any) -> None:
    """The byte offset of each source pixel's vector; those that no tap reaches go past the end."""
    for i in range(max(p.sources * p.H * p.W, count)):
        scratch[word + i] = p.packed * vector_bytes
    for f in range(p.phases_h):
        for e in range(p.phases_w):
            top, left = f * p.step_h % p.stride_h - p.pad_h, e * p.step_w % p.stride_w - p.pad_w
            for i in range(p.packed_rows):
                h = top + i * p.stride_h
                if 0 <= h < p.H:
                    for j in range(p.pitch):
                        w = left + j * p.stride_w
                        if 0 <= w < p.W:
                            to = (f * p.phases_w + e) * p.plane + i * p.pitch + j
                            for c in range(p.sources):
                                scratch[word + (c * p.H + h) * p.W + w] = (c * p.channel + to) * vector_bytes


def tap_offset(c: int, r: int, s: int, p: Any) -> int:
    """How far a tap lies from a position, in vectors."""
    phase = r % p.phases_h * p.phases_w + s % p.phases_w
    return c * p.channel + phase * p.plane + r * p.step_h // p.stride_h * p.pitch + s * p.step_w // p.stride_w


def list_batch_taps(scratch: Any, word: int, vector_bytes: int, tables: Any, p: Any) -> None:
    """The byte offset of each tap: [c][r][s], or [phase][s][r][k] for backward_input."""
    if p.backward:
        for a in range(p.result_phases_h):
            for b in range(p.result_phases_w):
                h, w = _FACTS * a, _FACTS * (p.result_phases_h + b)
                top, left = p.pad_h - tables[h + LEAD], p.pad_w - tables[w + LEAD]
                for s in range(tables[w + TAPS]):
                    for r in range(tables[h + TAPS]):
                        offset = (top + r * p.step_h) * p.pitch + left + s * p.step_w
                        for k in range(p.sources):
                            scratch[word] = (k * p.channel + offset) * vector_bytes
                            word += 1
    else:
        for c in range(p.sources):
            for r in range(p.R):
                for s in range(p.S):
                    scratch[word] = tap_offset(c, r, s, p) * vector_bytes
                    word += 1


def turn_weights(w: Any, turned: int, tables: Any, p: Any) -> None:
    """turned[c][phase][s][r][k] = w[k][c] at the tap that counts backwards from the phase's last, of each group."""
    item = item_bytes(w)
    for group in range(p.groups):
        for c in range(p.outputs):
            to = turned + (group * p.outputs + c) * p.taps * item  # short x have not all the phases, nor all the taps
            for a in range(p.result_phases_h):
                for b in range(p.result_phases_w):
                    at_h, at_w = _FACTS * a, _FACTS * (p.result_phases_h + b)
                    for t in range(tables[at_w + TAPS]):
                        s = tables[at_w + LAST_TAP] - t * tables[at_w + PERIOD]
                        for u in range(tables[at_h + TAPS]):
                            r = tables[at_h + LAST_TAP] - u * tables[at_h + PERIOD]
                            place = data(w) + (((group * p.sources * p.outputs + c) * p.R + r) * p.S + s) * item
                            for _ in range(p.sources):
                                put(w, to, number_at(w, place))
                                to += item
                                place += p.outputs * p.R * p.S * item


def reached(first: int, last: int, pad: int, step: int, taps: int, size: int) -> Any:
    """As :func:`fastconv.backends.numba.batch_plan.reaching`."""
    before, after = pad - last, size - 1 + pad - first
    start = min((before + step - 1) // step, taps) if before > 0 else 0
    return start, start if after < 0 else max(start, min(after // step + 1, taps))


def batch_planes(
    like: Any, box: int, weights: int, offsets: int, outputs: int, start: int, planes: int, tables: Any, p: Any
) -> None:
    """The planes of some output channels of a group, from the packed pixels."""
    item, count = item_bytes(like), lanes(like)
    vector_bytes = item * count
    each = p.sources if p.backward else p.taps  # taps that come and go together
    col_step, plane_bytes = p.result_step_w * vector_bytes, p.rows * p.cols * vector_bytes
    before = 0  # taps of the phases before
    for phase in range(p.result_phases_h * p.result_phases_w):
        h = _FACTS * (phase // p.result_phases_w)
        w = _FACTS * (p.result_phases_h + phase % p.result_phases_w)
        taps_h, taps_w, cols = tables[h + TAPS], tables[w + TAPS], tables[w + COUNT]
        blocks = (cols + p.tile_cols - 1) // p.tile_cols
        for n in range(blocks):
            j, end = cols * n // blocks, cols * (n + 1) // blocks
            number = _MOST * outputs + end - j - 1
            s_from, s_to = 0, taps_w
            if p.backward:
                s_from, s_to = reached(j, end - 1, tables[w + LEAD], p.step_w, taps_w, p.W)
            for i in range(tables[h + COUNT]):
                x = box + (i * p.pitch + j) * vector_bytes
                row = tables[h + FIRST] + i * p.result_step_h
                out = planes + (row * p.cols + tables[w + FIRST]) * vector_bytes + j * col_step
                r_from, r_to = 0, taps_h
                if p.backward:
                    r_from, r_to = reached(i, i, tables[h + LEAD], p.step_h, taps_h, p.H)
                # the taps are `runs` runs of `length`
                length, runs = (r_to - r_from) * each, s_to - s_from
                if r_to - r_from == taps_h:
                    length, runs = length * runs, 1
                again = 0
                for run in range(runs):
                    tap = before + ((s_from + run) * taps_h + r_from) * each
                    left = length
                    while left > 0:
                        parts = (left + CHUNK - 1) // CHUNK
                        taps = (left + parts - 1) // parts
                        batch_tile(
                            like,
                            number,
                            x,
                            weights + tap * item,
                            p.taps * item,
                            taps,
                            offsets + tap * 8,
                            start,
                            again,
                            out,
                            plane_bytes,
                            col_step,
                        )
                        tap += taps
                        left -= taps
                        again = 1
                if again == 0:  # nothing reaches these pixels
                    for c in range(outputs):
                        for v in range(end - j):
                            fill_with(like, out + c * plane_bytes + v * col_step, 0, count)
        before += taps_h * taps_w * each


def _batch() -> Callable[[Any, Any, Any, Any, Any, Any, Any, int], int]:
    def batch(plan: Any, tables: Any, scratch: Any, source: Any, w: Any, target: Any, bias: Any, share: int) -> int:
        """One share of forward (source x, target y) or backward_input (source y, target x).

        Returns 1 where a weight of backward_input is not finite, with nothing done; else 0.
        """
        p = plan[0]
        mode = flush_denormals() if not p.strict else 0
        item, count = item_bytes(source), lanes(source)
        vector_bytes = item * count
        word = ((address(scratch) + 63) // 64 * 64 - address(scratch) + share * p.share_bytes) // 8
        box = address(scratch) + word * 8
        planes, places, offsets = box + p.planes_at, box + p.places_at, box + p.taps_at
        weights = data(w)
        if p.backward:
            if not all_finite(source, weights, p.groups * p.outputs * p.taps):
                if not p.strict:
                    restore_mode(mode)
                return 1
            weights = box + p.weights_at
            turn_weights(w, weights, tables, p)
        place_pixels(scratch, word + p.places_at // 8, vector_bytes, count, p)
        list_batch_taps(scratch, word + p.taps_at // 8, vector_bytes, tables, p)
        fill_with(source, box, 0, p.packed * count)  # the padding stays zero: no pixel is ever put there
        zeros = box + p.zeros_at
        fill_with(source, zeros, 0, 64 // item)
        pixels, plane = p.sources * p.H * p.W, p.rows * p.cols
        jobs = p.blocks * p.groups * p.parts
        for job in range(jobs * share // p.shares, jobs * (share + 1) // p.shares):
            part, group = job % p.parts, job // p.parts % p.groups
            first_image = job // p.parts // p.groups * count
            image = min(first_image, p.N - count)
            begin = data(source) + (image * p.groups + group) * pixels * item
            turn_in(source, box, places, begin, p.groups * pixels * item, pixels)
            first, end = p.outputs * part // p.parts, p.outputs * (part + 1) // p.parts
            blocks = (end - first + p.tile_outputs - 1) // p.tile_outputs
            for b in range(blocks):
                c, c_end = first + (end - first) * b // blocks, first + (end - first) * (b + 1) // blocks
                channel = group * p.outputs + c
                start = zeros
                each_bias = 0
                if p.biases == 1:
                    start = data(bias) + channel * item
                batch_planes(
                    source, box, weights + channel * p.taps * item, offsets, c_end - c, start, planes, tables, p
                )
                for k in range(c_end - c):
                    if p.biases == 2:
                        each_bias = data(bias) + (channel + k) * plane * item
                    turn_out(
                        source,
                        data(target) + ((image * p.groups * p.outputs) + channel + k) * plane * item,
                        p.groups * p.outputs * plane * item,
                        planes + k * plane * vector_bytes,
                        plane,
                        first_image - image,
                        each_bias,
                        p.biases // 2,
                    )
        if not p.strict:
            restore_mode(mode)
        return 0

    return batch


def _signature(element: Any) -> Any:
    array = ArrayObject(element)
    record, words = types.Array(numba.from_dtype(RECORD), 1, "C"), types.Array(types.int64, 1, "C")
    return types.int64(record, words, words, array, array, array, array, types.int64)


BUILDERS = {"batch": _batch}
SIGNATURES = {"batch": _signature}
HELPERS = ("place_pixels", "tap_offset", "list_batch_taps", "turn_weights", "reached", "batch_planes")  # callees first
