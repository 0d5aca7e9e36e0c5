"""The daily report as a page: its words, its charts and its HTML. What it says is gathered in ``daily_report``.

The page is one file without scripts and asks nobody for anything: it is read from a mail, on a phone, or printed. So
its charts are SVG from matplotlib, which draws the pictures in Dagster too. Altair (Vega) was considered: its charts
are drawn by a megabyte of JavaScript in the reader's browser, or before that by vl-convert, a browser engine's worth of
binary that nothing else here needs; and the text in its SVG is not in the page's own colours by light and dark.

Texts that customers wrote meet HTML in the template only, where Jinja escapes every value; a policy in the page's head
forbids scripts and requests, should that ever fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from customer_insights import display, insights, plots
from customer_insights.daily_report import Facts, Measure
from customer_insights.insights import COMPARED_VISITS, Difference
from customer_insights.wording import amount, direction, feature_name, lang, language_name, percent, signed

if TYPE_CHECKING:
    from jinja2 import Environment

EXAMPLE_SHOWN_CHARACTERS = 200
NAME_SHOWN_CHARACTERS = 40
# In the order of the page.
CHARTED = ("review sentiment", "review quality", "page load time")
# Days without a new review after which the page says so before anything else.
STALE_DAYS = 2


def render(facts: Facts) -> str:
    """The page."""
    return (
        _environment()
        .get_template("daily_report.html.jinja")
        .render(
            facts=facts,
            headlines=headlines(facts),
            advice=advice(facts),
            warnings=warnings(facts),
            charts=_charts(facts),
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("customer_insights"),
        # Of every value, whatever the template's name ends in.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        amount=amount,
        signed=signed,
        day=lambda value: f"{value:%-d %B %Y}",
        clock=lambda value: f"{value:%H:%M}",
        moment=lambda value: f"{value:%-d %b %Y, %H:%M}",
        excerpt=excerpt,
        name=name,
        language=language_name,
        direction=direction,
        lang=lang,
    )
    return environment


def excerpt(text: str) -> str:
    """A review in one line of ``EXAMPLE_SHOWN_CHARACTERS`` at most, literally."""
    return _cut(text, EXAMPLE_SHOWN_CHARACTERS)


def name(text: str) -> str:
    """A product's, an aspect's or a version's name, literally."""
    return _cut(text, NAME_SHOWN_CHARACTERS)


def _cut(text: str, most: int) -> str:
    line = display.literal(" ".join(text.split()))
    if len(line) <= most:
        return line
    # At a space where there is one near the end; Chinese and Japanese have none.
    start = line[: most - 1]
    whole, _, rest = start.rpartition(" ")
    return f"{whole if whole and len(rest) < most // 5 else start}…"


def _charts(facts: Facts) -> dict[str, Markup]:
    """Name -> <svg>; what there are no numbers for is left out."""
    shown = {dimension: facts.rates[dimension] for dimension in CHARTED if dimension in facts.rates}
    # One scale, so that the pictures beside each other can be compared.
    furthest = max((row.high for rows in shown.values() for row in rows), default=1.0)
    charts = {
        dimension: (
            plots.shares(rows, facts.rate.value if facts.rate else None, until=furthest),
            f"Purchase rate by {dimension}: "
            + "; ".join(f"{row.name} {percent(row.value)} of {row.count:,}" for row in rows),
        )
        for dimension, rows in shown.items()
    }
    opinions = [aspect.liked_share for aspect in facts.aspects if aspect.liked_share]
    if opinions:
        charts["aspects"] = (
            plots.shares(opinions, whole=0.5),
            "Praise among praise and complaint: "
            + "; ".join(f"{opinion.name} {percent(opinion.value)} of {opinion.count:,}" for opinion in opinions),
        )
    if facts.plan.deciles:
        charts["targeting"] = (
            plots.gain_and_profit(facts.plan.gains, facts.plan.profits, facts.plan.deciles_to_contact),
            "Expected profit and share of expected purchases reached, by share of visits contacted",
        )
    if facts.importance:
        charts["importance"] = (
            plots.ranking(
                {feature_name(feature): value for feature, value in facts.importance.items()},
                "mean |contribution|, log-odds",
            ),
            "Mean absolute contribution of each feature to the predictions",
        )
    # Markup: matplotlib has escaped the texts in it, and it holds nothing else from outside.
    return {
        place: Markup(plots.svg(figure, place.replace(" ", "-"), display.literal(alt)))  # noqa: S704
        for place, (figure, alt) in charts.items()
    }


