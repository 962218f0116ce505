"""Threads for the shares of one call.

The kernels are the same machine code for any number of threads: a call is cut into shares beforehand, and the caller
runs the first one and waiting threads the others. So none of Numba's threading layers is used: no second compilation,
nothing that aborts when two Python threads call at once, nothing that hangs after a fork. In a forked child the caller
runs all shares, to the same bits: processes that fork share the CPUs as it is.

The threads are Python's, which so knows of them, but each is given away for good to :func:`.workers_kernels.serve`,
compiled code that never returns: so a share is handed over without the GIL, in a microsecond while its worker spins.
As they touch nothing of Python's, they may still be spinning, computing or sleeping when the interpreter ends, and what
they do touch is never freed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

import numpy as np

from .compiled import entry_point, kernel
from .cpu import current

# The pool, words at byte offsets: the address of `share_out`, threads that exist, whether a call owns them, CPUs.
SHARE_OUT, WORKERS, OWNED, CPUS = 0, 8, 16, 24
# Then a box for each thread: what its caller writes and what it writes itself, lines of the cache apart.
BOXES, BOX_BYTES = 128, 256
POSTED, TASK, ARGUMENTS, SHARE, SPINS = 0, 16, 24, 32, 40
FINISHED, RESULT = 128, 144
LOCK = 8  # after POSTED or FINISHED: where to sleep at that door

_MOST = 255  # threads; a call's further shares are its caller's

forked = False  # this process was forked from one that had this module
_pool = 0  # address
_hired = 0
_lock = threading.Lock()


def _forget() -> None:
    """In a forked child: the threads are gone."""
    global forked, _pool, _lock
    forked, _pool, _lock = True, 0, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def _word(address: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(address)


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _new_pool() -> int:
    allocate = ctypes.pythonapi.PyMem_RawCalloc
    allocate.restype, allocate.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
    memory = allocate(1, BOXES * 2 + _MOST * BOX_BYTES)
    if not memory:
        raise MemoryError
    pool: int = -(-memory // BOXES) * BOXES
    _word(pool + SHARE_OUT).value = entry_point("share_out", np.dtype(np.int64), current())
    _word(pool + CPUS).value = _cpus()
    return pool


def _closed_lock() -> int:
    """One that is released by whoever wakes the thread that sleeps there."""
    allocate, acquire = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
    allocate.restype, acquire.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]
    lock: int | None = allocate()
    if not lock:
        raise MemoryError
    acquire(lock, 1)
    return lock


def _hire(wanted: int) -> None:
    """Starts threads until there are that many, or the system has no more."""
    global _hired, _pool
    with _lock:
        _pool = _pool or _new_pool()
        serve = kernel("serve", np.dtype(np.int64), current())
        while _hired < min(wanted, _MOST):
            box = _pool + BOXES + _hired * BOX_BYTES
            for door in (POSTED, FINISHED):
                lock = _word(box + door + LOCK)
                lock.value = lock.value or _closed_lock()
            # Counted first: a call takes back what it posts where no thread is, but two threads must not have one box.
            _hired += 1
            _word(_pool + WORKERS).value = _hired
            try:
                threading.Thread(target=serve, args=(box,), name="fastconv", daemon=True).start()
            except RuntimeError:
                _hired -= 1
                _word(_pool + WORKERS).value = _hired
                return


def run(function: Callable[..., int], shares: int) -> int:
    """function(share) for every share, on as many threads as are to be had; returns the results, or-ed together.

    `function` is a kernel without its last argument. A second caller that finds the threads busy runs its shares
    itself: the same shares, so the same bits. A KeyboardInterrupt is raised after all have ended: nobody writes to the
    arrays any more.
    """
    if shares == 1:
        return function(0)
    if forked:
        result = 0
        for share in range(shares):
            result |= function(share)
        return result
    if _hired < shares - 1:
        _hire(shares - 1)
    return function(_pool, shares)
