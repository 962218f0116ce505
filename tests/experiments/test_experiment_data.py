"""The images of the experiments: idx files and what is wrong with them, the embedded set, the split, the shift."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import lzma
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastconv.experiments import data
from fastconv.experiments.data import embed, read_folder, read_idx, write_idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def make_folder(path: Path, count: int = 40, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True, exist_ok=True)
    write_idx(path / IMAGES, rng.integers(0, 256, (count, 28, 28), np.uint8))
    write_idx(path / LABELS, rng.integers(0, 10, count, np.uint8))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "idx")


# ---- idx files


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
def test_idx_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    array = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    write_idx(tmp_path / name, array)
    np.testing.assert_array_equal(read_idx(tmp_path / name, axes=3), array)


def test_gzip_is_told_by_the_content_not_by_the_name(tmp_path: Path) -> None:
    write_idx(tmp_path / "a.gz", np.arange(3, dtype=np.uint8))
    (tmp_path / "plain-name").write_bytes((tmp_path / "a.gz").read_bytes())
    assert read_idx(tmp_path / "plain-name", axes=1).tolist() == [0, 1, 2]


HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 3])
BAD_FILES = {
    "empty": (b"", "not an IDX file"),
    "wrong magic": (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
    "no such type": (bytes([0, 0, 7, 1, 0, 0, 0, 3, 1, 2, 3]), "7 is no element type"),
    "float32": (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), "holds float32, wanted unsigned bytes"),
    "images instead": (bytes([0, 0, 8, 3]) + bytes([0, 0, 0, 1]) * 3 + b"\5", r"holds images \(idx3\), wanted labels"),
    "ends in the header": (HEADER[:6], "truncated: it ends within its header"),
    "too short": (HEADER + b"\1\2", "truncated: its header says 3 = 3 bytes, 2 are there"),
    "too long": (HEADER + b"\1\2\3\4", "1 bytes too many"),
    "huge": (bytes([0, 0, 8, 1, 255, 255, 255, 255]) + b"\1", "truncated: its header says 4294967295"),
    "cut gzip": (gzip.compress(HEADER + b"\1\2\3")[:-9], "truncated: the gzip data end too early"),
    "damaged gzip": (gzip.compress(HEADER + b"\1\2\3")[:-8] + bytes(8), "is damaged"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, what: str) -> None:
    content, message = BAD_FILES[what]
    path = tmp_path / "the-labels"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_idx(path, axes=1)
    assert str(path) in str(raised.value)


def test_write_idx_takes_bytes_alone(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="float64"):
        write_idx(tmp_path / "a", np.zeros(3))


# ---- folders


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
def test_every_spelling_is_found(folder: Path, tmp_path: Path, spelling: str, suffix: str) -> None:
    expected = read_folder(folder)
    other = tmp_path / "other"
    other.mkdir()
    for name, array in zip((IMAGES, LABELS), expected):
        write_idx(other / (name.replace("-idx", spelling) + suffix), array)
    for found, wanted in zip(read_folder(other), expected):
        np.testing.assert_array_equal(found, wanted)


def test_a_missing_folder_or_file_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_folder(tmp_path / "nowhere")
    (folder / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=r"no train-labels-idx1-ubyte or train-labels\.idx1-ubyte"):
        read_folder(folder)


def test_counts_must_agree(folder: Path) -> None:
    write_idx(folder / LABELS, np.zeros(39, np.uint8))
    with pytest.raises(ValueError, match=r"has 40 images, .* has 39 labels"):
        read_folder(folder)


def test_labels_must_be_digits(folder: Path) -> None:
    labels = np.zeros(40, np.uint8)
    labels[7] = 10
    write_idx(folder / LABELS, labels)
    with pytest.raises(ValueError, match="label 7 is 10, the labels must be 0 to 9"):
        read_folder(folder)


def test_images_must_be_28_by_28(folder: Path) -> None:
    write_idx(folder / IMAGES, np.zeros((40, 28, 32), np.uint8))
    with pytest.raises(ValueError, match="28 x 32 pixels, the experiment takes 28 x 28"):
        read_folder(folder)


def test_labels_under_the_name_of_images_are_refused(folder: Path) -> None:
    (folder / IMAGES).write_bytes((folder / LABELS).read_bytes())
    with pytest.raises(ValueError, match=r"holds labels \(idx1\), wanted images \(idx3\)"):
        read_folder(folder)


# ---- data sets


def test_the_split_is_the_first_and_the_last_images(folder: Path) -> None:
    images, labels = read_folder(folder)
    dataset = data.load("mine", folder, train_images=25, validation_images=10)
    assert dataset.train_images.shape == (25, 1, 28, 28)
    assert dataset.train_images.dtype == np.float32
    np.testing.assert_array_equal(dataset.train_images[:, 0], images[:25].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(dataset.validation_images[:, 0], images[30:].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(dataset.train_labels, labels[:25])
    np.testing.assert_array_equal(dataset.validation_labels, labels[30:])
    assert dataset.train_labels.dtype == np.int64


def test_the_parts_may_touch_and_not_overlap(folder: Path) -> None:
    data.load("mine", folder, train_images=30, validation_images=10)
    with pytest.raises(ValueError, match="has 40 images: 30 to train on and 11 to validate on would overlap"):
        data.load("mine", folder, train_images=30, validation_images=11)
    with pytest.raises(ValueError, match="train_images must be at least 1"):
        data.load("mine", folder, train_images=0, validation_images=1)


def test_the_digest_tells_other_images(folder: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", seed=1)
    first = data.load("mine", folder, train_images=20, validation_images=20)
    second = data.load("mine", other, train_images=20, validation_images=20)
    assert first.sha256 != second.sha256


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown data set 'cifar': fashion, mnist, fashion-full, or any name with"):
        data.load("cifar")


# ---- the embedded images


def test_the_embedded_images_are_those_of_fashion_mnist() -> None:
    dataset = data.load("fashion")
    assert dataset.train_images.shape == dataset.validation_images.shape == (10_000, 1, 28, 28)
    assert dataset.train_labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # as on Fashion-MNIST's own page
    assert 0.0 == dataset.train_images.min() < dataset.train_images.max() == 1.0
    assert 0.28 < dataset.train_images.mean() < 0.29  # 0.2860 over all 60,000
    # The first image is an ankle boot with the toe to the left: its heel, and not its toe, reaches the upper half.
    assert dataset.train_images[0, 0, :14, 14:].sum() > 4 * dataset.train_images[0, 0, :14, :14].sum()
    assert set(dataset.validation_labels) == set(range(10))


def test_the_embedded_file_is_small_and_has_its_licence_beside_it() -> None:
    assert data.EMBEDDED_FILE.stat().st_size < 7.6e6
    licence = data.EMBEDDED_FILE.with_name("LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert "Copyright (c) 2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence


@pytest.mark.parametrize("damage", ["cut", "other content"])
def test_a_damaged_embedded_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    content = data.EMBEDDED_FILE.read_bytes()[:10_000] if damage == "cut" else lzma.compress(b"something else")
    path = tmp_path / "fashion-mnist.xz"
    path.write_bytes(content)
    monkeypatch.setattr(data, "EMBEDDED_FILE", path)
    data.load.cache_clear()
    with pytest.raises(ValueError, match=r"is damaged.*install fastconv again"):
        data.load("fashion")


def test_the_script_embeds_the_ends_of_an_idx_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = read_folder(folder)
    ends = [*range(15), *range(25, 40)]
    content = labels[ends].tobytes() + images[ends].transpose(0, 2, 1).tobytes()
    for module in (data, embed):
        monkeypatch.setattr(module, "SPLIT", 15)
    monkeypatch.setattr(data, "EMBEDDED_FILE", tmp_path / "small.xz")
    monkeypatch.setattr(data, "EMBEDDED_SHA256", hashlib.sha256(content).hexdigest())
    embed.main([str(folder), "--output", str(tmp_path / "small.xz")])
    assert hashlib.sha256(content).hexdigest() in capsys.readouterr().out
    data.load.cache_clear()
    dataset = data.load("fashion", train_images=15, validation_images=15)
    data.load.cache_clear()  # nobody else is to get this one
    np.testing.assert_array_equal((dataset.train_images[:, 0] * 255).round(), images[:15])
    np.testing.assert_array_equal((dataset.validation_images[:, 0] * 255).round(), images[25:])
    np.testing.assert_array_equal(dataset.validation_labels, labels[25:])


# ---- downloads, from a server on this machine


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Serves a small "mnist"; yields the SHA-256 that the loader has pinned for each of its files."""
    pytest.importorskip("pooch", reason="pooch is not installed: nothing can be downloaded")
    source = tmp_path / "server"
    images, labels = read_folder(make_folder(tmp_path / "plain"))
    source.mkdir()
    write_idx(source / f"{IMAGES}.gz", images)
    write_idx(source / f"{LABELS}.gz", labels)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing: the test's output is enough."""

    handler = functools.partial(Quiet, directory=str(source))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        pinned = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in source.iterdir()}
        monkeypatch.setitem(data._DOWNLOADS, "mnist", (f"http://127.0.0.1:{running.server_port}/", pinned))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        data.load.cache_clear()
        yield pinned
        running.shutdown()
    data.load.cache_clear()


