"""Reviews: some of those that the selection leaves, in the words and the script that they were written in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st
from markupsafe import Markup

from customer_insights import display
from customer_insights.tables import PURCHASE_FEATURES, RAW_REVIEWS
from customer_insights.wording import direction, lang, language_name, signed
from dashboard import parts, queries, selection

if TYPE_CHECKING:
    from dashboard.app import Known

SHOWN_AT_FIRST, MORE = 8, 16
WORDS = 100


def show(known: Known) -> None:
    kind = st.segmented_control(
        "Which reviews", list(queries.KINDS_OF_REVIEWS), default="Most positive", key="reviews_kind"
    ) or "Most positive"  # fmt: skip
    contains = st.text_input(
        "That contain", key="reviews_contains", max_chars=WORDS, placeholder="a word, in any language"
    ).strip()
    with parts.part("", "Reading reviews …"):
        parts.needs(PURCHASE_FEATURES.name, known.there)
        parts.needs(RAW_REVIEWS.name, known.there)
        if not known.all_visits.visits:
            raise parts.empty(PURCHASE_FEATURES.name)
        count = st.session_state.get("reviews_count", SHOWN_AT_FIRST)
        # One more than is shown tells whether there are more.
        found = queries.reviews(known.selection, kind, contains, count + 1)
        if not len(found):
            raise parts.nothing_chosen("review")
        rows = queries.records(found.head(count))
        st.html(Markup('<div class="ci-cards">{}</div>').format(Markup("").join(map(review, rows))))
        if len(found) > count:
            st.button("Show more", on_click=_more, icon=":material/expand_more:")


def _more() -> None:
    st.session_state.reviews_count = st.session_state.get("reviews_count", SHOWN_AT_FIRST) + MORE


def review(row: dict[str, Any]) -> Markup:
    """One review as a card."""
    score = None if queries.is_missing(row["REVIEW_SENTIMENT"]) else float(row["REVIEW_SENTIMENT"])
    liked, disliked = score is not None and score > 0.2, score is not None and score < -0.2
    words = "positive" if liked else "negative" if disliked else "neutral" if score is not None else "no sentiment"
    decision = row["PURCHASE_DECISION"]
    bought = "outcome not known" if queries.is_missing(decision) else "bought" if decision else "not bought"
    text = display.literal(str(row["REVIEW_TEXT"]))
    cut = "…" if int(row["CHARACTERS"]) > len(str(row["REVIEW_TEXT"])) else ""
    about = " · ".join(
        [
            f"{row['PRODUCT_TYPE']}, {row['PRODUCT_LAYOUT']}",
            f"{int(row['PRODUCT_RATING'])} star{'' if int(row['PRODUCT_RATING']) == 1 else 's'} shown",
            str(row["REVIEW_QUALITY"]),
            language_name(row["LANGUAGE"]) or "language not known",
            selection.day(queries.as_day(row["ARRIVAL_DATE"])),
        ]
    )
    return parts.card(
        Markup('<div class="ci-mark">{} · {}</div>').format(
            words if score is None else f"{words} {signed(score)}", bought
        ),
        Markup('<blockquote lang="{}" dir="{}">{}{}</blockquote>').format(
            lang(row["LANGUAGE"]), direction(row["LANGUAGE"]), text, cut
        ),
        Markup('<div class="ci-about">{}</div>').format(display.literal(about)),
        kind="liked" if liked else "disliked" if disliked else "",
    )
