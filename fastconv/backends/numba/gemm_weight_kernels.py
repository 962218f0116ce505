"""backward_weight of layers with enough channels: a matrix product summed over pixels.

::

    w[k][t] = sum over images and pixels j of  y[k][j] * x[offset[t] + j * step]

The method is told in ``csrc/gemm_weight.h``. One operand is vectors, a number of w a lane, the other is single numbers
spread over all lanes; pixels are the loop, so nothing has to be summed over lanes at the end. In the lanes are output
channels (y is turned to [pixel][channel] in a panel that stays in level 1; most layers), input channels (x is turned:
few output channels), or neighbours of a row of x, which are taps already (long kernels on few channels). A register
tile sums a box of up to 256 pixels; boxes are then added in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import vector
from .flags import STRICT
from .gemm_weight_plan import INPUTS, OUTPUTS, RECORD, TAPS, TILES_A_TURN, most_scalars
from .vector import (
    Emit,
    address,
    addresses,
    call_apart,
    fill_with,
    flush_denormals,
    gather_rows,
    lanes,
    restore_mode,
    void,
)

_A_BLOCK = 16  # register tiles are numbered vectors * 16 + scalars


def _products(scalar_count: int, vector_count: int, e: Emit, args: Sequence[Any]) -> None:
    vectors, vector_offsets, scalars, scalar_offsets, images, rows, cols, *steps, out, out_step, add = args
    v_col, v_row, v_image, s_col, s_row, s_image = steps
    builder = e.builder
    sums = e.variables(scalar_count * vector_count)
    vector_at = [builder.add(vectors, e.word(e.plus(vector_offsets, 8 * v))) for v in range(vector_count)]
    scalar_at = [builder.add(scalars, e.word(e.plus(scalar_offsets, 8 * i))) for i in range(scalar_count)]
    with e.loop(images) as image, e.loop(rows) as row:
        first_vector = builder.add(builder.mul(image, v_image), builder.mul(row, v_row))
        first_scalar = builder.add(builder.mul(image, s_image), builder.mul(row, s_row))
        with e.loop(cols) as col:
            here = builder.add(first_vector, builder.mul(col, v_col))
            there = builder.add(first_scalar, builder.mul(col, s_col))
            held = [e.load(builder.add(at, here)) for at in vector_at]
            for i, at in enumerate(scalar_at):
                scalar = e.broadcast(builder.add(at, there))
                for slot, value in zip(sums[i * vector_count :], held, strict=False):
                    builder.store(e.fma(scalar, value, builder.load(slot)), slot)
    places = []
    for _ in range(scalar_count):
        places += [e.plus(out, v * e.vector_bytes) for v in range(vector_count)]
        out = builder.add(out, out_step)
    with builder.if_then(builder.icmp_signed("!=", add, e.const(0))):
        for slot, place in zip(sums, places, strict=True):
            builder.store(builder.fadd(builder.load(slot), e.load(place)), slot)
    for slot, place in zip(sums, places, strict=True):
        e.store(builder.load(slot), place)


@intrinsic
def products(
    typingctx: Any,
    like: Any,
    tile: Any,
    vectors: Any,
    vector_offsets: Any,
    scalars: Any,
    scalar_offsets: Any,
    images: Any,
    rows: Any,
    cols: Any,
    vector_col: Any,
    vector_row: Any,
    vector_image: Any,
    scalar_col: Any,
    scalar_row: Any,
    scalar_image: Any,
    out: Any,
    out_step: Any,
    add: Any,
) -> Any:
    """Register tile `tile` = vectors * 16 + scalars over the pixels of a box::

        out[i][v] (`add`: +)= sum of scalars[scalar_offsets[i] + pixel] * vectors[vector_offsets[v] + pixel ...]

    The offsets (int64) and all steps, from a pixel to the next in its column, row and image, are in bytes.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(scalar_count: int, vector_count: int) -> Callable[[], None]:
            tile = functools.partial(_products, scalar_count, vector_count)
            return lambda: call_apart(e, f"products.{scalar_count}x{vector_count}", tile, args[1:])

        cases = {
            v * _A_BLOCK + i: case(i, v)
            for v, most in enumerate(most_scalars(vector.target), 1)
            for i in range(1, most + 1)
        }
        e.cases(args[0], cases, lambda: None)

    return addresses(like, 17), void(body)


