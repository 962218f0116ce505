"""What every layer is built of: :class:`Parameter`, :class:`Module`, and :class:`Sequential`, which chains modules.

There is no tape. A module's ``forward`` keeps what its ``backward`` will need, and ``backward`` applies the chain rule
to the latest forward: it adds to the gradients of the module's parameters and returns the gradient of its input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, overload

import numpy as np

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


# ---- arguments


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype. TypeError where it is neither float32 nor float64."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found not in DTYPES:
        raise TypeError(f"dtype must be float32 or float64, got {found}")
    return found


def as_input(x: Any, module: Module, dtype: np.dtype[Any] | None = None) -> np.ndarray:
    """`x` as a native array of `dtype` (None: float32 or float64). TypeError that names both dtypes where it is not."""
    array = x if type(x) is np.ndarray else np.asarray(x)
    found = array.dtype
    if found == dtype or (dtype is None and found in DTYPES):
        return array
    native = found.newbyteorder("=")
    if native == dtype or (dtype is None and native in DTYPES):
        return array.astype(native)
    who = type(module).__name__
    if dtype is None:
        raise TypeError(
            f"{who}: the input must be float32 or float64, got {found}; convert it with x.astype(np.float32)"
        )
    raise TypeError(
        f"{who}: the input is {found}, the parameters are {dtype}; convert the input with x.astype(np.{dtype}) "
        f"or build the module with dtype=np.{native if native in DTYPES else dtype}"
    )


def as_grad(grad_output: Any, shape: tuple[int, ...], dtype: np.dtype[Any], module: Module) -> np.ndarray:
    """`grad_output` as an array of the output's shape and dtype. ValueError or TypeError where it does not fit."""
    grad = grad_output if type(grad_output) is np.ndarray else np.asarray(grad_output)
    if grad.shape != shape:
        raise ValueError(
            f"{type(module).__name__}.backward: grad_output has shape {grad.shape}, the output has shape {shape}"
        )
    if grad.dtype != dtype:
        if grad.dtype.newbyteorder("=") == dtype:
            return grad.astype(dtype)
        raise TypeError(f"{type(module).__name__}.backward: grad_output is {grad.dtype}, the output is {dtype}")
    return grad


def no_forward(module: Module) -> RuntimeError:
    return RuntimeError(f"{type(module).__name__}.backward needs a forward before it")


# ---- parameters


