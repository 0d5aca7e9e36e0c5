"""Ingest: what arrived on the stage is in the tables once, whatever happens. On a Ray node of one CPU."""

from __future__ import annotations

import gzip
import io
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from customer_insights import ingest, publish, query, stage_files
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.settings import Settings
from customer_insights.stage_files import StageFile
from customer_insights.tables import RAW_REVIEWS, REVIEW_QUALITY, TABLES

ROOT = Path(__file__).resolve().parent.parent
START, END = "2020-01-01", "2099-12-31"


@pytest.fixture(scope="module")
def ray_node(embedded) -> Iterator[None]:
    """A Ray node with one CPU whose workers find the embedded server as those of a job do: by their environment."""
    import ray

    connection = tomllib.loads((embedded.home / "connections.toml").read_text())["embedded"]
    names = ("account", "user", "password", "host", "port", "protocol", "database", "schema", "warehouse")
    environment = {f"SNOWFLAKE_{name.upper()}": str(connection[name]) for name in names}
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        runtime_env={"env_vars": {**environment, "PYTHONPATH": str(ROOT)}},
    )
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Place:
    """A schema of its own with the stages and tables, and what a test does there."""

    settings: Settings
    connect: Callable

    def session(self):
        session = self.connect()
        session.use_schema(self.settings.qualified_schema)
        return session

    def put(self, **files: str | bytes) -> None:
        """Put files on the review stage; ``a__txt`` is a.txt."""
        session = self.session()
        for name, content in files.items():
            stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
            location = f"@{self.settings.review_stage}/{name.replace('__', '.')}"
            session.file.put_stream(stream, location, auto_compress=False, overwrite=True)

    def ingest(self, run_id: str = "run") -> ingest.IngestReport:
        return ingest.ingest(self.session(), self.settings, START, END, run_id)

    def rows(self, sql: str) -> list[tuple]:
        return [tuple(row.values()) for row in query.rows(self.session(), sql)]

    def texts(self) -> list[tuple]:
        return self.rows("SELECT UUID, REVIEW_TEXT, SOURCE_FILE, SOURCE_LINE FROM RAW_REVIEWS ORDER BY UUID")

    def rejects(self) -> list[tuple]:
        return self.rows("SELECT SOURCE_FILE, SOURCE_LINE, REASON FROM REJECTED_REVIEWS ORDER BY 1, 2, 3")

    def left_behind(self) -> list[StageFile]:
        return stage_files.list_files(self.session(), f"@{self.settings.work_stage}")


@pytest.fixture
def place(embedded, ray_node, request) -> Place:
    schema = f"INGEST_{abs(hash(request.node.name)) % 10**9}"
    settings = Settings(schema_name=schema)
    session = embedded.session()
    session.sql(f"CREATE OR REPLACE SCHEMA {settings.qualified_schema}").collect()
    session.use_schema(settings.qualified_schema)
    for stage in (settings.review_stage, settings.work_stage):
        session.sql(f"CREATE OR REPLACE STAGE {stage} ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')").collect()
    for table in TABLES:
        session.sql(table.create_ddl()).collect()
    return Place(settings, embedded.session)


