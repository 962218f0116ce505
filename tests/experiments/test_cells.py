"""The engine of the studies: every cell is computed once, kept, and taken up again, here and on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastconv as fc
from fastconv.experiments.equivariance import Config
from fastconv.experiments.studies import _cells, cells
from fastconv.experiments.studies.cells import Cell

SMALL = Config(seeds=2, epochs=1, train_images=100, validation_images=40)


def some(config: Config = SMALL) -> list[Cell]:
    """The cells of the study of layers: eight short ones."""
    return _cells("layers", config, fc.backends()[0], {name: config.load(name).sha256 for name in config.datasets})


def outcome(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without what may differ: how long it took."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("cells")
    return cells.run(some(), SMALL, folder, jobs=1), folder


def test_records_come_in_the_order_of_the_cells_and_are_kept(reference: tuple[list[dict[str, Any]], Path]) -> None:
    records, folder = reference
    assert [record["what"] for record in records] == [dict(cell.what) for cell in some()]
    assert {file.name for file in folder.iterdir()} == {f"{cell.key}.json" for cell in some()}
    for cell, record in zip(some(), records, strict=True):
        assert json.loads(cell.file(folder).read_text(encoding="utf-8")) == record


def test_the_key_tells_every_description_apart() -> None:
    wanted = some()
    assert len({cell.key for cell in wanted}) == len(wanted) == 8
    one = wanted[0]
    for key in one.what:
        assert Cell(one.study, {**one.what, key: "other"}).key != one.key
    assert Cell("invariant", one.what).key != one.key


def test_equal_cells_are_computed_once(tmp_path: Path) -> None:
    told: list[int] = []
    one = some()[-1]
    records = cells.run([one, one], SMALL, tmp_path, jobs=1, watch=lambda done, total, record: told.append(total))
    assert told == [1]
    assert len(records) == 1


def test_processes_side_by_side_give_the_same(reference: tuple[list[dict[str, Any]], Path], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    records = cells.run(some(), SMALL, tmp_path, jobs=2, watch=lambda done, total, record: told.append((done, total)))
    assert outcome(records) == outcome(reference[0])
    assert told == [(count, 8) for count in range(1, 9)]


def test_resume_computes_only_what_is_missing(reference: tuple[list[dict[str, Any]], Path], tmp_path: Path) -> None:
    cells.run(some()[:6], SMALL, tmp_path, jobs=1)
    marked = some()[0].file(tmp_path)
    marked.write_text(marked.read_text(encoding="utf-8").replace('"study"', '"kept": true, "study"'), encoding="utf-8")
    told: list[dict[str, Any]] = []
    records = cells.run(some(), SMALL, tmp_path, jobs=1, resume=True, watch=lambda *event: told.append(event[2]))
    assert [record["what"] for record in told] == [dict(cell.what) for cell in some()[6:]]
    assert records[0].pop("kept") is True
    assert outcome(records) == outcome(reference[0])


def test_without_resume_everything_is_computed_again(tmp_path: Path) -> None:
    last = some()[-1:]
    cells.run(last, SMALL, tmp_path, jobs=1)
    last[0].file(tmp_path).write_text("{}", encoding="utf-8")
    assert cells.run(last, SMALL, tmp_path, jobs=1)[0]["what"] == dict(last[0].what)


def test_what_was_kept_under_another_protocol_does_not_count(tmp_path: Path) -> None:
    old = Cell("layers", {**some()[-1].what, "protocol": 0})
    cells.run([old], SMALL, tmp_path, jobs=1)
    told: list[int] = []
    cells.run(some()[-1:], SMALL, tmp_path, jobs=1, resume=True, watch=lambda done, *_: told.append(done))
    assert told == [1]


def test_other_images_are_refused(tmp_path: Path) -> None:
    other = Config(seeds=1, epochs=1, train_images=101, validation_images=40)
    with pytest.raises(ValueError, match="the images of 'fashion' here are not those"):
        cells.run(some()[:1], other, tmp_path, jobs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"), [({"jobs": 0}, "at least 1"), ({"jobs": 2, "scheduler": "x"}, "one")]
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cells.run(some(), SMALL, tmp_path, **arguments)


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_finished(reference: tuple[list[dict[str, Any]], Path], tmp_path: Path, jobs: int) -> None:
    """The interruption comes when three cells are finished; the rest is computed by the next call."""

    def interrupt(done: int, total: int, record: dict[str, Any]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"3 of 8 cells are finished and kept in .*--resume"):
        cells.run(some(), SMALL, tmp_path, jobs=jobs, watch=interrupt)
    assert len(list(tmp_path.glob("*.json"))) == 3
    assert outcome(cells.run(some(), SMALL, tmp_path, jobs=1, resume=True)) == outcome(reference[0])


# ---- on a cluster of processes of this machine

WORKER = """
import sys
import asyncio
from distributed import Worker

async def main():
    async with Worker(sys.argv[1], nthreads=1, name=sys.argv[2], dashboard=False) as worker:
        print("ready", flush=True)
        await worker.finished()

asyncio.run(main())
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """The address of a scheduler in this process, and two workers, each a process."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: no cluster to test with")
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp://"
    ) as local:
        workers = []
        try:
            for name in ("one", "two"):
                command = [sys.executable, "-c", textwrap.dedent(WORKER), local.scheduler_address, name]
                workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path))
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "ready\n"
            yield local.scheduler_address, workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait(timeout=60)


def test_a_worker_that_dies_costs_no_cell(
    reference: tuple[list[dict[str, Any]], Path], tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[str]]]
) -> None:
    address, workers = cluster
    folder = tmp_path / "cells"
    told: list[str] = []

    def kill_one(done: int, total: int, record: dict[str, Any]) -> None:
        told.append(Cell(record["study"], record["what"]).key)
        if done == 2:
            os.kill(workers[0].pid, signal.SIGKILL)

    records = cells.run(some(), SMALL, folder, scheduler=address, watch=kill_one)
    assert workers[0].wait(timeout=60) == -signal.SIGKILL
    assert workers[1].poll() is None
    assert sorted(told) == sorted(cell.key for cell in some())  # every cell, none twice
    assert {file.name for file in folder.iterdir()} == {f"{cell.key}.json" for cell in some()}
    assert outcome(records) == outcome(reference[0])


def test_a_scheduler_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: no cluster to test with")
    dask = pytest.importorskip("dask", reason="distributed is not installed: no cluster to test with")
    began = time.monotonic()
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(OSError, match="Timed out"):
        cells.run(some(), SMALL, tmp_path, scheduler="tcp://127.0.0.1:9")
    assert time.monotonic() - began < 60
    assert distributed.__version__
