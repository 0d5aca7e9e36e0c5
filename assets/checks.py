"""Asset checks: what must hold of a table before anything is built on it, asked by SQL in the step that made the table.

Each function returns the results of the checks whose specifications stand beside it; conditions that come from
``tables`` (keys, columns that are never NULL) are the same for every table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from customer_insights import query
from customer_insights.pending import Query
from customer_insights.tables import Table

if TYPE_CHECKING:
    from snowflake.snowpark import Session

KEYS = "keys_unique_and_complete"
NO_ROW_LOST = "no_row_lost"
REJECTED_SHARE = "rejected_share"
VALUES = "values_in_range"
FEATURES = "features_complete"
NOT_EMPTY = "not_empty"
PRESENT_VERSION = "scored_by_the_present_version"


def spec(name: str, asset: str, description: str, blocking: bool = True) -> dg.AssetCheckSpec:
    """The specification of a check; a blocking one stops what depends on the asset when it fails."""
    return dg.AssetCheckSpec(name=name, asset=asset, description=description, blocking=blocking)


def keys_spec(table: Table) -> dg.AssetCheckSpec:
    """Its result is ``keys``."""
    return spec(KEYS, table.name.lower(), f"{', '.join(table.key)} is unique, and no required column is NULL.")


def keys(session: Session, table: Table, where: str = "TRUE", binds: Sequence[object] = ()) -> dg.AssetCheckResult:
    """Rows that share a key, and NULLs in columns that have none."""
    key = ", ".join(table.key)
    nulls = " + ".join(f"COUNT_IF({name} IS NULL)" for name in table.required)
    row = query.row(
        session,
        "SELECT COUNT(*) AS N, "
        f"(SELECT COUNT(*) FROM (SELECT DISTINCT {key} FROM {table.name} WHERE {where}) AS k) AS K, "
        f"COALESCE({nulls}, 0) AS NULLS FROM {table.name} WHERE {where}",
        [*binds, *binds],
    )
    doubled, missing = int(row["N"]) - int(row["K"]), int(row["NULLS"])
    return dg.AssetCheckResult(
        check_name=KEYS,
        passed=doubled == 0 and missing == 0,
        metadata={"rows": int(row["N"]), "rows with a key seen before": doubled, "missing values": missing},
        description=f"{doubled} rows repeat a key, {missing} required values are NULL",
    )


def violations(
    session: Session,
    name: str,
    table: Table,
    conditions: Mapping[str, str],
    where: str = "TRUE",
    binds: Sequence[object] = (),
) -> dg.AssetCheckResult:
    """Rows that break any of ``conditions`` (name -> SQL that is TRUE for a good row)."""
    counted = ", ".join(f"COUNT_IF(NOT ({sql})) AS V{index}" for index, sql in enumerate(conditions.values()))
    row = query.row(session, f"SELECT {counted} FROM {table.name} WHERE {where}", binds)
    # An empty table has no violations; not every engine counts none as 0.
    broken = {condition: int(row[f"V{index}"] or 0) for index, condition in enumerate(conditions)}
    return dg.AssetCheckResult(
        check_name=name,
        passed=not any(broken.values()),
        metadata=broken,
        description="; ".join(f"{count} rows: not {condition}" for condition, count in broken.items() if count)
        or "all hold",
    )


def no_row_lost(session: Session, scored: Table, where: str, binds: Sequence[object]) -> dg.AssetCheckResult:
    """Every raw review of the window has its row in ``scored``, and the table has no row besides."""
    missing = query.value(
        session,
        f"SELECT COUNT_IF(s.UUID IS NULL) FROM RAW_REVIEWS AS r LEFT JOIN {scored.name} AS s "
        f"ON s.UUID = r.UUID AND s.TEXT_HASH = r.TEXT_HASH WHERE r.{where}",
        binds,
    )
    extra = query.value(
        session,
        f"SELECT COUNT(*) FROM {scored.name} AS s LEFT JOIN RAW_REVIEWS AS r ON r.UUID = s.UUID WHERE r.UUID IS NULL",
    )
    return dg.AssetCheckResult(
        check_name=NO_ROW_LOST,
        passed=not missing and not extra,
        metadata={"reviews without a score": int(missing or 0), "scores without a review": int(extra or 0)},
        description=f"{missing or 0} reviews have no score, {extra or 0} scores have no review",
    )


def present_version_spec(asset: str) -> dg.AssetCheckSpec:
    """Its result is ``present_version``."""
    return spec(PRESENT_VERSION, asset, "No score is by another model, revision or set of labels.", blocking=False)


def present_version(session: Session, others: Query) -> dg.AssetCheckResult:
    """Rows of all days that another version has scored: as good as they were, but not to be compared with the newer."""
    row = query.row(
        session,
        "SELECT COUNT(*) AS N, MIN(ARRIVAL_DATE)::STRING AS FIRST_DAY, MAX(ARRIVAL_DATE)::STRING AS LAST_DAY, "
        f"COUNT(DISTINCT ARRIVAL_DATE) AS DAYS FROM ({others.sql}) AS o",
        others.binds,
    )
    rows = int(row["N"])
    found = {"first day": row["FIRST_DAY"], "last day": row["LAST_DAY"]} if rows else {}
    return dg.AssetCheckResult(
        check_name=PRESENT_VERSION,
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rows of other versions": rows, "days with such rows": int(row["DAYS"]), **found},
        description=(
            f"{rows} reviews from {row['FIRST_DAY']} to {row['LAST_DAY']} were scored by another version: run the job "
            "`rescoring` for these days"
            if rows
            else "all scores are by the present version"
        ),
    )


def rejected_share(accepted: int, rejected: int, limit: float) -> dg.AssetCheckResult:
    """The share of rows that could not be read; a warning, since the others are good."""
    total = accepted + rejected
    share = rejected / total if total else 0.0
    return dg.AssetCheckResult(
        check_name=REJECTED_SHARE,
        passed=share <= limit,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"accepted": accepted, "rejected": rejected, "share": share, "limit": limit},
        description=f"{rejected} of {total} rows were rejected ({share:.1%}, limit {limit:.0%}); see REJECTED_REVIEWS",
    )
