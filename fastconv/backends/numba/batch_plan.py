"""Small planes with an image in each lane: when that is worth it, how it is cut up, and what lies where in scratch.

The method and the rule are those of the C kernels, told in ``csrc/batch.h``; a test holds the two choices together. It
serves more here, where direct summation has more to set up: little used pixels too (1.5 to 3 times as fast in the
middle of 5,000 random small layers on Zen 3), unless the kernel is 1x1, and backward_input of any stride. There the
positions of x whose taps are the same ones form a phase, a map of stride 1 on the same packed y.
Plain Python; imports nothing heavy.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...geometry import Geometry
from .plan import along_rows, worth_threads

TURN_BYTES = 16  # least of an image: what the C kernels turn at once
PLANE = 1024  # most pixels of a plane of the result: larger ones fill vectors themselves
CHUNK = 144  # taps summed in registers before they are added to memory

_FIELDS = (
    *("backward", "N", "groups", "sources", "outputs", "H", "W", "R", "S", "taps", "rows", "cols"),
    # row i of phase f is the source's row stride * i + f * step % stride - pad; columns alike
    *("stride_h", "stride_w", "step_h", "step_w", "phases_h", "phases_w", "pad_h", "pad_w"),
    # phases of the result, and how far their rows and columns lie apart
    *("result_phases_h", "result_phases_w", "result_step_h", "result_step_w"),
    # the packed pixels, in vectors, and where the one lies that takes what no tap reaches
    *("packed_rows", "pitch", "plane", "channel", "packed"),
    # tiles of at most so many outputs x pixels of a row, parts of the outputs, blocks of images
    *("tile_outputs", "tile_cols", "parts", "blocks", "shares"),
    *("zeros_at", "planes_at", "places_at", "taps_at", "weights_at", "share_bytes", "biases", "strict"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])


# what the tables hold of a phase of the result, axis after axis
FIRST, COUNT, TAPS, LAST_TAP, PERIOD, LEAD = range(6)


def tile_shapes(registers: int) -> tuple[int, ...]:
    """The most vectors of pixels of a tile of 1, 2, ... channels."""
    return (16, 10, 8, 6, 5, 4, 3, 3) if registers >= 32 else (10, 6, 4, 3, 2, 2)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class _Axis:
    """One axis of the map: so many pixels of the source, results, taps."""

    source: int
    results: int
    taps: int
    stride: int
    step: int
    phases: int
    pad: int
    halo: int  # how far the taps reach, in packed pixels

    @property
    def packed(self) -> int:
        return self.results + self.halo


def _axis(x: int, y: int, taps: int, stride: int, pad: int, dilation: int, backward: bool) -> _Axis:
    far = (taps - 1) * dilation
    if backward:
        low, high = (pad - far) // stride, (x - 1 + pad) // stride
        return _Axis(y, x, taps, 1, dilation // math.gcd(stride, dilation), 1, -low, high - low + 1 - x)
    return _Axis(x, y, taps, stride, dilation, min(taps, stride // math.gcd(stride, dilation)), pad, far // stride)


def _result_phases(x: int, taps: int, stride: int, pad: int, dilation: int) -> list[list[int]]:
    """backward_input: the phases of one axis of x.

    Position `first + stride * i` of x is reached from y's i - lead + t * step through tap last - t * period, t < taps.
    """
    phases = []
    for first in range(min(stride, x)):
        own = [r for r in range(taps) if (first + pad - r * dilation) % stride == 0]
        last = own[-1] if own else 0
        period = own[1] - own[0] if len(own) > 1 else 1
        count = -(-(x - first) // stride)
        phases.append([first, count, len(own), last, period, -((first + pad - last * dilation) // stride)])
    return phases


class _Problem(NamedTuple):
    backward: bool
    h: _Axis
    w: _Axis
    sources: int  # channels a group
    outputs: int
    phases_h: list[list[int]]  # of the result
    phases_w: list[list[int]]

    @property
    def packed(self) -> int:
        """Vectors of an image's pixels, padded, phases apart."""
        return self.sources * self.h.phases * self.w.phases * self.h.packed * self.w.packed

    @property
    def taps(self) -> int:
        return self.sources * self.h.taps * self.w.taps


def _problem(operation: str, g: Geometry) -> _Problem:
    backward = operation == "backward_input"
    h = _axis(g.H, g.P, g.R, g.stride[0], g.pad[0], g.dilation[0], backward)
    w = _axis(g.W, g.Q, g.S, g.stride[1], g.pad[1], g.dilation[1], backward)
    sources, outputs = g.C // g.groups, g.K // g.groups
    if not backward:
        whole = ([[0, axis.results, 1, 0, 1, 0]] for axis in (h, w))
        return _Problem(backward, h, w, sources, outputs, *whole)
    phases_h = _result_phases(g.H, g.R, g.stride[0], g.pad[0], g.dilation[0])
    phases_w = _result_phases(g.W, g.S, g.stride[1], g.pad[1], g.dilation[1])
    return _Problem(backward, h, w, outputs, sources, phases_h, phases_w)


# ---- the rule


def unsupported(operation: str, g: Geometry, lanes: int, item: int) -> str | None:
    """Why images in lanes cannot carry out forward or backward_input, or None."""
    if lanes > g.N:
        return "fewer images than lanes"
    least = TURN_BYTES // item
    if g.C // g.groups * g.H * g.W < least or g.K // g.groups * g.P * g.Q < least:
        return "images of less than 16 bytes"
    rows, cols = g.P + g.H + g.R * g.dilation[0], g.Q + g.W + g.S * g.dilation[1]
    if (g.C + g.K) * g.R * g.S * rows * cols > 10**9:
        return "images whose pixels do not count in 32 bits"
    return None


