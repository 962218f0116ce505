"""Backend, threads and precision: as calls, as `with` blocks, from the environment, in several threads at once."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import planner, settings

SETTINGS: list[tuple[str, Callable[[Any], Any], Callable[[], Any], tuple[Any, Any, Any]]] = [
    ("threads", fc.num_threads, fc.get_num_threads, (3, 5, 7)),
    ("precision", fc.precision, lambda: settings.current().precision, ("strict", "default", "strict")),
    (
        "backend",
        fc.use_backend,
        lambda: settings.current().backend,
        ("reference", fc.backends()[0], "reference"),
    ),
]
pytestmark = pytest.mark.usefixtures("process_settings")
each_setting = pytest.mark.parametrize(
    ("setter", "getter", "values"), [row[1:] for row in SETTINGS], ids=[row[0] for row in SETTINGS]
)


def in_new_thread(function: Callable[[], Any]) -> Any:
    """What the function returns in a thread of its own."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results[0]


@each_setting
def test_a_call_acts_at_once_and_everywhere(setter: Any, getter: Any, values: Any) -> None:
    for value in values:
        setter(value)
        assert getter() == value
        assert in_new_thread(getter) == value


@each_setting
def test_a_block_restores(setter: Any, getter: Any, values: Any) -> None:
    setter(values[1])
    with setter(values[0]):
        assert getter() == values[0]
        with setter(values[1]):
            assert getter() == values[1]
            with setter(values[2]):
                assert getter() == values[2]
            assert getter() == values[1]
        assert getter() == values[0]
    assert getter() == values[1]
    with pytest.raises(KeyError), setter(values[0]):
        raise KeyError
    assert getter() == values[1]


@each_setting
def test_a_block_is_for_its_own_thread(setter: Any, getter: Any, values: Any) -> None:
    setter(values[1])
    with setter(values[0]):
        assert in_new_thread(getter) == values[1]
        assert contextvars.Context().run(getter) == values[1]
        assert contextvars.copy_context().run(getter) == values[0]
    assert getter() == values[1]


@each_setting
def test_a_call_inside_a_block_is_for_the_process(setter: Any, getter: Any, values: Any) -> None:
    setter(values[0])
    with setter(values[0]):
        setter(values[1])
        assert in_new_thread(getter) == values[1]
        assert getter() == values[0]
    assert getter() == values[1]


@each_setting
def test_the_result_of_a_call_may_be_a_block_later(setter: Any, getter: Any, values: Any) -> None:
    """As torch.set_grad_enabled: in force from the call on; the block takes it back."""
    setter(values[1])
    handle = setter(values[0])
    assert getter() == values[0]
    with handle:
        assert getter() == values[0]
    assert getter() == values[1]


@each_setting
def test_blocks_in_many_threads_at_once(setter: Any, getter: Any, values: Any) -> None:
    setter(values[1])
    barrier = threading.Barrier(4)

    def work(value: Any) -> bool:
        right = True
        for _ in range(300):
            with setter(value):
                right &= getter() == value
                if _ % 100 == 0:
                    barrier.wait(60)
                right &= getter() == value
        return right

    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda value=values[i % 3]: results.append(work(value)))  # type: ignore[misc]
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == [True] * 4
    assert getter() == values[1]


def test_set_num_threads() -> None:
    assert fc.set_num_threads(3) is None
    assert fc.get_num_threads() == 3
    fc.set_num_threads(np.int64(2))
    assert fc.get_num_threads() == 2
    with fc.num_threads(1):
        assert fc.get_num_threads() == 1
    assert fc.get_num_threads() == 2
    assert type(fc.get_num_threads()) is int


@pytest.mark.parametrize("setter", [fc.set_num_threads, fc.num_threads])
def test_wrong_numbers_of_threads(setter: Any) -> None:
    before = fc.get_num_threads()
    for value in (0, -1):
        with pytest.raises(ValueError, match="threads"):
            setter(value)
    for value in (1.0, "2", None, True, (1,)):
        with pytest.raises(TypeError, match="threads"):
            setter(value)
    assert fc.get_num_threads() == before