@intrinsic
def turn_rows(
    typingctx: Any, like: Any, out: Any, out_stride: Any, source: Any, source_stride: Any, rows: Any, columns: Any
) -> Any:
    """out[j] = the vector of source[i][j], i < rows <= L, for j < columns; the last row again in lanes beyond.

    Strides in bytes.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, out_stride, source, source_stride, rows, columns = args
        builder = e.builder
        last = e.plus(rows, -1)
        starts = [
            builder.add(source, builder.mul(e.smaller(e.const(lane), last), source_stride)) for lane in range(e.lanes)
        ]
        with builder.if_else(builder.icmp_signed(">=", columns, e.const(e.lanes))) as (then, otherwise):
            with then, e.loop(builder.sdiv(e.plus(columns, e.lanes - 1), e.const(e.lanes))) as number:
                j = e.smaller(e.times(number, e.lanes), e.plus(columns, -e.lanes))
                place = builder.add(out, builder.mul(j, out_stride))
                for value in e.transposed([e.load(builder.add(at, e.times(j, e.element_bytes))) for at in starts]):
                    e.store(value, place)
                    place = builder.add(place, out_stride)
            with otherwise:
                mask = e.between(e.const(0), 1, e.const(0), columns)
                place = out
                for j, value in enumerate(e.transposed([e.load_masked(at, mask) for at in starts])):
                    with builder.if_then(builder.icmp_signed("<", e.const(j), columns)):
                        e.store(value, place)
                    place = builder.add(place, out_stride)

    return addresses(like, 6), void(lambda e, args: call_apart(e, "turn_rows", body, args))


@intrinsic
def put_turned(
    typingctx: Any, like: Any, sums: Any, apart: Any, outputs: Any, taps: Any, w: Any, step: Any, add: Any
) -> Any:
    """w[k][t] (`add`: +)= sums[t][k] for k < outputs, t < taps, where sums has whole vectors of k; strides in bytes.

    What is left of a row after whole vectors goes first, as the last L of it, the others of which are zero: a masked
    store costs as much as ten others on some CPUs.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        sums, apart, outputs, taps, w, step, add = args
        builder = e.builder
        count = e.const(e.lanes)
        adding = builder.icmp_signed("!=", add, e.const(0))
        last = e.plus(taps, -1)
        rest = builder.srem(taps, count)

        def write(value: Any, place: Any, mask: Any) -> None:
            if mask is None:
                e.store(value, place)
            else:
                e.store_masked(value, place, mask)

        def put(k: Any, t: Any, change: Callable[[Any], Any], mask: Any = None) -> None:
            """The square of channels k and taps t on."""
            begin = builder.add(sums, e.times(k, e.element_bytes))
            rows = [e.plus(t, lane) for lane in range(e.lanes)]
            if mask is not None:
                rows = [e.smaller(row, last) for row in rows]
            turned = e.transposed([e.load(builder.add(begin, builder.mul(row, apart))) for row in rows])
            place = builder.add(w, builder.add(builder.mul(k, step), e.times(t, e.element_bytes)))
            for lane, value in enumerate(turned):
                with builder.if_then(builder.icmp_signed("<", e.plus(k, lane), outputs)):
                    value = change(value)
                    with builder.if_else(adding) as (then, otherwise):
                        with then:
                            before = e.load(place) if mask is None else e.load_masked(place, mask)
                            write(builder.fadd(value, before), place, mask)
                        with otherwise:
                            write(value, place, mask)
                place = builder.add(place, step)

        with e.loop(builder.sdiv(e.plus(outputs, e.lanes - 1), count)) as number:
            k = e.times(number, e.lanes)
            with builder.if_else(builder.icmp_signed(">=", taps, count)) as (then, otherwise):
                with then:
                    with builder.if_then(builder.icmp_signed(">", rest, e.const(0))):
                        new = e.between(e.const(0), 1, builder.sub(count, rest), count)
                        put(k, builder.sub(taps, count), lambda value: builder.select(new, value, e.zero()))
                    with e.loop(builder.sdiv(taps, count)) as square:
                        put(k, e.times(square, e.lanes), lambda value: value)
                with otherwise:
                    put(k, e.const(0), lambda value: value, e.between(e.const(0), 1, e.const(0), taps))

    return addresses(like, 7), void(lambda e, args: call_apart(e, "put_turned", body, args))