def test_reviews_of_every_format_become_rows_and_bad_ones_rejects(place):
    place.put(
        en__txt='"u1","The chair is comfortable and arrived on time."\nnonsense\n"u2","caf\u00e9"',
        de__csv__gz=gzip.compress(b"uuid,review_text\nu3,Die Lampe ist leider nach zwei Tagen kaputt gegangen."),
        broken__txt=b'"u4","caf\xe9"',
        empty__jsonl=b"",
        notes__docx=b"x",
    )
    report = place.ingest()
    assert [row[:2] for row in place.texts()] == [
        ("u1", "The chair is comfortable and arrived on time."),
        ("u2", "caf\u00e9"),
        ("u3", "Die Lampe ist leider nach zwei Tagen kaputt gegangen."),
    ]
    assert [(file, line, reason.split(":")[0]) for file, line, reason in place.rejects()] == [
        ("broken.txt", 1, "not UTF-8"),
        ("empty.jsonl", 0, "the file has zero bytes"),
        ("en.txt", 2, "no delimiter"),
        ("notes.docx", 0, "unknown extension"),
    ]
    assert (report.files, report.rows_in, report.rows_accepted, report.rows_rejected) == (5, 7, 3, 4)
    kinds = ("no delimiter", "not UTF-8", "the file has zero bytes", "unknown extension")
    assert report.rejects_by_reason == dict.fromkeys(kinds, 1)
    assert sum(report.languages.values()) == 3
    assert place.rows("SELECT LANGUAGE FROM RAW_REVIEWS WHERE UUID IN ('u1', 'u3') ORDER BY UUID") == [("en",), ("de",)]
    assert report.accepted_by_day == {datetime.now(UTC).date().isoformat(): 3}
    assert place.left_behind() == []


def test_a_file_seen_twice_is_ingested_once(place):
    place.put(a__txt='"u1","good"')
    place.ingest("first")
    assert ingest.pending_files(place.session(), place.settings, START, END) == []
    place.put(a__txt='"u1","good"')
    report = place.ingest("second")
    assert (report.files, report.tasks) == (0, 0)
    assert place.rows("SELECT RUN_ID FROM RAW_REVIEWS") == [("first",)]


def test_the_ledger_knows_when_each_file_arrived(place):
    place.put(a__txt='"u1","good chair"', b__txt='"u2","bad chair"')
    arrived = {file.name: file.modified for file in stage_files.list_files(place.session(), "@REVIEWS")}
    place.ingest()
    assert dict(place.rows("SELECT SOURCE_FILE, FILE_ARRIVED_AT FROM INGESTED_FILES")) == arrived


def test_a_uuid_in_one_file_twice_or_in_two_files_keeps_its_first_row(place):
    place.put(a__csv="u1,first\nu2,two\nu1,again\n", b__csv="u2,elsewhere\nu3,three\n")
    report = place.ingest()
    assert place.texts() == [("u1", "first", "a.csv", 1), ("u2", "two", "a.csv", 2), ("u3", "three", "b.csv", 2)]
    assert place.rejects() == [
        ("a.csv", 3, "duplicate UUID: first seen in a.csv line 1"),
        ("b.csv", 1, "duplicate UUID: first seen in a.csv line 2"),
    ]
    assert (report.rows_in, report.rows_accepted, report.rejects_by_reason) == (5, 3, {"duplicate UUID": 2})


def test_a_uuid_that_an_earlier_run_wrote_is_rejected_in_another_file(place):
    place.put(b__csv="u1,first\n")
    place.ingest("first")
    place.put(a__csv="u1,second\nu2,new\n")
    place.ingest("second")
    assert place.texts() == [("u1", "first", "b.csv", 1), ("u2", "new", "a.csv", 2)]
    assert place.rejects() == [("a.csv", 1, "duplicate UUID: first seen in b.csv line 1")]


def test_a_file_that_was_replaced_updates_its_own_rows(place):
    place.put(b__csv="u1,old\nu2,stays\n")
    place.ingest("first")
    place.put(a__csv="u1,a thief\n", b__csv="u0,more\nu1,new\n")
    report = place.ingest("second")
    assert place.texts() == [("u0", "more", "b.csv", 1), ("u1", "new", "b.csv", 2), ("u2", "stays", "b.csv", 2)]
    assert place.rejects() == [("a.csv", 1, "duplicate UUID: first seen in b.csv line 1")]
    assert (report.files, report.rows_accepted, report.rows_rejected) == (2, 2, 1)


