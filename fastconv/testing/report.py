"""What the check found, as objects and in plain words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    term : "forward", "grad_input", "grad_weight", "grad_bias", or "backward" for what concerns all gradients
    diagnosis : the mistake in a few words, e.g. "kernel flipped"; "wrong numbers" where it is not a known one
    explanation : a sentence or two on what is right
    geometry : the smallest failing case: shapes of x and w, and every step that is not the default
    arguments : its arrays by role, to call the function with again
    expected, got : the right result and the function's own; `got` is None where there was none
    cases : in how many cases it was seen
    """

    term: str
    diagnosis: str
    explanation: str
    geometry: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(repr=False)
    expected: np.ndarray | None = field(repr=False)
    got: Any = field(repr=False)
    cases: int = 1

    def __str__(self) -> str:
        return f"{self.term}: {self.diagnosis}"


@dataclass(frozen=True)
class Report:
    """The result of :func:`fastconv.testing.check_conv`; ``print(report)`` tells it in words. True where all is right.

    ok : whether nothing is wrong
    problems : the findings, the first to be looked at first
    cases : how many cases each term was tried in
    layout : the shapes that the function was found to take, e.g. "(N, C, L)"
    notes : what was not tested, and why
    """

    ok: bool
    problems: tuple[Finding, ...]
    cases: Mapping[str, int]
    layout: str
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        wrong = list(dict.fromkeys(finding.term for finding in self.problems))
        verdict = "all right" if self.ok else f"look at {wrong[0]} first"
        lines = [f"check_conv: {verdict} (input {self.layout})", ""]
        for term in dict.fromkeys([*self.cases, *wrong]):
            tried = f"{self.cases[term]} cases" if term in self.cases else ""
            known = "; ".join(dict.fromkeys(f.diagnosis for f in self.problems if f.term == term))
            lines.append(f"  {term:<12} {known or 'right':<40} {tried}".rstrip())
        for finding in self.problems:
            lines += ["", *_told(finding)]
        if self.notes:
            lines += ["", *(line for note in self.notes for line in _wrapped(f"Not tested: {note}.", ""))]
        return "\n".join(lines)


def _told(finding: Finding) -> list[str]:
    lines = [str(finding), *_wrapped(finding.explanation, "    ")]
    seen = f"seen in {finding.cases} cases, the smallest:" if finding.cases > 1 else "seen in this case:"
    lines.append(f"    {seen} {_in_words(finding.geometry)}")
    arrays = {**finding.arguments, "expected": finding.expected, "got": finding.got}
    for name, array in arrays.items():
        if array is not None or name == "got":
            lines += _shown(name, array)
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, WIDTH, initial_indent=indent, subsequent_indent=indent)
    ]


def _in_words(geometry: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} of shape {value}" if name in "xwb" else f"{name}={value!r}" for name, value in geometry.items()
    )


def _shown(name: str, value: Any) -> list[str]:
    start = f"    {name:<11} = "
    if isinstance(value, np.ndarray):
        with np.printoptions(precision=9, suppress=True, linewidth=WIDTH, threshold=200):
            text = str(value)
    else:
        text = repr(value)
        text = text if len(text) < 200 else text[:200] + "..."
    first, *rest = text.split("\n")
    return [start + first, *(" " * len(start) + line for line in rest)]