@intrinsic
def put_each(typingctx: Any, like: Any, out: Any, step: Any, source: Any, count: Any) -> Any:
    """out[i * step] = source[i] for i < count; `step` in bytes."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, step, source, count = args
        with e.loop(count) as i:
            value = e.builder.load(e.element_at(e.builder.add(source, e.times(i, e.element_bytes))))
            e.builder.store(value, e.element_at(e.builder.add(out, e.builder.mul(i, step))))

    return addresses(like, 4), void(body)


@intrinsic
def prefetch_rows(typingctx: Any, like: Any, first: Any, step: Any, rows: Any, count: Any) -> Any:
    """Ask for `rows` rows of `count` elements, `step` bytes apart, that will be written."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        first, step, rows, count = args
        builder, byte, i32 = e.builder, ir.IntType(8).as_pointer(), vector.I32
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        lines = builder.sdiv(e.plus(e.times(count, e.element_bytes), 63), e.const(64))
        with e.loop(rows) as row, e.loop(lines) as line:
            place = builder.add(first, builder.add(builder.mul(row, step), e.times(line, 64)))
            options = [ir.Constant(i32, value) for value in (1, 2, 1)]  # to write, to keep in level 2, data
            builder.call(prefetch, [builder.inttoptr(place, byte), *options])

    return addresses(like, 4), void(body)


def lay_offsets(scratch: Any, vector_word: int, scalar_word: int, item: int, count: int, p: Any) -> None:
    """The byte offsets of the vectors and of the scalars of a group."""
    to, planes, across, hop = scalar_word, p.channels, p.S, p.dilation_w * p.x_element
    if p.lanes == OUTPUTS:
        for v in range(p.vectors):  # in a panel
            scratch[vector_word + v] = v * count * item
    else:
        to = vector_word
        for k in range(p.outputs):
            scratch[scalar_word + k] = k * p.P * p.Q * item
        if p.lanes == INPUTS:
            planes = (p.channels + count - 1) // count
        else:
            across, hop = (p.S + count - 1) // count, count
    for c in range(planes):
        for r in range(p.R):
            for s in range(across):
                scratch[to] = (c * p.x_channel + r * p.dilation_h * p.x_line + s * hop) * item
                to += 1


