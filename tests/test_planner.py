"""explain, and the choice of algorithms: by the planner, by name, under precision("strict")."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from kernel_sets import Kernels

import fastconv as fc
from fastconv.backends import isa_changed, load, reference
from fastconv.geometry import OPERATIONS, folded


class Stand:
    """An algorithm made up for the test, which says what it is told to and writes a number of its own."""

    def __init__(self, name: str, exact: bool = True, unsupported: str | None = None, unwise: str | None = None):
        self.name, self.exact = name, exact
        self._unsupported, self._unwise = unsupported, unwise

    def unsupported(self, operation: str, g: Any, dtype: Any) -> str | None:
        return self._unsupported

    def unwise(self, operation: str, g: Any, dtype: Any, threads: int) -> str | None:
        return self._unwise

    def workspace(self, operation: str, g: Any, dtype: Any, threads: int) -> int:
        return 1000

    def run(self, operation: str, g: Any, x: Any, w: Any, y: Any, bias: Any, threads: int, strict: bool) -> None:
        {"forward": y, "backward_input": x, "backward_weight": w}[operation][...] = len(self.name)


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the reference backend another list of algorithms, and puts it in use."""

    def use(*algorithms: Stand) -> None:
        monkeypatch.setattr(load("reference"), "ALGORITHMS", algorithms)
        isa_changed()  # what was chosen before is forgotten

    with fc.use_backend("reference"):
        yield use
    monkeypatch.undo()
    isa_changed()


X, W, Y = np.ones((1, 1, 4)), np.ones((1, 1, 3)), np.ones((1, 1, 2))


def test_the_first_that_does_not_refuse_is_taken(stands: Any) -> None:
    stands(Stand("a", unsupported="cannot"), Stand("bb", unwise="should not"), Stand("ccc"), Stand("dddd"))
    plan = fc.explain(X.shape, W.shape)
    assert plan.algorithm == "ccc"
    assert plan.workspace == 1000
    assert ("a", "cannot") in plan.refused
    assert ("bb", "should not") in plan.refused
    assert "cannot" in str(plan)
    assert "should not" in str(plan)
    assert (fc.conv1d(X, W) == 3).all()


def test_an_unwise_one_is_better_than_none(stands: Any) -> None:
    stands(Stand("a", unsupported="cannot"), Stand("bb", unwise="should not"), Stand("ccc", unwise="nor this"))
    assert fc.explain(X.shape, W.shape).algorithm == "bb"
    assert (fc.conv1d(X, W) == 2).all()


def test_strict_takes_direct_summation_alone(stands: Any) -> None:
    stands(Stand("winograd", exact=False), Stand("direct"))
    assert (fc.conv1d(X, W) == 8).all()
    with fc.precision("strict"):
        plan = fc.explain(X.shape, W.shape)
        assert plan.algorithm == "direct"
        assert plan.precision == "strict"
        assert [name for name, _ in plan.refused if name == "winograd"]
        assert (fc.conv1d(X, W) == 6).all()
        for call in (
            lambda: fc.conv1d(X, W, algorithm="winograd"),
            lambda: fc.conv1d_backward(Y, X, W, algorithm="winograd"),
            lambda: fc.explain(X.shape, W.shape, algorithm="winograd"),
        ):
            with pytest.raises(ValueError, match="strict"):
                call()
        assert (fc.conv1d(X, W, algorithm="direct") == 6).all()
    assert (fc.conv1d(X, W) == 8).all()


def test_an_algorithm_by_name_is_used_or_raises(stands: Any) -> None:
    stands(Stand("direct"), Stand("winograd", exact=False, unwise="slow here"), Stand("fft", unsupported="even kernel"))
    assert (fc.conv1d(X, W, algorithm="winograd") == 8).all()
    assert fc.explain(X.shape, W.shape, algorithm="winograd").algorithm == "winograd"
    for call in (
        lambda: fc.conv1d(X, W, algorithm="fft"),
        lambda: fc.conv_transpose1d(Y, W, algorithm="fft"),
        lambda: fc.grad.conv1d_weight(X, W.shape, Y, algorithm="fft"),
        lambda: fc.explain(X.shape, W.shape, algorithm="fft"),
    ):
        with pytest.raises(RuntimeError, match="even kernel"):
            call()
    with pytest.raises(ValueError, match="nonsense"):
        fc.conv1d(X, W, algorithm="nonsense")


def test_an_algorithm_of_another_backend_is_a_runtime_error(stands: Any) -> None:
    stands(Stand("direct"), Stand("only_here"))
    for name in fc.backends()[:-1]:
        with pytest.raises(RuntimeError, match="only_here"):
            fc.conv1d(X, W, backend=name, algorithm="only_here")


class ForwardOnly(Stand):
    def unsupported(self, operation: str, g: Any, dtype: Any) -> str | None:
        return None if operation == "backward_input" else "has no weight gradient"


