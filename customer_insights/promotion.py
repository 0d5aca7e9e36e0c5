"""The gate between challenger and champion, by SQL on the registry: who challenges, what was measured, the move of the
alias, and the way back.

Reads the metrics that training stored with the version; computing them is the work of ``evaluation``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from customer_insights import query
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.identifiers import validated
from customer_insights.settings import Settings
from customer_insights.stage_files import is_missing
from customer_insights.tables import CHAMPION_HISTORY, MODEL_FEATURES, MODEL_REFERENCE, NUMERIC_FEATURES

if TYPE_CHECKING:
    from snowflake.snowpark import Session

ALIAS_ATTEMPTS = 8
# Of a metric that holds a parameter of training.
PARAMETER = "parameter_"
PROMOTION, ROLLBACK = "promotion", "rollback"
# scikit-learn's predict_proba has no names for its columns; the registry calls them so, in the order of the classes 0
# and 1.
PURCHASE_OUTPUT = "output_feature_1"
# Test visits whose predictions the registry's copy must give again, and by how much they may differ: XGBoost computes
# in single precision.
REPRODUCED_ROWS = 200
# What a version predicts from, as its metrics keep it.
FEATURES = ", ".join(MODEL_FEATURES)
REPRODUCED_WITHIN = 1e-5


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


def chosen_parameters(version: Version) -> dict[str, Any]:
    """What the search chose for a version; empty where there was none."""
    return {
        name.removeprefix(PARAMETER): value for name, value in version.metrics.items() if name.startswith(PARAMETER)
    }


def with_alias(found: list[Version], alias: str) -> Version | None:
    """The version that has the alias, if any."""
    return next((version for version in found if alias in version.aliases), None)


def fitness(version: Version, settings: Settings) -> dict[str, tuple[bool, str]]:
    """What a version must be to serve at all, whoever serves now: condition -> (holds, what was found)."""
    measured = version.metrics
    auc, low = float(measured["challenger_roc_auc"]), float(measured["challenger_roc_auc_low"])
    loss, prior_loss = float(measured["challenger_log_loss"]), float(measured["prior_log_loss"])
    error, by_chance = (
        float(measured["challenger_expected_calibration_error"]),
        float(measured["calibration_by_chance"]),
    )
    allowed = settings.calibration_limit + by_chance
    gone = str(measured["segments_collapsed"])
    return {
        "better_than_chance": (
            low > 0.5,
            f"ROC-AUC {auc:.3f}, lower end of its interval {low:.3f}, must exceed 0.5",
        ),
        "better_than_the_prior": (loss < prior_loss, f"log loss {loss:.4f} must be below the prior's {prior_loss:.4f}"),
        "calibrated": (
            error <= allowed,
            f"expected calibration error {error:.4f} must not exceed {allowed:.4f}: the setting's "
            f"{settings.calibration_limit} beyond what chance gives a true model on {measured['test_rows']} visits "
            f"({by_chance:.4f}, 95 %)",
        ),
        "no_segment_collapsed": (
            not gone,
            f"may be guessing, and is surely worse than on the whole, in: {gone}"
            if gone
            else f"in none of {measured['segments_measured']} segments (languages, product types) perhaps guessing and "
            "surely worse than on the whole",
        ),
    }


def reproduction(session: Session, settings: Settings, version: Version) -> tuple[bool, str]:
    """Whether the registry's function gives the predictions that the model gave when it was trained, on a fixed set of
    test visits."""
    arguments = ", ".join(f"r.{name}::FLOAT" if name in NUMERIC_FEATURES else f"r.{name}" for name in MODEL_FEATURES)
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    found = query.row(
        session,
        f"WITH m AS MODEL {model} VERSION {validated(version.name)}\n"
        f"SELECT COUNT(*) AS N, COUNT(ANSWER:{PURCHASE_OUTPUT}::FLOAT) AS ANSWERED,\n"
        f"  MAX(ABS(ANSWER:{PURCHASE_OUTPUT}::FLOAT - PURCHASE_PROBABILITY)) AS D FROM (\n"
        f"  SELECT r.PURCHASE_PROBABILITY, m!PREDICT_PROBA({arguments}) AS ANSWER FROM (\n"
        f"    SELECT * FROM {MODEL_REFERENCE.name} WHERE MODEL_VERSION = ? AND PART = 'test'\n"
        f"    ORDER BY MD5(UUID) LIMIT {REPRODUCED_ROWS}\n"
        "  ) AS r\n"
        ") AS answers",
        [version.name],
    )
    rows, answered = int(found["N"]), int(found["ANSWERED"])
    if not rows:
        return False, f"MODEL_REFERENCE holds no test visits of {version.name}: train it again"
    if answered < rows:
        return (
            False,
            f"the registry's function of {version.name} gave {rows - answered} of {rows} test visits no answer",
        )
    difference = float(found["D"])
    return (
        difference <= REPRODUCED_WITHIN,
        f"predictions of {rows} test visits by the registry's function differ from those at training by at most "
        f"{difference:.1e}; {REPRODUCED_WITHIN} is allowed",
    )


def decide(
    challenger: Version,
    champion: Version | None,
    settings: Settings,
    *,
    reproduced: tuple[bool, str] | None = None,
    withdrawn: Mapping[str, str] | None = None,
) -> Decision:
    """Whether the challenger is fit to serve, and not worse than the champion on the same test rows.

    A challenger that was measured before this champion came into service does not replace it, nor does a version that
    somebody rolled back from.

    Args:
        reproduced: what ``reproduction`` found of the challenger.
        withdrawn: what ``withdrawn`` found: version -> why it was taken out of service.
    """
    conditions = fitness(challenger, settings)
    if reproduced:
        conditions["reproduced_by_the_registry"] = reproduced
    if champion and champion.name != challenger.name:
        conditions |= _compared(challenger, champion, settings)
        if withdrawn is not None:
            reason = withdrawn.get(challenger.name)
            conditions["not_withdrawn"] = (
                reason is None,
                f"was taken out of service: {reason}" if reason else "nobody rolled back from this version",
            )
    return Decision(challenger, champion, conditions)


def _compared(challenger: Version, champion: Version, settings: Settings) -> dict[str, tuple[bool, str]]:
    measured = challenger.metrics
    names = ("not_worse_than_the_champion", "no_segment_worse_than_the_champion")
    if not reads_present_features(champion):
        text = f"{champion.name} was trained on other features than PURCHASE_FEATURES has now: it cannot predict them"
        return dict.fromkeys(names, (True, text))
    if measured.get("champion_version") != champion.name:
        text = (
            f"was not measured on the same test visits as {champion.name}, which came into service meanwhile: "
            "materialize conversion_model again"
        )
        return dict.fromkeys(names, (False, text))
    auc, tolerance = float(measured["challenger_roc_auc"]), settings.promotion_tolerance
    less, low, high = (float(measured[f"roc_auc_less_champion{end}"]) for end in ("", "_low", "_high"))
    worse = str(measured["segments_worse_than_champion"])
    found = (
        (
            high >= 0 and less >= -tolerance,
            f"ROC-AUC {auc:.4f}, {less:+.4f} against {champion.name} on the same {measured['test_rows']} visits, "
            f"interval {low:+.4f} to {high:+.4f}: must reach 0, and the difference {-tolerance}",
        ),
        (
            not worse,
            f"surely worse than {champion.name} in: {worse}" if worse else f"surely worse than {champion.name} in none",
        ),
    )
    return dict(zip(names, found, strict=True))


def reads_present_features(version: Version) -> bool:
    """Whether a version was trained on the columns that PURCHASE_FEATURES has now, and so can predict them."""
    return version.metrics.get("features") == FEATURES


def is_to_be_measured_again(version: Version, served: Version | None) -> bool:
    """Whether another version came into service since this one was measured, so that they cannot be compared."""
    return (
        served is not None
        and served.name != version.name
        and reads_present_features(served)
        and version.metrics.get("champion_version") != served.name
    )


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


def promote(session: Session, settings: Settings, version: str, reason: str, run_id: str) -> None:
    """Move the alias CHAMPION and the default version to ``version``, and write down why; nothing happens where they
    are there already."""
    before = find_in_service(session, versions(session, settings))
    if before is None or before.name != version:
        _record(session, version, before, PROMOTION, reason, run_id)
    _serve(session, settings, version)


def roll_back(session: Session, settings: Settings, to: str | None, reason: str, run_id: str) -> tuple[str, str]:
    """Take the version in service out of it and put an earlier one back: ``to``, or the one that served before.

    The version that is taken out is not promoted again by the gate. The same run (``run_id``: that of its first
    attempt) rolls back once, however often it is tried. Returns the version now in service and the one taken out.

    Raises:
        PermanentError: nothing served before, or ``to`` is no version of the model, or serves already.
    """
    done = query.rows(
        session,
        f"SELECT MODEL_VERSION, PREVIOUS_VERSION FROM {CHAMPION_HISTORY.name} WHERE RUN_ID = ? AND ACTION = ?",
        [run_id, ROLLBACK],
    )
    if done:
        restored, withdrawn_version = str(done[0]["MODEL_VERSION"]), str(done[0]["PREVIOUS_VERSION"])
        _serve(session, settings, restored)
        return restored, withdrawn_version
    found = versions(session, settings)
    served = in_service(session, settings)
    restored = to or _served_before(session, found, served)
    if restored not in {version.name for version in found}:
        raise PermanentError(
            f"{settings.model_name} has no version {restored}; it has {', '.join(version.name for version in found)}"
        )
    back = next(version for version in found if version.name == restored)
    if not reads_present_features(back):
        raise PermanentError(
            f"{restored} was trained on other features ({back.metrics.get('features', 'unknown')}) than "
            f"PURCHASE_FEATURES has now ({FEATURES}): it could not predict. Check out the commit that made it"
        )
    if restored == served.name:
        raise PermanentError(f"{restored} is in service already: there is nothing to roll back")
    _record(session, restored, served, ROLLBACK, reason, run_id)
    _serve(session, settings, restored)
    return restored, served.name


def _served_before(session: Session, found: list[Version], served: Version) -> str:
    """The version that served before ``served``, is still in the registry, and was not taken out of service itself."""
    # Only what was replaced has surely served: a decision is written down before the alias moves.
    replaced = query.rows(session, f"SELECT PREVIOUS_VERSION FROM {CHAMPION_HISTORY.name} ORDER BY CHANGED_AT DESC")
    out = withdrawn(session)
    names = {version.name for version in found}
    for row in replaced:
        name = row["PREVIOUS_VERSION"]
        if name and name != served.name and name in names and name not in out:
            return str(name)
    raise PermanentError(
        f"no other version served before {served.name}: give the version to go back to in the run's configuration"
    )


def withdrawn(session: Session) -> dict[str, str]:
    """Versions that somebody rolled back from and nobody has put back since, with the reason given."""
    out: dict[str, str] = {}
    for row in query.rows(
        session,
        f"SELECT MODEL_VERSION, PREVIOUS_VERSION, ACTION, REASON FROM {CHAMPION_HISTORY.name} ORDER BY CHANGED_AT",
    ):
        out.pop(str(row["MODEL_VERSION"]), None)
        if row["ACTION"] == ROLLBACK and row["PREVIOUS_VERSION"]:
            out[str(row["PREVIOUS_VERSION"])] = str(row["REASON"])
    return out


def _record(session: Session, version: str, before: Version | None, action: str, reason: str, run_id: str) -> None:
    """Write the decision down before the alias moves; a second attempt of the run finds it."""
    query.rows(
        session,
        f"MERGE INTO {CHAMPION_HISTORY.name} AS t USING (SELECT ? AS RUN_ID, ? AS MODEL_VERSION) AS s\n"
        "  ON t.RUN_ID = s.RUN_ID AND t.MODEL_VERSION = s.MODEL_VERSION\n"
        "WHEN NOT MATCHED THEN INSERT (CHANGED_AT, MODEL_VERSION, PREVIOUS_VERSION, ACTION, REASON, RUN_ID)\n"
        "  VALUES (SYSDATE(), s.MODEL_VERSION, ?, ?, ?, s.RUN_ID)",
        [run_id, version, before.name if before else None, action, reason],
    )


def _serve(session: Session, settings: Settings, version: str) -> None:
    _move_alias(session, settings, "CHAMPION", version)
    model = f"{settings.qualified_schema}.{validated(settings.model_name)}"
    query.rows(session, f"ALTER MODEL {model} SET DEFAULT_VERSION = {validated(version)}")


def trained_on(found: list[Version], training_set: str, code_version: str) -> Version | None:
    """The newest version that was trained on this very training set by this code."""
    matching = [
        version
        for version in found
        if str(version.metrics.get("training_set")) == training_set
        and str(version.metrics.get("training_code_version")) == code_version
    ]
    return matching[-1] if matching else None


def find_in_service(session: Session, found: list[Version]) -> Version | None:
    """The champion, if any.

    An alias moves in two statements. Between them, and when a run was killed there, no version has it: the version of
    the latest decision serves.
    """
    served = with_alias(found, "CHAMPION")
    if served or not found:
        return served
    decided = query.rows(
        session, f"SELECT MODEL_VERSION FROM {CHAMPION_HISTORY.name} ORDER BY CHANGED_AT DESC, RUN_ID LIMIT 1"
    )
    return next((version for version in found if decided and version.name == decided[0]["MODEL_VERSION"]), None)


def in_service(session: Session, settings: Settings) -> Version:
    """The champion.

    Raises:
        PermanentError: no version has been promoted.
    """
    served = find_in_service(session, versions(session, settings))
    if served is None:
        raise PermanentError(
            f"no version of {settings.model_name} is CHAMPION: materialize conversion_model and champion"
        )
    return served
