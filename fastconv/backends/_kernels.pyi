from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

from ..functional import (
    conv1d,
    conv1d_backward,
    conv1d_input,
    conv1d_weight,
    conv2d,
    conv2d_backward,
    conv2d_input,
    conv2d_weight,
)
from ..geometry import Geometry

__all__ = [
    "algorithm_names",
    "compiler",
    "configure",
    "conv1d",
    "conv1d_backward",
    "conv1d_input",
    "conv1d_weight",
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_weight",
    "forget",
    "isas",
    "limit_memory",
    "limit_multiply_add",
    "run",
    "select_isa",
    "selected_isa",
    "stand_before",
    "unsupported",
    "unwise",
    "use_team",
    "workspace",
]

def stand_before(module: ModuleType, settings_override: ContextVar[Any], arm_function: Callable[[], None]) -> None: ...
def configure(is_active: bool, threads: int, strict: bool) -> None: ...
def forget() -> None: ...
def compiler() -> str: ...
def limit_memory(isa: str, kind: str, to: np.ndarray, source: np.ndarray, passes: int) -> None: ...
def limit_multiply_add(isa: str, rounds: int) -> float: ...
def use_team(team: int, member: int) -> None: ...
def level2_bytes() -> int: ...
def isas() -> list[tuple[str, bool]]: ...
def select_isa(name: str | None) -> str | None: ...
def selected_isa() -> str | None: ...
def algorithm_names() -> list[tuple[str, bool]]: ...
def unsupported(name: str, operation: int, geometry: Geometry, dtype: int) -> str | None: ...
def unwise(name: str, operation: int, geometry: Geometry, dtype: int, threads: int) -> str | None: ...
def workspace(name: str, operation: int, geometry: Geometry, dtype: int, threads: int) -> int: ...
def run(
    name: str,
    operation: int,
    geometry: Geometry,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: np.ndarray | None,
    threads: int,
    strict: bool,
) -> None: ...
