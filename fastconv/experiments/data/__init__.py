"""The images of the experiments: 28 x 28 grey ones in ten classes, from the package, from a folder or downloaded.

===============  =====================================================================================
``fashion``      comes with the package: the first and the last 10,000 training images of Fashion-MNIST
``fashion-full`` downloaded: the 60,000 training images of Fashion-MNIST
``mnist``        downloaded: the 60,000 training images of MNIST
any name         read from a folder of idx files (``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``)
===============  =====================================================================================

The split is always the same: train on the first images, validate on the last ones. So ``fashion`` and ``fashion-full``
give the same numbers as long as neither part is larger than 10,000.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .idx import read_idx, write_idx

__all__ = ["CLASSES", "Dataset", "load", "read_folder", "read_idx", "shift", "title", "write_idx"]

SIDE = 28  # pixels
CLASSES = 10
SPLIT = 10_000  # images in the training set, and again in the validation set

EMBEDDED_FILE = Path(__file__).with_name("fashion-mnist.xz")
EMBEDDED_SHA256 = "55ac2c311eee41f9892ab3a051fde57e4cab1d3366789d8edcb23883832abff2"

_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"

# SHA-256 of the files as their authors published them, compressed.
_DOWNLOADS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            f"{_IMAGES}.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            f"{_LABELS}.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        },
    ),
    "fashion-full": (
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        {
            f"{_IMAGES}.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            f"{_LABELS}.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        },
    ),
}
NAMES = ("fashion", *_DOWNLOADS)
_TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "fashion-full": "Fashion-MNIST (full)"}

_FASHION_CLASSES = [
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


@dataclass(frozen=True)
class Dataset:
    """Images as the networks take them: (N, 1, 28, 28) float32 from 0 to 1; labels (N,) int64 from 0 to 9."""

    name: str
    source: str  # in words, for the report
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    sha256: str  # of these pixels and labels: tells whether results kept from before are about the same images

    @property
    def class_names(self) -> list[str]:
        return list(_FASHION_CLASSES) if self.name.startswith("fashion") else [str(i) for i in range(CLASSES)]


@lru_cache(maxsize=2)
def load(
    name: str = "fashion",
    data_dir: str | os.PathLike[str] | None = None,
    train_images: int = SPLIT,
    validation_images: int = SPLIT,
) -> Dataset:
    """The data set `name`: the first `train_images` to train on, the last `validation_images` to validate on.

    Parameters
    ----------
    name
        ``"fashion"`` (comes with the package), ``"mnist"`` or ``"fashion-full"`` (downloaded once, checked by SHA-256);
        with `data_dir` any name.
    data_dir
        Folder with the idx files of the training set, plain or ``.gz``.
    train_images, validation_images
        Sizes of the two parts, 10,000 each.

    Raises
    ------
    FileNotFoundError
        Where `data_dir` does not hold the files.
    ValueError
        For an unknown name, for damaged or mislabelled files, and where the parts would overlap.
    ModuleNotFoundError
        Where a download is needed and pooch is not installed (``pip install "fastconv[data]"``).

    Examples
    --------
    >>> data = load("fashion", train_images=100, validation_images=50)
    >>> data.train_images.shape, data.validation_labels.shape
    ((100, 1, 28, 28), (50,))
    """
    for what, count in (("train_images", train_images), ("validation_images", validation_images)):
        if count < 1:
            raise ValueError(f"{what} must be at least 1, got {count}")
    if data_dir is not None:
        images, labels = read_folder(data_dir)
        source = "idx files given by the user"
    elif name == "fashion":
        images, labels = _embedded()
        source = f"{len(images)} images that come with fastconv"
    elif name in _DOWNLOADS:
        images, labels = _download(name)
        source = f"downloaded from {_DOWNLOADS[name][0]}"
    else:
        raise ValueError(f"unknown data set {name!r}: {', '.join(NAMES)}, or any name with a folder of idx files")
    if train_images + validation_images > len(images):
        raise ValueError(
            f"data set {name!r} has {len(images)} images: {train_images} to train on and {validation_images} to "
            f"validate on would overlap"
        )
    first, last = slice(train_images), slice(len(images) - validation_images, None)
    digest = hashlib.sha256()
    for part in (first, last):
        digest.update(images[part].tobytes())
        digest.update(labels[part].tobytes())
    return Dataset(
        name,
        source,
        _as_input(images[first]),
        labels[first].astype(np.int64),
        _as_input(images[last]),
        labels[last].astype(np.int64),
        digest.hexdigest(),
    )


def title(name: str) -> str:
    """The data set's name as people write it: ``"Fashion-MNIST"`` for ``"fashion"``; names of one's own as they are."""
    return _TITLES.get(name, name)


def read_folder(folder: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Training images (N, 28, 28) and labels (N,), uint8, from the idx files in `folder`; checked against each other.

    Both spellings are found, ``train-images-idx3-ubyte`` and ``train-images.idx3-ubyte``, plain or with ``.gz``.
    Raises FileNotFoundError or ValueError, naming the file and what is wrong with it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    images_file, labels_file = _find(folder, _IMAGES), _find(folder, _LABELS)
    images, labels = read_idx(images_file, axes=3), read_idx(labels_file, axes=1)
    if len(images) != len(labels):
        raise ValueError(f"{images_file} has {len(images)} images, {labels_file} has {len(labels)} labels")
    if images.shape[1:] != (SIDE, SIDE):
        height, width = images.shape[1:]
        raise ValueError(f"{images_file} has images of {height} x {width} pixels, the experiment takes {SIDE} x {SIDE}")
    if len(labels) and labels.max() >= CLASSES:
        at = int(np.argmax(labels >= CLASSES))
        raise ValueError(f"{labels_file}: label {at} is {labels[at]}, the labels must be 0 to {CLASSES - 1}")
    return images, labels


def shift(images: np.ndarray, right: int, down: int) -> np.ndarray:
    """`images` (..., H, W) with their content moved `right` and `down` by so many pixels; what moves in is 0.

    Negative numbers move left and up. Returns a new array of the same shape and dtype.

    >>> shift(np.array([[1, 2], [3, 4]]), right=1, down=0)
    array([[0, 1],
           [0, 3]])
    """
    height, width = images.shape[-2:]
    moved = np.zeros_like(images)
    if abs(right) < width and abs(down) < height:
        to_rows, from_rows = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height + min(-down, 0))
        to_columns, from_columns = (
            slice(max(right, 0), width + min(right, 0)),
            slice(max(-right, 0), width + min(-right, 0)),
        )
        moved[..., to_rows, to_columns] = images[..., from_rows, from_columns]
    return moved


def _as_input(images: np.ndarray) -> np.ndarray:
    return images[:, None].astype(np.float32, order="C") / np.float32(255)


def _find(folder: Path, name: str) -> Path:
    stem, _, kind = name.rpartition("-idx")
    spellings = [name, f"{stem}.idx{kind}"]
    for spelling in spellings:
        for file in (folder / spelling, folder / f"{spelling}.gz"):
            if file.is_file():
                return file
    raise FileNotFoundError(f"{folder} has no {' or '.join(spellings)} (plain or .gz)")


def _embedded() -> tuple[np.ndarray, np.ndarray]:
    try:
        content = lzma.decompress(EMBEDDED_FILE.read_bytes())
    except lzma.LZMAError as error:
        raise ValueError(f"{EMBEDDED_FILE} is damaged ({error}): install fastconv again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != EMBEDDED_SHA256:
        raise ValueError(f"{EMBEDDED_FILE} is damaged (SHA-256 {digest}): install fastconv again")
    pixels = np.frombuffer(content, np.uint8)
    labels, columns = pixels[: 2 * SPLIT], pixels[2 * SPLIT :]
    return columns.reshape(-1, SIDE, SIDE).transpose(0, 2, 1), labels


def _download(name: str) -> tuple[np.ndarray, np.ndarray]:
    import pooch

    base_url, registry = _DOWNLOADS[name]
    folder = Path(pooch.os_cache("fastconv")) / name
    shelf = pooch.create(folder, base_url, registry={file: f"sha256:{digest}" for file, digest in registry.items()})
    try:
        for file in registry:
            shelf.fetch(file)
    except OSError as error:  # requests' exceptions are OSErrors too
        raise OSError(
            f"data set {name!r} could not be downloaded from {base_url} ({error}); where there is no network use the "
            f"default data set, or point --data-dir at a folder with its idx files"
        ) from None
    return read_folder(folder)