def test_wrong_names() -> None:
    for value in ("nonsense", "", "Cython", "_kernels"):
        with pytest.raises(ValueError, match="backend"):
            fc.use_backend(value)
    for value in ("nonsense", "", "Strict"):
        with pytest.raises(ValueError, match="precision"):
            fc.precision(value)
    for value in (None, 3):
        with pytest.raises((TypeError, ValueError)):
            fc.precision(value)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError)):
            fc.use_backend(value)  # type: ignore[arg-type]


def test_a_backend_that_cannot_be_used_is_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastconv.backends import reference

    monkeypatch.setattr(reference, "unavailable", lambda: "gone for this test")
    planner.choose.cache_clear()  # choices are kept: a backend does not go while a program runs
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
    assert "reference" not in fc.backends()
    for call in (
        lambda: fc.use_backend("reference"),
        lambda: fc.conv1d(x, w, backend="reference"),
        lambda: fc.explain(x.shape, w.shape, backend="reference"),
    ):
        with pytest.raises(RuntimeError, match="gone for this test"):
            call()


def test_backends_are_listed_best_first() -> None:
    order = ["cython", "numba", "reference"]
    found = fc.backends()
    assert isinstance(found, list)
    assert found == [name for name in order if name in found]
    assert found[-1] == "reference"


def test_the_backend_in_use_computes(backend: str) -> None:
    """The argument wins over the setting; explain tells."""
    assert fc.explain((1, 1, 4), (1, 1, 3)).backend == backend
    for name in fc.backends():
        assert fc.explain((1, 1, 4), (1, 1, 3), backend=name).backend == name
        np.testing.assert_array_equal(fc.conv1d(np.ones((1, 1, 4)), np.ones((1, 1, 3)), backend=name), [[[3.0, 3.0]]])


