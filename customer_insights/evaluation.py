"""How good a purchase model is: metrics with intervals, by segment, beside what it must beat, on the same visits.

Works on arrays and data frames; training is in ``purchase_model``, the decision on promotion in ``promotion``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from customer_insights.purchase_model import SEED, encoders, model_input, train
from customer_insights.settings import Settings
from customer_insights.tables import KNOWN_BEFORE_PURCHASE, TARGET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline

BOOTSTRAP_ROUNDS = 200
CALIBRATION_BINS = 10
SEGMENT_COLUMNS = ("LANGUAGE", "PRODUCT_TYPE")
# A segment with fewer visits, or fewer of either outcome, says nothing; it is left out.
SEGMENT_ROWS, SEGMENT_OF_EITHER = 30, 8
# Many segments are looked at: each may be called collapsed, or worse, only when chance does as much once in a thousand.
SURE_DEVIATIONS = 3.09
WHOLE = "ALL"
METRICS = (
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
    "expected_calibration_error",
    "top_decile_lift",
    "top_decile_gain",
    "profit_per_visit",
)


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """One model on one set of visits.

    ``metrics``: by the names of ``METRICS``. ``resampled``: each metric on every bootstrap sample, (BOOTSTRAP_ROUNDS,);
    the samples are the same for every model that is measured on the same visits.
    """

    rows: int
    positives: int
    metrics: Mapping[str, Metric]
    resampled: Mapping[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """The challenger beside the prior, simpler models and the champion, on the same test visits.

    ``models``: by name; ``challenger``, ``prior``, ``logistic_regression``, ``known_before_purchase`` (the same model
    without the reviews) and ``champion`` where there is one. ``segments``: (column, value) -> models by name.
    ``calibration_by_chance``: the expected calibration error that 95 % of perfectly calibrated models stay below on as
    many visits. ``collapsed``: segments where the challenger may be guessing and surely orders visits worse than on the
    whole; ``worse``: where surely worse than the champion.
    """

    models: Mapping[str, Measured]
    segments: Mapping[tuple[str, str], Mapping[str, Measured]]
    champion_version: str | None
    calibration_by_chance: float
    collapsed: tuple[str, ...]
    worse: tuple[str, ...]
    threshold: float
    outcomes: np.ndarray
    probabilities: np.ndarray

    @property
    def challenger(self) -> Measured:
        return self.models["challenger"]

    def difference(self, metric: str = "roc_auc") -> Metric | None:
        """Challenger less champion, on the same visits and the same bootstrap samples."""
        champion = self.models.get("champion")
        return difference(self.challenger, champion, metric) if champion else None


def difference(one: Measured, other: Measured, metric: str) -> Metric:
    """``one`` less ``other``; both measured on the same visits."""
    import numpy as np

    spread = one.resampled[metric] - other.resampled[metric]
    low, high = np.percentile(spread, [2.5, 97.5])
    return Metric(one.metrics[metric].value - other.metrics[metric].value, float(low), float(high))


def evaluate(
    model: Pipeline,
    parts: dict[str, pd.DataFrame],
    settings: Settings,
    champion: Any = None,
    champion_version: str | None = None,
    threads: int = 1,
) -> Evaluation:
    """Measure the model and what it must beat on the test rows.

    ``champion``: anything with ``predict_proba`` of the raw columns.
    """
    import numpy as np

    test = parts["test"]
    inputs = model_input(test)
    outcomes = test[TARGET].to_numpy(dtype=int)
    without_reviews = train(parts, settings, threads, columns=KNOWN_BEFORE_PURCHASE)
    predicted = {
        "challenger": model.predict_proba(inputs)[:, 1],
        "prior": np.full(len(test), parts["train"][TARGET].mean(), dtype=float),
        "logistic_regression": logistic_regression(parts["train"]).predict_proba(inputs)[:, 1],
        "known_before_purchase": without_reviews.predict_proba(model_input(test, KNOWN_BEFORE_PURCHASE))[:, 1],
    }
    if champion is not None:
        predicted["champion"] = champion.predict_proba(inputs)[:, 1]
    threshold = contact_threshold(settings)
    segments = {
        (column, str(value)): {
            name: measure(outcomes[chosen], probabilities[chosen], settings)
            for name, probabilities in predicted.items()
            if name in ("challenger", "champion")
        }
        for column in SEGMENT_COLUMNS
        for value in sorted(test[column].unique())
        if _is_large_enough(outcomes[chosen := (test[column] == value).to_numpy()])
    }
    models = {name: measure(outcomes, probabilities, settings) for name, probabilities in predicted.items()}
    return Evaluation(
        models=models,
        segments=segments,
        champion_version=champion_version,
        calibration_by_chance=calibration_by_chance(predicted["challenger"]),
        collapsed=_named(segments, lambda measured: is_collapsed(measured["challenger"], models["challenger"])),
        worse=_named(segments, is_worse),
        threshold=threshold,
        outcomes=outcomes,
        probabilities=predicted["challenger"],
    )


def _is_large_enough(outcomes: np.ndarray) -> bool:
    positives = int(outcomes.sum())
    return len(outcomes) >= SEGMENT_ROWS and min(positives, len(outcomes) - positives) >= SEGMENT_OF_EITHER


def _named(
    segments: Mapping[tuple[str, str], Mapping[str, Measured]], condition: Callable[[Mapping[str, Measured]], bool]
) -> tuple[str, ...]:
    return tuple(f"{column} {value}" for (column, value), measured in segments.items() if condition(measured))


def is_collapsed(segment: Measured, whole: Measured) -> bool:
    """Whether a segment's AUC may be chance (its interval reaches 0.5) and is surely below that of all visits.

    The first alone would blame small segments, whose intervals are wide.
    """
    aucs = segment.resampled["roc_auc"]
    highest = segment.metrics["roc_auc"].value + SURE_DEVIATIONS * float(aucs.std())
    return segment.metrics["roc_auc"].low <= 0.5 and highest < whole.metrics["roc_auc"].value


def is_worse(measured: Mapping[str, Measured]) -> bool:
    """Whether the challenger's order of a segment's visits is surely worse than the champion's."""
    champion = measured.get("champion")
    if champion is None:
        return False
    challenger = measured["challenger"]
    spread = challenger.resampled["roc_auc"] - champion.resampled["roc_auc"]
    less = challenger.metrics["roc_auc"].value - champion.metrics["roc_auc"].value
    return less + SURE_DEVIATIONS * float(spread.std()) < 0


