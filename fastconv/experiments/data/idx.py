"""Reader of IDX, the file format of MNIST and of the image sets modelled on it.

A file is: two zero bytes, one byte for the element type, one for the number of axes, each axis' length as a big-endian
32-bit number, then the elements in C order. The format says nothing about what the numbers mean and has no checksum, so
everything that it does say is checked here.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

_TYPES = {8: "unsigned bytes", 9: "signed bytes", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_KINDS = {1: "labels (idx1)", 3: "images (idx3)"}
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | os.PathLike[str], axes: int) -> np.ndarray:
    """The array in the IDX file `path`, plain or compressed with gzip (told by its content, not by its name).

    Parameters
    ----------
    path
        The file.
    axes
        How many axes it must have: 3 for images (N, H, W), 1 for labels (N,).

    Returns
    -------
    A read-only uint8 array.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where the file is not IDX, holds other than unsigned bytes, has another number of axes, ends too early, or goes
        on after its last element.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.idx1-ubyte"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([7, 2, 1]))
    >>> read_idx(path, axes=1).tolist()
    [7, 2, 1]

    The format: "The IDX file format", at the foot of LeCun, Cortes and Burges, "The MNIST database".
    """
    path = Path(path)
    content = _read(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(
            f"{path} is not an IDX file: it must begin with two zero bytes, it begins with {content[:4]!r}"
        )
    kind, rank = content[2], content[3]
    if kind not in _TYPES:
        raise ValueError(f"{path} is not an IDX file: {kind} is no element type")
    if kind != 8:
        raise ValueError(f"{path} holds {_TYPES[kind]}, wanted {_TYPES[8]}")
    if rank != axes:
        found = _KINDS.get(rank, f"an array of {rank} axes")
        raise ValueError(f"{path} holds {found}, wanted {_KINDS.get(axes, f'an array of {axes} axes')}")
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(f"{path} is truncated: it ends within its header")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    wanted, present = math.prod(shape), len(content) - start
    says = f"its header says {' x '.join(map(str, shape))} = {wanted} bytes, {present} are there"
    if present < wanted:
        raise ValueError(f"{path} is truncated: {says}")
    if present > wanted:
        raise ValueError(f"{path} has {present - wanted} bytes too many: {says}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def write_idx(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write the uint8 `array` as an IDX file; compressed with gzip where `path` ends in ``.gz``.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "images.idx3-ubyte.gz"
    >>> write_idx(path, np.zeros((2, 28, 28), np.uint8))
    >>> read_idx(path, axes=3).shape
    (2, 28, 28)
    """
    if array.dtype != np.uint8:
        raise TypeError(f"an IDX file is written of uint8, got {array.dtype}")
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + np.ascontiguousarray(array).tobytes()
    path = Path(path)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != _GZIP_MAGIC:
        return content
    try:
        return gzip.decompress(content)
    except EOFError:
        raise ValueError(f"{path} is truncated: the gzip data end too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
