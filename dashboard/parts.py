"""What every page is made of: figures, charts with their numbers as a table, notes, and what is shown instead when
there is nothing yet, or nothing under this selection, or an error.

Texts from the data become HTML here only, through ``Markup.format``, which escapes every value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import streamlit as st
from markupsafe import Markup

from customer_insights import display
from customer_insights.errors import CustomerInsightsError
from customer_insights.plots import wilson
from customer_insights.wording import percent
from dashboard import queries
from dashboard.connection import MissingTableError

if TYPE_CHECKING:
    import pandas as pd

Formats = Mapping[str, Callable[[Any], str]]
# A spreadsheet takes a cell that begins with one of these for a formula, and runs it.
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


class NothingToShow(Exception):
    """The part has no rows; the message says why and what to do."""


@contextmanager
def part(title: str, waiting: str | None = None) -> Iterator[None]:
    """A part of a page under its title: while it is read a word says so; an error of it leaves the others alone."""
    if title:
        st.subheader(title, anchor=False)
    try:
        with st.spinner(waiting or f"Reading {title.lower() or 'the tables'} …"):
            yield
    except NothingToShow as nothing:
        note(str(nothing))
    except MissingTableError as error:
        note(f"{sentence(error)} In Dagster, materialize the asset of that name, then press Read again.")
    except CustomerInsightsError as error:
        st.error(sentence(error), icon=":material/error:")


def sentence(error: Exception) -> str:
    """What an error says, for Streamlit's own texts."""
    text = plain(str(error)).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def plain(text: str) -> str:
    """For Streamlit's own texts, which are Markdown: the text literally."""
    return display.markdown_cell(text, longest=1000).replace("$", "\\$").replace(":", "\\:")


def note(text: str) -> None:
    st.info(text, icon=":material/info:")


def needs(table: str, there: frozenset[str]) -> None:
    """End the part when the table does not exist yet."""
    if table not in there:
        raise NothingToShow(
            f"There is no table {table} yet. In Dagster open the asset **{asset_of(table)}** and click **Materialize**."
        )


def empty(table: str) -> NothingToShow:
    """What to raise when the table has no rows at all."""
    return NothingToShow(
        f"Nothing is in {table} yet. In Dagster open the asset **{asset_of(table)}** and click **Materialize**."
    )


def nothing_chosen(what: str = "visit") -> NothingToShow:
    """What to raise when the selection leaves none."""
    return NothingToShow(f"No {what} matches this selection. Take out a filter, or press **Show everything**.")


def asset_of(table: str) -> str:
    return next((shown.asset for shown in queries.SHOWN if shown.table == table), table.lower())


def with_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with at least one decided visit, with RATE and the 95 % interval LOW, HIGH."""
    rows = frame[frame["DECIDED"] > 0].copy()
    rows["RATE"] = rows["PURCHASES"].astype(float) / rows["DECIDED"]
    intervals = [wilson(int(row["PURCHASES"]), int(row["DECIDED"])) for row in queries.records(rows)]
    rows["LOW"], rows["HIGH"] = [low for low, _ in intervals], [high for _, high in intervals]
    return rows.reset_index(drop=True)


def in_order(frame: pd.DataFrame, name: str, order: Sequence[str]) -> pd.DataFrame:
    """Its rows in the order of ``order``; others last."""
    places = {value: place for place, value in enumerate(order)}
    return frame.sort_values(
        name, key=lambda values: values.map(lambda value: places.get(str(value), len(places))), kind="stable"
    ).reset_index(drop=True)


def chart(
    drawn: Any, table: pd.DataFrame, formats: Mapping[str, Callable[[Any], str]], names: Mapping[str, str]
) -> None:
    """A chart, and its numbers as a table for who cannot see it or wants to copy them.

    ``names``: the columns of ``table`` that are shown -> their headings.
    """
    st.vega_lite_chart(spec=drawn)
    with st.expander("Numbers as a table"):
        numbers(table, formats, names)


def numbers(table: pd.DataFrame, formats: Formats, names: Mapping[str, str]) -> None:
    """A table of formatted numbers and literal texts, as HTML that a screen reader can read."""
    rows = [
        [_cell(value, formats.get(column)) for column, value in row.items()]
        for row in queries.records(table[list(names)])
    ]
    numeric = [column in formats for column in names]
    head = Markup("").join(
        Markup('<th scope="col" class="{}">{}</th>').format("number" if right else "", name)
        for name, right in zip(names.values(), numeric, strict=True)
    )
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<th scope="row" dir="auto">{}</th>').format(cell)
                if place == 0
                else Markup('<td class="{}" dir="auto">{}</td>').format("number" if numeric[place] else "", cell)
                for place, cell in enumerate(row)
            )
        )
        for row in rows
    )
    st.html(
        Markup(
            '<div class="ci-scroll" tabindex="0" role="region" aria-label="Numbers as a table">'
            '<table class="ci-table"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
        ).format(head, body)
    )


def _cell(value: Any, form: Callable[[Any], str] | None) -> str:
    return "–" if queries.is_missing(value) else display.literal(form(value) if form else str(value))


def decided_rates(
    frame: pd.DataFrame, name: str, heading: str
) -> tuple[pd.DataFrame, dict[str, Callable[[Any], str]], dict[str, str]]:
    """Table, formats and names of rates for ``chart``."""
    formats: dict[str, Callable[[Any], str]] = {
        "RATE": percent,
        "LOW": percent,
        "HIGH": percent,
        "DECIDED": count,
        "VISITS": count,
    }
    names = {name: heading, "RATE": "Purchase rate", "LOW": "95 % from", "HIGH": "to", "DECIDED": "Decided visits"}
    return frame, formats, names | {"VISITS": "Visits"}


def count(value: Any) -> str:
    return f"{float(value):,.0f}"


def three(value: Any) -> str:
    return f"{float(value):.3f}"


def card(*pieces: Markup, kind: str = "") -> Markup:
    return Markup('<article class="ci-card {}">{}</article>').format(kind, Markup("").join(pieces))


def age(moment: datetime | date, now: datetime | None = None) -> str:
    """How long ago, in words: of a moment (UTC) or a day."""
    now = now or datetime.now(UTC).replace(tzinfo=None)
    if not isinstance(moment, datetime):
        days = (now.date() - moment).days
        return "today" if days <= 0 else "yesterday" if days == 1 else f"{days} days ago"
    minutes = max(0, int((now - moment).total_seconds() // 60))
    if minutes < 60:
        return "just now" if minutes < 2 else f"{minutes} minutes ago"
    if minutes < 48 * 60:
        hours = minutes // 60
        return f"{hours} hour{'s' if hours > 1 else ''} ago"
    return f"{minutes // (24 * 60)} days ago"


def hours_old(moment: datetime | date, now: datetime | None = None) -> float:
    """Hours since a moment (UTC); whole days since a day."""
    now = now or datetime.now(UTC).replace(tzinfo=None)
    if not isinstance(moment, datetime):
        return (now.date() - moment).days * 24
    return (now - moment).total_seconds() / 3600


def csv_of(table: pd.DataFrame) -> bytes:
    """The rows as CSV that a spreadsheet opens: UTF-8 with its mark, and no text that it takes for a formula."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\r\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow([defused(value) for value in row])
    return output.getvalue().encode("utf-8-sig")


def defused(value: Any) -> Any:
    """A cell for a spreadsheet: text that would be a formula begins with an apostrophe (OWASP, CSV injection)."""
    if queries.is_missing(value):
        return ""
    if isinstance(value, str) and value.lstrip(" \u00a0\ufeff").startswith(FORMULA_MARKS):
        return f"'{value}"
    return value
