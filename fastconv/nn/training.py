"""The training loop: :func:`fit`, and :func:`evaluate`."""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import settings
from . import checkpoints
from .module import DTYPES, Module
from .optimisers import Optimizer

_SHUFFLE, _MASKS = 0, 1  # the streams of random numbers that a seed is split into


def evaluate(module: Module, data: tuple[Any, Any], loss: Any = None, batch_size: int = 1000) -> dict[str, float]:
    """The loss and accuracy of `module` on `data`, in evaluation mode.

    module: left in the mode in which it was.
    data: (x, y), first axis the examples.
    loss: a loss with reduction "mean" for the entry "loss"; None leaves it out.
    batch_size: examples at a time. Default 1000.

    Returns {"loss": mean over the examples, "accuracy": fraction whose largest output is the class y}; "accuracy" where
    y holds class indices. Raises ValueError or TypeError for data that do not fit.

    >>> import fastconv.nn as nn
    >>> model = nn.Linear(2, 2)
    >>> model.weight.data, model.bias.data = np.eye(2), np.zeros(2)
    >>> evaluate(model, (np.float32([[1, 0], [0, 1]]), np.array([0, 0])))
    {'accuracy': 0.5}
    """
    x, y = _examples(module, data, "data")
    with _blas_threads():
        return _evaluate(module, x, y, loss, _positive("batch_size", batch_size))


def _evaluate(module: Module, x: np.ndarray, y: np.ndarray, loss: Any, batch_size: int) -> dict[str, float]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    total, correct = 0.0, 0
    try:
        for start in range(0, len(x), batch_size):
            pred = module.forward(x[start : start + batch_size])
            target = y[start : start + batch_size]
            if loss is not None:
                total += _scalar(loss.forward(pred, target)) * len(target)
            if _are_classes(pred, y):
                correct += int(np.count_nonzero(pred.argmax(axis=1) == target))
    finally:
        for m, mode in modes:
            m.training = mode
    result = {}
    if loss is not None:
        result["loss"] = total / len(x)
    if _are_classes(pred, y):
        result["accuracy"] = correct / len(x)
    return result


