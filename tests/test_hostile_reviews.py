"""Hostile files on a real stage, read on a real Ray: each ends as rows or as rejects with line and reason, once."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hostile_reviews
import pytest
from hostile_reviews import END, START, Ended, corpus
from snowflake.connector.errors import Error

from customer_insights import ingest, query, stage_files
from customer_insights.reviews import Limits, Reject, read_reviews
from customer_insights.settings import Settings
from customer_insights.tables import INGESTED_FILES, RAW_REVIEWS, REJECTED_REVIEWS

pytestmark = pytest.mark.slow

# In CI; `python -m tests.hostile_reviews --empty-files 100000` has them all.
EMPTY_FILES = 10_000


@dataclass(frozen=True)
class Run:
    """The corpus after its ingest."""

    session: Any
    settings: Settings
    report: ingest.IngestReport
    ended: dict[str, Ended]


@pytest.fixture(scope="module")
def run(embedded) -> Iterator[Run]:
    settings = Settings(schema_name="HOSTILE_REVIEWS")
    session = embedded.session()
    hostile_reviews.create_schema(session, settings)
    for file in corpus():
        hostile_reviews.put(session, settings, file, embedded.home)
    hostile_reviews.add_empty_files(settings, embedded.home, EMPTY_FILES)
    with hostile_reviews.ray_node(embedded.home):
        report = ingest.ingest(session, settings, START, END, "first")
        yield Run(session, settings, report, hostile_reviews.ended(session))


def test_every_hostile_file_ends_as_the_rows_and_rejects_that_it_holds(run: Run):
    assert len(corpus()) >= 60
    wrong = {
        file.name: (file, run.ended.get(file.name))
        for file in corpus()
        if file.name not in run.ended
        or (run.ended[file.name].rows, run.ended[file.name].rejects) != (file.rows, file.rejects)
    }
    assert wrong == {}


def test_every_reject_says_what_was_wrong(run: Run):
    for file in corpus():
        reasons = run.ended[file.name].reasons
        assert all(any(part in reason for part in file.reasons) for reason in reasons), (file.name, reasons)
        assert bool(reasons) == bool(file.rejects)


def test_the_ledger_has_every_file_once_with_its_counts(run: Run):
    names = {file.name for file in corpus()} | {f"empty/{number:06d}.txt" for number in range(EMPTY_FILES)}
    assert run.ended.keys() == names
    for name, end in run.ended.items():
        assert end.in_ledger == 1, name
        assert (end.ledger_rows, end.ledger_rejects) == (end.rows, end.rejects), name
        assert end.rows + end.rejects > 0, name


def test_the_tables_hold_what_the_files_hold_and_no_more(run: Run):
    rows, rejects = sum(file.rows for file in corpus()), sum(file.rejects for file in corpus()) + EMPTY_FILES
    counts = [query.value(run.session, f"SELECT COUNT(*) FROM {t.name}") for t in (RAW_REVIEWS, REJECTED_REVIEWS)]
    assert counts == [rows, rejects]
    assert query.value(run.session, f"SELECT COUNT(DISTINCT UUID) FROM {RAW_REVIEWS.name}") == rows
    assert (run.report.rows_accepted, run.report.rows_rejected) == (rows, rejects)
    assert len(run.report.rejects_by_reason) < 60


def test_texts_come_out_of_the_table_as_they_went_in(run: Run):
    kept = {row["UUID"]: row["REVIEW_TEXT"] for row in query.rows(run.session, "SELECT * FROM RAW_REVIEWS")}
    written = [
        record
        for file in corpus()
        for record in (read_reviews(file.name, file.content) if file.rows and len(file.content) < 1 << 20 else ())
        if not isinstance(record, Reject)
    ]
    assert len(written) > 20_000
    # Of a UUID that comes twice the first row stays.
    first = {record.uuid: record.text for record in reversed(written)}
    assert {uuid: kept[uuid] for uuid in first} == first


def test_ingesting_again_changes_nothing(run: Run):
    tables = (RAW_REVIEWS, REJECTED_REVIEWS, INGESTED_FILES)
    count = "SELECT " + ", ".join(f"(SELECT COUNT(*) FROM {t.name})" for t in tables)
    before = query.row(run.session, count)
    again = ingest.ingest(run.session, run.settings, START, END, "again")
    assert (again.files, again.tasks) == (0, 0)
    assert query.row(run.session, count) == before
    assert stage_files.list_files(run.session, f"@{run.settings.work_stage}") == []


@pytest.mark.parametrize("name", hostile_reviews.TRAVERSALS)
def test_a_name_that_leaves_the_stage_is_refused_when_it_is_put(run: Run, name: str):
    from snowflake.snowpark.exceptions import SnowparkSQLException

    before = stage_files.list_files(run.session, f"@{run.settings.review_stage}")
    with pytest.raises((SnowparkSQLException, Error), match="leaves the stage"):
        hostile_reviews.put(run.session, run.settings, hostile_reviews.text(name, "x,y\n", 1, 0))
    assert stage_files.list_files(run.session, f"@{run.settings.review_stage}") == before


BOMBS = [file for file in corpus() if "bomb" in file.name or "dictionary" in file.name or "kilobyte" in file.name]


@pytest.mark.parametrize("file", BOMBS, ids=[file.name for file in BOMBS])
def test_what_unpacks_to_a_gigabyte_takes_little_memory(file: hostile_reviews.HostileFile):
    assert len(BOMBS) >= 7
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in read_reviews(file.name, file.content, Limits()):
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
