"""What this machine can do at most, measured by the small C kernels of csrc: peak FMA and the bandwidth of each cache.

A row's limit is the larger of two times: its FLOPs (of direct summation) at peak FMA, and its traffic (x, w and y moved
once) at the bandwidth of the smallest cache level that holds all three. Algorithms with fewer multiplications, Winograd
or FFT, may beat it. The model is the roofline of Williams, Waterman and Patterson (Communications of the ACM, 2009).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import cython
from .cases import Row

KINDS = ("read", "write", "copy")
_LINE = 128  # elements: what the kernels take at once
# Short samples and many: on a busy machine some still fall between two interruptions.
_SAMPLE = 0.001  # seconds on one thread; several take longer to start together
_SAMPLE_TOGETHER = 0.005
_SAMPLES = 60
_PATIENCE = 0.3  # seconds: large memory gets fewer of them


@dataclass(frozen=True)
class Level:
    """A level of memory: up to how many bytes it holds for one thread, and bytes a second of each kind for all of them.

    A copy counts the bytes read and those written.
    """

    name: str
    holds: float
    read: float
    write: float
    copy: float


@dataclass(frozen=True)
class Limits:
    """The limits of so many threads with one instruction set."""

    threads: int
    isa: str
    flops: float  # float32, a second
    levels: tuple[Level, ...]  # smallest first; the last one is main memory

    def level(self, size: float) -> Level:
        """The level that a working set of `size` bytes lives in."""
        return next(level for level in self.levels if size / self.threads <= level.holds)

    def seconds(self, row: Row, operation: str) -> tuple[float, float]:
        """The times of the row's FLOPs and of its traffic; the larger one is its limit."""
        read, written = row.bytes_moved(operation)
        level = self.level(read + written)
        return row.geometry.flops / self.flops, read / level.read + written / level.write


def unavailable() -> str | None:
    """Why the limits cannot be measured here, or None."""
    return cython.unavailable()


def _caches() -> list[tuple[str, int]]:
    """(name, bytes) of a CPU's data caches, smallest first; common sizes where the system does not say."""
    found = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return sorted((found or {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}).items(), key=lambda item: item[1])


def _together(threads: int, work: Callable[[int], Any]) -> float:
    """Seconds that ``work(i)`` takes on `threads` threads at once, from when all are ready to when all are done."""
    barrier = threading.Barrier(threads + 1)

    def body(i: int) -> None:
        barrier.wait()
        work(i)
        barrier.wait()

    workers = [threading.Thread(target=body, args=(i,)) for i in range(threads - 1)]
    for worker in workers:
        worker.start()
    # This thread is the last worker, so that one thread is timed without any other.
    if threads == 1:
        before = time.perf_counter()
        work(0)
        return time.perf_counter() - before
    last = threading.Thread(target=body, args=(threads - 1,))
    last.start()
    barrier.wait()
    before = time.perf_counter()
    barrier.wait()
    took = time.perf_counter() - before
    for worker in (*workers, last):
        worker.join()
    return took


def _rate(threads: int, work: Callable[[int, int], float]) -> float:
    """The best of several: what ``work(thread, repetitions)`` says it did, of all threads together, a second."""
    repetitions = 1
    while True:  # enough of them for a sample that clocks can measure
        before = time.perf_counter()
        done = work(0, repetitions)
        took = time.perf_counter() - before
        if took > _SAMPLE / 4:
            break
        repetitions *= 4
    sample = _SAMPLE if threads == 1 else _SAMPLE_TOGETHER
    repetitions = max(1, int(repetitions * sample / took))
    done = work(0, repetitions) * threads
    times: list[float] = []
    while len(times) < 3 or (len(times) < _SAMPLES and sum(times) < _PATIENCE):
        times.append(_together(threads, lambda i: work(i, repetitions)))
    return done / min(times)


def _memory(count: int) -> np.ndarray:
    """`count` float32 numbers, aligned to 64 bytes, each page touched."""
    raw = np.ones(count + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + count]


def measure(threads: int = 1, isa: str | None = None, *, bandwidth: bool = True) -> Limits:
    """Measure the limits of `threads` threads with instruction set `isa` (None: the one in use). Takes about a second.

    bandwidth: False leaves the levels out.

    Raises RuntimeError where the C extension is missing, or the instruction set is.
    """
    kernels: Any = cython.kernels
    reason = unavailable()
    if reason:
        raise RuntimeError(f"the limits are measured by C kernels: {reason}")
    name = isa or cython.isa()
    flops = _rate(threads, lambda _, rounds: kernels.limit_multiply_add(name, rounds * 1000))
    levels = []
    caches = _caches() if bandwidth else []
    for position, (level, size) in enumerate([*caches, ("memory", 0)] if bandwidth else []):
        # Half of the cache, since other things live there too; the last one is shared with whoever else is there.
        used = size // 2 if position < 2 else min(size // 2, 8 << 20)
        if level == "memory":
            used = min(2 * caches[-1][1], 256 << 20)
        count = used // 8 // _LINE * _LINE
        whole = [_memory(2 * count) for _ in range(threads)]
        rates = {}
        for kind in KINDS:
            parts = [(block[:count], block[count:]) if kind == "copy" else (block, block) for block in whole]

            def work(i: int, passes: int, kind: str = kind, parts: list[Any] = parts) -> float:
                to, source = parts[i]
                kernels.limit_memory(name, kind, to, source, passes)
                return float(passes * to.nbytes * (2 if kind == "copy" else 1))

            rates[kind] = _rate(threads, work)
        levels.append(Level(level, float(size) if size else float("inf"), **rates))
    return Limits(threads, name, flops, tuple(levels))


def every_isa(threads: int = 1) -> dict[str, float]:
    """Peak FMA, float32 FLOPs a second, of each instruction set that runs here, best first."""
    return {name: measure(threads, name, bandwidth=False).flops for name, usable in cython.isas() if usable}
