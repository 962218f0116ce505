"""``fastconv bench``: its arguments, the live table, and where the results go."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..geometry import OPERATIONS

Options = argparse.Namespace
_NOBODY = "none"


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _threads(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"must be positive numbers separated by commas, got {text!r}")
    return counts


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 3600, got {text}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``fastconv bench``."""
    lists: dict[str, Any] = {"type": _names, "metavar": "NAME[,NAME]"}
    parser.add_argument("--rows", help="rows of the suite (default: all; see --list)", **lists)
    parser.add_argument("--family", help="families of rows (default: all)", **lists)
    parser.add_argument("--operations", help=f"default: {','.join(OPERATIONS)}", **lists)
    parser.add_argument("--backends", help="of ours (default: cython and numba, where they are there)", **lists)
    parser.add_argument("--peers", help="rivals (default: all that are installed; 'none' for none)", **lists)
    parser.add_argument("--threads", type=_threads, default=[1], metavar="N[,N]", help="one run each (default: 1)")
    parser.add_argument(
        "--seconds", type=_seconds, default=0.5, metavar="S", help="a contender, operation and row (default: 0.5)"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", metavar="FILE", help="draw roofline and ratios (.png, .svg or .pdf)")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page with tables and plots")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--list", action="store_true", help="only list rows and contenders, with their terms")
    parser.add_argument("--limits", action="store_true", help="only measure peak FMA and bandwidth of this machine")
    parser.add_argument(
        "--beyond",
        action="store_true",
        help="measure what is not the speed of a row: call latency, import time, installed size, peak memory, thread "
        "scaling, denormal weights, a busy core",
    )
    parser.add_argument("--show", metavar="FILE", help="measure nothing: show, draw or convert the results in FILE")
    parser.add_argument(
        "--agreement", nargs=2, metavar="FILE", help="measure nothing: say how far two results in JSON agree"
    )


def run(options: Options) -> None:
    """Carry out ``fastconv bench``. ValueError for unknown names, RuntimeError where a result of ours is wrong."""
    if options.agreement:
        _agreement(*options.agreement)
    elif options.list:
        _list()
    elif options.limits:
        _limits(options.threads)
    elif options.beyond:
        _beyond(options)
    else:
        _bench(options)


# ---- who and what


def _contenders(options: Options) -> list[Any]:
    """Those asked for. ValueError for an unknown name, RuntimeError for one asked for by name that is missing."""
    from .contenders import OURS
    from .peers import PEERS

    chosen = []
    for kind, asked, all_of_them in (("backend", options.backends, OURS), ("peer", options.peers, PEERS)):
        known = {contender.name: contender for contender in all_of_them}
        if asked is None:
            # The definition in plain NumPy takes minutes on most rows: only for those who ask for it.
            chosen += [c for c in all_of_them if c.name != "reference" and c.unavailable() is None]
            continue
        for name in asked if asked != [_NOBODY] else []:
            if name not in known:
                raise ValueError(f"there is no {kind} {name!r}: there is {', '.join(known)}")
            reason = known[name].unavailable()
            if reason:
                raise RuntimeError(f"{kind} {name} was asked for but cannot be had: {reason}")
            chosen.append(known[name])
    if not chosen:
        raise ValueError("nobody to time: no backend and no peer is left")
    return chosen


