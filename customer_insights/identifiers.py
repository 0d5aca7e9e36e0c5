"""Snowflake identifiers: the one place where a name is checked and quoted before it becomes part of a statement."""

from __future__ import annotations

import re

# Snowflake's unquoted identifier: a letter or underscore, then letters, digits, underscores and dollar signs, 255 at
# most.
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


# What this project writes to: a stage and folders and files of plain names. Names of files that others put on a stage
# are bound, not spelt.
_LOCATION = re.compile(r"@[A-Za-z0-9_$.]+(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*\Z")


def stage_location(stage: str, *segments: str) -> str:
    """``@STAGE/segment/segment``: a place on a stage that may become part of a statement.

    Raises:
        ValueError: a segment holds something other than letters, digits and ``_ - . =``, or begins with a dot.
    """
    return validated_location("/".join(["@" + stage.lstrip("@"), *segments]))


def validated_location(location: str) -> str:
    """``location`` without a slash at its end, when it is a plain place on a stage."""
    plain = location.rstrip("/")
    if not _LOCATION.match(plain):
        raise ValueError(
            f"{location!r} is no plain stage location: expected @STAGE/folder/file of letters, digits and _ - . ="
        )
    return plain
