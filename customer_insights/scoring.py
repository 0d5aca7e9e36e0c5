"""Scoring reviews in batches on a Ray cluster: unload what is not scored, score it with one model an actor, publish it
at once.

What a score is belongs in ``sentiment`` and ``quality``. Memory is bounded by the files of the unload: an actor holds
one at a time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from customer_insights import publish, stage_files
from customer_insights.errors import RetryableError
from customer_insights.tables import Table
from customer_insights.transient import causes, error_number

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

# An actor that dies (out of memory, a lost node) is started again, and its file is scored again, this many times.
ACTOR_RESTARTS = 2


@dataclass(frozen=True)
class ScoringReport:
    """What a scoring job did. ``seconds`` is from the first statement to the last."""

    rows: int
    inserted: int
    updated: int
    actors: int
    nodes: int
    seconds: float
    files: int


def score_pending(
    session: Session,
    *,
    pending: str,
    binds: Sequence[object],
    table: Table,
    prefix: str,
    run_id: str,
    make_scorer: Callable[[], Callable[[pd.DataFrame], pd.DataFrame]],
) -> ScoringReport:
    """Score the rows of the query ``pending`` and merge them into ``table``.

    Args:
        pending: query with the columns UUID, TEXT_HASH, REVIEW_TEXT, LANGUAGE and ARRIVAL_DATE, one row a review.
        prefix: stage location of this run (``@WORK_STAGE/<run id>/...``); what is under it is removed first, and what
            this attempt writes at the end, also after an error.
        make_scorer: called once in every actor; its result turns a frame of pending rows into a frame with the score
            columns of ``table``, in the same order.

    Raises:
        RetryableError: files of this attempt were removed by another one of the same run.
    """
    import ray

    started = time.monotonic()
    # Left by an attempt of this run that was killed. Each has a folder of its own: an unload leaves older files where
    # they are, and their scores may be of a text that has changed.
    stage_files.remove(session, prefix)
    attempt = f"{prefix}/{secrets.token_hex(8)}"
    texts, scores = f"{attempt}/pending", f"{attempt}/scores"
    try:
        publish.unload(session, pending, texts, binds)
        files = stage_files.list_names(session, texts)
        if not files:
            return ScoringReport(0, 0, 0, 0, 0, time.monotonic() - started, 0)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        slots = max(1, min(len(files), int(ray.cluster_resources().get("CPU", 1))))
        actors = [_scorer_actor().remote(make_scorer, table, scores, run_id) for _ in range(slots)]
        pool: Any = ray.util.ActorPool(actors)
        scored = pool.map_unordered(lambda actor, file: actor.score.remote(file), files)
        rows = sum(int(count) for count in scored)
        merged = publish.merge(session, table, scores)
        if merged.inserted + merged.updated != rows:
            raise RetryableError(
                f"{rows} reviews were scored and {merged.inserted + merged.updated} published in {table.name}: another "
                "attempt of this run removed files meanwhile; run it again, and only what is missing is scored"
            )
        return ScoringReport(
            rows, merged.inserted, merged.updated, slots, len(nodes), time.monotonic() - started, len(files)
        )
    finally:
        stage_files.remove(session, attempt)


def _read_pending(session: Session, file: str) -> pd.DataFrame:
    """One file of pending rows.

    Raises:
        RetryableError: another attempt of this run has removed it.
    """
    from snowflake.connector.errorcode import ER_FILE_NOT_EXISTS

    try:
        return stage_files.read_parquet(session, file)
    except Exception as error:
        if ER_FILE_NOT_EXISTS in map(error_number, causes(error)):
            raise RetryableError(
                f"{file} was unloaded and is not there any more: another attempt of this run removed it; run it again"
            ) from error
        raise


def _scorer_actor() -> Any:
    import ray

    @ray.remote(num_cpus=1, max_restarts=ACTOR_RESTARTS, max_task_retries=ACTOR_RESTARTS, scheduling_strategy="SPREAD")
    class Scorer:
        """Holds one model and scores one file at a time."""

        def __init__(self, make_scorer: Callable, table: Table, scores: str, run_id: str) -> None:
            self._score = make_scorer()
            self._table, self._scores, self._run_id = table, scores, run_id

        def score(self, file: str) -> int:
            """Score one file of pending rows; written under the same name, so that a retry overwrites its own."""
            from customer_insights.job_session import job_session

            session = job_session()
            pending = _read_pending(session, file)
            scored = pending[["UUID", "TEXT_HASH", "LANGUAGE", "ARRIVAL_DATE"]].join(self._score(pending))
            scored["SCORED_AT"] = datetime.now(UTC).replace(tzinfo=None)
            scored["RUN_ID"] = self._run_id
            name = file.rsplit("/", 1)[-1]
            stage_files.write_parquet(session, scored[list(self._table.column_names)], f"{self._scores}/{name}")
            return len(scored)

    return Scorer
