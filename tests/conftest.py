"""What all tests share: the versions in the header, the sets of kernels to test, hypothesis' profile, subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from kernel_sets import ALL_KERNELS, FAST_KERNELS, Kernels

import fastconv as fc

settings.register_profile(
    "fastconv",
    deadline=None,  # a first call may compile, and CI machines stall
    max_examples=30,
    derandomize=bool(os.environ.get("CI")),
    # The fixtures that hypothesis' tests use choose a backend for the whole test, which is what is wanted.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
    print_blob=True,
)
settings.load_profile("fastconv")


def pytest_report_header() -> list[str]:
    packages = []
    for package in ("numpy", "numba", "torch", "scipy", "hypothesis"):
        try:
            packages.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            packages.append(f"{package} missing")
    config = fc.show_config("dicts")
    assert config is not None
    return [
        "packages: " + ", ".join(packages),
        "fastconv: " + ", ".join(f"{key}: {value}" for key, value in config.items()),
    ]


def _in_use(kernels: Kernels) -> Iterator[Kernels]:
    module = kernels.module
    before = module.isa()
    if kernels.isa is not None:
        module.use_isa(kernels.isa)
    with fc.use_backend(kernels.backend):
        yield kernels
    if kernels.isa is not None:
        module.use_isa(before)


@pytest.fixture(scope="session", autouse=True)
def away_from_the_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``python -c`` looks in the current folder first: processes that tests start must find the installed package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("away"))
        yield


@pytest.fixture(params=ALL_KERNELS, ids=str)
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Every backend and ISA in turn, in use while the test runs."""
    yield from _in_use(request.param)


@pytest.fixture(params=FAST_KERNELS, ids=str)
def fast_kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """As `kernels`, without the reference: what is to be compared with it."""
    yield from _in_use(request.param)


@pytest.fixture(params=fc.backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every backend in turn, in use while the test runs."""
    with fc.use_backend(request.param):
        yield request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1, 2])
def axes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="session")
def torch() -> Any:
    """The torch module on one thread; tests that compare with it are skipped where it is missing."""
    module = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    module.set_num_threads(1)
    return module


@pytest.fixture
def process_settings() -> Iterator[None]:
    """Puts the process-wide settings back after a test that changes them."""
    from fastconv import settings as ours

    before = ours.process_wide()
    yield
    assert before.backend is not None
    assert before.threads is not None
    assert before.precision is not None
    fc.use_backend(before.backend)
    fc.set_num_threads(before.threads)
    fc.precision(before.precision)


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new interpreter, away from the source folder, with no FASTCONV_* variables but those given."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def run(code: str, *, check: bool = True, timeout: float = 240, **variables: str) -> Any:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FASTCONV_") and k != "OMP_NUM_THREADS"}
        environment.update(variables)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run
