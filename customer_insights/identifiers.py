"""Snowflake identifiers: the one place where a name is checked and quoted before it becomes part of a statement."""

from __future__ import annotations

import re

# Snowflake's unquoted identifier: a letter or underscore, then letters, digits, underscores and dollar signs, 255 at most.
_UNQUOTED = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}\Z")


def validated(name: str) -> str:
    """``name`` in upper case, as Snowflake stores an unquoted identifier.

    Raises:
        ValueError: the name would need quotes; this project's settings take plain names only.
    """
    if not _UNQUOTED.match(name):
        raise ValueError(
            f"{name!r} is no plain Snowflake identifier: use letters, digits, _ and $, beginning with a letter or _"
        )
    return name.upper()


def qualified(*parts: str) -> str:
    """The parts of a name, each checked, joined by dots: ``qualified("HOL_DB", "HOL_SCHEMA", "REVIEWS")``."""
    return ".".join(validated(part) for part in parts)
