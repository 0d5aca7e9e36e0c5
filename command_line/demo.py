"""``customer-insights demo``: the sample data onto the stage, the whole graph once, its costs, and what came out.

The runs are ordinary Dagster runs on the instance that ``make ui`` shows; nothing here does the work of an asset.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from command_line import local
from command_line.terminal import plain, progress, summary
from customer_insights.settings import settings
from resources.compute_pool import set_slots
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    import dagster as dg
    from snowflake.snowpark import Session

SAMPLE_DIRECTORY = local.ROOT / ".cache" / "sample_data"
FILES_DIRECTORY = local.ROOT / ".cache" / "demo_files"
TAG = "customer_insights/demo"
EXCERPT_CHARACTERS = 24
POLL_SECONDS = 0.5
START_TIMEOUT_SECONDS = 120


@dataclass
class Progress:
    """What the run's events have told so far, by asset."""

    run_id: str = ""
    status: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    checks: dict[str, Counter[str]] = field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    planned: int = 0

    def add(self, later: Progress) -> None:
        """Take in what a later run made, in place of what this one made of the same assets."""
        self.order = [step for step in self.order if step not in later.order] + later.order
        self.failures += [failure for failure in later.failures if failure not in self.failures]
        for name in ("rows", "seconds", "jobs", "checks", "metadata"):
            getattr(self, name).update(getattr(later, name))


def run_demo(console: Console, real_reviews: int) -> None:
    """Set up, load, run and show.

    Raises:
        RuntimeError: the run did not succeed.
    """
    begun = time.monotonic()
    if local.uses_embedded() and (seconds := local.start()):
        console.print(f"embedded Snowflake started in {seconds:.1f} s (connection 'embedded' in {local.home().name}/)")
    connection = SnowflakeConnection(connection_name=settings().connection)
    with connection.session() as session:
        _deploy(session)
        console.print(_load(session, real_reviews))
        start, end = _window(session)
    console.print(f"materializing every asset for arrivals from {start} to {end} ...")
    days = {"dagster/asset_partition_range_start": start, "dagster/asset_partition_range_end": end}
    told = _run(console, "everything", days)
    console.print("counting what that cost ...")
    told.add(_run(console, "costs", {}))
    seconds = time.monotonic() - begun
    with connection.session() as session:
        session.use_schema(settings().qualified_schema)
        _show(console, session, told, seconds)


def _deploy(session: Session) -> None:
    from customer_insights import deployment

    deployment.deploy(session, settings())


def _load(session: Session, real_reviews: int) -> str:
    """Put the sample on the stage, once; files that are there stay untouched."""
    from command_line.load import upload
    from customer_insights import query, sample_data, stage_files, visits
    from customer_insights.tables import TABULAR_DATA

    sample_data.fetch(SAMPLE_DIRECTORY)
    there = {file.name for file in stage_files.list_files(session, f"@{settings().review_stage}")}
    frame = sample_data.sample(real_reviews, directory=SAMPLE_DIRECTORY)
    files = sample_data.write_files(frame, FILES_DIRECTORY)
    new = [file for file in files if file.name not in there]
    known = query.value(session, f"SELECT COUNT(*) FROM {TABULAR_DATA.name}")
    if not new and known >= len(frame):
        return f"the sample is on @{settings().review_stage} already: {len(files)} files"
    upload(session, new)
    visits.load_visits(session, visits.read_visits(FILES_DIRECTORY / "tabular_data.csv"))
    written = int((frame["source"] == "written").sum())
    return (
        f"loaded {len(new)} files with {len(frame)} reviews onto @{settings().review_stage}: "
        f"{len(frame) - written} real ones (Chinese, English), {written} written for this project; "
        "their visits and purchases in TABULAR_DATA are synthetic"
    )


def _window(session: Session) -> tuple[str, str]:
    """From the first to the last day with files that were not read yet; today when there are none."""
    from customer_insights import ingest

    today = datetime.now(UTC).date().isoformat()
    pending = ingest.pending_files(session, settings(), settings().partition_start, today)
    days = sorted(file.arrival_date.isoformat() for file in pending)
    return (days[0], days[-1]) if days else (today, today)


