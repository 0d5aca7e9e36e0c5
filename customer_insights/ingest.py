"""Ingest: the files that arrived on the stage in a window of days become rows of RAW_REVIEWS, each file and UUID once.

What a file's records are belongs in ``reviews``, how rows reach a table at once in ``publish``. Here is what lies
between: which files are new, who reads which, and what happens to a UUID that is there already.

* A file is known by name, size and MD5. The ledger is read again inside the transaction that publishes, so that of two
  runs at the same time one writes a file's rows and the other none.
* A UUID that comes twice keeps its first row, by arrival, file and line; a row that RAW_REVIEWS has from another file
  is the first. The others are rejected and name the first.
* A file that was replaced (same name, other content) updates the rows that it wrote. Rows that it no longer has stay:
  they arrived.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from customer_insights import publish, query, stage_files
from customer_insights.errors import RetryableError
from customer_insights.identifiers import qualified, stage_location
from customer_insights.reviews import Limits, Reject, Review, read_reviews, text_hash
from customer_insights.settings import Settings
from customer_insights.stage_files import StageFile
from customer_insights.tables import INGESTED_FILES, RAW_REVIEWS, REJECTED_REVIEWS, Column, Table

if TYPE_CHECKING:
    from snowflake.snowpark import Session

# Names in one bound value: some hundred KB of JSON.
LEDGER_NAMES = 5000
# A task reads at most so many files or bytes (one large file is one task): enough to outweigh a task's own cost, few
# enough that a retried task repeats little.
TASK_FILES = 500
TASK_BYTES = 32 << 20
TASKS_PER_CPU = 2
# Rows that are held before they are written and their languages detected.
HELD_ROWS = 1000
HELD_CHARACTERS = 4 << 20
DOWNLOAD_ATTEMPTS = 4

_FILE_MD5 = REJECTED_REVIEWS.column("FILE_MD5")
_WRITTEN_LATER = ("INGESTED_AT", "REJECTED_AT", "RUN_ID")


def _staged(name: str, table: Table, *more: Column) -> Table:
    columns = tuple(column for column in table.columns if column.name not in _WRITTEN_LATER)
    return Table(name, table.description, (*columns, *more), table.key)


# What the tasks write, and what the transaction works on; temporary tables.
STAGED_REVIEWS = _staged(
    "STAGED_REVIEWS",
    RAW_REVIEWS,
    _FILE_MD5,
    Column("ARRIVED_AT", "TIMESTAMP_NTZ", "When the file arrived (UTC).", nullable=False),
)
STAGED_REJECTS = _staged("STAGED_REJECTS", REJECTED_REVIEWS)
STAGED_FILES = Table(
    "STAGED_FILES",
    INGESTED_FILES.description,
    tuple(INGESTED_FILES.column(name) for name in (*INGESTED_FILES.key, "ARRIVAL_DATE", "FILE_ARRIVED_AT")),
    INGESTED_FILES.key,
)


@dataclass(frozen=True)
class IngestReport:
    """What one run wrote. Counts by reason leave out the figures and names in a reason; by day is by day of arrival."""

    files: int
    rows_in: int
    rows_accepted: int
    rows_rejected: int
    rejects_by_reason: Mapping[str, int]
    languages: Mapping[str, int]
    accepted_by_day: Mapping[str, int]
    bytes: int
    tasks: int
    seconds: float


def pending_files(session: Session, settings: Settings, start: str, end: str) -> list[StageFile]:
    """Files that arrived from ``start`` to ``end`` (ISO dates, UTC, both included) and were not read yet, by arrival.

    Raises:
        PermanentError: the stage does not exist.
    """
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    listed = stage_files.list_files(session, review_stage(settings))
    arrived = [file for file in listed if first <= file.arrival_date <= last]
    return unread(session, arrived)


def unread(session: Session, files: Sequence[StageFile]) -> list[StageFile]:
    """Those of ``files`` that the ledger does not have."""
    known = set(_ledger(session, [file.name for file in files]))
    return [file for file in files if (file.name, file.size, file.md5) not in known]


def review_stage(settings: Settings) -> str:
    """The stage that review files arrive on, by its full name."""
    return "@" + qualified(settings.database, settings.schema_name, settings.review_stage)


def _ledger(session: Session, names: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    for begin in range(0, len(names), LEDGER_NAMES):
        rows = query.rows(
            session,
            f"SELECT l.SOURCE_FILE, l.FILE_SIZE, l.FILE_MD5 FROM {INGESTED_FILES.name} AS l\n"
            "JOIN TABLE(FLATTEN(INPUT => PARSE_JSON(?))) AS f ON l.SOURCE_FILE = f.VALUE::STRING",
            [json.dumps(names[begin : begin + LEDGER_NAMES])],
        )
        yield from ((row["SOURCE_FILE"], int(row["FILE_SIZE"]), row["FILE_MD5"]) for row in rows)


def ingest(session: Session, settings: Settings, arrival_start: str, arrival_end: str, run_id: str) -> IngestReport:
    """Read the window's new files on the Ray cluster and publish their rows; on an error nothing is published.

    The session's schema is the settings'. Running it again, at the same time, or after a kill writes nothing twice.
    """
    started = time.monotonic()
    files = pending_files(session, settings, arrival_start, arrival_end)
    stage = "@" + qualified(settings.database, settings.schema_name, settings.work_stage)
    of_run = stage_location(stage, run_id, "reviews")
    # Left by an attempt of this run that was killed. One that still runs will miss its files, and publish nothing.
    stage_files.remove(session, of_run)
    tasks = 0
    if files:
        prefix = stage_location(of_run, secrets.token_hex(8))
        try:
            written = read_in_parallel(files, review_stage(settings), prefix, limits(settings))
            tasks = len(written)
            _write_files(session, files, f"{prefix}/files/files.parquet")
            _publish(session, prefix, written, len(files), run_id)
        finally:
            stage_files.remove(session, prefix)
    return _report(session, run_id, tasks, time.monotonic() - started)


def limits(settings: Settings) -> Limits:
    return Limits(review_characters=settings.max_review_characters)


# -- reading, on the Ray cluster -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What one task wrote."""

    files: int
    accepted: int
    rejected: int


