"""Who is told of what goes wrong: once when it begins, once when it is over, by real servers of mail and webhooks."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.objects import StepSuccessData
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from mail_server import MailServer, certificate
from pydantic import SecretStr, ValidationError

import definitions
from resources import notifications
from resources.notifications import AlertSettings, Notice
from schedules import incidents
from schedules.alerts import alerts

SECRET = "T0SECRET"


# -- servers that take messages ----------------------------------------------------------------------------------------


class Hook:
    """A webhook: what was posted to it, and what it answers."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if hook.status == 200:
                    hook.posted.append(body)
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}"

    @property
    def headlines(self) -> list[str]:
        return [one["text"] for one in self.posted]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook that the environment names."""
    hook = Hook()
    monkeypatch.setenv("CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL", hook.url)
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """A mail server of this machine that the environment names."""
    box = MailServer()
    monkeypatch.setenv("CUSTOMER_INSIGHTS_ALERT_EMAIL_TO", "ann@example.com, bob@example.com")
    monkeypatch.setenv("CUSTOMER_INSIGHTS_SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("CUSTOMER_INSIGHTS_SMTP_PORT", str(box.port))
    monkeypatch.setenv("CUSTOMER_INSIGHTS_SMTP_STARTTLS", "false")
    yield box
    box.close()


# -- a small code location whose assets fail as told -------------------------------------------------------------------

BROKEN: set[str] = set()


@dg.asset(
    name="purchase_features",
    check_specs=[dg.AssetCheckSpec("values_in_range", asset="purchase_features")],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1)),
)
def features_asset() -> dg.MaterializeResult:
    """Fails, or fails its check, as told."""
    if "run" in BROKEN:
        raise ValueError("no warehouse <b>HOL</b>: ask `@channel`\nand more")
    result = dg.AssetCheckResult(
        passed="check" not in BROKEN, severity=dg.AssetCheckSeverity.WARN, description="7 rows: not <i>good</i>"
    )
    return dg.MaterializeResult(check_results=[result])


DAILY = dg.DailyPartitionsDefinition("2026-03-01")


@dg.asset(name="raw_reviews", partitions_def=DAILY)
def reviews_asset(context: dg.AssetExecutionContext) -> None:
    """Fails on the days that are told."""
    if context.partition_key in BROKEN:
        raise ValueError(f"no file of {context.partition_key}")


@dg.asset(name="review_quality", partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run(), check_specs=[
    dg.AssetCheckSpec("values_in_range", asset="review_quality"),
    dg.AssetCheckSpec("scored_by_the_present_version", asset="review_quality"),
])  # fmt: skip
def quality_asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Its values are wrong where one of the run's days is told; all its days are of an older version if that is."""
    bad, old = BROKEN.intersection(context.partition_keys), "version" in BROKEN
    results = [
        dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN)
        for name, passed in (("values_in_range", not bad), ("scored_by_the_present_version", not old))
    ]
    return dg.MaterializeResult(check_results=results)


@dg.observable_source_asset(name="tabular_data")
def visits_source() -> dg.DataVersion:
    """Cannot be looked at, as told."""
    if "source" in BROKEN:
        raise ValueError("no table of visits")
    return dg.DataVersion("1")


@dg.asset_check(name="newest_day", asset="table_0")
def newest_day_check() -> dg.AssetCheckResult:
    """Its results are reported by the tests."""
    raise NotImplementedError


OBSERVATION = dg.define_asset_job("observation", selection=dg.AssetSelection.keys("tabular_data"))
ORIGIN = RemoteInstigatorOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("definitions.py"), "__repository__"), "new_review_files"
)
MANY = [f"table_{number}" for number in range(12)]
DAY_OLD = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1))
LOCATION = dg.Definitions(
    assets=[
        features_asset,
        reviews_asset,
        quality_asset,
        visits_source,
        *(dg.AssetSpec(name, freshness_policy=DAY_OLD) for name in MANY),
    ],
    asset_checks=[newest_day_check],
    jobs=[OBSERVATION],
    sensors=[alerts],
)