def headlines(facts: Facts) -> list[tuple[str, str, str]]:
    """The figures on top: (what, figure, what to read it by)."""
    return [
        ("New reviews", f"{facts.arrived:,}", f"since yesterday; {facts.reviews:,} in all"),
        ("Visits with a review", f"{facts.visits:,}", "that are scored and known in full"),
        (
            "Purchase rate",
            percent(facts.rate.value) if facts.rate else "–",
            f"{percent(facts.rate.low)} to {percent(facts.rate.high)}, {facts.rate.count:,} visits decided"
            if facts.rate
            else "no visit is decided yet",
        ),
        (
            "Mean sentiment",
            signed(facts.sentiment.value) if facts.sentiment else "–",
            f"{_interval(facts.sentiment, signed)}on −1 to +1" if facts.sentiment else "no review is scored yet",
        ),
        _model(facts),
        (
            "Drift alarms",
            str(len(facts.drift.alarms)) if facts.drift else "–",
            (
                (", ".join(map(feature_name, facts.drift.alarms)) if facts.drift.alarms else "none")
                + f"; {facts.drift.measured} measured up to {facts.drift.window_end:%-d %b}"
            )
            if facts.drift
            else "nothing is compared yet",
        ),
    ]


def _model(facts: Facts) -> tuple[str, str, str]:
    if not facts.service:
        return ("Model", "–", "no version has predicted yet")
    auc, error = facts.service.roc_auc, facts.service.calibration_error
    interval = _interval(auc, lambda value: f"{value:.3f}") if auc else "not evaluated, "
    calibration = f"calibration error {error.value:.3f}, " if error else ""
    note = f"{interval}{calibration}{name(facts.service.version)}"
    return ("Model in service", f"{auc.value:.3f}" if auc else "–", f"ROC-AUC {note}" if auc else note)


def _interval(measure: Measure, form: Callable[[float], str]) -> str:
    if measure.low is None or measure.high is None:
        return ""
    return f"{form(measure.low)} to {form(measure.high)}, "


def warnings(facts: Facts) -> list[str]:
    """What keeps a reader from relying on the page."""
    found = []
    if facts.newest_arrival is None:
        found.append("No review has been read yet: the page is empty until raw_reviews is materialized.")
    elif (age := (facts.day - facts.newest_arrival).days) >= STALE_DAYS:
        found.append(f"No review has arrived for {age} days, since {facts.newest_arrival:%-d %B %Y}.")
    if facts.service and facts.service.replaced_by:
        found.append(
            f"The predictions are by {name(facts.service.version)}, but {name(facts.service.replaced_by)} is in "
            "service by now: materialize purchase_propensity."
        )
    if facts.drift and facts.drift.alarms:
        found.append(
            f"Recent visits differ from those that the model learned from, in {_listed(facts.drift.alarms)}: its "
            "probabilities may be off until it is trained again."
        )
    error = facts.service.calibration_error if facts.service else None
    if error and (error.low if error.low is not None else error.value) > facts.calibration_limit:
        found.append(
            f"The model's probabilities are off by {error.value:.1%} on average, more than the "
            f"{facts.calibration_limit:.0%} allowed: take expected purchases and profits as rough."
        )
    return found


def _listed(features: tuple[str, ...]) -> str:
    names = [feature_name(feature).lower() for feature in features]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class Advice:
    """What to do, and what it rests on."""

    lead: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.lead} {self.detail}".strip()


def advice(facts: Facts) -> list[Advice]:
    """What the numbers suggest, with their uncertainty and without a claim of what causes what."""
    said = [_contact(facts), _sentiment(facts), _pages(facts), _layout(facts), _aspect(facts)]
    return [found for found in said if found]


def _contact(facts: Facts) -> Advice | None:
    plan = facts.plan
    if not plan.deciles:
        return None
    prices = f"{amount(facts.purchase_value)} a purchase and {amount(facts.contact_cost)} a contact"
    count = plan.deciles_to_contact
    if not count:
        return Advice(
            "Contact nobody by these figures.",
            f"At {prices}, not even the tenth of visits most likely to buy is expected to bring what it costs.",
        )
    chosen = plan.deciles[:count]
    purchases, visits = sum(decile.purchases for decile in chosen), sum(decile.visits for decile in chosen)
    some = count < len(plan.deciles)
    lead = f"Contact the {percent(count / len(plan.deciles))} of visits most likely to buy." if some else "Contact all."
    least = f" (a chance of {percent(chosen[-1].lowest_probability)} or more)" if some else ""
    return Advice(
        lead,
        f"These {visits:,} visits{least} hold {amount(purchases)} of the expected purchases, "
        f"{percent(chosen[-1].gain)}. At {prices} that is a profit of about {amount(plan.profit)} "
        f"(±{amount(plan.chance(facts.purchase_value))} by chance, if the model's probabilities hold)."
        + (" The next tenth is expected to cost more than it brings." if some else ""),
    )