def test_in_a_backward_an_algorithm_applies_to_every_gradient_computed(stands: Any) -> None:
    stands(Stand("direct"), ForwardOnly("half"))
    with pytest.raises(RuntimeError, match="no weight gradient"):
        fc.conv1d_backward(Y, X, W, algorithm="half")
    grads = fc.conv1d_backward(Y, X, W, algorithm="half", output_mask=(True, False, True))
    assert grads[0] is not None
    assert (grads[0] == 4).all()
    assert grads[1] is None


def test_every_algorithm_by_name_gives_the_right_answer(kernels: Kernels, dtype: str) -> None:
    names = ("winograd_batch", "depthwise_7", "long_filter_even", "matrix_times_vectors", "batch_16")
    layers = [cases.BY_NAME[name] for name in names]
    data = [[cases.integers(s, dtype, s) for s in (c.x_shape, c.w_shape, c.y_shape)] for c in layers]
    for algorithm in kernels.module.ALGORITHMS:
        results = [named for case, arrays in zip(layers, data) for named in by_name(algorithm, case, *arrays)]
        assert results, f"{algorithm.name} can do none of the operations on plain layers"
        for got, right in results:
            assert got is not None
            assert right is not None
            assert np.abs(got - right).max() <= (0 if algorithm.exact else 1e-5 * np.abs(right).max())


def by_name(algorithm: Any, case: cases.Case, x: Any, w: Any, y: Any) -> list[tuple[Any, Any]]:
    """(Result, right answer) of each operation that the algorithm can do on the layer; the others must be refused."""
    name, dtype, arguments = algorithm.name, x.dtype, case.arguments
    forward, backward = getattr(fc, f"conv{case.axes}d"), getattr(fc, f"conv{case.axes}d_backward")
    results: list[tuple[Any, Any]] = []
    if algorithm.unsupported("forward", case.geometry, dtype) is None:
        assert fc.explain(x.shape, w.shape, **arguments, dtype=dtype, algorithm=name).algorithm == name
        right: Any = forward(x, w, **arguments, backend="reference")
        results.append((forward(x, w, **arguments, algorithm=name), right))
    for i, operation in enumerate(("backward_input", "backward_weight")):
        mask: Any = tuple(i == j for j in range(3))
        if algorithm.unsupported(operation, case.geometry, dtype) is None:
            right = backward(y, x, w, **arguments, backend="reference", output_mask=mask)[i]
            results.append((backward(y, x, w, **arguments, algorithm=name, output_mask=mask)[i], right))
        else:
            with pytest.raises(RuntimeError, match=name):
                backward(y, x, w, **arguments, algorithm=name, output_mask=mask)
    return results


# ---- the plan


@pytest.mark.parametrize("operation", OPERATIONS)
def test_explain_says_what_is_used(kernels: Kernels, operation: str, dtype: str) -> None:
    case = cases.BY_NAME["suite_resnet_56_s2"]
    with fc.num_threads(2):
        plan = fc.explain(case.x_shape, case.w_shape, stride=2, padding=1, operation=operation, dtype=dtype)
    assert isinstance(plan, fc.Plan)
    g = case.geometry
    assert plan.geometry == g
    assert plan.backend == kernels.backend
    assert plan.isa == kernels.module.isa()
    assert plan.operation == operation
    assert plan.dtype == dtype
    assert plan.threads == 2
    assert plan.precision == "default"
    assert plan.algorithm in [a.name for a in kernels.module.ALGORITHMS]
    assert plan.flops == 2 * cases.macs(g)
    sizes = [int(np.prod(shape)) for shape in (case.x_shape, case.w_shape, case.y_shape)]
    assert plan.bytes == np.dtype(dtype).itemsize * sum(sizes)
    assert plan.workspace >= 0
    better = fc.backends()[: fc.backends().index(kernels.backend)]
    refused = dict(plan.refused)
    for name in better:
        assert refused[name]
    assert all(isinstance(reason, str) and reason for reason in refused.values())
    text = str(plan)
    for shown in (plan.backend, plan.isa, plan.algorithm, dtype, operation, f"{plan.workspace:,}", f"{plan.flops:,}"):
        assert shown in text
    for name, reason in plan.refused:
        assert f"{name}: {reason}" in text


