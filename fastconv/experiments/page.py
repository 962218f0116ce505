"""Reports as HTML pages that need no other file: the frame, and the pieces that they are made of."""

from __future__ import annotations

import base64
import html
import os
import re
from pathlib import Path
from typing import Any

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TIMES = "\N{MULTIPLICATION SIGN}"
# A number is kept on one line with its sign, unit or error.
_TOGETHER = re.compile(rf"(?<=[0-9]) (?=[%±{_TIMES}]|points|px|seeds)|(?<=[±{_TIMES}=]) (?=[0-9])|(?<=p) (?==)")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --faint: #5c5c5c; --paper: #ffffff; --line: #d4d4d4; --box: #f3f6f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --faint: #a8a8a8; --paper: #16181b; --line: #3b3f45; --box: #20242a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.answer { background: var(--box); border-left: .3rem solid #0072b2; padding: .6rem 1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
.text td:last-child { white-space: normal; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
figure img { width: 100%; min-width: 34rem; height: auto; background: #fff; border-radius: .4rem; display: block; }
figcaption, .small { color: var(--faint); font-size: .88rem; } code { font-size: .9em; }
"""


def write(path: Path, title: str, body: list[str]) -> Path:
    """Write the page with this title and these pieces of HTML, as a whole or not at all. Returns `path`."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(document(title, body), encoding="utf-8")
    os.replace(temporary, path)
    return path


def document(title: str, body: list[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def per_cent(numbers: dict[str, Any]) -> str:
    """Mean and standard deviation, as :func:`fastconv.experiments.statistics.mean_sd` gives them, of a fraction."""
    spread = "" if numbers["std"] is None else f" ± {100 * numbers['std']:.1f}"
    return f"{100 * numbers['mean']:.1f}{spread} %"


def points(fraction: float) -> str:
    return f"{100 * fraction:.1f} points"


def p_value(test: dict[str, Any]) -> str:
    """What :func:`fastconv.experiments.statistics.paired_test` found, in words."""
    mantissa, _, exponent = f"{test['p']:.2g}".partition("e")
    power = f" {_TIMES} 10{str(int(exponent)).translate(_SUPERSCRIPT)}" if exponent else ""
    return f"paired t-test over {count(test['n'], 'seed')}, p = {mantissa}{power}"


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


def text(words: str) -> str:
    """`words` as HTML; a number and its unit stay on one line."""
    return html.escape(_TOGETHER.sub("\N{NO-BREAK SPACE}", words), quote=False)


def figure(path: Path, caption: str) -> str:
    """The PNG file `path` inside of the page, with a caption that is its alternative text as well."""
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    picture = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{image}">'
    return f'<figure><div class="scroll">{picture}</div><figcaption>{text(caption)}</figcaption></figure>'


def table(heading: list[str], rows: list[list[str]], kind: str = "") -> str:
    """A table that scrolls by itself where it is too wide; kind "text" aligns all cells to the left."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    attribute = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{attribute}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'
    )
