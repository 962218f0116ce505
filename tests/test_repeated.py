"""Calls that repeat: the second one takes the short way, gives the same bits, and is taken for no other call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest

import fastconv as fc
from fastconv import functional, repeated
from fastconv.backends import isa_changed


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that went the long way."""
    seen: list[str] = []
    run = functional._run

    def spy(operation: str, *arguments: Any) -> None:
        seen.append(operation)
        run(operation, *arguments)

    monkeypatch.setattr(functional, "_run", spy)
    isa_changed()  # nothing is kept of what was called before
    return seen


def calls(case: cases.Case, dtype: str, bias: str | None) -> dict[str, Callable[..., Any]]:
    """Each public function on the case, of (x, w, y, bias)."""
    both = {name: getattr(functional, f"conv{case.axes}d{name}") for name in ("", "_backward", "_input", "_weight")}
    more = case.arguments
    no_mode = {name: value for name, value in more.items() if name != "padding_mode"}
    return {
        "forward": lambda x, w, y, b: [both[""](x, w, b, **more)],
        "backward": lambda x, w, y, b: both["_backward"](y, x, w, **more, bias_shape=None if b is None else b.shape),
        "backward_input": lambda x, w, y, b: [both["_input"](x.shape, w, y, **no_mode)],
        "backward_weight": lambda x, w, y, b: [both["_weight"](x, w.shape, y, **no_mode)],
    }


@pytest.mark.parametrize("bias", [None, "tied", "untied"])
def test_the_second_call_is_short_and_gives_the_same_bits(
    backend: str, bias: str | None, dtype: str, long_way: list[str]
) -> None:
    for case in cases.SOME_CASES:
        x, w, y = (cases.normal(shape, dtype, shape) for shape in (case.x_shape, case.w_shape, case.y_shape))
        shape = {None: None, "tied": y.shape[1:2], "untied": y.shape[1:]}[bias]
        b = None if shape is None else cases.normal(shape, dtype, "bias")
        for name, call in calls(case, dtype, bias).items():
            long_way.clear()
            first = call(x, w, y, b)
            assert long_way
            long_way.clear()
            again = call(x, w, y, b)
            assert not long_way, f"{name} of {case} again"
            other = call(x + 1, w, y + 1, b)  # not the arrays, but their kind, is what is kept
            assert not long_way
            for one, two, three in zip(first, again, other, strict=True):
                assert two.dtype == one.dtype
                assert two.flags.c_contiguous
                np.testing.assert_array_equal(one, two, f"{name} of {case}")
                assert (three != two).any()


@pytest.mark.parametrize("batched", [True, False])
def test_transposed_calls_repeat_too(backend: str, axes: int, batched: bool, dtype: str, long_way: list[str]) -> None:
    x = cases.integers((2, 3, *(5, 4)[:axes])[0 if batched else 1 :], dtype, "x")
    w = cases.integers((3, 4, *(3, 2)[:axes]), dtype, "w")
    call = functools.partial(getattr(fc, f"conv_transpose{axes}d"), stride=2, output_padding=1)
    plane = call(x, w).shape[-axes:]
    for bias in (None, cases.integers((4,), dtype, "b"), cases.integers((4, *plane), dtype, "b")):
        first = call(x, w, bias)
        long_way.clear()
        again = call(x, w, bias)
        assert not long_way
        assert again.dtype == first.dtype
        np.testing.assert_array_equal(again, first)


