"""What matters beyond the speed of a row: call latency, import time, installed size, peak memory, thread scaling, speed
with denormal weights, and speed while another core is busy; ours and the rivals'.

Import times and peak memory are those of fresh interpreters; ``python -m fastconv.bench.beyond CONTENDER`` is how the
second kind is asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np

import fastconv as fc

from ..settings import usable_cpus
from . import tables
from .cases import Arrays, Row, rows
from .contenders import OURS, Contender, Unsupported
from .peers import PEERS
from .report import FORMAT, Document, described, machine
from .runner import Match, play
from .tables import Table

# Rows that stand for their kind: dense, thin, depthwise, and one with a large output.
SCALING = ("resnet_56", "tcn_64", "dw_112_96", "fir_255", "unet_128")
DENORMAL = ("resnet_56", "tcn_64", "dw_112_96", "lenet_c1")
MEMORY = ("unet_128", "wav2vec_l0", "filterbank_64x513", "conformer_dw31")
MEMORY_OPERATIONS = ("forward", "backward_weight")
LATENCY = ("exercise_1d", "tiny_2d")
IMPORTS = 3  # interpreters started for each import time


def measure(contenders: Sequence[Contender], *, seconds: float = 0.5) -> Document:
    """Measure everything there is for `contenders`. Takes a minute or two at the default of `seconds` a timing."""
    threads = usable_cpus()
    return {
        "format": FORMAT,
        "fastconv": fc.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "contenders": [described(contender) for contender in (*OURS, *PEERS)],
        "cpus": threads,
        "latency": call_latency(contenders, seconds),
        "imports": import_times(contenders),
        "sizes": installed_sizes(contenders),
        "memory": peak_memory(contenders),
        "scaling": thread_scaling(contenders, threads, seconds),
        "denormals": denormal_weights(contenders, seconds),
        "busy": busy_core(contenders, threads, seconds),
    }


def _best(match: Match) -> dict[str, float | None]:
    """Every contender's best time; None for one that cannot."""
    times = {name: timing.best for name, timing in match.timings.items()}
    return {name: value if math.isfinite(value) else None for name, value in times.items()}


# ---- the measurements


def call_latency(contenders: Sequence[Contender], seconds: float) -> list[dict[str, Any]]:
    """Seconds of a call on a handful of numbers: one record a row and operation."""
    return [
        {
            "row": name,
            "operation": operation,
            "seconds": _best(play(rows()[name], operation, contenders, seconds=seconds)),
        }
        for name in LATENCY
        for operation in ("forward", "backward_input", "backward_weight")
    ]


def import_times(contenders: Sequence[Contender]) -> dict[str, float]:
    """Seconds that importing a contender's modules adds to importing NumPy: the best of several interpreters."""
    wanted = {c.name: ("fastconv",) if c.ours else c.modules for c in contenders if c.ours or c.modules}
    wanted = {name: modules for name, modules in wanted.items() if name not in ("reference", "cython")}
    if any(c.ours for c in contenders):
        wanted = {"fastconv": ("fastconv",), **wanted}
    if "numba" in wanted:
        wanted["numba"] = ("fastconv", "numba")
    if "scipy_oaconvolve" in wanted:
        wanted["scipy_oaconvolve"] = wanted["scipy_correlate"] = ("scipy.signal",)
    known: dict[tuple[str, ...], float] = {}
    for modules in set(wanted.values()):
        script = (
            f"import numpy, time; t = time.perf_counter(); import {', '.join(modules)}; t = time.perf_counter() - t"
        )
        times = [float(_python("-c", f"{script}; print('@', t)").rpartition("@")[2]) for _ in range(IMPORTS)]
        known[modules] = min(times)
    return {name: known[modules] for name, modules in wanted.items()}


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"python {arguments[0]} failed with exit code {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def installed_sizes(contenders: Sequence[Contender]) -> dict[str, dict[str, float]]:
    """Bytes on disk of each package alone, and with all that it requires, NumPy not counted."""
    found = {}
    for package in dict.fromkeys(c.package for c in contenders if c.package and c.package != "numpy"):
        alone = _package_bytes(package)
        if alone is not None:
            needed = _requirements(package) - {"numpy"}
            found[package] = {"alone": alone, "with_dependencies": float(sum(_package_bytes(p) or 0 for p in needed))}
    return found