def test_a_download_is_kept_and_used_again(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load("mnist", train_images=20, validation_images=20)
    monkeypatch.setitem(data._DOWNLOADS, "mnist", ("http://127.0.0.1:1/", server))  # where nobody listens
    data.load.cache_clear()
    assert data.load("mnist", train_images=20, validation_images=20).sha256 == first.sha256


def test_a_download_with_other_content_is_refused(server: dict[str, str]) -> None:
    server[f"{LABELS}.gz"] = "0" * 64
    with pytest.raises(ValueError, match="hash"):
        data.load("mnist", train_images=20, validation_images=20)


def test_without_a_network_the_way_out_is_named(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data._DOWNLOADS, "mnist", ("http://127.0.0.1:1/", server))
    with pytest.raises(OSError, match=r"'mnist' could not be downloaded from .*--data-dir"):
        data.load("mnist", train_images=20, validation_images=20)


def test_a_download_needs_pooch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    data.load.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pooch"):
        data.load("mnist")


# ---- the shift


def test_shift_two_right_and_two_down_fills_with_zeros() -> None:
    images = np.arange(1, 2 * 28 * 28 + 1, dtype=np.float32).reshape(2, 1, 28, 28)
    moved = data.shift(images, right=2, down=2)
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(moved[..., 2:, 2:], images[..., :-2, :-2])
    assert not moved[..., :2, :].any()
    assert not moved[..., :, :2].any()
    assert moved[1, 0, 2, 2] == images[1, 0, 0, 0]


@pytest.mark.parametrize("right", [-4, -1, 0, 3])
@pytest.mark.parametrize("down", [-3, 0, 1, 4])
def test_shift_is_a_padded_crop(right: int, down: int) -> None:
    image = np.random.default_rng(0).random((6, 7))
    framed = np.pad(image, 5)
    np.testing.assert_array_equal(data.shift(image, right, down), framed[5 - down : 11 - down, 5 - right : 12 - right])


def test_shift_out_of_the_image_leaves_nothing() -> None:
    image = np.ones((4, 5))
    assert not data.shift(image, 5, 0).any()
    assert not data.shift(image, 0, -4).any()
    assert not data.shift(image, 0, 40).any()
    assert data.shift(image, 4, 3).sum() == 1