class Parameter:
    """An array that is trained, with its gradient. ``np.asarray(p)`` is its data.

    data: array, float32 or float64, any shape; copied. Raises TypeError for any other dtype.

    ``p.data`` and ``p.grad`` are arrays of the same shape and dtype. Assigning to either copies the values into place
    (``p.grad = None`` sets zero), so that an optimiser may keep all parameters in one block of memory: take ``p.data``
    anew rather than hold on to it across the creation of an optimiser.

    >>> p = Parameter(np.ones(2, np.float32))
    >>> p.grad += 3
    >>> p.grad
    array([3., 3.], dtype=float32)
    """

    __slots__ = ("_data", "_grad", "_stale")

    def __init__(self, data: Any):
        array = np.array(data, order="C")
        self._data = array.astype(float_dtype(array.dtype.newbyteorder("=")), copy=False)
        self._grad = np.zeros_like(self._data)
        # zero_grad() only marks the gradient: the next backward overwrites it, which saves clearing and adding.
        self._stale = False

    @property
    def data(self) -> np.ndarray:
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        if value is not self._data:  # p.data -= step ends here with the array itself
            self._data[...] = self._fitting(value)

    @property
    def grad(self) -> np.ndarray:
        if self._stale:
            self._grad.fill(0)
            self._stale = False
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is None:
            self._stale = True
        elif value is not self._grad:
            self._grad[...] = self._fitting(value)
            self._stale = False

    def zero_grad(self) -> None:
        """Set the gradient to zero."""
        self._stale = True

    def add_grad(self, grad: np.ndarray) -> None:
        """``p.grad += grad``, without reading what is zero anyway."""
        if self._stale:
            np.copyto(self._grad, grad)
            self._stale = False
        else:
            self._grad += grad

    def begin_grad(self) -> np.ndarray | None:
        """The gradient's array, for the caller to overwrite as a whole, if it counts as zero; else None."""
        if self._stale:
            self._stale = False
            return self._grad
        return None

    def move(self, data: np.ndarray, grad: np.ndarray) -> None:
        """Live in these arrays of the same shape and dtype from now on, values taken along."""
        data[...] = self._data
        grad[...] = self.grad
        self._data, self._grad = data, grad

    def _fitting(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.shape != self._data.shape:
            raise ValueError(f"a parameter of shape {self._data.shape} cannot take values of shape {array.shape}")
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._data.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Parameter({self._data!r})"


# ---- modules


class LoadResult(NamedTuple):
    """What :meth:`Module.load_state_dict` did not find, and what it did not use."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(ABC):
    """Base of all layers: ``forward(x) -> y``, ``backward(grad_output) -> grad_input``.

    A module of your own gives these two methods. Attributes that are a :class:`Parameter` or a :class:`Module` are
    found by themselves; arrays that belong into ``state_dict`` besides parameters are named in the class attribute
    ``buffers``; a generator from which ``forward`` draws is kept in the attribute ``rng`` so that checkpoints hold its
    state.

    >>> class Scale(Module):
    ...     def __init__(self, value):
    ...         self.weight = Parameter(np.float64([value]))
    ...     def forward(self, x):
    ...         self._x = x
    ...         return x * self.weight.data
    ...     def backward(self, grad_output):
    ...         self.weight.grad += (grad_output * self._x).sum()
    ...         return grad_output * self.weight.data
    >>> m = Scale(3.0)
    >>> m(np.array([1.0, 2.0])), m.backward(np.ones(2)), m.weight.grad
    (array([3., 6.]), array([3., 3.]), array([3.]))
    """

    training: bool = True
    buffers: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, x: Any) -> np.ndarray:
        """The module's output for `x`."""

    @abstractmethod
    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """The gradient of the latest forward's input, given that of its output; adds to the parameters' ``grad``."""

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        """As :meth:`backward` where nobody needs the gradient of the input: a model's first layers need not form it."""
        self.backward(grad_output)

    def __call__(self, x: Any) -> np.ndarray:
        return self.forward(x)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (under the name `prefix`) and all inside it."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all inside it."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its ``state_dict`` key, in torch's order; one that is shared comes once."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, in torch's order."""
        for _, parameter in self.named_parameters():
            yield parameter

    def has_parameters(self) -> bool:
        """Whether there is anything to train in here."""
        for value in vars(self).values():
            if isinstance(value, Parameter):
                return True
        return any(child.has_parameters() for _, child in self.named_children())

    def zero_grad(self) -> None:
        """Set every parameter's gradient to zero."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def train(self, mode: bool = True) -> Module:
        """Put this module and all inside it into training mode (False: evaluation). Returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Put this module and all inside it into evaluation mode: no dropout, running statistics. Returns it."""
        return self.train(False)

    def _named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for prefix, module in self.named_modules():
            dot = f"{prefix}." if prefix else ""
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield dot + name, value.data
            for name in module.buffers:
                array = getattr(module, name)
                if array is not None:
                    yield dot + name, array

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers, with torch's keys and shapes.

        ``{k: torch.from_numpy(v) for k, v in m.state_dict().items()}`` loads into the same model of torch.

        >>> import fastconv.nn as nn
        >>> {key: value.shape for key, value in nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).state_dict().items()}
        {'1.weight': (2, 4), '1.bias': (2,)}
        """
        return {name: array.copy() for name, array in self._named_arrays()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy parameters and buffers from `state_dict`: arrays, or the tensors of a torch model's ``state_dict()``.

        Every shape must be the same; values are converted to the module's dtype. With ``strict=False`` keys may be
        missing or left over; the result names them. Raises ValueError that lists all that does not fit, TypeError for
        values that cannot be converted; nothing has been changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict takes a mapping from names to arrays, got {type(state_dict).__name__}")
        own = dict(self._named_arrays())
        given = {name: _as_array(name, value) for name, value in state_dict.items()}
        result = LoadResult([k for k in own if k not in given], [k for k in given if k not in own])
        wrong = []
        if strict and result.missing_keys:
            wrong.append(f"missing keys: {', '.join(result.missing_keys)}")
        if strict and result.unexpected_keys:
            wrong.append(f"unexpected keys: {', '.join(result.unexpected_keys)}")
        for name, target in own.items():
            if name in given and given[name].shape != target.shape:
                wrong.append(f"{name} has shape {given[name].shape}, the module's is {target.shape}")
        if wrong:
            raise ValueError(f"{type(self).__name__}.load_state_dict: " + "; ".join(wrong))
        for name, target in own.items():
            if name in given and not np.can_cast(given[name].dtype, target.dtype, "same_kind"):
                raise TypeError(
                    f"{type(self).__name__}.load_state_dict: {name} is {given[name].dtype}, "
                    f"the module's is {target.dtype}"
                )
        for name, target in own.items():
            if name in given:
                np.copyto(target, given[name], casting="same_kind")
        return result


def _as_array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, which may need a gradient or live on another device
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"load_state_dict: {name} cannot be made a NumPy array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"load_state_dict: {name} does not hold numbers but {array.dtype} ({type(value).__name__})")
    return array


class Sequential(Module):
    """Modules one after the other, as ``torch.nn.Sequential``.

    modules: the modules, named "0", "1", ...; or one mapping from name to module.

    >>> import fastconv.nn as nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> model(np.ones((5, 3), np.float32)).shape
    (5, 2)
    >>> model.backward(np.ones((5, 2), np.float32)).shape
    (5, 3)
    """

    def __init__(self, *modules: Module | Mapping[str, Module]):
        self._modules: dict[str, Module] = {}
        self._layers: tuple[Module, ...] = ()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self._add(name, module)
        else:
            for number, value in enumerate(modules):
                self._add(str(number), value)

    def _add(self, name: str, module: Any) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"Sequential takes modules, got {module!r} for {name!r}")
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"a module's name must be a string without dots, got {name!r}")
        self._modules[name] = module
        self._layers = tuple(self._modules.values())

    def append(self, module: Any) -> Sequential:
        """Add a module at the end. Returns the Sequential."""
        self._add(str(len(self._modules)), module)
        return self

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from self._modules.items()

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> Sequential: ...

    def __getitem__(self, index: int | slice) -> Module | Sequential:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._layers[index]

    def forward(self, x: Any) -> np.ndarray:
        for layer in self._layers:
            x = layer.forward(x)
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        for layer in reversed(self._layers):
            grad_output = layer.backward(grad_output)
        return grad_output

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        layers = self._layers
        first = next((i for i, layer in enumerate(layers) if layer.has_parameters()), None)
        if first is None:
            return
        for layer in layers[:first:-1]:
            grad_output = layer.backward(grad_output)
        layers[first].backward_parameters(grad_output)

    def __repr__(self) -> str:
        inner = "".join(f"\n  ({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items())
        return f"Sequential({inner}\n)"
