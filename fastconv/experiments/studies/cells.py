"""The engine of the studies: cells, each computed once, on this machine or on a cluster, and kept.

A *cell* is one training or measurement: a study's name and a description in JSON's terms (data set, model, seed, ...).
What is computed depends on the description alone. So a finished cell is kept as a file named by the hash of its
description, and a sweep that was interrupted goes on where it was; and it does not matter which process or machine
computes a cell, nor whether one is computed twice because a machine died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import settings
from ..equivariance import Config, read_json, write_json

Record = dict[str, Any]  # what is kept of a cell: {"study", "what", "measured", "seconds"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is to be computed.

    study: the module beside this one whose ``compute(what, config)`` does it.
    what: the description, of JSON's types; with everything that the result depends on: the version of the protocol, the
    backend, the SHA-256 of the images.
    """

    study: str
    what: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The hash of study and description: the cell's name.

        >>> Cell("layers", {"seed": 0, "model": "cnn"}).key == Cell("layers", {"model": "cnn", "seed": 0}).key
        True
        """
        text = json.dumps([self.study, dict(self.what)], sort_keys=True, allow_nan=False)
        return f"{self.study}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def file(self, folder: Path) -> Path:
        return folder / f"{self.key}.json"


def compute(cell: Cell, config: Config) -> Record:
    """Compute `cell` on one thread. `config` says where the images are; they must be those of the description.

    Raises ValueError where they are others.
    """
    import threadpoolctl

    began = time.perf_counter()
    name = cell.what.get("dataset")
    if name in config.datasets and config.load(name).sha256 != cell.what["data"]:
        raise ValueError(f"the images of {name!r} here are not those that the study was started with")
    study = importlib.import_module(f"{__package__}.{cell.study}")
    with (
        settings.use_backend(cell.what["backend"]),
        settings.num_threads(1),
        threadpoolctl.threadpool_limits(1, user_api="blas"),
    ):
        measured = study.compute(cell.what, config)
    return {"study": cell.study, "what": dict(cell.what), "measured": measured, "seconds": time.perf_counter() - began}


def run(
    cells: Iterable[Cell],
    config: Config,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    jobs: int | None = None,
    scheduler: str | None = None,
    watch: Callable[[int, int, Record], None] | None = None,
) -> list[Record]:
    """Compute the cells that `folder` does not hold yet, keep each as soon as it is finished, and return all in order.

    Parameters
    ----------
    cells
        Those that are wanted; of equal ones one is computed. They are begun in this order: the longest should be first.
    config
        Where the images are.
    folder
        Where finished cells are kept, made where it does not exist.
    resume
        Whether cells kept from before count; else they are computed again.
    jobs
        Cells side by side on this machine; None for the CPUs that this process may use.
    scheduler
        Address of a dask scheduler whose workers compute the cells in place of this machine. They need this version of
        fastconv with the extra ``experiments`` and, where the images come from a folder, that folder. A worker that
        dies costs nothing but time: its cells go to the others.
    watch
        Called with the number of finished cells, that of all, and the record of the cell just finished.

    Raises
    ------
    ValueError
        Where `jobs` is below 1 or given together with `scheduler`.
    ModuleNotFoundError
        Where `scheduler` is given and distributed is not installed (``pip install "fastconv[distributed]"``).
    OSError
        Where the scheduler cannot be reached.
    KeyboardInterrupt
        Ctrl-C, with what to do to go on as its message.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs is not None and scheduler is not None:
        raise ValueError("with a scheduler the number of jobs is that of its workers: give one of the two")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {cell.key: cell for cell in cells}
    if not resume:
        for cell in wanted.values():
            cell.file(folder).unlink(missing_ok=True)
    missing = [cell for cell in wanted.values() if not cell.file(folder).exists()]
    done = len(wanted) - len(missing)
    finished = _on_cluster(missing, config, scheduler) if scheduler else _here(missing, config, jobs)
    try:
        with warnings.catch_warnings(), contextlib.closing(finished):
            warnings.filterwarnings("ignore", "[0-9]+ tasks (which were still|have been)")  # joblib's, at Ctrl-C
            for key, record in finished:
                write_json(wanted[key].file(folder), record)
                done += 1
                if watch:
                    watch(done, len(wanted), record)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{done} of {len(wanted)} cells are finished and kept in {folder}: to go on, give the same command with "
            f"--resume"
        ) from None
    return [read_json(cell.file(folder)) for cell in wanted.values()]


# ---- where the cells are computed: generators of (key, record), in the order in which the cells are finished

_Finished = Iterator[tuple[str, Record]]


def _here(cells: Sequence[Cell], config: Config, jobs: int | None) -> Any:
    import joblib

    jobs = min(jobs or settings.usable_cpus(), max(len(cells), 1))
    one_thread = {"inner_max_num_threads": 1} if jobs > 1 else {}  # refused where no process starts
    with joblib.parallel_config(backend="loky", n_jobs=jobs, **one_thread):
        work = joblib.delayed(_compute_in_worker)
        # One cell at a time: joblib would collect short ones into batches, and an interruption would lose them all.
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
        results: _Finished = parallel(work(cell, config, os.getpid()) for cell in cells)
        yield from results


def _compute_in_worker(cell: Cell, config: Config, parent: int) -> tuple[str, Record]:
    if os.getpid() != parent:
        # Ctrl-C reaches every process of the terminal. The parent ends its workers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return cell.key, compute(cell, config)


def _on_cluster(cells: Sequence[Cell], config: Config, scheduler: str) -> Any:
    from distributed import Client, as_completed

    with Client(scheduler, name="fastconv") as client:
        # pure=False and keys of our own: what another client left on the scheduler under the same name is not taken.
        keys = {f"{cell.key}-{client.id}": cell.key for cell in cells}
        futures = [
            client.submit(compute, cell, config, key=task, pure=False, priority=-order)
            for order, (task, cell) in enumerate(zip(keys, cells, strict=True))
        ]
        for future in as_completed(futures):
            yield keys[future.key], future.result()
            future.release()  # the record is kept here: the cluster need not
