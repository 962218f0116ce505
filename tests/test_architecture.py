"""The shape of the package: arrows point down, imports are light, signatures are those of the contract, docs run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import fastconv as fc

PACKAGE = Path(fc.__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))
CSRC = Path(__file__).resolve().parent.parent / "csrc"

# Each may import those before it. A backend is in the third row: it knows the geometry and nothing above.
LAYERS = (
    ("_version",),
    ("geometry",),
    ("backends",),
    ("settings",),
    ("planner",),
    ("repeated",),
    ("functional",),
    ("entry",),
    ("grad", "config", "testing", "numba"),
    ("nn", "torch", "dask"),
    ("experiments", "bench"),
    ("cli",),
    ("__main__",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def module_name(path: Path) -> str:
    return ".".join(("fastconv", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, as absolute names."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            if node.module:
                found.add(start)
            found.update(f"{start}.{alias.name}" for alias in node.names)
    return found


def part(module: str) -> str | None:
    """The part of the package that a module is in: "nn" for "fastconv.nn.layers"; None for the package itself."""
    words = module.split(".")
    return words[1] if words[0] == "fastconv" and len(words) > 1 else None


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_arrows_point_down(path: Path) -> None:
    mine = part(module_name(path))
    if mine is None:
        return  # the package itself gathers the public names
    assert mine in HEIGHT, f"{mine} has no place in the order of the package"
    for other in imports(path):
        theirs = part(other)
        if theirs in HEIGHT:
            assert theirs == mine or HEIGHT[theirs] < HEIGHT[mine], f"{module_name(path)} imports {other}"
        elif other.partition(".")[0] == "fastconv":  # the package's public names
            assert HEIGHT[mine] >= HEIGHT["nn"], f"{module_name(path)} imports {other} from above"


def test_geometry_imports_nothing_of_ours() -> None:
    assert not [name for name in imports(PACKAGE / "geometry.py") if name.startswith("fastconv")]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("torch", ("torch", "bench")),
        ("numba", ("backends/numba", "bench", "numba.py")),
        ("llvmlite", ("backends/numba",)),
        ("matplotlib", ("experiments", "bench")),
        ("scipy", ("experiments", "bench")),
        ("distributed", ("experiments/studies",)),
        ("fastconv.backends._kernels", ("backends/cython", "entry")),
    ],
)
def test_who_may_import_what(package: str, allowed: tuple[str, ...]) -> None:
    for path in SOURCES:
        used = [name for name in imports(path) if name == package or name.startswith(package + ".")]
        where = path.relative_to(PACKAGE).as_posix()
        assert not used or where.startswith(allowed), f"{where} imports {used}"


def test_backends_do_not_know_each_other() -> None:
    for path in (PACKAGE / "backends").rglob("*.py"):
        own = path.relative_to(PACKAGE / "backends").parts[0].removesuffix(".py")
        for name in ("cython", "numba", "reference"):
            if name != own:
                assert not [i for i in imports(path) if i.startswith(f"fastconv.backends.{name}")]


def test_csrc_knows_nothing_of_python() -> None:
    if not CSRC.is_dir():
        pytest.skip("the C sources are not beside the tests")
    sources = [path for path in CSRC.iterdir() if path.suffix in (".c", ".h", ".inc", ".def")]
    assert sources
    for path in sources:
        included = re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"))
        assert not [name for name in included if "ython" in name or "numpy" in name], path.name


def test_every_c_header_is_used() -> None:
    if not CSRC.is_dir():
        pytest.skip("the C sources are not beside the tests")
    text = {path.name: path.read_text(encoding="utf-8") for path in CSRC.iterdir() if path.is_file()}
    for name in text:
        if name.endswith((".h", ".inc", ".def")):
            assert any(f'"{name}"' in other for file, other in text.items() if file != name), f"nothing includes {name}"


# ---- imports


def test_import_is_light(run_python: Any) -> None:
    code = """
    import sys, numpy
    before = set(sys.modules)
    import fastconv
    fastconv.backends()
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    heavy = new & {"torch", "numba", "llvmlite", "scipy", "matplotlib", "safetensors", "tqdm", "rich", "joblib"}
    assert not heavy, heavy
    third = [n for n in new if n not in sys.stdlib_module_names and n != "fastconv" and "cython" not in n]
    assert not third, third
    """
    run_python(code)


def test_import_adds_little_to_numpys(run_python: Any) -> None:
    """Under 0.15 s of processor time (other processes must not count): the least of several new processes."""
    code = """
    import time, numpy
    start = time.process_time()
    import fastconv
    print(time.process_time() - start)
    """
    assert min(float(run_python(code).stdout) for _ in range(5)) < 0.15


def test_the_public_names_are_there() -> None:
    for name in fc.__all__:
        assert hasattr(fc, name)
    settings = ("use_backend", "precision", "num_threads", "set_num_threads", "get_num_threads")
    for name in (*SIGNATURES, *settings, "backends", "explain", "show_config"):
        assert callable(public(name))
    assert "nn" in dir(fc)
    with pytest.raises(AttributeError, match="nonsense"):
        fc.nonsense  # noqa: B018


# ---- the contract's signatures

CONV = 'input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, padding_mode="zeros", out=None, '
CONV += "backend=None, algorithm=None"
TRANSPOSE = "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, out=None, "
TRANSPOSE += "backend=None, algorithm=None"
BACKWARD = 'grad_output, input, weight, *, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros", '
BACKWARD += "bias_shape=None, output_mask=(True, True, True), backend=None, algorithm=None"
TRANSPOSE_BACKWARD = "grad_output, input, weight, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1, "
TRANSPOSE_BACKWARD += "output_mask=(True, True, True), backend=None, algorithm=None"
STEPS = "stride=1, padding=0, dilation=1, groups=1, *, backend=None, algorithm=None"
SIGNATURES = {
    name.format(axes): signature
    for axes in (1, 2)
    for name, signature in {
        "conv{}d": CONV,
        "conv{}d_backward": BACKWARD,
        "conv_transpose{}d": TRANSPOSE,
        "conv_transpose{}d_backward": TRANSPOSE_BACKWARD,
        "grad.conv{}d_input": "input_size, weight, grad_output, " + STEPS,
        "grad.conv{}d_weight": "input, weight_size, grad_output, " + STEPS,
    }.items()
}


def public(name: str) -> Any:
    owner: Any = fc
    for word in name.split("."):
        owner = getattr(owner, word)
    return owner


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def contract({SIGNATURES[name]}): pass", namespace)
    assert parameters(public(name)) == parameters(namespace["contract"])
    behind = getattr(importlib.import_module("fastconv.functional"), name.removeprefix("grad."))
    assert parameters(behind) == parameters(namespace["contract"])


@pytest.mark.parametrize("name", [*SIGNATURES, *(n for n in fc.__all__ if callable(getattr(fc, n)))])
def test_public_docstrings(name: str) -> None:
    text = inspect.getdoc(public(name))
    assert text
    assert len(text) > 40


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_opens_with_what_it_is_for(path: Path) -> None:
    if path.name in ("__main__.py", "_version.py"):
        return
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text
    assert len(text) > 20


FOUND = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "fastconv.")]
MODULES = ["fastconv", *(name for name in FOUND if not name.endswith(("_kernels", "__main__")))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").startswith("fastconv"):
            raise
        pytest.skip(f"{name} needs an optional package: {error}")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
