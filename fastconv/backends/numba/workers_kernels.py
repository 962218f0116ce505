"""How the threads of :mod:`.workers` hand shares to each other: native code, without the GIL.

A worker and its caller meet at two doors of the worker's box: one that the caller opens to let a share in, one that the
worker opens when its result is out. Whoever waits at a door spins for as long as the work before took, 20 to 200
microseconds: long enough to catch a call's next stage or the next layer of a network, where to be woken costs a virtual
machine some 30. Then it sleeps. What it finds behind the door it takes by closing it, which only one thread can do: a
caller that has done with its own share takes back those that their workers have not begun.
"""

from __future__ import annotations

from numba import types

from .atomics import acquire, call, exchange, load, nanoseconds, pause, release, replace, store
from .workers import (
    ARGUMENTS,
    BOX_BYTES,
    BOXES,
    CPUS,
    FINISHED,
    LOCK,
    OWNED,
    POSTED,
    RESULT,
    SHARE,
    SPINS,
    TASK,
    WORKERS,
)

_CLOSED, _OPEN, _AWAITED = 0, 1, 2  # a door; awaited: closed, and somebody sleeps there
_LEAST_SPIN, _MOST_SPIN, _PAUSES = 20_000, 200_000, 8  # nanoseconds; pauses between looks at the clock


def open_door(door: int) -> None:
    if exchange(door, _OPEN) == _AWAITED:
        release(load(door + LOCK))


def await_open(door: int, until: int) -> None:
    """Waits at a door, spinning up to that time."""
    turns = 0
    while load(door) != _OPEN:
        pause()
        turns += 1
        if turns % _PAUSES == 0 and nanoseconds() > until and replace(door, _CLOSED, _AWAITED):
            acquire(load(door + LOCK))


def spin_end(spins: int, start: int) -> int:
    """The time at which to stop spinning after work that began at `start`."""
    now = nanoseconds()
    return now + min(max(now - start, _LEAST_SPIN), _MOST_SPIN) if spins else 0


def serve(box: int) -> int:
    """The life of a worker."""
    until = 0
    while True:
        await_open(box + POSTED, until)
        if replace(box + POSTED, _OPEN, _CLOSED):
            start = nanoseconds()
            store(box + RESULT, call(load(box + TASK), load(box + ARGUMENTS), load(box + SHARE)))
            spins = load(box + SPINS)
            open_door(box + FINISHED)
            until = spin_end(spins, start)


def share_out(pool: int, task: int, arguments: int, shares: int) -> int:
    """task(arguments, share) for every share, on as many threads as are to be had; the results, or-ed together."""
    workers = 0
    owner = load(pool + WORKERS) > 0 and exchange(pool + OWNED, 1) == 0
    if owner:
        workers = min(shares - 1, load(pool + WORKERS))
    spins = 1 if shares <= load(pool + CPUS) else 0
    for number in range(workers):
        box = pool + BOXES + number * BOX_BYTES
        store(box + TASK, task)
        store(box + ARGUMENTS, arguments)
        store(box + SHARE, number + 1)
        store(box + SPINS, spins)
        store(box + FINISHED, _CLOSED)
        open_door(box + POSTED)
    start = nanoseconds()
    result = call(task, arguments, 0)
    for share in range(workers + 1, shares):
        result |= call(task, arguments, share)
    until = spin_end(spins, start)
    for number in range(workers):
        box = pool + BOXES + number * BOX_BYTES
        if replace(box + POSTED, _OPEN, _CLOSED):
            result |= call(task, arguments, number + 1)
        else:
            await_open(box + FINISHED, until)
            result |= load(box + RESULT)
    if owner:
        store(pool + OWNED, 0)
    return result


BUILDERS = {"serve": lambda: serve, "share_out": lambda: share_out}
SIGNATURES = {
    "serve": lambda element: types.int64(types.int64),
    "share_out": lambda element: types.int64(*(types.int64,) * 4),
}
HELPERS = ("open_door", "await_open", "spin_end")
