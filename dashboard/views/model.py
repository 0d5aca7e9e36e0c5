"""Model: the version in service beside what it must beat, its calibration, its segments, what moves it, its history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from customer_insights.tables import CHAMPION_HISTORY, MODEL_EVALUATIONS, MODEL_EXPLANATIONS, MODEL_REFERENCE
from customer_insights.wording import feature_name, language_name, percent
from dashboard import charts, parts, queries

if TYPE_CHECKING:
    import pandas as pd

    from dashboard.app import Known

MODELS = {
    "challenger": "This version",
    "champion": "The version before it",
    "logistic_regression": "Logistic regression",
    "known_before_purchase": "Without the review",
    "prior": "Always the mean",
}
METRICS = {
    "roc_auc": "ROC-AUC",
    "average_precision": "PR-AUC",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "expected_calibration_error": "Calibration error",
    "top_decile_lift": "Lift, top tenth",
    "top_decile_gain": "Gain, top tenth",
    "profit_per_visit": "Profit a visit",
}
NO_MODEL = (
    "No model is in service yet. In Dagster materialize **conversion_model**, then **champion**; champion says why "
    "when it promotes none."
)
SEGMENTS_SHOWN = 14


def show(known: Known) -> None:
    with parts.part("", "Reading the model's evaluation …"):
        parts.needs(CHAMPION_HISTORY.name, known.there)
        history = queries.champions()
        if not len(history):
            raise parts.NothingToShow(NO_MODEL)
        version = str(history["MODEL_VERSION"].iloc[0])
        _evaluation(known, version, history)
        _reliability(known, version)
        _importance(known, version)
        _history(history)


def _evaluation(known: Known, version: str, history: pd.DataFrame) -> None:
    with parts.part(""):
        parts.needs(MODEL_EVALUATIONS.name, known.there)
        found = queries.evaluations(version)
        whole = found[found["SEGMENT_BY"] == "ALL"]
        mine = whole[whole["MODEL"] == "challenger"].set_index("METRIC")
        if not len(mine):
            raise parts.NothingToShow(
                f"{parts.plain(version)} was not evaluated. In Dagster materialize **conversion_model** again."
            )
        since = history["CHANGED_AT"].iloc[0]
        with st.container(horizontal=True):
            for name in ("roc_auc", "top_decile_lift", "expected_calibration_error"):
                row = mine.loc[name]
                st.metric(
                    METRICS[name], f"{row['VALUE']:.3f}" if name != "top_decile_lift" else f"{row['VALUE']:.2f}×",
                    help=f"95 % interval {row['LOW']:.3f} to {row['HIGH']:.3f}, {row['VISITS']:,.0f} test visits",
                    border=True,
                )  # fmt: skip
            st.metric("In service", parts.age(since), help=f"{version}, since {since:%-d %b %Y %H:%M} UTC", border=True)
        _beside(whole)
        _segments(found)


def _beside(whole: pd.DataFrame) -> None:
    st.subheader("Beside what it must beat", anchor=False)
    order = list(MODELS)
    aucs = whole[(whole["METRIC"] == "roc_auc") & whole["MODEL"].isin(order)]
    aucs = parts.in_order(aucs, "MODEL", order).assign(NAME=lambda rows: rows["MODEL"].map(MODELS))
    table = whole[whole["MODEL"].isin(order)].pivot_table(index="MODEL", columns="METRIC", values="VALUE")
    table = parts.in_order(table.reset_index(), "MODEL", order).assign(NAME=lambda rows: rows["MODEL"].map(MODELS))
    shown = {metric: name for metric, name in METRICS.items() if metric in table}
    parts.chart(
        charts.measures(aucs, "NAME", "ROC-AUC on the same test visits", "ROC-AUC, 0.5 is guessing", 0.5),
        table,
        dict.fromkeys(shown, parts.three),
        {"NAME": "Model", **shown},
    )


def _segments(found: pd.DataFrame) -> None:
    rows = found[(found["SEGMENT_BY"] != "ALL") & (found["MODEL"] == "challenger") & (found["METRIC"] == "roc_auc")]
    if not len(rows):
        return
    rows = rows.sort_values(["SEGMENT_BY", "VISITS"], ascending=[False, False])
    rows = rows.assign(
        NAME=[
            language_name(value) or value if by == "LANGUAGE" else value
            for by, value in zip(rows["SEGMENT_BY"], rows["SEGMENT"], strict=True)
        ],
        KIND=rows["SEGMENT_BY"].map({"LANGUAGE": "Language", "PRODUCT_TYPE": "Product type"}),
    )
    st.subheader("For whom it works", anchor=False)
    columns = st.columns(2, gap="large")
    kinds = [kind for kind in ("Product type", "Language") if (rows["KIND"] == kind).any()]
    for column, kind in zip(columns, kinds, strict=False):
        part = rows[rows["KIND"] == kind].head(SEGMENTS_SHOWN)
        with column:
            parts.chart(
                charts.measures(part, "NAME", f"ROC-AUC by {kind.lower()}", "ROC-AUC, 0.5 is guessing", 0.5),
                part,
                {"VALUE": parts.three, "LOW": parts.three, "HIGH": parts.three, "VISITS": parts.count},
                {"NAME": kind, "VALUE": "ROC-AUC", "LOW": "95 % from", "HIGH": "to", "VISITS": "Test visits"},
            )


def _reliability(known: Known, version: str) -> None:
    with parts.part("Can its probabilities be believed?", "Reading the test visits …"):
        parts.needs(MODEL_REFERENCE.name, known.there)
        tenths = queries.reliability(version)
        if not len(tenths):
            raise parts.NothingToShow(
                f"The test visits of {parts.plain(version)} were not kept. "
                "In Dagster materialize **conversion_model** again."
            )
        rates = parts.with_rates(tenths.assign(DECIDED=tenths["VISITS"]))
        parts.chart(
            charts.reliability(rates, "Predicted and observed purchase rate"),
            rates,
            {"PREDICTED": percent, "RATE": percent, "LOW": percent, "HIGH": percent, "VISITS": parts.count},
            {
                "TENTH": "Tenth", "PREDICTED": "Predicted", "RATE": "Bought", "LOW": "95 % from", "HIGH": "to",
                "VISITS": "Test visits",
            },
        )  # fmt: skip


def _importance(known: Known, version: str) -> None:
    with parts.part("What moves its predictions", "Reading explanations …"):
        parts.needs(MODEL_EXPLANATIONS.name, known.there)
        found = queries.importance(version)
        if not len(found):
            raise parts.empty(MODEL_EXPLANATIONS.name)
        found = found.assign(NAME=found["FEATURE"].map(feature_name))
        parts.chart(
            charts.amounts(found, "NAME", "AMOUNT", "Mean strength of each feature", "mean |SHAP|, log-odds"),
            found,
            {"AMOUNT": parts.three, "VISITS": parts.count},
            {"NAME": "Feature", "AMOUNT": "Mean |SHAP|, log-odds", "VISITS": "Explained visits"},
        )


def _history(history: pd.DataFrame) -> None:
    st.subheader("Versions in service", anchor=False)
    parts.numbers(
        history.assign(WHEN=[f"{moment:%Y-%m-%d %H:%M}" for moment in history["CHANGED_AT"]]),
        {},
        {
            "WHEN": "When (UTC)", "MODEL_VERSION": "Version", "ACTION": "How", "PREVIOUS_VERSION": "Before",
            "REASON": "Why",
        },
    )  # fmt: skip
