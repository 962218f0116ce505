"""From wrong results to the mistake that leads to them: agreement with the catalogue in every case."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .mistakes import CATALOGUE, Mistake, result
from .trials import Trial

# A right result in float64 is much nearer than this, one that was rounded to float32 on the way is not.
TOLERANCE = 1e-9
_SINGLE_PRECISION = 1e-5

Results = Sequence[tuple[Trial, np.ndarray]]


def same(got: np.ndarray, right: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether `got` has the shape and the numbers of `right`; a single number may be an array of one as well."""
    if got.shape != right.shape:
        if right.ndim or got.shape != (1,):
            return False
        got = got[0]
    scale = max(1.0, float(np.max(np.abs(right), initial=0.0)))
    with np.errstate(all="ignore"):  # got may hold anything
        return bool(np.all(np.abs(got - right) <= tolerance * scale))


def is_right(term: str, trial: Trial, got: np.ndarray) -> bool:
    return same(got, trial.right[term])


def diagnose(term: str, results: Results) -> tuple[str, str]:
    """Name and explanation of what makes these results of `term` wrong; at least one of them is.

    A mistake is the diagnosis where it gives the same result in every case. Single ones come first, then two at once.
    """
    wrong = [(trial, got) for trial, got in results if not is_right(term, trial, got)]
    # The wrong ones first: most mistakes are ruled out by the first of them.
    ordered = [*wrong, *((trial, got) for trial, got in results if is_right(term, trial, got))]
    known = CATALOGUE[term]
    for mistake in known:
        if _explained((mistake,), ordered) == len(ordered):
            return mistake.name, mistake.why
    if all(same(got, trial.right[term], _SINGLE_PRECISION) for trial, got in wrong):
        return (
            "rounded to float32",
            "Digits are lost: a float32 array on the way. Results are to be as exact as the input.",
        )
    if all(got.size == trial.right[term].size for trial, got in wrong):
        shape = _of_another_shape(term, wrong)
        if shape is not None:
            return shape
    for pair in itertools.combinations(known, 2):
        if not all(m.instead for m in pair) and _explained(pair, ordered) == len(ordered):
            first, second = pair
            return f"{first.name}, {second.name}", f"Two mistakes at once. {first.why}\n{second.why}"
    best = max(known, key=lambda mistake: _explained((mistake,), wrong))
    count = _explained((best,), wrong)
    if count > 1:
        return (
            f"{best.name}, and more",
            f"{best.why}\nIt explains the first {count} of the {len(wrong)} wrong cases: mend it and look again.",
        )
    return _unknown(term, [trial for trial, _ in results], wrong)


def _explained(mistakes: tuple[Mistake, ...], results: Results) -> int:
    """How many results, from the first on, are those of `mistakes`."""
    for count, (trial, got) in enumerate(results):
        try:
            predicted = trial.shown(mistakes[0].term, result(mistakes, trial.convolution))
        except (ValueError, IndexError):  # the mistake cannot be made here
            return count
        if not same(got, predicted):
            return count
    return len(results)


def _of_another_shape(term: str, wrong: Results) -> tuple[str, str] | None:
    trial, got = wrong[0]
    right = trial.right[term]
    shapes = f"The shape is {got.shape}, {right.shape} is right."
    if all(same(got.reshape(trial.right[term].shape), trial.right[term]) for trial, got in wrong):
        return "right numbers in the wrong shape", shapes
    for order in itertools.permutations(range(right.ndim)):
        if all(got.ndim == right.ndim and same(got.transpose(order), trial.right[term]) for trial, got in wrong):
            return "axes in the wrong order", f"{shapes} transpose{order} of the result would be right."
    return None


def _unknown(term: str, tried: Sequence[Trial], wrong: Results) -> tuple[str, str]:
    where = pattern(tried, [trial for trial, _ in wrong])
    shaped = [(trial, got) for trial, got in wrong if got.shape != trial.right[term].shape]
    if len(shaped) < len(wrong):
        return "wrong numbers", f"No mistake that is known gives them. {where}"
    trial, got = smallest(shaped)
    return "wrong shape", f"The shape is {got.shape}, {trial.right[term].shape} is right. {where}"


def smallest(results: Results) -> tuple[Trial, np.ndarray]:
    return min(results, key=lambda pair: pair[0].numbers)


def pattern(tried: Sequence[Trial], failed: Sequence[Trial]) -> str:
    """What the cases that failed have in common, as a sentence."""
    if len(failed) == len(tried):
        return "Every case fails."
    having = {name: [trial for trial in tried if trial.features()[name]] for name in tried[0].features()}
    for count in (1, 2):
        for names in itertools.combinations(having, count):
            both = [trial for trial in having[names[0]] if trial in having[names[-1]]]
            if both == list(failed):
                return f"Exactly the cases with {' and '.join(names)} fail."
    around = [name for name, trials in having.items() if all(trial in trials for trial in failed)]
    if around:
        narrowest = min(around, key=lambda name: len(having[name]))
        return f"{len(failed)} of {len(tried)} cases fail, all of them with {narrowest}."
    return f"{len(failed)} of {len(tried)} cases fail."
