"""Times contenders on rows, in turn and within one process, so that a slow moment of the machine hits all of them.

A row, an operation and a number of threads make a *match*. Every contender of it prepares, computes once, and has its
result checked against float64 before anything is timed. Then come rounds: in each one every contender has a turn, a
different one first each time. A turn is a burst of at least four calls, after one that is not counted where that costs
little; so nobody is timed only while threads of the one before still spin on the other core. A burst is cut into
samples of half a millisecond, or of one call where a call takes longer. CPU time is read beside wall time: a sample
during which the machine was taken away (CPU time below what its threads should have had) is thrown out, and a turn
without any good one is repeated. Where a busy machine leaves none at all, one-threaded calls are given the CPU time
that they had, and the timing is marked as disturbed. Calls of seconds that are far behind the fastest are the one
exception to the bursts: a single one is timed, as no thread spins that long and nothing more is to be learnt.

A ratio is the median over the rounds of one contender's turn over the other's: the two are next to each other in time,
so that a spell in which a shared CPU is nearly twice as fast, or slow, hits both or is one round among twenty. Best
times of two contenders may come from different spells, and so may their medians.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from .cases import Arrays, Row, exact, relative_error, tolerance
from .contenders import Contender, Prepared, Unsupported

LEAST_CALLS = 4
MOST_ROUNDS = 20
# Seconds of a sample: long beside the 0.3 microseconds of reading two clocks, short beside a scheduler's time slice.
_SAMPLE = 5e-4
# Rounds in common from which a median of their ratios says more than the ratio of two medians.
_LEAST_PAIRS = 3
# A call beyond this has no other before it that is not counted.
_LONG_CALL = 0.05
# A call beyond this, and beyond so many times the fastest contender's, is timed once.
_HOPELESS_CALL, _HOPELESS_RATIO = 2.0, 20
# A burst beyond this is one round only, and is not repeated.
_LONG_BURST = 2.0
# Process CPU time over wall time below which the machine was busy with something else, as a fraction of what the
# contender's best sample had. The clock of CPU time has steps of its own, so very short samples tell nothing.
_TAKEN_AWAY = 0.95
_TELLING = 1e-4


class Clock(Protocol):
    """Wall and CPU seconds; tests have their own."""

    def wall(self) -> float: ...

    def cpu(self) -> float: ...


class RealClock:
    """The process's clocks: CPU time is that of all its threads."""

    wall = staticmethod(time.perf_counter)
    cpu = staticmethod(time.process_time)


class Sample(NamedTuple):
    """Seconds of one call: of a single one, or the mean of a burst."""

    wall: float
    cpu: float
    calls: int


def _middle(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.wall for sample in samples) if samples else math.nan


@dataclass
class Timing:
    """What the rounds gave for one contender in one match."""

    status: str = "ok"  # "ok", "unsupported", "wrong" or "failed"
    reason: str = ""
    error: float = math.nan  # largest deviation from float64, as a fraction of the largest value
    samples: list[Sample] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)  # each round's median, seconds; NaN where all was thrown out
    rounds: int = 0
    thrown_out: int = 0
    disturbed: bool = False  # no undisturbed sample could be had, so some others stayed in

    @property
    def best(self) -> float:
        """Seconds of the fastest sample; NaN where there is none."""
        return min((sample.wall for sample in self.samples), default=math.nan)

    @property
    def median(self) -> float:
        """Seconds of the median sample; NaN where there is none."""
        return _middle(self.samples)

    @property
    def cpu_over_wall(self) -> float:
        """CPU time over wall time of all samples together; NaN where there is none."""
        wall = sum(sample.wall * sample.calls for sample in self.samples)
        return sum(sample.cpu * sample.calls for sample in self.samples) / wall if wall else math.nan

    @property
    def calls(self) -> int:
        """Calls that were timed and kept."""
        return sum(sample.calls for sample in self.samples)


