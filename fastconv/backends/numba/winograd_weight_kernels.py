"""The kernel of backward_weight by Winograd's algorithm: plain Numba loops around :mod:`.winograd_weight_blocks`.

A tile of forward, A^T [(G g G^T) * (B^T d B)] A, is bilinear in its inputs d and the weights g. So the gradient e of
its outputs gives g the gradient  G^T [(A e A^T) * (B^T d B)] G: as many products as in forward, and G once, for the sum
over all tiles (``csrc/winograd_weight.h``). Each element of a tile is a matrix product, output channels x tiles by
tiles x input channels. With L channels in the lanes of both operands,

    v, u (inputs, gradients) [some tiles][chunk of L channels][f][tile][L]
    m (sums) [part of the output channels][input channel][weight f][vectors of the part][L]

Two stages for each block of tiles: both operands are transformed; then a part of the output channels meets some chunks
of the input channels. With several blocks m is kept between them. After the last one m becomes rows of w.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
from numba import types

from .flags import STRICT
from .gemm_weight_kernels import put_turned
from .vector import address, all_finite, fill_with, flush_denormals, lanes, restore_mode
from .winograd_kernels import inputs_to_v, segment_of, segments_of, tile_begin  # noqa: F401  for HELPERS
from .winograd_plan import GRADIENT_RECORD, RECORD, STRIDED_GRADIENT_RECORD, STRIDED_RECORD, WEIGHT_RECORD
from .winograd_weight_blocks import sum_products, transform_sums


def multiply_all(
    like: Any, p: Any, d: Any, v: int, u: int, u_rows: int, tiles: int, vectors: int, inputs: int, m: int, again: int
) -> None:
    """The sums over `tiles` tiles of all points; v, u: of the first chunks of both operands."""
    wide = lanes(like) * like.itemsize
    for f in range(p.weights_h * p.weights_w):
        i, j = f // p.weights_w, f % p.weights_w
        at = (i * p.points_w + j) * p.v_point
        sum_products(
            like,
            vectors,
            v + at,
            u + at,
            p.v_chunk,
            p.v_rows,
            u_rows,
            tiles,
            p.rows,
            1 if i < p.weights_h - 1 else p.points_h - i,
            1 if j < p.weights_w - 1 else p.points_w - j,
            p.points_w * p.v_point,
            p.v_point,
            inputs,
            m + f * vectors * wide,
            d.channel,
            again,
        )


def sums_to_w(like: Any, p: Any, d: Any, m: int, inputs: int, vectors: int, outputs: int, w: int, worker: int) -> None:
    """The sums of `inputs` channels and `outputs` output channels to their rows of w, from `w` on."""
    wide = lanes(like) * like.itemsize
    turned = worker + d.turned_at
    for c in range(0, inputs, d.together):
        channels = min(d.together, inputs - c)
        transform_sums(like, p, p.kernel, m + c * d.channel, d.channel, channels, vectors, turned, worker)
        put_turned(like, turned, vectors * wide, outputs, channels * p.taps, w + c * p.w_in, p.w_out, 0)


def _winograd_weight() -> Callable[..., int]:
    def winograd_weight(
        source: Any,
        grad: Any,
        out: Any,
        scratch: Any,
        plan: Any,
        gradient_plan: Any,
        cut: Any,
        flags: int,
        stage: int,
        share: int,
    ) -> int:
        """One share of stage `stage` (two for each block; -1: all) of backward_weight: source x, grad of y.

        Returns 1 where a weight is not finite, which others may have become by it; else 0.
        """
        p, q, d = plan[0], gradient_plan[0], cut[0]
        mode = flush_denormals() if not flags & STRICT else 0
        count = lanes(source)
        shared = (address(scratch) + 63) // 64 * 64
        worker = shared + d.shared_bytes + share * d.worker_bytes
        fill_with(source, worker, 0, 64 // source.itemsize)
        both, parts = p.chunks + q.chunks, p.groups * d.parts
        first = max(stage, 0)
        for now in range(first, first + 1 if stage >= 0 else 2 * p.blocks):
            block = now // 2
            last = segments_of(p, block) - 1
            if now % 2 == 0:
                items = (last + 1) * p.groups * both
                for item in range(items * share // d.shares, items * (share + 1) // d.shares):
                    chunk, group = item % both, item // both % p.groups
                    segment = segment_of(p, block, item // both // p.groups)
                    v = shared + group * d.group_bytes
                    if chunk < p.chunks:
                        inputs_to_v(source, p, segment, group, chunk, worker + d.columns_at, v + chunk * p.v_chunk)
                    else:
                        chunk -= p.chunks
                        u = v + d.u_at + chunk * q.v_chunk
                        inputs_to_v(grad, q, segment, group, chunk, worker + d.columns_at, u)
                continue
            segment = segment_of(p, block, last)
            tiles = segment[5] + (segment[2] - segment[1]) * (segment[4] - segment[3])
            items = parts * d.runs
            for item in range(items * share // d.shares, items * (share + 1) // d.shares):
                run, part, group = item % d.runs, item // d.runs % d.parts, item // d.runs // d.parts
                c, k = p.chunks * run // d.runs, q.chunks * part // d.parts
                vectors = q.chunks * (part + 1) // d.parts - k
                inputs = min(p.chunks * (run + 1) // d.runs * count, p.channels_in) - c * count
                outputs = min(vectors * count, q.channels_in - k * count)
                v = shared + group * d.group_bytes
                u = v + d.u_at + k * q.v_chunk
                m = worker + d.m_at
                if p.blocks > 1:
                    m = shared + d.kept_at + (group * d.parts + part) * d.part + c * count * d.channel
                multiply_all(source, p, d, v + c * p.v_chunk, u, q.v_rows, tiles, vectors, inputs, m, block)
                if block == p.blocks - 1:
                    w = address(out) + group * p.w_group + k * count * p.w_out + c * count * p.w_in
                    sums_to_w(source, p, d, m, inputs, vectors, outputs, w, worker)
        if not flags & STRICT:
            restore_mode(mode)
        return 0 if all_finite(source, worker, count) else 1

    return winograd_weight


def _signature(plan: Any, gradient: Any, element: Any) -> Any:
    def record(kind: Any) -> Any:
        return types.Array(numba.from_dtype(kind), 1, "C")

    inputs, words = types.Array(element, 4, "C", readonly=True), types.Array(types.int64, 1, "C")
    records = record(plan), record(gradient), record(WEIGHT_RECORD)
    numbers = (types.int64,) * 3
    return types.int64(inputs, inputs, types.Array(element, 4, "C"), words, *records, *numbers)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {
    "winograd_weight": _winograd_weight,
    "winograd_weight_strided": _winograd_weight,
}
SIGNATURES: dict[str, Callable[[Any], Any]] = {
    "winograd_weight": functools.partial(_signature, RECORD, GRADIENT_RECORD),
    "winograd_weight_strided": functools.partial(_signature, STRIDED_RECORD, STRIDED_GRADIENT_RECORD),
}
HELPERS = ("tile_begin", "segment_of", "segments_of", "inputs_to_v", "multiply_all", "sums_to_w")  # callees first
