"""Visits: reading a person's own table of them, and merging it into TABULAR_DATA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from customer_insights import publish
from customer_insights.errors import PermanentError
from customer_insights.tables import TABULAR_DATA

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

NUMERIC = ("PAGE_LOAD_TIME", "PRODUCT_RATING", "PURCHASE_DECISION")


class VisitsError(PermanentError):
    """The file is no table of visits; the message says which column or line is wrong."""


def is_visits_file(path: Path) -> bool:
    """Whether a CSV or Parquet file has the columns of TABULAR_DATA, and not those of reviews."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        return False
    try:
        names = {name.upper() for name in _read(path, header_only=True).columns}
    except (OSError, ValueError):
        return False
    return {"PAGE_LOAD_TIME", "PRODUCT_TYPE"} <= names


def read_visits(path: Path) -> pd.DataFrame:
    """The visits of a CSV or Parquet file, with the columns and types of TABULAR_DATA.

    Raises:
        VisitsError: a column is missing, a number is none, or a UUID is missing or doubled.
    """
    import pandas as pd

    try:
        frame = _read(path)
    except (OSError, ValueError) as error:
        raise VisitsError(f"{path} cannot be read as CSV or Parquet: {error}") from error
    frame.columns = [str(name).strip().upper() for name in frame.columns]
    missing = [name for name in TABULAR_DATA.column_names if name not in frame.columns]
    if missing:
        raise VisitsError(
            f"{path} lacks the columns {', '.join(missing)}; "
            f"a table of visits has {', '.join(TABULAR_DATA.column_names)}"
        )
    frame = frame[list(TABULAR_DATA.column_names)].copy()
    for name in NUMERIC:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        wrong = frame.index[numbers.isna() & frame[name].notna() & (frame[name].astype(str).str.strip() != "")]
        if len(wrong):
            raise VisitsError(f"{path}, row {wrong[0] + 1}: {name} is {frame[name][wrong[0]]!r}, expected a number")
        fraction = frame.index[numbers.notna() & (numbers % 1 != 0)]
        if TABULAR_DATA.column(name).type == "INT" and len(fraction):
            raise VisitsError(
                f"{path}, row {fraction[0] + 1}: {name} is {numbers[fraction[0]]:g}, expected a whole number"
            )
        frame[name] = numbers
    empty = frame.index[frame["UUID"].isna() | (frame["UUID"].astype(str).str.strip() == "")]
    if len(empty):
        raise VisitsError(f"{path}, row {empty[0] + 1}: UUID is empty; it joins a visit with its review")
    frame["UUID"] = frame["UUID"].astype(str)
    doubled = frame["UUID"][frame["UUID"].duplicated()]
    if len(doubled):
        raise VisitsError(f"{path}: UUID {doubled.iloc[0]!r} occurs more than once ({len(doubled)} rows too many)")
    outside = frame.index[frame["PURCHASE_DECISION"].notna() & ~frame["PURCHASE_DECISION"].isin([0, 1])]
    if len(outside):
        value = frame["PURCHASE_DECISION"][outside[0]]
        raise VisitsError(f"{path}, row {outside[0] + 1}: PURCHASE_DECISION is {value:g}, expected 0 or 1")
    return frame


def _read(path: Path, header_only: bool = False) -> pd.DataFrame:
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        return pd.read_parquet(path)
    rows = 0 if header_only else None
    return pd.read_csv(path, dtype={"UUID": str, "uuid": str}, nrows=rows, encoding="utf-8-sig")


def load_visits(session: Session, frame: pd.DataFrame) -> publish.Published:
    """Merge visits into TABULAR_DATA by UUID, all or none; a visit that is there is replaced."""
    staging = "VISITS_LOADED"
    session.sql(f"DROP TABLE IF EXISTS {staging}").collect()
    session.sql(TABULAR_DATA.create_ddl(staging, temporary=True)).collect()
    session.write_pandas(
        frame.astype({"PRODUCT_RATING": "Int64", "PURCHASE_DECISION": "Int64"}), staging, table_type="temporary"
    )
    try:
        return publish.transaction(session, TABULAR_DATA, lambda: publish.merge_staged(session, TABULAR_DATA, staging))
    finally:
        session.sql(f"DROP TABLE IF EXISTS {staging}").collect()