def test_two_runs_at_once_write_every_row_once(place):
    place.put(**{f"f{n}__csv": f"shared,text of {n}\nu{n},own\n" for n in range(12)})
    reports: dict[str, ingest.IngestReport] = {}
    runs = [
        threading.Thread(target=lambda name=name: reports.update({name: place.ingest(name)})) for name in ("one", "two")
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert place.rows("SELECT COUNT(*), COUNT(DISTINCT UUID) FROM RAW_REVIEWS") == [(13, 13)]
    assert place.rows("SELECT COUNT(*), COUNT(DISTINCT SOURCE_FILE) FROM INGESTED_FILES") == [(12, 12)]
    assert len(place.rejects()) == 11
    assert sorted(report.files for report in reports.values()) == [0, 12]
    assert place.left_behind() == []


def test_a_run_that_fails_before_its_commit_writes_nothing_and_the_next_writes_all(place, monkeypatch):
    place.put(a__csv="u1,good\nbad\n")

    def die(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_insert_ledger", die)
        with pytest.raises(KeyboardInterrupt):
            place.ingest("killed")
    assert place.texts() == []
    assert place.rejects() == []
    assert place.left_behind() == []
    place.ingest("next")
    assert (len(place.texts()), len(place.rejects())) == (1, 1)


def test_files_that_a_killed_attempt_left_are_removed_by_the_next(place):
    place.put(a__csv="u1,good\n")
    stage_files.write_bytes(
        place.session(), io.BytesIO(b"x"), f"@{place.settings.work_stage}/run/reviews/old/a.parquet"
    )
    place.ingest("run")
    assert place.texts() == [("u1", "good", "a.csv", 1)]
    assert place.left_behind() == []


@pytest.mark.parametrize("folder", ["accepted", "files"])
def test_rows_that_were_written_and_not_loaded_stop_the_run(place, monkeypatch, folder):
    """Another attempt of the same run may remove the files of this one; the ledger must not say that they were read."""
    place.put(a__csv="u1,good\n", b__csv="u2,good\n")
    load = publish.copy

    def lose_files_first(session, table_name: str, prefix: str) -> None:
        if prefix.endswith(folder):
            stage_files.remove(session, prefix)
        load(session, table_name, prefix)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "copy", lose_files_first)
        with pytest.raises(RetryableError, match="2 rows and 0 were loaded"):
            place.ingest()
    assert place.rows("SELECT COUNT(*) FROM INGESTED_FILES") == [(0,)]
    assert place.ingest().rows_accepted == 2


def test_only_files_of_the_window_are_read(place):
    place.put(a__csv="u1,good\n")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    report = ingest.ingest(place.session(), place.settings, tomorrow, tomorrow, "run")
    assert (report.files, place.texts()) == (0, [])


def test_an_empty_stage_is_a_report_of_zeros(place):
    report = place.ingest()
    assert (report.files, report.rows_in, report.rows_accepted, report.rows_rejected, report.bytes) == (0, 0, 0, 0, 0)


def test_a_missing_stage_is_named_with_the_command_that_creates_it(place):
    settings = Settings(schema_name=place.settings.schema_name, review_stage="NOWHERE")
    with pytest.raises(PermanentError, match=r"NOWHERE does not exist.*customer-insights deploy"):
        ingest.pending_files(place.session(), settings, START, END)


def test_file_names_with_blanks_markup_and_other_scripts_are_read(place):
    names = ["a file; DROP TABLE x --.txt", "ключ & <b>.txt"]
    for number, name in enumerate(names):
        with io.BytesIO(f'"u{number}","good"'.encode()) as stream:
            location = f"@{place.settings.review_stage}/{name}"
            place.session().file.put_stream(stream, location, auto_compress=False)
    place.ingest()
    assert [row[2] for row in place.texts()] == names


def test_many_small_files_share_few_tasks(place):
    files = [StageFile(f"{n}.txt", 50, "m", datetime(2026, 1, 1)) for n in range(100_000)]
    groups = list(ingest.grouped(files, 4))
    assert [file for group in groups for file in group] == files
    assert len(groups) == 100_000 / ingest.TASK_FILES
    large = [StageFile("large.txt", 10 * ingest.TASK_BYTES, "m", datetime(2026, 1, 1))]
    assert list(ingest.grouped(files[:3] + large, 1)) == [files[:3], large]
    assert len(list(ingest.grouped(files[:8], 4))) == 4


def test_a_5_mb_review_is_a_reject_with_its_length(place):
    place.put(a__txt='"u1","' + "x" * 5_000_000 + '"\n"u2","good"')
    place.ingest()
    assert [row[0] for row in place.texts()] == ["u2"]
    assert "5000" in place.rejects()[0][2]


# -- publishing, which the scoring jobs share -------------------------------------------------------------------------


def quality_rows(**labels: str):
    import pandas as pd

    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        (uuid, "hash", label, 0.5, "{}", 0.5, "b", "m", "r", now.date(), now, "run") for uuid, label in labels.items()
    ]
    return pd.DataFrame(rows, columns=list(REVIEW_QUALITY.column_names))