def _package_bytes(package: str) -> float | None:
    """None where it is not installed, or where it does not know its own files (an editable installation)."""
    if package == "fastconv":  # its own folder, so that an editable installation has a size as well
        folder = os.path.dirname(fc.__file__)
        return float(
            sum(
                os.path.getsize(os.path.join(path, name))
                for path, _, names in os.walk(folder)
                if "__pycache__" not in path
                for name in names
            )
        )
    try:
        files = metadata.files(package)
    except metadata.PackageNotFoundError:
        return None
    paths = [str(file.locate()) for file in files or () if "__pycache__" not in str(file)]
    return float(sum(os.path.getsize(path) for path in paths if os.path.exists(path)))


def _requirements(package: str, seen: set[str] | None = None) -> set[str]:
    """The package and everything installed that it requires unconditionally, directly or not."""
    seen = seen if seen is not None else set()
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name in seen:
        return seen
    try:
        required = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return seen
    seen.add(name)
    for line in required:
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match and "extra ==" not in line:
            _requirements(match.group(), seen)
    return seen


def peak_memory(contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """Bytes by which a process grows at most while it computes a row: output, workspace and whatever stays for later.

    Weights that a rival keeps as prepared constants are made before and not counted. None for one that cannot.
    """
    grown = {}
    for contender in contenders:
        answer = _python("-m", __spec__.name, contender.name)
        grown[contender.name] = json.loads(answer.splitlines()[-1])
    return [
        {
            "row": name,
            "operation": operation,
            "output": float(rows()[name].bytes_moved(operation)[1]),
            "bytes": {who: values[f"{name} {operation}"] for who, values in grown.items()},
        }
        for name in MEMORY
        for operation in MEMORY_OPERATIONS
    ]


def _resident() -> tuple[int, int]:
    """(now, at most since the last reset) in bytes, of this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        values = dict(line.split(":", 1) for line in lines)
    return int(values["VmRSS"].split()[0]) << 10, int(values["VmHWM"].split()[0]) << 10


def _grown(contender: Contender, row: Row, operation: str) -> float | None:
    """Runs in a process of its own: see :func:`peak_memory`."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None  # only Linux tells
    data = row.arrays()
    try:
        # What a library loads and starts at its first call is not this row's: a tiny row of the same kind goes first.
        small = row.small()
        contender.prepare(small, operation, small.arrays(), 1).run()
        prepared = contender.prepare(row, operation, data, 1)
    except Unsupported:
        return None
    # Memory that was freed but not given back would hide what the call takes.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts anew
    before, _ = _resident()
    result = prepared.run()
    _, peak = _resident()
    del result
    return float(max(0, peak - before))


def _grown_everywhere(name: str) -> dict[str, float | None]:
    """Every row and operation for the contender called `name`."""
    (contender,) = (c for c in (*OURS, *PEERS) if c.name == name)
    contender.activate(1)
    return {
        f"{row} {operation}": _grown(contender, rows()[row], operation)
        for row in MEMORY
        for operation in MEMORY_OPERATIONS
    }


def thread_scaling(contenders: Sequence[Contender], threads: int, seconds: float) -> list[dict[str, Any]]:
    """Each contender's best time on one thread and on `threads`; nothing where there is one CPU."""
    records = []
    for name in SCALING if threads > 1 else ():
        one, many = (
            _best(play(rows()[name], "forward", contenders, threads=count, seconds=seconds)) for count in (1, threads)
        )
        records.append({"row": name, "operation": "forward", "one": one, "many": many})
    return records


def denormal_weights(contenders: Sequence[Contender], seconds: float) -> list[dict[str, Any]]:
    """Best times with ordinary weights, and with every second one so small that it is denormal."""
    records = []
    for name in DENORMAL:
        row = rows()[name]
        x, w, gy = row.arrays()
        some = w.copy()
        some.reshape(-1)[::2] *= np.float32(1e-39)
        usual = _best(play(row, "forward", contenders, seconds=seconds))
        denormal = _best(play(row, "forward", contenders, seconds=seconds, data=Arrays(x, some, gy)))
        records.append({"row": name, "operation": "forward", "usual": usual, "denormal": denormal})
    return records


@contextlib.contextmanager
def _busy(processes: int) -> Iterator[None]:
    """So many other processes that compute without pause."""
    started = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], stdout=subprocess.DEVNULL)
        for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def busy_core(contenders: Sequence[Contender], threads: int, seconds: float) -> list[dict[str, Any]]:
    """Median times on all threads, with the machine to ourselves and while one of its cores is busy otherwise."""
    records = []
    for name in SCALING if threads > 1 else ():
        row = rows()[name]
        medians = []
        for busy in (0, 1):
            with _busy(busy):
                match = play(row, "forward", contenders, threads=threads, seconds=seconds, picky=False)
            times = {who: timing.median for who, timing in match.timings.items()}
            medians.append({who: value if math.isfinite(value) else None for who, value in times.items()})
        records.append({"row": name, "operation": "forward", "quiet": medians[0], "busy": medians[1]})
    return records


