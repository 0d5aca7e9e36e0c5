"""Overview: the figures, the purchase rate by what goes together with it, and its course over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from customer_insights.tables import PURCHASE_FEATURES
from customer_insights.wording import language_name, percent, signed
from dashboard import charts, parts, queries
from dashboard.queries import Groups, Total

if TYPE_CHECKING:
    import pandas as pd

    from dashboard.app import Known

# From here on weeks are shown instead of days.
DAYS_SHOWN = 62
FEWEST_LANGUAGES, MOST_LANGUAGES = 2, 12


def show(known: Known) -> None:
    with parts.part("", "Counting visits …"):
        parts.needs(PURCHASE_FEATURES.name, known.there)
        if not known.all_visits.visits:
            raise parts.NothingToShow(
                "No visit with a scored review yet. Load some with `customer-insights load PATH`, then in Dagster "
                "click **Materialize all**; `customer-insights demo` does both with sample data."
            )
        found = queries.groups(
            known.selection,
            (),
            ("REVIEW_QUALITY",),
            ("SENTIMENT",),
            ("REVIEW_QUALITY", "SENTIMENT"),
            ("PRODUCT_TYPE", "PRODUCT_LAYOUT"),
            ("PRODUCT_TYPE", "REVIEW_QUALITY"),
            ("LANGUAGE",),
            ("ARRIVAL_DATE",),
        )
        chosen = queries.total(found)
        if not chosen.visits:
            raise parts.nothing_chosen()
        figures(chosen, None if known.selection.is_everything else known.all_visits)
        if not chosen.decided:
            raise parts.NothingToShow(
                "It is not known of any of these visits whether it ended in a purchase: PURCHASE_DECISION is empty."
            )
        _by_review(known, found, chosen)
        _by_product(known, found)
        _over_time(found)
        _by_language(found, chosen)


def figures(chosen: Total, compared: Total | None) -> None:
    """The four figures on top; each says how far it is from all visits, where only some are chosen."""

    def apart(form: str, mine: float | None, theirs: float | None, times: float = 1.0) -> str | None:
        if compared is None or mine is None or theirs is None:
            return None
        difference = f"{(mine - theirs) * times:{form}}"
        return difference if float(difference) else "same"

    rate = chosen.rate
    rows = [
        (
            "Purchase rate",
            percent(rate) if rate is not None else "–",
            apart("+.1f", rate, compared.rate if compared else None, 100),
            " points",
            f"{chosen.purchases:,} purchases of {chosen.decided:,} visits whose outcome is known",
        ),
        (
            "Mean sentiment",
            signed(chosen.sentiment) if chosen.sentiment is not None else "–",
            apart("+.2f", chosen.sentiment, compared.sentiment if compared else None),
            "",
            "from −1 (negative) to +1 (positive)",
        ),
        (
            "Mean rating",
            f"{chosen.rating:.1f} of 5" if chosen.rating is not None else "–",
            apart("+.1f", chosen.rating, compared.rating if compared else None),
            "",
            "stars shown for the product, 1 to 5",
        ),
        (
            "Reviews",
            f"{chosen.visits:,}",
            f"{percent(chosen.visits / compared.visits)} of all" if compared and compared.visits else None,
            None,
            "visits with a scored review",
        ),
    ]
    with st.container(horizontal=True):
        for label, value, difference, unit, explained in rows:
            st.metric(
                label,
                value,
                _against_all(difference, unit),
                delta_color="off",
                delta_arrow="off" if unit is None or difference == "same" else "auto",
                help=explained,
                border=True,
            )


def _against_all(difference: str | None, unit: str | None) -> str | None:
    if difference is None or unit is None:
        return difference
    return "same as all" if difference == "same" else f"{difference}{unit} against all"


def _by_review(known: Known, found: Groups, chosen: Total) -> None:
    st.subheader("What people write and whether they buy", anchor=False)
    quality = parts.in_order(parts.with_rates(found["REVIEW_QUALITY",]), "REVIEW_QUALITY", known.options.qualities)
    bands = parts.in_order(parts.with_rates(found["SENTIMENT",]), "SENTIMENT", queries.BANDS)
    left, right = st.columns(2, gap="large")
    with left:
        parts.chart(
            charts.rates(quality, "REVIEW_QUALITY", "Purchase rate by review quality", chosen.rate, "decided visits"),
            *parts.decided_rates(quality, "REVIEW_QUALITY", "Review quality"),
        )
    with right:
        parts.chart(
            charts.rates(bands, "SENTIMENT", "Purchase rate by review sentiment", chosen.rate, "decided visits"),
            *parts.decided_rates(bands, "SENTIMENT", "Sentiment"),
        )
    both = parts.with_rates(found["REVIEW_QUALITY", "SENTIMENT"])
    both = parts.in_order(parts.in_order(both, "SENTIMENT", queries.BANDS), "REVIEW_QUALITY", known.options.qualities)
    _heat(
        both, "SENTIMENT", "REVIEW_QUALITY", (queries.BANDS, known.options.qualities), "Quality and sentiment together"
    )


def _by_product(known: Known, found: Groups) -> None:
    st.subheader("Which products sell", anchor=False)
    left, right = st.columns(2, gap="large")
    with left:
        pairs = parts.with_rates(found["PRODUCT_TYPE", "PRODUCT_LAYOUT"])
        pairs = pairs.sort_values(["PRODUCT_TYPE", "PRODUCT_LAYOUT"])
        _heat(
            pairs, "PRODUCT_LAYOUT", "PRODUCT_TYPE", (known.options.layouts, known.options.types),
            "Product type and page layout",
        )  # fmt: skip
    with right:
        pairs = parts.with_rates(found["PRODUCT_TYPE", "REVIEW_QUALITY"])
        pairs = parts.in_order(pairs, "REVIEW_QUALITY", known.options.qualities).sort_values(
            "PRODUCT_TYPE", kind="stable"
        )
        _heat(
            pairs, "REVIEW_QUALITY", "PRODUCT_TYPE", (known.options.qualities, known.options.types),
            "Product type and review quality",
        )  # fmt: skip


def _heat(frame: pd.DataFrame, across: str, down: str, orders: tuple, title: str) -> None:
    heading = {"SENTIMENT": "Sentiment", "REVIEW_QUALITY": "Review quality", "PRODUCT_LAYOUT": "Page layout"}
    table, formats, names = parts.decided_rates(frame, down, heading.get(down, "Product type"))
    parts.chart(
        charts.heat(frame, across, down, orders, title),
        table,
        formats,
        {down: heading.get(down, "Product type"), across: heading[across], **names},
    )


def _over_time(found: Groups) -> None:
    import pandas as pd

    st.subheader("Over time", anchor=False)
    days = found["ARRIVAL_DATE",].assign(DAY=lambda rows: pd.to_datetime(rows["ARRIVAL_DATE"]))
    unit = "Day"
    if len(days) > DAYS_SHOWN:
        unit = "Week from"
        days = days.assign(DAY=days["DAY"].dt.to_period("W").dt.start_time)
    days = days.groupby("DAY", as_index=False)[["VISITS", "DECIDED", "PURCHASES"]].sum().sort_values("DAY")
    rates = parts.with_rates(days)
    if len(days) == 1:
        parts.note(
            f"All these reviews arrived on one day, {days['DAY'].iloc[0]:%-d %B %Y}: there is no course to show yet."
        )
        return
    left, right = st.columns(2, gap="large")
    formats = {"DAY": lambda value: f"{value:%Y-%m-%d}"}
    with left:
        table, others, names = parts.decided_rates(rates, "DAY", unit)
        parts.chart(charts.over_time(rates, "Purchase rate by day of arrival", unit), table, formats | others, names)
    with right:
        parts.chart(
            charts.counts(days, "New reviews by day of arrival", unit),
            days,
            formats | {"VISITS": parts.count},
            {"DAY": unit, "VISITS": "Visits"},
        )


def _by_language(found: Groups, chosen: Total) -> None:
    rows = parts.with_rates(found["LANGUAGE",]).sort_values(["DECIDED", "LANGUAGE"], ascending=[False, True])
    if len(rows) < FEWEST_LANGUAGES:
        return
    st.subheader("Languages", anchor=False)
    rows = rows.assign(NAME=[language_name(code) or "Undetermined" for code in rows["LANGUAGE"]])
    shown = rows.head(MOST_LANGUAGES)
    table, formats, names = parts.decided_rates(rows, "NAME", "Language")
    names |= {"MEAN_SENTIMENT": "Mean sentiment"}
    parts.chart(
        charts.rates(shown, "NAME", "Purchase rate by language of the review", chosen.rate, "decided visits"),
        table,
        formats | {"MEAN_SENTIMENT": lambda value: signed(float(value))},
        names,
    )
    if len(rows) > len(shown):
        st.caption(
            f"The {len(shown)} commonest of {len(rows)} languages that were detected (a short text may be taken for "
            "another); the table has them all."
        )
