"""What nobody needs any more, found and removed: ended jobs and their results, payloads and run folders on the stages,
staging tables, old versions of the model and what is kept of them.

What is of the last days stays, and so does whatever a live job, a run that has not ended, or a version that serves or
ever served needs. Jobs and folders of runs that have just ended are for ``job_sweep``. Dagster's own runs and events
are not touched. Each function finds one kind and says why; nothing is removed before ``Leftover.remove``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from dagster import DagsterInstance

from customer_insights import model_versions, promotion, query, stage_files, training_set
from customer_insights.identifiers import validated
from customer_insights.settings import Settings
from customer_insights.stage_files import StageFile
from customer_insights.tables import CHAMPION_HISTORY, MODEL_EVALUATIONS, MODEL_REFERENCE
from resources.job_lookup import KnownJob, jobs_in, owners, retries
from resources.pipes_stage import remove_files

if TYPE_CHECKING:
    from snowflake.snowpark import Session

logger = logging.getLogger(__name__)

_PAYLOAD = re.compile(r"payload_[0-9a-f]{12}")
_JOB_NAME = re.compile(r".+_[0-9A-F]{32}_[0-9A-F]{6}")
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# As `customer_insights.publish` names them. They are temporary; what is there for days was made by a session that the
# server has lost.
_STAGING = re.compile(r"(STAGED|FRAME|TEMPORARY)_[0-9A-F]{16}")


@dataclass(frozen=True)
class Leftover:
    """One thing to remove. ``bytes`` is None where the server does not say."""

    kind: str
    name: str
    why: str
    bytes: int | None
    remove: Callable[[Session], object] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Place:
    """Where to look, and what counts as old: what was made before ``before`` (UTC)."""

    settings: Settings
    before: datetime

    @property
    def schema(self) -> str:
        return self.settings.qualified_schema

    @property
    def payload_stage(self) -> str:
        return f"@{self.schema}.{validated(self.settings.payload_stage)}"

    @property
    def work_stage(self) -> str:
        return f"@{self.schema}.{validated(self.settings.work_stage)}"

    def is_old(self, moment: datetime) -> bool:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) < self.before


@dataclass
class Removed:
    """What was found, and what could not be removed."""

    found: list[Leftover]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(one.bytes or 0 for one in self.found if one.name not in self.refused)


def clear(session: Session, found: list[Leftover]) -> Removed:
    """Remove everything; what the server refuses is told, and the rest is removed all the same."""
    from snowflake.connector.errors import Error
    from snowflake.snowpark.exceptions import SnowparkClientException

    done = Removed(found)
    for one in found:
        try:
            one.remove(session)
        except (Error, SnowparkClientException, ValueError) as error:
            logger.warning("%s %s was not removed: %s", one.kind, one.name, error)
            done.refused[one.name] = str(error)
    return done


# -- jobs and stages --------------------------------------------------------------------------------------------------


def ended_jobs(session: Session, place: Place, instance: DagsterInstance) -> list[Leftover]:
    """Services of jobs that ended and whose runs are over, with their results; the server keeps their logs so long."""
    results = _of_jobs(stage_files.list_files(session, place.payload_stage)) if _has(session, place, "payload") else {}
    found = []
    for job in jobs_in(session, place.schema):
        if job.is_live or not place.is_old(job.created_on) or not _is_over(instance, job):
            continue
        files = results.get(job.name, [])
        folders = {file.name.rsplit(job.name, 1)[0] + job.name for file in files}
        found.append(
            Leftover(
                "job",
                job.name,
                f"{job.status} since {job.created_on:%Y-%m-%d}, its run is over",
                sum(file.size for file in files),
                partial(_remove_job, job_id=job.id, folders=[f"{place.payload_stage}/{name}" for name in folders]),
            )
        )
    return found


def _remove_job(session: Session, job_id: str, folders: Iterable[str]) -> None:
    # Not `snowflake.ml.jobs.delete_job`, which removes the payload that other jobs share.
    query.rows(session, f"DROP SERVICE IF EXISTS {'.'.join(validated(part) for part in job_id.split('.'))}")
    for folder in folders:
        remove_files(session.connection, folder)


def _is_over(instance: DagsterInstance, job: KnownJob) -> bool:
    """Whether no run reads the job, nor will; a run that this instance does not know may be another's."""
    if any(not run.is_finished for run in retries(instance, job)):
        return False
    return all(run is not None and run.is_finished for run in owners(instance, job))


