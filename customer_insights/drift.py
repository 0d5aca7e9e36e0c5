"""Drift: how far the visits of the latest days are from those that the champion was trained on.

An alarm must be both large and not by chance. How pictures of it are drawn is in ``plots``; what Snowflake itself
measures, in ``model_monitor``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from math import inf, log
from typing import TYPE_CHECKING, Any, Literal

from customer_insights import publish, query
from customer_insights.errors import PermanentError
from customer_insights.purchase_model import part
from customer_insights.settings import Settings
from customer_insights.tables import (
    DRIFT_REPORT,
    MODEL_FEATURES,
    MODEL_REFERENCE,
    NOMINAL_FEATURES,
    NUMERIC_FEATURES,
    PURCHASE_FEATURES,
    PURCHASE_PROPENSITY,
    TARGET,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from snowflake.snowpark import Session

Kind = Literal["nominal", "numeric", "score", "label", "nulls"]

SCORE = "PURCHASE_PROBABILITY"
# What may be missing: the sentiment that a model could not tell, the decision that nobody knows yet, the prediction.
NULLABLE = ("REVIEW_SENTIMENT", TARGET, SCORE)
# One comparison each; the chance of a false alarm is divided among them.
COMPARISONS: tuple[tuple[str, Kind], ...] = (
    *((name, "nominal") for name in NOMINAL_FEATURES),
    *((name, "numeric") for name in NUMERIC_FEATURES),
    (SCORE, "score"),
    (TARGET, "label"),
    *((name, "nulls") for name in NULLABLE),
)
# With fewer visits on either side only a Kolmogorov-Smirnov distance beyond twice the limit of 0.1 can be told from
# chance at 1 % over all comparisons (2.0 / sqrt(100) = 0.2): "no drift" would say nothing.
MINIMUM_VISITS = 100
# Visits of a window that are read. 20,000 resolve a distance of 0.03 against 6,000 of the training set; the reference
# then limits what can be seen, not the window.
SAMPLED_VISITS = 20_000
# The usual number for the population stability index, whose limits of 0.1 and 0.2 were found with it.
QUANTILE_BINS = 10
# Below, the chi-square distribution does not hold (Cochran 1954).
FEWEST_EXPECTED = 5
# Added to each count, so that a value that one side lacks gives a large index and no infinite one.
SMOOTHING = 0.5
SHOWN_RANGES, SHOWN_VALUES = 10, 15
LONGEST_VALUE = 40


@dataclass(frozen=True)
class Measurement:
    """One comparison.

    ``excess``: the largest of its sizes over its limit; above 1 it is large. Sizes, ``p_value`` and ``excess`` are None
    where fewer than ``MINIMUM_VISITS`` are compared. ``change``: what moved, for people.
    """

    measured: str
    kind: Kind
    reference_rows: int
    current_rows: int
    reference_value: float | None = None
    current_value: float | None = None
    population_stability: float | None = None
    distance: float | None = None
    p_value: float | None = None
    excess: float | None = None
    drifted: bool = False
    change: str = ""

    @property
    def is_judged(self) -> bool:
        return self.p_value is not None


@dataclass(frozen=True)
class Report:
    """What was compared and found, the most severe first.

    ``visits``: all of the window. ``reference``, ``current``: the rows compared; ``current`` is a sample where there
    are many, its column SEEN says which the champion may have seen in training.
    """

    version: str
    window_start: date
    window_end: date
    visits: int
    reference: pd.DataFrame = field(repr=False)
    current: pd.DataFrame = field(repr=False)
    measurements: tuple[Measurement, ...]

    def of(self, *kinds: Kind) -> list[Measurement]:
        return [found for found in self.measurements if found.kind in kinds]


# -- sizes and chances, on arrays -------------------------------------------------------------------------------------


def quantile_counts(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values in bins between the reference's deciles, (bins,) each; equal deciles are one."""
    import numpy as np

    edges = np.unique(np.quantile(reference, np.linspace(0, 1, QUANTILE_BINS + 1)[1:-1]))
    then, now = (
        np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (reference, current)
    )
    return then, now


def value_counts(reference: pd.Series, current: pd.Series) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The values that either side has, the reference's commonest first, and how often each is there."""
    counted, other = reference.value_counts(), current.value_counts()
    names = [*counted.index, *other.index.difference(counted.index)]
    then, now = (counts.reindex(names, fill_value=0).to_numpy() for counts in (counted, other))
    return [str(name) for name in names], then, now


