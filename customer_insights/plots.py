"""Pictures for metadata: each function draws one figure and returns it as a Markdown image with the PNG inside.

The numbers come in as arrays; computing them belongs in ``evaluation`` and ``insights``.
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from itertools import cycle
from typing import TYPE_CHECKING

from customer_insights import display

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from customer_insights.evaluation import Evaluation
    from customer_insights.insights import Share

# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#7F7F7F"
# The classes of sentiment in the order of a stacked bar. Green is Okabe and Ito's too; greys carry no opinion.
OF_CLASS = {"positive": BLUE, "mixed": "#009E73", "neutral": "#BBBBBB", "unknown": "#E5E5E5", "negative": ORANGE}
# For any labels, the first of them the best: shades first, then other colours of Okabe and Ito.
OF_LABEL = (BLUE, "#56B4E9", "#BBBBBB", ORANGE, "#009E73", "#CC79A7", "#F0E442")
SIZE_INCHES = (4.2, 3.2)
# Longer names are cut: they would leave no room for the picture.
LONGEST_LABEL = 24


def _figure(title: str) -> Figure:
    # Figure is used without pyplot, which keeps every figure of a process alive and chooses a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=90, layout="tight")
    figure.add_subplot().set_title(title, fontsize=10)
    return figure


def _markdown(figure: Figure, alt: str) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png.getvalue()).decode()})"


def of_evaluation(measured: Evaluation) -> dict[str, str]:
    """What one looks at before a version goes into service: name -> picture or Markdown table."""
    outcomes, probabilities = measured.outcomes, measured.probabilities
    return {
        "compared": _compared(measured),
        "ROC": roc(measured),
        "precision and recall": precision_recall(measured),
        "calibration": calibration(outcomes, probabilities),
        "lift": lift(outcomes, probabilities),
        "gain": gain(outcomes, probabilities),
        "ROC-AUC by segment": by_segment(measured),
    }


def _compared(measured: Evaluation) -> str:
    """Every metric of every model with its interval, as a Markdown table."""
    rows = [
        (name, *(f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})" for found in model.metrics.values()))
        for name, model in measured.models.items()
    ]
    header = ("model", *(metric.replace("_", " ") for metric in measured.challenger.metrics))
    return display.markdown_table(header, rows)


def roc(measured: Evaluation) -> str:
    """ROC curve of the challenger on the test visits."""
    from sklearn.metrics import roc_curve

    auc = measured.challenger.metrics["roc_auc"]
    false_positive, true_positive, _ = roc_curve(measured.outcomes, measured.probabilities)
    figure = _figure(f"ROC on test visits, AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})")
    axes = figure.axes[0]
    axes.plot(false_positive, true_positive, color=BLUE)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="share of visits without purchase", ylabel="share of purchases found")
    return _markdown(figure, "ROC curve")


def precision_recall(measured: Evaluation) -> str:
    """Precision against recall of the challenger on the test visits; the dashed line is the purchase rate."""
    from sklearn.metrics import precision_recall_curve

    average = measured.challenger.metrics["average_precision"]
    precision, recall, _ = precision_recall_curve(measured.outcomes, measured.probabilities)
    figure = _figure(f"PR-AUC {average.value:.3f} ({average.low:.3f} to {average.high:.3f})")
    axes = figure.axes[0]
    axes.plot(recall, precision, color=BLUE)
    axes.axhline(measured.outcomes.mean(), color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="share of purchases found", ylabel="purchases among those found", ylim=(0, 1.02))
    return _markdown(figure, "precision and recall")


def calibration(outcomes: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> str:
    """Observed purchase rate, with its 95 % Wilson interval, against predicted probability, in bins of equal count."""
    import numpy as np

    parts = [part for part in np.array_split(np.argsort(probabilities, kind="stable"), bins) if len(part)]
    predicted = [probabilities[part].mean() for part in parts]
    observed = np.array([outcomes[part].mean() for part in parts])
    intervals = np.array([wilson(int(outcomes[part].sum()), len(part)) for part in parts])
    figure = _figure("Calibration on test visits")
    axes = figure.axes[0]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    errors = np.maximum(0, [observed - intervals[:, 0], intervals[:, 1] - observed])
    axes.errorbar(predicted, observed, yerr=errors, color=BLUE, marker="o", linewidth=1, capsize=2)
    axes.set(xlabel="predicted probability", ylabel="observed purchase rate")
    return _markdown(figure, "calibration curve")


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def lift(outcomes: np.ndarray, probabilities: np.ndarray) -> str:
    """Purchase rate of each tenth of the visits, the most likely first, over the rate of all."""
    import numpy as np

    parts = np.array_split(np.argsort(-probabilities, kind="stable"), 10)
    figure = _figure("Lift by decile of probability")
    axes = figure.axes[0]
    axes.bar(range(1, 11), [outcomes[part].mean() / outcomes.mean() for part in parts], color=BLUE)
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="decile, most likely first", ylabel="purchase rate / mean rate", xticks=range(1, 11))
    return _markdown(figure, "lift by decile")


def gain(outcomes: np.ndarray, probabilities: np.ndarray) -> str:
    """Share of all purchases among the most likely visits, as more of them are contacted."""
    import numpy as np

    order = np.argsort(-probabilities, kind="stable")
    found = np.append(0, np.cumsum(outcomes[order])) / outcomes.sum()
    figure = _figure("Gain: who is reached first")
    axes = figure.axes[0]
    axes.plot(np.linspace(0, 1, len(found)), found, color=BLUE)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="share of visits contacted", ylabel="share of purchases reached")
    return _markdown(figure, "cumulative gain")


def by_segment(measured: Evaluation) -> str:
    """ROC-AUC with its interval on each segment that is large enough."""
    names = [f"{value} ({models['challenger'].rows})" for (_, value), models in measured.segments.items()][::-1]
    found = [models["challenger"].metrics["roc_auc"] for models in measured.segments.values()][::-1]
    figure = _figure("ROC-AUC by segment (test visits)")
    axes = figure.axes[0]
    figure.set_figheight(max(SIZE_INCHES[1], 0.22 * len(names) + 1))
    places = range(len(names))
    errors = [[m.value - m.low for m in found], [m.high - m.value for m in found]]
    if found:
        axes.errorbar([m.value for m in found], places, xerr=errors, fmt="o", color=BLUE, capsize=2, linewidth=1)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(places, labels=names, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("ROC-AUC, 95 % interval")
    return _markdown(figure, "ROC-AUC by segment")


def effects(effect: Mapping[str, Sequence[tuple[str, float]]], alt: str = "effect of each feature") -> str:
    """One small panel for each feature: the mean contribution to the log-odds by its value or range of values."""
    from matplotlib.figure import Figure

    columns = 2
    rows = max(1, -(-len(effect) // columns))
    figure = Figure(figsize=(2 * SIZE_INCHES[0], 2.2 * rows), dpi=90, layout="tight")
    for position, (name, points) in enumerate(effect.items(), start=1):
        axes = figure.add_subplot(rows, columns, position)
        amounts = [amount for _, amount in points]
        axes.bar(range(len(points)), amounts, color=[BLUE if amount >= 0 else ORANGE for amount in amounts])
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_title(name, fontsize=9, parse_math=False)
        labels = [label if len(label) <= 14 else f"{label[:13]}…" for label, _ in points]
        axes.set_xticks(range(len(points)), labels=labels, rotation=40, ha="right", parse_math=False)
        axes.tick_params(labelsize=7)
    return _markdown(figure, alt)


def bars(values: Mapping[str, float], title: str, label: str, alt: str) -> str:
    """Horizontal bars, in the order given from top to bottom."""
    figure = _figure(title)
    axes = figure.axes[0]
    names = list(values)[::-1]
    amounts = [values[name] for name in names]
    axes.barh(range(len(names)), amounts, color=[BLUE if amount >= 0 else ORANGE for amount in amounts])
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_xlabel(label)
    # A name is data: between dollar signs matplotlib would read formulas, and fail on what is none.
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.tick_params(labelsize=8)
    return _markdown(figure, alt)


def histogram(values: Sequence[float], title: str, label: str, alt: str) -> str:
    """Counts of ``values`` in 20 bins."""
    figure = _figure(title)
    axes = figure.axes[0]
    axes.hist(values, bins=20, color=BLUE)
    axes.set(xlabel=label, ylabel="rows")
    return _markdown(figure, alt)


def stacked_shares(counts: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], title: str, alt: str) -> str:
    """One horizontal bar of length 1 a name, from top to bottom, parted by class in the order of ``colours``.

    Args:
        counts: name -> class -> count; a class that is not there counts 0. Each name has at least one.
    """
    figure = _figure(title)
    axes = figure.axes[0]
    names = list(counts)[::-1]
    totals = [sum(counts[name].values()) for name in names]
    left = [0.0] * len(names)
    for found, colour in colours.items():
        shares = [counts[name].get(found, 0) / total for name, total in zip(names, totals, strict=True)]
        axes.barh(range(len(names)), shares, left=left, color=colour, label=found)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    # See bars: a name is data.
    labels = [f"{name} ({total:g})" for name, total in zip(names, totals, strict=True)]
    axes.set_yticks(range(len(names)), labels=labels, parse_math=False)
    axes.set(xlabel="share of reviews", xlim=(0, 1))
    axes.tick_params(labelsize=8)
    # Sentences stand below one another.
    columns = len(colours) if max(map(len, colours)) <= 12 else 1
    figure.set_layout_engine("constrained")
    figure.set_figheight(max(SIZE_INCHES[1], 0.18 * len(names) + 1.2))
    legend = figure.legend(
        fontsize=7, ncols=columns, loc="outside lower center", frameon=False, columnspacing=1, handlelength=1.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _markdown(figure, alt)


def label_shares(counts: Mapping[str, Mapping[str, float]], labels: Sequence[str], title: str, alt: str) -> str:
    """``stacked_shares`` of labels that a setting names, from the best to the least; what was labelled otherwise, by
    older settings, comes after them."""
    found = dict.fromkeys([*labels, *(label for parts in counts.values() for label in parts)])
    return stacked_shares(counts, dict(zip(found, cycle(OF_LABEL), strict=False)), title, alt)


def shares(
    rows: Sequence[Share], whole: float | None = None, title: str = "", label: str = "", until: float | None = None
) -> Figure:
    """One line for each share, from top to bottom: its interval and the share itself; dashed, that of the whole. The
    scale ends at ``until``, or where the intervals do."""
    from matplotlib.ticker import PercentFormatter

    figure = _figure(title)
    axes = _bare(figure, 0.25 + (0.2 if label else 0) + 0.27 * max(1, len(rows)))
    places = range(len(rows))[::-1]
    axes.hlines(places, [row.low for row in rows], [row.high for row in rows], color=BLUE, linewidth=6, alpha=0.3)
    axes.plot([row.value for row in rows], places, "o", color=BLUE, markersize=6)
    if whole is not None:
        axes.axvline(whole, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 1.02 * until if until else None)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="%"))
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_yticks(places, labels=[_tick(row.name) for row in rows], parse_math=False)
    # What was counted stands where the eye ends up.
    counts = axes.secondary_yaxis("right")
    counts.set_yticks(places, labels=[f"{row.value:.0%} of {row.count:,}" for row in rows])
    counts.spines["right"].set_visible(False)
    counts.tick_params(length=0, labelsize=10)
    axes.set_xlabel(label, fontsize=9)
    return figure


def gain_and_profit(gains: Sequence[float], profits: Sequence[float], best: int, title: str = "") -> Figure:
    """As more deciles are contacted: the share of the expected purchases reached, and the expected profit of all
    deciles so far. ``best``: with so many deciles the profit is largest."""
    from itertools import accumulate

    from matplotlib.ticker import PercentFormatter

    figure = _figure(title)
    axes = _bare(figure, 2.4)
    contacted = range(len(gains) + 1)
    total = [0.0, *accumulate(profits)]
    axes.bar(contacted, total, color=[GREY if step > best else BLUE for step in contacted], alpha=0.45, width=0.7)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.yaxis.set_major_formatter(lambda amount, _: compact(amount))
    axes.set_xticks(contacted[:: 2 if len(gains) > 5 else 1])
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / max(1, len(gains)):.0%}")
    axes.set_xlabel("share of visits contacted, most likely first", fontsize=9)
    axes.set_ylabel("expected profit (bars)", fontsize=9)
    reached = axes.twinx()
    reached.plot(contacted, [0.0, *gains], color=ORANGE, marker="o", markersize=3.5, linewidth=1.6)
    reached.set_ylim(0, 1.05)
    reached.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="%"))
    reached.set_ylabel("purchases reached (line)", fontsize=9)
    reached.tick_params(labelsize=10, length=0)
    for side in reached.spines.values():
        side.set_visible(False)
    return figure


def ranking(values: Mapping[str, float], label: str, title: str = "") -> Figure:
    """Horizontal bars of amounts above 0, in the order given from top to bottom."""
    figure = _figure(title)
    axes = _bare(figure, 0.45 + 0.27 * max(1, len(values)))
    places = range(len(values))[::-1]
    axes.barh(places, list(values.values()), color=BLUE, alpha=0.75, height=0.6)
    axes.set_yticks(places, labels=[_tick(name) for name in values], parse_math=False)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.set_xlabel(label, fontsize=9)
    return figure


def compact(amount: float) -> str:
    """A large number in few characters: 12.3k, -4.5M."""
    for size, unit in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        if abs(amount) >= size:
            return f"{amount / size:.3g}{unit}"
    return f"{amount:.3g}"


def _bare(figure: Figure, inches: float) -> Axes:
    """The axes without a frame and with small, quiet ticks, on a figure that is so high below its title."""
    axes = figure.axes[0]
    figure.set_figheight(inches + (0.3 if axes.get_title() else 0))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(labelsize=10, length=0)
    axes.set_axisbelow(True)
    return axes


def _tick(name: str) -> str:
    return textwrap.shorten(display.literal(name), 22, placeholder="…")


def markdown(figure: Figure, alt: str) -> str:
    """A figure as a Markdown image."""
    return _markdown(figure, alt)


def svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as an ``<svg>`` element to stand in a page of HTML: no background, its texts are texts, and its colours
    are the page's custom properties ``--blue``, ``--orange`` and ``--grey``, which may differ by light and dark.

    ``name`` tells the elements of several figures in one page apart.
    """
    import matplotlib as mpl

    output = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    # The same figure is the same text, whenever it is drawn.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(output, format="svg", metadata={"Date": None, "Creator": None})
    text = output.getvalue()
    # The XML declaration and the document type are not for the inside of a page; nor is a rule for everything in it.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head, _, rest = text.partition(">")
    text = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
    for colour, variable in ((BLUE, "--blue"), (ORANGE, "--orange"), (GREY, "--grey")):
        text = text.replace(colour.lower(), f"var({variable})")
    described = html.escape(alt)
    return text.replace("<svg", f'<svg role="img" aria-label="{described}"', 1)


