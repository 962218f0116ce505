"""The two kernels: plain Numba loops around the vector blocks of :mod:`.vector`.

Letters: N images; per group, C source channels and K target channels; R S kernel rows and columns.

Tiles. Work is cut into tiles: some images x some rows x some columns of target positions. The source elements that a
tile needs are packed into scratch, for one group at a time::

    packed[channel][phase][image][row][column]        row pitch = tile columns + how far the taps reach

padded with zeros and, where the source moves by a stride, split into the stride's phases (every stride-th row and column
side by side; only the phases that a tap reads). In one phase plane a step of the target is a step of one element, so
every tap is one offset, whatever the stride, dilation and padding; and (image, row, column) run together into one
flat axis that is cut into vectors. The few positions in the gaps between rows are computed and not stored.

`correlate`: forward and backward_input. Loop order: tile, group of target channels, phase of the target (backward_input
with a stride: target positions with the same h mod stride and w mod stride share their taps, so each such phase is a
stride-1 correlation of its own), cols vectors of positions, rows channels, taps. The source of one such run of positions
stays in L1 while the target channels pass over it.

`gradient`: backward_weight. x is packed the same way, the output's gradient into rows of the same flat axis with zeros in
the gaps; then gw[k][c, r, s] is the dot product of row k with x shifted by the tap's offset. Loop order: block of source
channels, tile, chunk of vectors (so that rows of both stay in L1), rows channels, cols taps.

Both get one address space of scratch, laid out by :mod:`.plan`, allocate nothing and raise nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from .plan import BY_CHANNELS, BY_GROUPS
from .vector import (
    address,
    correlate_block,
    flush_denormals,
    gather_row,
    gradient_block,
    lanes,
    restore_mode,
    spread_row,
)

# bits of `flags`
STRICT, GUARDED, BIAS_PER_CHANNEL, BIAS_PER_POSITION = 1, 2, 4, 8


@njit(inline="always")
def _clip(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


@njit(inline="always")
def _pack(
    source: Any, images_from: int, channel_from: int, channels: int, tile: Any, p: Any, tables: Any, packed: int, ones: int
) -> None:
    """Packs a tile's source elements, channel by channel, as the module says; zero where there is no source.

    `tile` is (images, rows, columns, first row, first column, elements to fill of each plane), `channel_from` counts
    over all groups. Rows are written in ascending order and in whole vectors: each overwrites the excess of the one
    before. With `ones` (an address; 0: no) one more channel tells where there is a source element.
    """
    images, rows, _, row_from, column_from, fill = tile
    item = source.itemsize
    _, all_channels, height, width = source.shape
    rows_in = rows + p.span_h
    for channel in range(channels + (1 if ones else 0)):
        for phase_h in range(p.phases_h):
            top = p.source_step_h * (row_from + p.reach_h) + tables[phase_h] - p.source_pad_h
            for phase_w in range(p.phases_w):
                left = p.source_step_w * (column_from + p.reach_w) + tables[p.phases_h + phase_w] - p.source_pad_w
                low = _clip(-(left // p.source_step_w), 0, p.pitch)
                high = _clip(-((left - width) // p.source_step_w), low, p.pitch)
                plane = packed + channel * p.channel_bytes + (phase_h * p.phases_w + phase_w) * p.plane_bytes
                position = 0
                for image in range(images):
                    first = ((images_from + image) * all_channels + channel_from + channel) * height
                    for row in range(rows_in):
                        h = top + row * p.source_step_h
                        step = p.source_step_w
                        begin = address(source) + ((first + h) * width + left) * item
                        if channel == channels:
                            step = 1
                            begin = ones
                        end = high if 0 <= h < height else low
                        last = image == images - 1 and row == rows_in - 1
                        columns = max(fill - position, p.pitch) if last else p.pitch
                        gather_row(source, plane + position * item, begin, low, end, columns, step)
                        position += p.pitch


def _correlate(
    fingerprint: str,
) -> Callable[[Any, Any, Any, Any, Any, Any, Any, int, int], int]:
    def correlate(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, tables: Any, flags: int, share: int
    ) -> int:
        """One share of forward (source x, target y) or backward_input (source y, target x).

        Returns 1 where a weight is not finite and that was not allowed for, so that the call has to be made again,
        GUARDED; else 0.
        """
        fingerprint  # noqa: B018  in the closure, so part of the key of the cached code
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        guarded = flags & GUARDED != 0
        item = source.itemsize
        count = lanes(source)
        floats = scratch.view(source.dtype)
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.share_words
        base = address(scratch) + word * 8
        packed, targets = base, base + p.targets_at
        tap_word, guard_word = word + p.taps_at // 8, word + p.guards_at // 8
        start_word, segment_word, piece_word = word + p.starts_at // 8, word + p.segments_at // 8, word + p.pieces_at // 8
        zeros, ones = base + p.zeros_at, base + p.ones_at
        flipped = (word * 8 + p.weights_at) // item
        channels, outputs = p.source_channels, p.target_channels
        target_height, target_width = target.shape[2], target.shape[3]
        target_plane = target_height * target_width
        shape, block_rows, block_cols = p.shape, p.block_rows, p.block_cols
        if guarded:
            shape, block_rows, block_cols = p.guarded_shape, p.guarded_rows, p.guarded_cols
        for i in range(p.ones_count):
            floats[(word * 8 + p.ones_at) // item + i] = 1
        for i in range(p.zeros_count):
            floats[(word * 8 + p.zeros_at) // item + i] = 0

        # the taps of each target phase: where they are in the packed source, relative to a position
        tap = 0
        for a in range(p.target_step_h):
            for b in range(p.target_step_w):
                scratch[start_word + a * p.target_step_w + b] = tap
                for c in range(channels):
                    for r in range(p.R):
                        if p.backward and (a - r * p.dilation_h) % p.target_step_h:
                            continue
                        if p.backward:
                            plane_h, down = 0, (a - r * p.dilation_h) // p.target_step_h - p.reach_h
                        else:
                            plane_h = tables[p.index_h + r * p.dilation_h % p.source_step_h]
                            down = r * p.dilation_h // p.source_step_h
                        for s in range(p.S):
                            if p.backward and (b - s * p.dilation_w) % p.target_step_w:
                                continue
                            if p.backward:
                                plane_w, right = 0, (b - s * p.dilation_w) // p.target_step_w - p.reach_w
                            else:
                                plane_w = tables[p.index_w + s * p.dilation_w % p.source_step_w]
                                right = s * p.dilation_w // p.source_step_w
                            offset = (down * p.pitch + right) * item
                            planes = (plane_h * p.phases_w + plane_w) * p.plane_bytes
                            scratch[tap_word + tap] = c * p.channel_bytes + planes + offset
                            scratch[guard_word + tap] = channels * p.channel_bytes + offset
                            tap += 1
        scratch[start_word + p.target_step_h * p.target_step_w] = tap

        direct = p.target_step_w == 1  # else through `targets`, to be interleaved
        if not direct:
            for v in range(block_cols):
                scratch[segment_word + v] = v
                scratch[piece_word + 2 * v] = v * count * item
                scratch[piece_word + 2 * v + 1] = -1
            scratch[segment_word + block_cols] = block_cols

        split = share % p.channel_splits
        part, parts = share // p.channel_splits, p.shares // p.channel_splits
        k_low, k_high = outputs * split // p.channel_splits, outputs * (split + 1) // p.channel_splits
        k_count = k_high - k_low
        run = min(p.run_channels, k_count)
        jobs = p.groups * p.tiles
        flipped_group, drawn = -1, (-1, -1, -1)
        probe = floats[(word * 8 + p.zeros_at) // item]  # stays 0 while all weights are finite
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

            if p.backward and group != flipped_group:
                flipped_group = group
                at = flipped
                for a in range(p.target_step_h):
                    for b in range(p.target_step_w):
                        for k in range(group * outputs + k_low, group * outputs + k_high):
                            for c in range(group * channels, (group + 1) * channels):
                                for r in range(p.R):
                                    if (a - r * p.dilation_h) % p.target_step_h:
                                        continue
                                    for s in range(p.S):
                                        if (b - s * p.dilation_w) % p.target_step_w:
                                            continue
                                        value = weights[c, k - group * outputs, r, s]
                                        probe += value * 0
                                        floats[at] = value
                                        at += 1
                if probe != 0 and not guarded:
                    break

            image_flat = (rows + p.span_h) * p.pitch
            flat = (images - 1) * image_flat + (rows - 1) * p.pitch + cols
            vectors = (flat + count - 1) // count
            fill = vectors * count + p.span_h * p.pitch + p.span_w
            shape_of_tile = (images, rows, cols, row_from, column_from, fill)
            _pack(
                source, image_from, group * channels, channels, shape_of_tile, p, tables, packed, ones if guarded else 0
            )

            for run_number in range((k_count + run - 1) // run):
                run_from = min(k_low + run_number * run, k_high - run)
                for a in range(p.target_step_h):
                    row_place = p.target_step_h * row_from + a - p.target_pad_h
                    if direct and (p.target_step_h > 1 or drawn != (images, rows, cols)):
                        # where each vector of positions goes, relative to the tile's first position in the target
                        drawn = (images, rows, cols)
                        pieces, vector = 0, 0
                        scratch[segment_word] = 0
                        for image in range(images):
                            for row in range(rows):
                                if not 0 <= row_place + p.target_step_h * row < target_height:
                                    continue
                                position = image * image_flat + row * p.pitch
                                place = image * p.groups * outputs * target_plane + p.target_step_h * row * target_width
                                for v in range(position // count, (position + cols - 1) // count + 1):
                                    while vector < v:
                                        vector += 1
                                        scratch[segment_word + vector] = pieces
                                    low = max(position - v * count, 0)
                                    high = min(position + cols - v * count, count)
                                    scratch[piece_word + 2 * pieces] = (place + v * count - position) * item
                                    scratch[piece_word + 2 * pieces + 1] = (1 << high) - (1 << low)
                                    pieces += 1
                        while vector < vectors + block_cols:
                            vector += 1
                            scratch[segment_word + vector] = pieces
                    corner = (image_from * p.groups + group) * outputs * target_plane
                    corner += row_place * target_width + column_from - p.target_pad_w
                    for b in range(p.target_step_w):
                        phase = start_word + a * p.target_step_w + b
                        tap = scratch[phase]
                        taps = scratch[phase + 1] - tap
                        if p.backward:
                            first_row = base + p.weights_at + tap * k_count * item
                            first_row -= k_low * taps * item
                        else:
                            first_row = address(weights) + group * outputs * taps * item
                        for v in range(0, vectors, block_cols):
                            for number in range((run + block_rows - 1) // block_rows):
                                k = min(run_from + number * block_rows, run_from + run - block_rows)
                                start = zeros
                                if flags & BIAS_PER_CHANNEL:
                                    start = address(bias) + (group * outputs + k) * item
                                if direct:
                                    out = address(target) + (corner + k * target_plane) * item
                                    out_stride = target_plane * item
                                    segments = base + p.segments_at + v * 8
                                else:
                                    out_stride = p.target_step_w * p.target_bytes
                                    out = targets + (k - run_from) * out_stride + b * p.target_bytes + v * count * item
                                    segments = base + p.segments_at
                                correlate_block(
                                    source,
                                    shape,
                                    packed + v * count * item,
                                    base + p.taps_at + tap * 8,
                                    base + p.guards_at + tap * 8,
                                    first_row + k * taps * item,
                                    taps * item,
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
                        for k in range(run):
                            plane = ((image_from * p.groups + group) * outputs + run_from + k) * target_plane
                            for image in range(images):
                                for row in range(rows):
                                    h = row_place + p.target_step_h * row
                                    if 0 <= h < target_height:
                                        spread_row(
                                            source,
                                            address(target) + (plane + h * target_width + place) * item,
                                            targets
                                            + k * p.target_step_w * p.target_bytes
                                            + (image * image_flat + row * p.pitch) * item,
                                            p.target_bytes,
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
        return 1 if probe != 0 and not guarded else 0

    return correlate


def _gradient(
    fingerprint: str,
) -> Callable[[Any, Any, Any, Any, Any, Any, int, int], int]:
    def gradient(
        source: Any, grad: Any, out: Any, scratch: Any, plan: Any, tables: Any, flags: int, share: int
    ) -> int:
        """One share of backward_weight: source x, grad of y, out of w's shape (each share its own if split BY_TILES).

        Returns 1 where the result is not finite and the gaps between rows were not guarded against an inf in x, so that
        the call has to be made again, GUARDED; else 0.
        """
        fingerprint  # noqa: B018  in the closure, so part of the key of the cached code
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        guarded = flags & GUARDED != 0
        item = source.itemsize
        count = lanes(source)
        floats = scratch.view(source.dtype)
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.share_words
        base = address(scratch) + word * 8
        packed, grads, guard, ones = base, base + p.grads_at, base + p.guard_at, base + p.ones_at
        tap_word = word + p.taps_at // 8
        channels, outputs = p.source_channels, p.target_channels
        height, width = grad.shape[2], grad.shape[3]
        window = p.R * p.S
        shape, block_rows, block_cols = p.shape, p.block_rows, p.block_cols
        if guarded:
            shape, block_rows, block_cols = p.guarded_shape, p.guarded_rows, p.guarded_cols
        for i in range(p.ones_count):
            floats[(word * 8 + p.ones_at) // item + i] = 1

        tap = 0
        for c in range(min(p.block_channels, channels)):
            for r in range(p.R):
                plane_h = tables[p.index_h + r * p.dilation_h % p.source_step_h]
                down = r * p.dilation_h // p.source_step_h
                for s in range(p.S):
                    plane_w = tables[p.index_w + s * p.dilation_w % p.source_step_w]
                    right = s * p.dilation_w // p.source_step_w
                    planes = (plane_h * p.phases_w + plane_w) * p.plane_bytes
                    scratch[tap_word + tap] = c * p.channel_bytes + planes + (down * p.pitch + right) * item
                    tap += 1
        for _ in range(block_cols):
            scratch[tap_word + tap] = 0  # readable: what a block computes beyond its last tap is dropped
            tap += 1

        group_low, group_high, k_low, k_high, tile_low, tile_high = 0, p.groups, 0, outputs, 0, p.tiles
        if p.split == BY_GROUPS:
            group_low, group_high = p.groups * share // p.shares, p.groups * (share + 1) // p.shares
        elif p.split == BY_CHANNELS:
            k_low, k_high = outputs * share // p.shares, outputs * (share + 1) // p.shares
        else:
            tile_low, tile_high = p.tiles * share // p.shares, p.tiles * (share + 1) // p.shares

        probe = floats[(word * 8 + p.ones_at) // item] * 0
        for group in range(group_low, group_high):
            for k in range(group * outputs + k_low, group * outputs + k_high):
                for c in range(channels):
                    for r in range(p.R):
                        for s in range(p.S):
                            out[k, c, r, s] = 0
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
                    shape_of_tile = (images, rows, cols, row_from, column_from, fill)
                    _pack(
                        source, image_from, group * channels + c_from, c_count, shape_of_tile, p, tables, packed, 0
                    )
                    for k_from in range(k_low, k_high, p.run_channels):
                        k_here = min(p.run_channels, k_high - k_from)
                        for k in range(k_here + (1 if guarded else 0)):
                            place = guard if k == k_here else grads + k * p.grad_bytes
                            for image in range(images):
                                begin = (image_from + image) * p.groups * outputs + group * outputs + k_from + k
                                for row in range(rows):
                                    position = image * image_flat + row * p.pitch
                                    columns = p.pitch
                                    if row == rows - 1:  # and the rows below, which only the taps reach
                                        columns += p.span_h * p.pitch
                                        if image == images - 1:
                                            columns = vectors * count - position
                                    at = address(grad) + ((begin * height + row_from + row) * width + column_from) * item
                                    if k == k_here:
                                        at = ones
                                    gather_row(source, place + position * item, at, 0, cols, columns, 1)
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
                                        address(out) + (row_of_w * window + tap) * item,
                                        channels * window * item,
                                        min(block_rows, k_here - k),
                                        min(block_cols, taps - tap),
                                    )
            for k in range(group * outputs + k_low, group * outputs + k_high):
                for c in range(channels):
                    for r in range(p.R):
                        for s in range(p.S):
                            probe += out[k, c, r, s] * 0
        if not flags & STRICT:
            restore_mode(mode)
        return 1 if probe != 0 and not guarded else 0

    return gradient


BUILDERS: dict[str, Callable[[str], Callable[..., int]]] = {"correlate": _correlate, "gradient": _gradient}
