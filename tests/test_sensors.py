"""The sensor that looks at the stage: no file is missed, no day is asked for twice, and a failed day comes again."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from conftest import Graph, today
from dagster._core.test_utils import freeze_time
from days_of_arrival import arrive, day, read, run

from assets import catalogue
from customer_insights.settings import settings
from resources.snowflake import SnowflakeConnection
from schedules import day_requests
from schedules.sensors import new_review_files


class Ticks:
    """The sensor, tick after tick, with its cursor."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.cursor, self.skipped = graph, None, ""

    def tick(self, minutes_from_now: float = 0) -> list[str]:
        """What is asked for, as ``day`` or ``first...last``; the reason is in ``skipped`` when it is nothing."""
        snowflake = SnowflakeConnection(database=self.graph.database, schema_name="HOL_SCHEMA")
        with self.graph.instance as instance, freeze_time(datetime.now(UTC) + timedelta(minutes=minutes_from_now)):
            result = new_review_files(
                dg.build_sensor_context(instance=instance, cursor=self.cursor), snowflake=snowflake
            )
        assert isinstance(result, dg.SensorResult)
        self.requests = result.run_requests or []
        self.cursor, self.skipped = result.cursor, (result.skip_reason.skip_message if result.skip_reason else "") or ""
        assert bool(self.requests) != bool(self.skipped)
        return [_label(request) for request in self.requests]

    @property
    def keys(self) -> list[str]:
        return [str(request.run_key) for request in self.requests]


def _label(request: dg.RunRequest) -> str:
    if request.partition_key:
        return request.partition_key
    return f"{request.tags[day_requests.RANGE_START]}...{request.tags[day_requests.RANGE_END]}"


@pytest.fixture
def ticks(empty_graph: Graph) -> Ticks:
    return Ticks(empty_graph)


def test_a_day_is_asked_for_once_and_again_when_a_file_came(ticks: Ticks):
    assert ticks.tick() == []
    assert "nothing new on @REVIEWS: 0 files" in ticks.skipped
    ticks.graph.put("first.txt", b'"a-1","good chair"')
    assert ticks.tick() == [today()]
    first = ticks.keys
    with ticks.graph.instance as instance:
        run(instance, today())
    read(ticks.graph, today())
    assert ticks.tick() == []
    assert "1 files of 1 days, all read" in ticks.skipped
    ticks.graph.put("second.txt", b'"a-2","bad chair"')
    assert ticks.tick() == [today()]
    assert set(first).isdisjoint(ticks.keys)


