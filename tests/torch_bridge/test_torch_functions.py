"""fastconv.torch.conv1d and conv2d: values, derivatives of first and second order, and every kind of tensor."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from bridge_helpers import OPTIONS, OURS, THEIRS, Seen, clones, layer
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import fastconv as fc
import fastconv.torch as ft
from fastconv.torch import operators

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_torchs(axes: int, option: str, batched: bool, dtype: torch.dtype) -> None:
    tensors, keywords = layer(axes, option, dtype, batched=batched)
    theirs = clones(tensors)
    y, expected = OURS[axes](*tensors, **keywords), THEIRS[axes](*theirs, **keywords)
    grad = torch.randn_like(expected)
    y.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(y, expected)
    for ours, other in zip(tensors, theirs):
        torch.testing.assert_close(ours.grad, other.grad)


@pytest.mark.parametrize("option", OPTIONS)
def test_derivatives_of_first_and_second_order(axes: int, option: str) -> None:
    tensors, keywords = layer(axes, option)
    exact = axes == 1  # all entries of the Jacobians; in 2-D random projections of them
    assert gradcheck(lambda *t: OURS[axes](*t, **keywords), tensors, fast_mode=not exact)
    assert gradgradcheck(lambda *t: OURS[axes](*t, **keywords), tensors, fast_mode=True)
    without_bias = tensors[:2]
    assert gradcheck(lambda *t: OURS[axes](*t, **keywords), without_bias, fast_mode=True)


def test_derivatives_unbatched(axes: int) -> None:
    tensors, keywords = layer(axes, "stride", batched=False)
    assert gradcheck(lambda *t: OURS[axes](*t, **keywords), tensors, fast_mode=True)
    assert gradgradcheck(lambda *t: OURS[axes](*t, **keywords), tensors, fast_mode=True)


@pytest.mark.parametrize("needed", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)], ids=str)
def test_only_the_gradients_asked_for(axes: int, needed: tuple[int, ...]) -> None:
    tensors, _ = layer(axes, "plain", grad=False)
    for tensor, wanted in zip(tensors, needed):
        tensor.requires_grad_(bool(wanted))
    theirs = clones(tensors)
    y = OURS[axes](*tensors)
    # What no gradient needs is not kept alive either.
    assert [kept is not None for kept in y.grad_fn.saved_tensors] == [bool(needed[1]), bool(needed[0])]
    y.square().sum().backward()
    THEIRS[axes](*theirs).square().sum().backward()
    for ours, other, wanted in zip(tensors, theirs, needed):
        assert (ours.grad is not None) == bool(wanted)
        if wanted:
            torch.testing.assert_close(ours.grad, other.grad)


def test_a_frozen_layer_records_nothing(axes: int) -> None:
    tensors, _ = layer(axes, "plain")
    with torch.no_grad():
        assert OURS[axes](*tensors).grad_fn is None
    frozen = [t.detach() for t in tensors]
    assert not OURS[axes](*frozen).requires_grad


def test_changing_a_saved_tensor_in_place_is_noticed(axes: int) -> None:
    tensors, _ = layer(axes, "plain")
    y = OURS[axes](*tensors)
    with torch.no_grad():
        tensors[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# ---- the operators


def operator_samples(axes: int) -> list[tuple[Any, tuple[Any, ...]]]:
    (x, w, b), _ = layer(axes, "groups")
    one = [1] * axes
    found = []
    for padding in (one, [1, 0] * axes):  # one an axis; before and after
        steps = ([2] * axes, padding, one, 2)
        y = operators.operator_of(operators.OPERATORS[axes][operators.Y])(x, w, b, *steps).detach()
        grad = torch.randn_like(y).requires_grad_()
        arguments = ((w, grad, list(x.shape)), (x, grad, list(w.shape)), (x, w, b))
        for operator, own in zip(operators.OPERATORS[axes], arguments):
            found.append((operators.operator_of(operator), (*own, *steps)))
    return found


def test_operators_keep_torchs_rules(axes: int) -> None:
    for operator, arguments in operator_samples(axes):
        torch.library.opcheck(operator, arguments)


def test_operators_have_derivatives_too(axes: int) -> None:
    for operator, arguments in operator_samples(axes)[:3]:
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        others = arguments[len(tensors) :]
        assert gradcheck(lambda *t, op=operator, rest=others: op(*t, *rest), tensors, fast_mode=True)
        assert gradgradcheck(lambda *t, op=operator, rest=others: op(*t, *rest), tensors, fast_mode=True)


def test_the_schemas_are_those_of_the_contract() -> None:
    for axes in (1, 2):
        assert str(getattr(torch.ops.fastconv, f"conv{axes}d").default._schema) == (
            f"fastconv::conv{axes}d(Tensor x, Tensor w, Tensor? b, int[] stride, int[] padding, int[] dilation, "
            "int groups) -> Tensor"
        )


def test_modes_see_the_operators(axes: int) -> None:
    tensors, keywords = layer(axes, "stride")
    with Seen() as seen:
        y = OURS[axes](*tensors, **keywords)
        torch.autograd.grad(y.sum(), tensors)
    assert seen.names == [f"conv{axes}d", f"conv{axes}d_input", f"conv{axes}d_weight"]


def test_the_profiler_sees_the_operators(axes: int) -> None:
    tensors, _ = layer(axes, "plain")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        OURS[axes](*tensors)
    assert f"fastconv::conv{axes}d" in {event.key for event in profile.key_averages()}


def test_the_flop_counter_counts_as_for_torchs_own(axes: int) -> None:
    def count(convolve: Any, option: str, backward: bool) -> int:
        tensors, keywords = layer(axes, option)
        with FlopCounterMode(display=False) as counter:
            y = convolve(*tensors, **keywords)
            if backward:
                y.sum().backward()
        return int(counter.get_total_flops())

    assert count(OURS[axes], "stride", True) == count(THEIRS[axes], "stride", True) > 0
    forward = count(OURS[axes], "groups", False)
    assert forward == count(THEIRS[axes], "groups", False) > 0
    assert count(OURS[axes], "groups", True) == 3 * forward  # torch counts weight gradients of groups twice


def test_both_ways_to_the_kernel_give_the_same_bits(axes: int) -> None:
    """Straight, and through the dispatcher."""
    for option in OPTIONS:
        tensors, keywords = layer(axes, option, torch.float32)
        theirs = clones(tensors)
        y = OURS[axes](*tensors, **keywords)
        assert y.grad_fn.name().startswith("_Direct")
        with Seen():
            z = OURS[axes](*theirs, **keywords)
        assert "fastconv" in z.grad_fn.name()
        y.square().sum().backward()
        z.square().sum().backward()
        assert torch.equal(y, z)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(tensors, theirs))


# ---- kinds of tensors


def test_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gets the tensors' own memory, and its result becomes the tensor."""
    handed: list[np.ndarray] = []
    real = operators._carry_out

    def carry_out(function: Any, *arguments: Any) -> torch.Tensor:
        handed.extend(a for a in arguments if isinstance(a, np.ndarray))
        return real(lambda *a: handed.append(function(*a)) or handed[-1], *arguments)

    monkeypatch.setattr(operators, "_carry_out", carry_out)
    (x, w, b), _ = layer(2, "plain", torch.float32)
    y = ft.conv2d(x, w, b)
    assert [a.ctypes.data for a in handed] == [t.data_ptr() for t in (x, w, b, y)]


