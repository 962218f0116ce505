"""The tests of fastconv.torch. (The folder is not called torch: without PyTorch `import torch` would find it.)"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: there is nothing to bridge to")


@pytest.fixture(autouse=True)
def same_numbers_on_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
