"""The gate between challenger and champion, by SQL on the registry: who challenges, what was measured, and the move of
the alias.

Reads the metrics that training stored with the version; computing them is ``conversion``'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from customer_insights import query
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.identifiers import validated
from customer_insights.settings import Settings
from customer_insights.stage_files import is_missing

if TYPE_CHECKING:
    from snowflake.snowpark import Session

ALIAS_ATTEMPTS = 8


@dataclass(frozen=True)
class Version:
    """One version of the model in the registry."""

    name: str
    aliases: tuple[str, ...]
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Whether the challenger may be promoted, and each condition with what was found."""

    challenger: Version
    champion: Version | None
    conditions: dict[str, tuple[bool, str]]

    @property
    def passed(self) -> bool:
        return all(passed for passed, _ in self.conditions.values())


def versions(session: Session, settings: Settings) -> list[Version]:
    """Every version of the model, the oldest first; empty when there is no model."""
    name = validated(settings.model_name)
    if not query.rows(session, f"SHOW MODELS LIKE '{name}' IN SCHEMA {settings.qualified_schema}"):
        return []
    rows = query.rows(session, f"SHOW VERSIONS IN MODEL {settings.qualified_schema}.{name}")
    # Snowflake shows them by name.
    return [_version(row) for row in sorted(rows, key=lambda row: row["created_on"])]


def _version(row: dict[str, Any]) -> Version:
    metadata = json.loads(row.get("metadata") or "{}")
    return Version(
        name=row["name"],
        aliases=tuple(json.loads(row["aliases"]) if isinstance(row["aliases"], str) else row["aliases"] or ()),
        metrics=metadata.get("metrics", {}),
    )


def with_alias(found: list[Version], alias: str) -> Version | None:
    """The version that has the alias, if any."""
    return next((version for version in found if alias in version.aliases), None)


def decide(challenger: Version, champion: Version | None, settings: Settings) -> Decision:
    """Compare the challenger with the prior, and with the champion on the same test rows.

    A challenger that was measured before this champion came into service does not replace it.
    """
    measured = challenger.metrics
    auc, prior_loss = float(measured["challenger_roc_auc"]), float(measured["prior_log_loss"])
    loss, low = float(measured["challenger_log_loss"]), float(measured["challenger_roc_auc_low"])
    conditions = {
        "better_than_chance": (
            low > 0.5,
            f"ROC-AUC {auc:.3f}, lower end of its interval {low:.3f}, must exceed 0.5",
        ),
        "better_than_the_prior": (loss < prior_loss, f"log loss {loss:.4f} must be below the prior's {prior_loss:.4f}"),
    }
    if champion and champion.name != challenger.name:
        in_service = _same_test_rows(challenger, champion)
        conditions["not_worse_than_the_champion"] = (
            in_service is not None and auc >= in_service - settings.promotion_tolerance,
            f"ROC-AUC {auc:.4f} must reach the champion's {in_service:.4f} less {settings.promotion_tolerance} "
            f"({champion.name}, same test rows)"
            if in_service is not None
            else f"was not measured on the same test rows as {champion.name}, which came into service meanwhile: train "
            "a new version (on new features, or with another CUSTOMER_INSIGHTS_TRAINING_CODE_VERSION)",
        )
    return Decision(challenger, champion, conditions)


def _same_test_rows(challenger: Version, champion: Version) -> float | None:
    """ROC-AUC of the champion on the challenger's test rows, where it is known."""
    measured, known = challenger.metrics, champion.metrics
    if measured.get("champion_version") == champion.name:
        return float(measured["champion_roc_auc"])
    if measured.get("training_set") and measured.get("training_set") == known.get("training_set"):
        return float(known["challenger_roc_auc"])
    return None


def challenge(session: Session, settings: Settings, version: Version) -> None:
    """Give a version the alias CHALLENGER, unless it has it or is the champion; an alias is on one version at most."""
    if {"CHALLENGER", "CHAMPION"} & set(version.aliases):
        return
    _move_alias(session, settings, "CHALLENGER", version.name)


def _move_alias(session: Session, settings: Settings, alias: str, version: str) -> None:
    """Take the alias from the version that has it and give it to this one; tried again when another run was faster.

    Raises:
        RetryableError: others moved the alias through every attempt.
    """
    from snowflake.snowpark.exceptions import SnowparkSQLException
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception(_alias_was_moved),
        stop=stop_after_attempt(ALIAS_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    try:
        retrying(_move_alias_once, session, settings, alias, version)
    except SnowparkSQLException as error:
        if _alias_was_moved(error):
            raise RetryableError(
                f"the alias {alias} of {settings.model_name} was moved by others through {ALIAS_ATTEMPTS} attempts"
            ) from error
        raise


def exists_already(error: BaseException) -> bool:
    """Whether a statement, or the registry's own look, failed because the object is there."""
    return "already exist" in str(error)


def _alias_was_moved(error: BaseException) -> bool:
    """Whether the alias was gone when it was to be taken away, or given by another run meanwhile."""
    from snowflake.snowpark.exceptions import SnowparkSQLException

    return isinstance(error, SnowparkSQLException) and (is_missing(error) or exists_already(error))


def _move_alias_once(session: Session, settings: Settings, alias: str, version: str) -> None:
    current = with_alias(versions(session, settings), alias)
    if current and current.name == version:
        return
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    if current:
        query.rows(session, f"ALTER MODEL {model} VERSION {alias} UNSET ALIAS")
    query.rows(session, f"ALTER MODEL {model} VERSION {validated(version)} SET ALIAS = {alias}")


def promote(session: Session, settings: Settings, version: str) -> None:
    """Move the alias CHAMPION and the default version to ``version``; nothing happens where they are there already."""
    _move_alias(session, settings, "CHAMPION", version)
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    session.sql(f"ALTER MODEL {model} SET DEFAULT_VERSION = {validated(version)}").collect()


def trained_on(found: list[Version], training_set: str, code_version: str) -> Version | None:
    """The newest version that was trained on this very training set by this code."""
    matching = [
        version
        for version in found
        if str(version.metrics.get("training_set")) == training_set
        and str(version.metrics.get("training_code_version")) == code_version
    ]
    return matching[-1] if matching else None


def in_service(session: Session, settings: Settings) -> Version:
    """The champion.

    Raises:
        PermanentError: no version has been promoted.
    """
    served = with_alias(versions(session, settings), "CHAMPION")
    if served is None:
        raise PermanentError(
            f"no version of {settings.model_name} is CHAMPION: materialize conversion_model and champion"
        )
    return served
