"""Runs a learner's functions over the cases and gathers what is wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .calls import GRADIENTS, Call, as_gradients, gradient_named, term_order
from .diagnosis import diagnose, is_right, pattern, same, smallest
from .report import Finding, Report
from .trials import LAYOUTS, STEPS, TERMS, Trial, needs, trials

_SHAPES = {
    ("batched", 1): "(N, C, L)",
    ("unbatched", 1): "(C, L)",
    ("plain", 1): "(L,)",
    ("batched", 2): "(N, C, H, W)",
    ("unbatched", 2): "(C, H, W)",
    ("plain", 2): "(H, W)",
    ("channels_last", 1): "(N, L, C), the weight (S, C, K)",
    ("channels_last", 2): "(N, H, W, C), the weight (R, S, C, K)",
}
_ARRAYS = ("x", "w", "b", "grad_output")


@dataclass(frozen=True)
class _Style:
    """How the learner's functions want their arguments, as far as it is not a matter of names."""

    axes: int
    layout: str
    bias: str | None  # as a Trial's
    bias_array: bool = False  # a single bias as an array of one, not as a number
    no_padding: Any = 0

    def trial(self, size: int, kernel: int, **more: Any) -> Trial:
        return Trial(self.layout, (size,) * self.axes, (kernel,) * self.axes, bias=self.bias, **more)

    def values(self, trial: Trial) -> dict[str, Any]:
        values = trial.values()
        if self.bias_array and values["b"] is not None:
            values["b"] = np.atleast_1d(values["b"])
        if values["padding"] == 0:
            values["padding"] = self.no_padding
        return values


@dataclass
class _Outcome:
    """One call of a learner's function."""

    trial: Trial
    original: Any = None
    returned: Any = None  # a copy of it, which no later call can write into
    error: str | None = None  # what it raised
    error_type: str = ""
    changed: tuple[str, ...] = ()  # arguments that were modified


@dataclass
class _Term:
    """The results of one term, and what is wrong with them apart from their numbers."""

    results: list[tuple[Trial, np.ndarray]] = field(default_factory=list)
    complaints: dict[str, tuple[str, list[tuple[Trial, Any]]]] = field(default_factory=dict)  # diagnosis -> why, where
    tried: list[Trial] = field(default_factory=list)

    def complain(self, diagnosis: str, why: str, trial: Trial, got: Any) -> None:
        self.complaints.setdefault(diagnosis, (why, []))[1].append((trial, got))


