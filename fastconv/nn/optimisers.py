"""Optimisers: :class:`SGD`, :class:`Adam`, :class:`AdamW`, with the formulas, options and state names of torch.optim.

An optimiser moves the parameters of a group into one block of memory, and their gradients into another, so that a step
is a handful of NumPy calls however many parameters there are. Large blocks are worked through in pieces that stay in
cache.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .module import Parameter, _as_array

_PIECE = 1 << 14  # elements: six float32 pieces of this size fit into half a megabyte of second-level cache
_FLUSH_EVERY = 64  # steps


class _Block:
    """Parameters of one dtype, laid out one after the other, and the state of their optimisation."""

    def __init__(self, parameters: list[Parameter]):
        self.parameters = parameters
        size = sum(p.size for p in parameters)
        dtype = parameters[0].dtype
        self.data, self.grad = np.empty(size, dtype), np.empty(size, dtype)
        self.states: dict[str, np.ndarray] = {}
        self.scratch = (np.empty(min(size, _PIECE), dtype), np.empty(min(size, _PIECE), dtype))
        self.step = 0
        self.slices: list[slice] = []
        start = 0
        for p in parameters:
            self.slices.append(slice(start, start + p.size))
            start += p.size
        self.gather()

    def add_states(self, names: Iterable[str]) -> None:
        """See to it that there are these states, zero where new."""
        for name in names:
            if name not in self.states:
                self.states[name] = np.zeros_like(self.data)

    def gather(self) -> None:
        """Bring in the parameters that live elsewhere (another optimiser has them, or a copy was made) and clear what
        counts as zero."""
        for p, part in zip(self.parameters, self.slices):
            if p._data.base is not self.data:
                p.move(self.data[part].reshape(p.shape), self.grad[part].reshape(p.shape))
            if p._stale:
                p._grad.fill(0)
                p._stale = False

    def pieces(self) -> Iterable[tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]]:
        """(data, gradient, states, scratch, scratch), small enough for the cache."""
        a, b = self.scratch
        states = list(self.states.values())
        if self.data.size <= _PIECE:
            yield self.data, self.grad, states, a, b
            return
        for start in range(0, self.data.size, _PIECE):
            part = slice(start, start + _PIECE)
            data = self.data[part]
            yield data, self.grad[part], [s[part] for s in states], a[: len(data)], b[: len(data)]

    def flush_denormals(self) -> None:
        """Set state that has decayed to denormal numbers to zero.

        Where a gradient stays zero, a decaying average sinks to the smallest denormals and, rounded, stays there for
        good, which makes each multiplication 40 times slower.
        """
        for state in self.states.values():
            state[np.abs(state) < np.finfo(state.dtype).tiny] = 0


class Optimizer(ABC):
    """Base of the optimisers.

    ``param_groups`` is a list of dicts that hold a group's parameters and options, as in torch: change an option, the
    learning rate say, by ``optimizer.param_groups[0]["lr"] = 0.01``.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        if isinstance(params, (Parameter, Mapping)):
            raise TypeError("params must be an iterable of parameters, or of dicts with the key 'params'")
        given = list(params)
        if not given:
            raise ValueError("the optimiser got no parameters")
        if not isinstance(given[0], Mapping):
            given = [{"params": given}]
        self.param_groups: list[dict[str, Any]] = []
        self._blocks: list[list[_Block]] = []
        seen: set[int] = set()
        for number, group in enumerate(given):
            if not isinstance(group, Mapping) or "params" not in group:
                raise TypeError(f"params[{number}] is no dict with the key 'params': {group!r}")
            unknown = set(group) - {"params"} - set(defaults)
            if unknown:
                raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
            parameters = [group["params"]] if isinstance(group["params"], Parameter) else list(group["params"])
            for p in parameters:
                if not isinstance(p, Parameter):
                    raise TypeError(f"expected a Parameter, got {type(p).__name__}")
                if id(p) in seen:
                    raise ValueError("a parameter is given twice")
                seen.add(id(p))
            options = {**defaults, **{key: value for key, value in group.items() if key != "params"}}
            self._check(options)
            self.param_groups.append({"params": parameters, **options})
            by_dtype: dict[Any, list[Parameter]] = {}
            for p in parameters:
                by_dtype.setdefault(p.dtype, []).append(p)
            self._blocks.append([_Block(same) for same in by_dtype.values()])

    @staticmethod
    def _check(options: dict[str, Any]) -> None:
        """ValueError for options outside of their range."""
        for name in ("lr", "momentum", "weight_decay", "eps"):
            if name in options and not options[name] >= 0:
                raise ValueError(f"{name} must be at least 0, got {options[name]!r}")
        if "betas" in options and not (len(options["betas"]) == 2 and all(0 <= beta < 1 for beta in options["betas"])):
            raise ValueError(f"betas must be two numbers, at least 0 and less than 1, got {options['betas']!r}")
        if options.get("nesterov") and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError("nesterov needs a momentum and dampening 0")

    def step(self) -> None:
        """Change every parameter by its gradient."""
        for group, blocks in zip(self.param_groups, self._blocks):
            for block in blocks:
                block.gather()
                block.step += 1
                self._update(group, block)
                if not block.step % _FLUSH_EVERY:
                    block.flush_denormals()

    @abstractmethod
    def _update(self, group: dict[str, Any], block: _Block) -> None:
        """One step, counted by ``block.step`` from 1, of one block."""

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for blocks in self._blocks:
            for block in blocks:
                for p in block.parameters:
                    p._stale = True

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {index: {name: array}}, "param_groups": [options]}``: torch's layout and names, with NumPy
        arrays.

        The state is empty before the first step.
        """
        index = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        state: dict[int, dict[str, np.ndarray]] = {}
        for blocks in self._blocks:
            for block in blocks:
                if not block.step:
                    continue
                for p, part in zip(block.parameters, block.slices):
                    own = {name: flat[part].reshape(p.shape).copy() for name, flat in block.states.items()}
                    state[index[id(p)]] = {"step": np.array(block.step), **own}
        groups = [{**group, "params": [index[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take state and options from what :meth:`state_dict` returned, torch's included.

        Raises ValueError where groups, sizes or shapes differ; nothing has been changed then.
        """
        groups, state = state_dict["param_groups"], state_dict["state"]
        sizes, own_sizes = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own_sizes:
            raise ValueError(f"the state is of groups of {sizes} parameters, this optimiser has {own_sizes}")
        number = {id(p): i for g, own in zip(groups, self.param_groups) for i, p in zip(g["params"], own["params"])}
        loaded = []
        for blocks in self._blocks:
            for block in blocks:
                entries = [state.get(number[id(p)], {}) for p in block.parameters]
                loaded.append((block, *_block_state(block, entries)))
        options = [
            {**own, **{key: value for key, value in group.items() if key in own and key != "params"}}
            for own, group in zip(self.param_groups, groups)
        ]
        for group in options:
            self._check(group)
        for own, group in zip(self.param_groups, options):
            own.update(group)
        for block, step, states in loaded:
            block.step, block.states = step, states


