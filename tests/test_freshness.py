"""What is expected of the newest day: the usual time of arrival, the deadlines, and what a backfill cannot hide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from conftest import Embedded, Graph
from pydantic import ValidationError

import definitions
from assets import freshness
from customer_insights import arrivals, deployment
from customer_insights.arrivals import Arrival, Level
from customer_insights.settings import Settings, settings
from resources.snowflake import SnowflakeConnection

DEADLINE = time(7)
UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
# A Monday.
START = date(2026, 2, 2)


def working_days(days: int, hour: int = 2, minute: int = 30, zone: ZoneInfo | None = None) -> list[Arrival]:
    """Files once a day, on the working days of so many days."""
    found = [START + timedelta(days=number) for number in range(days)]
    at = time(hour, minute, tzinfo=zone or UTC)
    return [Arrival(day, datetime.combine(day, at)) for day in found if day.weekday() < 5]


def utc(day: date, hour: int = 0, minute: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute), UTC)


def look(history: list[Arrival], now: datetime, zone: ZoneInfo = UTC_ZONE) -> arrivals.Expectation:
    return arrivals.expected(history, now, DEADLINE, zone)


def judge(history: list[Arrival], now: datetime) -> arrivals.Judgement:
    """How RAW_REVIEWS stands when everything that arrived was read."""
    known = [one for one in history if one.first and one.first <= now]
    nothing = dict.fromkeys((table.name for table in arrivals.TABLES), ())
    newest = dict.fromkeys(nothing, known[-1].day if known else None)
    found = arrivals.Found(tuple(history), nothing, newest)
    return arrivals.judged(found, look(history, now), now, Settings())["RAW_REVIEWS"]


def test_the_usual_time_is_learnt_and_a_late_day_is_warned_of_before_its_deadline():
    history = working_days(30)
    tuesday = START + timedelta(days=29)
    history.remove(Arrival(tuesday, utc(tuesday, 2, 30)))
    assert judge(history, utc(tuesday, 2, 45)).level is Level.PASSED
    late = judge(history, utc(tuesday, 3, 15))
    assert late.level is Level.WARN
    assert "usually they are there by 02:30. Overdue from 2026-03-04 07:00" in late.reason
    over = judge(history, utc(tuesday + timedelta(days=1), 9))
    assert over.level is Level.ERROR
    assert over.overdue == timedelta(hours=2)
    came = [*history, Arrival(tuesday, utc(tuesday, 14))]
    assert judge(came, utc(tuesday, 14, 1)).level is Level.PASSED


def test_nobody_waits_for_files_at_weekends_once_three_have_passed_without():
    history = working_days(26)
    friday = history[-1].day
    assert friday.weekday() == 4
    for hours in range(24, 24 * 3 + 2):
        assert judge(history, utc(friday) + timedelta(hours=hours)).level is Level.PASSED, hours
    assert look(history, utc(friday) + timedelta(days=2)).day == friday + timedelta(days=3)
    assert judge(history, utc(friday + timedelta(days=3), 3, 30)).level is Level.WARN


def test_an_outage_does_not_become_what_is_usual():
    history = working_days(30)
    newest = history[-1].day
    after_months = judge(history, utc(newest + timedelta(days=100), 8))
    assert after_months.level is Level.ERROR
    awaited = look(history, utc(newest + timedelta(days=100)))
    assert awaited.day == newest + timedelta(days=1)
    assert awaited.usual == utc(awaited.day, 2, 30)


def test_two_late_days_do_not_move_the_usual_time():
    history = working_days(30)
    spoilt = [replace(one, first=one.first + timedelta(hours=9)) if n in (7, 8) and one.first else one
              for n, one in enumerate(history)]  # fmt: skip
    now = utc(history[-1].day + timedelta(days=1), 1)
    assert look(spoilt, now).late == look(history, now).late


def test_with_little_history_the_deadline_alone_counts():
    history = working_days(3)
    awaited = look(history, utc(START + timedelta(days=3), 23))
    assert awaited.usual is awaited.late is None
    assert judge(history, utc(START + timedelta(days=3), 23)).level is Level.PASSED
    assert judge(history, utc(START + timedelta(days=4), 7)).level is Level.ERROR


def test_a_day_that_stayed_empty_is_said_also_when_the_next_one_brings_files():
    history = working_days(30)
    empty = history[-2].day
    del history[-2]
    found = judge(history, utc(history[-1].day, 8))
    assert found.level is Level.WARN
    assert f"no files arrived on {empty}" in found.reason
    assert judge(history, utc(history[-1].day + timedelta(days=1))).level is Level.PASSED


def test_times_are_learnt_by_the_clock_on_the_wall_so_summer_time_makes_nobody_late():
    history = working_days(54, 4, 0, BERLIN)
    sunday = date(2026, 3, 29)
    assert history[-1].day == sunday - timedelta(days=2)
    monday = look(history, utc(sunday, 12), BERLIN)
    assert monday.usual == datetime(2026, 3, 30, 2, 0, tzinfo=UTC)
    assert monday.deadline == datetime(2026, 3, 31, 5, 0, tzinfo=UTC)


@pytest.mark.parametrize(("zone", "hour"), [("UTC", 7), ("Asia/Tokyo", 22), ("America/Los_Angeles", 15)])
def test_a_day_is_due_at_the_first_deadline_after_it_is_over_in_utc(zone: str, hour: int):
    due = arrivals.deadline_of(START, DEADLINE, ZoneInfo(zone))
    assert due == utc(START + timedelta(days=1), hour)


def test_every_asset_that_is_made_has_its_policy_from_the_settings():
    policies = {spec.key.to_user_string(): spec.freshness_policy for spec in definitions.defs.resolve_all_asset_specs()}
    assert policies.pop("staged_reviews") is policies.pop("tabular_data") is None
    crons = {name: getattr(policy, "deadline_cron", None) for name, policy in policies.items()}
    assert {name for name, cron in crons.items() if cron == "0 7 * * *"} == freshness.REVIEWS
    assert {name for name, cron in crons.items() if cron is None} == freshness.MODEL | freshness.COSTS
    assert {cron for name, cron in crons.items() if name not in freshness.REVIEWS and cron} == {"0 8 * * *"}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("timezone", "Europe/Berln", "Europe/Berlin"),
        ("reviews_deadline", "08:30", "must be later"),
        ("reviews_deadline", "07:00:30", "HH:MM"),
        ("model_warn_days", "9", "must be less"),
        ("freshness_minutes", "7", "5, 10, 15, 20 or 30"),
        ("costs_hours", "5", "1, 2, 3, 4, 6, 8 or 12"),
        ("dagster_url", "dagster.example.com", "https://dagster.example.com"),
    ],
)
def test_a_wrong_setting_is_refused_and_says_what_was_expected(setting: str, value: str, said: str):
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate({setting: value})


# -- on tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deployed(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """The tables in a database of this module; the settings name it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUSTOMER_INSIGHTS_DATABASE", "DB_FRESHNESS")
        settings.cache_clear()
        deployment.deploy(embedded.session(), settings())
        yield Graph(embedded, tmp_path_factory.mktemp("dagster"), 0, "DB_FRESHNESS")
    settings.cache_clear()


