"""Checkpoints of :func:`fastconv.nn.fit`: named arrays and a JSON record in a safetensors file, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "fastconv.nn checkpoint 1"


def require_safetensors() -> Any:
    """The module ``safetensors.numpy``. ImportError that says what to install where it is missing."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('checkpoints need safetensors: pip install "fastconv[training]"') from error
    return safetensors.numpy


def write_atomically(path: Path, content: bytes) -> None:
    """Make `content` the content of the file `path`; whatever happens, the file is the old one or the new one, whole.

    A file of its own beside it is written and flushed to the disk, takes the name, and the folder is flushed as well.
    Raises OSError where that fails; the old file is then still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    """Write `arrays` and `record` (anything that JSON knows, and arrays) to the file `path`, atomically."""
    tensors = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    metadata = {"format": FORMAT, "record": json.dumps(record, default=_array_to_json)}
    write_atomically(path, require_safetensors().save(tensors, metadata))


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`save` wrote. Raises FileNotFoundError, or ValueError for a file that is no checkpoint of ours."""
    require_safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} is no checkpoint of fastconv.nn.fit (format {metadata.get('format')!r})")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is no checkpoint of fastconv.nn.fit, or damaged: {error}") from None
    return arrays, json.loads(metadata["record"], object_hook=_array_from_json)


def _array_to_json(value: Any) -> Any:
    """Arrays and NumPy numbers, which the states of some generators hold."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _array_from_json(value: dict[str, Any]) -> Any:
    return np.array(value["array"], value["dtype"]) if value.keys() == {"array", "dtype"} else value
