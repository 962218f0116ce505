"""The command ``fastconv``: one entry of :data:`COMMANDS` a subcommand.

A command imports what it needs when it runs, so that ``fastconv config`` works where only NumPy is installed. Whatever
is wrong with the arguments, the files or the installation is said in one line on stderr, with exit code 2.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

from ._version import __version__
from .backends import NAMES as BACKENDS
from .geometry import OPERATIONS, PADDING_MODES

Options = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line: argparse's own are preceded by the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


# Packages that are not dependencies, and the extra that installs them; any other missing module is a fault of ours.
EXTRAS = {
    "numba": "numba",
    "torch": "torch",
    "pooch": "data",
    "tomli": "benchmarks",
    "distributed": "distributed",
    **dict.fromkeys(("rich", "joblib", "scipy", "matplotlib", "safetensors", "tqdm", "threadpoolctl"), "experiments"),
}


class Command(NamedTuple):
    """A subcommand: its line in ``fastconv --help``, what adds its arguments, and what carries it out."""

    name: str
    help: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[Options], None]


# ---- equivariance


def _equivariance_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help="'fashion' (comes with the package; the default), 'mnist' or 'fashion-full' (downloaded once), or any "
        "name with --data-dir; there may be several",
    )
    parser.add_argument(
        "--data-dir",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder with train-images-idx3-ubyte and train-labels-idx1-ubyte (plain or .gz) for the data set NAME; "
        "NAME may be left out where only one data set can be meant",
    )
    parser.add_argument(
        "--study",
        nargs="+",
        metavar="NAME",
        help="in place of the base experiment: 'remedies' (which of them help), 'layers' (which move along), "
        "'invariant' (networks that are so by construction), 'mnist1d' (one dimension), or 'all'",
    )
    parser.add_argument("--seeds", type=_count, default=5, metavar="N", help="repetitions, seeds 0 to N-1 (default: 5)")
    parser.add_argument("--epochs", type=_count, default=10, metavar="N", help="epochs of each training (default: 10)")
    parser.add_argument("--backend", choices=BACKENDS, help="default: the best one here")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the results go (default: results/equivariance, with --study results/study)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the finished and continue the interrupted runs in DIR"
    )
    parser.add_argument(
        "--jobs", type=_count, metavar="N", help="trainings side by side, each on one thread (default: the usable CPUs)"
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a dask scheduler whose workers compute the cells of the studies in place of this machine",
    )
    parser.add_argument(
        "--train-images", type=_count, default=10_000, metavar="N", help="the first N images (default: 10000)"
    )
    parser.add_argument(
        "--validation-images", type=_count, default=10_000, metavar="N", help="the last N images (default: 10000)"
    )


def _equivariance(options: Options) -> None:
    from .experiments import equivariance

    names = list(dict.fromkeys(options.dataset or []))
    config = equivariance.Config(
        datasets=_datasets(names, options.data_dir),
        seeds=options.seeds,
        epochs=options.epochs,
        backend=options.backend,
        train_images=options.train_images,
        validation_images=options.validation_images,
    )
    if options.study:
        from .experiments import studies

        chosen = studies.STUDIES if options.study == ["all"] else tuple(dict.fromkeys(options.study))
        out = options.out or "results/study"
        studies.main(chosen, config, out, resume=options.resume, jobs=options.jobs, scheduler=options.scheduler)
        return
    if options.scheduler:
        raise ValueError("--scheduler is for the cells of a --study")
    equivariance.main(config, options.out or "results/equivariance", resume=options.resume, jobs=options.jobs)


def _datasets(names: list[str], folders: list[str]) -> dict[str, str | None]:
    """Each data set's name with its folder, None where it has none. ValueError where that cannot be told."""
    given: dict[str, str] = {}
    for folder in folders:
        name, separator, path = folder.partition("=")
        if not separator or os.path.isdir(folder):  # a folder's own name may hold a "="
            if not names and len(folders) == 1:
                names = [os.path.basename(os.path.abspath(folder))]
            # With several data sets, the one meant is the one that does not come with the package.
            meant = names if len(names) == 1 else [name for name in names if name != "fashion"]
            if len(meant) != 1:
                raise ValueError(f"--data-dir {folder}: say whose folder it is with NAME={folder}")
            name, path = meant[0], folder
        if names and name not in names:
            raise ValueError(f"--data-dir {folder}: {name!r} is not among the data sets {', '.join(names)}")
        if name in given:
            raise ValueError(f"--data-dir {folder}: the data set {name!r} has a folder already, {given[name]}")
        given[name] = path
    return {name: given.get(name) for name in names or given or ["fashion"]}


