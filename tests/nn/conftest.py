"""The tests of fastconv.nn run on one thread, so that results are comparable bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastconv as fc


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with fc.num_threads(1):
        yield