def stability(indices: Mapping[str, float], drifted: Collection[str], limit: float) -> str:
    """The population stability index of each thing, from top to bottom, with the limit; what has drifted is hatched."""
    figure = _figure("")
    axes = figure.axes[0]
    axes.set_title("Population stability: latest days and training", fontsize=10, pad=20)
    names = list(indices)[::-1]
    figure.set_size_inches(1.4 * SIZE_INCHES[0], max(SIZE_INCHES[1], 0.22 * len(names) + 1.2))
    for chosen, colour, hatch, label in (
        (True, ORANGE, "//", "drifted, by index or by distance"),
        (False, BLUE, "", "not drifted"),
    ):
        places = [place for place, name in enumerate(names) if (name in drifted) == chosen]
        if not places:
            continue
        values = [indices[names[place]] for place in places]
        axes.barh(places, values, color=colour, hatch=hatch, edgecolor="white", label=label)
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1, label=f"limit {limit:g}")
    # See bars: a name is data.
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.set(xlabel="population stability index", xlim=(0, max(1.15 * limit, 1.05 * max(indices.values()))))
    axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 0.98), frameon=False)
    return _markdown(figure, "population stability of each feature")


def shares_then_and_now(
    labels: Sequence[str], then: Sequence[float], now: Sequence[float], title: str, alt: str
) -> str:
    """Bars side by side: the share of visits with each value or in each range, in training and in the latest days."""
    from matplotlib.ticker import PercentFormatter

    figure = _figure("")
    axes = figure.axes[0]
    figure.set_figheight(max(0.75 * SIZE_INCHES[1], 0.3 * len(labels) + 1.2))
    places = range(len(labels))[::-1]
    for offset, shares_of, colour, hatch, label in (
        (0.2, then, BLUE, "", "training"),
        (-0.2, now, ORANGE, "//", "latest days"),
    ):
        at = [place + offset for place in places]
        axes.barh(at, shares_of, height=0.4, color=colour, hatch=hatch, edgecolor="white", label=label)
    cut = [label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for label in labels]
    # See bars: a value is data.
    axes.set_yticks(list(places), labels=cut, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("share of visits")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    # Between title and bars: wherever else it were, it would hide some bar of some distribution.
    axes.set_title(title, fontsize=10, pad=20, parse_math=False)
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 0.98), frameon=False)
    return _markdown(figure, alt)


