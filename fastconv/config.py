"""What this installation consists of and uses: :func:`show_config`."""

from __future__ import annotations

import importlib.util
import platform
from typing import Any

import numpy as np

from . import settings
from ._version import __version__
from .backends import NAMES, cython, unavailable, usable


def _installed(package: str) -> str:
    from importlib import metadata  # slow to import, and nothing else needs it

    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed, version unknown"


def _current(get: Any) -> Any:
    """A setting, or the error that a wrong environment variable gives: this report must always come out."""
    try:
        return get()
    except (ValueError, RuntimeError) as error:
        return f"error: {error}"


def _config() -> dict[str, Any]:
    missing = {name: reason for name in NAMES if (reason := unavailable(name))}
    kernels = cython.kernels
    return {
        "fastconv": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "numba": _installed("numba"),
        "backends": ", ".join(usable()),
        **{f"no {name}": reason for name, reason in missing.items()},
        "backend in use": _current(lambda: settings.current().backend),
        "ISA in use": _current(cython.isa) if kernels else "none: no extension",
        "ISAs": ", ".join(name if here else f"{name} (not on this CPU)" for name, here in cython.isas()) or "none",
        "level-2 cache": f"{kernels.level2_bytes() >> 10} KB" if kernels else "unknown: no extension",
        "compiler": kernels.compiler() if kernels else "none: no extension",
        "threads": _current(settings.get_num_threads),
        "precision": _current(lambda: settings.current().precision),
    }


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the version, backends (and why one is missing), instruction sets, threads and compiler.

    ``mode="stdout"`` (the default) prints them and returns None; ``mode="dicts"`` returns them, as
    ``numpy.show_config`` does. Raises ValueError for any other mode.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = _config()
    if mode == "dicts":
        return config
    width = max(map(len, config))
    for key, value in config.items():
        print(f"{key:<{width}}  {value}")
    return None
