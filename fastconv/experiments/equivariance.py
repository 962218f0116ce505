"""Does a CNN keep its accuracy when the images move? The shift-equivariance experiment.

Convolution commutes with translation, so a convolutional network might be expected to see a moved image as well as the
image. For several seeds a small CNN and a small MLP are trained on images as they are, and evaluated on the validation
images as they are and shifted by two pixels to the right and two down, zeros moving in.

Every training, one model with one seed, is a *run*. Runs are independent, so they are spread over the cores, each on
one thread. A finished run is a JSON file in ``DIR/runs``, an interrupted one a checkpoint there, so that little is lost
when the experiment is stopped. :func:`run` does all of it and returns what ``DIR/results.json`` holds; :func:`main`
is the command, which shows progress and writes figures and report as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import settings
from .._version import __version__
from ..backends import load as load_backend
from . import data, statistics
from .statistics import MODELS, Run

BATCH_SIZE = 50
MOMENTUM = 0.9
LEARNING_RATE = {"cnn": 0.01, "mlp": 0.05}
SHIFT = (2, 2)  # pixels to the right, pixels down
MAP_SHIFTS = range(-4, 5)  # of the map of accuracy over shifts, along both axes


@dataclasses.dataclass(frozen=True)
class Config:
    """What is to be run; the rest of the protocol is fixed.

    datasets: each data set's name with its folder of idx files, None where it comes with the package or is downloaded.
    seeds: repetitions, with the seeds 0, 1, ...; backend: None for the current one.
    """

    datasets: dict[str, str | None] = dataclasses.field(default_factory=lambda: {"fashion": None})
    seeds: int = 5
    epochs: int = 10
    backend: str | None = None
    train_images: int = data.SPLIT
    validation_images: int = data.SPLIT

    def __post_init__(self) -> None:
        for name in self.datasets:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"a data set's name names files too: letters, digits, '.', '_' and '-', got {name!r}")
        if not self.datasets or min(self.seeds, self.epochs) < 1:
            raise ValueError("the experiment needs at least one data set, one seed and one epoch")

    def load(self, name: str) -> data.Dataset:
        return data.load(name, self.datasets[name], self.train_images, self.validation_images)


class Cell(NamedTuple):
    """Which run: a data set, a model and a seed."""

    dataset: str
    model: str
    seed: int

    def file(self, folder: Path, suffix: str) -> Path:
        return folder / f"{self.dataset}-{self.model}-{self.seed}{suffix}"


def cells(config: Config) -> list[Cell]:
    """All runs of `config`; the longer trainings first, so that the cores finish together."""
    return [Cell(d, m, s) for m in MODELS for d in config.datasets for s in range(config.seeds)]


def build(model: str, seed: int) -> Any:
    """The model ``"cnn"`` (5,805 parameters) or ``"mlp"`` (23,860), initialised as torch does from `seed`.

    >>> sum(p.size for p in build("cnn", 0).parameters()), sum(p.size for p in build("mlp", 0).parameters())
    (5805, 23860)
    """
    from .. import nn

    rng = np.random.default_rng(seed)
    if model == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 5, 4, stride=2, padding=1, rng=rng),
            nn.ReLU(),
            nn.Conv2d(5, 10, 4, stride=2, padding=1, rng=rng),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(490, data.CLASSES, rng=rng),
        )
    if model == "mlp":
        hidden = 30
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(data.SIDE**2, hidden, rng=rng),
            nn.ReLU(),
            nn.Linear(hidden, data.CLASSES, rng=rng),
        )
    raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}")


# ---- one run


def train(
    cell: Cell,
    config: Config,
    folder: Path,
    backend: str,
    resume: bool = False,
    each_epoch: Callable[[], None] = lambda: None,
) -> Run:
    """Carry out one run on one thread, and leave it as a JSON file in `folder`.

    While it lasts there are a checkpoint, from which `resume` goes on, and a small file that tells how far it is.
    """
    from .. import nn

    dataset = config.load(cell.dataset)
    original = (dataset.validation_images, dataset.validation_labels)
    shifted = (data.shift(dataset.validation_images, *SHIFT), dataset.validation_labels)
    checkpoint, progress = cell.file(folder, ".safetensors"), cell.file(folder, ".progress")
    if not resume:
        checkpoint.unlink(missing_ok=True)

    def after_epoch(record: dict[str, Any]) -> None:
        each_epoch()
        _write_progress(progress, record)

    with settings.use_backend(backend), settings.num_threads(1):
        model = build(cell.model, cell.seed)
        history = nn.fit(
            model,
            (dataset.train_images, dataset.train_labels),
            loss=nn.CrossEntropyLoss(),
            optimizer=nn.SGD(model.parameters(), lr=LEARNING_RATE[cell.model], momentum=MOMENTUM),
            epochs=config.epochs,
            batch_size=BATCH_SIZE,
            seed=cell.seed,
            validation={"original": original, "shifted": shifted},
            checkpoint=checkpoint,
            resume=resume,
            callback=after_epoch,
            progress=False,
        )
        accuracies = shift_map(model, *original)
    last = history["epochs"][-1]
    run = {
        **cell._asdict(),
        "original": last["original_accuracy"],
        "shifted": last["shifted_accuracy"],
        "epochs": [
            {
                "loss": record["loss"],
                "original": record["original_accuracy"],
                "shifted": record["shifted_accuracy"],
                "training": record["accuracy"],
                "seconds": record["seconds"],
                "images_per_second": record["images_per_second"],
            }
            for record in history["epochs"]
        ],
        "shift_map": accuracies,
        "seconds": sum(record["seconds"] for record in history["epochs"]),
    }
    write_json(cell.file(folder, ".json"), run)
    checkpoint.unlink(missing_ok=True)
    progress.unlink(missing_ok=True)
    return run


def shift_map(model: Any, images: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """The accuracy of `model` at every shift of :data:`MAP_SHIFTS`: a row for each shift down."""
    from .. import nn

    def accuracy(right: int, down: int) -> float:
        return float(nn.evaluate(model, (data.shift(images, right, down), labels), batch_size=250)["accuracy"])

    return [[accuracy(right, down) for right in MAP_SHIFTS] for down in MAP_SHIFTS]


def _write_progress(path: Path, record: dict[str, Any]) -> None:
    """For whoever watches; replaced as a whole, so that nobody reads half of it, but not forced to the disk."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    os.replace(temporary, path)