# ---- worked-example


def _worked_example_arguments(parser: Parser) -> None:
    numbers: dict[str, Any] = {"type": _rows, "nargs": "+", "metavar": "NUMBER"}
    parser.add_argument(
        "--dims", type=int, choices=(1, 2), default=1, help="1: vectors; 2: matrices, row by row (default: 1)"
    )
    parser.add_argument("--x", help='the input (default: 1 2 3 4; 2-D: "1 2 0; 0 1 3; 2 1 1")', **numbers)
    parser.add_argument("--w", help='the kernel (default: 2 1 3; 2-D: "2 1; 0 3")', **numbers)
    parser.add_argument(
        "--b",
        default=[[[1.0]]],
        help="the bias: one number shared by all outputs, or one an output (default: 1)",
        **numbers,
    )
    parser.add_argument("--y", help='the targets, one an output (default: 2 4; 2-D: "5 8; 3 10")', **numbers)
    parser.add_argument("--lr", type=float, default=0.01, metavar="NUMBER", help="the learning rate (default: 0.01)")
    parser.add_argument(
        "--stride",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="from window to window; 2-D: one number, or rows and columns (default: 1)",
    )
    parser.add_argument(
        "--padding",
        type=_padding,
        nargs="+",
        default=[0],
        metavar="N",
        help="zeros at every end, or 'same' or 'valid', or two numbers: before and after, in 2-D rows and columns; "
        "2-D takes four, too: above, below, left, right (default: 0)",
    )
    parser.add_argument("--backend", choices=BACKENDS, help="whose numbers to show (default: the best one here)")
    parser.add_argument("--format", choices=("text", "markdown", "latex"), default="text", help="default: text")


def _worked_example(options: Options) -> None:
    from .experiments import worked_example

    arrays = {name: _array(name, getattr(options, name), options.dims) for name in "xwby"}
    stride = options.stride[0] if len(options.stride) == 1 else tuple(options.stride)
    example = worked_example.compute(
        **arrays,
        lr=options.lr,
        dims=options.dims,
        stride=stride,
        padding=_paddings(options.padding, options.dims),
        backend=options.backend,
    )
    print(worked_example.render(example, options.format))


def _array(name: str, given: list[list[list[float]]] | None, dims: int) -> Any:
    """The numbers of one option, which the shell may have split into several words: a list, or a list of rows."""
    if given is None:
        return None
    rows: list[list[float]] = [[]]
    for word in given:  # a word's first row goes on where the word before ended, any other starts anew
        rows[-1] = rows[-1] + word[0]
        rows += word[1:]
    if rows[-1] == [] and len(rows) > 1:  # a semicolon at the end
        rows.pop()
    if dims == 1 and len(rows) > 1:
        raise ValueError(f"--{name} has {len(rows)} rows: matrices need --dims 2")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"--{name}: the rows must have the same length, got {', '.join(str(len(r)) for r in rows)}")
    return rows[0] if dims == 1 or (name == "b" and len(rows) == len(rows[0]) == 1) else rows


def _paddings(given: list[int | str], dims: int) -> Any:
    """``padding`` as the library takes it, from the numbers of the command line."""
    if len(given) == 1:
        return given[0]
    if dims == 1:
        return (tuple(given),)
    return tuple(given) if len(given) != 4 else (tuple(given[:2]), tuple(given[2:]))


# ---- bench


def _bench_arguments(parser: Parser) -> None:
    from .bench import command  # imports no more than argparse

    command.add_arguments(parser)


def _bench(options: Options) -> None:
    from .bench import command

    command.run(options)


# ---- explain


