"""``customer-insights load``: a person's own files onto the stage and into TABULAR_DATA."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from command_line.terminal import plain, progress
from customer_insights import stage_files, visits
from customer_insights.errors import PermanentError
from customer_insights.identifiers import stage_location
from customer_insights.settings import settings
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    from snowflake.snowpark import Session


@dataclass(frozen=True)
class Loaded:
    """What came of the paths: files by name, and the visits of each table."""

    reviews: list[str]
    visits: dict[str, dict[str, int]]
    left_out: list[str]


def load_paths(console: Console, paths: list[Path]) -> Loaded:
    """Upload what the paths hold and say what to click next.

    Raises:
        PermanentError: a path does not exist, or nothing in it is a review file or a table of visits.
    """
    files = _files(paths)
    tables = [file for file in files if visits.is_visits_file(file)]
    from customer_insights import reviews

    texts = [file for file in files if file not in tables and reviews.is_review_file(file.name)]
    ignored = [file for file in files if file not in tables and file not in texts]
    if not tables and not texts:
        raise PermanentError(
            f"nothing to load in {', '.join(map(str, paths))}: expected review files ({', '.join(reviews.EXTENSIONS)}; "
            "each may be gzipped) or a CSV of visits with PRODUCT_TYPE, PAGE_LOAD_TIME, ..."
        )
    frames = {file: visits.read_visits(file) for file in tables}
    with SnowflakeConnection(connection_name=settings().connection).session() as session:
        session.use_schema(settings().qualified_schema)
        upload(session, texts)
        loaded = Loaded([stage_name(file.name) for file in texts], {}, [str(file) for file in ignored])
        for file, frame in frames.items():
            published = visits.load_visits(session, frame)
            loaded.visits[str(file)] = {"added": published.inserted, "replaced": published.updated}
            console.print(
                plain(f"{file.name}: {published.inserted} visits added, {published.updated} replaced in TABULAR_DATA")
            )
    if texts:
        files = "1 review file is" if len(texts) == 1 else f"{len(texts)} review files are"
        console.print(f"{files} on @{settings().review_stage}")
    for file in ignored:
        console.print("[yellow]left out[/]", plain(f"{file}: neither reviews nor visits"))
    console.print(
        "next, in Dagster (`make ui`): Jobs, [bold]everything[/], [bold]Materialize all…[/], Latest; or nothing, where "
        "the sensor new_review_files is on"
    )
    return loaded


def upload(session: Session, files: list[Path]) -> None:
    """Put files on the review stage; one that is there under the same name is replaced."""
    with progress() as bar:
        for file in bar.track(files, description="review files"):
            location = stage_location(settings().review_stage, stage_name(file.name))
            with file.open("rb") as content:
                stage_files.write_bytes(session, content, location)


def stage_name(name: str) -> str:
    """The name of a file on the stage: its own where that is plain, else a plain one that no other file gets."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]", "_", name)
    if plain == name and not name.startswith("."):
        return name
    return f"{hashlib.sha256(name.encode()).hexdigest()[:8]}-{plain.lstrip('.')}"


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise PermanentError(f"{path} does not exist")
        found += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return found