def _run(console: Console, job: str, tags: dict[str, str]) -> Progress:
    """What a run of the job told.

    Raises:
        RuntimeError: it did not succeed.
    """
    import dagster as dg

    mark = uuid.uuid4().hex
    log = local.home() / f"demo_{job}.log"
    with log.open("w") as output, dg.DagsterInstance.get() as instance:
        set_slots(instance)
        local.end_dead_runs(instance)
        process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            [sys.executable, "-m", "command_line.run_job", job, json.dumps({TAG: mark, **tags})],
            cwd=local.ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            told = _follow(console, instance, process, mark)
        except BaseException:
            # A cancelled run takes its job along; one that is only stopped leaves it running.
            for run in instance.get_runs(filters=dg.RunsFilter(tags={TAG: mark})):
                if not run.is_finished:
                    instance.report_run_canceling(run)
            process.terminate()
            process.wait(timeout=60)
            raise
    if not told.run_id:
        raise RuntimeError(f"Dagster started no run; the end of {log}:\n{log.read_text()[-3000:]}")
    if told.status != "SUCCESS":
        raise RuntimeError(f"run {told.run_id} ended as {told.status}:\n" + "\n".join(told.failures))
    return told


def _follow(console: Console, instance: dg.DagsterInstance, process: subprocess.Popen, mark: str) -> Progress:
    import dagster as dg

    told, cursor = Progress(), None
    with progress() as bar:
        task = bar.add_task("assets", total=None)
        while True:
            ended = process.poll() is not None
            if not told.run_id:
                runs = instance.get_runs(filters=dg.RunsFilter(tags={TAG: mark}), limit=1)
                told.run_id = runs[0].run_id if runs else ""
            if told.run_id:
                connection = instance.get_records_for_run(told.run_id, cursor=cursor)
                cursor = connection.cursor
                for record in connection.records:
                    _note(console, told, record.event_log_entry)
                bar.update(task, total=told.planned or None, completed=len(told.seconds))
            if ended:
                run = instance.get_run_by_id(told.run_id) if told.run_id else None
                told.status = run.status.value if run else "NOT STARTED"
                return told
            time.sleep(POLL_SECONDS)


def _note(console: Console, told: Progress, entry: dg.EventLogEntry) -> None:
    """Take one event of the run into ``progress`` and print a line where it tells something."""
    import dagster as dg

    event = entry.dagster_event
    step = entry.step_key
    if event is None:
        return
    if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
        told.planned += 1
    if step is None:
        return
    if event.event_type == dg.DagsterEventType.STEP_START:
        told.started[step] = entry.timestamp
    elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
        _note_materialization(told, step, event)
    elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        evaluation = event.asset_check_evaluation_data
        outcome = "passed" if evaluation.passed else "warned" if evaluation.severity.value == "WARN" else "failed"
        told.checks.setdefault(step, Counter())[outcome] += 1
        if not evaluation.passed:
            told.failures.append(f"check {evaluation.check_name} of {step}: {evaluation.description}")
    elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
        told.seconds[step] = entry.timestamp - told.started.get(step, entry.timestamp)
        rows = f"{told.rows[step]:>7,} rows" if step in told.rows else " " * 12
        console.print(f"  [green]✓[/] {step:<20} {rows} {told.seconds[step]:6.1f} s")
    elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
        error = event.step_failure_data.error
        text = (error.cause.message if error and error.cause else error.message if error else "failed").strip()
        told.failures.append(f"{step}: {text}")
        console.print(f"  [red]✗[/] {step}")


def _note_materialization(told: Progress, step: str, event: dg.DagsterEvent) -> None:
    if step not in told.order:
        told.order.append(step)
    metadata = {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}
    told.metadata[step] = metadata
    if "dagster/row_count" in metadata:
        told.rows[step] = int(str(metadata["dagster/row_count"]))
    told.jobs[step] = str(metadata.get("snowflake/job_id") or metadata.get("job") or "none").rsplit(".", 1)[-1]


def _job(name: str) -> str:
    """The part of a job's name that tells it from others; the whole name is in the asset's metadata."""
    return "none" if name.startswith("none") else f"…{name[-15:]}"