def _block_state(block: _Block, entries: list[Mapping[str, Any]]) -> tuple[int, dict[str, np.ndarray]]:
    """The number of steps and the flat states of one block, from its parameters' entries in a state_dict."""
    names = {name: None for entry in entries for name, value in entry.items() if name != "step" and value is not None}
    states = {}
    for name in names:
        flat = np.empty_like(block.data)
        for p, part, entry in zip(block.parameters, block.slices, entries):
            array = _as_array(name, entry[name]) if entry.get(name) is not None else np.empty(0)
            if array.shape != p.shape:
                raise ValueError(f"the state's {name} has shape {array.shape} for a parameter of shape {p.shape}")
            flat[part] = array.reshape(-1)
        states[name] = flat
    # torch's SGD keeps no count: all that it needs to know is whether there has been a step.
    steps = {int(_as_array("step", entry["step"])) if "step" in entry else int(bool(names)) for entry in entries}
    if len(steps) != 1:
        raise ValueError(f"the state's parameters have made different numbers of steps: {sorted(steps)}")
    return steps.pop(), states


class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    params: parameters, or dicts {"params": ..., option: value} for groups with options of their own.
    lr: learning rate. Default 1e-3.
    momentum: default 0. dampening: default 0. weight_decay: default 0. nesterov: default False.

    With g = grad + weight_decay * p: the buffer is b = g at first, then b = momentum * b + (1 - dampening) * g, and
    p -= lr * b, or with nesterov p -= lr * (g + momentum * b). Every parameter given is updated, whether or not
    backward reached it. Raises ValueError for options outside of their range.

    Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML 2013).

    >>> import fastconv.nn as nn
    >>> p = nn.Parameter(np.ones(2))
    >>> optimizer = nn.SGD([p], lr=0.5)
    >>> p.grad += 1
    >>> optimizer.step()
    >>> p.data
    array([0.5, 0.5])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ):
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "nesterov": nesterov})

    def _update(self, group: dict[str, Any], block: _Block) -> None:
        lr, momentum, decay = float(group["lr"]), float(group["momentum"]), float(group["weight_decay"])
        weight, nesterov = 1 - float(group["dampening"]), group["nesterov"]
        if momentum and not block.states:
            block.add_states(["momentum_buffer"])
            block.step = 1
        for p, g, states, a, b in block.pieces():
            if decay:
                np.multiply(p, decay, out=a)
                a += g
                g = a
            if momentum:
                buffer = states[0]
                if block.step == 1:
                    buffer[...] = g
                else:
                    buffer *= momentum
                    buffer += g if weight == 1 else np.multiply(g, weight, out=b)
                if nesterov:
                    np.multiply(buffer, momentum, out=b)
                    b += g
                    g = b
                else:
                    g = buffer
            p -= np.multiply(g, lr, out=b)


