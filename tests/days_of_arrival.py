"""Files that arrived on given days, and runs of given days, for tests of what is asked for: the stage, the ledger and
Dagster's instance are real; what a run computes is left out."""

from __future__ import annotations

import os
from datetime import UTC, datetime, time, timedelta

import dagster as dg
import pandas as pd
from conftest import Graph, today
from scored_reviews import insert

from assets import catalogue
from customer_insights import ingest
from customer_insights.settings import settings
from customer_insights.tables import INGESTED_FILES
from schedules import day_requests


def day(before_today: int) -> str:
    return (datetime.fromisoformat(today()).date() - timedelta(days=before_today)).isoformat()


def arrive(graph: Graph, name: str, on: str, content: bytes = b'"a-1","good chair"') -> None:
    """Put a file on the stage as if that had been done at noon of a day."""
    graph.put(name, content)
    stored = graph.embedded.home / "data" / "stages" / graph.database / "HOL_SCHEMA" / "REVIEWS" / name
    noon = datetime.combine(datetime.fromisoformat(on), time(12), UTC).timestamp()
    os.utime(stored, (noon, noon))


def read(graph: Graph, *days: str) -> None:
    """Write down in the ledger that the files of these days have been read."""
    session = graph.session()
    files = [
        file
        for file in ingest.pending_files(session, settings(), min(days), max(days))
        if file.arrival_date.isoformat() in days
    ]
    rows = pd.DataFrame(
        {
            "SOURCE_FILE": [file.name for file in files],
            "FILE_SIZE": [file.size for file in files],
            "FILE_MD5": [file.md5 for file in files],
            "ARRIVAL_DATE": [file.arrival_date for file in files],
            "FILE_ARRIVED_AT": [file.modified for file in files],
            "ROWS_ACCEPTED": 1,
            "ROWS_REJECTED": 0,
            "INGESTED_AT": [file.modified for file in files],
            "RUN_ID": "a run",
        }
    )
    insert(session, INGESTED_FILES, rows)


def run(
    instance: dg.DagsterInstance, first: str, last: str | None = None, fails: str = ""
) -> dg.ExecuteInProcessResult:
    """A run of daily_reviews for a day or a range of days, in which the asset ``fails`` raises."""

    def step(key: dg.AssetKey, upstream: list[dg.AssetKey]) -> dg.AssetsDefinition:
        @dg.asset(
            key=key, deps=upstream, partitions_def=catalogue.DAILY, backfill_policy=dg.BackfillPolicy.single_run()
        )
        def made() -> None:
            if key.to_user_string() == fails:
                raise dg.Failure("made to fail", allow_retries=False)

        return made

    raw, *scores = day_requests.OF_REVIEWS
    assets = [step(raw, []), *(step(key, [raw]) for key in scores)]
    job = dg.define_asset_job("daily_reviews", selection=dg.AssetSelection.all(), partitions_def=catalogue.DAILY)
    tags = dict(day_requests.request(first, last or first, "", {}).tags)
    return (
        dg.Definitions(assets=assets, jobs=[job])
        .resolve_job_def("daily_reviews")
        .execute_in_process(
            instance=instance,
            partition_key=None if last else first,
            tags=tags,
            raise_on_error=False,
        )
    )