def _of_jobs(files: Iterable[StageFile]) -> dict[str, list[StageFile]]:
    """Job -> the files in folders of its name on the payload stage: its result, its context and messages."""
    found: dict[str, list[StageFile]] = {}
    for file in files:
        for part in file.name.split("/")[1:2]:
            if _JOB_NAME.fullmatch(part):
                found.setdefault(part, []).append(file)
    return found


def old_payloads(session: Session, place: Place) -> list[Leftover]:
    """Code on the payload stage that no job on the server was started from, nor was uploaded lately."""
    if not _has(session, place, "payload"):
        return []
    used = {str(json.loads(job.comment).get("payload")) for job in jobs_in(session, place.schema)}
    folders = _folders(stage_files.list_files(session, place.payload_stage))
    return [
        Leftover(
            "payload",
            name,
            "no job on the server was started from it",
            sum(file.size for file in files),
            partial(_remove_folder, location=f"{place.payload_stage}/{name}"),
        )
        for name, files in folders.items()
        if _PAYLOAD.fullmatch(name)
        and name.removeprefix("payload_") not in used
        and all(place.is_old(file.modified) for file in files)
    ]


def run_folders(session: Session, place: Place, instance: DagsterInstance) -> list[Leftover]:
    """Folders of runs on the work stage, and of jobs under ``pipes/``, of which nothing is live.

    Also those of runs that Dagster has forgotten, which the sweep leaves alone.
    """
    live = [job for job in jobs_in(session, place.schema) if job.is_live]
    kept = {job.run_id for job in live} | {job.name for job in live}
    work = _folders(stage_files.list_files(session, place.work_stage)) if _has(session, place, "work") else {}
    wanted = {f"{place.work_stage}/{name}": files for name, files in work.items() if _RUN_ID.fullmatch(name)}
    if _has(session, place, "payload"):
        pipes = [
            file for file in stage_files.list_files(session, place.payload_stage) if file.name.startswith("pipes/")
        ]
        wanted |= {f"{place.payload_stage}/pipes/{name}": files for name, files in _of_jobs(pipes).items()}
    return [
        Leftover(
            "run's files",
            location.removeprefix(f"@{place.schema}."),
            f"nothing was written there since {max(file.modified for file in files):%Y-%m-%d}",
            sum(file.size for file in files),
            partial(_remove_folder, location=location),
        )
        for location, files in wanted.items()
        if (name := location.rsplit("/", 1)[1]) not in kept
        and all(place.is_old(file.modified) for file in files)
        and not _goes_on(instance, name)
    ]


def _goes_on(instance: DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id) if _RUN_ID.fullmatch(run_id) else None
    return run is not None and not run.is_finished


def _folders(files: Iterable[StageFile]) -> dict[str, list[StageFile]]:
    """Folder right under the stage -> everything in it."""
    found: dict[str, list[StageFile]] = {}
    for file in files:
        folder, slash, _ = file.name.partition("/")
        if slash:
            found.setdefault(folder, []).append(file)
    return found


def _remove_folder(session: Session, location: str) -> None:
    remove_files(session.connection, location)


def _has(session: Session, place: Place, stage: str) -> bool:
    """Whether the stage of the payloads or of the work is there: the first job makes it."""
    name = getattr(place.settings, f"{stage}_stage")
    shown = query.rows(session, f"SHOW STAGES LIKE '{validated(name)}' IN SCHEMA {place.schema}")
    return any(row["name"] == name for row in shown)


# -- tables -----------------------------------------------------------------------------------------------------------