class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``.

    params: parameters, or dicts {"params": ..., option: value} for groups with options of their own.
    lr: learning rate. Default 1e-3.
    betas: decay of the averages of the gradient and of its square. Default (0.9, 0.999).
    eps: added to the denominator. Default 1e-8.
    weight_decay: L2 penalty, added to the gradient. Default 0.
    amsgrad: whether to divide by the largest average so far (Reddi et al., ICLR 2018). Default False.

    Kingma and Ba, "Adam: a method for stochastic optimization" (ICLR 2015), algorithm 1. Raises ValueError for options
    outside of their range.

    >>> import fastconv.nn as nn
    >>> p = nn.Parameter(np.ones(2))
    >>> optimizer = nn.Adam([p], lr=0.1)
    >>> p.grad += 1
    >>> optimizer.step()
    >>> p.data.round(6)
    array([0.9, 0.9])
    """

    _decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
    ):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], block: _Block) -> None:
        lr, decay, eps = float(group["lr"]), float(group["weight_decay"]), float(group["eps"])
        beta1, beta2 = (float(beta) for beta in group["betas"])
        block.add_states(("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq"))
        step_size = lr / (1 - beta1**block.step)
        root = math.sqrt(1 - beta2**block.step)
        for p, g, states, a, b in block.pieces():
            average, squares = states[:2]
            if decay and self._decoupled:
                p *= 1 - lr * decay
            elif decay:
                np.multiply(p, decay, out=a)
                a += g
                g = a
            np.subtract(g, average, out=b)
            b *= 1 - beta1
            average += b
            squares *= beta2
            np.multiply(g, g, out=b)
            b *= 1 - beta2
            squares += b
            if group["amsgrad"]:
                squares = np.maximum(states[2], squares, out=states[2])
            np.sqrt(squares, out=b)
            b /= root
            b += eps
            np.divide(average, b, out=b)
            b *= step_size
            p -= b


class AdamW(Adam):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``: p *= 1 - lr * weight_decay before each Adam step.

    Arguments as :class:`Adam`, with weight_decay 0.01 by default. Loshchilov and Hutter, "Decoupled weight decay
    regularization" (ICLR 2019), algorithm 2.

    >>> import fastconv.nn as nn
    >>> p = nn.Parameter(np.ones(2))
    >>> optimizer = nn.AdamW([p], lr=0.1)
    >>> optimizer.step()
    >>> p.data
    array([0.999, 0.999])
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)
