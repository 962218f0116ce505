"""A table, and the three forms that it is printed in: text for a terminal, Markdown, HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Table:
    """A title, headings, rows of text, a note underneath. Columns after `words` are numbers: aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()
    note: str = ""
    words: int = 1

    def text(self) -> str:
        """Plain text, columns aligned."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        shown = [
            "  ".join(
                cell.ljust(width) if i < self.words else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        ]
        parts = [self.title, "-" * len(self.title), *shown]
        return "\n".join([*parts, self.note] if self.note else parts)

    def markdown(self) -> str:
        """A heading, the table, the note."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = ["---" if i < self.words else "---:" for i in range(len(self.columns))]
        parts = [f"### {self.title}", "", line(self.columns), line(rule), *map(line, self.rows)]
        return "\n".join([*parts, "", self.note] if self.note else parts)

    def html(self) -> str:
        """A heading and a table element; all text is escaped."""

        def cells(tag: str, values: Sequence[str]) -> str:
            kinds = [f"<{tag}>" if i < self.words else f'<{tag} class="n">' for i in range(len(values))]
            return "<tr>" + "".join(f"{k}{html.escape(v)}</{tag}>" for k, v in zip(kinds, values)) + "</tr>"

        body = "\n".join(cells("td", row) for row in self.rows)
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        head = (
            f"<h2>{html.escape(self.title)}</h2>\n<div class='wide'><table><thead>{cells('th', self.columns)}</thead>"
        )
        return f"{head}\n<tbody>{body}</tbody></table></div>{note}"


# ---- numbers as text


def seconds(value: float) -> str:
    """A time with three digits and its unit: ``412 ns``, ``1.23 ms``."""
    if not math.isfinite(value):
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{digits(value / scale)} {unit}"
    return f"{digits(value / 1e-9)} ns"


def digits(value: float, count: int = 3) -> str:
    """A number with `count` significant digits and no exponent: ``0.012``, ``1.23``, ``1230``; ``-`` for none."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    places = max(0, count - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"


def size(value: float) -> str:
    """Bytes with a unit: ``48 kB``, ``1.5 MB``."""
    if not math.isfinite(value):
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.0f}%" if math.isfinite(value) else "-"


def error(value: Any) -> str:
    """A relative error: ``3.1e-07``."""
    return f"{value:.1e}" if isinstance(value, float) and math.isfinite(value) else "-"