def read_in_parallel(files: Sequence[StageFile], stage: str, prefix: str, limits: Limits) -> list[Written]:
    """Read the files as tasks of the Ray cluster, which write Parquet under ``prefix``; one entry a task."""
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init()
    slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
    tasks = [
        {"task": number, "files": json.dumps([asdict(file) for file in group], default=datetime.isoformat)}
        for number, group in enumerate(grouped(files, slots * TASKS_PER_CPU))
    ]
    ray.data.DataContext.get_current().enable_progress_bars = False
    written = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        partial(_read_task, stage=stage, prefix=prefix, limits=limits), num_cpus=1
    )
    return [Written(**row) for row in written.take_all()]


def grouped(files: Sequence[StageFile], at_least: int) -> Iterator[list[StageFile]]:
    """The files in groups, one a task: bounded in number and bytes, and ``at_least`` so many if files suffice."""
    most_files = max(1, min(TASK_FILES, -(-len(files) // at_least)))
    group: list[StageFile] = []
    size = 0
    for file in files:
        if group and (len(group) >= most_files or size + file.size > TASK_BYTES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group


def _read_task(row: dict[str, Any], stage: str, prefix: str, limits: Limits) -> dict[str, int]:
    """One Ray task: read its files and write their rows under names that a retry repeats."""
    from customer_insights.job_session import job_session

    session = job_session()
    files = [
        StageFile(**{**file, "modified": datetime.fromisoformat(file["modified"])}) for file in json.loads(row["files"])
    ]
    name = f"{row['task']:06d}.parquet"
    with (
        _Rows(session, STAGED_REVIEWS, f"{prefix}/accepted/{name}") as accepted,
        _Rows(session, STAGED_REJECTS, f"{prefix}/rejected/{name}") as rejected,
    ):
        for file, record in _records(session, stage, files, limits):
            origin = {"SOURCE_FILE": file.name, "FILE_MD5": file.md5, "ARRIVAL_DATE": file.arrival_date}
            if isinstance(record, Reject):
                rejected.add({**origin, "SOURCE_LINE": record.line, "REASON": record.reason, "EXCERPT": record.excerpt})
            else:
                accepted.add({**origin, **_review_columns(record), "ARRIVED_AT": file.modified}, len(record.text))
    return asdict(Written(len(files), accepted.count, rejected.count))


def _review_columns(review: Review) -> dict[str, Any]:
    return {
        "UUID": review.uuid,
        "REVIEW_TEXT": review.text,
        "TEXT_HASH": text_hash(review.text),
        "SOURCE_LINE": review.line,
    }


def _records(
    session: Session, stage: str, files: Sequence[StageFile], limits: Limits
) -> Iterator[tuple[StageFile, Review | Reject]]:
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    # An empty file needs no download; a hundred thousand of them are one listing.
    full = [file for file in files if file.size]
    urls = dict(zip(full, stage_files.presigned_urls(session, stage, [file.name for file in full]), strict=True))
    retrying = Retrying(
        retry=retry_if_exception_type(RetryableError),
        stop=stop_after_attempt(DOWNLOAD_ATTEMPTS),
        wait=wait_random_exponential(max=10),
        reraise=True,
    )
    for file in files:
        with ExitStack() as stack:
            content: Any = b""
            if file in urls:
                content = stack.enter_context(retrying(stage_files.download, urls[file], file))
            for record in read_reviews(file.name, content, limits):
                yield file, record


class _Rows:
    """Rows of one table on their way to one Parquet file on a stage; a bounded number of them is held."""

    def __init__(self, session: Session, table: Table, location: str) -> None:
        self._session, self._table, self._location = session, table, location
        self._held: list[dict[str, Any]] = []
        self._characters = 0
        self.count = 0

    def __enter__(self) -> _Rows:
        import pyarrow.parquet as pq

        self._file = tempfile.TemporaryFile()
        self._writer = pq.ParquetWriter(self._file, stage_files.arrow_schema(self._table))
        return self

    def add(self, row: dict[str, Any], characters: int = 0) -> None:
        self._held.append(row)
        self._characters += characters
        self.count += 1
        if len(self._held) >= HELD_ROWS or self._characters >= HELD_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if "LANGUAGE" in self._table.column_names:
            _detect_languages(self._held)
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._writer.schema))
        self._held, self._characters = [], 0

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None and self._held:
                self._flush()
            self._writer.close()
            if kind is None and self.count:
                self._file.seek(0)
                stage_files.write_bytes(self._session, self._file, self._location)


def _detect_languages(rows: Iterable[dict[str, Any]]) -> None:
    from customer_insights.language import detect

    rows = list(rows)
    for row, (code, confidence) in zip(rows, detect([row["REVIEW_TEXT"] for row in rows]), strict=True):
        row["LANGUAGE"], row["LANGUAGE_CONFIDENCE"] = code, confidence


# -- publishing, in the warehouse ------------------------------------------------------------------------------------


def _write_files(session: Session, files: Sequence[StageFile], location: str) -> None:
    import pandas as pd

    values = [(file.name, file.size, file.md5, file.arrival_date, file.modified) for file in files]
    stage_files.write_parquet(session, pd.DataFrame(values, columns=list(STAGED_FILES.column_names)), location)


def _publish(session: Session, prefix: str, written: Sequence[Written], expected_files: int, run_id: str) -> None:
    """Make the run's rows part of the tables, in one transaction."""
    with ExitStack() as stack:
        reviews, rejects, files = (
            stack.enter_context(publish.staged(session, table, f"{prefix}/{folder}", unique=False))
            for table, folder in ((STAGED_REVIEWS, "accepted"), (STAGED_REJECTS, "rejected"), (STAGED_FILES, "files"))
        )
        _require(session, reviews, sum(task.accepted for task in written))
        _require(session, rejects, sum(task.rejected for task in written))
        # Without its files the run would publish nothing, and say that it went well.
        _require(session, files, expected_files)
        fresh = stack.enter_context(publish.temporary(session, f"SELECT * FROM {files} WHERE FALSE"))
        decided = stack.enter_context(publish.temporary(session, f"{_decision(reviews, files)} WHERE FALSE"))
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

        def work() -> None:
            _run(session, f"INSERT INTO {fresh} {_not_in_ledger(files)}")
            _run(session, f"INSERT INTO {decided} {_decision(reviews, fresh)}")
            _run(session, _insert_rejects(rejects, fresh, decided), now, run_id)
            _run(session, _merge_reviews(decided), now, run_id)
            _run(session, _insert_ledger(fresh, decided, rejects), now, run_id)

        publish.transaction(session, RAW_REVIEWS, work)


def _run(session: Session, sql: str, *binds: object) -> None:
    query.rows(session, sql, binds)


def _require(session: Session, staging: str, expected: int) -> None:
    found = int(query.value(session, f"SELECT COUNT(*) FROM {staging}"))
    if found != expected:
        raise RetryableError(
            f"the tasks wrote {expected} rows and {found} were loaded: another attempt of this run removed or added "
            "files meanwhile; nothing was published"
        )


_SAME_FILE = " AND ".join(f"a.{name} = b.{name}" for name in ("SOURCE_FILE", "FILE_MD5"))


def _not_in_ledger(files: str) -> str:
    same = " AND ".join(f"a.{name} = b.{name}" for name in INGESTED_FILES.key)
    return f"SELECT a.* FROM {files} AS a LEFT JOIN {INGESTED_FILES.name} AS b ON {same} WHERE b.SOURCE_FILE IS NULL"


def _decision(reviews: str, fresh: str) -> str:
    """Staged reviews of fresh files, each with the row that has its UUID: itself when it is accepted."""
    columns = ", ".join(f"a.{name}" for name in STAGED_REVIEWS.column_names)
    elsewhere = "t.SOURCE_FILE <> a.SOURCE_FILE"
    window = (
        "OVER (PARTITION BY a.UUID\n"
        "    ORDER BY IFF(t.SOURCE_FILE = a.SOURCE_FILE, 0, 1), a.ARRIVED_AT, a.SOURCE_FILE, a.SOURCE_LINE)"
    )
    return (
        f"SELECT {columns},\n"
        f"  IFF({elsewhere}, FALSE, ROW_NUMBER() {window} = 1) AS ACCEPTED,\n"
        f"  IFF({elsewhere}, t.SOURCE_FILE, FIRST_VALUE(a.SOURCE_FILE) {window}) AS FIRST_FILE,\n"
        f"  IFF({elsewhere}, t.SOURCE_LINE, FIRST_VALUE(a.SOURCE_LINE) {window}) AS FIRST_LINE\n"
        f"FROM {reviews} AS a JOIN {fresh} AS b ON {_SAME_FILE}\n"
        f"LEFT JOIN {RAW_REVIEWS.name} AS t ON t.UUID = a.UUID"
    )


def _insert_rejects(rejects: str, fresh: str, decided: str) -> str:
    names = ", ".join(STAGED_REJECTS.column_names)
    staged = ", ".join(f"a.{name}" for name in STAGED_REJECTS.column_names)
    duplicate = {
        "REASON": "'duplicate UUID: first seen in ' || a.FIRST_FILE || ' line ' || a.FIRST_LINE",
        "EXCERPT": "LEFT(a.UUID || ', ' || a.REVIEW_TEXT, 500)",
    }
    duplicates = ", ".join(f"{duplicate.get(name, f'a.{name}')} AS {name}" for name in STAGED_REJECTS.column_names)
    return (
        f"INSERT INTO {REJECTED_REVIEWS.name} ({names}, REJECTED_AT, RUN_ID)\n"
        f"SELECT {names}, CAST(? AS TIMESTAMP_NTZ), ? FROM (\n"
        f"  SELECT {staged} FROM {rejects} AS a JOIN {fresh} AS b ON {_SAME_FILE}\n"
        f"  UNION ALL SELECT {duplicates} FROM {decided} AS a WHERE NOT a.ACCEPTED\n) AS r"
    )


def _merge_reviews(decided: str) -> str:
    names = [name for name in RAW_REVIEWS.column_names if name not in _WRITTEN_LATER]
    every = (*names, "INGESTED_AT", "RUN_ID")
    updates = ", ".join(f"t.{name} = s.{name}" for name in every if name not in RAW_REVIEWS.key)
    return (
        f"MERGE INTO {RAW_REVIEWS.name} AS t USING (\n"
        f"  SELECT {', '.join(names)}, CAST(? AS TIMESTAMP_NTZ) AS INGESTED_AT, ? AS RUN_ID\n"
        f"  FROM {decided} WHERE ACCEPTED\n"
        f") AS s ON t.UUID = s.UUID\nWHEN MATCHED THEN UPDATE SET {updates}\n"
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(every)}) VALUES ({', '.join(f's.{name}' for name in every)})"
    )