def check_conv(
    forward: Callable[..., Any] | None,
    backward: Callable[..., Any] | None = None,
    *,
    dims: int | None = None,
    layout: str | None = None,
    names: Mapping[str, str] | None = None,
    returns: Sequence[str] | None = None,
    untied_bias: bool = False,
    raise_on_error: bool = False,
) -> Report:
    """Check a hand-written convolution, and say which term is wrong first and why.

    The functions are run over some dozens of small cases, from simple to hard, and compared with the definition. A
    wrong term is compared with a catalogue of typical mistakes ("kernel flipped", "stride ignored", "bias added per
    position", ...): the one that leads to the same wrong numbers in every case is the diagnosis. Whatever a function
    does (raise, return None or a list, modify its arguments, ...) is a finding, never an error of this check.

    Parameters
    ----------
    forward : function of the input, the weight and, where there are any, bias, stride, padding, dilation, groups
        Parameters are told by their usual names (``x``, ``input``, ``signal``; ``w``, ``kernel``; ``b``, ``bias``;
        ``pad``; ...), else by position. What it has no parameter for is not tested. The arrays are float64, of the
        shapes that :func:`fastconv.conv1d` and :func:`fastconv.conv2d` take, or without the batch axis, or plain
        (L,), (K,) with a number as bias, or channels last with a weight (R, S, C_in, C_out): which of these is found
        out. As in much course work, the steps may come in one dict (``conv_param["stride"]``, ``hparameters["pad"]``),
        and a cache may be returned beside the output. None checks the backward function alone.
    backward : function of the gradient of the output, the input and the weight, in any order, default None
        And of stride, ... as above; or of the gradient of the output and the ``cache``. Returns any of the gradients of
        input, weight and bias: as a tuple (told by order and shape), as an array, or as a dict or named tuple
        ("grad_x", "dw", ...).
    dims : 1 or 2, default None: found out
    layout : "batched", "unbatched", "plain" or "channels_last", default None: found out
    names : dict of parameter names and what they are, e.g. ``{"sig": "x", "upstream": "grad_output"}``, default None
    returns : the gradients that backward returns, in order, e.g. ``("grad_weight", "grad_bias")``, default None:
        found out
    untied_bias : bool, default False
        The bias has one value per output position, as in :func:`fastconv.conv1d`.
    raise_on_error : bool, default False
        Raise AssertionError with the report where something is wrong: for a test.

    Returns
    -------
    Report
        True where all is right; ``print`` shows it in words. ``problems`` are the findings, each with its `term`,
        `diagnosis`, `geometry`, `expected` and `got`.

    Raises
    ------
    AssertionError
        Where something is wrong, with ``raise_on_error=True``.
    TypeError, ValueError
        Where the signature cannot be understood (see `names`), or an argument of this function is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.testing import check_conv
    >>> report = check_conv(lambda x, w: np.convolve(x, w, "valid"))
    >>> report.ok, str(report.problems[0])
    (False, 'forward: kernel flipped')
    >>> check_conv(lambda x, w: np.correlate(x, w, "valid")).ok
    True
    """
    if dims not in (None, 1, 2):
        raise ValueError(f"dims must be 1 or 2, got {dims!r}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if forward is None and backward is None:
        raise ValueError("there is nothing to check: give forward, backward or both")
    calls = {
        what: Call(function, what, names or {})
        for what, function in (("forward", forward), ("backward", backward))
        if function is not None
    }
    terms = None if returns is None else tuple(_as_term(name) for name in returns)
    report = _Check(calls, dims, layout, terms, untied_bias).report()
    if raise_on_error and not report.ok:
        raise AssertionError(str(report))
    return report


def _as_term(name: str) -> str:
    term = name if name in GRADIENTS else gradient_named(name)
    if term is None:
        raise ValueError(f"returns: {name!r} is none of {', '.join(GRADIENTS)}")
    return term


class _Check:
    """One run of the check: finds the style, calls, judges."""

    def __init__(
        self,
        calls: dict[str, Call],
        dims: int | None,
        layout: str | None,
        returns: tuple[str, ...] | None,
        untied_bias: bool,
    ) -> None:
        self.calls, self.returns = calls, returns
        self.notes: list[str] = []
        forward = calls.get("forward")
        kind = "untied" if untied_bias else "shared"
        bias = kind if any(call.takes("b") for call in calls.values()) or untied_bias else None
        # Without a parameter for it the forward has no bias; a gradient of it there may be all the same.
        self.bias = {"forward": bias if forward is not None and forward.takes("b") else None, "backward": bias}
        if "backward" in calls and calls["backward"].takes("cache"):
            if forward is None:
                raise ValueError("backward takes what forward keeps in its cache: give the forward too")
            # It has all that the forward has, steps that this looks up later included.
            forward.looked_up.update(forward.roles.values())
            calls["backward"].looked_up = forward.looked_up
            self.bias["backward"] = self.bias["forward"]
        self.style, self.fits = self._find_style(dims, layout)
        if self.style.bias == "kept":
            self.bias = {what: "kept" if bias == "shared" else bias for what, bias in self.bias.items()}

    def report(self) -> Report:
        terms = {term: _Term() for term in (*TERMS[:1], "backward", *TERMS[1:])}
        for what, call in self.calls.items():
            self._try(what, call, terms)
        findings = [finding for term, found in terms.items() for finding in self._judge(term, found)]
        return Report(
            ok=not findings,
            problems=tuple(findings),
            cases={term: len(terms[term].tried) for term in TERMS if terms[term].tried},
            layout=_SHAPES[self.style.layout, self.style.axes],
            notes=tuple(dict.fromkeys(self.notes)),
        )

    # ---- the shapes that the functions take

    def _find_style(self, dims: int | None, layout: str | None) -> tuple[_Style, bool]:
        """The first of the styles, richest first, that fits best, and whether any fits at all."""
        what, call = next(iter(self.calls.items()))
        name = getattr(call.function, "__name__", "").lower()
        if dims is None:
            dims = 1 if "1d" in name else 2 if "2d" in name else None
        shared = self.bias[what] == "shared"
        styles = [
            _Style(axes, each, bias, bias_array)
            for each in (LAYOUTS if layout is None else (layout,))
            for axes in ((1, 2) if dims is None else (dims,))
            for bias in ((self.bias[what], "kept") if shared and each == "channels_last" else (self.bias[what],))
            for bias_array in ((False, True) if each == "plain" and shared else (False,))
        ]
        styles = [
            replace(style, no_padding=none)
            for none in ((0, "valid") if call.takes("padding") else (0,))
            for style in styles
        ]
        scores = [self._fit(style, what, call) for style in styles]
        return styles[scores.index(max(scores))], max(scores) > 0

    def _fit(self, style: _Style, what: str, call: Call) -> float:
        """How well the function's results on simple cases fit `style`: 0 where it raises, 4 where they are right."""
        rich = {"unbatched": {"c": 3, "k": 4}, "plain": {}}.get(style.layout, {"n": 2, "c": 3, "k": 4})
        probes = [style.trial(5, 3), style.trial(7, 3, **rich), style.trial(5, 2, **({"k": 4} if rich else {}))]
        return sum(self._closeness(self._call(call, style, trial), what) for trial in probes) / len(probes)

    def _closeness(self, outcome: _Outcome, what: str) -> float:
        if outcome.error is not None:
            return 0
        if what == "forward":
            return _likeness(outcome.returned, outcome.trial.right["forward"])
        parts = as_gradients(outcome.returned)
        values = list(parts.values() if isinstance(parts, dict) else parts)
        right = [outcome.trial.right[term] for term in GRADIENTS]
        return sum(max(_likeness(value, r) for r in right) for value in values) / max(1, len(values))

    # ---- calling

    def _try(self, what: str, call: Call, terms: dict[str, _Term]) -> None:
        style = replace(self.style, bias=self.bias[what])
        cannot = self._cannot(what, call, style)
        optional = not any(each.requires("b") for each in self.calls.values())
        cases = [
            trial
            for trial in trials(style.axes, style.layout, style.bias)
            if not needs(trial) & cannot and (optional or trial.bias == style.bias)
        ]
        outcomes = []
        whole = terms[what]
        for trial in cases:
            first, again = (self._call(call, style, trial) for _ in range(2))
            self._complain_of_call(first, whole)
            if self._complain_of_state(first, again, whole):
                break  # what was kept of this call spoils all others
            outcomes.append(first)
        if what == "forward":
            whole.tried = [outcome.trial for outcome in outcomes]
            for outcome in outcomes:
                if outcome.error is None:
                    self._take("forward", outcome.trial, outcome.returned, whole)
        else:
            self._take_gradients(outcomes, terms)

    def _call(self, call: Call, style: _Style, trial: Trial) -> _Outcome:
        values = style.values(trial)
        if call.takes("cache"):
            made = _call(self.calls["forward"], values, trial)
            values["cache"] = _cache(made.original)
            if values["cache"] is None:
                text = made.error or "It returned no (out, cache), and backward takes a cache."
                return _Outcome(trial, error=f"In the forward: {text}", error_type=made.error_type or "TypeError")
        outcome = _call(call, values, trial)
        if call.what == "forward" and _cache(outcome.original) is not None:
            outcome.original, outcome.returned = outcome.original[0], outcome.returned[0]
        return outcome

    def _cannot(self, what: str, call: Call, style: _Style) -> set[str]:
        """What the function has no parameter for, or raises for: see `needs`."""
        missing = [step for step in STEPS if not call.takes(step)]
        if missing:
            self.notes.append(f"{', '.join(missing)} ({what} has no such parameter)")
        if call.left_alone:
            self.notes.append(f"{', '.join(call.left_alone)} ({what}'s own default is left alone)")
        cannot = {f"{step}{how}" for step in missing for how in ("", " by axis", " 'same'")}
        probe = style.trial(4, 1)
        if self._call(call, style, probe).error is not None:
            return cannot
        for step in (step for step in STEPS[:3] if step not in missing):
            neutral = 0 if step == "padding" else 1
            ways: dict[str, Any] = {f"{step} by axis": (neutral, neutral)} if style.axes == 2 else {}
            if step == "padding":
                ways |= {"padding 'same'": "same"}
            if step == "padding" and style.no_padding == "valid":
                ways |= {"padding": 1}
            for way, value in ways.items():
                error = self._call(call, style, replace(probe, **{step: value})).error
                if error is not None:
                    cannot.add(way)
                    self.notes.append(f"{way} ({what} does not take it)")
        return cannot

    # ---- what is wrong apart from the numbers

    def _complain_of_call(self, outcome: _Outcome, whole: _Term) -> None:
        if outcome.error is not None:
            whole.complain(f"raises {outcome.error_type}", outcome.error, outcome.trial, None)
        for name in outcome.changed:
            whole.complain(
                f"changes its argument {name}",
                "Who calls it does not expect that: work on a copy, x = x.copy(), and with x = x + 1, not x += 1.",
                outcome.trial,
                outcome.returned,
            )

    def _complain_of_state(self, first: _Outcome, again: _Outcome, whole: _Term) -> bool:
        """Whether a second call with the same arguments gave something else."""
        if first.error is not None or again.error is not None:
            return False
        pairs = list(zip(_leaves(first.returned), _leaves(again.returned)))
        if not all(_equal(a, b) for a, b in pairs) or len(_leaves(first.returned)) != len(_leaves(again.returned)):
            added = any(_difference_is(a, b, right) for a, b in pairs for right in first.trial.right.values())
            whole.complain(
                "adds to the result of the call before" if added else "differs from call to call",
                "The same arguments gave another result the second time."
                + (" It starts from what the first left (+=): make the array inside of the function." if added else ""),
                first.trial,
                again.returned,
            )
            return True
        if any(a is b for a, b in zip(_leaves(first.original), _leaves(again.original)) if isinstance(a, np.ndarray)):
            whole.complain(
                "returns the same array each time",
                "The second call wrote into the first one's result: make the array inside of the function.",
                first.trial,
                again.returned,
            )
        return False

    def _take(self, term: str, trial: Trial, value: Any, found: _Term) -> None:
        """One value as a result of `term`, and what is wrong with it apart from its numbers."""
        try:
            array, complaint = _as_array(value)
        except Exception:  # whatever the conversion of a strange object raises
            array, complaint = None, (f"returns {_article(value)}", "A NumPy array of numbers is expected.")
        if complaint is not None:
            found.complain(*complaint, trial, value)
        if array is None:
            return
        if not np.isfinite(array).all():
            found.complain(
                "NaN or infinity in the result",
                "The input has none: a division by zero, or np.empty() of which not every element is set.",
                trial,
                array,
            )
        elif not (trial.fractions and complaint is not None and "dtype" in complaint[0]):  # digits lost: said already
            found.results.append((trial, array))

    def _take_gradients(self, outcomes: Sequence[_Outcome], terms: dict[str, _Term]) -> None:
        whole = terms["backward"]
        ran = [outcome for outcome in outcomes if outcome.error is None]
        whole.tried = [outcome.trial for outcome in outcomes]
        parts = [(outcome.trial, as_gradients(outcome.returned)) for outcome in ran]
        order = self.returns or _order([(trial, part) for trial, part in parts if isinstance(part, tuple)])
        for trial, part in parts:
            if isinstance(part, tuple):
                found = {term: value for term, value in zip(order, part) if term is not None}
            else:
                found = part
            if not any(value is not None for value in found.values()):
                whole.complain(
                    "returns nothing",
                    "A tuple of (grad_x, grad_w, grad_b), some of them, or a dict with these names is expected.",
                    trial,
                    None,
                )
            for term, value in found.items():
                if value is not None:
                    terms[term].tried.append(trial)
                    self._take(term, trial, value, terms[term])
        absent = [term for term in GRADIENTS if ran and not terms[term].tried]
        if absent and len(absent) < len(GRADIENTS):
            self.notes.append(f"{', '.join(absent)} (backward does not return it)")
        # A gradient that is there in some cases and missing in others; that of a bias may be, where there is none.
        for trial, _ in parts:
            for term in GRADIENTS:
                given = terms[term].tried
                if given and trial not in given and not (term == "grad_bias" and trial.bias is None):
                    terms[term].complain("missing", "It is returned in other cases, but not here.", trial, None)

    # ---- verdicts

    def _judge(self, term: str, found: _Term) -> list[Finding]:
        findings = []
        wrong = [(trial, got) for trial, got in found.results if not is_right(term, trial, got)]
        for diagnosis, (why, where) in found.complaints.items():
            failed = [trial for trial, _ in where]
            common = pattern(found.tried or failed, failed) if diagnosis.startswith("raises") else ""
            if diagnosis.startswith("raises") and not self.fits:
                kinds = ", ".join(_SHAPES.values())
                common += f" Every kind of input was tried: {kinds}. Wrap a function that wants another one."
            why = f"{why}\n{common}" if common else why
            findings.append(self._finding(term, diagnosis, why, min(where, key=lambda w: w[0].numbers), len(where)))
        if wrong:
            finding = self._finding(term, *diagnose(term, found.results), smallest(wrong), len(wrong))
            unexplained = finding.diagnosis in ("wrong numbers", "wrong shape")
            findings.insert(len(findings) if unexplained else 0, finding)
        return findings

    def _finding(self, term: str, diagnosis: str, why: str, where: tuple[Trial, Any], cases: int) -> Finding:
        trial, got = where
        call = self.calls["forward" if term == "forward" else "backward"]
        values = self.style.values(trial)
        return Finding(
            term=term,
            diagnosis=diagnosis,
            explanation=why,
            geometry=trial.geometry(),
            arguments={role: values[role] for role in _ARRAYS if call.takes(role) and values[role] is not None},
            expected=trial.right.get(term),
            got=got,
            cases=cases,
        )


# ---- values


def _cache(returned: Any) -> Any:
    """What a forward returned beside its output for the backward; None where there is none."""
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], np.ndarray):
        return returned[1] if isinstance(returned[1], (tuple, list, dict)) else None
    return None


