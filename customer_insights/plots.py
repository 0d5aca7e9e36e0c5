"""Pictures for metadata: each function draws one figure and returns it as a Markdown image with the PNG inside.

The numbers come in as arrays; computing them belongs in ``evaluation`` and ``insights``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from customer_insights import display

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from customer_insights.evaluation import Evaluation

# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#7F7F7F"
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
    axes.set(xlabel="share of purchases found", ylabel="share of purchases among those found", ylim=(0, 1.02))
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
    z = 1.959964
    share = successes / trials
    middle = share + z * z / (2 * trials)
    spread = z * ((share * (1 - share) + z * z / (4 * trials)) / trials) ** 0.5
    return (middle - spread) / (1 + z * z / trials), (middle + spread) / (1 + z * z / trials)


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
