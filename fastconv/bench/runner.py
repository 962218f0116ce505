"""Times contenders on rows, in turn and within one process, so that a slow moment of the machine hits all of them.

A row, an operation and a number of threads make a *match*. Every contender of it prepares, computes once, and has its
result checked against float64 before anything is timed. Then come rounds: in each one every contender has a turn, a
different one first each time. A turn is a burst of at least four calls, after one that is not counted where that costs
little; so nobody is timed only while threads of the one before still spin on the other core. A burst is cut into
samples of half a millisecond, or of one call where a call takes longer. CPU time is read beside wall time: a sample
during which the machine was taken away (CPU time below what its threads should have had) is thrown out, and a turn
without any good one is repeated. Where a busy machine leaves none at all, one-threaded calls are given the CPU time
that they had, and the timing is marked as disturbed. Long calls that are far behind the fastest are the one
exception to the bursts: they are timed one by one, as no thread spins that long and nothing more is to be learnt.

A tournament walks through all its matches several times and plays a share of each one's rounds every time, on data at
other addresses. Where arrays happen to lie, and what else a shared machine is busy with for some minutes, changes a
ratio by more than the rounds of a single sitting show.

A ratio is that of best times. A shared CPU has spells in which it is nearly twice as fast, or slow; over a tournament's
walks either contender meets both, and the best of each is what its code can do. Two runs of the suite agreed on such
ratios within 2% in the median row and 15% in 97% of them; medians over the rounds, or means of turns next to each other
in time, gave 15% in 83% and 94%.
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
MOST_ROUNDS = 24
PASSES = 8  # walks through a tournament
# Seconds of a sample: long beside the 0.3 microseconds of reading two clocks, short beside a scheduler's time slice.
_SAMPLE = 5e-4
# A call beyond this has no other before it that is not counted.
_LONG_CALL = 0.05
# A call beyond this, and beyond so many times the fastest contender's, is timed by itself, so often; beyond the last,
# once.
_HOPELESS_CALL, _HOPELESS_RATIO, _HOPELESS_ROUNDS, _ONCE = 0.2, 20, 8, 4.0
# Rounds that there are at least, by the seconds of a burst.
_LEAST_ROUNDS = ((8.0, 1), (1.0, 4), (0.2, 8), (0.05, 16), (0.0, 24))
# Bursts that a disturbed turn is given, and the seconds of one beyond which it is not repeated.
_ATTEMPTS, _LONG_BURST = 3, 0.5
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


def _seconds(sample: Sample, threads: int) -> float:
    """Of a call, as far as one sample tells: a single thread needs its CPU time."""
    return max(min(sample.wall, sample.cpu) if threads == 1 and sample.cpu > 0 else sample.wall, 1e-9)


@dataclass
class Timing:
    """What the rounds gave for one contender in one match."""

    status: str = "ok"  # "ok", "unsupported", "wrong" or "failed"
    reason: str = ""
    error: float = math.nan  # largest deviation from float64, as a fraction of the largest value
    clean: list[Sample] = field(default_factory=list)  # samples that were not disturbed
    spare: list[Sample] = field(default_factory=list)  # disturbed ones, of the turns that had no others
    rounds: int = 0  # turns that it had
    discarded: int = 0  # samples that were disturbed

    @property
    def disturbed(self) -> bool:
        """No undisturbed sample could be had, so the others have to do."""
        return not self.clean and bool(self.spare)

    @property
    def samples(self) -> list[Sample]:
        """What the times are taken from."""
        return self.spare if self.disturbed else self.clean

    @property
    def thrown_out(self) -> int:
        """Samples that the times do not count."""
        return self.discarded - (len(self.spare) if self.disturbed else 0)

    @property
    def best(self) -> float:
        """Seconds of the fastest sample; NaN where there is none."""
        return min((sample.wall for sample in self.samples), default=math.nan)

    @property
    def median(self) -> float:
        """Seconds of the median sample; NaN where there is none."""
        samples = self.samples
        return statistics.median(sample.wall for sample in samples) if samples else math.nan

    @property
    def cpu_over_wall(self) -> float:
        """CPU time over wall time of all samples together; NaN where there is none."""
        wall = sum(sample.wall * sample.calls for sample in self.samples)
        return sum(sample.cpu * sample.calls for sample in self.samples) / wall if wall else math.nan

    @property
    def calls(self) -> int:
        """Calls that were timed and kept."""
        return sum(sample.calls for sample in self.samples)


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
        return two.best / one.best if one is not None and two is not None else math.nan


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


@dataclass(eq=False)
class _Player:
    """A contender in a match: its plan, and what it prepared for this sitting."""

    contender: Contender
    timing: Timing
    prepared: Prepared | None = None
    calls: int = 0  # of a burst; 0: not planned
    size: int = 1  # calls a sample
    rounds: int = MOST_ROUNDS  # in all sittings
    warm: bool = True  # a turn starts with a call that is not counted
    best_ratio: float = 0.0
    picky: bool = True  # throws disturbed samples out

    def prepare(self, match: Match, data: Arrays, answer: np.ndarray | None) -> None:
        """Makes it ready to be timed; its result is compared with `answer`. Where it is not, the timing says why."""
        timing = self.timing
        try:
            self.contender.activate(match.threads)
            prepared = self.contender.prepare(match.row, match.operation, data, match.threads)
            if answer is None:
                self.prepared = prepared
                return
            result = prepared.result(prepared.run())
        except Unsupported as reason:
            timing.status, timing.reason = "unsupported", str(reason)
            return
        except Exception as error:  # whatever somebody else's library raises: the others still compete
            timing.status, timing.reason = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return
        timing.error = relative_error(result, answer)
        allowed = tolerance(match.row, match.operation)
        if timing.error <= allowed:
            self.prepared = prepared
            return
        timing.status = "wrong"
        timing.reason = f"its result is off by {timing.error:.1e} of the largest value, {allowed:.1e} is allowed"

    def plan(self, seconds: float, threads: int, clock: Clock) -> Sample:
        """Chooses calls a burst and rounds, so that all rounds together take about `seconds` or the least there is.

        Returns what it chose by.
        """
        assert self.prepared is not None
        calls = 1
        while True:
            (sample,) = _burst(self.prepared.run, calls, calls, clock)
            took = _seconds(sample, threads)
            if took * calls > _SAMPLE or calls > 1 / _SAMPLE:
                break
            calls *= 5  # short calls are not known from one
        self.calls = max(LEAST_CALLS, round(seconds / MOST_ROUNDS / took))
        self.size = max(1, round(_SAMPLE / took))
        self.warm = took < _LONG_CALL
        burst = self.calls * took
        least = next(rounds for beyond, rounds in _LEAST_ROUNDS if burst > beyond)
        self.rounds = max(least, min(MOST_ROUNDS, round(seconds / burst)))
        return sample

    def shorten(self, sample: Sample, threads: int) -> None:
        """One call a turn, and where that takes long `sample` for all: it is too far behind for more to be learnt."""
        self.calls, self.warm, self.rounds = 1, False, _HOPELESS_ROUNDS
        if _seconds(sample, threads) > _ONCE:
            self.rounds = 0
            self._count([sample], self._keep([sample], threads), threads)

    def turn(self, threads: int, clock: Clock) -> None:
        """One round: a burst, repeated once or twice where the machine was taken away during all of it."""
        assert self.prepared is not None
        self.contender.activate(threads)
        run = self.prepared.run
        if self.warm:
            run()
        for _ in range(_ATTEMPTS):
            samples = _burst(run, self.calls, self.size, clock)
            kept = self._keep(samples, threads)
            if kept or sum(sample.wall * sample.calls for sample in samples) > _LONG_BURST:
                break
        self._count(samples, kept, threads)

    def _keep(self, samples: list[Sample], threads: int) -> list[Sample]:
        """Those during which the machine was not taken away; the others are counted as discarded."""
        self.best_ratio = max(self.best_ratio, *(s.cpu / s.wall if s.wall else 0.0 for s in samples))
        kept = undisturbed(samples, threads, self.best_ratio) if self.picky else samples
        self.timing.discarded += len(samples) - len(kept)
        return kept

    def _count(self, samples: list[Sample], kept: list[Sample], threads: int) -> None:
        """Makes a round of `kept`; without any, `samples` are there to be fallen back on."""
        if not kept:
            self.timing.spare += [s._replace(wall=s.cpu) if threads == 1 else s for s in samples]
        self.timing.clean += kept
        self.timing.rounds += 1


# ---- a match


class _Sittings:
    """A match that is played in several sittings, each on data of its own."""

    def __init__(
        self, match: Match, contenders: Sequence[Contender], seconds: float, picky: bool, clock: Clock, sittings: int
    ) -> None:
        self.match, self.seconds, self.clock, self.sittings = match, seconds, clock, sittings
        self.players = [_Player(contender, Timing(), picky=picky) for contender in contenders]
        match.timings.update((player.contender.name, player.timing) for player in self.players)
        self.done = 0

    def play(self, data: Arrays) -> Match:
        """The next sitting."""
        match, threads, clock = self.match, self.match.threads, self.clock
        answer = exact(match.row, match.operation, data) if self.done == 0 else None
        playing = [player for player in self.players if player.timing.status == "ok" and self._share(player)]
        for player in playing:
            player.prepare(match, data, answer)
        del answer
        playing = [player for player in playing if player.prepared]
        collecting = gc.isenabled()
        gc.disable()
        try:
            if self.done == 0:
                self._plan(playing)
            left = {player: self._share(player) for player in playing}
            for number in range(max(left.values(), default=0)):
                turns = [player for player in playing if number < left[player]]
                for i in range(len(turns)):
                    turns[(number + i) % len(turns)].turn(threads, clock)
        finally:
            if collecting:
                gc.enable()
            for player in playing:
                player.prepared = None  # memory: others play before the next sitting
        self.done += 1
        return match

    def _plan(self, playing: Sequence[_Player]) -> None:
        threads = self.match.threads
        samples = []
        for player in playing:
            player.contender.activate(threads)
            samples.append(player.plan(self.seconds, threads, self.clock))
        calls = [_seconds(sample, threads) for sample in samples]
        for player, sample, call in zip(playing, samples, calls):
            if call > max(_HOPELESS_CALL, _HOPELESS_RATIO * min(calls)):
                player.shorten(sample, threads)

    def _share(self, player: _Player) -> int:
        """How many of a player's rounds belong to this sitting: the first ones have what does not divide."""
        rounds, sittings = player.rounds, self.sittings
        return rounds // sittings + (self.done < rounds % sittings)


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
    match = Match(row, operation, threads)
    return _Sittings(match, contenders, seconds, picky, clock or RealClock(), 1).play(data or row.arrays())


def tournament(
    rows: Sequence[Row],
    operations: Sequence[str],
    contenders: Sequence[Contender],
    *,
    threads: Sequence[int] = (1,),
    seconds: float = 0.5,
    passes: int = PASSES,
) -> Iterator[Match]:
    """Every match of the given rows, operations and numbers of threads, one after the other, and that `passes` times.

    A match is handed out after each of its sittings, the same object again with more rounds in it.
    """
    for count in threads:
        matches = [(row, [_Sittings(Match(row, operation, count), contenders, seconds, True, RealClock(), passes)
                          for operation in operations]) for row in rows]  # fmt: skip
        with limited(count):
            for number in range(passes):
                for row, sittings in matches:
                    data = row.arrays(shifted=number)
                    for sitting in sittings:
                        yield sitting.play(data)


def limited(threads: int) -> Any:
    """A context in which BLAS and OpenMP libraries use so many threads, where threadpoolctl is there to tell them."""
    import contextlib

    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    return threadpool_limits(threads)