@pytest.fixture
def tables(deployed: Graph) -> Iterator[Graph]:
    """The tables, empty again after the test."""
    yield deployed
    session = deployed.session()
    for name in ("RAW_REVIEWS", "INGESTED_FILES", "REVIEW_SENTIMENT", "REVIEW_QUALITY", "TABULAR_DATA",
                 "PURCHASE_FEATURES", "PURCHASE_PROPENSITY", "PURCHASE_RATES"):  # fmt: skip
        session.sql(f"DELETE FROM {name}").collect()
    session.sql("REMOVE @REVIEWS").collect()


def run_check(graph: Graph, as_of: datetime) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks of every table as a run of their job gives them."""
    snowflake = SnowflakeConnection(database=graph.database, schema_name="HOL_SCHEMA")
    with graph.instance as instance:
        result = (
            definitions.definitions({"snowflake": snowflake})
            .resolve_job_def("newest_days")
            .execute_in_process(instance=instance, tags={freshness.AS_OF: as_of.isoformat()})
        )
    return {one.asset_key.to_user_string(): one for one in result.get_asset_check_evaluations()}


def ask(graph: Graph, as_of: datetime) -> dict[str, dg.AssetCheckResult]:
    """What the check finds, without a run."""
    return freshness.results(as_of, SnowflakeConnection(database=graph.database, schema_name="HOL_SCHEMA"))


def read_day(graph: Graph, day: date, uuid: str) -> None:
    """One review of a day as ingest leaves it: its row, and its file in the ledger."""
    at = datetime.combine(day, time(2, 30)).isoformat(sep=" ")
    session = graph.session()
    session.sql(
        "INSERT INTO RAW_REVIEWS (UUID, REVIEW_TEXT, TEXT_HASH, LANGUAGE, LANGUAGE_CONFIDENCE, SOURCE_FILE, "
        f"SOURCE_LINE, ARRIVAL_DATE, INGESTED_AT, RUN_ID) SELECT '{uuid}', 'good', 'h', 'en', 1.0, '{uuid}.txt', 1, "
        f"'{day}'::DATE, '{at}'::TIMESTAMP_NTZ, 'run'"
    ).collect()
    session.sql(
        "INSERT INTO INGESTED_FILES (SOURCE_FILE, FILE_SIZE, FILE_MD5, ARRIVAL_DATE, FILE_ARRIVED_AT, ROWS_ACCEPTED, "
        f"ROWS_REJECTED, INGESTED_AT, RUN_ID) SELECT '{uuid}.txt', 1, 'm', '{day}'::DATE, '{at}'::TIMESTAMP_NTZ, 1, 0, "
        f"'{at}'::TIMESTAMP_NTZ, 'run'"
    ).collect()


def score(graph: Graph, day: date, uuid: str) -> None:
    at = datetime.combine(day, time(2, 40)).isoformat(sep=" ")
    session = graph.session()
    session.sql(
        "INSERT INTO REVIEW_SENTIMENT (UUID, TEXT_HASH, LANGUAGE, REVIEW_SENTIMENT, SENTIMENT_LABEL, UNANSWERED, "
        f"BACKEND, MODEL, REVISION, ARRIVAL_DATE, SCORED_AT, RUN_ID) SELECT '{uuid}', 'h', 'en', 1.0, 'positive', 0, "
        f"'b', 'm', 'r', '{day}'::DATE, '{at}'::TIMESTAMP_NTZ, 'run'"
    ).collect()
    session.sql(
        "INSERT INTO REVIEW_QUALITY (UUID, TEXT_HASH, REVIEW_QUALITY, QUALITY_PROBABILITY, QUALITY_PROBABILITIES, "
        f"QUALITY_SCORE, BACKEND, MODEL, REVISION, ARRIVAL_DATE, SCORED_AT, RUN_ID) SELECT '{uuid}', 'h', 'l', 1.0, "
        f"'{{}}', 1.0, 'b', 'm', 'r', '{day}'::DATE, '{at}'::TIMESTAMP_NTZ, 'run'"
    ).collect()


def test_backfilling_an_old_day_does_not_make_the_newest_one_fresh(tables: Graph):
    day = date(2026, 3, 10)
    read_day(tables, day, "a-1")
    score(tables, day, "a-1")
    fine = ask(tables, utc(day + timedelta(days=1), 6, 30))
    assert {one.passed for one in fine.values()} == {True}
    assert len(fine) == len(arrivals.TABLES)
    stale = run_check(tables, utc(day + timedelta(days=2), 7, 30))["raw_reviews"]
    assert not stale.passed
    assert stale.severity is dg.AssetCheckSeverity.ERROR
    read_day(tables, day - timedelta(days=30), "a-0")
    with tables.instance as instance:
        partition = (day - timedelta(days=30)).isoformat()
        instance.report_runless_asset_event(dg.AssetMaterialization("raw_reviews", partition=partition))
    still = ask(tables, utc(day + timedelta(days=2), 8))["raw_reviews"]
    assert not still.passed
    assert still.metadata["newest day"].value == day.isoformat()
    assert still.metadata["overdue by"].value == "1.0 hours"


def test_a_table_that_lacks_a_day_is_warned_of_then_overdue_and_what_comes_after_it_is_not_blamed(tables: Graph):
    day = date(2026, 3, 10)
    read_day(tables, day, "a-1")
    soon = ask(tables, utc(day, 3))
    assert {one.passed for one in soon.values()} == {True}
    assert soon["review_quality"].metadata["reviews waiting"].value == 1
    later = ask(tables, utc(day, 6))
    over = ask(tables, utc(day + timedelta(days=1), 7))
    for found, severity in ((later, dg.AssetCheckSeverity.WARN), (over, dg.AssetCheckSeverity.ERROR)):
        failed = {name: one.severity for name, one in found.items() if not one.passed}
        assert failed == {"review_sentiment": severity, "review_quality": severity}
    assert "1 reviews of 2026-03-10 are not in REVIEW_QUALITY" in (over["review_quality"].description or "")


def test_a_scored_review_with_a_visit_is_expected_among_the_features(tables: Graph):
    day = date(2026, 3, 10)
    read_day(tables, day, "a-1")
    score(tables, day, "a-1")
    session = tables.session()
    session.sql("INSERT INTO TABULAR_DATA VALUES ('a-1', 'Chair', 'grid', 1.0, 4, 1)").collect()
    found = ask(tables, utc(day + timedelta(days=1), 8))
    assert {name for name, one in found.items() if not one.passed} == {"purchase_features"}
    from customer_insights import features

    features.build(session)
    assert ask(tables, utc(day + timedelta(days=1), 8))["purchase_features"].passed


def visit(graph: Graph, uuid: str) -> None:
    graph.session().sql(f"INSERT INTO TABULAR_DATA VALUES ('{uuid}', 'Chair', 'grid', 1.0, 4, 1)").collect()


@pytest.mark.parametrize(
    ("made", "due"), [((0, 30), 1), ((7, 5), 2), ((12, 0), 2)], ids=["in the night", "in the morning", "at noon"]
)
def test_visits_that_came_after_the_features_were_made_have_a_day_to_be_in_them(
    tables: Graph, made: tuple[int, int], due: int
):
    day = date(2026, 3, 10)
    read_day(tables, day, "a-1")
    score(tables, day, "a-1")
    session, at = tables.session(), utc(day + timedelta(days=1), *made)
    session.sql(
        "INSERT INTO PURCHASE_RATES (DIMENSION, BUCKET, POSITION, VISITS, PURCHASES, COMPUTED_AT, RUN_ID) SELECT "
        f"'LANGUAGE', 'en', 1, 1, 1, '{at:%Y-%m-%d %H:%M:%S}'::TIMESTAMP_NTZ, 'run'"
    ).collect()
    visit(tables, "a-1")
    deadline = utc(day + timedelta(days=due), 8)
    for moment in (max(at + timedelta(hours=2, minutes=30), deadline - timedelta(days=1)), deadline):
        before = ask(tables, moment - timedelta(minutes=1))["purchase_features"]
        assert before.passed, before.description
        assert before.metadata["reviews waiting"].value == 1
    over = ask(tables, deadline)["purchase_features"]
    assert over.severity is dg.AssetCheckSeverity.ERROR
    assert not over.passed
    assert f"what they need came after it was made at {at:%Y-%m-%d %H:%M} UTC" in (over.description or "")
    from customer_insights import features

    features.build(session)
    assert ask(tables, deadline)["purchase_features"].passed


@pytest.mark.parametrize(("predicted", "due"), [(utc(date(2026, 3, 9), 7), 1), (utc(date(2026, 3, 11), 7), 2)])
def test_features_that_came_after_the_predictions_have_a_day_to_be_predicted(
    tables: Graph, predicted: datetime, due: int
):
    from customer_insights import features

    day = date(2026, 3, 10)
    read_day(tables, day, "a-1")
    score(tables, day, "a-1")
    session = tables.session()
    session.sql(
        "INSERT INTO PURCHASE_PROPENSITY (UUID, PURCHASE_PROBABILITY, DECILE, MODEL_VERSION, SCORED_AT, RUN_ID) "
        f"SELECT 'a-0', 0.5, 1, 'V1', '{predicted:%Y-%m-%d %H:%M:%S}'::TIMESTAMP_NTZ, 'run'"
    ).collect()
    visit(tables, "a-1")
    features.build(session)
    deadline = utc(day + timedelta(days=due), 8)
    before = ask(tables, deadline - timedelta(minutes=1))["purchase_propensity"]
    assert before.severity is dg.AssetCheckSeverity.WARN
    assert before.metadata["reviews waiting"].value == 1
    assert not (over := ask(tables, deadline)["purchase_propensity"]).passed
    assert over.severity is dg.AssetCheckSeverity.ERROR


def test_a_file_that_waits_on_the_stage_is_warned_of_and_then_overdue(tables: Graph):
    tables.put("waits.txt", b'"a-1","good chair"')
    now = datetime.now(UTC)
    waiting = ask(tables, now + timedelta(minutes=5))["raw_reviews"]
    assert waiting.passed
    assert waiting.metadata["files waiting"].value == 1
    tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    warned = ask(tables, max(now + timedelta(hours=2, minutes=5), tomorrow + timedelta(hours=2)))
    assert warned["raw_reviews"].severity is dg.AssetCheckSeverity.WARN
    assert not warned["raw_reviews"].passed
    over = ask(tables, tomorrow + timedelta(hours=7))["raw_reviews"]
    assert over.severity is dg.AssetCheckSeverity.ERROR
    assert "1 files that arrived on" in (over.description or "")