def staging_tables(session: Session, place: Place) -> list[Leftover]:
    """Tables of a publication that was cut off."""
    return [
        Leftover(
            "staging table",
            row["name"],
            f"made on {row['created_on']:%Y-%m-%d} by a publication that never ended",
            int(row.get("bytes") or 0),
            partial(query.rows, sql=f"DROP TABLE IF EXISTS {place.schema}.{validated(row['name'])}"),
        )
        for row in query.rows(session, f"SHOW TABLES IN SCHEMA {place.schema}")
        if _STAGING.fullmatch(row["name"]) and place.is_old(row["created_on"])
    ]


# -- versions of the model --------------------------------------------------------------------------------------------


def old_versions(session: Session, place: Place) -> list[Leftover]:
    """Versions that are not among the newest of the settings, have no alias, and never served."""
    settings = place.settings
    served = {
        str(name)
        for row in query.rows(session, f"SELECT MODEL_VERSION, PREVIOUS_VERSION FROM {CHAMPION_HISTORY.name}")
        for name in row.values()
        if name
    }
    found = promotion.versions(session, settings)
    in_service = promotion.find_in_service(session, found)
    kept = served | ({in_service.name} if in_service else set())
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    default = _default_version(session, model) if found else None
    return [
        Leftover(
            "model version",
            version.name,
            f"not among the newest {settings.kept_model_versions}, and never served",
            None,
            partial(query.rows, sql=f"ALTER MODEL {model} DROP VERSION {validated(version.name)}"),
        )
        for version in found[: -settings.kept_model_versions]
        if not version.aliases and version.name not in kept and version.name != default
    ]


def _default_version(session: Session, model: str) -> str | None:
    shown = query.rows(session, f"SHOW VERSIONS IN MODEL {model}")
    return next((str(row["name"]) for row in shown if str(row["is_default_version"]).lower() == "true"), None)


def training_sets(session: Session, place: Place, without: Iterable[str] = ()) -> list[Leftover]:
    """Frozen rows that no version of the model was trained on; ``without``: versions that are about to go."""
    versions = _remaining(session, place, without)
    if not versions:
        # Not to be told from a registry that this role may not see.
        return []
    used = {
        model_versions.training_set_name(str(version.metrics["training_set"]))
        for version in versions
        if "training_set" in version.metrics
    }
    return [
        Leftover(
            "training set",
            name,
            "no version in the registry was trained on it",
            None,
            partial(training_set.discard, settings=place.settings, name=name),
        )
        for name, frozen in training_set.versions(session, place.settings).items()
        if name not in used and place.is_old(frozen)
    ]


def records_of_versions(session: Session, place: Place, without: Iterable[str] = ()) -> list[Leftover]:
    """Rows of MODEL_REFERENCE and MODEL_EVALUATIONS of versions that the registry has no more."""
    versions = [version.name for version in _remaining(session, place, without)]
    if not versions:
        return []
    found = []
    for table, written in ((MODEL_REFERENCE, "LOGGED_AT"), (MODEL_EVALUATIONS, "MEASURED_AT")):
        # Training writes them before it logs the version: what is new may belong to one that is on its way.
        gone = f"MODEL_VERSION NOT IN ({', '.join('?' for _ in versions)}) AND {written} < ?::TIMESTAMP_NTZ"
        binds = [*versions, place.before.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")]
        counts = query.rows(
            session, f"SELECT MODEL_VERSION AS V, COUNT(*) AS N FROM {table.name} WHERE {gone} GROUP BY V", binds
        )
        found += [
            Leftover(
                "rows",
                f"{table.name} of {row['V']}",
                f"{row['N']} rows of a version that is not in the registry",
                None,
                partial(query.rows, sql=f"DELETE FROM {table.name} WHERE MODEL_VERSION = ?", binds=[row["V"]]),
            )
            for row in counts
        ]
    return found


def _remaining(session: Session, place: Place, without: Iterable[str]) -> list[promotion.Version]:
    gone = set(without)
    return [version for version in promotion.versions(session, place.settings) if version.name not in gone]