def _insert_ledger(fresh: str, decided: str, rejects: str) -> str:
    names = ", ".join(STAGED_FILES.column_names)
    return (
        f"INSERT INTO {INGESTED_FILES.name} ({names}, ROWS_ACCEPTED, ROWS_REJECTED, INGESTED_AT, RUN_ID)\n"
        f"SELECT {', '.join(f'f.{name}' for name in STAGED_FILES.column_names)}, COALESCE(d.ACCEPTED, 0),\n"
        "  COALESCE(d.DUPLICATE, 0) + COALESCE(r.REJECTED, 0), CAST(? AS TIMESTAMP_NTZ), ?\n"
        f"FROM {fresh} AS f\n"
        "LEFT JOIN (SELECT SOURCE_FILE, COUNT_IF(ACCEPTED) AS ACCEPTED, COUNT_IF(NOT ACCEPTED) AS DUPLICATE\n"
        f"  FROM {decided} GROUP BY SOURCE_FILE) AS d ON d.SOURCE_FILE = f.SOURCE_FILE\n"
        f"LEFT JOIN (SELECT SOURCE_FILE, COUNT(*) AS REJECTED FROM {rejects} GROUP BY SOURCE_FILE) AS r\n"
        "  ON r.SOURCE_FILE = f.SOURCE_FILE"
    )


