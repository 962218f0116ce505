"""How a learner's function is called and what it returns, told from its signature: roles in place of names."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .trials import STEPS

# Names that are taken for a role, in lower case and without underscores. Letters that mean now this, now that (f, g, h)
# are not among them: with those the position decides.
_NAMES = {
    "x": "x input inputs inp signal image img data xin",
    "w": "w weight weights wt wgt kernel kernels kern filter filters filt coefficients",
    "b": "b bias biases beta offset b0",
    "stride": "stride strides step s hop",
    "padding": "padding paddings pad pads p zeropadding zeropad",
    "dilation": "dilation dilations dilate rate d atrous",
    "groups": "groups group ngroups numgroups",
    # Course work: all steps in one dict, and what the forward kept for the backward
    "options": "convparam convparams hparameters hparams hyperparameters options config",
}
_BACKWARD_NAMES = {
    **_NAMES,
    "grad_output": "gradoutput gradout grad gradient gradients upstream delta deltas error err g go gy gout dy dout "
    "doutput dz do grady gradz dldy dedy dldz dldout gradoutputs dp dedp dldp topgrad dldo gradloss "
    "outgrad outputgrad outputgradient outputerror doutputs dvalues dldoutput",
    "x_shape": "xshape inputshape inputsize xsize shapex",
    "w_shape": "wshape weightshape weightsize kernelshape kernelsize filtershape wsize shapew",
    "cache": "cache caches saved context ctx",
}
# What a name has around a letter where it means the gradient by it: grad_w, dw, dL_dw, w_grad.
_GRADIENT_OF = re.compile(r"^(grad(ient)?s?(of|by|wrt)?|(dl|de|dloss)?d|dl|g)?(?P<of>.+?)(grad(ient)?s?)?$")
_WORDS = {"x": "the input", "w": "the weight", "grad_output": "the gradient of the output"}
GRADIENTS = {"grad_input": "x", "grad_weight": "w", "grad_bias": "b"}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _role(name: str, names: Mapping[str, str]) -> str | None:
    return next((role for role, aliases in names.items() if _plain(name) in aliases.split()), None)


class Options(dict[str, Any]):
    """The steps of a convolution in one dict, which remembers which of them were looked up."""

    def __init__(self, steps: Mapping[str, Any], looked_up: set[str]) -> None:
        super().__init__({name: steps[step] for step in STEPS for name in (*_NAMES[step].split(), step)})
        self._looked_up = looked_up

    def __getitem__(self, name: str) -> Any:
        self._looked_up.add(_role(name, _NAMES) or name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._looked_up.add(_role(name, _NAMES) or name)
        return super().get(name, default)


class Call:
    """A learner's function, called by roles ("x", "w", "stride", ...) whatever its parameters are called."""

    def __init__(self, function: Callable[..., Any], what: str, names: Mapping[str, str]) -> None:
        if not callable(function):
            raise TypeError(f"{what} must be a function, got {type(function).__name__}")
        self.function, self.what = function, what
        self.known = _NAMES if what == "forward" else _BACKWARD_NAMES
        self.roles: dict[str, str] = {}  # parameter -> role
        self.left_alone: list[str] = []  # optional parameters that keep their defaults
        self.looked_up: set[str] = set()  # what it took from a dict of options, or has from a cache
        order = ["x", "w", "b"] if what == "forward" else ["grad_output", "x", "w", "b"]
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # some that are compiled have none
            parameters = []
            self.loose: list[str] = order[:-1]
        else:
            self._assign(parameters, names, order)
        self.parameters = parameters

    def _assign(self, parameters: list[inspect.Parameter], names: Mapping[str, str], order: list[str]) -> None:
        wrong = sorted(set(names.values()) - self.known.keys() - set(_BACKWARD_NAMES))
        if wrong:
            raise ValueError(f"names: {wrong[0]!r} is no role; there are {', '.join(self.known)}")
        unknown, loose = [], False
        # In f(a, b), b is the kernel.
        letters = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        pair = self.what == "forward" and len(letters) == 2 and letters[1] == "b"
        for place, parameter in enumerate(parameters):
            role = names.get(parameter.name) or _role(parameter.name, self.known)
            if parameter.name not in names and (
                (role == "b" and pair) or (role in STEPS and len(parameter.name) == 1 and place < 2)
            ):
                role = None
            if parameter.kind is parameter.VAR_POSITIONAL:
                loose = True
            elif parameter.kind is parameter.VAR_KEYWORD:
                continue
            elif role is not None and role not in self.roles.values():
                self.roles[parameter.name] = role
            elif parameter.default is parameter.empty:
                unknown.append(parameter.name)
            else:
                self.left_alone.append(parameter.name)
        free = [role for role in order if role not in self.roles.values()]
        for name, role in zip(unknown, free):
            self.roles[name] = role
        if len(unknown) > len(free):
            name = unknown[len(free)]
            raise TypeError(
                f"{self.what}: what is its parameter {name!r}? Give names={{{name!r}: ROLE}} "
                f"with one of {', '.join(self.known)}, or wrap the function in one that has these alone"
            )
        self.loose = free[len(unknown) : -1] if loose else []
        for role in order[:2] if self.what == "forward" else order[:1]:
            if not self.takes(role):
                raise TypeError(
                    f"{self.what} has no parameter for {_WORDS[role]}: {', '.join(map(str, parameters)) or '()'}"
                )

    def takes(self, role: str) -> bool:
        return role in self.roles.values() or role in self.loose or role in self.looked_up

    def requires(self, role: str) -> bool:
        return any(
            self.roles.get(parameter.name) == role and parameter.default is parameter.empty
            for parameter in self.parameters
        )

    def __call__(self, values: Mapping[str, Any]) -> Any:
        values = {**values, "options": Options({step: values[step] for step in STEPS}, self.looked_up)}
        positional: list[Any] = [values[role] for role in self.loose]
        keywords: dict[str, Any] = {}
        gap = False
        for parameter in self.parameters:
            role = self.roles.get(parameter.name)
            # A bias that there is none of is left out where that is possible.
            given = role is not None and not (role == "b" and values["b"] is None and not self.requires("b"))
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(values[role] if given and role else parameter.default)
            elif given and role and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and not gap and not self.loose:
                positional.append(values[role])
            elif given and role:
                keywords[parameter.name] = values[role]
            else:
                gap = True
        return self.function(*positional, **keywords)