def _train_in_worker(cell: Cell, config: Config, folder: Path, backend: str, resume: bool, parent: int) -> Run:
    if os.getpid() == parent:
        return train(cell, config, folder, backend, resume)

    def stop_if_orphaned() -> None:
        # Where the parent was killed, somebody may be resuming its runs: do not write into the same files.
        if os.getppid() != parent:
            os._exit(1)

    # Ctrl-C reaches every process of the terminal. The parent ends its workers itself; the checkpoint is there.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return train(cell, config, folder, backend, resume, stop_if_orphaned)


# ---- all runs


class Event(NamedTuple):
    """What :func:`run` tells while it runs: the last finished epoch of a run, or that the run is complete."""

    cell: Cell
    epoch: int  # finished epochs
    record: dict[str, Any]  # as in fit's history; empty where the run is complete
    finished: Run | None


def run(
    config: Config,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    jobs: int | None = None,
    watch: Callable[[Event], None] | None = None,
) -> dict[str, Any]:
    """Carry out the experiment and write ``results.json`` into the folder `out`.

    Parameters
    ----------
    config
        What to run.
    out
        Folder for the results, made where it does not exist. Its ``runs`` are those of an earlier call: with `resume`
        the finished ones are kept and the interrupted ones go on, else they are deleted.
    jobs
        Runs side by side; None for the CPUs that this process may use.
    watch
        Called with an :class:`Event`, from a thread of its own.

    Returns
    -------
    What ``results.json`` holds.

    Raises
    ------
    ValueError
        Where `jobs` is below 1, where `resume` finds runs with other settings, and as
        :func:`fastconv.experiments.data.load`.
    KeyboardInterrupt
        Ctrl-C, with what to do to go on as its message.

    Examples
    --------
    >>> import tempfile
    >>> small = Config(seeds=1, epochs=1, train_images=100, validation_images=50)
    >>> results = run(small, tempfile.mkdtemp(), jobs=1)
    >>> [(r["model"], r["seed"]) for r in results["runs"]]
    [('cnn', 0), ('mlp', 0)]
    """
    import joblib

    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    out = Path(out)
    folder = out / "runs"
    with settings.use_backend(config.backend) if config.backend else contextlib.nullcontext():
        backend = settings.current().backend
    assert backend is not None
    isa = load_backend(backend).isa()
    datasets = {name: config.load(name) for name in config.datasets}
    fixed = {
        "backend": backend,
        "epochs": config.epochs,
        "train_images": config.train_images,
        "validation_images": config.validation_images,
        "batch_size": BATCH_SIZE,
        "momentum": MOMENTUM,
        "learning_rate": LEARNING_RATE,
        "shift": list(SHIFT),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _prepare(folder, {"fastconv": __version__, **fixed}, {n: d.sha256 for n, d in datasets.items()}, resume)
    wanted = cells(config)
    missing = [cell for cell in wanted if not cell.file(folder, ".json").exists()]
    jobs = min(jobs or settings.usable_cpus(), max(len(missing), 1))
    with _watching(wanted, folder, watch):
        try:
            one_thread = {"inner_max_num_threads": 1} if jobs > 1 else {}  # refused where no process starts
            with joblib.parallel_config(backend="loky", n_jobs=jobs, **one_thread):
                work = joblib.delayed(_train_in_worker)
                joblib.Parallel()(work(cell, config, folder, backend, resume, os.getpid()) for cell in missing)
        except KeyboardInterrupt:
            done = sum(cell.file(folder, ".json").exists() for cell in wanted)
            raise KeyboardInterrupt(
                f"{done} of {len(wanted)} runs are finished and kept in {folder}, with checkpoints of the others: "
                f"to go on, give the same command with --resume"
            ) from None
    runs = [
        read_json(Cell(d, m, s).file(folder, ".json")) for d in datasets for m in MODELS for s in range(config.seeds)
    ]
    results = {
        "fastconv": __version__,
        "config": {"datasets": list(config.datasets), "seeds": config.seeds, **fixed, "isa": isa, "jobs": jobs},
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}, {settings.usable_cpus()} CPUs",
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": {name: {"source": d.source, "sha256": d.sha256} for name, d in datasets.items()},
        "runs": runs,
        "summary": statistics.summary(runs),
        "paired": statistics.paired(runs),
        "shift_map": {
            "shifts": list(MAP_SHIFTS),
            "accuracy": {d: {m: statistics.mean_map(runs, d, m) for m in MODELS} for d in datasets},
        },
    }
    write_json(out / "results.json", results)
    return results


