"""FFT convolution: when it is worth it, how signals are cut into blocks, and what lies where in scratch.

The method, its transform and its cost are those of the C kernels, told in ``csrc/fft.h``; a test holds the two choices
together. This module is plain Python and imports nothing heavy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from ...geometry import Geometry
from .plan import worth_threads

LEAST, MOST = 3, 22  # log2 of the complex points of a block
TAPS = 16  # fewest for which it is considered
PRODUCTS = 100_000
BYTES = 512 << 20
MARGIN = 1.3
CHUNK = 64  # positions of a block that are brought in or out at a time
_L1, _L2 = 32 << 10, 512 << 10
_HOLD = 1 << 19  # bytes of spectra that are held while other ones pass by

_FIELDS = (
    # the problem: signals `from` are cut into overlapping blocks, `other` into pieces; letters as in Geometry
    *("swapped", "reversed", "conjugate", "rows", "signals", "groups", "channels", "outputs"),
    *("from_n", "other_n", "taps", "w_output", "w_channel", "w_group"),
    # the cut: complex points, outputs of a block, blocks of a signal and in all, where blocks and outputs begin
    *("log2_points", "points", "by_group", "step", "blocks", "total", "lead", "window"),
    # what goes together: see Cut
    *("batches", "group_batches", "output_blocks", "parts", "runs", "hold", "chunk", "shares"),
    # scratch: bytes from one spectrum to the next, from a group's filters to the next one's, and offsets
    *("spectrum", "filters", "filters_at", "workers_at", "worker_bytes", "held_at", "block_at", "stage_at", "lanes_at"),
    *("zero", "one", "four"),  # themselves: Numba would compile a callee anew for every literal that it is called with
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])


def unsupported(g: Geometry) -> str | None:
    """Why FFT cannot carry this out, or None."""
    if g.R != 1 or g.stride[0] != 1 or g.pad[0] or g.P != g.H:
        return "a kernel of several rows"
    if g.stride[1] != 1:
        return "not stride 1"
    if g.dilation[1] != 1 and g.S > 1:
        return "dilation"
    if g.S > 1 << MOST:
        return "a kernel of more than 2^22 taps"
    return None


@dataclass(frozen=True)
class Cut:
    """One way to cut an operation into blocks."""

    weight: bool  # backward_weight
    swapped: bool  # `from` is y
    rows: int  # of an image
    signals: int  # rows in all
    groups: int
    channels: int  # a group, of `from`
    outputs: int  # and of the other
    from_n: int
    other_n: int
    taps: int
    pad: int
    log2_points: int = 0
    by_group: bool = False  # the lanes are groups, not blocks
    step: int = 0
    blocks: int = 0
    lead: int = 0  # block b begins at b * step - lead
    window: int = 0  # where in a block its outputs begin
    parts: int = 1  # of the outputs, that threads take apart
    runs: int = 1  # of the batches
    lanes: int = 1

    @property
    def points(self) -> int:
        return 1 << self.log2_points

    @property
    def total(self) -> int:
        return self.signals * self.blocks

    @property
    def batches(self) -> int:
        return self.total if self.by_group else -(-self.total // self.lanes)

    @property
    def group_batches(self) -> int:
        return -(-self.groups // self.lanes) if self.by_group else self.groups

    @property
    def output_blocks(self) -> int:
        return self.outputs if self.by_group else -(-self.outputs // self.lanes)


def _problem(operation: str, g: Geometry) -> Cut:
    inputs, outputs = g.C // g.groups, g.K // g.groups
    weight = operation == "backward_weight"
    # y overlaps where it is longer, but not where some of it meets padding alone: its blocks would leave that out
    all_of_y = g.pad[1] < g.S and g.W + g.pad[1] >= g.Q
    swapped = (g.W < g.Q and all_of_y) if weight else operation == "backward_input"
    lengths = (g.Q, g.W) if swapped else (g.W, g.Q)
    channels = (outputs, inputs) if swapped else (inputs, outputs)
    return Cut(weight, swapped, g.H, g.N * g.H, g.groups, *channels, *lengths, g.S, g.pad[1])


def _cut(p: Cut) -> Cut:
    """Where blocks begin. Where a row and what its convolution is longer fit in one block, it is the only one."""
    whole, reach = 2 * p.points, p.taps - 1
    start = p.pad if p.swapped else reach - p.pad  # where in a single block the outputs begin
    if not p.weight and p.from_n + reach <= whole and start >= 0 and start + p.other_n <= whole:
        return replace(p, step=p.other_n, lead=0 if p.swapped else reach, window=start, blocks=1)
    step = min(whole - reach, p.other_n)
    lead = reach - p.pad if p.swapped else p.pad
    return replace(p, step=step, lead=lead, window=reach if p.swapped else 0, blocks=-(-p.other_n // step))


def _rounds(items: int, threads: int) -> int:
    return -(-items // threads)


def _cost(p: Cut, threads: int, vector_bytes: int) -> tuple[Cut, float]:
    """The cut with its parts and runs, and the cycles that it would take (measured for the C kernels on Zen 3)."""
    size = 2 * p.points * vector_bytes
    reach = 1.0 if size <= _L1 else 1.2 if size <= _L2 else 1.7
    transform = p.points * (p.log2_points * reach + 4)
    uneven = p.group_batches % threads and p.group_batches < 8 * threads
    if uneven and (p.weight or p.by_group):
        p = replace(p, runs=min(p.batches, threads))
    if uneven and not p.by_group and p.batches * (1 if p.weight else p.group_batches) < threads:
        p = replace(p, parts=min(p.outputs, threads))
    product = ((5 if p.by_group else 8) if p.weight else 2) * p.channels * p.points
    batch = p.channels * transform + p.outputs / p.parts * (transform + product)
    each_filter = p.output_blocks * p.channels * transform
    run = _rounds(p.batches, p.runs)
    if p.by_group and not p.weight:
        return p, _rounds(p.group_batches * p.runs, threads) * (each_filter + batch * run)
    spectra = p.group_batches * p.output_blocks * p.channels
    items = p.group_batches * p.parts * (p.runs if p.weight else p.batches)
    return p, _rounds(spectra, threads) * transform + _rounds(items, threads) * (run if p.weight else 1) * batch


@functools.lru_cache(maxsize=512)
def cheapest(operation: str, g: Geometry, threads: int, lanes: int, item: int) -> tuple[Cut, float]:
    """The cut of the fewest cycles, and these."""
    p = replace(_problem(operation, g), lanes=lanes)
    needed = p.other_n + p.taps - 1  # one block that holds all
    found: list[tuple[Cut, float]] = []
    for log2 in range(max(LEAST, lanes.bit_length() - 1), MOST + 2):
        if 2 << log2 < p.taps:
            continue
        for by_group in (False, True)[: 1 + (p.groups > 1)]:
            found.append(_cost(_cut(replace(p, log2_points=log2, by_group=by_group)), threads, lanes * item))
        if 2 << log2 >= min(needed, 32 * p.taps):
            break
    return min(found, key=lambda entry: entry[1])


def unwise(operation: str, g: Geometry, item: int, threads: int, vector_bytes: int) -> str | None:
    """Why FFT would be a poor choice, or None."""
    if g.S < TAPS:
        return "fewer than 16 taps"
    products = g.flops // 2
    if products < PRODUCTS:
        return "too little work to make up for the transforms"
    threads, lanes = worth_threads(g, threads), vector_bytes // item
    _, cycles = cheapest(operation, g, threads, lanes, item)
    if plan(operation, g, threads, lanes, item).bytes > BYTES:
        return "would take more than 512 MB of workspace"
    if cycles * MARGIN > products / (2 * lanes * threads):
        return "more work than direct summation, as taps, channels and positions go"
    return None


@dataclass(frozen=True)
class Plan:
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    points: int
    stages: tuple[int, ...]  # the shares of each stage: stages wait for each other
    words: int  # int64 of scratch
    bytes: int  # of scratch and of the table of roots


def _up(size: int) -> int:
    return -(-size // 64) * 64


@functools.lru_cache(maxsize=512)
def plan(operation: str, g: Geometry, threads: int, lanes: int, item: int) -> Plan:
    """The plan of the cheapest cut."""
    cut, _ = cheapest(operation, g, threads, lanes, item)
    points, row = cut.points, 2 * lanes * item
    spectrum = (points + 1) * row  # not a power of two: channels begin in different sets of the cache
    hold = 1
    if cut.weight and not cut.by_group:
        hold = max(1, min(_HOLD // (cut.channels * spectrum), _rounds(cut.batches, cut.runs)))
    chunk = cut.channels
    if cut.outputs < cut.channels:
        chunk = max(1, min(_HOLD // spectrum, cut.channels))
    single = cut.channels == cut.outputs == 1
    filters = cut.channels * cut.output_blocks * spectrum
    shared, own = 0, 0  # spectra of the filters, or sums of products: of all shares, of each
    if cut.weight:
        shared = cut.runs * cut.group_batches * filters
        own = 0 if cut.by_group else cut.channels * spectrum
    elif cut.by_group:
        own = filters
    else:
        rest = cut.outputs % lanes  # the last block of outputs holds no empty lanes
        filters -= cut.channels * (lanes - rest) * 2 * points * item if rest else 0
        shared = cut.group_batches * filters
    held = cut.channels * hold if cut.weight else 0 if single else chunk
    sums = cut.outputs if not cut.weight and chunk < cut.channels else 1
    held_at = _up(own)
    block_at = held_at + _up(held * spectrum)
    stage_at = block_at + _up(sums * spectrum + lanes * row)
    lanes_at = stage_at + _up(lanes * (CHUNK * item + 64) + 64)
    worker = lanes_at + _up(3 * lanes * 8)
    spectra = cut.group_batches * cut.output_blocks * cut.channels
    if cut.weight:
        stages = (cut.group_batches * cut.runs * cut.parts, spectra)
    elif cut.by_group:
        stages = (0, cut.group_batches * cut.runs)
    else:
        stages = (spectra, cut.group_batches * cut.batches * cut.parts)
    shares = tuple(min(items, threads) for items in stages)
    inputs = g.C // g.groups
    values = {
        "swapped": cut.swapped,
        "reversed": cut.weight and cut.swapped,
        "conjugate": operation != "backward_input",
        "w_output": g.S if cut.swapped else inputs * g.S,
        "w_channel": inputs * g.S if cut.swapped else g.S,
        "w_group": g.K // g.groups * inputs * g.S,
        "hold": hold,
        "chunk": chunk,
        "shares": max(shares),
        "spectrum": spectrum,
        "filters": filters,
        "filters_at": 0,
        "workers_at": _up(shared),
        "worker_bytes": worker,
        "held_at": held_at,
        "block_at": block_at,
        "stage_at": stage_at,
        "lanes_at": lanes_at,
        "zero": 0,
        "one": 1,
        "four": 4,
    }
    record = np.zeros(1, RECORD)
    for name in _FIELDS:
        record[name] = values[name] if name in values else getattr(cut, name)
    size = _up(shared) + max(shares) * worker + 64
    return Plan(record, points, shares, -(-size // 8), size + 2 * points * item)


@functools.lru_cache(maxsize=16)
def roots(points: int, item: int) -> np.ndarray:
    """The twiddles of the nodes 1 .. points - 1 of the heap, real and imaginary parts in turn; that of 0 is zero."""
    angles = np.empty(points)
    angles[1:2] = np.pi / 4
    first = 2
    while first < points:
        parents = angles[first // 2 : first] / 2
        angles[first : 2 * first : 2] = parents
        angles[first + 1 : 2 * first : 2] = parents + np.pi / 2
        first *= 2
    table = np.zeros(2 * points, np.float32 if item == 4 else np.float64)
    table[2::2], table[3::2] = np.cos(angles[1:]), np.sin(angles[1:])
    table.flags.writeable = False
    return table