def unwise(operation: str, g: Geometry, lanes: int, item: int, level2: int) -> str | None:
    """Why they would be a poor choice, or None."""
    p = _problem(operation, g)
    blocks = -(-g.N // lanes)
    uses = p.outputs * g.R * g.S / (g.stride[0] * g.stride[1])  # of a source pixel
    if operation == "forward" and p.outputs >= 4 and along_rows(g.C // g.groups * g.R * g.S, g.Q, lanes * item // 4):
        return "few products to a sum, and rows that fill vectors: direct reads and writes them in place"
    if 3 * blocks * lanes > 4 * g.N:
        return "so few images that a quarter of the lanes or more is empty"
    if p.h.results * p.w.results > PLANE:
        return "planes that fill vectors themselves"
    if g.R * g.S == 1 and (uses < 5 or uses * blocks < 16):
        return "pixels are used too little to turn them"
    if _up((p.packed + 1) * lanes * item, 64) > level2 // 2:
        return "the pixels of so many images do not stay in level 2"
    return None


# ---- the plan


def reaching(first: int, last: int, pad: int, step: int, taps: int, size: int) -> tuple[int, int]:
    """Of `taps` taps `step` apart, those (from, end) that reach one of `size` pixels from a position first .. last."""
    before, after = pad - last, size - 1 + pad - first
    start = min(-(-before // step), taps) if before > 0 else 0
    return start, start if after < 0 else max(start, min(after // step + 1, taps))


def _tile(p: _Problem, registers: int) -> tuple[int, int]:
    """Tiles of fewest cycles: multiply-adds, loads, start-up of each; columns of taps that a tile leaves out count."""
    best, choice = math.inf, (1, 1)
    _, cols, taps, _, _, lead = max(p.phases_w, key=lambda phase: phase[TAPS])
    others = p.taps // p.w.taps // len(p.phases_h)  # taps of a column of them
    for most, vectors in enumerate(tile_shapes(registers), 1):
        output_blocks, blocks = -(-p.outputs // most), -(-cols // vectors)
        outputs, cost = p.outputs / output_blocks, 0.0
        for n in range(blocks):
            low, high = cols * n // blocks, cols * (n + 1) // blocks
            start, end = (0, p.w.taps)
            if p.backward:
                start, end = reaching(low, high - 1, lead, p.w.step, taps, p.w.source)
            step = max(4.0, 0.5 * outputs * (high - low), 0.5 * (outputs + high - low)) + 0.5
            cost += output_blocks * (step * (others * (end - start)) + 40)
        if cost < best:
            best, choice = cost, (-(-p.outputs // output_blocks), -(-cols // blocks))
    return choice


class Plan(NamedTuple):
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    tables: np.ndarray  # of the result's phases
    shares: int
    words: int  # int64 of scratch


@functools.lru_cache(maxsize=512)
def plan(
    operation: str, g: Geometry, threads: int, vector_bytes: int, registers: int, item: int, biases: int, strict: bool
) -> Plan:
    """The plan of forward or backward_input. `biases`: 0 none, 1 one a channel, 2 one a position."""
    p = _problem(operation, g)
    threads = worth_threads(g, threads)
    blocks = -(-g.N // (vector_bytes // item))
    tile_outputs, tile_cols = _tile(p, registers)
    items, parts = blocks * g.groups, 1
    if threads > 1:
        parts = max(1, min(-(-4 * threads // items), -(-p.outputs // tile_outputs)))
    plane = p.h.packed * p.w.packed
    lanes = vector_bytes // item
    # of each share: packed pixels, planes of a block of outputs (squares are read whole), tables, turned weights
    zeros_at = (p.packed + 1) * vector_bytes
    planes_at = zeros_at + 64  # a number for each output of a tile
    places_at = planes_at + (tile_outputs * p.h.results * p.w.results + lanes) * vector_bytes
    taps_at = places_at + max(p.sources * p.h.source * p.w.source, lanes) * 8
    weights_at = taps_at + p.taps * 8
    share_bytes = _up(weights_at + (g.groups * p.outputs * p.taps * item if p.backward else 0), 64)
    values = {"backward": p.backward, "N": g.N, "groups": g.groups, "sources": p.sources, "outputs": p.outputs}
    values |= {"R": g.R, "S": g.S, "biases": biases, "strict": strict}
    for letter, axis in (("h", p.h), ("w", p.w)):
        for name in ("stride", "step", "phases", "pad"):
            values[f"{name}_{letter}"] = getattr(axis, name)
    values |= {"H": p.h.source, "W": p.w.source, "rows": p.h.results, "cols": p.w.results}
    values |= {"packed_rows": p.h.packed, "pitch": p.w.packed, "plane": plane}
    values |= {"channel": p.h.phases * p.w.phases * plane, "packed": p.packed}
    values |= {"tile_outputs": tile_outputs, "tile_cols": tile_cols, "parts": parts, "blocks": blocks}
    steps = g.stride if p.backward else (1, 1)
    values |= {"result_phases_h": len(p.phases_h), "result_phases_w": len(p.phases_w)}
    values |= {"result_step_h": steps[0], "result_step_w": steps[1]}
    shares = min(threads, items * parts)
    values |= {
        "shares": shares,
        "zeros_at": zeros_at,
        "planes_at": planes_at,
        "places_at": places_at,
        "taps_at": taps_at,
    }
    values |= {"weights_at": weights_at, "share_bytes": share_bytes, "taps": p.taps}
    record = np.zeros(1, RECORD)
    for name, value in values.items():
        record[name] = value
    tables = np.array([*p.phases_h, *p.phases_w], np.int64).ravel()
    return Plan(record, tables, shares, shares * share_bytes // 8 + 8)
