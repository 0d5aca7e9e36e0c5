"""Targeting: what contacting the likeliest visits is expected to bring, the list of them, and why one is on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from markupsafe import Markup

from customer_insights import display
from customer_insights.tables import MODEL_EXPLANATIONS, PURCHASE_FEATURES, PURCHASE_PROPENSITY, TARGETING
from customer_insights.wording import amount, direction, feature_name, lang, language_name, percent, signed
from dashboard import charts, parts, queries

if TYPE_CHECKING:
    import pandas as pd

    from dashboard.app import Known

SIZES = (25, 100, 500, 2000, 10_000)
SHOWN_ROWS = 100
VALUE_CHARACTERS = 24


def show(known: Known) -> None:
    with parts.part("What contacting brings"):
        parts.needs(TARGETING.name, known.there)
        deciles = queries.deciles()
        if not len(deciles):
            raise parts.NothingToShow(
                "Nobody was predicted yet. In Dagster materialize **purchase_propensity** (it needs a model in "
                "service: **champion**), then **targeting**."
            )
        _plan(deciles)
    with parts.part("Whom to contact", "Reading the likeliest visits …"):
        parts.needs(PURCHASE_PROPENSITY.name, known.there)
        parts.needs(PURCHASE_FEATURES.name, known.there)
        parts.needs(MODEL_EXPLANATIONS.name, known.there)
        left, right = st.columns([1, 2], vertical_alignment="bottom")
        with left:
            count = st.selectbox("How many", SIZES, index=1, format_func=lambda size: f"{size:,}", key="target_count")
        with right:
            without = st.toggle("Leave out who has bought", value=True, key="target_undecided")
        listed = queries.most_likely(known.selection, int(count or SIZES[1]), without)
        if not len(listed):
            raise (
                parts.nothing_chosen() if len(queries.most_likely(type(known.selection)(), 1, False))
                else parts.empty(PURCHASE_PROPENSITY.name)
            )  # fmt: skip
        _list(listed)
        _why(listed)


def _plan(deciles: pd.DataFrame) -> None:
    worth = int((deciles["EXPECTED_PROFIT"] > 0).cumprod().sum())
    chosen = deciles.head(worth)
    with st.container(horizontal=True):
        st.metric(
            "Worth a contact",
            f"{worth} of {len(deciles)} tenths",
            border=True,
            help="tenths of the visits, the likeliest first, that are expected to bring more than they cost",
        )
        st.metric("Visits in them", parts.count(chosen["VISITS"].sum()), border=True)
        st.metric("Expected purchases", amount(float(chosen["EXPECTED_PURCHASES"].sum())), border=True)
        st.metric("Expected profit", amount(float(chosen["EXPECTED_PROFIT"].sum())), border=True,
                  help="in the currency of the settings purchase_value and contact_cost")  # fmt: skip
    rows = deciles.assign(NAME=[f"Tenth {int(number)}" for number in deciles["DECILE"]])
    formats = {
        "VISITS": parts.count,
        "LOWEST_PROBABILITY": percent,
        "MEAN_PROBABILITY": percent,
        "EXPECTED_PURCHASES": lambda value: amount(float(value)),
        "EXPECTED_GAIN": percent,
        "EXPECTED_PROFIT": lambda value: f"{float(value):,.0f}",
    }
    names = {
        "NAME": "Visits", "VISITS": "Count", "LOWEST_PROBABILITY": "Lowest probability",
        "MEAN_PROBABILITY": "Mean probability", "EXPECTED_PURCHASES": "Expected purchases",
        "EXPECTED_GAIN": "Share of purchases so far", "EXPECTED_PROFIT": "Expected profit",
    }  # fmt: skip
    left, right = st.columns(2, gap="large")
    with left:
        parts.chart(charts.gain(deciles, "How many buyers are reached"), rows, formats, names)
    with right:
        drawn = charts.signed_bars(
            rows, "NAME", "EXPECTED_PROFIT", "Expected profit of each tenth", "Expected profit", ("loss", "profit")
        )
        parts.chart(drawn, rows, formats, names)
    st.caption("Of all visits: the filters change the list below, not these two charts.")


def _list(listed: pd.DataFrame) -> None:
    table = listed.assign(LANGUAGE_NAME=[language_name(code) or "not known" for code in listed["LANGUAGE"]])
    st.download_button(
        f"Download {len(listed):,} as CSV",
        parts.csv_of(listed.drop(columns="EXPLAINED")),
        file_name="whom_to_contact.csv",
        mime="text/csv",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
    )
    with st.container(height=320, border=True):
        parts.numbers(
            table.head(SHOWN_ROWS),
            {
                "PURCHASE_PROBABILITY": percent, "PAGE_LOAD_TIME": lambda value: f"{float(value):.1f} s",
                "PRODUCT_RATING": parts.count, "REVIEW_SENTIMENT": lambda value: signed(float(value)),
            },
            {
                "UUID": "Visit", "PURCHASE_PROBABILITY": "Probability", "PRODUCT_TYPE": "Product type",
                "PRODUCT_LAYOUT": "Layout", "LANGUAGE_NAME": "Language", "PRODUCT_RATING": "Stars",
                "PAGE_LOAD_TIME": "Load time", "REVIEW_SENTIMENT": "Sentiment"
            },
        )  # fmt: skip
    if len(listed) > SHOWN_ROWS:
        st.caption(f"The first {SHOWN_ROWS} of {len(listed):,}; the download has them all.")


def _why(listed: pd.DataFrame) -> None:
    st.subheader("Why this visit?", anchor=False)
    explained = {
        str(row["UUID"]): f"{percent(row['PURCHASE_PROBABILITY'])} · {row['PRODUCT_TYPE']}, {row['PRODUCT_LAYOUT']} · "
        f"{language_name(row['LANGUAGE']) or 'language not known'} · {row['UUID']}"
        for row in queries.records(listed[listed["EXPLAINED"].astype(int) == 1])
    }
    if not explained:
        raise parts.NothingToShow(
            "None of these predictions was explained: **model_explanations** explains the likeliest of all visits and "
            "a sample. Widen the selection, list more, or materialize it again in Dagster."
        )
    uuid = st.selectbox(
        "Visit",
        list(explained),
        format_func=lambda chosen: display.literal(explained[str(chosen)]),
        key="target_visit",
        help="the listed visits whose predictions were explained",
    )
    found = queries.explanation(str(uuid))
    if not len(found):
        raise parts.NothingToShow("This prediction was not explained.")
    rows = found.assign(
        NAME=[
            f"{feature_name(feature)}: {_short(value)}"
            for feature, value in zip(found["FEATURE"], found["FEATURE_VALUE"], strict=True)
        ]
    )
    probability = found["PURCHASE_PROBABILITY"].iloc[0]
    up, down = rows[rows["CONTRIBUTION"] > 0], rows[rows["CONTRIBUTION"] < 0]
    said = f"A purchase has a probability of {percent(float(probability))}." if probability == probability else ""
    for part, verb in ((up, "raises"), (down, "lowers")):
        if len(part):
            said += f" {part['NAME'].iloc[0]} {verb} it the most."
    st.html(Markup('<p class="ci-lead">{}</p>').format(display.literal(said)))
    text, language = found["REVIEW_TEXT"].iloc[0], str(found["LANGUAGE"].iloc[0])
    if text:
        quote = Markup('<blockquote lang="{}" dir="{}">{}</blockquote>')
        st.html(parts.card(quote.format(lang(language), direction(language), display.literal(str(text)))))
    parts.chart(
        charts.signed_bars(
            rows, "NAME", "CONTRIBUTION", "What each feature contributes", "SHAP value, log-odds",
            ("lowers the probability", "raises the probability"),
        ),
        rows,
        {"CONTRIBUTION": lambda value: f"{float(value):+.3f}"},
        {"NAME": "Feature and its value", "CONTRIBUTION": "SHAP value, log-odds"},
    )  # fmt: skip


def _short(value: object) -> str:
    text = display.literal(str(value))
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"
