"""What a call uses when its arguments do not say: backend, number of threads, precision.

Each setting has a process-wide value, changed by a plain call, and may be overridden by a ``with`` block for its own
thread and context. The start values come from the environment and are read at the first call that needs them, so that a
wrong one is an error there and not at import.
"""

from __future__ import annotations

import contextvars
import operator
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from .backends import load, usable

PRECISIONS = ("default", "strict")


class Settings(NamedTuple):
    """The values that a call sees."""

    backend: str
    threads: int
    precision: str


class Override(NamedTuple):
    """What ``with`` blocks have changed in a thread's own context; None stands for "the process-wide value"."""

    backend: str | None = None
    threads: int | None = None
    precision: str | None = None


class _Handle:
    """A value that is in force from its creation on, and that a ``with`` block takes back on exit.

    Creating it pushes the value on the setting's process-wide stack; entering a ``with`` block takes it off again and
    overrides the value in this thread and context alone.
    """

    __slots__ = ("_entered", "_field", "_tokens", "_value")

    def __init__(self, field: str, value: Any):
        self._field, self._value, self._entered = field, value, False
        self._tokens: list[contextvars.Token[Override | None]] = []
        _process_wide[field].push(self, value)
        _changed()

    def __enter__(self) -> _Handle:
        if not self._entered:
            self._entered = True
            _process_wide[self._field].remove(self)
            _changed()
        self._tokens.append(override.set((override.get() or Override())._replace(**{self._field: self._value})))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        override.reset(self._tokens.pop())

    def __del__(self) -> None:
        if not self._entered:
            _process_wide[self._field].settle(self)

    def __repr__(self) -> str:
        return f"<fastconv {self._field}: {self._value!r}>"


class _ProcessWide:
    """One setting's process-wide value: the newest of the handles that no ``with`` block has taken back.

    A stack and not one variable, because two threads may create and enter handles in any order: each takes back its
    own.
    """

    def __init__(self, start: Callable[[], Any]):
        self._start = start
        self._lock = threading.Lock()
        self._entries: list[tuple[int, Any]] = []  # (id of the handle, value), oldest first

    def push(self, handle: _Handle, value: Any) -> None:
        with self._lock:
            self._entries.append((id(handle), value))

    def remove(self, handle: _Handle) -> None:
        with self._lock:
            self._entries = [entry for entry in self._entries if entry[0] != id(handle)]

    def settle(self, handle: _Handle) -> None:
        """The handle is gone and was never entered, so its value stays; what lies below it can never show again."""
        with self._lock:
            for i, (owner, value) in enumerate(self._entries):
                if owner == id(handle):
                    self._entries[: i + 1] = [(0, value)]
                    return

    def get(self) -> Any:
        with self._lock:
            if not self._entries:
                self._entries.append((0, self._start()))
            return self._entries[-1][1]


def _backend_at_start() -> str:
    name = os.environ.get("FASTCONV_BACKEND")
    if name:
        try:
            return load(name).NAME
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"FASTCONV_BACKEND={name}: {error}") from None
    return usable()[0]


def _threads_at_start() -> int:
    for variable in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            # OpenMP takes a list, one number for each level of nesting: the first is ours.
            return _positive(int(text.split(",")[0]))
        except ValueError:
            if variable == "FASTCONV_NUM_THREADS":
                raise ValueError(f"{variable}={text!r} is not a positive int") from None
    return usable_cpus()


def usable_cpus() -> int:
    """The CPUs that this process may use: its affinity, cut to the cgroup's quota where there is one."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, _cgroup_quota() or cpus))


def _cgroup_quota() -> int | None:
    """CPUs that the control group grants, rounded up; None where there is no limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # version 2
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:  # version 1
                quota = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                period = file.read().strip()
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return max(1, -int(-share // 1)) if share > 0 else None


def _positive(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"the number of threads must be an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"the number of threads must be an int, got {value!r}") from None
    if number < 1:
        raise ValueError(f"the number of threads must be at least 1, got {number}")
    return min(number, MOST_THREADS)


MOST_THREADS = 1024  # more than any machine's cores; bounds the scratch that a call may ask for

override: contextvars.ContextVar[Override | None] = contextvars.ContextVar("fastconv_settings", default=None)
_process_wide = {
    "backend": _ProcessWide(_backend_at_start),
    "threads": _ProcessWide(_threads_at_start),
    "precision": _ProcessWide(lambda: "default"),
}
_listeners: list[Callable[[], None]] = []


def on_change(listener: Callable[[], None]) -> None:
    """Calls `listener` whenever a process-wide value may have changed: for copies of it that must be quick to read."""
    _listeners.append(listener)


_known: list[Settings] = []  # the process-wide values, where somebody asked since they last changed


def _changed() -> None:
    global _known
    _known = []  # another list: a thread that read the values before the change puts them into the old one
    for listener in _listeners:
        listener()


def process_wide() -> Settings:
    """The process-wide values. Raises what a wrong environment variable deserves."""
    known = _known
    if not known:
        known.append(Settings(**{field: value.get() for field, value in _process_wide.items()}))
    return known[0]


def current() -> Settings:
    """The values that a call made here and now would use."""
    own = override.get()
    if own is None:
        known = _known  # as process_wide(), of which this is half the time
        return known[0] if known else process_wide()
    theirs = process_wide()
    return Settings(
        theirs.backend if own.backend is None else own.backend,
        theirs.threads if own.threads is None else own.threads,
        theirs.precision if own.precision is None else own.precision,
    )


# ---- public


def use_backend(name: str) -> _Handle:
    """Choose the backend: ``"cython"``, ``"numba"`` or ``"reference"``.

    Acts at the call and process-wide; used as ``with fc.use_backend(name):`` it acts on the block's own thread and
    context alone and restores on exit. The start value is ``FASTCONV_BACKEND``, else the first of :func:`backends`.

    Raises ValueError for an unknown name, RuntimeError (with the reason) for one that cannot be used here.

    >>> import numpy as np, fastconv as fc
    >>> with fc.use_backend("reference"):
    ...     fc.conv1d(np.ones((1, 1, 3)), np.ones((1, 1, 3)))
    array([[[3.]]])
    """
    return _Handle("backend", load(name).NAME)


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use, process-wide.

    The start value is ``FASTCONV_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs that this process may use
    (affinity and cgroup). Raises TypeError or ValueError where `n` is not an int of at least 1.
    """
    _Handle("threads", _positive(n))


def get_num_threads() -> int:
    """The number of threads that a call made here and now may use."""
    return current().threads


def num_threads(n: int) -> _Handle:
    """As :func:`set_num_threads`; used as ``with fc.num_threads(n):`` for the block's own thread and context alone."""
    return _Handle("threads", _positive(n))


def precision(mode: str) -> _Handle:
    """Choose how results may be rounded: ``"default"`` or ``"strict"``. Acts as :func:`use_backend` does.

    ``"default"``: besides direct summation the planner may take algorithms with fewer multiplications (Winograd, FFT),
    whose error is at most 1e-5 of the largest absolute output (in float32; FFT measured 1e-7 to 7e-7 on random data, up
    to a million taps), and denormal numbers may be flushed to zero.
    ``"strict"``: direct summation only, and denormal numbers are kept, which can cost two orders of magnitude in speed.

    Raises ValueError for any other mode.
    """
    if mode not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {mode!r}")
    return _Handle("precision", mode)
