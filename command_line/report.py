"""``customer-insights report``: the newest daily report, or that of a day, from the stage into a file."""

from __future__ import annotations

import shutil
import tempfile
from datetime import date
from pathlib import Path

from rich.console import Console

from command_line.terminal import plain
from customer_insights import daily_report
from customer_insights.errors import PermanentError
from customer_insights.settings import settings
from resources.snowflake import SnowflakeConnection


def fetch_report(console: Console, day: str | None, output: Path | None) -> Path:
    """Write the report to ``output``, or under its own name to the current folder; returns the file.

    Raises:
        PermanentError: ``day`` is no date, there is no such report, or the file cannot be written.
    """
    wanted = _date(day) if day else None
    with SnowflakeConnection(connection_name=settings().connection).session() as session:
        found, location = daily_report.find(session, settings(), wanted)
        target = output or Path(daily_report.file_name(found))
        if target.is_dir():
            target /= daily_report.file_name(found)
        with tempfile.TemporaryDirectory(prefix="customer_insights_") as directory:
            session.file.get(location, directory)
            fetched = next(path for path in Path(directory).rglob("*") if path.is_file())
            try:
                shutil.copyfile(fetched, target)
            except OSError as error:
                raise PermanentError(f"cannot write {target}: {error.strerror}; name another by --output") from error
    console.print(plain(f"the report of {found} is in {target}"))
    return target


def _date(day: str) -> date:
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise PermanentError(f"{day!r} is no day: expected YYYY-MM-DD") from None