def pack_x(like: Any, x: int, box: Any, first: int, end: int, to: int, p: Any) -> None:
    """The x that a box needs of channels first .. end of the group that begins at `x`, with its padding."""
    n0, p0, q0, images, rows, _ = box
    item, count = like.itemsize, lanes(like)
    unit = count if p.lanes == INPUTS else 1
    top, left = p0 * p.stride_h - p.pad_h, q0 * p.stride_w - p.pad_w
    low = min(max(-left, 0), p.packed_cols)
    high = max(low, min(p.W - left, p.packed_cols))
    some = p.packed_rows - (p.rows - rows) * p.stride_h
    begin = min(max(-top, 0), some)
    stop = max(begin, min(p.H - top, some))
    line, plane = p.x_line * item, p.H * p.W
    for image in range(images):
        for c in range(first, end, unit):
            place = to + (image * p.x_image + c // unit * p.x_channel) * item
            source = x + (((n0 + image) * p.C + c) * plane + (top + begin) * p.W + left) * item
            fill_with(like, place, 0, begin * p.x_line)
            if unit == 1:
                gather_rows(
                    like,
                    place + begin * line,
                    line,
                    source,
                    p.W * item,
                    stop - begin,
                    low,
                    high,
                    p.packed_cols,
                    1,
                )
            else:
                wide, channels = count * item, min(count, end - c)
                source += low * item
                for row in range(begin, stop):
                    at = place + row * line
                    fill_with(like, at, 0, low * count)
                    if high > low:
                        turn_rows(like, at + low * wide, wide, source, plane * item, channels, high - low)
                    fill_with(like, at + high * wide, 0, (p.packed_cols - high) * count)
                    source += p.W * item
            fill_with(like, place + stop * line, 0, (some - stop) * p.x_line)


def pack_y(like: Any, y: int, box: Any, first: int, vectors: int, panel: int, p: Any) -> None:
    """Output channels `first` .. of the group that begins at `y`, so many vectors, as [pixel][vector][lane]."""
    n0, p0, q0, images, rows, cols = box
    item, count = like.itemsize, lanes(like)
    plane, run, wide = p.P * p.Q, rows * cols, count * item
    for image in range(images):
        for v in range(vectors):
            k = first + v * count
            source = y + (((n0 + image) * p.K + k) * plane + p0 * p.Q + q0) * item
            to = panel + (image * run * vectors + v) * wide
            turn_rows(like, to, vectors * wide, source, plane * item, min(count, p.outputs - k), run)


def put_vector(like: Any, number: int, sums: int, row: int, p: Any) -> None:
    """The sums of vector `number` of the group's vectors to the row of w of one output channel."""
    item, count, window = like.itemsize, lanes(like), p.R * p.S
    if p.lanes == TAPS:
        pieces = (p.S + count - 1) // count
        s = number % pieces * count
        put_each(like, row + (number // pieces * p.S + s) * item, item, sums, min(count, p.S - s))
    else:
        c = number // window * count
        to = row + (c * window + number % window) * item
        put_each(like, to, window * item, sums, min(count, p.channels - c))


def share_of(number: int, p: Any) -> Any:
    """Item `number`: group, run of boxes, blocks from and to, tiles from and to."""
    vector_part, rest = number % p.vector_parts, number // p.vector_parts
    scalar_part, rest = rest % p.scalar_parts, rest // p.scalar_parts
    return (
        rest // p.runs,
        rest % p.runs,
        p.blocks * vector_part // p.vector_parts,
        p.blocks * (vector_part + 1) // p.vector_parts,
        p.tiles * scalar_part // p.scalar_parts,
        p.tiles * (scalar_part + 1) // p.scalar_parts,
    )


def box_of(b: int, p: Any) -> Any:
    """Box `b`: its first image, row and column of y, and how many of each."""
    n0 = b // (p.boxes_h * p.boxes_w) * p.images
    p0 = b // p.boxes_w % p.boxes_h * p.rows
    q0 = b % p.boxes_w * p.cols
    return n0, p0, q0, min(p.images, p.N - n0), min(p.rows, p.P - p0), min(p.cols, p.Q - q0)


def part_of(box: Any, half: int, halves: int) -> Any:
    """One half of a box (halves = 1: all of it): images, rows, columns, and those before it."""
    _, _, _, images, rows, cols = box
    if halves == 1:
        return images, rows, cols, 0, 0, 0
    if images > 1:
        some = images // 2
        return images - some if half else some, rows, cols, some * half, 0, 0
    if rows > 1:
        some = rows // 2
        return images, rows - some if half else some, cols, 0, some * half, 0
    some = cols // 2
    return images, rows, cols - some if half else some, 0, 0, some * half


def _gemm_weight() -> Callable[..., int]:
    def gemm_weight(
        source: Any, grad: Any, out: Any, more: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of backward_weight: source x, grad of y; `more`: a w for each run of boxes but the first.

        The register tiles are called here alone: Numba would compile them anew for each function that they pass by.
        """
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        item, count = source.itemsize, lanes(source)
        wide = count * item
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.share_words
        base = address(scratch) + word * 8
        lay_offsets(scratch, word, word + p.scalar_offsets_at // 8, item, count, p)
        packed, panel, space = base + p.x_at, base + p.panel_at, base + p.sums_at
        turned = p.lanes == OUTPUTS
        window, row_of_w = p.R * p.S, p.taps * item
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            group, run, block_from, block_to, tile_from, tile_to = share_of(number, p)
            x = address(source) + group * p.channels * p.H * p.W * item
            y = address(grad) + group * p.outputs * p.P * p.Q * item
            w = address(out) if run == 0 else address(more) + (run - 1) * p.K * row_of_w
            w += group * p.outputs * row_of_w
            first_box, last_box = p.boxes * run // p.runs, p.boxes * (run + 1) // p.runs - 1
            for b in range(first_box, last_box + 1):
                box = box_of(b, p)
                n0, p0, q0, images, rows, cols = box
                add = 1 if b > first_box else 0
                # steps of the x and the y of the box, from a pixel to the next in its column, row and image
                x_col, x_row, x_image = p.stride_w * p.x_element * item, p.stride_h * p.x_line * item, p.x_image * item
                y_col, y_row, y_image = item, p.Q * item, p.K * p.P * p.Q * item
                x_at, y_at = packed, y + n0 * y_image + p0 * y_row + q0 * item
                if p.in_place:
                    x_at = x + n0 * x_image + p0 * x_row + q0 * x_col
                elif turned:
                    first, end = p.scalars * tile_from // p.tiles, p.scalars * tile_to // p.tiles
                    pack_x(source, x, box, first // window, (end + window - 1) // window, packed, p)
                else:
                    pack_x(source, x, box, 0, p.channels, packed, p)
                halves = 2 if turned and images * rows * cols > p.halve_above else 1
                to = space
                for block in range(block_from, block_to):
                    v0 = p.vectors * block // p.blocks
                    vectors = p.vectors * (block + 1) // p.blocks - v0
                    step = vectors * wide
                    outputs = min(vectors * count, p.outputs - v0 * count)
                    if turned:
                        pack_y(source, y, box, v0 * count, vectors, panel, p)
                        y_col, y_row, y_image = step, cols * step, rows * cols * step
                    begin, stop, to_w = tile_from, tile_from, w
                    for tile in range(tile_from, tile_to):
                        i = p.scalars * tile // p.tiles
                        scalars = p.scalars * (tile + 1) // p.tiles - i
                        if turned and tile == stop:  # the next ones whose sums are turned together
                            begin, stop = tile, min(tile_to, tile + TILES_A_TURN)
                            to, to_w = space, w + v0 * count * row_of_w + i * item
                        taps = p.scalars * stop // p.tiles - p.scalars * begin // p.tiles
                        if turned:  # the rows of w that the sums will go to are asked for while these are computed
                            k = outputs * (tile - begin) // (stop - begin)
                            k_end = outputs * (tile + 1 - begin) // (stop - begin)
                            prefetch_rows(source, to_w + k * row_of_w, row_of_w, k_end - k, taps)
                        for half in range(halves):
                            now_images, now_rows, now_cols, n, r, q = part_of(box, half, halves)
                            before_x = n * x_image + r * x_row + q * x_col
                            before_y = n * y_image + r * y_row + q * y_col
                            products(
                                source,
                                vectors * 16 + scalars,
                                panel + before_y if turned else packed + before_x,
                                base + (0 if turned else v0 * 8),
                                x_at + before_x if turned else y_at + before_y,
                                base + p.scalar_offsets_at + i * 8,
                                now_images,
                                now_rows,
                                now_cols,
                                y_col if turned else x_col,
                                y_row if turned else x_row,
                                y_image if turned else x_image,
                                x_col if turned else y_col,
                                x_row if turned else y_row,
                                x_image if turned else y_image,
                                to,
                                step,
                                half if turned else add,
                            )
                        if not turned and b == last_box:
                            for j in range(scalars * vectors):
                                row = w + (i + j // vectors) * row_of_w
                                put_vector(source, v0 + j % vectors, to + j * wide, row, p)
                        to += scalars * step
                        if turned and tile == stop - 1:
                            put_turned(source, space, step, outputs, taps, to_w, row_of_w, add)
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return gemm_weight


def _signature(element: Any) -> Any:
    four = types.Array(element, 4, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    tail = (words, record, types.int64, types.int64)
    return types.int64(four, four, types.Array(element, 4, "C"), types.Array(element, 1, "C"), *tail)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"gemm_weight": _gemm_weight}
SIGNATURES: dict[str, Callable[[Any], Any]] = {"gemm_weight": _signature}
HELPERS = ("lay_offsets", "pack_x", "pack_y", "put_vector", "share_of", "box_of", "part_of")
