"""What a run found: a document for JSON, its tables, and its summary.

Everything that is printed, drawn or published is made from the document alone, so a run can be shown again, and
published, long after it was measured. Its keys are listed at :func:`document`.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import fastconv as fc

from ..backends import NAMES
from . import tables
from .cases import families, rows
from .contenders import OURS, Contender
from .limits import Limits
from .peers import PEERS
from .runner import Match, Timing
from .tables import Table

FORMAT = 2  # of the document
Document = dict[str, Any]

YARDSTICK = "torch"


# ---- the document


def machine() -> dict[str, Any]:
    """What identifies the machine in a report, and nothing private: CPU, number of usable CPUs, system, versions."""
    cpu = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass  # not Linux: platform's word stands
    config = fc.show_config("dicts") or {}
    return {
        "cpu": cpu or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "isa": config.get("ISA in use", ""),
        "compiler": config.get("compiler", ""),
    }


def described(contender: Contender) -> dict[str, Any]:
    """A contender's entry in the document."""
    return {
        "name": contender.name,
        "about": contender.about,
        "ours": contender.ours,
        "version": fc.__version__ if contender.ours else contender.version,
        "terms": contender.terms._asdict(),
        "missing": contender.unavailable(),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _timing(timing: Timing, match: Match, limit: float) -> dict[str, Any]:
    entry: dict[str, Any] = {"status": timing.status, "error": _number(timing.error)}
    if timing.status != "ok":
        return {**entry, "reason": timing.reason}
    g = match.row.geometry
    return {
        **entry,
        "best": timing.best,
        "median": timing.median,
        "cpu_over_wall": _number(timing.cpu_over_wall),
        "gflops": g.flops / timing.best / 1e9,
        "gbytes": sum(match.row.bytes_moved(match.operation)) / timing.best / 1e9,
        "fraction_of_limit": _number(limit / timing.best),
        "rounds": timing.rounds,
        "calls": timing.calls,
        "thrown_out": timing.thrown_out,
        "disturbed": timing.disturbed,
    }


def result(match: Match, limits: Limits | None) -> dict[str, Any]:
    """A match's entry in the document."""
    work, traffic = limits.seconds(match.row, match.operation) if limits else (math.nan, math.nan)
    limit = max(work, traffic)
    return {
        "row": match.row.name,
        "family": match.row.family,
        "operation": match.operation,
        "threads": match.threads,
        "flops": match.row.geometry.flops,
        "bytes": sum(match.row.bytes_moved(match.operation)),
        "limit": _number(limit),
        "limited_by": None if limits is None else "flops" if work >= traffic else "traffic",
        "timings": {name: _timing(timing, match, limit) for name, timing in match.timings.items()},
    }


def document(
    results: Sequence[dict[str, Any]],
    limits: Sequence[Limits],
    settings: dict[str, Any],
    took: float,
    cpu_took: float = 0.0,
) -> Document:
    """The whole run.

    Keys: ``format``, ``fastconv`` (version), ``date``, ``seconds`` (how long it took), ``cpu_seconds`` (how long the
    process had a CPU meanwhile: below ``seconds`` on one thread, the machine was busy), ``settings``, ``machine``,
    ``limits`` (one entry a number of threads), ``contenders`` (terms, version, or why it is missing), ``results``
    (:func:`result`), ``summary`` (:func:`summary`). Times are in seconds, sizes in bytes, rates in GFLOP/s and GB/s.
    """
    return {
        "format": FORMAT,
        "fastconv": fc.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": took,
        "cpu_seconds": cpu_took,
        "settings": settings,
        "machine": machine(),
        "limits": [
            {
                "threads": entry.threads,
                "isa": entry.isa,
                "gflops": entry.flops / 1e9,
                "levels": [
                    {
                        "name": level.name,
                        "holds": _number(level.holds),
                        **{kind: getattr(level, kind) / 1e9 for kind in ("read", "write", "copy")},
                    }
                    for level in entry.levels
                ],
            }
            for entry in limits
        ],
        "contenders": [described(contender) for contender in (*OURS, *PEERS)],
        "results": list(results),
        "summary": summary(results),
    }


# ---- ratios


def best_time(entry: dict[str, Any], name: str) -> float:
    """Seconds of contender `name` in a result; NaN where it has none."""
    return float(entry["timings"].get(name, {}).get("best", math.nan))


def median_time(entry: dict[str, Any], name: str) -> float:
    """Median seconds of contender `name` in a result; NaN where it has none."""
    return float(entry["timings"].get(name, {}).get("median", math.nan))


def speedup(entry: dict[str, Any], name: str, other: str) -> float:
    """How many times as fast as `other` contender `name` is in a result; NaN where one has no times."""
    return best_time(entry, other) / best_time(entry, name)


def best_peer(entry: dict[str, Any]) -> tuple[str, float]:
    """The fastest rival of a result and its best seconds; ("", NaN) where there was none."""
    times = {name: best_time(entry, name) for name in entry["timings"] if name not in NAMES}
    finite = {name: value for name, value in times.items() if math.isfinite(value)}
    if not finite:
        return "", math.nan
    name = min(finite, key=lambda name: finite[name])
    return name, finite[name]


def geometric_mean(values: Iterable[float]) -> float:
    """Of the finite ones; NaN where there are none."""
    logs = [math.log(value) for value in values if math.isfinite(value)]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


def backends_in(results: Sequence[dict[str, Any]]) -> list[str]:
    """Our backends that have times in the results, best first."""
    return [name for name in NAMES if any(math.isfinite(best_time(entry, name)) for entry in results)]


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each backend, number of threads and family ("all" for all of them): how it stands against torch and the best
    rival: geometric means of the ratios (above 1: we are faster), rows won and lost."""
    found = []
    for backend in backends_in(results):
        for threads in sorted({entry["threads"] for entry in results}):
            for family in (*families(), "all"):
                chosen = [
                    entry
                    for entry in results
                    if entry["threads"] == threads
                    and family in (entry["family"], "all")
                    and math.isfinite(best_time(entry, backend))
                ]
                if not chosen:
                    continue
                entry: dict[str, Any] = {"backend": backend, "threads": threads, "family": family, "rows": len(chosen)}
                for rival in (YARDSTICK, "best_peer"):
                    ratios = [speedup(e, backend, best_peer(e)[0] if rival == "best_peer" else rival) for e in chosen]
                    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
                    entry[rival] = {
                        "geometric_mean": _number(geometric_mean(finite)),
                        "won": sum(ratio >= 1 for ratio in finite),
                        "lost": sum(ratio < 1 for ratio in finite),
                    }
                found.append(entry)
    return found


def agreement(first: Document, second: Document, backend: str | None = None) -> dict[str, float]:
    """How far two runs agree on the ratios of a backend (None: the best one there) to torch, match by match.

    Returns ``matches``, ``median`` (of the deviations), ``within_15_percent`` (fraction), ``worst``. Raises ValueError
    where they have no match in common.
    """
    backend = backend or next(iter(backends_in(first["results"])), "")
    keyed: list[dict[tuple[str, str, int], float]] = [
        {(e["row"], e["operation"], e["threads"]): speedup(e, backend, YARDSTICK) for e in run["results"]}
        for run in (first, second)
    ]
    shared = [key for key in keyed[0] if key in keyed[1] and math.isfinite(keyed[0][key] * keyed[1][key])]
    if not shared:
        raise ValueError(f"the two runs share no match of {backend or 'a backend of ours'} and {YARDSTICK}")
    deviations = [abs(math.log(keyed[0][key] / keyed[1][key])) for key in shared]
    return {
        "matches": len(shared),
        "median": math.expm1(statistics.median(deviations)),
        "within_15_percent": sum(value <= math.log(1.15) for value in deviations) / len(shared),
        "worst": math.expm1(max(deviations)),
    }


# ---- tables


def contender_table(entries: Sequence[dict[str, Any]]) -> Table:
    """Who takes part under which terms, and who is missing and why."""
    lines = [
        (
            entry["name"],
            entry["about"],
            entry["version"] if not entry["missing"] else f"missing: {entry['missing']}",
            *(entry["terms"][key] for key in ("layout", "weights", "output")),
        )
        for entry in entries
    ]
    columns = ("name", "", "version", "layout", "weights", "output")
    note = 'pip install "fastconv[peers]" installs those that are missing, where they are made for this machine.'
    return Table("Contenders and their terms", columns, lines, note, words=6)


def limit_tables(run: Document) -> list[Table]:
    """The measured limits of the machine."""
    peaks, rates = [], []
    for entry in run["limits"]:
        peaks.append((str(entry["threads"]), entry["isa"], tables.digits(entry["gflops"])))
        for level in entry["levels"]:
            holds = tables.size(level["holds"]) if level["holds"] else ""
            shown = (tables.digits(level[kind]) for kind in ("read", "write", "copy"))
            rates.append((str(entry["threads"]), level["name"], holds, *shown))
    note = "A copy counts what is read and what is written. Memory is written by ordinary stores."
    return [
        Table("Peak FMA, float32", ("threads", "ISA", "GFLOP/s"), peaks, words=2),
        Table("Bandwidth, GB/s", ("threads", "level", "holds", "read", "write", "copy"), rates, note, words=2),
    ]


def _cell(timing: dict[str, Any] | None) -> str:
    if timing is None:
        return ""
    if timing["status"] != "ok":
        return {"unsupported": "-", "wrong": "WRONG", "failed": "failed"}[timing["status"]]
    return tables.seconds(timing["best"]) + ("*" if timing["disturbed"] else "")


RESULT_COLUMNS = (
    *("row", "operation", "threads", "time", "median", "GFLOP/s", "of limit", "error"),
    *("torch", "torch error", "cpu/wall", "vs torch", "best peer", "vs best peer"),
)


def result_line(entry: dict[str, Any], backend: str) -> tuple[str, ...]:
    """One backend's line of :data:`RESULT_COLUMNS`."""
    own = entry["timings"].get(backend)
    yardstick = entry["timings"].get(YARDSTICK) or {}
    peer, peer_time = best_peer(entry)
    ok = own is not None and own["status"] == "ok"
    mine, usual = best_time(entry, backend), median_time(entry, backend)
    loads = [t["cpu_over_wall"] for t in (own if ok else {}, yardstick) if t and t.get("cpu_over_wall")]
    return (
        entry["row"],
        entry["operation"],
        str(entry["threads"]),
        _cell(own),
        tables.seconds(usual),
        tables.digits(entry["flops"] / mine / 1e9),
        tables.percent(entry["limit"] / mine) if entry["limit"] else "-",
        tables.error(own["error"]) if own is not None else "-",
        _cell(yardstick or None),
        tables.error(yardstick.get("error")),
        "/".join(f"{load:.2f}" for load in loads),
        tables.digits(speedup(entry, backend, YARDSTICK)),
        f"{peer} {tables.seconds(peer_time)}" if peer else "-",
        tables.digits(speedup(entry, backend, peer)),
    )


def result_table(run: Document, backend: str) -> Table:
    """Every match of one backend, the lost ones too."""
    lines = [result_line(entry, backend) for entry in run["results"] if backend in entry["timings"]]
    note = (
        "Best times of one call, and their ratios: above 1 we are faster. Of limit: the larger of FLOP time and "
        "traffic time over our time; above 100% means fewer multiplications than direct summation has. Error: largest "
        "deviation from float64 over the largest value. cpu/wall: ours/torch. *: never undisturbed; on one thread its "
        "CPU time stands in."
    )
    return Table(f"Rows, {backend}", RESULT_COLUMNS, lines, note, words=2)


def everybody_table(run: Document) -> Table:
    """The best time of every contender in every match."""
    names = [e["name"] for e in run["contenders"] if any(e["name"] in r["timings"] for r in run["results"])]
    lines = [
        (r["row"], r["operation"], str(r["threads"]), *(_cell(r["timings"].get(name)) for name in names))
        for r in run["results"]
    ]
    return Table("Best times of everybody", ("row", "operation", "threads", *names), lines, "-: cannot do it.", words=2)


def summary_table(run: Document) -> Table:
    """Geometric means, and matches won and lost, per family."""
    columns = ("backend", "family", "threads", "matches", "vs torch", "won", "lost", "vs best peer", "won", "lost")
    lines = []
    for entry in run["summary"]:
        cells = [entry["backend"], entry["family"], str(entry["threads"]), str(entry["rows"])]
        for rival in (YARDSTICK, "best_peer"):
            mean = entry[rival]["geometric_mean"]
            cells += [tables.digits(mean if mean else math.nan), str(entry[rival]["won"]), str(entry[rival]["lost"])]
        lines.append(tuple(cells))
    note = "Geometric means of the ratios: above 1, we are faster. A match is one operation of one row."
    return Table("Summary", columns, lines, note, words=2)


def refusals_table(run: Document) -> Table:
    """Who could not do what: said, never left out."""
    counted: dict[tuple[str, str, str], list[str]] = {}
    for entry in run["results"]:
        for name, timing in entry["timings"].items():
            if timing["status"] != "ok":
                key = (name, timing["status"], timing["reason"])
                counted.setdefault(key, []).append(f"{entry['row']} {entry['operation']}")
    lines = [
        (name, status, reason, f"{len(where)} matches" if len(where) > 3 else ", ".join(where))
        for (name, status, reason), where in counted.items()
    ]
    return Table("What could not be timed", ("contender", "", "reason", "where"), lines, words=4)


def all_tables(run: Document) -> list[Table]:
    """Every table of a run, in the order in which they are printed."""
    found = [contender_table(run["contenders"]), *limit_tables(run)]
    found += [result_table(run, backend) for backend in backends_in(run["results"])]
    found += [everybody_table(run), refusals_table(run), summary_table(run)]
    return [table for table in found if table.rows]


def wrong_results(run: Document) -> list[str]:
    """The matches in which a backend of ours was wrong or failed: "row operation backend: reason"."""
    return [
        f"{entry['row']} {entry['operation']} {name}: {timing['reason']}"
        for entry in run["results"]
        for name, timing in entry["timings"].items()
        if name in NAMES and timing["status"] in ("wrong", "failed")
    ]


def rows_by_family() -> dict[str, list[str]]:
    """The names of the suite's rows under each family."""
    return {family: [row.name for row in rows().values() if row.family == family] for family in families()}
