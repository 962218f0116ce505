"""The package as it is built and installed: sdist and wheel, and an installation without a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an sdist is made from, so that building leaves the checkout alone."""
    copy = tmp_path_factory.mktemp("source") / "fastconv"
    leave = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "not_built.txt")
    copy.mkdir()
    for name in ("csrc", "fastconv", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, copy)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, copy)
    return copy


def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def distributions(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def test_sdist_holds_every_source(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for source in ROOT.glob("csrc/*"):
        assert f"csrc/{source.name}" in names
    assert {"fastconv/backends/_kernels.pyx", "CONTRIBUTING.md", "examples/check_your_homework.py"} <= names
    assert not [name for name in names if name.endswith((".so", "_kernels.c"))]


def test_wheel_holds_no_source_of_the_extension_and_is_small(distributions):
    wheel = distributions[1]
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.compress_size for info in archive.infolist()}
    assert not [name for name in sizes if name.endswith((".c", ".h", ".pyx"))]
    assert any(name.startswith("fastconv/backends/_kernels.") and name.endswith(".so") for name in sizes)
    assert {"fastconv/py.typed", "fastconv/backends/_kernels.pyi"} <= sizes.keys()
    data = sum(size for name, size in sizes.items() if name.endswith(".xz"))
    assert 0 < data <= 7.6 * MB
    assert sum(sizes.values()) - data < 2.7 * MB
    assert wheel.stat().st_size < 10 * MB


def test_installs_without_a_compiler_and_says_so(source: Path, tmp_path: Path):
    site = tmp_path / "site"
    log = run(
        *(sys.executable, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "--target", site, source),
        CC="false",
    )
    assert "fastconv is installed without its C extension" in log
    script = (
        "import numpy as np, fastconv as fc\n"
        f"assert fc.__file__.startswith({str(site)!r}), fc.__file__\n"
        "assert 'cython' not in fc.backends()\n"
        "assert 'no working C compiler' in fc.show_config('dicts')['no cython']\n"
        "with fc.use_backend('reference'):\n"
        "    print(fc.conv1d(np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.array([[[2.0, 1.0, 3.0]]]), np.array([1.0])))\n"
        "try:\n"
        "    fc.use_backend('cython')\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    printed = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(site))
    assert "[[[14. 20.]]]" in printed
    assert "no working C compiler" in printed