def test_every_call_uses_the_backend_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the reference: with it in use every public function comes there, by argument as well."""
    from fastconv.backends import reference

    seen: list[str] = []
    run = reference.Direct.run

    def counted(self: Any, operation: str, *args: Any) -> None:
        seen.append(operation)
        run(self, operation, *args)

    monkeypatch.setattr(reference.Direct, "run", counted)
    x, w, y = np.ones((1, 1, 4)), np.ones((1, 1, 3)), np.ones((1, 1, 2))
    functions: list[tuple[Callable[..., Any], list[str]]] = [
        (lambda **k: fc.conv1d(x, w, **k), ["forward"]),
        (lambda **k: fc.conv1d_backward(y, x, w, **k), ["backward_input", "backward_weight"]),
        (lambda **k: fc.conv_transpose1d(y, w, **k), ["backward_input"]),
        (lambda **k: fc.conv_transpose1d_backward(x, y, w, **k), ["forward", "backward_weight"]),
        (lambda **k: fc.grad.conv1d_input(x.shape, w, y, **k), ["backward_input"]),
        (lambda **k: fc.grad.conv1d_weight(x, w.shape, y, **k), ["backward_weight"]),
        (lambda **k: fc.conv2d(x[:, :, None], w[:, :, None], **k), ["forward"]),
    ]
    for function, operations in functions:
        seen.clear()
        function(backend="reference")
        assert seen == operations
        seen.clear()
        with fc.use_backend("reference"):
            function()
            in_new_thread(function)  # another thread has the process-wide one
        assert seen == operations * (2 if fc.backends()[0] == "reference" else 1)
        seen.clear()
        fc.use_backend("reference")
        function()
        in_new_thread(function)
        assert seen == operations * 2
        fc.use_backend(fc.backends()[0])
        seen.clear()
        function()
        assert seen == ([] if fc.backends()[0] != "reference" else operations)


def test_kernels_see_the_callers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastconv.backends import reference

    seen: list[tuple[int, bool]] = []
    run = reference.Direct.run

    def noted(self: Any, operation: str, g: Any, x: Any, w: Any, y: Any, bias: Any, threads: int, strict: bool) -> None:
        seen.append((threads, strict))
        run(self, operation, g, x, w, y, bias, threads, strict)

    monkeypatch.setattr(reference.Direct, "run", noted)
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
    fc.set_num_threads(4)
    fc.conv1d(x, w, backend="reference")
    with fc.num_threads(2), fc.precision("strict"):
        fc.conv1d(x, w, backend="reference")
        in_new_thread(lambda: fc.conv1d(x, w, backend="reference"))
    assert seen == [(4, False), (2, True), (4, False)]


# ---- the environment

ASK = "import fastconv as fc; print(fc.get_num_threads(), fc.explain((1, 1, 4), (1, 1, 3)).backend)"


def test_start_values(run_python: Any) -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, backend = run_python(ASK).stdout.split()
    assert 1 <= int(threads) <= cpus
    assert backend == fc.backends()[0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_start_value_of_threads_is_the_affinity(run_python: Any) -> None:
    first = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{first}]); import fastconv as fc; print(fc.get_num_threads())"
    assert run_python(code).stdout == "1\n"


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"FASTCONV_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"FASTCONV_NUM_THREADS": "3", "OMP_NUM_THREADS": "4"}, 3),
        ({"FASTCONV_NUM_THREADS": "", "OMP_NUM_THREADS": "4"}, 4),
    ],
    ids=str,
)
def test_threads_from_the_environment(run_python: Any, variables: dict[str, str], threads: int) -> None:
    assert int(run_python(ASK, **variables).stdout.split()[0]) == threads


@pytest.mark.parametrize("name", fc.backends())
def test_backend_from_the_environment(run_python: Any, name: str) -> None:
    assert run_python(ASK, FASTCONV_BACKEND=name).stdout.split()[1] == name


FIRST_CALL = """
import numpy as np
import fastconv as fc
print("imported")
x, w, y = np.ones((1, 1, 4)), np.ones((1, 1, 3)), np.ones((1, 1, 2))
for call in (
    lambda: fc.conv1d(x, w), lambda: fc.conv1d(x, w), lambda: fc.conv1d_backward(y, x, w),
    lambda: fc.conv_transpose1d(y, w), lambda: fc.grad.conv1d_input(x.shape, w, y),
    lambda: fc.explain(x.shape, w.shape),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("no error")
config = fc.show_config("dicts")
"""


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("FASTCONV_BACKEND", "nonsense", "ValueError"),
        ("FASTCONV_ISA", "nonsense", "ValueError"),
        ("FASTCONV_NUM_THREADS", "nonsense", "ValueError"),
        ("FASTCONV_NUM_THREADS", "0", "ValueError"),
        ("FASTCONV_NUM_THREADS", "-2", "ValueError"),
        ("FASTCONV_NUM_THREADS", "1.5", "ValueError"),
    ],
)
def test_a_wrong_variable_is_an_error_at_the_first_call(run_python: Any, variable: str, value: str, error: str) -> None:
    if variable == "FASTCONV_ISA" and "cython" not in fc.backends():
        pytest.skip("no backend here has instruction sets to choose from: the extension was not built")
    lines = run_python(FIRST_CALL, **{variable: value}).stdout.splitlines()
    assert lines[0] == "imported"
    assert len(lines) == 7
    for line in lines[1:]:
        assert line.startswith(error), line
        assert variable in line
        assert value in line


def test_a_known_isa_that_is_not_here_is_a_runtime_error(run_python: Any) -> None:
    if "cython" not in fc.backends():
        pytest.skip("the extension was not built")
    from fastconv.backends import cython

    here = {name for name, usable in cython.isas() if usable}
    for name in {"neon", "avx512"} - here:
        lines = run_python(FIRST_CALL, FASTCONV_ISA=name).stdout.splitlines()
        assert lines[0] == "imported"
        assert all(line.startswith("RuntimeError") and name in line for line in lines[1:]), lines
        with pytest.raises(RuntimeError, match=name):
            cython.use_isa(name)
    with pytest.raises(ValueError, match="nonsense"):
        cython.use_isa("nonsense")
    assert cython.isa() in here


def test_every_isa_can_be_forced(run_python: Any) -> None:
    if "cython" not in fc.backends():
        pytest.skip("the extension was not built")
    from fastconv.backends import cython

    code = """
    import numpy as np, fastconv as fc
    x, w = np.arange(200.0).reshape(1, 2, 100), np.ones((3, 2, 9))
    assert (fc.conv1d(x, w) == fc.conv1d(x, w, backend="reference")).all()
    print(fc.explain(x.shape, w.shape).isa, fc.show_config("dicts")["ISA in use"])
    """
    for name, usable in cython.isas():
        if usable:
            assert run_python(code, FASTCONV_ISA=name).stdout.split() == [name, name]
    best = next(name for name, usable in cython.isas() if usable)
    assert run_python(code).stdout.split() == [best, best]
    assert run_python(code, FASTCONV_ISA="").stdout.split() == [best, best]
