"""Texts that customers wrote, as a page, a picture or a terminal shows them: literally, whatever is in them.

Where they are shown is the caller's business; pictures are in ``plots``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

LONGEST_CELL = 120
# What Markdown reads as a mark, wherever it stands in a cell.
_MARKS = re.compile(r"[\\`*_\[\]|~]")
# GitHub's Markdown makes links of bare addresses, also of escaped ones: the invisible word joiner keeps it from that.
_ADDRESS = re.compile(r"(?i)(://|(?<=\bwww)\.|(?<=[\w+-])@(?=\w))")
# Marks that embed, override or isolate the direction of writing: what follows them would be shown in another order.
_DIRECTION = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def literal(text: str) -> str:
    """The text without what would act instead of being shown: control characters (a terminal obeys escape sequences),
    lone surrogates, changes of direction. Each becomes U+FFFD; line breaks and tabs stay."""
    return "".join("\ufffd" if _acts(c) else c for c in text)


def _acts(character: str) -> bool:
    code = ord(character)
    control = code < 0x20 or 0x7F <= code < 0xA0
    return (control and character not in "\n\t") or 0xD800 <= code < 0xE000 or character in _DIRECTION


def markdown_cell(value: object, longest: int = LONGEST_CELL) -> str:
    """A value as one cell of a Markdown table: one line, cut where it is long, with nothing in it that is Markdown or
    HTML."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = literal(" ".join(str(value if value is not None else "").split()))
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    apart = _ADDRESS.sub(lambda mark: f"\u2060{mark.group()}\u2060", cut)
    return _MARKS.sub(lambda mark: f"\\{mark.group()}", html.escape(apart, quote=False))


def markdown_table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table whose cells are plain text; the columns' names are our own."""
    names = list(columns)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows]
    return "\n".join(lines)
