"""The frame around the pages: navigation, the filters and their place in the address, how fresh the data are, and what
is shown when Snowflake cannot be reached. What a page shows is in ``views``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import streamlit as st
from markupsafe import Markup

from customer_insights.errors import CustomerInsightsError
from customer_insights.wording import language_name
from dashboard import connection, parts, queries, selection
from dashboard.queries import Total
from dashboard.selection import Options, Selection

STYLE, ICON = (Path(__file__).parent / name for name in ("style.css", "icon.png"))
LABELS = {"types": "Product type", "layouts": "Page layout", "qualities": "Review quality", "languages": "Language"}
DAYS = "days"


@dataclass(frozen=True)
class Known:
    """What every page knows: the selection, what could be chosen, what all visits come to, which tables there are."""

    selection: Selection
    options: Options
    all_visits: Total
    there: frozenset[str]


@dataclass(frozen=True)
class View:
    """A page: its title, its symbol, what it says of itself, and whether the filters change what it shows."""

    title: str
    icon: str
    about: str
    filtered: bool
    show: Callable[[Known], None]


def views() -> dict[str, View]:
    """By their names in the address, in their order."""
    from dashboard.views import drift, model, overview, product, reviews, targeting

    return {
        "overview": View(
            "Overview", ":material/monitoring:", "How many visits end in a purchase, and with what it goes together.",
            True, overview.show,
        ),
        "product": View(
            "Products", ":material/inventory_2:", "How one product type sells, and what its buyers say.",
            True, product.show,
        ),
        "reviews": View(
            "Reviews", ":material/reviews:", "What customers wrote, in their own words.", True, reviews.show
        ),
        "targeting": View(
            "Targeting", ":material/ads_click:", "Whom to contact, what it is expected to bring, and why.",
            True, targeting.show,
        ),
        "model": View(
            "Model", ":material/neurology:", "How good the purchase model in service is, and how it got there.",
            False, model.show,
        ),
        "drift": View(
            "Drift", ":material/swap_horiz:", "Whether visits still look like those that the model learned from.",
            False, drift.show,
        ),
    }  # fmt: skip


def main(start: str = "overview") -> None:
    """The whole app; ``start``: the page that an address without one opens."""
    st.set_page_config(page_title="Customer insights", page_icon=str(ICON), layout="wide")
    st.html(f"<style>{STYLE.read_text()}</style>")
    every = views()
    known: list[Known] = []
    pages = [
        st.Page(_page(view, known), title=view.title, icon=view.icon, url_path=name, default=name == start)
        for name, view in every.items()
    ]
    page = st.navigation(pages, position="top")
    # Outside of the page: what is inside of one forgets its widgets when another is opened.
    found = _frame(every[page.url_path or start])
    if found:
        known.append(found)
        page.run()


def _page(view: View, known: list[Known]) -> Callable[[], None]:
    def page() -> None:
        view.show(known[0])

    return page


def _frame(view: View) -> Known | None:
    """What is around every page, and what all of them know; None where Snowflake cannot be read."""
    st.title(view.title, anchor=False)
    try:
        with st.spinner("Reading what there is …"):
            there = connection_checked()
            options, all_visits = _everything(there)
    except CustomerInsightsError as error:
        st.error(parts.sentence(error), icon=":material/cloud_off:")
        st.button("Try again", on_click=connection.read_again, type="primary", icon=":material/refresh:")
        return None
    chosen = filters(options, view.filtered)
    st.caption(view.about)
    _lead(view, chosen, there)
    return Known(chosen, options, all_visits, there)


def connection_checked() -> frozenset[str]:
    """The tables that are there.

    Raises:
        PermanentError: there is none, or Snowflake refused.
        RetryableError: Snowflake does not answer.
    """
    from customer_insights.errors import PermanentError

    there = queries.tables_there()
    if not there:
        raise PermanentError(
            f"no table was found in {connection.place()}: run `customer-insights deploy`, or name a role in "
            "connections.toml that may read them"
        )
    return there


def _everything(there: frozenset[str]) -> tuple[Options, Total]:
    from customer_insights.tables import PURCHASE_FEATURES

    if PURCHASE_FEATURES.name not in there:
        return Options(), Total(0, 0, 0, None, None)
    return queries.everything()


def filters(options: Options, apply: bool) -> Selection:
    """The filters in the sidebar. At the first run they are taken from the address, later the address follows them."""
    state = st.session_state
    if "initial" not in state:
        state.initial = selection.of_address({key: st.query_params.get_all(key) for key in st.query_params})
        state.cleared = 0
    # The widgets begin with the same until everything is shown again: with another default it is another widget.
    kept: Selection = state.initial.within(options)
    with st.sidebar:
        st.header("Show", anchor=False)
        # Above the lists: one of them shrinks when it is left, and a button below would move away from under a click.
        everything = st.container()
        if not apply:
            st.caption("This page shows all visits: the filters are for the other pages.")
        chosen: dict[str, Any] = {
            name: tuple(
                st.multiselect(
                    label,
                    getattr(options, name),
                    default=getattr(kept, name),
                    key=f"filter_{name}_{state.cleared}",
                    placeholder="All",
                    format_func=_language if name == "languages" else str,
                    disabled=not apply,
                )
            )
            for name, label in LABELS.items()
        }
        first, last = _days(options, kept, apply)
        found = Selection(**chosen, first=first, last=last).within(options)
        everything.button(
            "Show everything",
            on_click=_clear,
            icon=":material/filter_alt_off:",
            disabled=found.is_everything or not apply,
        )
        st.divider()
        _freshness()
    shown = {key: st.query_params.get_all(key) for key in st.query_params}
    address = {key: values for key, values in shown.items() if key not in _OURS} | found.address()
    if shown != address:
        st.query_params.from_dict(address)
    return found


_OURS = frozenset({*(key for _, key in selection.COLUMNS.values()), selection.FROM, selection.UNTIL})


def _language(code: str) -> str:
    return f"{language_name(code) or 'Undetermined'} ({code})"


def _days(options: Options, kept: Selection, apply: bool) -> tuple[date | None, date | None]:
    if not options.first or not options.last:
        return None, None
    picked = st.date_input(
        "Arrived between",
        value=(kept.first or options.first, kept.last or options.last),
        min_value=options.first,
        max_value=options.last,
        format="YYYY-MM-DD",
        key=f"filter_{DAYS}_{st.session_state.cleared}",
        disabled=not apply,
    )
    days = tuple(picked) if isinstance(picked, (tuple, list)) else (picked,)
    # After the first click of two only one end is known.
    return (days[0], days[1]) if len(days) == 2 else (kept.first, kept.last)


def _clear() -> None:
    state = st.session_state
    state.initial = Selection()
    # New names make new widgets, which are empty.
    state.cleared += 1


def _lead(view: View, chosen: Selection, there: frozenset[str]) -> None:
    """In a line: what is shown and how fresh it is; a warning where that is old."""
    newest = queries.newest(there)
    arrived = newest.get(queries.SHOWN[0].table)
    pieces = [Markup("<b>{}</b>").format(chosen.words())] if view.filtered else []
    if arrived:
        pieces.append(Markup("newest reviews: {} ({})").format(selection.day(arrived), parts.age(arrived)))
    predicted = newest.get("PURCHASE_PROPENSITY")
    if predicted:
        pieces.append(Markup("predictions: {}").format(parts.age(predicted)))
    st.html(Markup('<p class="ci-lead">{}</p>').format(Markup(" · ").join(pieces)))
    late = [
        f"{shown.what} ({parts.age(moment)})"
        for shown in queries.SHOWN
        if (moment := newest.get(shown.table)) and parts.hours_old(moment) >= shown.old_after_hours
    ]
    if late:
        st.warning(
            f"Older than it should be: {', '.join(late)}. Look at the schedules and the latest runs in Dagster.",
            icon=":material/schedule:",
        )


def _freshness() -> None:
    there = queries.tables_there()
    newest = queries.newest(there)
    with st.expander("How fresh is this?", icon=":material/schedule:"):
        lines = [
            Markup("<li><b>{}</b>: {}</li>").format(
                shown.what,
                "no table yet" if shown.table not in there else "nothing yet" if moment is None else _said(moment),
            )
            for shown in queries.SHOWN
            for moment in [newest.get(shown.table)]
        ]
        st.html(Markup('<ul class="ci-list">{}</ul>').format(Markup("").join(lines)))
        st.caption("Times are UTC. Answers are kept for ten minutes.")
    st.button("Read again", on_click=connection.read_again, icon=":material/refresh:")


def _said(moment: Any) -> str:
    return f"{parts.age(moment)}, {moment:%-d %b %Y}" + (f" {moment:%H:%M}" if hasattr(moment, "hour") else "")