def test_explain_takes_the_calls_arguments() -> None:
    plan = fc.explain((2, 4, 9), (6, 2, 3), 2, ((1, 0),), 2, 2)
    assert plan.geometry.y_shape == (2, 6, 1, 3)
    assert fc.explain((4, 9), (6, 2, 3), groups=2).geometry.N == 1
    assert fc.explain((2, 4, 9, 9), (6, 4, 3, 3), padding="same").geometry.y_shape == (2, 6, 9, 9)
    assert fc.explain((2, 4, 9), (6, 4, 3), dtype=np.float64).dtype == "float64"
    assert fc.explain((2, 4, 9), (6, 4, 3), dtype=">f4") == fc.explain((2, 4, 9), (6, 4, 3))
    as_array = fc.explain(np.array([2, 4, 9]), np.array([6, 4, 3]))  # type: ignore[arg-type]
    assert all(type(size) is int for size in as_array.geometry.x_shape + as_array.geometry.w_shape)
    padded = fc.explain((2, 4, 9), (6, 4, 3), padding=1, padding_mode="circular")
    assert padded.workspace >= 4 * 2 * 4 * 11
    assert any("circular" in note for note in padded.notes)
    transposed = fc.explain((2, 4, 9), (4, 3, 3), stride=2, output_padding=1, transposed=True)
    assert transposed.geometry.x_shape == (2, 3, 1, 20)
    assert transposed.operation == "backward_input"


def test_explain_answers_as_the_call_would() -> None:
    for arguments, error in (
        (((1, 2, 9), (3, 3, 3)), ValueError),
        (((1, 2, 9), (3, 2)), ValueError),
        (((1, 2, 9), (3, 2, 10)), ValueError),
        (((1, 2, 9.0), (3, 2, 3)), TypeError),
        (((1, 2, 9), (3, 2, 3.0)), TypeError),
        ((9, (3, 2, 3)), TypeError),
    ):
        with pytest.raises(error):
            fc.explain(*arguments)  # type: ignore[arg-type]
    for more, error in (
        ({"operation": "backward"}, ValueError),
        ({"dtype": "int32"}, TypeError),
        ({"dtype": "float16"}, TypeError),
        ({"dtype": None}, TypeError),
        ({"output_padding": 1}, ValueError),
        ({"backend": ""}, ValueError),
        ({"stride": 1.5}, TypeError),
        ({"padding": "full"}, ValueError),
        ({"padding_mode": "mirror"}, ValueError),
        ({"backend": "nonsense"}, ValueError),
        ({"algorithm": "nonsense"}, ValueError),
    ):
        with pytest.raises(error):
            fc.explain((1, 2, 9), (3, 2, 3), **more)  # type: ignore[arg-type]


def test_explain_for_nothing_to_do(backend: str) -> None:
    for x, w in (((0, 2, 9), (3, 2, 3)), ((1, 0, 9), (3, 0, 3))):
        plan = fc.explain(x, w)
        assert plan.flops == 0
        assert plan.workspace == 0
        assert str(plan)


def test_what_is_planned_is_what_runs(monkeypatch: pytest.MonkeyPatch, kernels: Kernels, dtype: str) -> None:
    """The shortcut of the common case takes the algorithm that the planner names: same bits."""
    for case in cases.SOME_CASES:
        x, w, y = (cases.normal(s, dtype, s) for s in (case.x_shape, case.w_shape, case.y_shape))
        conv, backward = getattr(fc, f"conv{case.axes}d"), getattr(fc, f"conv{case.axes}d_backward")
        arguments = case.arguments
        names = [
            fc.explain(case.x_shape, case.w_shape, **arguments, operation=operation, dtype=dtype).algorithm
            for operation in OPERATIONS
        ]
        right = conv(x, w, **arguments, algorithm=names[0])
        assert (conv(x, w, **arguments) == right).all()
        assert (conv(x, w, **arguments, out=np.empty_like(right)) == right).all()
        grads = backward(y, x, w, **arguments)
        for i in (0, 1):
            mask = tuple(i == j for j in range(3))
            named = backward(y, x, w, **arguments, algorithm=names[i + 1], output_mask=mask)
            assert (grads[i] == named[i]).all()


def test_axes_that_the_kernel_covers_are_the_same_sums_as_channels() -> None:
    """The geometry with them folded away gives the same numbers, and explain says so; depthwise layers stay."""
    covered = [case for case in cases.CASES if folded(case.geometry).C != case.geometry.C]
    names = {case.name for case in covered}
    assert {"kernel_is_input", "kernel_is_plane_in_groups", "kernel_as_high_as_the_image"} <= names
    assert not names & {"kernel_as_wide_as_the_image", "kernel_is_padded_plane", "kernel_is_plane_dilated"}
    for case in covered:
        g = case.geometry
        flat = folded(g)
        assert folded(flat) == flat
        assert flat.flops == g.flops
        x, w = (cases.integers(shape, "float64", i) for i, shape in enumerate((g.x_shape, g.w_shape)))
        expected = reference.forward(g, x, w, None)
        assert (reference.forward(flat, x.reshape(flat.x_shape), w.reshape(flat.w_shape), None) == expected).all()
    plan = fc.explain((3, 2, 5, 40), (8, 2, 5, 3))
    assert plan.geometry.C == 2
    assert any("10 in place of 2" in note for note in plan.notes)
    assert not fc.explain((3, 8, 5, 5), (8, 1, 5, 5), groups=8).notes