# -- the report ------------------------------------------------------------------------------------------------------


def _report(session: Session, run_id: str, tasks: int, seconds: float) -> IngestReport:
    """What the run has in the tables, whichever of its attempts wrote it."""
    totals = query.row(
        session,
        "SELECT COUNT(*) AS FILES, COALESCE(SUM(FILE_SIZE), 0) AS BYTES, COALESCE(SUM(ROWS_ACCEPTED), 0) AS ACCEPTED,\n"
        f"  COALESCE(SUM(ROWS_REJECTED), 0) AS REJECTED FROM {INGESTED_FILES.name} WHERE RUN_ID = ?",
        [run_id],
    )
    reasons: dict[str, int] = {}
    for reason, count in _counts(session, REJECTED_REVIEWS, "REASON", run_id).items():
        kind = reason_kind(reason)
        reasons[kind] = reasons.get(kind, 0) + count
    accepted, rejected = int(totals["ACCEPTED"]), int(totals["REJECTED"])
    return IngestReport(
        files=int(totals["FILES"]),
        rows_in=accepted + rejected,
        rows_accepted=accepted,
        rows_rejected=rejected,
        rejects_by_reason=dict(sorted(reasons.items(), key=lambda item: -item[1])),
        languages=_counts(session, RAW_REVIEWS, "LANGUAGE", run_id),
        accepted_by_day=_counts(session, RAW_REVIEWS, "ARRIVAL_DATE", run_id),
        bytes=int(totals["BYTES"]),
        tasks=tasks,
        seconds=seconds,
    )


def _counts(session: Session, table: Table, column: str, run_id: str) -> dict[str, int]:
    rows = query.rows(
        session,
        f"SELECT {column} AS K, COUNT(*) AS N FROM {table.name} WHERE RUN_ID = ? GROUP BY {column} ORDER BY N DESC, K",
        [run_id],
    )
    return {str(row["K"]): int(row["N"]) for row in rows}


def reason_kind(reason: str) -> str:
    """A reason without its details: of ``a review of 1200 characters: expected ...``, ``a review of N characters``."""
    return re.sub(r"(?<!\S)\d+", "N", reason.split(":", 1)[0])
