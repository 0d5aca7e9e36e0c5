"""Products: one product type in detail, by layout, page load time, stars and what its reviews speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from markupsafe import Markup

from customer_insights import display
from customer_insights.tables import ASPECT_INSIGHTS, PRODUCT_INSIGHTS, PURCHASE_FEATURES
from dashboard import charts, parts, queries
from dashboard.views.overview import figures

if TYPE_CHECKING:
    from dashboard.app import Known


def show(known: Known) -> None:
    product = None
    with parts.part("", "Counting visits …"):
        parts.needs(PURCHASE_FEATURES.name, known.there)
        types = known.selection.types or known.options.types
        if not types:
            raise parts.empty(PURCHASE_FEATURES.name)
        product = _product(types)
        _sales(known, product)
    if product:
        _aspects(known, product)
        _examples(known, product)


def _sales(known: Known, product: str) -> None:
    found = queries.groups(
        known.selection.with_type(product),
        (),
        ("PRODUCT_LAYOUT",),
        ("LOAD_TIME",),
        ("PRODUCT_RATING",),
        ("SENTIMENT",),
    )
    chosen = queries.total(found)
    if not chosen.visits:
        raise parts.nothing_chosen()
    figures(chosen, known.all_visits)
    if chosen.decided:
        _rates(known, found, chosen)


def _product(types: tuple[str, ...]) -> str:
    """The product type that is looked at; it is in the address, too."""
    wanted = st.query_params.get("product")
    place = types.index(wanted) if wanted in types else 0
    product = st.selectbox("Product type to look at", types, index=place, key="product") or types[0]
    if st.query_params.get("product") != product:
        st.query_params["product"] = product
    return product


def _rates(known: Known, found: queries.Groups, chosen: queries.Total) -> None:
    layouts = parts.in_order(parts.with_rates(found["PRODUCT_LAYOUT",]), "PRODUCT_LAYOUT", known.options.layouts)
    loading = parts.in_order(parts.with_rates(found["LOAD_TIME",]), "LOAD_TIME", queries.LOAD_TIMES)
    stars = parts.with_rates(found["PRODUCT_RATING",]).sort_values("PRODUCT_RATING")
    stars = stars.assign(STARS=[f"{int(rating)} star{'s' if rating > 1 else ''}" for rating in stars["PRODUCT_RATING"]])
    bands = parts.in_order(parts.with_rates(found["SENTIMENT",]), "SENTIMENT", queries.BANDS)
    left, right = st.columns(2, gap="large")
    drawn = (
        (left, layouts, "PRODUCT_LAYOUT", "Page layout", "By page layout"),
        (right, loading, "LOAD_TIME", "Page load time", "By page load time"),
        (left, stars, "STARS", "Stars", "By stars shown"),
        (right, bands, "SENTIMENT", "Sentiment", "By review sentiment"),
    )
    for column, rows, name, heading, title in drawn:
        with column:
            parts.chart(
                charts.rates(rows, name, title, chosen.rate, "decided visits"),
                *parts.decided_rates(rows, name, heading),
            )


def _aspects(known: Known, product: str) -> None:
    with parts.part("What reviews speak of"):
        parts.needs(ASPECT_INSIGHTS.name, known.there)
        found = queries.product_aspects(product)
        if not len(found):
            raise parts.NothingToShow(
                "No review of this product says what it speaks of yet. In Dagster open the asset **aspect_insights** "
                "and click **Materialize**."
            )
        parts.chart(
            charts.opinions(found.astype({"LIKED": float, "DISLIKED": float}), "Praise and complaint by aspect"),
            found,
            dict.fromkeys(("MENTIONS", "LIKED", "DISLIKED"), parts.count),
            {"ASPECT": "Aspect", "MENTIONS": "Reviews that mention it", "LIKED": "Praise", "DISLIKED": "Complain"},
        )
        st.caption("Of all reviews of this product type: the other filters do not change this part.")


def _examples(known: Known, product: str) -> None:
    with parts.part("In customers' words"):
        parts.needs(PRODUCT_INSIGHTS.name, known.there)
        rows = queries.product_examples(product).to_dict("records")
        cards = [
            _quote(str(row["PRODUCT_LAYOUT"]), row[f"{side.upper()}_EXAMPLE"], side)
            for row in rows
            for side in ("liked", "disliked")
            if row[f"{side.upper()}_EXAMPLE"]
        ]
        if not cards:
            raise parts.NothingToShow(
                "No example yet. In Dagster open the asset **product_insights** and click **Materialize**."
            )
        st.html(Markup('<div class="ci-cards">{}</div>').format(Markup("").join(cards)))
        st.caption("The most positive and the most negative detailed review of each layout.")


def _quote(layout: str, text: str, side: str) -> Markup:
    return parts.card(
        Markup('<div class="ci-mark">{}</div>').format(f"{display.literal(layout)}: {side}"),
        Markup('<blockquote dir="auto">{}</blockquote>').format(display.literal(text)),
        kind=side,
    )