@pytest.mark.parametrize("make", ["channels_last", "strided", "transposed", "expanded", "flipped"])
def test_layouts(make: str) -> None:
    x, w = torch.randn(2, 4, 6, 8), torch.randn(4, 4, 3, 3)
    if make == "channels_last":
        a, v = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    elif make == "strided":
        a, v = torch.randn(2, 8, 6, 16)[:, ::2, :, ::2], torch.randn(4, 4, 3, 6)[..., 1:4]
    elif make == "transposed":
        a, v = x.transpose(2, 3), w.transpose(2, 3)
    elif make == "expanded":
        a, v = x[:1].expand(2, 4, 6, 8), w[:, :1].expand(4, 4, 3, 3)
    else:
        a, v = x.flip(3), w.flip(2)
    a, v = a.detach().requires_grad_(), v.detach().requires_grad_()
    y = ft.conv2d(a, v, padding=1)
    assert y.is_contiguous()
    expected = torch.conv2d(a, v, padding=1)
    torch.testing.assert_close(y, expected)
    grad = torch.randn(expected.shape).contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(torch.autograd.grad(y, (a, v), grad), torch.autograd.grad(expected, (a, v), grad)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("make", ["channels_last", "expanded"])
def test_a_gradient_in_another_order_is_copied_once(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[int] = []
    real = operators._array
    monkeypatch.setattr(operators, "_array", lambda tensor: handed.append(tensor.data_ptr()) or real(tensor))
    (x, w, b), _ = layer(2, "plain", torch.float32)
    y = ft.conv2d(x, w, b)
    grad = torch.randn(y.shape).contiguous(memory_format=torch.channels_last)
    if make == "expanded":
        grad = grad[:, :1, :1, :1].expand(y.shape)
    handed.clear()
    found = torch.autograd.grad(y, (x, w, b), grad)
    of_input, of_weight = handed[1], handed[3]  # each operator takes its factor, then this
    assert of_input == of_weight != grad.data_ptr()
    for ours, theirs in zip(found, torch.autograd.grad(torch.conv2d(x, w, b), (x, w, b), grad)):
        torch.testing.assert_close(ours, theirs)


def test_negated_views(axes: int) -> None:
    """Tensors with the lazy minus sign, which views of complex numbers have."""
    (x, w, b), _ = layer(axes, "plain")

    def run(convolve: Any) -> list[torch.Tensor]:
        negated = torch.complex(x.detach(), x).conj().imag
        assert negated.is_neg()
        y = convolve(negated, w, b) + convolve(x, torch._neg_view(w), torch._neg_view(b))
        return [y, *torch.autograd.grad(y.square().sum(), (x, w, b))]

    for ours, theirs in zip(run(OURS[axes]), run(THEIRS[axes])):
        torch.testing.assert_close(ours, theirs)


def test_an_empty_batch(axes: int) -> None:
    (x, w, b), _ = layer(axes, "plain")
    empty = x.detach()[:0].requires_grad_()
    y = OURS[axes](empty, w, b)
    assert y.shape == THEIRS[axes](empty, w, b).shape
    y.sum().backward()
    assert empty.grad.shape == empty.shape
    assert not w.grad.any()
    assert not b.grad.any()


def test_meta_tensors(axes: int) -> None:
    tensors, keywords = layer(axes, "stride")
    y = OURS[axes](*(t.to("meta") for t in tensors), **keywords)
    assert y.is_meta
    assert y.shape == THEIRS[axes](*tensors, **keywords).shape


def test_inference_mode(axes: int) -> None:
    tensors, _ = layer(axes, "plain")
    with torch.inference_mode():
        y, expected = OURS[axes](*tensors), THEIRS[axes](*tensors)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(OURS[axes](y[:, :4] if axes == 1 else y, tensors[1]), THEIRS[axes](y, tensors[1]))
    assert y.is_inference() == expected.is_inference()


def test_hooks(axes: int) -> None:
    tensors, _ = layer(axes, "plain")
    y = OURS[axes](*tensors)
    seen: list[str] = []
    y.register_hook(lambda grad: seen.append("output") or 2 * grad)
    tensors[1].register_hook(lambda grad: seen.append("weight"))
    y.sum().backward()
    assert seen == ["output", "weight"]
    torch.testing.assert_close(tensors[2].grad, torch.full((4,), 2.0 * y[:, 0].numel(), dtype=torch.float64))


def test_the_output_is_an_ordinary_tensor(axes: int) -> None:
    tensors, _ = layer(axes, "plain")
    y = OURS[axes](*tensors)
    y.mul_(2).relu_()
    y.sum().backward()
    assert tensors[0].grad is not None


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (lambda x, w, b: (x.half(), w.half(), None), TypeError),
        (lambda x, w, b: (x.bfloat16(), w.bfloat16(), None), TypeError),
        (lambda x, w, b: (torch.complex(x, x).conj(), w, b), TypeError),
        (lambda x, w, b: (x.float(), w, b), TypeError),
        (lambda x, w, b: (x, w, b.float()), TypeError),
        (lambda x, w, b: (x[:, :3], w, b), ValueError),
        (lambda x, w, b: (x, w, b[:3]), ValueError),
        (lambda x, w, b: (x, w, torch.zeros(4, 4)), (ValueError, TypeError)),
        (lambda x, w, b: (x, w, b, 0), ValueError),
        (lambda x, w, b: (x, w, b, 1.5), TypeError),
        (lambda x, w, b: (x, w, b, 2, "same"), ValueError),
        (lambda x, w, b: (x, w, b, 1, -1), ValueError),
        (lambda x, w, b: (x, w, b, 1, 0, 1, 3), ValueError),
    ],
)
def test_bad_arguments(axes: int, arguments: Any, error: Any) -> None:
    (x, w, b), _ = layer(axes, "plain")
    with pytest.raises(error):
        OURS[axes](*arguments(x, w, b))