def pooled(then: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The counts with the rarest values added up, until each is expected ``FEWEST_EXPECTED`` times on both sides."""
    import numpy as np

    both = then + now
    expected = both * (min(then.sum(), now.sum()) / both.sum())
    order = np.argsort(expected, kind="stable")
    rare = int(np.searchsorted(expected[order], FEWEST_EXPECTED))
    while 0 < rare < len(order) and expected[order[:rare]].sum() < FEWEST_EXPECTED:
        rare += 1
    if not rare:
        return then, now
    kept, others = order[rare:], order[:rare]
    return np.append(then[kept], then[others].sum()), np.append(now[kept], now[others].sum())


def population_stability(then: np.ndarray, now: np.ndarray) -> float:
    """The population stability index: the sum over bins of (now - then) ln(now / then), of shares. It is Jeffreys'
    divergence (1946); 0 for equal shares."""
    import numpy as np

    shares = [(counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts)) for counts in (then, now)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def total_variation(then: np.ndarray, now: np.ndarray) -> float:
    """The largest difference of the share of any set of values, 0 to 1."""
    import numpy as np

    return float(np.abs(then / then.sum() - now / now.sum()).sum() / 2)


def chance(then: np.ndarray, now: np.ndarray) -> float:
    """Probability of counts at least this different when both are drawn from one distribution: Pearson's chi-square,
    Fisher's exact test for two values, whose counts may be few."""
    import numpy as np
    from scipy import stats

    if len(then) < 2:
        return 1.0
    table = np.array([then, now])
    test = stats.fisher_exact if len(then) == 2 else stats.chi2_contingency
    found: Any = test(table)
    return float(found.pvalue)


def kolmogorov_smirnov(reference: np.ndarray, current: np.ndarray) -> tuple[float, float]:
    """Largest distance of the two distribution functions, and the probability of at least that by chance. With ties the
    probability is an upper bound."""
    from scipy import stats

    found: Any = stats.ks_2samp(reference, current, method="asymp")
    return float(found.statistic), float(found.pvalue)


# -- one comparison ---------------------------------------------------------------------------------------------------


def _too_few(name: str, kind: Kind, rows: tuple[int, int]) -> Measurement | None:
    if min(rows) >= MINIMUM_VISITS:
        return None
    return Measurement(
        name, kind, *rows, change=f"too few visits to judge: {rows[0]} then, {rows[1]} now, {MINIMUM_VISITS} are needed"
    )


def _judged(
    name: str,
    kind: Kind,
    rows: tuple[int, int],
    values: tuple[float, float],
    sizes: tuple[float, float],
    p_value: float,
    change: str,
    settings: Settings,
    odds_excess: float = 0.0,
) -> Measurement:
    stability, distance = sizes
    excess = max(stability / settings.drift_stability_limit, distance / settings.drift_distance_limit, odds_excess)
    drifted = excess > 1 and p_value < settings.drift_significance / len(COMPARISONS)
    return Measurement(name, kind, *rows, *values, stability, distance, p_value, excess, drifted, change)


def numeric(name: str, kind: Kind, reference: pd.Series, current: pd.Series, settings: Settings) -> Measurement:
    """Compare numbers; missing ones are left out."""
    then, now = (values.dropna().to_numpy(dtype=float) for values in (reference, current))
    rows = (len(then), len(now))
    if few := _too_few(name, kind, rows):
        return few
    counts = pooled(*quantile_counts(then, now))
    distance, p_distance = kolmogorov_smirnov(then, now)
    return _judged(
        name,
        kind,
        rows,
        (float(then.mean()), float(now.mean())),
        (population_stability(*counts), distance),
        # Either size may raise the alarm, so either may do so by chance.
        min(1.0, 2 * min(p_distance, chance(*counts))),
        f"mean {then.mean():.4g} then, {now.mean():.4g} now",
        settings,
    )


def nominal(name: str, kind: Kind, reference: pd.Series, current: pd.Series, settings: Settings) -> Measurement:
    """Compare how often each value is there."""
    import numpy as np

    rows = (len(reference), len(current))
    if few := _too_few(name, kind, rows):
        return few
    names, then, now = value_counts(reference, current)
    shares = then / rows[0], now / rows[1]
    most = int(np.argmax(np.abs(shares[1] - shares[0])))
    counts = pooled(then, now)
    return _judged(
        name,
        kind,
        rows,
        (float(shares[0][0]), float(shares[1][0])),
        (population_stability(*counts), total_variation(*counts)),
        chance(*counts),
        f"{_cut(names[most])} {shares[0][most]:.1%} then, {shares[1][most]:.1%} now",
        settings,
    )


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 1]}…"


