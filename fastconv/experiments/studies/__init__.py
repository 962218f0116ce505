"""The shift study: what the homework claims about CNNs, MLPs and moved images, proved or refuted with numbers.

==============  ======================================================================================
``remedies``    shifted training data, dropout, batch normalisation: which of them help?
``layers``      which layers move along with the image, and by which shifts?
``invariant``   networks that are invariant by the way they are built
``mnist1d``     the same question in one dimension
==============  ======================================================================================

Each is a module beside this one with three functions: ``descriptions(config)``, what its cells are; ``compute(what,
config)``, one cell; ``summarise(cells)``. :mod:`cells` computes and keeps the cells, :func:`run` puts all together, and
:func:`main` is the command, which writes figures and report as well.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ... import settings
from ..._version import __version__
from ...backends import load as load_backend
from .. import data
from ..equivariance import Config, read_json, versions, write_json
from . import reference
from .cells import Cell, Record
from .cells import run as run_cells

STUDIES = ("remedies", "layers", "invariant", "mnist1d")
# All cells are one queue; the longest go first, so that the cores finish together.
_LONGEST_FIRST = ("invariant", "remedies", "mnist1d", "layers")
STANDARD = {"epochs": 10, "train_images": data.SPLIT, "validation_images": data.SPLIT}  # what the reference had


def run(
    names: Sequence[str],
    config: Config,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    jobs: int | None = None,
    scheduler: str | None = None,
    watch: Callable[[int, int, Record], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Carry out the studies called `names` and write ``NAME.json`` for each into the folder `out`.

    Parameters
    ----------
    names
        Of :data:`STUDIES`.
    config
        Data sets, seeds, epochs and backend.
    out
        Folder for the results, made where it does not exist. Finished cells are kept in its folder ``cells``.
    resume, jobs, scheduler, watch
        As :func:`fastconv.experiments.studies.cells.run`, which also says what is raised.

    Returns
    -------
    What the JSON files hold: ``{name: {"summary": ..., "agreement": ..., "cells": [...], "config": ..., ...}}``.

    Examples
    --------
    >>> import tempfile
    >>> small = Config(seeds=1, epochs=1, train_images=100, validation_images=50)
    >>> layers = run(["layers"], small, tempfile.mkdtemp(), jobs=1)["layers"]
    >>> errors = layers["summary"]["fashion"]["errors"]["circular"]["trained"]["right"]["conv2"]["whole"]
    >>> [error["mean"] == 0 for error in errors]
    [True, False, False, False, True, False, False, False, True]
    """
    unknown = [name for name in names if name not in STUDIES]
    if unknown or not names:
        raise ValueError(f"a study is one of {', '.join(STUDIES)}, got {', '.join(unknown) or 'none'}")
    out = Path(out)
    with settings.use_backend(config.backend) if config.backend else contextlib.nullcontext():
        backend = settings.current().backend
    assert backend is not None
    datasets = {name: config.load(name) for name in config.datasets}
    wanted = {name: _cells(name, config, backend, {n: d.sha256 for n, d in datasets.items()}) for name in names}
    queue = [cell for name in _LONGEST_FIRST if name in wanted for cell in wanted[name]]
    began = time.perf_counter()
    records = run_cells(queue, config, out / "cells", resume=resume, jobs=jobs, scheduler=scheduler, watch=watch)
    by_key = {Cell(record["study"], record["what"]).key: record for record in records}
    seconds = time.perf_counter() - began
    results = {}
    for name, cells in wanted.items():
        these = [by_key[cell.key] for cell in cells]
        flat = [{**record["what"], **record["measured"]} for record in these]
        summary = importlib.import_module(f"{__name__}.{name}").summarise(flat)
        standard = all(getattr(config, key) == value for key, value in STANDARD.items())
        results[name] = {
            "fastconv": __version__,
            "study": name,
            "config": {
                "datasets": list(config.datasets),
                "seeds": config.seeds,
                "seeds_used": len({record["what"]["seed"] for record in these}),
                "epochs": config.epochs,
                "train_images": config.train_images,
                "validation_images": config.validation_images,
                "backend": backend,
                "isa": load_backend(backend).isa(),
            },
            "versions": versions(),
            "machine": f"{platform.system()} {platform.machine()}, {settings.usable_cpus()} CPUs",
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": {"of this call": seconds, "of the cells": sum(record["seconds"] for record in these)},
            "data": {n: {"source": d.source, "sha256": d.sha256} for n, d in datasets.items()},
            "summary": summary,
            "agreement": reference.agreement(name, summary) if standard else None,
            "cells": these,
        }
        write_json(out / f"{name}.json", results[name])
    return results


def _cells(name: str, config: Config, backend: str, digests: dict[str, str]) -> list[Cell]:
    study = importlib.import_module(f"{__name__}.{name}")
    found = []
    for what in study.descriptions(config):
        whole = {**what, "protocol": study.PROTOCOL, "backend": backend, "fastconv": __version__}
        if "dataset" in what:
            whole["data"] = digests[what["dataset"]]
        found.append(Cell(name, whole))
    return found


# ---- the command


def main(
    names: Sequence[str],
    config: Config,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    jobs: int | None = None,
    scheduler: str | None = None,
) -> None:
    """Carry out the studies, show progress, and write results, figures and report into `out`.

    The report is about every study whose results `out` holds, those of earlier calls included.
    """
    import rich.console

    # Figures come last, after minutes of training: what they need must be known to be there before.
    from . import figures, report

    out = Path(out)
    console = rich.console.Console(highlight=False)
    began = time.perf_counter()
    with _Display() as display:
        run(names, config, out, resume=resume, jobs=jobs, scheduler=scheduler, watch=display.show)
    results = {name: read_json(out / f"{name}.json") for name in STUDIES if (out / f"{name}.json").exists()}
    for name in results:
        figures.draw(results[name], out / "figures")
    report.write(results, out)
    for name in names:
        console.print(f"\n{report.TITLES[name]}", style="bold", markup=False)
        for line in report.answers(results[name]):
            console.print(line, soft_wrap=True, markup=False)
    files = ", ".join(f"{name}.json" for name in names)
    console.print(
        f"\n{time.perf_counter() - began:.0f} s; results in {out}: {files}, figures/, report.html", soft_wrap=True
    )


class _Display:
    """Progress: a bar in a terminal, and a line for each finished cell."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("cells"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("cells", total=None)

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, done: int, total: int, record: Record) -> None:
        self.progress.update(self.task, completed=done, total=total)
        what = record["what"]
        shown = ("dataset", "model", "architecture", "variant", "features", "padding", "trained", "seed")
        words = [f"{key} {what[key]}" if key in ("seed", "trained") else str(what[key]) for key in shown if key in what]
        line = f"[{done}/{total}] {record['study']}: {', '.join(words)} ({record['seconds']:.1f} s)"
        self.console.print(line, markup=False, soft_wrap=True)