def gradient_named(name: str) -> str | None:
    """The term that a name in a dict or a named tuple stands for: "grad_weight" for "dW"."""
    plain = _plain(name)
    found = _GRADIENT_OF.match(plain)
    for term, letter in GRADIENTS.items():
        aliases = _NAMES[letter].split()
        if plain in aliases or (found and found["of"] in aliases):
            return term
    return None


def as_gradients(returned: Any) -> dict[str, Any] | tuple[Any, ...]:
    """What a backward function returned: a dict by term where it has names, else the tuple of what there is."""
    if hasattr(returned, "_asdict"):
        returned = returned._asdict()
    if isinstance(returned, Mapping):
        named = {gradient_named(str(key)): value for key, value in returned.items()}
        return {term: value for term, value in named.items() if term is not None}
    if isinstance(returned, (tuple, list)) and any(isinstance(part, np.ndarray) for part in returned):
        return tuple(returned)
    if isinstance(returned, tuple):
        return returned
    return (returned,)


def term_order(
    shapes: Sequence[tuple[int, ...] | None], right: Mapping[str, np.ndarray], agree: Callable[[int, str], bool]
) -> tuple[str | None, ...]:
    """Which term each returned array is, None for none: by value, then by shape, then in the usual order.

    shapes: of the arrays returned, None where there is nothing; agree(i, term): whether the i-th is right as `term`.
    """
    terms: list[str | None] = list(GRADIENTS)
    count = len(shapes)
    choices = itertools.permutations(terms, count) if count <= 3 else [(*terms, *[None] * (count - 3))]
    best: tuple[str | None, ...] = ()
    best_score = -1
    for choice in choices:
        score = 0
        for i, (shape, term) in enumerate(zip(shapes, choice)):
            if shape is not None and term is not None:
                score += 10 * agree(i, term) + (shape == right[term].shape)
        if score > best_score:
            best, best_score = tuple(choice), score
    return best


__all__ = ["GRADIENTS", "STEPS", "Call", "as_gradients", "gradient_named", "term_order"]
