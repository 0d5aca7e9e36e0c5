"""What a viewer has chosen to see: read from and written to the page's address, and turned into conditions whose values
are bound. How it is chosen is in ``app``, what is asked with it in ``queries``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any

from customer_insights.wording import language_name

# Field -> its column, and its name in the address.
COLUMNS = {
    "types": ("PRODUCT_TYPE", "type"),
    "layouts": ("PRODUCT_LAYOUT", "layout"),
    "qualities": ("REVIEW_QUALITY", "quality"),
    "languages": ("LANGUAGE", "language"),
}
FROM, UNTIL = "from", "until"


@dataclass(frozen=True)
class Options:
    """What can be chosen: the values that occur, in the order of their lists, and the first and last day of arrival."""

    types: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None


@dataclass(frozen=True)
class Selection:
    """What is shown. An empty list chooses everything, a day that is None sets no limit."""

    types: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None

    @property
    def is_everything(self) -> bool:
        return not any(getattr(self, field.name) for field in fields(self))

    def condition(self, alias: str = "") -> tuple[str, list[object]]:
        """SQL that is true for a chosen row of PURCHASE_FEATURES, and the values of its ``?``."""
        before = f"{alias}." if alias else ""
        terms, binds = [], []
        for name, (column, _) in COLUMNS.items():
            if chosen := getattr(self, name):
                terms.append(f"{before}{column} IN ({', '.join('?' * len(chosen))})")
                binds += chosen
        for day, comparison in ((self.first, ">="), (self.last, "<=")):
            if day:
                terms.append(f"{before}ARRIVAL_DATE {comparison} ?::DATE")
                binds.append(day.isoformat())
        return " AND ".join(terms) or "TRUE", binds

    def address(self) -> dict[str, list[str]]:
        """Its parameters of the page's address; nothing for what is not limited."""
        found = {key: list(getattr(self, name)) for name, (_, key) in COLUMNS.items() if getattr(self, name)}
        days = {FROM: self.first, UNTIL: self.last}
        return found | {key: [day.isoformat()] for key, day in days.items() if day}

    def within(self, options: Options) -> Selection:
        """Without values that do not occur, and without limits that limit nothing."""
        kept = {
            name: tuple(value for value in getattr(options, name) if value in getattr(self, name)) for name in COLUMNS
        }
        first = self.first if self.first and options.first and self.first > options.first else None
        last = self.last if self.last and options.last and self.last < options.last else None
        if first and options.last and first > options.last:
            first = None
        if last and options.first and last < options.first:
            last = None
        if first and last and first > last:
            first = last = None
        return Selection(**kept, first=first, last=last)

    def with_type(self, product_type: str) -> Selection:
        return replace(self, types=(product_type,))

    def words(self) -> str:
        """In a line, for a person."""
        parts = [", ".join(values) for values in (self.types, self.layouts, self.qualities) if values]
        if self.languages:
            parts.append(", ".join(language_name(code) or "undetermined language" for code in self.languages))
        if self.first and self.last:
            parts.append(f"{day(self.first)} to {day(self.last)}")
        elif self.first or self.last:
            parts.append(f"since {day(self.first)}" if self.first else f"until {day(self.last)}")
        return " · ".join(parts) or "all visits"


def day(value: date | None) -> str:
    return f"{value:%-d %b %Y}" if value else ""


def of_address(parameters: Mapping[str, Sequence[str]]) -> Selection:
    """The selection of an address; what cannot be read chooses nothing."""
    chosen: dict[str, Any] = {name: tuple(parameters.get(key, ())) for name, (_, key) in COLUMNS.items()}
    return Selection(**chosen, first=_date(parameters.get(FROM, ())), last=_date(parameters.get(UNTIL, ())))


def _date(values: Iterable[str]) -> date | None:
    try:
        return date.fromisoformat(next(iter(values), ""))
    except ValueError:
        return None