def rate(name: str, kind: Kind, reference: pd.Series, current: pd.Series, settings: Settings) -> Measurement:
    """Compare the share of True: of purchases, or of what is missing."""
    import numpy as np

    rows = (len(reference), len(current))
    if few := _too_few(name, kind, rows):
        return few
    then, now = (np.array([len(found) - found.sum(), found.sum()], dtype=int) for found in (reference, current))
    shares = then[1] / rows[0], now[1] / rows[1]
    change, odds_excess = f"missing {shares[0]:.1%} then, {shares[1]:.1%} now", 0.0
    if kind == "label":
        odds, allowed = _odds(then, now), _allowed_odds(settings)
        change = (
            f"purchases {shares[0]:.1%} then, {shares[1]:.1%} now, odds {odds:.2f} times; "
            f"{1 / allowed:.2f} to {allowed:.2f} is allowed"
        )
        odds_excess = abs(log(odds)) / log(allowed)
    return _judged(
        name,
        kind,
        rows,
        (float(shares[0]), float(shares[1])),
        (population_stability(then, now), total_variation(then, now)),
        chance(then, now),
        change,
        settings,
        odds_excess,
    )


def _odds(then: np.ndarray, now: np.ndarray) -> float:
    """How many times as large the odds are as they were."""
    before, after = ((counts[1] + SMOOTHING) / (counts[0] + SMOOTHING) for counts in (then, now))
    return float(after / before)


def _allowed_odds(settings: Settings) -> float:
    """The change of the odds that is the distance limit at a rate of one half: 1.5 times for 0.1, from 0.5 to 0.6.

    Where purchases are rare a distance of 0.1 is never reached: from 2 % to 6 % the model is as wrong as from 50 % to
    75 %.
    """
    limit = settings.drift_distance_limit
    return (0.5 + limit) / (0.5 - limit) if limit < 0.5 else inf


def measure(reference: pd.DataFrame, current: pd.DataFrame, settings: Settings) -> tuple[Measurement, ...]:
    """Every comparison, the most severe first.

    Args:
        reference: model features, target, PURCHASE_PROBABILITY and PART, as MODEL_REFERENCE has them.
        current: the same without PART, and SEEN: whether training may have seen the visit.
    """
    measured = []
    for name, kind in COMPARISONS:
        compare = {"nominal": nominal, "numeric": numeric, "score": numeric}.get(kind, rate)
        measured.append(compare(name, kind, *sides(reference, current, name, kind), settings))
    return tuple(sorted(measured, key=lambda one: (one.drifted, one.excess or -1), reverse=True))


def sides(reference: pd.DataFrame, current: pd.DataFrame, name: str, kind: Kind) -> tuple[pd.Series, pd.Series]:
    """What is compared: values then and now; for rates, True and False."""
    then, now = reference[name], current[name]
    if kind == "score":
        # Visits that trained the model are predicted too well: the score is compared on visits that did not.
        return then[reference["PART"] == "test"].dropna(), now[~current["SEEN"].astype(bool)].dropna()
    if kind == "label":
        return then.dropna() == 1, now.dropna() == 1
    if kind == "nulls":
        return then.isna(), now.isna()
    return then, now


def distribution(found: Report, one: Measurement) -> tuple[list[str], list[float], list[float]]:
    """Values or ranges of one thing, and the share of visits in each then and now: what a picture of it shows."""
    import numpy as np

    then, now = sides(found.reference, found.current, one.measured, one.kind)
    if one.kind in ("numeric", "score"):
        then, now = (values.dropna().to_numpy(dtype=float) for values in (then, now))
        names, counts = _ranges(then, now)
    elif one.kind == "nominal":
        names, *both = value_counts(then, now)
        names, counts = _commonest(names, np.array(both))
    else:
        names = ["missing", "there"] if one.kind == "nulls" else ["purchase", "none"]
        counts = np.array([[side.sum(), len(side) - side.sum()] for side in (then, now)])
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return names, shares[0].tolist(), shares[1].tolist()