def _show(console: Console, session: Session, told: Progress, seconds: float) -> None:
    rows = [
        [
            step,
            f"{told.rows[step]:,}" if step in told.rows else "",
            f"{told.seconds.get(step, 0):.1f}",
            _job(told.jobs[step]),
            ", ".join(f"{count} {outcome}" for outcome, count in told.checks.get(step, Counter()).items()) or "none",
        ]
        for step in told.order
    ]
    console.print()
    console.print(summary("What was materialized", ["asset", "rows", "seconds", "job", "checks"], rows))
    for failure in told.failures:
        console.print(plain(failure), style="yellow", highlight=False)
    _show_model(console, told)
    _show_predictions(console, session)
    raw = told.metadata.get("raw_reviews", {})
    scored = sum(int(told.metadata.get(step, {}).get(name, 0)) for step, name in _SCORED)
    submitted = [step for step, job in told.jobs.items() if not job.startswith("none")]
    read = int(raw.get("files read", 0))
    console.print(
        f"\n{read} new files read, {scored} scores computed, {len(submitted)} jobs submitted"
        f"{': nothing was new' if not read and not submitted else ''}. "
        f"Run {told.run_id[:8]} took {seconds:.0f} s in all."
    )
    console.print(
        "next: [bold]make ui[/] opens Dagster on these data; [bold]customer-insights load PATH[/] adds your own reviews"
    )


_SCORED = (
    ("review_sentiment", "rows scored by Cortex"),
    ("review_sentiment", "rows scored on the compute pool"),
    ("review_quality", "rows classified"),
)


_METRICS = {
    "ROC-AUC": "roc_auc",
    "PR-AUC": "average_precision",
    "log loss": "log_loss",
    "Brier": "brier",
    "ECE": "expected_calibration_error",
    "lift 10 %": "top_decile_lift",
}


def _show_model(console: Console, told: Progress) -> None:
    from customer_insights import sample_data
    from customer_insights.synthetic_purchases import best_achievable_auc

    metrics = told.metadata.get("conversion_model", {})
    champion = told.metadata.get("champion", {})
    if "challenger_roc_auc" not in metrics:
        return
    names = (
        ("challenger", "this model"),
        ("champion", "champion before"),
        ("logistic_regression", "logistic regression"),
        ("known_before_purchase", "without the review"),
        ("prior", "purchase rate alone"),
    )
    rows = [
        [label, *(f"{float(metrics[f'{name}_{metric}']):.3f}" for metric in _METRICS.values())]
        for name, label in names
        if f"{name}_roc_auc" in metrics
    ]
    title = (
        f"Model {metrics.get('version')} on {metrics.get('test_rows')} test visits, ROC-AUC "
        f"{float(metrics['challenger_roc_auc_low']):.3f} to {float(metrics['challenger_roc_auc_high']):.3f} (95 %); "
        f"in service: {champion.get('champion')}"
    )
    console.print()
    console.print(summary(title, ["", *_METRICS], rows))
    frame = sample_data.purchases(sample_data.sample(directory=SAMPLE_DIRECTORY))
    best = best_achievable_auc(frame["TRUE_PROBABILITY"].to_numpy())
    console.print(f"the purchases are synthetic: no model that sees these features can expect an AUC above {best:.3f}")


def _excerpt(text: str) -> str:
    whole = " ".join(text.split())
    return whole if len(whole) <= EXCERPT_CHARACTERS else f"{whole[: EXCERPT_CHARACTERS - 1]}…"


def _show_predictions(console: Console, session: Session) -> None:

    found = session.sql(
        "SELECT f.PRODUCT_TYPE, f.PRODUCT_LAYOUT, f.PAGE_LOAD_TIME, f.REVIEW_SENTIMENT, r.LANGUAGE, r.REVIEW_TEXT, "
        "p.PURCHASE_PROBABILITY, p.DECILE\n"
        "FROM PURCHASE_PROPENSITY AS p\n"
        "JOIN PURCHASE_FEATURES AS f ON f.UUID = p.UUID JOIN REVIEWS AS r ON r.UUID = p.UUID\n"
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY p.DECILE ORDER BY MD5(p.UUID)) = 1 AND p.DECILE IN (1, 3, 5, 8, 10)\n"
        "ORDER BY p.PURCHASE_PROBABILITY DESC"
    ).collect()
    rows = [
        [
            f"{row['PRODUCT_TYPE']} / {row['PRODUCT_LAYOUT']}",
            f"{row['PAGE_LOAD_TIME']:.1f} s",
            "" if row["REVIEW_SENTIMENT"] is None else f"{row['REVIEW_SENTIMENT']:+.2f}",
            f"{row['LANGUAGE']}: {_excerpt(str(row['REVIEW_TEXT']))}",
            f"{row['PURCHASE_PROBABILITY']:.2f}",
            row["DECILE"],
        ]
        for row in found
    ]
    console.print()
    columns = ["product", "load", "sentiment", "review", "purchase", "decile"]
    console.print(summary("Five predictions of a purchase", columns, rows))