def credits_by_day(days: Mapping[date, Mapping[str, float]], budget: float | None) -> str:
    """Stacked columns: the estimated credits of each day by resource; dashed, the budget of a day."""
    figure = _figure("Estimated credits by day (UTC)")
    axes = figure.axes[0]
    figure.set_size_inches(1.6 * SIZE_INCHES[0], SIZE_INCHES[1])
    base = [0.0] * len(days)
    for (resource, label), colour in zip(_RESOURCES.items(), (BLUE, ORANGE, OF_LABEL[4]), strict=True):
        amounts = [parts.get(resource, 0.0) for parts in days.values()]
        axes.bar(range(len(days)), amounts, bottom=base, color=colour, label=label, width=0.8)
        base = [low + amount for low, amount in zip(base, amounts, strict=True)]
    if budget is not None:
        axes.axhline(budget, color=GREY, linestyle="--", linewidth=1, label=f"budget {budget:g}")
    step = max(1, len(days) // 8)
    axes.set_xticks(range(0, len(days), step), labels=[f"{day:%d %b}" for day in list(days)[::step]])
    axes.tick_params(labelsize=8)
    axes.set(ylabel="credits", ylim=(0, 1.1 * max([*base, budget or 0.0, 1e-6])))
    figure.set_layout_engine("constrained")
    figure.legend(fontsize=8, ncols=4, loc="outside lower center", frameon=False)
    return _markdown(figure, "estimated credits by day and resource")


_RESOURCES = {"compute_pool": "compute pool", "warehouse": "warehouse", "cortex": "Cortex"}


def seconds_by_run(runs: Mapping[str, Sequence[float]]) -> str:
    """One small panel for each asset: the seconds of its latest runs, from the oldest to the newest."""
    from matplotlib.figure import Figure

    columns = 3
    rows = max(1, -(-len(runs) // columns))
    figure = Figure(figsize=(2 * SIZE_INCHES[0], 1.5 * rows + 0.3), dpi=90, layout="constrained")
    for position, (name, seconds) in enumerate(runs.items(), start=1):
        axes = figure.add_subplot(rows, columns, position)
        axes.plot(range(len(seconds)), seconds, color=BLUE, marker="o", markersize=3, linewidth=1.2)
        axes.set_title(_tick(name), fontsize=9, parse_math=False)
        axes.set_ylim(0, 1.15 * max([*seconds, 1e-6]))
        axes.set_xticks([])
        axes.yaxis.set_major_formatter(lambda amount, _: f"{compact(amount)} s")
        axes.tick_params(labelsize=7)
    return _markdown(figure, "seconds of the latest runs of each asset")