def _prepare(folder: Path, fixed: dict[str, Any], digests: dict[str, str], resume: bool) -> None:
    """Make sure that the runs in `folder`, if they are to be kept, are runs of the same experiment."""
    path = folder / "settings.json"
    if resume and path.exists():
        before = read_json(path)
        different = [
            f"{key} was {before['settings'].get(key)!r}, is {value!r}"
            for key, value in fixed.items()
            if before["settings"].get(key) != value
        ]
        different += [
            f"the images of {name} are others"
            for name, digest in digests.items()
            if before["data"].get(name, digest) != digest
        ]
        if different:
            raise ValueError(
                f"{folder} holds runs with other settings ({'; '.join(different)}): choose another --out, or leave out "
                f"--resume to start afresh there"
            )
        digests = before["data"] | digests
    else:
        for pattern in ("*-*-*.json", "*.safetensors", "*.progress", "*.tmp"):
            for file in folder.glob(pattern):
                file.unlink()
    write_json(path, {"settings": fixed, "data": digests})


@contextlib.contextmanager
def _watching(wanted: list[Cell], folder: Path, watch: Callable[[Event], None] | None) -> Iterator[None]:
    """Meanwhile a thread looks at what the runs leave in `folder` and tells `watch` about it."""
    if watch is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(wanted, folder, watch, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(wanted: list[Cell], folder: Path, watch: Callable[[Event], None], over: threading.Event) -> None:
    seen = dict.fromkeys(wanted, 0)
    while seen:
        last_look = over.wait(0.2)
        for cell, epoch in list(seen.items()):
            finished = cell.file(folder, ".json")
            if finished.exists():
                run = read_json(finished)
                watch(Event(cell, len(run["epochs"]), {}, run))
                del seen[cell]
                continue
            try:
                record = read_json(cell.file(folder, ".progress"))
            except FileNotFoundError:
                continue
            if record["epoch"] + 1 > epoch:
                seen[cell] = record["epoch"] + 1
                watch(Event(cell, seen[cell], record, None))
        if last_look:
            return


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that have a part in the results."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in ("numpy", "scipy", "numba", "joblib", "safetensors", "matplotlib"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`. ValueError that names the file where it is damaged."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically: whatever happens, the file is the old one or the new one."""
    from ..nn.checkpoints import write_atomically

    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


# ---- the command


def main(config: Config, out: str | os.PathLike[str], *, resume: bool = False, jobs: int | None = None) -> None:
    """Carry out the experiment and show its progress and its table; results, figures and report go into `out`."""
    import rich.console

    # Figures come last, after minutes of training: what they need must be known to be there before.
    from . import figures, report

    out = Path(out)
    console = rich.console.Console(highlight=False)
    began = time.perf_counter()
    for name in config.datasets:
        console.print(f"{name}: {config.load(name).source}", soft_wrap=True)
    with _Display(config) as display:
        results = run(config, out, resume=resume, jobs=jobs, watch=display.show)
    console.print(table(results))
    for line in verdicts(results):
        console.print(line, soft_wrap=True)
    figures.draw(results, {name: config.load(name) for name in config.datasets}, out / "figures")
    report.write(results, out)
    console.print(
        f"\n{len(results['runs'])} runs, {time.perf_counter() - began:.0f} s; results in {out}: "
        f"results.json, figures/, report.html",
        soft_wrap=True,
    )


class _Display:
    """Progress in a terminal: a bar over all epochs and a line for each run under way; else a line a finished run."""

    def __init__(self, config: Config):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.config = config
        self.count = len(cells(config))
        self.finished = 0
        self.epochs: dict[Cell, int] = {}
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.all = self.progress.add_task(f"{self.count} runs", total=self.count * config.epochs, note="")
        self.tasks: dict[Cell, Any] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        cell = event.cell
        name = f"{cell.dataset} {cell.model.upper()} seed {cell.seed}"
        self.epochs[cell] = event.epoch
        self.progress.update(self.all, completed=sum(self.epochs.values()))
        if event.finished:
            self.finished += 1
            if cell in self.tasks:
                self.progress.remove_task(self.tasks.pop(cell))
            numbers = f"original {event.finished['original']:6.2%}, shifted {event.finished['shifted']:6.2%}"
            self.console.print(f"[{self.finished}/{self.count}] {name}: {numbers}", markup=False, soft_wrap=True)
            return
        if cell not in self.tasks:
            self.tasks[cell] = self.progress.add_task(name, total=self.config.epochs, note="")
        record = event.record
        note = (
            f"loss {record['loss']:.3f}, original {record['original_accuracy']:.1%}, "
            f"shifted {record['shifted_accuracy']:.1%}, {record['images_per_second']:,.0f} images/s"
        )
        if event.epoch == self.config.epochs:
            note += "; now at every shift"
        self.progress.update(self.tasks[cell], completed=event.epoch, note=note)


def table(results: dict[str, Any]) -> Any:
    """The accuracies of `results` as a rich table."""
    from rich.table import Table

    shift = "{} px right, {} px down".format(*results["config"]["shift"])
    seeds = results["config"]["seeds"]
    shown = Table(
        title=f"Accuracy in per cent, {'one seed' if seeds == 1 else f'mean ± standard deviation over {seeds} seeds'}",
        caption=f"shifted: {shift}; drop: original - shifted",
    )
    for heading in ("data set", "model"):
        shown.add_column(heading)
    for heading in ("original", "shifted", "drop"):
        shown.add_column(heading, justify="right")
    for dataset, models in results["summary"].items():
        for model, numbers in models.items():
            shown.add_row(
                dataset, model.upper(), *(per_cent(numbers[key]) for key in ("original", "shifted", "drop")),
                end_section=model == MODELS[-1],
            )  # fmt: skip
    return shown


def per_cent(numbers: dict[str, Any]) -> str:
    """``"96.17 ± 0.33"``, or ``"96.17"`` where there is one value only."""
    spread = "" if numbers["std"] is None else f" ± {100 * numbers['std']:.2f}"
    return f"{100 * numbers['mean']:.2f}{spread}"


def verdicts(results: dict[str, Any]) -> list[str]:
    """A line for each data set: by how much the CNN is better on the shifted images, and the test."""
    return [f"{name}: on the shifted images the CNN is {_verdict(test)}" for name, test in results["paired"].items()]


def _verdict(test: dict[str, Any]) -> str:
    points = 100 * test["difference"]
    how = f"{abs(points):.1f} points {'better' if points >= 0 else 'worse'} than the MLP"
    if test["p"] is None:
        return f"{how} ({'one seed: no test' if test['n'] == 1 else 'the same at every seed: no test'})"
    return (
        f"{how} (better at {test['positive']} of {test['n']} seeds; paired t = {test['t']:.2f}, p = {test['p']:.2g}: "
        f"{'significant' if test['p'] < statistics.SIGNIFICANT else 'not significant'} at {statistics.SIGNIFICANT})"
    )