def _explain_arguments(parser: Parser) -> None:
    parser.add_argument("--input", type=_ints, required=True, metavar="N,C,H,W", help="shape; N,C,L in 1-D")
    parser.add_argument(
        "--weight", type=_ints, required=True, metavar="K,C,R,S", help="shape; K,C,S in 1-D; C divided by the groups"
    )
    parser.add_argument("--stride", type=_ints, default=(1,), metavar="N[,N]", help="default: 1")
    parser.add_argument("--padding", type=_int_list_or_word, default=(0,), metavar="N[,N]", help="or 'same', 'valid'")
    parser.add_argument("--dilation", type=_ints, default=(1,), metavar="N[,N]", help="default: 1")
    parser.add_argument("--groups", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--padding-mode", choices=PADDING_MODES, default="zeros", help="default: zeros")
    parser.add_argument("--operation", choices=OPERATIONS, default="forward", help="default: forward")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parser.add_argument("--transposed", action="store_true", help="of conv_transpose1d or conv_transpose2d")
    parser.add_argument("--output-padding", type=_ints, default=(0,), metavar="N[,N]", help="with --transposed")
    parser.add_argument("--backend", choices=BACKENDS, help="default: the best one here")
    parser.add_argument("--algorithm", metavar="NAME", help="default: the planner chooses")
    parser.add_argument("--threads", type=_count, metavar="N", help="default: as a call would use")
    parser.add_argument("--strict", action="store_true", help="as under precision('strict')")


def _explain(options: Options) -> None:
    import contextlib

    import fastconv as fc

    with contextlib.ExitStack() as settings:
        if options.threads:
            settings.enter_context(fc.num_threads(options.threads))
        if options.strict:
            settings.enter_context(fc.precision("strict"))
        plan = fc.explain(
            options.input,
            options.weight,
            options.stride,
            options.padding,
            options.dilation,
            options.groups,
            padding_mode=options.padding_mode,
            operation=options.operation,
            dtype=options.dtype,
            transposed=options.transposed,
            output_padding=options.output_padding,
            backend=options.backend,
            algorithm=options.algorithm,
        )
    print(plan)


# ---- config


def _no_arguments(parser: Parser) -> None:
    pass


def _config(options: Options) -> None:
    import fastconv as fc

    fc.show_config()


# ---- the list


COMMANDS = (
    Command(
        "equivariance",
        "train a CNN and an MLP, and compare them on shifted images",
        _equivariance_arguments,
        _equivariance,
    ),
    Command(
        "worked-example",
        "one training step of a small convolution with every formula",
        _worked_example_arguments,
        _worked_example,
    ),
    Command("bench", "time the suite of real layers beside the rivals that are installed", _bench_arguments, _bench),
    Command("explain", "how one layer would be computed, and why", _explain_arguments, _explain),
    Command("config", "version, backends, instruction sets, threads", _no_arguments, _config),
)


# ---- types of arguments: argparse turns the ValueErrors into its one-line message


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _ints(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers separated by commas, got {text!r}") from None


def _int_list_or_word(text: str) -> tuple[int, ...] | str:
    return text if text in ("same", "valid") else _ints(text)


def _padding(text: str) -> int | str:
    if text in ("same", "valid"):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, 'same' or 'valid', got {text!r}") from None


def _rows(text: str) -> list[list[float]]:
    """Rows of numbers, with a semicolon between them: "1 2; 3 4"."""
    rows = [row.replace(",", " ").split() for row in text.split(";")]
    try:
        return [[float(number) for number in row] for row in rows]
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from None


def _plain_number(text: str) -> str:
    """`text` so that argparse takes it for no option: -1e-3 with the exponent written out, -1;2 after a blank."""
    if re.match(r"-[0-9.]", text) and ";" in text:
        return f" {text}"
    return format(Decimal(text), "f") if re.fullmatch(r"-[0-9]*\.?[0-9]+[eE][-+]?[0-9]{1,3}", text) else text


# ---- running


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="fastconv", description="Fast, clear convolution for Python on a CPU, and what can be learnt with it."
    )
    top.add_argument("--version", action="version", version=f"fastconv {__version__}")
    top.add_argument("--traceback", action="store_true", help="show where an error comes from, not only what it is")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}."
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 after an error, 130 after Ctrl-C.

    arguments: those after the program's name; None takes them from ``sys.argv``.
    """
    options = parser().parse_args([_plain_number(text) for text in (sys.argv[1:] if arguments is None else arguments)])
    try:
        options.run(options)
        sys.stdout.flush()  # here, where a reader that has gone is still caught
    except KeyboardInterrupt as interrupt:
        if options.traceback:
            raise
        print(f"fastconv {options.command}: interrupted{_detail(interrupt)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, e.g. head, has seen enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, RuntimeError, OSError, MemoryError, ImportError) as error:
        if options.traceback:
            raise
        print(f"fastconv {options.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _detail(interrupt: KeyboardInterrupt) -> str:
    return f"; {interrupt}" if str(interrupt) else ""


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in EXTRAS:
            return f'{package} is not installed: pip install "fastconv[{EXTRAS[package]}]"'
    return " ".join(str(error).split()) or type(error).__name__
