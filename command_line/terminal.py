"""What the commands print with: tables, progress bars, JSON for scripts. What is printed is in the module of each
command.

Results go to standard output; progress and errors to standard error, so that a pipe holds nothing but the result.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import date, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from customer_insights import display

console = Console()
errors = Console(stderr=True)
COLUMNS_OF_WORDS = ("", "checks", "product", "review")
NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+ ?%?")


def summary(title: str, columns: list[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table for the terminal."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, name in enumerate(columns):
        numbers = bool(rows) and all(NUMBER.fullmatch(str(row[place])) for row in rows if row[place] not in (None, ""))
        # In a narrow terminal the columns of words become narrower, so that no number is cut.
        words = name in COLUMNS_OF_WORDS
        table.add_column(name, overflow="fold", no_wrap=not words, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*("" if value is None else plain(value) for value in row))
    return table


def plain(value: object) -> Text:
    """A value for the terminal as it is, whoever wrote it: brackets are no markup, escape sequences do nothing."""
    return Text(display.literal(str(value)))


def progress() -> Progress:
    """Bars for long work, on standard error, which go when the work is done. Nothing where that is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
        # What is printed meanwhile stands above the bar; but what goes to a file or a pipe stays there.
        redirect_stdout=sys.stdout.isatty(),
    )


def print_json(value: object) -> None:
    """One JSON document on standard output; times in ISO 8601."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_json) + "\n")


def _json(value: object) -> str:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


def ago(seconds: float) -> str:
    """A length of time in its largest unit: 42 s, 7 min, 3 h, 12 d."""
    for size, unit in ((2 * 86400, "d"), (2 * 3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / {'d': 86400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