def test_equal_is_not_the_same(backend: str, long_way: list[str]) -> None:
    """True == 1 == 1.0: where the long way raises, so does a call that differs from one before in that alone."""
    x, w, y = np.ones((1, 1, 4)), np.ones((1, 1, 3)), np.ones((1, 1, 2))
    plane, square = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    for _ in range(2):
        fc.conv1d(x, w, None, 1, 0, 1, 1)
        fc.conv2d(plane, square, stride=(1, 1))
        fc.grad.conv1d_input((1, 1, 4), w, y)
        fc.grad.conv1d_weight(x, (1, 1, 3), y)
        fc.conv1d_backward(y, x, w, bias_shape=(1,))
    wrong = [
        functools.partial(functional.conv1d, x, w, None, **{name: True}) for name in ("stride", "dilation", "groups")
    ]
    wrong += [functools.partial(functional.conv1d, x, w, None, **{name: 1.0}) for name in ("stride", "dilation")]
    wrong += [
        lambda: functional.conv1d(x, w, padding=False),
        lambda: functional.conv1d(x, w, padding=0.0),
        lambda: functional.conv2d(plane, square, stride=(1, True)),
        lambda: functional.conv2d(plane, square, stride=(1.0, 1)),
        lambda: functional.conv1d_input((True, 1, 4), w, y),
        lambda: functional.conv1d_weight(x, (1, 1.0, 3), y),
        lambda: functional.conv1d_backward(y, x, w, bias_shape=(1.0,)),
        lambda: functional.conv1d_backward(y, x, w, output_mask={True, False}),
        lambda: functional.conv1d(plane, square),  # a 2-D call kept: other arrays, but of no 1-D convolution
        lambda: functional.conv1d(x, w, padding_mode=["zeros"]),
        lambda: functional.conv1d(x, w, out=1),
        lambda: functional.conv1d(x, w.astype(np.float32)),
    ]
    for call in wrong + wrong:
        with pytest.raises((TypeError, ValueError)):
            call()
    for mask in ((1, 0, 1), [True, False, True], np.array([True, False, True])):
        grads = functional.conv1d_backward(y, x, w, bias_shape=(1,), output_mask=mask)
        assert [grad is None for grad in grads] == [False, True, False]


def test_arrays_of_another_layout_are_read_as_they_are(backend: str, dtype: str, long_way: list[str]) -> None:
    x, w = cases.integers((2, 3, 8), dtype, "x"), cases.integers((4, 3, 3), dtype, "w")
    right = cases.integers((2, 4, 6), dtype, "y")
    for _ in range(2):
        right = functional.conv1d(x, w)
    swapped = x.astype(x.dtype.newbyteorder())
    frozen = x.copy()
    frozen.flags.writeable = False
    bytes_of_it = np.empty(x.nbytes + 1, np.uint8)
    odd = bytes_of_it[1:].view(x.dtype).reshape(x.shape)
    odd[...] = x
    for other in (
        np.asfortranarray(x),
        np.repeat(x, 2, 2)[:, :, ::2],
        x[:, :, ::-1].copy()[:, :, ::-1],
        swapped,
        frozen,
        odd,
    ):
        for _ in range(2):
            got = functional.conv1d(other, w)
            assert got.dtype == x.dtype
            np.testing.assert_array_equal(got, right)
    np.testing.assert_array_equal(functional.conv1d(x[0], w), right[0])
    np.testing.assert_array_equal(functional.conv1d(x[0], w), right[0])
    out = np.empty_like(right)
    assert functional.conv1d(x, w, out=out) is out
    np.testing.assert_array_equal(out, right)
    assert functional.conv1d(x[:0], w).shape == (0, 4, 6)
    assert functional.conv1d(x[:0], w).shape == (0, 4, 6)


def test_settings_are_those_of_the_call(long_way: list[str]) -> None:
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))

    def went() -> int:
        long_way.clear()
        functional.conv1d(x, w)
        return len(long_way)

    with fc.use_backend("reference"), fc.num_threads(1):
        assert (went(), went()) == (1, 0)
        with fc.num_threads(2):
            assert (went(), went()) == (1, 0)
        with fc.precision("strict"):
            assert (went(), went()) == (1, 0)
        assert went() == 0
        isa_changed()
        assert (went(), went()) == (1, 0)
    for name in fc.backends():
        functional.conv1d(x, w, backend=name)
        long_way.clear()
        functional.conv1d(x, w, backend=name)
        assert not long_way


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch, long_way: list[str]) -> None:
    monkeypatch.setattr(repeated, "_KEPT", 5)
    with fc.use_backend("reference"):
        for size in range(3, 20):
            functional.conv1d(np.ones((1, 1, size)), np.ones((1, 1, 3)))
            assert len(repeated._table) <= 5


def test_what_is_too_large_to_be_sure_of_asks_for_memory_each_time(
    monkeypatch: pytest.MonkeyPatch, backend: str, long_way: list[str]
) -> None:
    monkeypatch.setattr(repeated, "_LARGEST", 100)
    x, w = np.ones((1, 1, 40)), np.ones((1, 1, 3))
    for _ in range(2):
        long_way.clear()
        functional.conv1d(x, w)
        assert long_way
