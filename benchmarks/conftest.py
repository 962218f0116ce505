"""What the pytest-benchmark files share: which rows run when nothing is timed, and families as keywords for ``-k``."""

from __future__ import annotations

from typing import Any

import pytest

from fastconv.bench.cases import families


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastconv")
    group.addoption("--all-rows", action="store_true", help="with --benchmark-disable: run the large rows as well")
    group.addoption("--bench-threads", type=int, default=1, metavar="N", help="threads of each contender (default: 1)")


def pytest_configure(config: pytest.Config) -> None:
    for name, description in families().items():
        config.addinivalue_line("markers", f"{name}: {description}")


# With --benchmark-disable a match runs if its work is at most so many FLOPs: a minute for all of them, not twenty.
MOST_FLOPS = 3e8
MOST_FLOPS_OF_REFERENCE = 2e6

_left_out = pytest.StashKey[int]()


def _too_large(item: pytest.Item) -> bool:
    values: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if "row" not in values:
        return False
    most = MOST_FLOPS_OF_REFERENCE if values["contender"].name == "reference" else MOST_FLOPS
    return bool(values["row"].geometry.flops > most)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("benchmark_disable") or config.getoption("--all-rows"):
        return
    large = [item for item in items if _too_large(item)]
    if large:
        config.stash[_left_out] = len(large)
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if not _too_large(item)]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    count = config.stash.get(_left_out, 0)
    if count:
        terminalreporter.write_line(
            f"{count} benchmarks were left out: nothing is timed, and a call has more than {MOST_FLOPS:.0e} FLOPs "
            f"({MOST_FLOPS_OF_REFERENCE:.0e} for the reference); --all-rows runs them"
        )
