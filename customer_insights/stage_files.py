"""Files on a stage: listing them, reading other people's, and writing and reading this project's own Parquet.

Our own files have plain names and lie under a folder of the run. Files that others put on a stage may have any name,
so theirs are only ever bound values: they are read by presigned URLs and never become part of a statement or of a path
on this machine. What is in a file belongs in ``reviews``; how rows reach a table in ``publish``.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from customer_insights import query
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.identifiers import stage_location, validated_location
from customer_insights.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from snowflake.snowpark import Session

# Snowflake's number for an object that is missing or that the role may not see.
DOES_NOT_EXIST = 2003
# Long enough for the files of one task, short enough that a leaked URL is soon worth nothing.
URL_LIFETIME_SECONDS = 3600
CONNECT_AND_READ_TIMEOUT_SECONDS = (30, 120)
DOWNLOAD_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StageFile:
    """One file as LIST shows it: its name relative to the stage, and when it was modified (UTC, without a zone)."""

    name: str
    size: int
    md5: str
    modified: datetime

    @property
    def arrival_date(self) -> date:
        return self.modified.date()


def list_files(session: Session, location: str) -> list[StageFile]:
    """The files under a stage location, ordered by time of arrival and name.

    Raises:
        PermanentError: the stage does not exist, or this role may not see it.
    """
    from snowflake.snowpark.exceptions import SnowparkSQLException

    # With the slash a folder is listed, and not also whatever begins with its name.
    try:
        rows = [tuple(row.values()) for row in query.rows(session, f"LIST {validated_location(location)}/")]
    except SnowparkSQLException as error:
        if is_missing(error):
            stage = location.split("/", 1)[0]
            raise PermanentError(
                f"the stage {stage} does not exist, or this role may not see it: create it by "
                "`customer-insights deploy`, or name another one in the settings"
            ) from error
        raise
    files = [StageFile(_relative(name), int(size), str(md5), _utc(modified)) for name, size, md5, modified in rows]
    return sorted(files, key=lambda file: (file.modified, file.name))


def versions_by_day(files: Iterable[StageFile]) -> dict[str, str]:
    """Day of arrival (ISO date, UTC) -> a hash that changes with the names, sizes and checksums of the day's files."""
    days: dict[str, list[str]] = {}
    for file in files:
        days.setdefault(file.arrival_date.isoformat(), []).append(f"{file.name} {file.size} {file.md5}")
    return {day: hashlib.sha256("\n".join(sorted(named)).encode()).hexdigest() for day, named in days.items()}


def list_names(session: Session, location: str) -> list[str]:
    """The files under one of our own locations, as locations (``@STAGE/folder/file``) ordered by name."""
    stage = location.split("/", 1)[0]
    return sorted(stage_location(stage, file.name) for file in list_files(session, location))


def is_missing(error: Exception) -> bool:
    """Whether a statement failed because an object is missing."""
    code = str(getattr(error, "sql_error_code", "") or "")
    return code.lstrip("0") == str(DOES_NOT_EXIST) or f"{DOES_NOT_EXIST:06d}" in str(error)


def _relative(name: str) -> str:
    # LIST begins every name with the stage's own, in lower case: reviews/2026/a.txt.
    return name.split("/", 1)[1]


def _utc(last_modified: str) -> datetime:
    return parsedate_to_datetime(last_modified).astimezone(UTC).replace(tzinfo=None)


def presigned_urls(session: Session, stage: str, names: Sequence[str]) -> list[str]:
    """One URL a file, in order, by one statement; they open the files of a stage with server-side encryption."""
    rows = query.rows(
        session,
        f"SELECT f.INDEX AS POSITION,\n"
        f"  GET_PRESIGNED_URL({validated_location(stage)}, f.VALUE::STRING, {URL_LIFETIME_SECONDS}) AS URL\n"
        "FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?))) AS f",
        [json.dumps(list(names))],
    )
    urls = {int(row["POSITION"]): str(row["URL"]) for row in rows}
    return [urls[position] for position in range(len(names))]


def download(url: str, file: StageFile) -> IO[bytes]:
    """The content behind a presigned URL, in a temporary file (in memory when small) that is gone when it is closed.

    Raises:
        RetryableError: the network failed, or the file is not the size that was listed (it was replaced meanwhile).
    """
    import requests

    # The caller closes it.
    content = tempfile.SpooledTemporaryFile(max_size=8 * DOWNLOAD_CHUNK_BYTES)  # noqa: SIM115
    try:
        with requests.get(url, stream=True, timeout=CONNECT_AND_READ_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            # The bytes as stored: a gzip file served with Content-Encoding must not be unpacked on the way.
            while chunk := response.raw.read(DOWNLOAD_CHUNK_BYTES, decode_content=False):
                content.write(chunk)
    except (requests.RequestException, OSError) as error:
        content.close()
        # The error's own text holds the URL, which opens the file to whoever has it.
        raise RetryableError(f"reading {file.name!r} from the stage failed: {type(error).__name__}") from None
    found = content.tell()
    if found != file.size:
        content.close()
        raise RetryableError(
            f"{file.name!r} had {file.size} bytes when it was listed and {found} when it was read: it was replaced "
            "meanwhile, or its stage is not of ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')"
        )
    content.seek(0)
    return cast("IO[bytes]", content)


def write_bytes(session: Session, content: IO[bytes], location: str) -> None:
    """Write one file; a file of that name is replaced."""
    session.file.put_stream(content, validated_location(location), auto_compress=False, overwrite=True)


def arrow_schema(table: Table) -> pa.Schema:
    """The columns of a table as Arrow types that COPY turns into the table's own."""
    import pyarrow as pa

    types = {
        "STRING": pa.string(),
        "FLOAT": pa.float64(),
        "INT": pa.int64(),
        "DATE": pa.date32(),
        "TIMESTAMP_NTZ": pa.timestamp("us"),
    }
    return pa.schema([pa.field(c.name, types[c.type], nullable=c.nullable) for c in table.columns])


def write_parquet(session: Session, frame: pd.DataFrame, location: str) -> None:
    """Write a frame as one Parquet file, times as TIMESTAMP_NTZ in microseconds; a file of that name is replaced."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, coerce_timestamps="us", allow_truncated_timestamps=True)
    buffer.seek(0)
    write_bytes(session, buffer, location)


def read_parquet(session: Session, location: str) -> pd.DataFrame:
    """One of our own Parquet files as a frame."""
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="customer_insights_") as directory:
        # Not get_stream: it leaves the file in the shared temporary folder under its bare name, where two readers meet.
        session.file.get(validated_location(location), directory)
        files = [path for path in Path(directory).rglob("*") if path.is_file()]
        if len(files) != 1:
            raise RetryableError(f"expected one file at {location}, found {len(files)}")
        return pd.read_parquet(files[0])


def remove(session: Session, location: str) -> None:
    """Remove the files under one of our own locations; none there is as well."""
    place = validated_location(location)
    if "/" not in place:
        raise ValueError(f"{location!r} is a whole stage: name a folder on it")
    query.rows(session, f"REMOVE {place}/")