# ---- the tables


def _ratio(over: float | None, under: float | None) -> str:
    return tables.digits(over / under) if over and under else "-"


def _time(value: float | None) -> str:
    return tables.seconds(value) if value else "-"


def _everybody(records: Sequence[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record[key]))


def _wide(title: str, records: Sequence[dict[str, Any]], key: str, cell: Any, note: str) -> Table:
    """One line a record, one column a contender."""
    names = _everybody(records, key) if records else []
    lines = [(r["row"], r["operation"], *(cell(r, name) for name in names)) for r in records]
    return Table(title, ("row", "operation", *names), lines, note, words=2)


def all_tables(run: Document) -> list[Table]:
    """One table for each kind of measurement."""
    cpus = run["cpus"]
    one_cpu = "" if cpus > 1 else " This machine has one CPU, so there is nothing to show."
    found = [
        _wide("Call latency", run["latency"], "seconds", lambda r, n: _time(r["seconds"].get(n)), "One thread."),
        Table(
            "Import time",
            ("contender", "seconds"),
            [(name, _time(value)) for name, value in sorted(run["imports"].items(), key=lambda item: item[1])],
            "Added to importing NumPy; the best of several fresh interpreters.",
        ),
        Table(
            "Installed size",
            ("package", "alone", "with what it requires"),
            [
                (name, tables.size(entry["alone"]), tables.size(entry["with_dependencies"]))
                for name, entry in sorted(run["sizes"].items(), key=lambda item: item[1]["with_dependencies"])
            ],
            "NumPy, which all of them use, is not counted. fastconv's size includes 7 MB of images.",
        ),
        _wide(
            "Peak memory",
            [{**r, "bytes": {"output": r["output"], **r["bytes"]}} for r in run["memory"]],
            "bytes",
            lambda r, n: tables.size(r["bytes"][n]) if r["bytes"].get(n) is not None else "-",
            "Growth of a fresh process during its first call on the row, one thread. "
            "output: the size of the result alone; who reuses its output has it before.",
        ),
        _wide(
            f"Thread scaling, {cpus} over 1",
            run["scaling"],
            "one",
            lambda r, n: _ratio(r["one"].get(n), r["many"].get(n)),
            f"Times as fast on {cpus} threads as on one.{one_cpu}",
        ),
        _wide(
            "Denormal weights",
            run["denormals"],
            "usual",
            lambda r, n: _ratio(r["denormal"].get(n), r["usual"].get(n)),
            "Times as slow when every second weight is denormal. One thread.",
        ),
        _wide(
            "One core busy",
            run["busy"],
            "quiet",
            lambda r, n: _ratio(r["busy"].get(n), r["quiet"].get(n)),
            f"Times as slow on {cpus} threads while another process keeps one core busy; medians.{one_cpu}",
        ),
    ]
    return [table for table in found if table.rows or one_cpu]


if __name__ == "__main__":
    print(json.dumps(_grown_everywhere(sys.argv[1])))