def _ranges(then: np.ndarray, now: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Counts in ranges of equal width; the outer hundredths are in the first and the last."""
    import numpy as np

    both = np.concatenate([then, now])
    values = np.unique(both)
    if len(values) <= SHOWN_RANGES:
        return [f"{value:g}" for value in values], np.array(
            [[(side == v).sum() for v in values] for side in (then, now)]
        )
    low, high = (float(np.quantile(both, share)) for share in (0.01, 0.99))
    edges = np.linspace(low, high, SHOWN_RANGES + 1)
    inner = edges[1:-1]
    counts = np.array([np.bincount(np.searchsorted(inner, side), minlength=SHOWN_RANGES) for side in (then, now)])
    middle = [f"{start:.3g} to {end:.3g}" for start, end in pairwise(inner)]
    return [f"up to {inner[0]:.3g}", *middle, f"above {inner[-1]:.3g}"], counts


def _commonest(names: list[str], counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The values that most visits have on either side, then what the others have together."""
    import numpy as np

    if len(names) <= SHOWN_VALUES:
        return names, counts
    order = np.argsort(-(counts / counts.sum(axis=1, keepdims=True)).max(axis=0), kind="stable")
    kept, others = order[: SHOWN_VALUES - 1], order[SHOWN_VALUES - 1 :]
    together = counts[:, others].sum(axis=1, keepdims=True)
    return [*(names[at] for at in kept), f"{len(others)} others"], np.hstack([counts[:, kept], together])


# -- on Snowflake -----------------------------------------------------------------------------------------------------


def report(session: Session, settings: Settings, champion_version: str, run_id: str) -> Report:
    """Compare the latest days' visits with the champion's reference and merge what was found into DRIFT_REPORT: once
    more on the same days replaces those rows.

    Raises:
        PermanentError: there are no visits, or no reference of this version.
    """
    reference, trained_on = read_reference(session, champion_version)
    start, end, visits = window(session, settings)
    current = read_current(session, champion_version, start, end, trained_on)
    found = Report(champion_version, start, end, visits, reference, current, measure(reference, current, settings))
    _keep(session, found, run_id)
    return found


def read_reference(session: Session, version: str) -> tuple[pd.DataFrame, date]:
    """The rows that were kept of a version, at most a few thousand, and the day on which it was trained."""
    columns = ", ".join(("PART", *MODEL_FEATURES, TARGET, SCORE, "LOGGED_AT"))
    rows = session.sql(
        f"SELECT {columns} FROM {MODEL_REFERENCE.name} WHERE MODEL_VERSION = ? ORDER BY UUID", params=[version]
    ).to_pandas()
    if rows.empty:
        raise PermanentError(
            f"{MODEL_REFERENCE.name} holds no visits of {version}, which serves: it was trained before they were kept, "
            "or they were deleted. Run the job `retraining`: drift is measured against the version that it promotes"
        )
    return rows, rows["LOGGED_AT"].max().date()


def window(session: Session, settings: Settings) -> tuple[date, date, int]:
    """First and last day of arrival of the latest days, and how many visits arrived on them."""
    end = query.value(session, f"SELECT MAX(ARRIVAL_DATE) FROM {PURCHASE_FEATURES.name}")
    if end is None:
        raise PermanentError(f"{PURCHASE_FEATURES.name} is empty: materialize purchase_features, then drift_report")
    start = end - timedelta(days=settings.drift_window_days - 1)
    visits = query.value(
        session,
        f"SELECT COUNT(*) FROM {PURCHASE_FEATURES.name} WHERE ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE",
        [start.isoformat(), end.isoformat()],
    )
    return start, end, int(visits)


def read_current(session: Session, version: str, start: date, end: date, trained_on: date) -> pd.DataFrame:
    """At most ``SAMPLED_VISITS`` visits of the window, the same ones each time, with the prediction of ``version`` and
    whether training may have seen them (SEEN): those that have arrived by the day of training and are not in its test
    part."""
    columns = ", ".join(f"f.{name}" for name in ("UUID", "ARRIVAL_DATE", *MODEL_FEATURES, TARGET))
    rows = session.sql(
        f"SELECT {columns}, p.{SCORE} FROM {PURCHASE_FEATURES.name} AS f\n"
        f"LEFT JOIN {PURCHASE_PROPENSITY.name} AS p ON p.UUID = f.UUID AND p.MODEL_VERSION = ?\n"
        "WHERE f.ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE\n"
        f"ORDER BY MD5(f.UUID), f.UUID LIMIT {SAMPLED_VISITS}",
        params=[version, start.isoformat(), end.isoformat()],
    ).to_pandas()
    seen = [
        arrived <= trained_on and part(uuid) != "test"
        for uuid, arrived in zip(rows["UUID"], rows["ARRIVAL_DATE"], strict=True)
    ]
    return rows.assign(SEEN=seen)


def _keep(session: Session, found: Report, run_id: str) -> None:
    import pandas as pd

    now = pd.Timestamp.now(tz="UTC").tz_localize(None)
    rows = [
        {
            "WINDOW_START": found.window_start,
            "WINDOW_END": found.window_end,
            "MODEL_VERSION": found.version,
            "MEASURED": one.measured,
            "KIND": one.kind,
            "REFERENCE_ROWS": one.reference_rows,
            "CURRENT_ROWS": one.current_rows,
            "REFERENCE_VALUE": one.reference_value,
            "CURRENT_VALUE": one.current_value,
            "POPULATION_STABILITY": one.population_stability,
            "DISTANCE": one.distance,
            "P_VALUE": one.p_value,
            "DRIFTED": int(one.drifted),
            "COMPUTED_AT": now,
            "RUN_ID": run_id,
        }
        for one in found.measurements
    ]
    sizes = ["REFERENCE_VALUE", "CURRENT_VALUE", "POPULATION_STABILITY", "DISTANCE", "P_VALUE"]
    publish.merge_frame(session, DRIFT_REPORT, pd.DataFrame(rows).astype(dict.fromkeys(sizes, float)))