def fit(
    module: Module,
    data: tuple[Any, Any],
    *,
    loss: Any,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    order: Sequence[Any] | None = None,
    validation: tuple[Any, Any] | Mapping[str, tuple[Any, Any]] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    checkpoint_every: int | None = None,
    progress: bool | None = None,
) -> dict[str, list[Any]]:
    """Train `module` on `data`: shuffled batches, forward, loss, backward, step.

    Parameters
    ----------
    module : Module
        Put into training mode.
    data : (x, y)
        x of the module's dtype, y what `loss` takes, first axis the examples. Arrays; nothing is converted but integers
        in y. The last batch of an epoch may be smaller.
    loss : a loss with reduction "mean" or "sum"
    optimizer : Optimizer over the module's parameters
    epochs : int
        In all, those of a run that is resumed included.
    batch_size : int
    seed : int, default 0
        Decides the order of the examples (unless `order` is given) and the masks of every :class:`Dropout` that has no
        generator of its own. The same seed, initial parameters and number of threads give the same result, bit for bit.
    order : sequence, default None
        ``order[e]`` is epoch e's permutation of ``range(len(x))``.
    validation : (x, y), or a mapping from names to such pairs, default None
        Evaluated after every epoch.
    checkpoint : path, default None
        File that is replaced atomically after every epoch: parameters, buffers, state of the optimiser and of the
        random generators, position, history. Needs safetensors.
    resume : bool, default False
        Go on from `checkpoint`, bit for bit, as if the run had never stopped; from the beginning where there is no such
        file yet. `module` and `optimizer` are to be built as for the first run; all else must be the same, but `epochs`
        may be larger.
    callback : function, default None
        Called after every epoch with its entry of the history, before the checkpoint is written. True ends the
        training.
    checkpoint_every : int, default None
        Write the checkpoint after so many steps as well.
    progress : bool, default None
        Show a progress bar (with tqdm). None: where standard error is a terminal and tqdm is installed.

    Returns
    -------
    {"step_loss": [every step's loss], "epochs": [{"epoch": from 0, "loss": mean over the examples, "accuracy": of the
    predictions made while training (where y holds class indices), "seconds", "images_per_second", and for each
    validation set "<name>_loss" and "<name>_accuracy", name "validation" where it is a pair}]}

    Raises
    ------
    ValueError, TypeError
        Arguments that do not fit together; a checkpoint of another run.
    ImportError
        `checkpoint` without safetensors.
    KeyboardInterrupt
        Ctrl-C: the last checkpoint is left as it is, and a line on standard error says how to go on.

    Notes
    -----
    NumPy's BLAS, which :class:`Linear` uses, is held to ``fastconv.get_num_threads()`` meanwhile if threadpoolctl is
    installed (``pip install "fastconv[training]"``).

    Examples
    --------
    >>> import fastconv.nn as nn
    >>> x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    >>> model = nn.Linear(2, 2, rng=0)
    >>> history = fit(model, (x, (x[:, 0] > 0).astype(int)), loss=nn.CrossEntropyLoss(),
    ...               optimizer=nn.SGD(model.parameters(), lr=1.0), epochs=5, batch_size=10)
    >>> len(history["step_loss"]), history["epochs"][-1]["accuracy"] > 0.9
    (50, True)
    """
    x, y = _examples(module, data, "data")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function, got {callback!r}")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(id(p) for p in module.parameters()):
        raise ValueError("the optimizer has no parameter of the module: nothing would be trained")
    if validation is not None and not isinstance(validation, Mapping):
        validation = {"validation": validation}
    run = _Run(
        module=module,
        x=x,
        y=y,
        loss=loss,
        optimizer=optimizer,
        epochs=_positive("epochs", epochs, minimum=0),
        batch_size=_positive("batch_size", batch_size),
        seed=_positive("seed", seed, minimum=0),
        order=order,
        validation={name: _examples(module, pair, name) for name, pair in (validation or {}).items()},
        checkpoint=None if checkpoint is None else Path(checkpoint),
        checkpoint_every=None if checkpoint_every is None else _positive("checkpoint_every", checkpoint_every),
        callback=callback,
    )
    if run.checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError(f"{'resume' if resume else 'checkpoint_every'} needs checkpoint=, the file's path")
    if run.checkpoint is not None:
        checkpoints.require_safetensors()
        if not run.checkpoint.parent.is_dir():
            raise ValueError(f"checkpoint={str(run.checkpoint)!r}: there is no folder {run.checkpoint.parent}")
        if run.checkpoint.is_dir():
            raise ValueError(f"checkpoint={str(run.checkpoint)!r} is a folder: give the path of a file")
    with _blas_threads(), run.random_masks():
        if resume and run.checkpoint is not None and run.checkpoint.exists():
            run.restore()
        with _progress_bar(progress, run) as advance:
            try:
                run.train(advance)
            except KeyboardInterrupt:
                print(run.interrupted(), file=sys.stderr, flush=True)
                raise
    return {"step_loss": run.step_loss, "epochs": run.records}