def _sentiment(facts: Facts) -> Advice | None:
    rows = [row for row in facts.rates.get("review sentiment", []) if row.name != "unknown"]
    if not rows:
        return None
    found = insights.clear_difference(rows)
    if not found:
        return Advice("Sentiment tells little:", "purchase rates do not differ beyond chance between its classes.")
    return Advice(
        f"{name(found.more.name).capitalize()} reviews go together with more purchases",
        f"than {name(found.less.name)} ones: {percent(found.more.value)} against {percent(found.less.value)}, "
        f"{_points(found)}.",
    )


def _points(found: Difference) -> str:
    return f"{100 * found.low:.0f} to {100 * found.high:.0f} points more"


def _pages(facts: Facts) -> Advice | None:
    rows = facts.rates.get("page load time", [])
    if not rows:
        return None
    found = insights.clear_difference(rows)
    if not found:
        return Advice("Page load time tells little:", "purchase rates do not differ beyond chance with it.")
    faster = rows.index(found.more) < rows.index(found.less)
    slow = sum(row.count for row in rows[rows.index(found.less) :]) / sum(row.count for row in rows)
    return Advice(
        f"{'Fast' if faster else 'Slow'} pages go together with more purchases:",
        f"{percent(found.more.value)} where the page took {found.more.name} against {percent(found.less.value)} where "
        f"it took {found.less.name}, {_points(found)}."
        + (f" {percent(slow)} of visits waited so long: try faster pages for some of them." if faster else ""),
    )


def _layout(facts: Facts) -> Advice | None:
    comparable = {kind: rows for kind, rows in facts.layouts.items() if len(rows) > 1}
    if not comparable:
        return None
    clear = {kind: insights.clear_difference(rows, len(comparable)) for kind, rows in comparable.items()}
    found = {kind: difference for kind, difference in clear.items() if difference}
    if not found:
        return Advice("Layouts tell little:", "no product type sells better in one than in another beyond chance.")
    kind, largest = max(found.items(), key=lambda item: item[1].low)
    others = f" {len(found) - 1} more product types differ by layout, too." if len(found) > 1 else ""
    return Advice(
        f"In {name(kind)}, try the layout {name(largest.more.name)} for some visitors, drawn at random.",
        f"It goes together with more purchases than {name(largest.less.name)}: {percent(largest.more.value)} against "
        f"{percent(largest.less.value)}, {_points(largest)}.{others}",
    )


def _aspect(facts: Facts) -> Advice | None:
    judged = [share for aspect in facts.aspects if (share := aspect.liked_share) and share.count >= COMPARED_VISITS]
    if not judged:
        return None
    worst = min(judged, key=lambda share: share.high)
    if worst.high >= 0.5:
        return Advice("No aspect stands out:", "none is complained of more than praised beyond chance.")
    return Advice(
        f"Look into {name(worst.name)} first:",
        f"{percent(1 - worst.value)} ({percent(1 - worst.high)} to {percent(1 - worst.low)}) of the {worst.count:,} "
        "reviews that judge it complain.",
    )


def summary(facts: Facts) -> str:
    """For Dagster's metadata: the headline figures, what to do, and two charts, as Markdown."""
    said = [f"- {display.markdown_cell(str(text), longest=1000)}" for text in (*warnings(facts), *advice(facts))]
    parts = [display.markdown_table(("figure", "value", ""), headlines(facts)), "\n".join(said)]
    if rows := facts.rates.get("review sentiment"):
        figure = plots.shares(rows, insights.pooled(rows).value, "Purchase rate by review sentiment")
        parts.append(plots.markdown(figure, "purchase rate by review sentiment"))
    if facts.plan.deciles:
        figure = plots.gain_and_profit(
            facts.plan.gains, facts.plan.profits, facts.plan.deciles_to_contact, "Whom to contact"
        )
        parts.append(plots.markdown(figure, "expected gain and profit"))
    return "\n\n".join(part for part in parts if part)