def test_sequences_as_torch_takes_them() -> None:
    x, w = torch.randn(1, 2, 9, 8), torch.randn(2, 2, 3, 3)
    for form in ([2], (2,), torch.Size([2, 1]), [2, 1]):
        torch.testing.assert_close(ft.conv2d(x, w, stride=form), torch.conv2d(x, w, stride=form))


# ---- settings


def test_threads_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str]] = []

    def carry_out(*_: Any) -> np.ndarray:
        from fastconv import settings

        seen.append((settings.current().threads, settings.current().precision))
        return np.zeros(1)

    torch.set_num_threads(2)
    before = fc.get_num_threads()
    with fc.num_threads(5), fc.precision("strict"):
        operators._carry_out(carry_out)
        assert fc.get_num_threads() == 5
    torch.set_num_threads(1)
    operators._carry_out(carry_out)
    assert seen == [(2, "strict"), (1, "default")]
    assert fc.get_num_threads() == before


def test_the_backend_is_fastconvs_setting(axes: int) -> None:
    tensors, keywords = layer(axes, "stride")
    with fc.use_backend("reference"):
        expected = fc.functional._conv(
            axes, *(t.detach().numpy() for t in tensors), 2, 1, 1, 1, "zeros", None, None, None
        )
        assert np.array_equal(OURS[axes](*tensors, **keywords).detach().numpy(), expected)


def test_threads_at_once() -> None:
    (x, w, b), keywords = layer(2, "stride", torch.float32)
    expected = torch.conv2d(x, w, b, **keywords)
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(50):
            y = ft.conv2d(x, w, b, **keywords)
            grads = torch.autograd.grad(y.sum(), (x, w, b))
            if not torch.allclose(y, expected, atol=1e-5) or any(g is None for g in grads):
                wrong.append(y)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- imports


def test_torch_is_imported_when_asked_for(run_python: Any) -> None:
    code = """
    import sys, fastconv
    assert "torch" in dir(fastconv) and "torch" not in sys.modules
    fastconv.torch.conv1d
    assert "torch" in sys.modules
    """
    run_python(code)
