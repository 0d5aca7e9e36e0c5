"""Drift: how far the latest visits are from those that the model learned from, and since when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from customer_insights.tables import DRIFT_REPORT
from customer_insights.wording import feature_name
from dashboard import charts, parts, queries, selection

if TYPE_CHECKING:
    import pandas as pd

    from dashboard.app import Known

OF_KIND = {"score": "predicted probability", "label": "purchases", "nulls": "share missing"}


def show(known: Known) -> None:
    with parts.part("", "Reading the latest comparison …"):
        parts.needs(DRIFT_REPORT.name, known.there)
        found = queries.drift()
        if not len(found):
            raise parts.NothingToShow(
                "Nothing was compared yet: there must be a model in service (**champion** in Dagster) first; then "
                "materialize **drift_report**."
            )
        found = found.assign(
            DRIFTED=found["DRIFTED"].astype(int),
            NAME=[
                feature_name(str(measured)) + (f" ({OF_KIND[str(kind)]})" if kind == "nulls" else "")
                for measured, kind in zip(found["MEASURED"], found["KIND"], strict=True)
            ],
        )
        _said(found)
        judged = found[found["DISTANCE"].notna()]
        if not len(judged):
            raise parts.NothingToShow("Too few visits were compared to tell drift from chance: wait for more days.")
        parts.chart(charts.distances(judged, "How far each thing has moved"), *_table(found))
        _history()


def _said(found: pd.DataFrame) -> None:
    first = found.iloc[0]
    alarms = list(dict.fromkeys(found.loc[found["DRIFTED"] == 1, "NAME"]))
    window = " to ".join(selection.day(queries.as_day(first[end])) for end in ("WINDOW_START", "WINDOW_END"))
    version = parts.plain(str(first["MODEL_VERSION"]))
    compared = (
        f"{int(found['CURRENT_ROWS'].max()):,} visits of {window} were compared with "
        f"{int(found['REFERENCE_ROWS'].max()):,} of those that {version} was trained and tested on."
    )
    if alarms:
        st.warning(
            f"**{len(alarms)} of {len(found)} measurements drifted: {parts.plain(', '.join(alarms))}.** {compared} "
            "Probabilities may be off until **conversion_model** is trained again.",
            icon=":material/warning:",
        )
    else:
        st.success(f"**No drift in {len(found)} measurements.** {compared}", icon=":material/check_circle:")


def _table(found: pd.DataFrame) -> tuple[pd.DataFrame, parts.Formats, dict[str, str]]:
    formats = {
        "DISTANCE": parts.three,
        "POPULATION_STABILITY": parts.three,
        "REFERENCE_VALUE": lambda value: f"{float(value):,.3g}",
        "CURRENT_VALUE": lambda value: f"{float(value):,.3g}",
        "P_VALUE": lambda value: f"{float(value):.2g}",
    }
    names = {
        "NAME": "Measured", "STATE": "State", "REFERENCE_VALUE": "Then", "CURRENT_VALUE": "Now",
        "DISTANCE": "Distance", "POPULATION_STABILITY": "PSI", "P_VALUE": "p-value",
    }  # fmt: skip
    return found.assign(STATE=["drifted" if drifted else "as before" for drifted in found["DRIFTED"]]), formats, names


def _history() -> None:
    rows = queries.drift_history()
    st.subheader("Earlier comparisons", anchor=False)
    if len(rows) < 2:
        parts.note("This is the first comparison: drift_report adds one with every run.")
        return
    rows = rows.assign(END=[f"{queries.as_day(day):%Y-%m-%d}" for day in rows["WINDOW_END"]])
    parts.numbers(
        rows, {"ALARMS": parts.count, "MEASURED": parts.count}, {"END": "Up to", "ALARMS": "Drifted", "MEASURED": "Of"}
    )