class _Run:
    """One call of :func:`fit`: its arguments, and how far it has come. The latter is what a checkpoint holds."""

    def __init__(
        self,
        module: Module,
        x: np.ndarray,
        y: np.ndarray,
        loss: Any,
        optimizer: Optimizer,
        epochs: int,
        batch_size: int,
        seed: int,
        order: Sequence[Any] | None,
        validation: dict[str, tuple[np.ndarray, np.ndarray]],
        checkpoint: Path | None,
        checkpoint_every: int | None,
        callback: Callable[[dict[str, Any]], Any] | None,
    ):
        self.module, self.x, self.y, self.loss, self.optimizer = module, x, y, loss, optimizer
        self.epochs, self.batch_size, self.seed, self.order = epochs, batch_size, seed, order
        self.validation, self.checkpoint, self.checkpoint_every = validation, checkpoint, checkpoint_every
        self.callback = callback
        if order is not None and len(order) < epochs:
            raise ValueError(f"order holds {len(order)} permutations for {epochs} epochs")
        self.steps_per_epoch = -(-len(x) // batch_size)
        self.x_batch = np.empty((min(batch_size, len(x)), *x.shape[1:]), x.dtype)
        self.y_batch = np.empty((min(batch_size, len(x)), *y.shape[1:]), y.dtype)
        # Position and history. The epoch is the one under way, the step the number of its steps that are done.
        self.epoch = self.step = 0
        self.step_loss: list[float] = []
        self.records: list[dict[str, Any]] = []
        self.loss_sum, self.seconds = 0.0, 0.0  # of the epoch under way, until here
        self.correct: int | None = None  # None: no accuracy, as y holds no class indices
        self.stopped = False
        self.saved: tuple[int, int] | None = None  # position of the file

    # ---- random numbers

    @contextlib.contextmanager
    def random_masks(self) -> Iterator[None]:
        """Meanwhile every module that draws and has no generator of its own draws from a stream of the seed."""
        lent = []
        for number, module in enumerate(self.module.modules()):
            if getattr(module, "rng", self) is None:
                setattr(module, "rng", self._stream(_MASKS, number))  # noqa: B010 (not every module has the attribute)
                lent.append(module)
        try:
            yield
        finally:
            for module in lent:
                setattr(module, "rng", None)  # noqa: B010

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _generators(self) -> dict[str, np.random.Generator]:
        found = ((name, getattr(module, "rng", None)) for name, module in self.module.named_modules())
        return {name: rng for name, rng in found if isinstance(rng, np.random.Generator)}

    def permutation(self) -> np.ndarray:
        """The order of the examples in the epoch under way."""
        n = len(self.x)
        if self.order is None:
            return self._stream(_SHUFFLE, self.epoch).permutation(n)
        given = np.asarray(self.order[self.epoch])
        if given.shape != (n,) or given.dtype.kind not in "iu":
            raise ValueError(f"order[{self.epoch}] must be {n} ints, got {given.dtype} of shape {given.shape}")
        given = given.astype(np.intp)
        if given.min() < 0 or given.max() >= n or np.bincount(given, minlength=n).max() > 1:
            raise ValueError(f"order[{self.epoch}] is no permutation of range({n})")
        return given

    # ---- the loop

    def train(self, advance: Callable[[int, float], None]) -> None:
        self.module.train()
        while self.epoch < self.epochs and not self.stopped:
            self._finish_epoch(advance)
            self.stopped = bool(self.callback and self.callback(self.records[-1]))
            self.epoch, self.step = self.epoch + 1, 0
            self.loss_sum, self.seconds, self.correct = 0.0, 0.0, None
            self.save()

    def _finish_epoch(self, advance: Callable[[int, float], None]) -> None:
        order = self.permutation()
        module, loss, optimizer, every = self.module, self.loss, self.optimizer, self.checkpoint_every
        n, size = len(self.x), self.batch_size
        winners: np.ndarray | None = None  # the class predicted for each example of order[counted:]
        counted = min(self.step * size, n)
        began = time.perf_counter() - self.seconds
        for start in range(counted, n, size):
            index = order[start : start + size]
            count = len(index)
            # mode="clip" spares a copy through a buffer; the permutation has been checked.
            x = np.take(self.x, index, axis=0, out=self.x_batch[:count], mode="clip")
            y = np.take(self.y, index, axis=0, out=self.y_batch[:count], mode="clip")
            pred = module.forward(x)
            value = _scalar(loss.forward(pred, y))
            optimizer.zero_grad()
            module.backward_parameters(loss.backward())
            optimizer.step()
            self.step_loss.append(value)
            self.loss_sum += value * count
            if winners is None and _are_classes(pred, y):
                winners = np.empty(n, np.intp)
            if winners is not None:
                pred.argmax(axis=1, out=winners[start : start + count])
            self.step += 1
            advance(count, value)
            if every and not self.step % every and start + size < n:
                self._count(winners, order, counted, start + count)
                counted, self.seconds = start + count, time.perf_counter() - began
                self.save()
        self._count(winners, order, counted, n)
        seconds = time.perf_counter() - began
        record: dict[str, Any] = {"epoch": self.epoch, "loss": self.loss_sum / n}
        if self.correct is not None:
            record["accuracy"] = self.correct / n
        record |= {"seconds": seconds, "images_per_second": n / seconds}
        for name, (x, y) in self.validation.items():
            result = _evaluate(module, x, y, loss, max(size, 250))
            record |= {f"{name}_{key}": value for key, value in result.items()}
        self.records.append(record)

    def _count(self, winners: np.ndarray | None, order: np.ndarray, start: int, stop: int) -> None:
        """Count the right answers to order[start:stop]: once in a while, because it costs less than at every step."""
        if winners is not None:
            right = int(np.count_nonzero(winners[start:stop] == self.y[order[start:stop]]))
            self.correct = right + (self.correct or 0)

    # ---- checkpoints

    def save(self) -> None:
        """Write the checkpoint, if one is wanted."""
        if self.checkpoint is None:
            return
        arrays = {f"module/{name}": array for name, array in self.module.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for number, state in optimizer["state"].items():
            arrays |= {f"optimizer/{number}/{name}": array for name, array in state.items()}
        arrays["step_loss"] = np.array(self.step_loss, np.float64)
        record = {
            "run": self._identity(),
            "epoch": self.epoch,
            "step": self.step,
            "epochs": self.records,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "order": self._order_digest() if self.step else None,
            "param_groups": optimizer["param_groups"],
            "generators": {name: rng.bit_generator.state for name, rng in self._generators().items()},
        }
        try:
            checkpoints.save(self.checkpoint, arrays, record)
            self.saved = self.epoch, self.step
        except KeyboardInterrupt:  # it may have come when the new file was in its place already
            if self._on_disk() == (self.epoch, self.step):
                self.saved = self.epoch, self.step
            raise

    def _on_disk(self) -> tuple[int, int] | None:
        """The position of the checkpoint file; None where there is none that can be read."""
        assert self.checkpoint is not None
        try:
            _, record = checkpoints.load(self.checkpoint)
        except (OSError, ValueError):
            return None
        return record["epoch"], record["step"]

    def restore(self) -> None:
        """Take up the position of the checkpoint. ValueError, the module unchanged, where it is of another run."""
        assert self.checkpoint is not None
        arrays, record = checkpoints.load(self.checkpoint)
        own = self._identity()
        different = [
            f"{key} was {record['run'].get(key)!r}, is {own[key]!r}"
            for key in own
            if record["run"].get(key) != own[key]
        ]
        generators = self._generators()
        if record["generators"].keys() != generators.keys():
            different.append(f"random modules were {sorted(record['generators'])}, are {sorted(generators)}")
        self.epoch, self.step = record["epoch"], record["step"]
        under_way = record["order"] is not None and self.epoch < self.epochs
        if not different and under_way and record["order"] != self._order_digest():
            different.append(f"order[{self.epoch}] has changed")
        if different:
            raise ValueError(f"{self.checkpoint} is of another run: {'; '.join(different)}")
        parts: dict[str, dict[str, np.ndarray]] = {"module": {}, "optimizer": {}}
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            if rest:
                parts[kind][rest] = array
        state: dict[int, dict[str, np.ndarray]] = {}
        for name, array in parts["optimizer"].items():
            number, _, key = name.partition("/")
            state.setdefault(int(number), {})[key] = array
        before = self.module.state_dict()
        try:
            self.module.load_state_dict(parts["module"])
            self.optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})
            for name, rng in generators.items():
                rng.bit_generator.state = record["generators"][name]
        except (ValueError, TypeError) as error:
            self.module.load_state_dict(before)
            raise ValueError(f"{self.checkpoint} is of another run: {error}") from error
        self.step_loss, self.records = arrays["step_loss"].tolist(), record["epochs"]
        self.loss_sum, self.correct, self.seconds = record["loss_sum"], record["correct"], record["seconds"]
        self.stopped, self.saved = record["stopped"], (self.epoch, self.step)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        return {
            "optimizer": type(self.optimizer).__name__,
            "loss": type(self.loss).__name__,
            "examples": len(self.x),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def _order_digest(self) -> str:
        return hashlib.sha256(self.permutation().astype(np.int64).tobytes()).hexdigest()

    def interrupted(self) -> str:
        """What to say after Ctrl-C."""
        where = (
            f"training interrupted in epoch {self.epoch + 1} of {self.epochs}, "
            f"after {self.step} of its {self.steps_per_epoch} steps"
        )
        if self.checkpoint is None:
            return f"{where}; there is no checkpoint to resume from (give fit a checkpoint= to have one)"
        if self.saved is None:
            return f"{where}; no checkpoint has been written yet"
        epoch, step = self.saved
        return (
            f"{where}; the last checkpoint, {self.checkpoint}, is of epoch {epoch + 1}, step {step}: "
            "to go on from there, call fit again with the same arguments and resume=True"
        )


# ---- arguments


def _examples(module: Module, pair: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) as arrays that batches can be taken from."""
    try:
        x, y = pair
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (x, y)") from None
    x, y = np.asarray(x), np.asarray(y)
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(f"{name}: x and y must hold the same number of examples, at least one: {x.shape}, {y.shape}")
    dtypes = {p.dtype for p in module.parameters()} or set(DTYPES)
    if x.dtype not in dtypes:
        wanted = " or ".join(sorted(str(d) for d in dtypes))
        raise TypeError(
            f"{name}: x is {x.dtype}, the module takes {wanted}: "
            f"convert it, for example with astype(np.{wanted.split()[0]})"
        )
    if y.dtype.kind in "iub":
        y = y.astype(np.int64, copy=False)
    # take() copies the whole of an array that is not contiguous, for every batch
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def _positive(name: str, value: Any, minimum: int = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def _scalar(value: Any) -> float:
    if type(value) is not float and np.ndim(value):
        raise ValueError("the loss must be one number: reduction 'mean' or 'sum'")
    return float(value)


def _are_classes(pred: np.ndarray, y: np.ndarray) -> bool:
    """Whether `pred` is (N, C) and y holds class indices, so that there is an accuracy."""
    return pred.ndim == 2 and y.ndim == 1 and y.dtype.kind == "i"


# ---- surroundings


def _blas_threads() -> contextlib.AbstractContextManager[Any]:
    """Holds NumPy's BLAS to the number of threads of fastconv, if threadpoolctl is there to do it.

    Once a fit and not once a step: finding the loaded libraries takes milliseconds.
    """
    try:
        import threadpoolctl
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = threadpoolctl.threadpool_limits(
        limits=settings.get_num_threads(), user_api="blas"
    )
    return limits


@contextlib.contextmanager
def _progress_bar(progress: bool | None, run: _Run) -> Iterator[Callable[[int, float], None]]:
    """What to call after each step with its number of images and its loss."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda count, loss: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        if progress:
            raise ImportError('the progress bar needs tqdm: pip install "fastconv[training]"') from error
        yield lambda count, loss: None
        return
    n = len(run.x)
    done = run.epoch * n + min(run.step * run.batch_size, n)
    with tqdm(total=run.epochs * n, initial=done, unit=" images", unit_scale=True) as bar:
        pending, shown = 0, 0.0

        def advance(count: int, loss: float) -> None:
            nonlocal pending, shown
            pending += count
            now = time.perf_counter()
            if now - shown < 0.1 and bar.n + pending < bar.total:  # drawing takes longer than a step
                return
            bar.set_description(f"epoch {run.epoch + 1}/{run.epochs}", refresh=False)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(pending)
            pending, shown = 0, now

        yield advance