def test_a_long_history_is_asked_for_in_ranges_a_few_at_a_time_and_none_of_it_when_it_was_read(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DAYS_PER_RUN", "4")
    monkeypatch.setenv("CUSTOMER_INSIGHTS_RUNS_PER_TICK", "2")
    settings.cache_clear()
    days = [*range(50, 41, -1), 40, 3]
    for number in days:
        arrive(ticks.graph, f"{number}.txt", day(number))
    # Read before, by a click or by a sensor whose cursor was lost.
    read(ticks.graph, day(46))
    assert ticks.tick() == [f"{day(50)}...{day(47)}", f"{day(45)}...{day(42)}"]
    with ticks.graph.instance as instance:
        for first, last in ((50, 47), (45, 42)):
            run(instance, day(first), day(last))
    read(ticks.graph, *(day(number) for number in days if number > 41))
    assert ticks.tick() == [day(40), day(3)]
    with ticks.graph.instance as instance:
        run(instance, day(40))
        run(instance, day(3))
    read(ticks.graph, day(40), day(3))
    assert ticks.tick() == []
    # What is old and read is one hash of the cursor.
    assert ticks.cursor
    cursor = day_requests.Cursor.of(ticks.cursor)
    assert set(cursor.versions) == {day(3)}
    assert not cursor.asked
    # A late file for an old day is found all the same.
    arrive(ticks.graph, "late.txt", day(44), b'"late","late chair"')
    assert ticks.tick() == [day(44)]


@pytest.fixture
def days_in_small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DAYS_PER_RUN", "4")
    monkeypatch.setenv("CUSTOMER_INSIGHTS_RUNS_PER_TICK", "1")
    settings.cache_clear()


HISTORY = range(50, 40, -1)
IN_RANGES = [f"{day(50)}...{day(47)}", f"{day(46)}...{day(43)}", f"{day(42)}...{day(41)}"]


@pytest.mark.usefixtures("days_in_small_runs")
def test_every_day_of_a_history_is_asked_for_when_the_start_is_set_back(ticks: Ticks, monkeypatch: pytest.MonkeyPatch):
    for number in (*HISTORY, 39, 3):
        arrive(ticks.graph, f"{number}.txt", day(number))
    monkeypatch.setattr(catalogue, "FIRST_DAY", day(40))
    read(ticks.graph, day(39), day(3))
    assert ticks.tick() == []
    assert "2 days, all read" in ticks.skipped
    monkeypatch.setattr(catalogue, "FIRST_DAY", day(60))
    assert [label for _ in range(4) for label in ticks.tick()] == IN_RANGES
    assert "10 days" in ticks.skipped
    # Of what is not read the cursor holds the days alone, and one that is gone from the stage is forgotten.
    ticks.graph.session().sql("REMOVE @REVIEWS/50.txt").collect()
    assert ticks.tick() == []
    cursor = day_requests.Cursor.of(ticks.cursor)
    assert list(cursor.unread) == [day(number) for number in HISTORY[1:]]
    assert set(cursor.versions) == {day(3)}
    read(ticks.graph, *(day(number) for number in HISTORY[1:]))
    assert ticks.tick() == []
    assert "11 files of 11 days, all read" in ticks.skipped
    assert not day_requests.Cursor.of(ticks.cursor).unread


@pytest.mark.usefixtures("days_in_small_runs")
def test_every_day_is_asked_for_when_the_ledger_lost_what_it_knew(ticks: Ticks):
    for number in HISTORY:
        arrive(ticks.graph, f"{number}.txt", day(number))
    read(ticks.graph, *(day(number) for number in HISTORY))
    assert ticks.tick() == []
    ticks.graph.session().sql("DELETE FROM INGESTED_FILES").collect()
    arrive(ticks.graph, "late.txt", day(44), b'"late","late chair"')
    assert [label for _ in range(4) for label in ticks.tick()] == IN_RANGES


def test_a_day_that_is_being_worked_on_is_not_asked_for(ticks: Ticks):
    arrive(ticks.graph, "one.txt", day(2))
    with ticks.graph.instance as instance:
        going = run(instance, day(2), fails="raw_reviews")
        # As it was before it failed.
        instance.run_storage.delete_run(going.run_id)
        instance.run_storage.add_run(going.dagster_run.with_status(dg.DagsterRunStatus.STARTED))
    assert ticks.tick() == []
    assert f"{day(2)}: is being worked on by run {going.run_id[:8]}" in ticks.skipped


def test_failed_days_are_asked_for_again_one_by_one_after_growing_waits_and_then_given_up(ticks: Ticks):
    arrive(ticks.graph, "one.txt", day(3))
    arrive(ticks.graph, "two.txt", day(2))
    assert ticks.tick() == [f"{day(3)}...{day(2)}"]
    first = ticks.keys
    with ticks.graph.instance as instance:
        run(instance, day(3), day(2), fails="raw_reviews")
    assert ticks.tick() == []
    assert "failed in run" in ticks.skipped
    assert "asked for again in 15 min" in ticks.skipped
    assert ticks.tick(14) == []
    assert ticks.tick(16) == [day(3), day(2)]
    assert set(first).isdisjoint(ticks.keys)
    # One of them is done; of the other its scores fail, which the ledger does not know of.
    read(ticks.graph, day(3), day(2))
    with ticks.graph.instance as instance:
        run(instance, day(2))
        run(instance, day(3), fails="review_quality")
    assert ticks.tick(40) == []
    assert f"{day(2)}" not in ticks.skipped
    assert ticks.tick(50) == [day(3)]
    with ticks.graph.instance as instance:
        last = run(instance, day(3), fails="review_quality")
    assert ticks.tick(10_000) == []
    assert f"given up after 3 attempts, the last in run {last.run_id[:8]}" in ticks.skipped
    # Somebody materializes the day.
    with ticks.graph.instance as instance:
        run(instance, day(3))
    assert ticks.tick(10_001) == []
    assert "all read" in ticks.skipped


def test_a_file_for_a_day_that_was_given_up_begins_anew(ticks: Ticks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DAY_ATTEMPTS", "1")
    settings.cache_clear()
    arrive(ticks.graph, "one.txt", day(1))
    assert ticks.tick() == [day(1)]
    with ticks.graph.instance as instance:
        run(instance, day(1), fails="raw_reviews")
    assert ticks.tick(10_000) == []
    arrive(ticks.graph, "two.txt", day(1), b'"a-2","bad chair"')
    assert ticks.tick() == [day(1)]


def test_a_cancelled_day_is_left_to_whoever_cancelled_it(ticks: Ticks):
    arrive(ticks.graph, "one.txt", day(1))
    assert ticks.tick() == [day(1)]
    with ticks.graph.instance as instance:
        cancelled = run(instance, day(1), fails="raw_reviews")
        instance.run_storage.delete_run(cancelled.run_id)
        instance.run_storage.add_run(cancelled.dagster_run.with_status(dg.DagsterRunStatus.CANCELED))
    assert ticks.tick(10_000) == []
    assert "was cancelled: materialize the day when it is wanted" in ticks.skipped


def test_a_new_file_for_a_day_that_somebody_ran_and_cancelled_begins_anew(ticks: Ticks):
    ticks.graph.put("first.txt", b'"a-1","good chair"')
    with ticks.graph.instance as instance:
        cancelled = run(instance, today(), fails="raw_reviews")
        instance.run_storage.delete_run(cancelled.run_id)
        instance.run_storage.add_run(cancelled.dagster_run.with_status(dg.DagsterRunStatus.CANCELED))
    assert ticks.tick() == []
    assert "was cancelled: materialize the day when it is wanted" in ticks.skipped
    # The stage knows whole seconds.
    time.sleep(1.1)
    ticks.graph.put("second.txt", b'"a-2","bad chair"')
    assert ticks.tick() == [today()]
    assert ticks.tick() == []
    assert "was cancelled" in ticks.skipped


def test_a_cursor_of_an_earlier_version_asks_for_nothing_that_was_read(ticks: Ticks):
    arrive(ticks.graph, "one.txt", day(1))
    read(ticks.graph, day(1))
    ticks.cursor = '{"2026-01-02": "abc"}'
    assert ticks.tick() == []