def test_merging_a_prefix_inserts_updates_and_keeps_one_row_a_key(place):
    session, prefix = place.session(), f"@{place.settings.work_stage}/r1/quality"
    stage_files.write_parquet(session, quality_rows(u1="a", u2="a"), f"{prefix}/0.parquet")
    stage_files.write_parquet(session, quality_rows(u2="a"), f"{prefix}/1.parquet")
    assert publish.merge(session, REVIEW_QUALITY, prefix) == publish.Published(2, 0)
    assert publish.merge(session, REVIEW_QUALITY, prefix) == publish.Published(0, 2)
    stage_files.write_parquet(session, quality_rows(u2="b", u3="c"), f"@{place.settings.work_stage}/r2/0.parquet")
    assert publish.merge(session, REVIEW_QUALITY, f"@{place.settings.work_stage}/r2") == publish.Published(1, 1)
    labels = place.rows("SELECT UUID, REVIEW_QUALITY FROM REVIEW_QUALITY ORDER BY 1")
    assert labels == [("u1", "a"), ("u2", "b"), ("u3", "c")]


def test_a_query_is_unloaded_and_read_back(place):
    place.put(a__csv="u1,good\nu2,better\n")
    place.ingest()
    session, prefix = place.session(), f"@{place.settings.work_stage}/r1/pending"
    publish.unload(session, f"SELECT UUID, REVIEW_TEXT FROM {RAW_REVIEWS.name} WHERE UUID = ?", prefix, ["u2"])
    frames = [stage_files.read_parquet(session, file) for file in stage_files.list_names(session, prefix)]
    assert [frame.to_dict("records") for frame in frames] == [[{"UUID": "u2", "REVIEW_TEXT": "better"}]]


def test_an_empty_prefix_publishes_nothing(place):
    prefix = f"@{place.settings.work_stage}/nothing/here"
    assert publish.merge(place.session(), REVIEW_QUALITY, prefix) == publish.Published(0, 0)


def test_two_publications_at_once_leave_one_row_a_key(place):
    prefix = f"@{place.settings.work_stage}/r1/quality"
    stage_files.write_parquet(place.session(), quality_rows(u1="a", u2="a"), f"{prefix}/0.parquet")
    published: list[publish.Published] = []
    sessions = [place.session() for _ in range(3)]
    runs = [
        threading.Thread(target=lambda s=session: published.append(publish.merge(s, REVIEW_QUALITY, prefix)))
        for session in sessions
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sum(one.inserted for one in published) == 2
    assert place.rows("SELECT COUNT(*), COUNT(DISTINCT UUID) FROM REVIEW_QUALITY") == [(2, 2)]


@pytest.mark.parametrize("location", ["@S/../x", "@S/a b", "@S/a'; DROP TABLE x", "S/a", "@S/.a"])
def test_a_location_that_is_not_plain_is_refused(location):
    with pytest.raises(ValueError, match="no plain stage location"):
        stage_files.remove(None, location)  # type: ignore[arg-type]


def test_removing_a_whole_stage_is_refused():
    with pytest.raises(ValueError, match="a whole stage"):
        stage_files.remove(None, "@WORK_STAGE/")  # type: ignore[arg-type]
