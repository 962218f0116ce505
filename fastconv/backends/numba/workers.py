"""Threads for the shares of one call.

The kernels are the same machine code for any number of threads: a call is cut into shares beforehand, the caller runs
the first one and sleeping Python threads the others, all without the GIL. So none of Numba's threading layers is used:
no second compilation, nothing that aborts when two Python threads call at once, nothing that hangs after a fork. In a
forked child the caller runs all shares, to the same bits: processes that fork share the CPUs as it is. A hand-over
costs about 10 us, paid only above :data:`.plan.WORTH_THREADS`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

Task = Callable[[], None]

_idle: list[SimpleQueue[Task]] = []  # the inboxes of sleeping threads; append and pop are atomic
_count = 0
_count_lock = threading.Lock()
forked = False  # this process was forked from one that had this module


def _forget() -> None:
    """In a forked child: the threads are gone."""
    global _count, _count_lock, forked
    _idle.clear()
    _count, _count_lock, forked = 0, threading.Lock(), True


os.register_at_fork(after_in_child=_forget)


def _serve(inbox: SimpleQueue[Task]) -> None:
    while True:
        inbox.get()()
        _idle.append(inbox)


def _hire(most: int) -> SimpleQueue[Task] | None:
    """A sleeping thread's inbox, or a new one's while there are fewer than `most`; None where all are busy."""
    global _count
    if forked:
        return None
    with contextlib.suppress(IndexError):
        return _idle.pop()
    with _count_lock:
        if _count >= most:
            return None
        _count += 1
    inbox: SimpleQueue[Task] = SimpleQueue()
    try:
        threading.Thread(target=_serve, args=(inbox,), name="fastconv", daemon=True).start()
    except RuntimeError:  # the system has no thread left
        with _count_lock:
            _count -= 1
        return None
    return inbox


def run(function: Callable[[int], int], shares: int) -> int:
    """function(share) for every share, on as many threads as are to be had; returns the results, or-ed together.

    A second caller that finds the threads busy runs its shares itself: the same shares, so the same bits. An exception
    of any share is raised after all have ended, as is a KeyboardInterrupt: nobody writes to the arrays any more.
    """
    if shares == 1:
        return function(0)
    results = [0] * shares
    failures: list[BaseException] = []

    def share_of(number: int, done: threading.Lock | None) -> None:
        try:
            results[number] = function(number)
        except BaseException as error:
            failures.append(error)
        finally:
            if done is not None:
                done.release()

    waiting, own = [], [0]
    for number in range(1, shares):
        inbox = _hire(shares - 1)
        if inbox is None:
            own.append(number)
            continue
        done = threading.Lock()
        done.acquire()
        waiting.append(done)
        inbox.put(functools.partial(share_of, number, done))
    for number in own:
        share_of(number, None)
    for done in waiting:
        while True:
            try:
                done.acquire()
                break
            except KeyboardInterrupt as error:
                failures.append(error)
    if failures:
        raise failures[0]
    combined = 0
    for result in results:
        combined |= result
    return combined