def ratio_of_turns(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast as `theirs` the turns `mine` are: the median over the rounds that both had.

    Without three such rounds, the ratio of the medians of each; NaN where one has none.
    """
    pairs = [other / one for one, other in zip(mine, theirs) if math.isfinite(one) and math.isfinite(other)]
    if len(pairs) >= _LEAST_PAIRS:
        return statistics.median(pairs)
    middles = [[turn for turn in turns if math.isfinite(turn)] for turns in (mine, theirs)]
    return statistics.median(middles[1]) / statistics.median(middles[0]) if all(middles) else math.nan


@dataclass
class Match:
    """One row, one operation, one number of threads, and everybody's timing by the contender's name."""

    row: Row
    operation: str
    threads: int
    timings: dict[str, Timing] = field(default_factory=dict)

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as `other` contender `name` is; NaN where one has no times."""
        one, two = self.timings.get(name), self.timings.get(other)
        return ratio_of_turns(one.turns, two.turns) if one is not None and two is not None else math.nan


# ---- a turn


def _burst(run: Callable[[], Any], calls: int, size: int, clock: Clock) -> list[Sample]:
    """`calls` calls in a row, at least; a sample is the mean of `size` of them."""
    wall, cpu = clock.wall, clock.cpu
    samples = []
    for _ in range(-(-calls // size)):
        repeat = itertools.repeat(None, size)
        cpu_before, before = cpu(), wall()
        for _ in repeat:
            run()
        after, cpu_after = wall(), cpu()
        samples.append(Sample((after - before) / size, (cpu_after - cpu_before) / size, size))
    return samples


def undisturbed(samples: Sequence[Sample], threads: int, best_ratio: float) -> list[Sample]:
    """Those of `samples` during which the machine was not taken away.

    On one thread CPU time must be wall time. On more it varies with the work, so `best_ratio`, the most that the
    contender had so far, is the measure; but whoever has one thread's worth was not disturbed on that one alone.
    """
    expected = 1.0 if threads == 1 else max(1.0, min(best_ratio, threads))
    kept = []
    for sample in samples:
        telling = sample.wall * sample.calls >= _TELLING
        if not telling or sample.cpu >= _TAKEN_AWAY * expected * sample.wall:
            kept.append(sample)
    return kept


@dataclass
class _Player:
    """A contender in a match: what it prepared, and how many calls make its burst."""

    contender: Contender
    prepared: Prepared
    timing: Timing
    calls: int = LEAST_CALLS
    size: int = 1  # calls a sample
    rounds: int = MOST_ROUNDS
    call_seconds: float = 0.0
    best_ratio: float = 0.0
    picky: bool = True  # throws disturbed samples out
    first: Sample | None = None  # the call that the plan was made from
    spare: list[Sample] = field(default_factory=list)  # disturbed ones of turns that had no others

    def plan(self, seconds: float, threads: int, clock: Clock) -> None:
        """Chooses calls a burst and rounds, so that all rounds together take about `seconds` or the least there is."""
        calls = 1
        while True:
            (sample,) = _burst(self.prepared.run, calls, calls, clock)
            took = max(min(sample.wall, sample.cpu) if threads == 1 and sample.cpu > 0 else sample.wall, 1e-9)
            if took * calls > _SAMPLE or calls > 1 / _SAMPLE:
                break
            calls *= 5  # short calls are not known from one
        self.first, self.call_seconds = sample, took
        self.calls = max(LEAST_CALLS, round(seconds / MOST_ROUNDS / took))
        self.size = max(1, round(_SAMPLE / took))
        burst = self.calls * took
        least = 1 if burst > _LONG_BURST else 3 if burst > _LONG_BURST / 4 else 5 if burst > _LONG_BURST / 20 else 10
        self.rounds = max(least, min(MOST_ROUNDS, round(seconds / burst)))

    def turn(self, threads: int, clock: Clock) -> None:
        """One round: a burst, repeated once or twice where the machine was taken away during all of it."""
        self.contender.activate(threads)
        run = self.prepared.run
        if self.call_seconds < _LONG_CALL:
            run()
        burst = self.calls * self.call_seconds
        attempts = 1 if burst > _LONG_BURST else 2 if burst > _LONG_BURST / 4 else 3
        for attempt in range(attempts):
            samples = _burst(run, self.calls, self.size, clock)
            self.best_ratio = max(self.best_ratio, *(s.cpu / s.wall if s.wall else 0.0 for s in samples))
            kept = undisturbed(samples, threads, self.best_ratio) if self.picky else samples
            self.timing.thrown_out += len(samples) - len(kept)
            if kept:
                break
            if attempt == attempts - 1:
                self.spare += samples
        self.timing.samples += kept
        self.timing.turns.append(_middle(kept))
        self.timing.rounds += 1

    def give_up(self, threads: int) -> None:
        """The call that the plan was made from has to do."""
        assert self.first is not None
        self.rounds, self.timing.rounds = 0, 1
        self.timing.samples = undisturbed([self.first], threads, 1.0) if self.picky else [self.first]
        self.timing.turns = [_middle(self.timing.samples)]
        if not self.timing.samples:
            self.spare, self.timing.thrown_out = [self.first], 1

    def finish(self, threads: int) -> None:
        """Takes disturbed samples where there are no others."""
        if not self.timing.samples:
            self.timing.disturbed = True
            self.timing.thrown_out -= len(self.spare)
            self.timing.samples = [s._replace(wall=s.cpu) if threads == 1 else s for s in self.spare]
            self.timing.turns = [_middle(self.timing.samples)]


# ---- a match


def _prepare(contender: Contender, match: Match, data: Arrays, answer: np.ndarray) -> _Player | None:
    """The contender ready to be timed after its result was checked; None, with the reason noted, where it is not."""
    timing = match.timings[contender.name] = Timing()
    try:
        contender.activate(match.threads)
        prepared = contender.prepare(match.row, match.operation, data, match.threads)
        result = prepared.result(prepared.run())
    except Unsupported as reason:
        timing.status, timing.reason = "unsupported", str(reason)
        return None
    except Exception as error:  # whatever somebody else's library raises: the others still compete
        timing.status, timing.reason = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return None
    timing.error = relative_error(result, answer)
    allowed = tolerance(match.row, match.operation)
    if not timing.error <= allowed:
        timing.status = "wrong"
        timing.reason = f"its result is off by {timing.error:.1e} of the largest value, {allowed:.1e} is allowed"
        return None
    return _Player(contender, prepared, timing)


def play(
    row: Row,
    operation: str,
    contenders: Sequence[Contender],
    *,
    threads: int = 1,
    seconds: float = 0.5,
    data: Arrays | None = None,
    picky: bool = True,
    clock: Clock | None = None,
) -> Match:
    """Check and time `contenders` on one operation of one row.

    threads: the number that each may use. seconds: about what each is timed for; a burst of four calls may take longer.
    data: in place of ``row.arrays()``. picky: False keeps the samples during which the machine was taken away.

    A contender that cannot, fails or gives a wrong result has no times, and its `status` and `reason` say so.
    """
    clock = clock or RealClock()
    data = data or row.arrays()
    match = Match(row, operation, threads)
    answer = exact(row, operation, data)
    ready = [player for contender in contenders if (player := _prepare(contender, match, data, answer))]
    del answer
    collecting = gc.isenabled()
    gc.disable()
    try:
        for player in ready:
            player.picky = picky
            player.contender.activate(threads)
            player.plan(seconds, threads, clock)
        fastest = min((player.call_seconds for player in ready), default=0.0)
        for player in ready:
            if player.call_seconds > max(_HOPELESS_CALL, _HOPELESS_RATIO * fastest):
                player.give_up(threads)
        for number in range(MOST_ROUNDS):
            turns = [player for player in ready if number < player.rounds]
            for i in range(len(turns)):
                turns[(number + i) % len(turns)].turn(threads, clock)
        for player in ready:
            player.finish(threads)
    finally:
        if collecting:
            gc.enable()
    return match


def tournament(
    rows: Sequence[Row],
    operations: Sequence[str],
    contenders: Sequence[Contender],
    *,
    threads: Sequence[int] = (1,),
    seconds: float = 0.5,
) -> Iterator[Match]:
    """Every match of the given rows, operations and numbers of threads, one after the other."""
    for count in threads:
        with limited(count):
            for row in rows:
                data = row.arrays()
                for operation in operations:
                    yield play(row, operation, contenders, threads=count, seconds=seconds, data=data)


def limited(threads: int) -> Any:
    """A context in which BLAS and OpenMP libraries use so many threads, where threadpoolctl is there to tell them."""
    import contextlib

    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    return threadpool_limits(threads)
