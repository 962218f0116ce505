"""The two kernels: plain Numba loops around the vector blocks of :mod:`.vector`.

Letters: N images; per group, C source channels and K target channels; R S kernel rows and columns.

Tiles. Work is cut into tiles: some images x some rows x some columns of target positions. The source elements that a
tile needs are packed into scratch, for one group at a time::

    packed[channel][phase][image][row][column]        row pitch = tile columns + how far the taps reach

padded with zeros and, where the source moves by a stride, split into the stride's phases (every stride-th row and
column side by side; only the phases that a tap reads). In one phase plane a step of the target is a step of one
element, so every tap is one offset, whatever the stride, dilation and padding; and (image, row, column) run together
into one flat axis that is cut into vectors. The few positions in the gaps between rows are computed and not stored.

`correlate`: forward and backward_input. Loop order: tile, group of target channels, phase of the target
(backward_input with a stride: target positions with the same h mod stride and w mod stride share their taps, so each
such phase is a stride-1 correlation of its own; neighbours with the same taps' offsets go together, as more channels),
cols vectors of positions, rows channels, taps. The source of one such run of positions stays in L1 while the target
channels pass over it. Where sums are short and rows fill vectors, blocks go along the rows of positions instead and
store straight to the target.

`gradient`: backward_weight. x is packed the same way, the output's gradient into rows of the same flat axis with zeros
in the gaps; then gw[k][c, r, s] is the dot product of row k with x shifted by the tap's offset. Loop order: block of
source channels, tile, chunk of vectors (so that rows of both stay in L1), rows channels, cols taps. Where there are few
positions, the output channels are in the lanes instead.

Both get one address space of scratch, laid out by :mod:`.plan`, allocate nothing and raise nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import types

from .flags import BIAS_PER_CHANNEL, BIAS_PER_POSITION, GUARDED, STRICT
from .plan import BY_CHANNELS, BY_GROUPS, BY_TILES, RECORD
from .row_blocks import row_block
from .vector import (
    address,
    all_finite,
    channel_block,
    copy_panels,
    correlate_block,
    fill_with,
    flush_denormals,
    gather_rows,
    gradient_block,
    lanes,
    panel_block,
    restore_mode,
    spread_rows,
    store_pieces,
    transpose,
)


def clip(value: int, low: int, high: int) -> int:
    """`value`, or the bound that it exceeds."""
    return max(low, min(value, high))


def list_taps(
    scratch: Any, tap_word: int, guard_word: int, start_word: int, channels: int, item: int, p: Any, tables: Any
) -> None:
    """The taps of each target phase: their byte offsets in the packed source, relative to a position.

    Order: phase, channel, r, s, as the weights lie in memory; where there are several phases, and so not every tap in
    each, phase, r, channel, s, which is packed in longer runs. With a `guard_word` (0: no) also where, in the plane
    after the last channel, it says whether there is a source element; with a `start_word` (0: no) where each phase's
    taps start.
    """
    tap = 0
    for a in range(p.target_step_h):
        for b in range(p.target_step_w):
            if start_word:
                scratch[start_word + a * p.target_step_w + b] = tap
            r_from = first_tap(a, p.R, p.dilation_h, p.target_step_h)
            s_from = first_tap(b, p.S, p.dilation_w, p.target_step_w)
            for r_first in range(r_from, p.R if p.rows_first else r_from + 1, p.next_h):
                for c in range(channels):
                    for r in range(r_first, r_first + 1 if p.rows_first else p.R, p.next_h):
                        plane_h, down = 0, (a - r * p.dilation_h) // p.target_step_h - p.reach_h
                        if not p.backward:
                            plane_h = tables[p.index_h + r * p.dilation_h % p.source_step_h]
                            down = r * p.dilation_h // p.source_step_h
                        for s in range(s_from, p.S, p.next_w):
                            plane_w, right = 0, (b - s * p.dilation_w) // p.target_step_w - p.reach_w
                            if not p.backward:
                                plane_w = tables[p.index_w + s * p.dilation_w % p.source_step_w]
                                right = s * p.dilation_w // p.source_step_w
                            offset = (down * p.pitch + right) * item
                            planes = (plane_h * p.phases_w + plane_w) * p.plane_bytes
                            scratch[tap_word + tap] = c * p.channel_bytes + planes + offset
                            if guard_word:
                                scratch[guard_word + tap] = channels * p.channel_bytes + offset
                            tap += 1
    if start_word:
        scratch[start_word + p.target_step_h * p.target_step_w] = tap


def first_tap(phase: int, taps: int, dilation: int, step: int) -> int:
    """The first tap r with r*dilation = phase modulo step, or `taps`; the others follow at equal distances."""
    for r in range(min(taps, step)):
        if (phase - r * dilation) % step == 0:
            return r
    return taps


def flip_weights(weights: Any, out: int, group: int, k_low: int, k_high: int, p: Any) -> None:
    """The weights of backward_input as [phase][target channel][tap], to the address `out`.

    The taps' order is that of :func:`list_taps`. A target channel's row has a vector to spare, for what is written
    beyond its end.
    """
    channels, outputs = p.source_channels, p.target_channels
    item, count = weights.itemsize, lanes(weights)
    window = p.R * p.S
    begin = address(weights) + group * channels * outputs * window * item
    channel_bytes = outputs * window * item
    if window == 1:
        out_stride = (channels + count) * item
        transpose(weights, out, out_stride, begin + k_low * item, channel_bytes, channels, k_high - k_low)
        return
    for a in range(p.target_step_h):
        r_from = first_tap(a, p.R, p.dilation_h, p.target_step_h)
        for b in range(p.target_step_w):
            s_from = first_tap(b, p.S, p.dilation_w, p.target_step_w)
            r_end, columns = p.R, (p.S - s_from + p.next_w - 1) // p.next_w
            if not p.rows_first:  # each channel's taps lie in one run
                r_end, columns = 1, window
            run = channels * columns * item
            out_stride = max((r_end - r_from + p.next_h - 1) // p.next_h, 0) * run + count * item
            # 64 k at a time: they lie side by side in w, and the rows being written are few enough for L1
            for k in range(k_low, k_high, 64):
                together = min(64, k_high - k)
                for r in range(r_from, r_end, p.next_h):
                    place = begin + (k * window + r * p.S + s_from) * item
                    at = out + (r - r_from) // p.next_h * run
                    for _ in range(channels):
                        gather_rows(
                            weights, at, out_stride, place, window * item, together, 0, columns, columns, p.next_w
                        )
                        place += channel_bytes
                        at += columns * item
                out += together * out_stride


def plain_pieces(scratch: Any, segment_word: int, piece_word: int, cols: int, vector_bytes: int) -> None:
    """The tables for vectors that are stored one after the other, whole."""
    for v in range(cols):
        scratch[segment_word + v] = v
        scratch[piece_word + 2 * v] = v * vector_bytes
        scratch[piece_word + 2 * v + 1] = -1
    scratch[segment_word + cols] = cols


def draw_pieces(
    scratch: Any,
    segment_word: int,
    piece_word: int,
    drawn: Any,
    row_place: int,
    end: int,
    count: int,
    item: int,
    target: Any,
    p: Any,
) -> None:
    """Where each vector of a tile's positions goes, relative to the tile's first position in the target.

    `drawn` is the tile's (images, rows, columns); row i is the target's row_place + i*target_step_h. See
    :func:`.vector.correlate_block` for the two tables; vectors from the last one up to `end` get no piece.
    """
    images, rows, cols = drawn
    _, all_channels, height, width = target.shape
    pieces, vector = 0, 0
    scratch[segment_word] = 0
    for image in range(images):
        for row in range(rows):
            if not 0 <= row_place + p.target_step_h * row < height:
                continue
            position = (image * (rows + p.span_h) + row) * p.pitch
            place = (image * all_channels * height + p.target_step_h * row) * width
            for v in range(position // count, (position + cols - 1) // count + 1):
                while vector < v:
                    vector += 1
                    scratch[segment_word + vector] = pieces
                low = max(position - v * count, 0)
                high = min(position + cols - v * count, count)
                scratch[piece_word + 2 * pieces] = (place + v * count - position) * item
                scratch[piece_word + 2 * pieces + 1] = (1 << high) - (1 << low)
                pieces += 1
    while vector < end:
        vector += 1
        scratch[segment_word + vector] = pieces


def pack(
    source: Any,
    image_from: int,
    channel_from: int,
    channels: int,
    tile: Any,
    p: Any,
    tables: Any,
    packed: int,
    ones: int,
) -> None:
    """Packs a tile's source elements, channel by channel, as the module says; zero where there is no source.

    `tile` is (images, rows, first row, first column, elements to fill of each plane), `channel_from` counts over all
    groups. Everything is written in ascending order and in whole vectors: each row overwrites the excess of the one
    before. With `ones` (an address; 0: no) one more channel tells where there is a source element.
    """
    images, rows, row_from, column_from, fill = tile
    item = source.itemsize
    _, all_channels, height, width = source.shape
    rows_in = rows + p.span_h
    row_bytes, source_row_bytes = p.pitch * item, p.source_step_h * width * item
    for channel in range(channels + (1 if ones else 0)):
        for phase_h in range(p.phases_h):
            top = p.source_step_h * (row_from + p.reach_h) + tables[phase_h] - p.source_pad_h
            first = clip(-(top // p.source_step_h), 0, rows_in)
            last = clip(-((top - height) // p.source_step_h), first, rows_in)
            for phase_w in range(p.phases_w):
                left = p.source_step_w * (column_from + p.reach_w) + tables[p.phases_h + phase_w] - p.source_pad_w
                low = clip(-(left // p.source_step_w), 0, p.pitch)
                high = clip(-((left - width) // p.source_step_w), low, p.pitch)
                place = packed + channel * p.channel_bytes + (phase_h * p.phases_w + phase_w) * p.plane_bytes
                end = place + fill * item
                for image in range(images):
                    plane = (image_from + image) * all_channels + channel_from + channel
                    begin = address(source) + ((plane * height + top + first * p.source_step_h) * width + left) * item
                    step, stride = p.source_step_w, source_row_bytes
                    if channel == channels:
                        begin, step, stride = ones, 1, 0
                    if first > 0:
                        fill_with(source, place, 0, first * p.pitch)
                    gather_rows(
                        source,
                        place + first * row_bytes,
                        row_bytes,
                        begin,
                        stride,
                        last - first,
                        low,
                        high,
                        p.pitch,
                        step,
                    )
                    if last < rows_in:
                        fill_with(source, place + last * row_bytes, 0, (rows_in - last) * p.pitch)
                    place += rows_in * row_bytes
                if place < end:
                    fill_with(source, place, 0, (end - place) // item)


def multiply_panels(
    like: Any, positions: Any, taps: Any, rows: Any, bias: Any, out: Any, direct: Any, places: Any, p: Any
) -> None:
    """All positions of a tile, for one run of target channels and one phase, by way of panels.

    Some panels of vectors at a time are copied from `positions` (address, elements that may be read, vectors), `taps`
    (addresses of their offsets, number) in parts that stay in L1; then the `rows` of weights (address, stride, number)
    pass over them. Sums go to `out` (address, stride): to the end of the tile or, where direct[0], from there to their
    pieces in the target (address, stride: direct[2:]) each time; the first direct[1] vectors lie side by side in the
    target and go straight there. `places`: of the panels, segments and pieces.
    """
    packed, there, vectors = positions
    offsets, all_taps = taps
    weights, row_bytes, run = rows
    start, bias_step = bias
    sums, sums_stride = out
    straight, plain, target, target_stride = direct
    panels_at, segments, pieces = places
    item, count = like.itemsize, lanes(like)
    vector_bytes = count * item
    total = (vectors + p.panel_cols - 1) // p.panel_cols
    blocks = (run + p.panel_rows - 1) // p.panel_rows
    parts = max((all_taps + p.panel_taps - 1) // p.panel_taps, 1)
    rounds = (total + p.panel_together - 1) // p.panel_together
    for number in range(rounds):
        first, end = total * number // rounds, total * (number + 1) // rounds
        v_from, v_to = vectors * first // total, vectors * end // total
        here, stride = sums + (0 if straight else v_from * vector_bytes), sums_stride
        in_target = v_to <= plain
        if in_target:
            here, stride = target + v_from * vector_bytes, target_stride
        panels = end - first
        cols = (v_to - v_from + panels - 1) // panels
        longer = v_to - v_from - panels * (cols - 1)
        for part in range(parts):
            tap, last = all_taps * part // parts, all_taps * (part + 1) // parts
            begin = packed + v_from * vector_bytes
            copy_panels(
                like, cols, panels_at, begin, offsets + tap * 8, last - tap, panels, longer, there - v_from * count
            )
            for block in range(blocks):
                row, row_end = run * block // blocks, run * (block + 1) // blocks
                v, panel = 0, panels_at
                for j in range(panels):
                    width = cols if j < longer else cols - 1
                    panel_block(
                        like,
                        (width - 1) * p.panel_most + row_end - row - 1,
                        panel,
                        weights + row * row_bytes + tap * item,
                        row_bytes,
                        last - tap,
                        start + row * bias_step,
                        part,
                        here + row * stride + v * vector_bytes,
                        stride,
                    )
                    v += width
                    panel += (last - tap) * width * vector_bytes
        if straight and not in_target:
            tables = segments + v_from * 8
            store_pieces(like, here, sums_stride, run, v_to - v_from, target, target_stride, tables, pieces)


def _correlate() -> Callable[[Any, Any, Any, Any, Any, Any, Any, int, int], int]:
    def correlate(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, tables: Any, flags: int, share: int
    ) -> int:
        """One share of forward (source x, target y) or backward_input (source y, target x).

        Returns 1 where a weight is not finite and that was not allowed for, so that the call has to be made again,
        GUARDED; else 0.
        """
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        guarded = flags & GUARDED != 0
        item = source.itemsize
        count = lanes(source)
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.share_words
        base = address(scratch) + word * 8
        packed, targets = base, base + p.targets_at
        tap_word, guard_word = word + p.taps_at // 8, word + p.guards_at // 8
        start_word, segment_word, piece_word = (
            word + p.starts_at // 8,
            word + p.segments_at // 8,
            word + p.pieces_at // 8,
        )
        zeros, ones = base + p.zeros_at, base + p.ones_at
        channels, outputs = p.source_channels, p.target_channels
        target_height, target_width = target.shape[2], target.shape[3]
        target_plane = target_height * target_width
        shape, block_rows, block_cols = p.shape, p.block_rows, p.block_cols
        if guarded:
            shape, block_rows, block_cols = p.guarded_shape, p.guarded_rows, p.guarded_cols
        panels = p.panel_cols > 0 and not guarded
        in_place = p.in_place != 0
        if p.backward and not guarded and not in_place and not all_finite(weights, address(weights), weights.size):
            if not flags & STRICT:
                restore_mode(mode)
            return 1
        fill_with(source, ones, 1, p.ones_count)
        fill_with(source, zeros, 0, p.zeros_count)

        list_taps(scratch, tap_word, guard_word, start_word, channels, item, p, tables)
        direct = p.target_step_w == 1  # else through `targets`, to be interleaved
        if not direct:
            plain_pieces(scratch, segment_word, piece_word, block_cols, count * item)

        split = share % p.channel_splits
        part, parts = share // p.channel_splits, p.shares // p.channel_splits
        k_low, k_high = outputs * split // p.channel_splits, outputs * (split + 1) // p.channel_splits
        k_count = k_high - k_low
        run = min(p.run_channels, k_count)
        jobs = p.groups * p.tiles
        flipped, drawn = (-1, -1), (-1, -1, -1)
        for job in range(jobs * part // parts, jobs * (part + 1) // parts):
            group, tile = job // p.tiles, job % p.tiles
            image_from = tile // (p.tiles_h * p.tiles_w) * p.tile_images
            row_from = tile // p.tiles_w % p.tiles_h * p.tile_rows
            column_from = tile % p.tiles_w * p.tile_cols
            images = min(p.tile_images, p.N - image_from)
            rows = min(p.tile_rows, p.rows - row_from)
            cols = min(p.tile_cols, p.cols - column_from)
            row_from += p.first_row
            column_from += p.first_col

            image_flat = (rows + p.span_h) * p.pitch
            flat = (images - 1) * image_flat + (rows - 1) * p.pitch + cols
            vectors = (flat + count - 1) // count
            fill = vectors * count + p.span_h * p.pitch + p.span_w
            shape_of_tile = (images, rows, row_from, column_from, fill)
            # positions without gaps, as in the target: patches, and what is read in place
            gapless = in_place or (not p.backward and images == 1 and cols == p.pitch and cols == target_width)
            if in_place:
                plane = (image_from * p.groups + group) * channels
                packed = address(source) + plane * p.channel_bytes + column_from * item
            else:
                ones_too = ones if guarded else 0
                pack(source, image_from, group * channels, channels, shape_of_tile, p, tables, packed, ones_too)

            for run_number in range((k_count + run - 1) // run):
                run_from = min(k_low + run_number * run, k_high - run)
                flip_from, flip_count = k_low, k_count
                if p.flip_runs:
                    flip_from, flip_count = run_from, run
                if p.backward and flipped != (group, flip_from):
                    flipped = (group, flip_from)
                    flip_weights(weights, base + p.weights_at, group, flip_from, flip_from + flip_count, p)
                for a in range(p.target_step_h):
                    row_place = p.target_step_h * row_from + a - p.target_pad_h
                    if direct and (p.target_step_h > 1 or drawn != (images, rows, cols)):
                        drawn = (images, rows, cols)
                        draw_pieces(
                            scratch,
                            segment_word,
                            piece_word,
                            drawn,
                            row_place,
                            vectors + block_cols,
                            count,
                            item,
                            target,
                            p,
                        )
                    corner = (image_from * p.groups + group) * outputs * target_plane
                    corner += row_place * target_width + column_from - p.target_pad_w
                    for b in range(0, p.target_step_w, p.phases_together):
                        phase = start_word + a * p.target_step_w + b
                        tap = scratch[phase]
                        taps = scratch[phase + 1] - tap
                        row_bytes = taps * item
                        first_row = address(weights) + group * outputs * row_bytes
                        if p.backward:  # [phase][target channel][tap and a spare vector]
                            before = tap + (a * p.target_step_w + b) * count
                            row_bytes += count * item
                            first_row = base + p.weights_at + before * flip_count * item - flip_from * row_bytes
                        first_row += run_from * row_bytes
                        rows_here = p.phases_together * run  # of weights: phase by phase, side by side in scratch
                        if panels:
                            start = zeros
                            if flags & BIAS_PER_CHANNEL:
                                start = address(bias) + (group * outputs + run_from) * item
                            bias_step = item if flags & BIAS_PER_CHANNEL else 0
                            out, out_stride = base + p.sums_at, p.panel_together * p.panel_cols * count * item
                            if not direct:
                                out, out_stride = targets + b * run * p.target_bytes, p.target_bytes
                            place = address(target) + (corner + run_from * target_plane) * item
                            multiply_panels(
                                source,
                                (packed, flat if in_place else vectors * count, vectors),
                                (base + p.taps_at + tap * 8, taps),
                                (first_row, row_bytes, rows_here),
                                (start, bias_step),
                                (out, out_stride),
                                (1 if direct else 0, flat // count if gapless else 0, place, target_plane * item),
                                (base + p.panels_at, base + p.segments_at, base + p.pieces_at),
                                p,
                            )
                            continue
                        if p.row_vectors > 0 and not guarded:
                            blocks = (run + p.row_channels - 1) // p.row_channels
                            pieces = (cols + p.row_cols - 1) // p.row_cols
                            for number in range(images * rows):
                                image, row = number // rows, number % rows
                                if row % p.row_lines != 0:
                                    continue
                                for piece in range(pieces):
                                    left, right = cols * piece // pieces, cols * (piece + 1) // pieces
                                    here = packed + (image * image_flat + row * p.pitch + left) * item
                                    place = corner + (image * p.groups * outputs + run_from) * target_plane
                                    place += row * target_width + left
                                    for block in range(blocks):
                                        k, k_end = run * block // blocks, run * (block + 1) // blocks
                                        start = zeros
                                        if flags & BIAS_PER_CHANNEL:
                                            start = address(bias) + (group * outputs + run_from + k) * item
                                        row_block(
                                            source,
                                            p.row_vectors * 16 + k_end - k,
                                            here,
                                            p.pitch * item,
                                            base + p.taps_at + tap * 8,
                                            taps,
                                            first_row + k * row_bytes,
                                            row_bytes,
                                            start,
                                            item if flags & BIAS_PER_CHANNEL else 0,
                                            address(target) + (place + k * target_plane) * item,
                                            target_plane * item,
                                            target_width * item,
                                            min(p.row_lines, rows - row),
                                            right - left,
                                        )
                            continue
                        for v in range(0, vectors, block_cols):
                            for number in range((rows_here + block_rows - 1) // block_rows):
                                row = min(number * block_rows, rows_here - block_rows)
                                start = zeros
                                if flags & BIAS_PER_CHANNEL:
                                    start = address(bias) + (group * outputs + run_from + row) * item
                                if direct:
                                    out = address(target) + (corner + (run_from + row) * target_plane) * item
                                    out_stride = target_plane * item
                                    segments = base + p.segments_at + v * 8
                                else:
                                    out_stride = p.target_bytes
                                    out = targets + (b * run + row) * out_stride + v * count * item
                                    segments = base + p.segments_at
                                correlate_block(
                                    source,
                                    shape,
                                    packed + v * count * item,
                                    base + p.taps_at + tap * 8,
                                    base + p.guards_at + tap * 8,
                                    first_row + row * row_bytes,
                                    row_bytes,
                                    taps,
                                    start,
                                    out,
                                    out_stride,
                                    segments,
                                    base + p.pieces_at,
                                )
                    if not direct:
                        place = p.target_step_w * column_from - p.target_pad_w
                        low = max(-place, 0)
                        high = min(target_width - place, p.target_step_w * cols)
                        first = clip(-(row_place // p.target_step_h), 0, rows)
                        last = clip(-((row_place - target_height) // p.target_step_h), first, rows)
                        for k in range(run):
                            plane = ((image_from * p.groups + group) * outputs + run_from + k) * target_plane
                            for image in range(images):
                                spread_rows(
                                    source,
                                    address(target)
                                    + (plane + (row_place + p.target_step_h * first) * target_width + place) * item,
                                    p.target_step_h * target_width * item,
                                    targets + k * p.target_bytes + (image * image_flat + first * p.pitch) * item,
                                    p.pitch * item,
                                    run * p.target_bytes,
                                    last - first,
                                    low,
                                    high,
                                    cols,
                                    p.target_step_w,
                                )
                                plane += p.groups * outputs * target_plane
            if flags & BIAS_PER_POSITION:
                for image in range(image_from, image_from + images):
                    for k in range(group * outputs + k_low, group * outputs + k_high):
                        for row in range(row_from, row_from + rows):
                            at = (k * target_height + row) * target_width + column_from
                            for j in range(cols):
                                target[image, k, row, column_from + j] += bias[at + j]
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return correlate


def transpose_grad(
    grad: Any,
    scratch: Any,
    base: int,
    base_word: int,
    channel_from: int,
    k_count: int,
    image_flat: int,
    flat: int,
    p: Any,
) -> None:
    """The output's gradient as [position][k], zero in the gaps, and the tables of the blocks that read it."""
    item, count = grad.itemsize, lanes(grad)
    _, all_channels, height, width = grad.shape
    for position in range(flat):
        scratch[base_word + p.guards_at // 8 + position] = position * p.position_bytes
    plain_pieces(scratch, base_word + p.segments_at // 8, base_word + p.pieces_at // 8, p.lane_cols, count * item)
    fill_with(grad, base + p.zeros_at, 0, p.zeros_count)
    fill_with(grad, base + p.grads_at, 0, flat * (p.position_bytes // item))
    for image in range(p.N):
        for row in range(height):
            begin = address(grad) + ((image * all_channels + channel_from) * height + row) * width * item
            place = base + p.grads_at + (image * image_flat + row * p.pitch) * p.position_bytes
            transpose(grad, place, p.position_bytes, begin, height * width * item, k_count, width)


def _gradient() -> Callable[[Any, Any, Any, Any, Any, Any, int, int], int]:
    def gradient(source: Any, grad: Any, out: Any, scratch: Any, plan: Any, tables: Any, flags: int, share: int) -> int:
        """One share of backward_weight: source x, grad of y, out of w's shape (if split BY_TILES one for each share).

        Returns 1 where the result is not finite and the gaps between rows were not guarded against an inf in x, so that
        the call has to be made again, GUARDED; else 0.
        """
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        guarded = flags & GUARDED != 0
        item = source.itemsize
        count = lanes(source)
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.share_words
        base = address(scratch) + word * 8
        packed, grads, guard, ones = base, base + p.grads_at, base + p.guard_at, base + p.ones_at
        tap_word = word + p.taps_at // 8
        channels, outputs = p.source_channels, p.target_channels
        height, width = grad.shape[2], grad.shape[3]
        window = p.R * p.S
        row_bytes = p.pitch * item
        shape, block_rows, block_cols = p.shape, p.block_rows, p.block_cols
        if guarded:
            shape, block_rows, block_cols = p.guarded_shape, p.guarded_rows, p.guarded_cols
        fill_with(source, ones, 1, p.ones_count)

        listed = min(p.block_channels, channels)
        list_taps(scratch, tap_word, 0, 0, listed, item, p, tables)
        for j in range(block_cols):  # what a block computes beyond its last tap is dropped, but has to be readable
            scratch[tap_word + listed * window + j] = 0

        group_low, group_high, k_low, k_high, tile_low, tile_high = 0, p.groups, 0, outputs, 0, p.tiles
        if p.split == BY_GROUPS:
            group_low, group_high = p.groups * share // p.shares, p.groups * (share + 1) // p.shares
        elif p.split == BY_CHANNELS:
            k_low, k_high = outputs * share // p.shares, outputs * (share + 1) // p.shares
        else:
            tile_low, tile_high = p.tiles * share // p.shares, p.tiles * (share + 1) // p.shares

        finite = True
        first_row = share * p.groups * outputs if p.split == BY_TILES else 0
        out_at = address(out) + first_row * channels * window * item
        for group in range(group_low, group_high):
            size = channels * window
            first = (group * outputs + k_low) * size
            for k in range(group * outputs + k_low, group * outputs + k_high):
                out[first_row + k] = 0
            for c_from in range(0, channels, p.block_channels):
                c_count = min(p.block_channels, channels - c_from)
                taps = c_count * window
                for tile in range(tile_low, tile_high):
                    image_from = tile // (p.tiles_h * p.tiles_w) * p.tile_images
                    row_from = tile // p.tiles_w % p.tiles_h * p.tile_rows
                    column_from = tile % p.tiles_w * p.tile_cols
                    images = min(p.tile_images, p.N - image_from)
                    rows = min(p.tile_rows, p.rows - row_from)
                    cols = min(p.tile_cols, p.cols - column_from)
                    image_flat = (rows + p.span_h) * p.pitch
                    flat = (images - 1) * image_flat + (rows - 1) * p.pitch + cols
                    vectors = (flat + count - 1) // count
                    fill = vectors * count + p.span_h * p.pitch + p.span_w
                    shape_of_tile = (images, rows, row_from, column_from, fill)
                    pack(source, image_from, group * channels + c_from, c_count, shape_of_tile, p, tables, packed, 0)
                    if p.lane_cols > 0 and not guarded:
                        # Few positions, all in this tile: summing the lanes of a vector would cost more than its
                        # products. So the output's gradient is what the source is in forward, a vector of k for every
                        # position, and a row of x has the part of the weights: the sum over positions is
                        # [c, r, s][k], to be transposed at the end.
                        k_all, k_count = group * outputs + k_low, k_high - k_low
                        if c_from == 0:
                            transpose_grad(grad, scratch, base, word, k_all, k_count, image_flat, flat, p)
                        for v in range(0, (k_count + count - 1) // count, p.lane_cols):
                            for number in range((c_count + p.lane_rows - 1) // p.lane_rows):
                                c = min(number * p.lane_rows, c_count - p.lane_rows)
                                for tap in range(window):
                                    row = (c * window + tap) * p.position_bytes
                                    channel_block(
                                        source,
                                        p.lane_shape,
                                        grads + v * count * item,
                                        base + p.guards_at,
                                        0,
                                        packed + c * p.channel_bytes + scratch[tap_word + tap],
                                        p.channel_bytes,
                                        flat,
                                        base + p.zeros_at,
                                        base + p.targets_at + row + v * count * item,
                                        window * p.position_bytes,
                                        base + p.segments_at,
                                        base + p.pieces_at,
                                    )
                        transpose(
                            source,
                            out_at + (k_all * channels + c_from) * window * item,
                            channels * window * item,
                            base + p.targets_at,
                            p.position_bytes,
                            c_count * window,
                            k_count,
                        )
                        continue
                    for k_from in range(k_low, k_high, p.run_channels):
                        k_here = min(p.run_channels, k_high - k_from)
                        for k in range(k_here + (1 if guarded else 0)):
                            place = guard if k == k_here else grads + k * p.grad_bytes
                            stride = 0 if k == k_here else width * item
                            for image in range(images):
                                at = ones
                                if k < k_here:
                                    plane = (image_from + image) * p.groups * outputs + group * outputs + k_from + k
                                    at = address(grad) + ((plane * height + row_from) * width + column_from) * item
                                gather_rows(source, place, row_bytes, at, stride, rows, 0, cols, p.pitch, 1)
                                place += rows * row_bytes
                                if image < images - 1:  # the rows below, which only the taps reach
                                    fill_with(source, place, 0, p.span_h * p.pitch)
                                    place += p.span_h * row_bytes
                            end = (guard if k == k_here else grads + k * p.grad_bytes) + vectors * count * item
                            if place < end:
                                fill_with(source, place, 0, (end - place) // item)
                        for v in range(0, vectors, p.chunk):
                            length = min(p.chunk, vectors - v)
                            for k in range(0, k_here, block_rows):
                                for tap in range(0, taps, block_cols):
                                    row_of_w = (group * outputs + k_from + k) * channels + c_from
                                    gradient_block(
                                        source,
                                        shape,
                                        grads + k * p.grad_bytes + v * count * item,
                                        p.grad_bytes,
                                        packed + v * count * item,
                                        base + p.taps_at + tap * 8,
                                        guard + v * count * item,
                                        length,
                                        out_at + (row_of_w * window + tap) * item,
                                        channels * window * item,
                                        min(block_rows, k_here - k),
                                        min(block_cols, taps - tap),
                                    )
            finite = finite and all_finite(source, out_at + first * item, (k_high - k_low) * size)
        if not flags & STRICT:
            restore_mode(mode)
        return 0 if finite or guarded else 1

    return gradient


def _signature(element: Any, bias: bool) -> Any:
    inputs, output = types.Array(element, 4, "C", readonly=True), types.Array(element, 4, "C")
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    tail = (words, record, words, types.int64, types.int64)  # scratch, plan, tables, flags, share
    biases = (types.Array(element, 1, "C", readonly=True),) if bias else ()
    return types.int64(inputs, inputs, output, *biases, *tail)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"correlate": _correlate, "gradient": _gradient}

SIGNATURES: dict[str, Callable[[Any], Any]] = {
    "correlate": lambda element: _signature(element, True),
    "gradient": lambda element: _signature(element, False),
}

HELPERS = (  # callees first
    *(
        "clip",
        "first_tap",
        "list_taps",
        "flip_weights",
        "plain_pieces",
        "draw_pieces",
        "pack",
        "multiply_panels",
        "transpose_grad",
    ),
)