def _call(call: Call, values: Mapping[str, Any], trial: Trial) -> _Outcome:
    before = {role: np.copy(values[role]) for role in _ARRAYS if isinstance(values[role], np.ndarray)}
    outcome = _Outcome(trial)
    try:
        outcome.original = call(values)
        outcome.returned = _copied(outcome.original)
    except (Exception, SystemExit) as error:
        outcome.error_type = type(error).__name__
        outcome.error = _where(error, call.function)
    outcome.changed = tuple(
        role for role, copy in before.items() if call.takes(role) and not np.array_equal(copy, values[role])
    )
    return outcome


def _where(error: BaseException, function: Any) -> str:
    """The message, with the line of the learner's own source that it came from."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return f"{text}\nin line {lines[-1].lineno}: {lines[-1].line}" if lines else text


def _as_array(value: Any) -> tuple[np.ndarray | None, tuple[str, str] | None]:
    """`value` as a float64 array, and (diagnosis, explanation) where it should be something else."""
    if value is None:
        return None, ("returns None", "Is a return statement missing?")
    if isinstance(value, (list, tuple)):
        return np.asarray(value, np.float64), (f"returns {_article(value)}", "np.array(...) of it is expected.")
    if not isinstance(value, (np.ndarray, np.generic, float)):
        return np.asarray(value, np.float64), (f"returns {_article(value)}", "A NumPy array is expected.")
    array = np.asarray(value)
    if array.dtype.kind == "c":
        real = array.real if not np.any(np.abs(array.imag) > 1e-9 * (1 + np.abs(array.real))) else None
        return real, ("result is complex", "Take the real part of what the FFT returns.")
    if array.dtype.kind != "f":
        return array.astype(np.float64), (
            f"result has dtype {array.dtype}",
            "float64 went in and is expected: an array of integers, np.zeros(n, dtype=int) or np.array([0, 0]), cuts "
            "fractions off.",
        )
    if array.dtype.itemsize < 8:
        return array.astype(np.float64), (
            f"result has dtype {array.dtype}",
            "float64 went in and is expected: digits are lost.",
        )
    return array.astype(np.float64), None


def _article(value: Any) -> str:
    return f"a {type(value).__name__}"


def _likeness(value: Any, right: np.ndarray) -> float:
    """4 the right numbers, 3 the right shape, 2 the right number of axes, 1 some array, 0 nothing."""
    array = _array_or_none(value)
    if array is None:
        return 0
    if same(array, right):
        return 4
    return 3 if array.shape == right.shape else 2 if array.ndim == right.ndim else 1


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*map(_copied, value))
    if isinstance(value, (list, tuple)):
        return [*map(_copied, value)] if isinstance(value, list) else (*map(_copied, value),)
    return value


def _difference_is(first: Any, second: Any, right: np.ndarray) -> bool:
    a, b = _array_or_none(first), _array_or_none(second)
    if a is None or b is None or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    return same(b - a, right) and not same(a, b)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(np.array_equal(np.asarray(a, complex), np.asarray(b, complex), equal_nan=True))
    except Exception:  # whatever their conversion raises: there are no numbers to be compared
        return type(a) is type(b)


def _order(results: Sequence[tuple[Trial, tuple[Any, ...]]]) -> tuple[str | None, ...]:
    """Which term each place of the returned tuples is, told where the shapes of the three differ most."""
    best: tuple[int, tuple[str | None, ...]] = (-1, tuple(GRADIENTS))
    for trial, parts in results:
        right = {term: trial.right[term] for term in GRADIENTS}
        distinct = len({array.shape for array in right.values()})
        if distinct <= best[0]:
            continue
        arrays = [_array_or_none(part) for part in parts]

        def agree(i: int, term: str, arrays: Any = arrays, right: Any = right) -> bool:
            return arrays[i] is not None and same(arrays[i], right[term])

        shapes = [None if array is None else array.shape for array in arrays]
        best = (distinct, term_order(shapes, right, agree))
    return best[1]


def _array_or_none(value: Any) -> np.ndarray | None:
    try:
        return _as_array(value)[0]
    except Exception:  # whatever the conversion of a strange object raises
        return None
