"""Pictures for metadata: each function draws one figure and returns it as a Markdown image with the PNG inside.

The numbers come in as arrays; computing them belongs in ``conversion`` and ``insights``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#7F7F7F"
SIZE_INCHES = (4.2, 3.2)


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


def roc(outcomes: np.ndarray, probabilities: np.ndarray, auc: float) -> str:
    """ROC curve of ``probabilities: (n,)`` against ``outcomes: (n,)``."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(outcomes, probabilities)
    figure = _figure(f"ROC on test visits, AUC {auc:.3f}")
    axes = figure.axes[0]
    axes.plot(false_positive, true_positive, color=BLUE)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="share of visits without purchase", ylabel="share of purchases found")
    return _markdown(figure, "ROC curve")


def calibration(outcomes: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> str:
    """Observed purchase rate against predicted probability, in bins of equal count."""
    import numpy as np

    parts = np.array_split(np.argsort(probabilities, kind="stable"), bins)
    predicted = [probabilities[part].mean() for part in parts if len(part)]
    observed = [outcomes[part].mean() for part in parts if len(part)]
    figure = _figure("Calibration on test visits")
    axes = figure.axes[0]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.plot(predicted, observed, color=BLUE, marker="o")
    axes.set(xlabel="predicted probability", ylabel="observed purchase rate")
    return _markdown(figure, "calibration curve")


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
