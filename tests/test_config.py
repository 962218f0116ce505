"""show_config: what this installation consists of."""

from __future__ import annotations

from typing import Any

import pytest

import fastconv as fc


def test_show_config_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert fc.show_config() is None
    text = capsys.readouterr().out
    config = fc.show_config("dicts")
    assert config is not None
    for key, value in config.items():
        assert key in text
        assert str(value) in text


def test_show_config_tells_what_is_asked_of_it() -> None:
    """Version, ISA in use and available, threads, compiler, numba."""
    config = fc.show_config("dicts")
    assert config is not None
    assert config["fastconv"] == fc.__version__
    assert config["threads"] == fc.get_num_threads()
    assert config["backends"] == ", ".join(fc.backends())
    assert config["numba"]
    assert config["compiler"]
    if "cython" in fc.backends():
        from fastconv.backends import cython

        assert config["ISA in use"] == cython.isa()
        assert all(name in config["ISAs"] for name, _ in cython.isas())
    with fc.num_threads(5), fc.use_backend("reference"), fc.precision("strict"):
        inside = fc.show_config("dicts")
    assert inside is not None
    assert (inside["threads"], inside["backend in use"], inside["precision"]) == (5, "reference", "strict")
    with pytest.raises(ValueError, match="mode"):
        fc.show_config("yaml")


def test_version() -> None:
    from importlib import metadata

    assert fc.__version__ == metadata.version("fastconv")


@pytest.mark.parametrize("variable", ["FASTCONV_BACKEND", "FASTCONV_NUM_THREADS", "FASTCONV_ISA"])
def test_a_wrong_environment_does_not_keep_the_report_from_coming_out(run_python: Any, variable: str) -> None:
    if variable == "FASTCONV_ISA" and "cython" not in fc.backends():
        pytest.skip("no backend here reports an instruction set: the extension was not built")
    done = run_python("import fastconv as fc; fc.show_config()", **{variable: "nonsense"})
    assert "nonsense" in done.stdout
    assert fc.__version__ in done.stdout


def test_without_the_extension(run_python: Any) -> None:
    """No compiler at install time: the others remain, the public functions work, and show_config says why."""
    code = """
    import sys
    sys.modules["fastconv.backends._kernels"] = None  # an import of it fails
    import numpy as np, fastconv as fc
    assert "cython" not in fc.backends()
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
    assert (fc.conv1d(x, w, backend="reference") == 3).all()
    with fc.use_backend("reference"):
        fc.conv1d(x, w), fc.conv1d_backward(fc.conv1d(x, w), x, w), fc.grad.conv1d_input(x.shape, w, fc.conv1d(x, w))
    try:
        fc.use_backend("cython")
    except RuntimeError as error:
        assert "extension" in str(error)
        print(error)
    assert "extension" in fc.show_config("dicts")["no cython"]
    assert fc.explain(x.shape, w.shape).refused[0][0] == "cython"
    """
    assert run_python(code).stdout
