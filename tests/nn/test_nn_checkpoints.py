"""Checkpoints: written atomically, resumed bit for bit after SIGKILL and Ctrl-C, refused where of another run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nn_helpers import image_like

import fastconv.nn as nn
from fastconv.nn import checkpoints

pytest.importorskip("safetensors", reason="safetensors is not installed: there are no checkpoints")

EPOCHS, BATCH, EVERY, IMAGES = 3, 8, 3, 84  # 11 steps an epoch, the last of 4 images


def model() -> nn.Sequential:
    """Every kind of state: running statistics, dropout with a stream of the seed and with a generator of its own."""
    rng = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 4, 4, rng=rng),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(147, 10, rng=rng),
        nn.Dropout(0.1, rng=np.random.Generator(np.random.MT19937(5))),
    )


def run(optimizer: str = "Adam", module: nn.Module | None = None, **options: Any) -> tuple[dict[str, Any], nn.Module]:
    module = module or model()
    rate = {"SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True}, "Adam": {"lr": 0.01, "amsgrad": True}}[optimizer]
    step = getattr(nn, optimizer)(module.parameters(), **rate)
    data = options.pop("data", None) or image_like(IMAGES)
    settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 1, "loss": nn.CrossEntropyLoss()}
    return nn.fit(module, data, optimizer=step, **{**settings, **options}), module


def same(a: tuple[dict[str, Any], nn.Module], b: tuple[dict[str, Any], nn.Module]) -> None:
    """The same history, times apart, and the same state, bit for bit."""
    assert a[0]["step_loss"] == b[0]["step_loss"]
    timed = ("seconds", "images_per_second")
    untimed = [[{k: v for k, v in record.items() if k not in timed} for record in h["epochs"]] for h, _ in (a, b)]
    assert untimed[0] == untimed[1]
    for name, value in a[1].state_dict().items():
        np.testing.assert_array_equal(value, b[1].state_dict()[name], err_msg=name)


class Crash(Exception):
    pass


class Stopping(nn.CrossEntropyLoss):
    """Raises at one step, counted over the whole run."""

    def __init__(self, step: int, error: BaseException):
        super().__init__()
        self.left, self.error = step, error

    def forward(self, pred: Any, target: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().forward(pred, target)


Stopping.__name__ = "CrossEntropyLoss"  # a checkpoint remembers the name of the loss, and this one is the same


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("stop", [0, 2, 8, 11, 16, 30])
def test_resumed_run_is_the_same_bit_for_bit(optimizer: str, stop: int, tmp_path: Path) -> None:
    x, y = image_like(IMAGES)
    options = {"data": (x, y), "validation": (x[:30], y[:30])}
    whole = run(optimizer, **options)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Crash):
        run(optimizer, loss=Stopping(stop, Crash()), checkpoint=path, checkpoint_every=EVERY, **options)
    same(run(optimizer, checkpoint=path, checkpoint_every=EVERY, resume=True, **options), whole)
    same(run(optimizer, checkpoint=path, resume=True, **options), whole)  # nothing left to do


CHILD = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    sys.path.insert(0, {tests!r})
    import fastconv as fc
    fc.set_num_threads(1)
    import numpy as np
    import test_nn_checkpoints as t
    import fastconv.nn as nn

    class Hanging(nn.CrossEntropyLoss):
        step = 0

        def forward(self, pred, target):
            self.step += 1
            if self.step == {hang}:
                time.sleep(120)
            return super().forward(pred, target)

    Hanging.__name__ = "CrossEntropyLoss"
    history, module = t.run(loss=Hanging(), checkpoint={path!r}, checkpoint_every=t.EVERY, resume=True)
    np.savez({out!r}, losses=history["step_loss"], **module.state_dict())
"""


def child(path: Path, out: Path, hang: int = 0) -> subprocess.Popen[str]:
    """A training process that writes checkpoints, hangs in step `hang` (from 1), and in the end writes its results."""
    code = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent), path=str(path), out=str(out), hang=hang)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )


def wait_for_step(process: subprocess.Popen[str], path: Path, epoch: int, step: int) -> None:
    """Returns once the checkpoint is at this position."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(f"the child ended by itself: {process.stderr.read()}")
        if path.exists():
            _, record = checkpoints.load(path)  # readable at any moment
            if (record["epoch"], record["step"]) == (epoch, step):
                return
        time.sleep(0.005)
    raise AssertionError("no checkpoint within a minute")


def test_kill_9_in_mid_epoch_and_resume(tmp_path: Path) -> None:
    path, out = tmp_path / "run.safetensors", tmp_path / "out.npz"
    process = child(path, out, hang=11 + 5)
    try:
        wait_for_step(process, path, 1, 3)
    finally:
        process.kill()  # SIGKILL: no handler runs, nothing is flushed
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    _, record = checkpoints.load(path)
    assert (record["epoch"], record["step"]) == (1, 3), "killed in the middle of an epoch"
    process = child(path, out)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    history, module = run()
    with np.load(out) as result:
        assert result["losses"].tolist() == history["step_loss"]
        for name, value in module.state_dict().items():
            np.testing.assert_array_equal(result[name], value, err_msg=name)


def test_control_c_says_how_to_go_on(tmp_path: Path) -> None:
    path, out = tmp_path / "run.safetensors", tmp_path / "out.npz"
    process = child(path, out, hang=5)
    try:
        wait_for_step(process, path, 0, 3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode not in (0, None)
    assert "KeyboardInterrupt" in errors
    assert f"last checkpoint, {path}" in errors
    assert "resume=True" in errors
    same(run(checkpoint=path, resume=True), run())


@pytest.mark.parametrize("done", [True, False])
def test_control_c_while_the_checkpoint_is_written(
    done: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, save = tmp_path / "run.safetensors", checkpoints.save

    def interrupted(*arguments: Any) -> None:
        if done:
            save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, checkpoint_every=EVERY)
    errors = capsys.readouterr().err
    assert ("the last checkpoint" in errors) == done
    assert ("no checkpoint has been written yet" in errors) != done


def test_control_c_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.safetensors"
    for stop, options, words in [
        (
            13,
            {"checkpoint": path},
            ["epoch 2 of 3, after 2 of its 11 steps", str(path), "epoch 2, step 0", "resume=True"],
        ),
        (2, {"checkpoint": tmp_path / "other.safetensors"}, ["no checkpoint has been written yet"]),
        (2, {}, ["epoch 1 of 3, after 2 of its 11 steps", "no checkpoint to resume from"]),
    ]:
        with pytest.raises(KeyboardInterrupt):
            run(loss=Stopping(stop, KeyboardInterrupt()), **options)  # type: ignore[arg-type]
        said = capsys.readouterr().err
        assert all(word in said for word in words), said


# ---- atomic


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_a_failure_while_writing_leaves_the_old_file(
    broken: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    checkpoints.save(path, {"a": np.arange(3.0)}, {"n": 1})
    before = path.read_bytes()

    def fail(*_: Any) -> Any:
        raise error

    if broken == "write":

        class Half:
            """A file that takes half of what it is given."""

            def __init__(self, name: Path, mode: str):
                self.file = open(name, mode)  # noqa: SIM115 (closed by __exit__)

            def __enter__(self) -> Half:
                return self

            def __exit__(self, *_: Any) -> None:
                self.file.close()

            def write(self, content: bytes) -> None:
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                raise error

        monkeypatch.setattr(checkpoints, "open", Half, raising=False)
    else:
        monkeypatch.setattr(checkpoints.os, broken, fail)
    with pytest.raises(type(error)):
        checkpoints.save(path, {"a": np.zeros(1000)}, {"n": 2})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoints.save(path, {"a": np.arange(3.0)}, {"n": 1})
    before = path.read_bytes()
    code = f"""
    import os, signal, numpy as np
    from pathlib import Path
    from fastconv.nn import checkpoints
    checkpoints.os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.save(Path({str(path)!r}), {{"a": np.zeros(1000)}}, {{"n": 2}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes() == before
    checkpoints.save(path, {"a": np.zeros(2)}, {"n": 3})  # what is left beside it is no obstacle
    assert checkpoints.load(path)[1] == {"n": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_file_and_folder_are_flushed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    did = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(checkpoints.os, "fsync", lambda fd: did.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(checkpoints.os, "replace", lambda a, b: did.append("replace") or replace(a, b))
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the names of open files are read from /proc, which is Linux's")
    path = tmp_path / "run.safetensors"
    checkpoints.save(path, {}, {})
    folder = os.path.realpath(tmp_path)
    assert did == [f"{folder}/run.safetensors.tmp", "replace", folder]


# ---- content


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    arrays = {
        "scalar": np.array(3),
        "empty": np.empty((0, 2), np.float32),
        "strided": np.arange(12.0).reshape(3, 4).T[::2],
        "nan": np.array([np.nan, -0.0, np.inf]),
    }
    record = {"text": "é", "float": 0.1, "nan": float("nan"), "big": 2**100, "array": np.arange(3, dtype=np.uint32)}
    checkpoints.save(path, arrays, record)
    loaded, again = checkpoints.load(path)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    np.testing.assert_array_equal(again.pop("array"), record.pop("array"))
    assert again["float"] == 0.1
    assert np.isnan(again.pop("nan"))
    record.pop("nan")
    assert again == record
    with pytest.raises(TypeError, match="set"):
        checkpoints.save(path, {}, {"a": {1, 2}})
    assert checkpoints.load(path)[0].keys() == arrays.keys()


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "run.safetensors"
    _, module = run(checkpoint=path)
    tensors = load_file(path)
    module.load_state_dict({k[len("module/") :]: v for k, v in tensors.items() if k.startswith("module/")})
    assert "optimizer/0/exp_avg" in tensors


def test_more_epochs_may_follow(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(checkpoint=path, epochs=2)
    same(run(checkpoint=path, epochs=4, resume=True), run(epochs=4))


def test_an_early_stop_stays_stopped(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first = run(checkpoint=path, callback=lambda record: record["epoch"] == 0)
    assert len(first[0]["epochs"]) == 1
    same(run(checkpoint=path, resume=True), first)


def test_changed_rate_is_part_of_the_state(tmp_path: Path) -> None:
    def train(epochs: int, **options: Any) -> tuple[dict[str, Any], nn.Module]:
        module = model()
        sgd = nn.SGD(module.parameters(), lr=0.1)

        def decay(record: dict[str, Any]) -> None:
            sgd.param_groups[0]["lr"] *= 0.5

        history = nn.fit(
            module,
            image_like(40),
            loss=nn.CrossEntropyLoss(),
            optimizer=sgd,
            epochs=epochs,
            batch_size=8,
            callback=decay,
            **options,
        )
        return history, module

    path = tmp_path / "run.safetensors"
    train(2, checkpoint=path)
    same(train(4, checkpoint=path, resume=True), train(4))


def test_without_resume_the_run_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(checkpoint=path, epochs=1)
    same(run(checkpoint=path), run())


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    order = [np.random.default_rng(e).permutation(IMAGES) for e in range(EPOCHS)]
    with pytest.raises(Crash):
        run(checkpoint=path, checkpoint_every=EVERY, order=order, loss=Stopping(5, Crash()))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("batch_size was 8, is 4", {"batch_size": 4}),
        ("seed was 1, is 2", {"seed": 2}),
        ("examples was 84, is 20", {"data": image_like(20)}),
        ("optimizer was 'Adam', is 'SGD'", {"optimizer": "SGD"}),
        ("loss was 'CrossEntropyLoss', is 'MSELoss'", {"loss": nn.MSELoss()}),
        (r"order\[0\] has changed", {"order": None}),
        ("random modules were", {"module": nn.Sequential(*list(model())[:5], nn.Linear(147, 10))}),
        ("missing keys: 8.weight", {"module": nn.Sequential(*model(), nn.ReLU(), nn.Linear(10, 10))}),
    ]
    for words, options in cases:
        module = options.pop("module", None) or model()
        before = module.state_dict()
        with pytest.raises(ValueError, match=words):
            run(module=module, **{"checkpoint": path, "resume": True, "order": order, **options})
        for name, value in module.state_dict().items():
            np.testing.assert_array_equal(value, before[name])
    same(run(checkpoint=path, resume=True, order=order), run(order=order))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(checkpoint=path, epochs=1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        run(checkpoint=path, resume=True)
    path.write_text("not at all")
    with pytest.raises(ValueError, match="no checkpoint"):
        run(checkpoint=path, resume=True)
    checkpoints.require_safetensors().save_file({"a": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="no checkpoint"):
        run(checkpoint=path, resume=True)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "absent")
