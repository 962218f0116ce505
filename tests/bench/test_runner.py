"""The runner's statistics, by a clock that the tests turn themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastconv.bench import runner
from fastconv.bench.cases import rows
from fastconv.bench.contenders import Contender, Terms, Unsupported
from fastconv.bench.runner import MOST_ROUNDS, Sample, Timing, play, undisturbed

ROW = rows()["exercise_1d"]


def test_steady_contenders_get_their_times(clock, contender, steady):
    fast, slow = contender("fast", steady(1e-4)), contender("slow", steady(3e-4))
    match = play(ROW, "forward", [fast, slow], seconds=0.1, clock=clock)
    assert match.timings["fast"].best == pytest.approx(1e-4)
    assert match.timings["fast"].median == pytest.approx(1e-4)
    assert match.timings["slow"].cpu_over_wall == pytest.approx(1)
    assert match.ratio("fast", "slow") == pytest.approx(3)
    for timing in match.timings.values():
        assert timing.status == "ok"
        assert timing.rounds == MOST_ROUNDS
        assert not timing.disturbed
        assert timing.thrown_out == 0
        assert timing.calls * timing.best == pytest.approx(0.1, rel=0.2)


def test_contenders_take_turns_in_bursts_and_a_different_one_starts_each_round(clock, contender, steady):
    log: list[str] = []
    players = [contender(name, steady(6e-3), log=log) for name in "abc"]
    match = play(ROW, "forward", players, seconds=0.1, clock=clock)
    bursts = [[log[0], 0]]
    for name in log:
        if name != bursts[-1][0]:
            bursts.append([name, 0])
        bursts[-1][1] += 1
    turns = [burst for burst in bursts if burst[1] >= 4]
    # Prepared and planned first, one after the other; then a b c, b c a, c a b, ...: neighbours melt into one burst.
    assert "".join(name for name, _ in turns).startswith("abcbcacab"[:2])
    assert all(burst[1] == 1 for burst in bursts[:6])
    rounds = match.timings["a"].rounds
    assert len(log) == 3 * (2 + rounds * 5)  # checked, planned; a call that is not counted and four that are
    starts = log[6:]
    assert [starts[i * 15] for i in range(3)] == ["a", "b", "c"]


def test_every_burst_has_four_calls_however_long_they_take(clock, contender, steady):
    match = play(ROW, "forward", [contender("slow", steady(3.0))], seconds=0.1, clock=clock)
    assert match.timings["slow"].calls == 4
    assert match.timings["slow"].rounds == 1


def test_hopeless_calls_of_seconds_are_timed_one_by_one(clock, contender, steady):
    log: list[str] = []
    players = [contender("fast", steady(1e-2)), contender("hopeless", steady(3.0), log=log)]
    match = play(ROW, "forward", players, seconds=0.1, clock=clock)
    assert match.timings["hopeless"].best == pytest.approx(3.0)
    assert match.timings["hopeless"].calls == 8
    assert len(log) == 2 + 8  # checked, planned, timed
    assert match.ratio("fast", "hopeless") == pytest.approx(300)
    # Longer ones once, and the call that the plan was made by is the one.
    log.clear()
    match = play(ROW, "forward", [players[0], contender("lost", steady(30.0), log=log)], seconds=0.1, clock=clock)
    assert match.timings["lost"].calls == 1
    assert len(log) == 2  # checked, timed
    assert match.ratio("fast", "lost") == pytest.approx(3000)
    # The machine was away for half of it: its CPU time counts, and it says so.
    away = contender("away", lambda call: (6.0, 3.0))
    timing = play(ROW, "forward", [players[0], away], seconds=0.1, clock=clock).timings["away"]
    assert (timing.best, timing.disturbed, timing.thrown_out) == (pytest.approx(3.0), True, 0)


def test_samples_without_the_cpu_are_thrown_out(clock, contender):
    """Every third call takes ten times as long, because something else had the CPU."""
    victim = contender("victim", lambda call: (1e-2, 1e-3) if call % 3 == 0 else (1e-3, 1e-3))
    timing = play(ROW, "forward", [victim], seconds=0.1, clock=clock).timings["victim"]
    assert timing.best == timing.median == pytest.approx(1e-3)
    assert timing.thrown_out > 0
    assert not timing.disturbed
    assert timing.cpu_over_wall == pytest.approx(1)


def test_a_turn_that_was_all_disturbed_is_repeated(clock, contender):
    """The machine is away for a while in the middle, for longer than a burst."""
    away = range(60, 75)
    victim = contender("victim", lambda call: (5e-2, 1e-2) if call in away else (1e-2, 1e-2))
    timing = play(ROW, "forward", [victim], seconds=1.0, clock=clock).timings["victim"]
    assert timing.rounds == MOST_ROUNDS
    assert timing.median == pytest.approx(1e-2)
    assert timing.thrown_out > 10
    assert not timing.disturbed


def test_where_the_machine_is_never_free_cpu_time_stands_in_and_the_report_says_so(clock, contender):
    victim = contender("victim", lambda call: (3e-3, 1e-3))
    timing = play(ROW, "forward", [victim], seconds=0.1, clock=clock).timings["victim"]
    assert timing.disturbed
    assert timing.best == pytest.approx(1e-3)
    assert timing.thrown_out > 0


def test_two_threads_are_measured_against_their_own_best():
    good, bad = Sample(1e-2, 1.9e-2, 1), Sample(2e-2, 2.1e-2, 1)
    assert undisturbed([good, bad], 2, 1.9) == [good]
    # Work that keeps one thread busy is not disturbed by having one.
    alone = Sample(1e-2, 1e-2, 1)
    assert undisturbed([alone], 2, 1.0) == [alone]
    # Too short to tell.
    short = Sample(1e-6, 0.0, 1)
    assert undisturbed([short], 1, 1.0) == [short]


def test_disturbed_samples_stay_where_asked_for(clock, contender):
    victim = contender("victim", lambda call: (3e-3, 1e-3))
    timing = play(ROW, "forward", [victim], seconds=0.1, clock=clock, picky=False).timings["victim"]
    assert timing.median == pytest.approx(3e-3)
    assert timing.thrown_out == 0


def test_wrong_failing_and_unsupported_contenders_have_no_times(clock, contender, steady):
    def refuse(*_):
        raise Unsupported("only on Sundays")

    def crash(*_):
        raise OSError("out of\nluck")

    terms = Terms("", "", "")
    players = [
        contender("right", steady(1e-3)),
        contender("wrong", steady(1e-3), off=1e-3),
        contender("nan", steady(1e-3), off=math.nan),
        Contender("refuses", "x", terms, refuse),
        Contender("crashes", "x", terms, crash),
    ]
    timings = play(ROW, "backward_weight", players, seconds=0.05, clock=clock).timings
    assert {name: timing.status for name, timing in timings.items()} == {
        "right": "ok",
        "wrong": "wrong",
        "nan": "wrong",
        "refuses": "unsupported",
        "crashes": "failed",
    }
    assert timings["wrong"].error == pytest.approx(1e-3)
    assert "1.0e-03" in timings["wrong"].reason
    assert timings["refuses"].reason == "only on Sundays"
    assert timings["crashes"].reason == "OSError: out of luck"
    assert all(math.isnan(timing.best) for name, timing in timings.items() if name != "right")


def test_timing_without_samples_is_nan():
    timing = Timing()
    assert np.isnan([timing.best, timing.median, timing.cpu_over_wall]).all()


def test_tournament_plays_everything_in_several_sittings(contender, steady, clock, monkeypatch):
    monkeypatch.setattr(runner, "RealClock", lambda: clock)
    player = contender("a", steady(1e-3))
    found = list(
        runner.tournament(
            [ROW, rows()["tiny_2d"]], ["forward", "backward_input"], [player], threads=(1, 2), seconds=0.01, passes=3
        )
    )
    assert [(m.row.name, m.operation, m.threads) for m in found] == [
        (row, operation, threads)
        for threads in (1, 2)
        for _ in range(3)
        for row in ("exercise_1d", "tiny_2d")
        for operation in ("forward", "backward_input")
    ]
    assert found[0] is found[4] is found[8]
    assert found[0].timings["a"].calls == MOST_ROUNDS * runner.LEAST_CALLS


def test_sittings_share_the_rounds_and_have_data_of_their_own(clock, contender, steady, monkeypatch):
    """Rounds that do not divide go to the first sittings."""
    monkeypatch.setattr(runner, "RealClock", lambda: clock)
    seen, shares = [], []
    often, seldom = contender("often", steady(0.02)), contender("seldom", steady(0.3))

    def prepare(row, operation, data, threads):
        seen.append(data)
        return seldom.prepare(row, operation, data, threads)

    watched = Contender("seldom", "x", seldom.terms, prepare, missing=lambda: None)
    for match in runner.tournament([ROW], ["forward"], [often, watched], passes=3):
        shares.append(match.timings["seldom"].rounds)
    assert [match.timings[name].rounds for name in ("often", "seldom")] == [16, 4]
    assert shares == [2, 3, 4]
    assert match.ratio("often", "seldom") == pytest.approx(15)
    assert len(seen) == 3
    for data in seen[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(data, seen[0]))
    assert len({data.x.ctypes.data % 4096 for data in seen}) == 3


def test_real_clock_on_a_real_row():
    from fastconv.bench.contenders import OURS

    reference = OURS[-1]
    timing = play(ROW, "forward", [reference], seconds=0.02).timings["reference"]
    assert timing.status == "ok"
    assert 1e-7 < timing.best <= timing.median < 0.1
    assert timing.error < 1e-6


def test_a_ratio_is_of_the_best_times(clock, contender):
    """The machine is twice as fast for some rounds, in which either contender has a turn."""

    def player(name, seconds):
        return contender(name, lambda call: (seconds / (2 if call in range(20, 40) else 1),) * 2)

    match = play(ROW, "forward", [player("a", 1.0), player("b", 3.0)], seconds=200, clock=clock)
    assert match.ratio("a", "b") == pytest.approx(3)
    assert math.isnan(match.ratio("a", "nobody"))