def range_of(first: str, last: str) -> dict[str, str]:
    """The tags of a run over these days."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


class Watch:
    """The sensor `alerts`, tick by tick, on an instance of its own."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> str:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=LOCATION.get_repository_def()
        )
        answer = alerts(context)
        if isinstance(answer, dg.SkipReason):
            return str(answer.skip_message)
        assert isinstance(answer, dg.SensorResult)
        self.cursor = answer.cursor
        return str(
            answer.skip_reason.skip_message if isinstance(answer.skip_reason, dg.SkipReason) else answer.skip_reason
        )

    def make(self, asset: Any, day: str | None = None, tags: dict[str, str] | None = None) -> None:
        dg.materialize([asset], instance=self.instance, partition_key=day, raise_on_error=False, tags=tags)

    def make_range(self, asset: Any, first: str, last: str) -> dg.ExecuteInProcessResult:
        return dg.materialize([asset], instance=self.instance, tags=range_of(first, last))

    def check(self, asset: str, name: str, passed: bool) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=dg.AssetKey(asset), check_name=name, passed=passed)
        )

    def fresh(self, asset: str, state: FreshnessState, at: float) -> None:
        change = FreshnessStateChange(
            key=dg.AssetKey(asset), new_state=state, previous_state=FreshnessState.UNKNOWN, state_change_timestamp=at
        )
        self.instance._report_runless_asset_event(change)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in files, as `make ui` has one; each test begins with nothing in it."""
    home = str(tmp_path_factory.mktemp("dagster"))
    with dg.DagsterInstance.local_temp(home, {"telemetry": {"enabled": False}}) as instance:
        yield instance


@pytest.fixture
def watch(instance: dg.DagsterInstance) -> Iterator[Watch]:
    yield Watch(instance)
    BROKEN.clear()
    instance.wipe()


def test_a_failed_run_is_told_once_and_once_when_it_is_mended(watch: Watch, hook: Hook, mailbox: MailServer):
    watch.make(features_asset)
    watch.tick()
    assert hook.posted == mailbox.mails == []
    BROKEN.add("run")
    watch.make(features_asset)
    watch.tick()
    watch.make(features_asset)
    for _ in range(3):
        watch.tick()
    (posted,) = hook.posted
    assert "purchase_features: run" in posted["text"]
    said = json.dumps(posted, ensure_ascii=False)
    assert "ValueError: no warehouse &lt;b&gt;HOL&lt;/b&gt;: ask '@channel'" in said
    assert "and more" not in said
    assert "http://127.0.0.1:3000/runs/" in said
    (mail,) = mailbox.mails
    assert mailbox.recipients == ["ann@example.com", "bob@example.com"]
    html, text = mail.get_body(("html",)), mail.get_body(("plain",))
    assert html
    assert text
    assert "no warehouse &lt;b&gt;HOL&lt;/b&gt;" in html.get_content()
    assert "<b>HOL</b>" not in html.get_content()
    assert "What to do: Open the run" in text.get_content()
    BROKEN.clear()
    watch.make(features_asset)
    for _ in range(2):
        watch.tick()
    assert len(hook.posted) == len(mailbox.mails) == 2
    assert hook.headlines[-1].startswith("Resolved: purchase_features")


def test_each_day_that_fails_is_an_incident_of_its_own_and_another_day_does_not_mend_it(watch: Watch, hook: Hook):
    BROKEN.update({"2026-03-01", "2026-03-02"})
    for day in ("2026-03-01", "2026-03-02", "2026-03-02"):
        watch.make(reviews_asset, day)
    watch.tick()
    assert [one.split(":")[0] for one in hook.headlines] == ["raw_reviews for 2026-03-01", "raw_reviews for 2026-03-02"]
    watch.make(reviews_asset, "2026-03-03")
    BROKEN.remove("2026-03-02")
    watch.make(reviews_asset, "2026-03-02")
    watch.tick()
    assert [one.split(":")[1] for one in hook.headlines[2:]] == [" raw_reviews for 2026-03-02"]


def test_a_run_that_did_not_get_to_its_assets_is_mended_by_nothing_but_them(watch: Watch, hook: Hook):
    job = LOCATION.resolve_implicit_global_asset_job_def()
    assets = frozenset({dg.AssetKey("purchase_features")})
    # The day of a run with other assets, whose days these are.
    run = watch.instance.create_run_for_job(job, asset_selection=assets, tags={"dagster/partition": "2026-03-01"})
    watch.instance.report_run_failed(run, "the worker died")
    watch.tick()
    (title,) = hook.headlines
    assert title.startswith("purchase_features for 2026-03-01: run")
    watch.make(reviews_asset, "2026-03-01")
    watch.tick()
    assert len(hook.posted) == 1
    watch.make(features_asset)
    watch.tick()
    assert hook.headlines[1:] == [f"Resolved: {title}"]


def test_a_range_of_days_is_mended_when_every_day_of_it_is_made(watch: Watch, hook: Hook):
    days = ("2026-03-01", "2026-03-02")
    job = LOCATION.resolve_implicit_global_asset_job_def()
    assets = frozenset({dg.AssetKey("raw_reviews")})
    run = watch.instance.create_run_for_job(job, asset_selection=assets, tags=range_of(*days))
    watch.instance.report_run_failed(run, "the worker died")
    for day in days:
        watch.tick()
        assert len(hook.posted) == 1
        watch.make(reviews_asset, day)
    watch.tick()
    assert hook.headlines[1].startswith("Resolved: raw_reviews for 2026-03-01 to 2026-03-02")


def test_a_range_that_died_before_any_step_failed_is_mended_by_its_days_alone(watch: Watch, hook: Hook):
    days = ("2026-03-01", "2026-03-02")
    job = dg.Definitions([reviews_asset], jobs=[dg.define_asset_job("daily_reviews")]).resolve_job_def("daily_reviews")
    run = watch.instance.create_run_for_job(job, tags=range_of(*days))
    watch.instance.report_run_failed(run, "the worker died")
    watch.tick()
    (title,) = hook.headlines
    assert title.startswith("raw_reviews for 2026-03-01 to 2026-03-02: run")
    assert job.execute_in_process(instance=watch.instance, partition_key="2026-03-02").success
    watch.tick()
    assert len(hook.posted) == 1, "another run of the same job made one of the days"
    watch.make(reviews_asset, "2026-03-01")
    watch.tick()
    assert hook.headlines[1:] == [f"Resolved: {title}"]


def test_of_a_run_that_died_between_its_steps_only_what_it_had_still_to_make_is_awaited(watch: Watch, hook: Hook):
    both = dg.Definitions([features_asset, reviews_asset], jobs=[dg.define_asset_job("everything")])
    job = both.resolve_job_def("everything")
    run = watch.instance.create_run_for_job(job, tags={"dagster/partition": "2026-03-01"})
    step = DagsterEvent("STEP_SUCCESS", "everything", step_key="raw_reviews", event_specific_data=StepSuccessData(1.0))
    watch.instance.report_dagster_event(step, run.run_id)
    watch.instance.report_run_failed(run, "the worker died")
    watch.tick()
    assert [title.split(":")[0] for title in hook.headlines] == ["purchase_features for 2026-03-01"]
    watch.make(features_asset)
    watch.tick()
    assert hook.headlines[1].startswith("Resolved: purchase_features for 2026-03-01")


def test_a_failed_observation_is_over_with_the_next_one_and_told_when_it_fails_again(watch: Watch, hook: Hook):
    job = LOCATION.resolve_job_def("observation")
    for broken in (True, False, True):
        BROKEN.clear()
        BROKEN.update({"source"} if broken else ())
        job.execute_in_process(instance=watch.instance, raise_on_error=False)
        watch.tick()
    assert [title.split(": run")[0] for title in hook.headlines] == [
        "tabular_data",
        "Resolved: tabular_data",
        "tabular_data",
    ]


def test_a_run_that_is_tried_again_is_not_told(watch: Watch, hook: Hook):
    BROKEN.add("run")
    watch.make(features_asset, tags={"dagster/will_retry": "true"})
    watch.tick()
    assert hook.posted == []


def test_a_failed_check_is_told_with_its_reason_also_when_it_passes_before_the_next_look(watch: Watch, hook: Hook):
    BROKEN.add("check")
    watch.make(features_asset)
    BROKEN.clear()
    watch.make(features_asset)
    watch.tick()
    assert hook.headlines == [
        "purchase_features: the check values_in_range warns",
        "Resolved: purchase_features: the check values_in_range warns",
    ]
    assert "7 rows: not &lt;i&gt;good&lt;/i&gt;" in json.dumps(hook.posted[0])
    assert "/assets/purchase_features?view=checks&checkDetail=values_in_range" in json.dumps(hook.posted[0])


def test_a_bad_day_is_told_of_its_own_and_over_when_that_day_passes(watch: Watch, hook: Hook):
    BROKEN.update({"2026-03-18", "2026-03-20"})
    for day in ("2026-03-18", "2026-03-19", "2026-03-20", "2026-03-18"):
        watch.make(quality_asset, day)
        watch.tick()
    bad = [f"review_quality for {day}: the check values_in_range warns" for day in ("2026-03-18", "2026-03-20")]
    assert hook.headlines == bad
    BROKEN.clear()
    watch.make(quality_asset, "2026-03-18")
    watch.tick()
    assert hook.headlines[2:] == [f"Resolved: {bad[0]}"]


def test_a_bad_range_is_over_when_all_its_days_pass(watch: Watch, hook: Hook):
    BROKEN.add("2026-03-02")
    assert watch.make_range(quality_asset, "2026-03-01", "2026-03-03").success
    watch.tick()
    title = "review_quality for 2026-03-01 to 2026-03-03: the check values_in_range warns"
    assert hook.headlines == [title]
    watch.make(quality_asset, "2026-03-03")
    watch.tick()
    assert watch.make_range(quality_asset, "2026-03-01", "2026-03-03").success
    BROKEN.clear()
    assert watch.make_range(quality_asset, "2026-03-01", "2026-03-02").success
    watch.tick()
    assert hook.headlines == [title], "after the last bad result the third day did not pass"
    watch.make(quality_asset, "2026-03-03")
    watch.tick()
    assert hook.headlines == [title, f"Resolved: {title}"]


def test_what_a_check_says_of_all_days_is_one_incident_whichever_day_ran(watch: Watch, hook: Hook):
    BROKEN.add("version")
    for day in ("2026-03-01", "2026-03-02"):
        watch.make(quality_asset, day)
        watch.tick()
    BROKEN.clear()
    watch.make(quality_asset, "2026-03-03")
    watch.tick()
    title = "review_quality: the check scored_by_the_present_version warns"
    assert hook.headlines == [title, f"Resolved: {title}"]


def test_a_result_whose_run_was_deleted_is_of_no_day_and_ends_no_day(watch: Watch, hook: Hook):
    BROKEN.add("2026-03-01")
    watch.make(quality_asset, "2026-03-01")
    watch.tick()
    for bad in (False, True):
        BROKEN.clear()
        BROKEN.update({"2026-03-02"} if bad else ())
        deleted = watch.make_range(quality_asset, "2026-03-01", "2026-03-02")
        watch.instance.delete_run(deleted.run_id)
        watch.tick()
    told = ["review_quality for 2026-03-01: the check values_in_range warns"]
    told += ["review_quality: the check values_in_range warns"]
    assert hook.headlines == told
    BROKEN.clear()
    watch.make(quality_asset, "2026-03-03")
    watch.tick()
    assert hook.headlines == [*told, f"Resolved: {told[1]}"]


def test_a_passing_policy_ends_what_a_check_began_that_is_not_asked_any_more(
    watch: Watch, hook: Hook, monkeypatch: pytest.MonkeyPatch
):
    watch.check("table_0", "newest_day", passed=False)
    watch.tick()
    watch.fresh("table_0", FreshnessState.PASS, time.time())
    watch.tick()
    assert hook.headlines == ["table_0 is overdue"], "the check knows more than the policy"
    monkeypatch.setattr(incidents, "CHECK_COUNTS_SECONDS", 0)
    watch.tick()
    watch.fresh("table_0", FreshnessState.FAIL, time.time())
    watch.tick()
    assert hook.headlines == ["table_0 is overdue", "Resolved: table_0 is overdue", "table_0 is overdue"]


def test_a_broken_policy_is_told_and_over_when_the_asset_is_fresh(watch: Watch, hook: Hook):
    now = time.time()
    watch.fresh("purchase_features", FreshnessState.WARN, now - 60)
    watch.tick()
    assert hook.posted == [], "a warning of some minutes is no incident"
    watch.fresh("purchase_features", FreshnessState.FAIL, now)
    watch.tick()
    watch.tick()
    watch.fresh("purchase_features", FreshnessState.PASS, now)
    watch.tick()
    assert hook.headlines == ["purchase_features is overdue", "Resolved: purchase_features is overdue"]


def test_a_sensor_that_fails_again_and_again_is_told_and_over_when_it_ticks(watch: Watch, hook: Hook):
    state = InstigatorState(ORIGIN, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    watch.instance.add_instigator_state(state)
    error = SerializableErrorInfo("PermanentError: the stage REVIEWS does not exist\n", [], "PermanentError")

    def ticked(status: TickStatus) -> None:
        watch.instance.create_tick(
            TickData(
                state.instigator_origin_id,
                state.instigator_name,
                InstigatorType.SENSOR,
                status,
                time.time(),
                selector_id=state.selector_id,
                error=error if status is TickStatus.FAILURE else None,
            )
        )
        watch.tick()

    try:
        ticked(TickStatus.FAILURE)
        ticked(TickStatus.FAILURE)
        assert hook.posted == []
        ticked(TickStatus.FAILURE)
        ticked(TickStatus.FAILURE)
        ticked(TickStatus.SKIPPED)
    finally:
        watch.instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)
    assert hook.headlines == ["sensor new_review_files fails", "Resolved: sensor new_review_files fails"]
    assert "the stage REVIEWS does not exist" in json.dumps(hook.posted[0])


def test_a_daemon_that_stands_still_is_told(watch: Watch, hook: Hook):
    def beat(ago: float) -> None:
        watch.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - ago, "SENSOR", "id", []))
        watch.tick()

    beat(10)
    assert hook.posted == []
    beat(3600)
    beat(10)
    assert hook.headlines == ["Dagster's sensor is not well", "Resolved: Dagster's sensor is not well"]


def test_what_a_channel_does_not_take_is_sent_at_the_next_tick_and_told_once(
    watch: Watch, hook: Hook, mailbox: MailServer, caplog: pytest.LogCaptureFixture
):
    hook.status = 503
    BROKEN.add("run")
    watch.make(features_asset)
    with caplog.at_level(logging.DEBUG):
        said = watch.tick()
    assert "the webhook answered 503" in said
    assert "1 wait for the next tick" in said
    assert (hook.posted, len(mailbox.mails)) == ([], 1)
    assert SECRET not in said + caplog.text + str(watch.cursor)
    hook.status = 200
    watch.tick()
    assert (len(hook.posted), len(mailbox.mails)) == (1, 1)


def test_many_at_once_are_one_message_that_lists_them(watch: Watch, hook: Hook, mailbox: MailServer):
    for asset in MANY:
        watch.fresh(asset, FreshnessState.FAIL, time.time())
    watch.tick()
    assert hook.headlines == ["12 new incidents of customer_insights"]
    (mail,) = mailbox.mails
    text = mail.get_body(("plain",))
    assert text
    assert all(f"{asset} is overdue" in text.get_content() for asset in MANY)


def test_what_lasts_is_said_again_after_the_days_of_the_setting(
    watch: Watch, hook: Hook, monkeypatch: pytest.MonkeyPatch
):
    BROKEN.add("run")
    watch.make(features_asset)
    monkeypatch.setenv("CUSTOMER_INSIGHTS_ALERT_REMINDER_DAYS", "2")
    watch.tick()
    state = incidents.State.read(watch.cursor)
    later = time.time() + 2 * 86400 + 60
    assert [one.kind for one in incidents.reminders(state, later, 2)] == ["reminder"]
    assert incidents.reminders(state, later + 60, 2) == []
    assert incidents.reminders(state, later * 2, 0) == []


def test_a_cursor_that_cannot_be_read_is_begun_anew(watch: Watch, hook: Hook):
    BROKEN.add("run")
    watch.make(features_asset)
    watch.cursor = '{"open": 3'
    watch.tick()
    assert len(hook.posted) == 1


def test_the_cursor_stays_small_however_much_is_wrong():
    state = incidents.State()
    found = incidents._Found(state, 0)
    one = incidents.Incident(kind="check", title="t" * 200, reason="r" * 400, todo="d", link="l", since=0)
    for number in range(2 * incidents.MOST_OPEN):
        found.begins(f"check:{number}", one.model_copy())
    assert len(state.open) == incidents.MOST_OPEN
    dead = notifications.Webhook(SecretStr(f"http://127.0.0.1:9/{SECRET}"))
    problems = incidents.deliver(state, found.notices, [dead])
    assert len(state.outbox["webhook"]) == incidents.MOST_KEPT
    assert SECRET not in problems["webhook"]
    assert len(state.model_dump_json()) < 1_000_000


def test_without_a_channel_the_sensor_says_how_to_set_one_up_and_is_loaded_stopped(watch: Watch):
    assert "CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL" in watch.tick()
    (sensor,) = [one for one in definitions.defs.sensors or [] if one.name == "alerts"]
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_a_test_message_reaches_every_channel_and_a_dead_one_is_named(
    hook: Hook, mailbox: MailServer, monkeypatch: pytest.MonkeyPatch
):
    assert notifications.send_test() == {"webhook": None, "email": None}
    assert hook.headlines == [mailbox.mails[0]["Subject"]] == ["Test: alerts of customer_insights get here"]
    monkeypatch.setenv("CUSTOMER_INSIGHTS_SMTP_STARTTLS", "true")
    monkeypatch.setenv("CUSTOMER_INSIGHTS_ALERT_WEBHOOK_URL", f"http://127.0.0.1:9/{SECRET}")
    outcome = notifications.send_test()
    assert "CUSTOMER_INSIGHTS_SMTP_STARTTLS=false" in str(outcome["email"])
    assert "cannot be reached" in str(outcome["webhook"])
    assert SECRET not in str(outcome)


def test_an_address_that_the_mail_server_refuses_is_named_and_the_others_get_the_message_once(
    watch: Watch, mailbox: MailServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    # Whatever a library that was imported for another test has made of the loggers.
    caplog.set_level(logging.WARNING, notifications.logger.name)
    for name, value in {"disabled": False, "propagate": False, "handlers": [caplog.handler]}.items():
        monkeypatch.setattr(notifications.logger, name, value)
    mailbox.unknown = {"bob@example.com"}
    assert "takes no mail for bob@example.com" in str(notifications.send_test()["email"])
    BROKEN.add("run")
    watch.make(features_asset)
    caplog.clear()
    for _ in range(2):
        watch.tick()
    assert mailbox.recipients == ["ann@example.com"] * 2
    assert [one.levelname for one in caplog.records if "bob@example.com" in one.message] == ["WARNING"]


@pytest.fixture
def mail_with_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """A mail server that takes mail over TLS from who logs in, and whose certificate this machine trusts."""
    pem = certificate(tmp_path, "localhost")
    box = MailServer(pem, ("pipeline", SECRET))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    for name, value in {
        "ALERT_EMAIL_TO": "ann@example.com", "SMTP_HOST": "localhost", "SMTP_PORT": str(box.port),
        "SMTP_USER": "pipeline", "SMTP_PASSWORD": SECRET,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CUSTOMER_INSIGHTS_{name}", value)
    yield box
    box.close()


def test_mail_goes_over_tls_after_a_login(mail_with_login: MailServer):
    assert notifications.send_test() == {"email": None}
    assert mail_with_login.users == ["pipeline"]
    assert mail_with_login.recipients == ["ann@example.com"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CUSTOMER_INSIGHTS_SMTP_PASSWORD", "wr0ng", "refused the login (535)"),
        ("CUSTOMER_INSIGHTS_SMTP_HOST", "127.0.0.1", "use the name that is in it"),
        ("SSL_CERT_FILE", "/dev/null", "certificate of the mail server localhost"),
    ],
)
def test_mail_that_may_not_go_says_why_and_gives_nothing_away(
    mail_with_login: MailServer, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
):
    monkeypatch.setenv(variable, value)
    outcome = str(notifications.send_test()["email"])
    assert said in outcome
    assert SECRET not in outcome
    assert "wr0ng" not in outcome
    assert mail_with_login.mails == []


def test_a_subject_from_data_cannot_add_a_header(hook: Hook, mailbox: MailServer):
    evil = Notice("new", "a\r\nBcc: eve@example.com\x1b[31m", "r", "s", "t", 'http://localhost/?a="><script>')
    for channel in notifications.channels():
        channel.send([evil])
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert mail["Subject"] == "a Bcc: eve@example.com[31m"
    html = mail.get_body(("html",))
    assert html
    assert "<script>" not in html.get_content()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alert_webhook_url": f"hooks.example.com/{SECRET}"}, "https://"),
        ({"alert_email_to": "ann@example.com"}, "SMTP_HOST"),
        ({"alert_email_to": "ann", "smtp_host": "mail"}, "ann@example.com"),
        (
            {"alert_email_to": "a@b.c", "smtp_host": "mail", "smtp_user": "u", "smtp_password": SECRET,
             "smtp_starttls": False},
            "TLS",
        ),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_a_channel_is_refused_without_showing_its_secret(settings: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said) as error:
        AlertSettings(**settings)
    assert SECRET not in str(error.value)
