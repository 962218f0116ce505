"""The register blocks of :mod:`.kernels` that go along rows of positions and store straight to the target."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from numba.extending import intrinsic

from . import vector
from .plan import row_shapes
from .vector import Emit, addresses, call_apart, void


@intrinsic
def row_block(
    typingctx: Any,
    like: Any,
    shape: Any,
    source: Any,
    source_row: Any,
    offsets: Any,
    taps: Any,
    weights: Any,
    weight_stride: Any,
    bias: Any,
    bias_step: Any,
    out: Any,
    out_stride: Any,
    out_row: Any,
    rows: Any,
    cols: Any,
) -> Any:
    """`rows` rows of `cols` positions of some output channels, summed over few taps and stored straight to their place.

    `shape` = vectors * 16 + channels, of :func:`fastconv.backends.numba.plan.row_shapes`; `cols` is not less than the
    vectors hold, and the last block of a row overlaps, so that stores are whole. Strides, steps and offsets in bytes.
    """
    return addresses(like, 14), void(_row_switch)


def _row_switch(emit: Emit, args: Sequence[Any]) -> None:
    calls: dict[int, Callable[[], None]] = {}
    for cols, most in row_shapes(vector.target).items():
        for rows in range(1, most + 1):
            body = functools.partial(_row_body, rows, cols)
            calls[cols * 16 + rows] = functools.partial(call_apart, emit, f"row.{rows}x{cols}", body, args[1:])
    emit.cases(args[0], calls, lambda: None)


def _row_body(rows: int, cols: int, emit: Emit, args: Sequence[Any]) -> None:
    source, source_row, offsets, taps, weights, weight_stride, bias, bias_step, out, out_stride, out_row, *extent = args
    lines, width = extent
    builder = emit.builder
    row_of, start_of = [weights], [bias]
    for _ in range(rows - 1):
        row_of.append(builder.add(row_of[-1], weight_stride))
        start_of.append(builder.add(start_of[-1], bias_step))
    firsts = [emit.broadcast(place) for place in start_of]
    starts = emit.variables(rows, lambda number: firsts[number])
    sums = emit.variables(rows * cols)
    step = cols * emit.lanes
    blocks = builder.sdiv(emit.plus(width, step - 1), emit.const(step))
    with emit.loop(lines) as line, emit.loop(blocks) as number:
        at = emit.times(emit.smaller(emit.times(number, step), emit.plus(width, -step)), emit.element_bytes)
        begin = builder.add(builder.add(source, builder.mul(line, source_row)), at)
        for i in range(rows):
            start = builder.load(starts[i])
            for slot in sums[i * cols : (i + 1) * cols]:
                builder.store(start, slot)
        with emit.loop(taps) as t:
            place = builder.add(begin, emit.word(emit.plus(offsets, emit.times(t, 8))))
            held = [emit.load(emit.plus(place, v * emit.vector_bytes)) for v in range(cols)]
            column = emit.times(t, emit.element_bytes)
            for i in range(rows):
                weight = emit.broadcast(builder.add(row_of[i], column))
                for slot, value in zip(sums[i * cols :], held, strict=False):
                    builder.store(emit.fma(weight, value, builder.load(slot)), slot)
        to = builder.add(builder.add(out, builder.mul(line, out_row)), at)
        for i in range(rows):
            for v in range(cols):
                emit.store(builder.load(sums[i * cols + v]), emit.plus(to, v * emit.vector_bytes))
            to = builder.add(to, out_stride)