def logistic_regression(rows: pd.DataFrame) -> Pipeline:
    """The plain model that XGBoost must beat: the same columns, scaled."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    model = Pipeline(
        [("columns", encoders()), ("scale", StandardScaler()), ("classifier", LogisticRegression(max_iter=1000))]
    )
    return model.fit(model_input(rows), rows[TARGET].astype(int))


# -- metrics ----------------------------------------------------------------------------------------------------------


def measure(
    outcomes: np.ndarray, probabilities: np.ndarray, settings: Settings, rounds: int = BOOTSTRAP_ROUNDS
) -> Measured:
    """Metrics of ``probabilities: (n,)`` against ``outcomes: (n,)`` of 0 and 1; both classes must occur.

    A bootstrap sample without one of the classes is drawn again.
    """
    import numpy as np

    ranked = _Ranked.of(outcomes, probabilities, contact_threshold(settings), settings)
    values = ranked.metrics(np.ones(len(outcomes)))
    generator = np.random.default_rng(SEED)
    resampled = []
    while len(resampled) < rounds:
        weights = np.bincount(generator.integers(0, len(outcomes), len(outcomes)), minlength=len(outcomes))
        if 0 < weights @ outcomes < len(outcomes):
            resampled.append(ranked.metrics(weights.astype(float)))
    columns = {name: np.array([sample[name] for sample in resampled]) for name in METRICS}
    return Measured(
        rows=len(outcomes),
        positives=int(outcomes.sum()),
        metrics={name: Metric(values[name], *_ends(name, values[name], columns[name])) for name in METRICS},
        resampled=columns,
    )


def _ends(name: str, value: float, resampled: np.ndarray) -> tuple[float, float]:
    """The interval's ends. Drawing with replacement adds to a calibration error, so its samples are moved down by as
    much as their mean lies above the value."""
    import numpy as np

    bias = float(resampled.mean()) - value if name == "expected_calibration_error" else 0.0
    low, high = np.percentile(resampled, [2.5, 97.5]) - bias
    return (max(0.0, float(low)) if bias else float(low)), float(high)


@dataclass(frozen=True)
class _Ranked:
    """Visits in the order of their probability, the most likely first, so that a bootstrap sample is only weights."""

    order: np.ndarray
    outcomes: np.ndarray
    probabilities: np.ndarray
    # The last row of each run of equal probabilities.
    ends: np.ndarray
    bins: np.ndarray
    threshold: float
    purchase_value: float
    contact_cost: float

    @classmethod
    def of(cls, outcomes: np.ndarray, probabilities: np.ndarray, threshold: float, settings: Settings) -> _Ranked:
        import numpy as np

        order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[order]
        parts = np.array_split(np.arange(len(order)), min(CALIBRATION_BINS, len(order)))
        return cls(
            order=order,
            outcomes=outcomes[order].astype(float),
            probabilities=ranked,
            ends=np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1),
            bins=np.array([part[0] for part in parts]),
            threshold=threshold,
            purchase_value=settings.purchase_value,
            contact_cost=settings.contact_cost,
        )

    def metrics(self, weights: np.ndarray) -> dict[str, float]:
        """Every metric where visit i counts ``weights[i]`` times; ``weights`` in the visits' own order."""
        import numpy as np

        weight = weights[self.order]
        bought, left = weight * self.outcomes, weight * (1 - self.outcomes)
        buyers, others = np.cumsum(bought), np.cumsum(left)
        found, false = buyers[self.ends], others[self.ends]
        total, n_buyers, n_others = buyers[-1] + others[-1], buyers[-1], others[-1]
        # Trapezes under the ROC curve: ties count half.
        auc = np.trapezoid(np.append(0, found), np.append(0, false)) / (n_buyers * n_others)
        with np.errstate(invalid="ignore"):
            precision = np.nan_to_num(found / (found + false), nan=1.0)
        gained = np.diff(np.append(0, found))
        clipped = np.clip(self.probabilities, 1e-15, 1 - 1e-15)
        losses = -np.where(self.outcomes > 0, np.log(clipped), np.log(1 - clipped))
        in_bin, predicted, observed = (
            np.add.reduceat(values, self.bins) for values in (weight, weight * self.probabilities, bought)
        )
        top = total / 10
        # Visits of equal probability share the place evenly.
        bought_in_top = float(np.interp(top, np.append(0, found + false), np.append(0, found)))
        contacted = weight * (self.probabilities >= self.threshold)
        profit = self.purchase_value * float(contacted @ self.outcomes) - self.contact_cost * float(contacted.sum())
        return {
            "roc_auc": float(auc),
            "average_precision": float(precision @ gained / n_buyers),
            "log_loss": float(weight @ losses / total),
            "brier": float(weight @ (self.probabilities - self.outcomes) ** 2 / total),
            "expected_calibration_error": float(np.abs(predicted - observed).sum() / in_bin.sum()),
            "top_decile_lift": bought_in_top / top / (n_buyers / total),
            "top_decile_gain": bought_in_top / n_buyers,
            "profit_per_visit": profit / total,
        }


def expected_calibration_error(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance of predicted and observed rate over bins with equal counts, weighted by count (Naeini et al.
    2015)."""
    import numpy as np

    order = np.argsort(-probabilities, kind="stable")
    bins = np.array_split(order, min(CALIBRATION_BINS, len(order)))
    return float(sum(len(b) * abs(probabilities[b].mean() - outcomes[b].mean()) for b in bins) / len(order))


def calibration_by_chance(probabilities: np.ndarray, rounds: int = BOOTSTRAP_ROUNDS) -> float:
    """The expected calibration error that 95 % of models stay below whose probabilities are true: purchases are drawn
    with them."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    drawn = [
        expected_calibration_error((generator.random(len(probabilities)) < probabilities).astype(int), probabilities)
        for _ in range(rounds)
    ]
    return float(np.percentile(drawn, 95))


def contact_threshold(settings: Settings) -> float:
    """The probability from which contacting a customer pays: cost over value, where probabilities are calibrated
    (Elkan 2001)."""
    return min(1.0, settings.contact_cost / settings.purchase_value)