def _operations(names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in OPERATIONS:
            raise ValueError(f"there is no operation {name!r}: there is {', '.join(OPERATIONS)}")
    return list(names or OPERATIONS)


def _list() -> None:
    from . import report
    from .cases import families
    from .contenders import OURS
    from .peers import PEERS
    from .tables import Table

    lines = [(family, ", ".join(names)) for family, names in report.rows_by_family().items()]
    _print(Table("Rows", ("family", "rows"), lines, words=2))
    _print(Table("Families", ("family", "what they are"), list(families().items()), words=2))
    _print(report.contender_table([report.described(contender) for contender in (*OURS, *PEERS)]))


def _limits(threads: Sequence[int]) -> None:
    from . import limits, report
    from .tables import Table, digits

    measured = [limits.measure(count) for count in threads]
    for table in report.limit_tables(report.document([], measured, {}, 0.0)):
        _print(table)
    by_count = [limits.every_isa(count) for count in threads]
    lines = [(isa, *(digits(peak[isa] / 1e9) for peak in by_count)) for isa in by_count[0]]
    _print(Table("Peak FMA of every ISA, GFLOP/s", ("ISA", *(f"{count} thread(s)" for count in threads)), lines))


# ---- the run


def _bench(options: Options) -> None:
    from . import report

    if options.show:
        with open(options.show, encoding="utf-8") as file:
            document = json.load(file)
    else:
        document = measure(options)
    _write(options, document)
    for table in report.all_tables(document):
        _print(table)
    print(f"took {document['seconds']:.0f} s, {document['cpu_seconds']:.0f} s of CPU time")
    interrupted = document["settings"].get("interrupted")
    if interrupted and not options.show:
        raise KeyboardInterrupt(f"{interrupted}: what was measured until then is above" + _kept(options))
    wrong = report.wrong_results(document)
    if wrong:
        raise RuntimeError(f"wrong results in {len(wrong)} match(es): {'; '.join(wrong)}")


def _kept(options: Options) -> str:
    files = [file for file in (options.json, options.markdown, options.plot, options.html) if file]
    return f" and in {', '.join(files)}" if files else ""


def measure(options: Options) -> dict[str, Any]:
    """Carry out the run that the options ask for, with its live table, and return its document.

    Ctrl-C ends it early: the document then holds what there is, and its settings say so under ``interrupted``.
    KeyboardInterrupt where there is nothing yet.
    """
    from . import limits, report
    from .cases import select
    from .runner import PASSES, tournament

    chosen = select(options.rows, options.family)
    operations = _operations(options.operations)
    contenders = _contenders(options)
    started, cpu_started = time.perf_counter(), time.process_time()
    bounds = {count: limits.measure(count) for count in options.threads} if limits.unavailable() is None else {}
    results: dict[tuple[str, str, int], dict[str, Any]] = {}
    sittings = len(chosen) * len(operations) * len(options.threads) * PASSES
    played = 0
    with _live(sittings, contenders[0].name) as show:
        try:
            for match in tournament(chosen, operations, contenders, threads=options.threads, seconds=options.seconds):
                entry = report.result(match, bounds.get(match.threads))
                results[match.row.name, match.operation, match.threads] = entry
                played += 1
                show(entry)
        except KeyboardInterrupt:
            if not results:
                raise
    settings: dict[str, Any] = {
        "seconds": options.seconds,
        "passes": PASSES,
        "threads": options.threads,
        "operations": operations,
        "rows": [row.name for row in chosen],
        "contenders": [contender.name for contender in contenders],
    }
    if played < sittings:
        settings["interrupted"] = f"after {played} of {sittings} sittings"
    took, cpu_took = time.perf_counter() - started, time.process_time() - cpu_started
    return report.document(list(results.values()), list(bounds.values()), settings, took, cpu_took)


@contextlib.contextmanager
def _live(sittings: int, backend: str) -> Iterator[Any]:
    """A function that shows what a match stands at after one more sitting: in a live table on a terminal, or a line."""
    from . import report

    if not sys.stdout.isatty():
        done = 0

        def line(entry: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            cells = dict(zip(report.RESULT_COLUMNS, report.result_line(entry, backend)))
            print(  # best times, and the ratio of the medians
                f"[{done}/{sittings}] {cells['row']} {cells['operation']} x{cells['threads']}: {backend} "
                f"{cells['time']}, torch {cells['torch'] or '-'}, ratio {cells['vs torch']}, best peer "
                f"{cells['best peer']}",
                flush=True,
            )

        yield line
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table

    left_out = ("median", "cpu/wall")
    columns = [column for column in report.RESULT_COLUMNS if column not in left_out]
    console = Console()
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )
    task = progress.add_task(backend, total=sittings)
    lines: dict[tuple[str, ...], tuple[str, ...]] = {}

    def render() -> Group:
        table = Table(box=None, header_style="bold")
        for column in columns:
            table.add_column(column, justify="left" if column in ("row", "operation") else "right", no_wrap=True)
        for cells in list(lines.values())[-max(5, console.height - 4) :]:
            table.add_row(*cells)
        return Group(table, progress)

    with Live(render(), console=console, refresh_per_second=4, transient=True) as live:

        def add(entry: dict[str, Any]) -> None:
            cells = dict(zip(report.RESULT_COLUMNS, report.result_line(entry, backend)))
            shown = [cells[column] for column in columns]
            for column in ("vs torch", "vs best peer"):
                if cells[column] != "-":
                    style = "green" if float(cells[column]) >= 1 else "red"
                    shown[columns.index(column)] = f"[{style}]{cells[column]}[/]"
            match = cells["row"], cells["operation"], cells["threads"]
            lines.pop(match, None)  # the latest stand last
            lines[match] = tuple(shown)
            progress.advance(task)
            live.update(render())

        yield add


def _print(table: Any) -> None:
    """A table to standard output: with rich on a terminal, where it is installed, else as text."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ModuleNotFoundError:
            pass  # text says the same
        else:
            shown = Table(title=table.title, caption=table.note or None, title_justify="left", caption_justify="left")
            for i, column in enumerate(table.columns):
                shown.add_column(column, justify="left" if i < table.words else "right")
            for row in table.rows:
                shown.add_row(*(cell.replace("[", "\\[") for cell in row))
            Console().print(shown)
            return
    print(table.text() + "\n")


def _write(options: Options, document: dict[str, Any]) -> None:
    if options.json:
        _save(options.json, json.dumps(document, indent=1, allow_nan=False) + "\n")
    if options.markdown:
        from . import report

        _save(options.markdown, "\n\n".join(table.markdown() for table in report.all_tables(document)) + "\n")
    if options.plot:
        from . import plot

        plot.save(document, options.plot)
    if options.html:
        from . import page

        _save(options.html, page.render(document))


def _save(path: str, text: str) -> None:
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _agreement(first: str, second: str) -> None:
    from . import report

    documents = []
    for path in (first, second):
        with open(path, encoding="utf-8") as file:
            documents.append(json.load(file))
    found = report.agreement(*documents)
    print(
        f"{found['matches']} matches: median deviation {100 * found['median']:.1f}%, "
        f"{100 * found['within_15_percent']:.1f}% within 15%, worst {100 * found['worst']:.0f}%"
    )


def _beyond(options: Options) -> None:
    from . import beyond

    document = beyond.measure(_contenders(options), seconds=options.seconds)
    if options.json:
        _save(options.json, json.dumps(document, indent=1, allow_nan=False) + "\n")
    found = beyond.all_tables(document)
    if options.markdown:
        _save(options.markdown, "\n\n".join(table.markdown() for table in found) + "\n")
    for table in found:
        _print(table)
