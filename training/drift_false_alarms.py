"""How often drift is reported where there is none, and how often it is found where it was injected, by size of the
window.

Visits are generated ones; the score is their true probability, as a perfect model would give it, so that it moves with
what was injected and with nothing else. What is measured is ``customer_insights.drift``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from customer_insights import drift
from customer_insights.display import markdown_table
from customer_insights.sample_data import synthetic_features
from customer_insights.settings import Settings
from customer_insights.synthetic_purchases import true_probability
from customer_insights.tables import TARGET
from customer_insights.zero_shot import QUALITY_LABELS

POPULATION = 60_000
REFERENCE_ROWS_A_PART = 2000
SIZES = (300, 1_000, 5_000, 20_000)
DOUBLED_TYPE = "Books"
_QUALITY_NAME = {text: name for name, text in QUALITY_LABELS.items()}


def population(seed: int = 0, rows: int = POPULATION) -> pd.DataFrame:
    """Visits to draw from, with the score."""
    features = synthetic_features(rows, seed)
    return features.rename(columns={"TRUE_PROBABILITY": drift.SCORE})


def resampled(visits: pd.DataFrame, size: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A reference and a window of ``size`` visits, drawn from the same visits; none is in both."""
    parts = ("train", "validation", "test")
    rows = REFERENCE_ROWS_A_PART * len(parts)
    drawn = np.random.default_rng(seed).choice(len(visits), size=rows + size, replace=False)
    reference = visits.iloc[drawn[:rows]].assign(PART=np.repeat(parts, REFERENCE_ROWS_A_PART))
    return reference, visits.iloc[drawn[rows:]].assign(SEEN=False).reset_index(drop=True)


def slower_pages(visits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Every page takes 30 % longer to load; visitors buy less."""
    return _bought_anew(visits.assign(PAGE_LOAD_TIME=(visits["PAGE_LOAD_TIME"] * 1.3).round(2)), rng)


def doubled_type(visits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One product type is visited twice as often."""
    weights = np.where(visits["PRODUCT_TYPE"] == DOUBLED_TYPE, 2.0, 1.0)
    drawn = rng.choice(len(visits), size=len(visits), p=weights / weights.sum())
    return visits.iloc[drawn].reset_index(drop=True)


def missing_sentiment(visits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A tenth of the visits has no sentiment."""
    return visits.assign(REVIEW_SENTIMENT=visits["REVIEW_SENTIMENT"].mask(rng.random(len(visits)) < 0.1))


def more_purchases(visits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A third of the visits without purchase ends in one; what is known of them stays as it was."""
    return visits.assign(**{TARGET: visits[TARGET].mask(rng.random(len(visits)) < 1 / 3, 1)})


def _bought_anew(visits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    probability = true_probability(
        visits["REVIEW_SENTIMENT"].to_numpy(),
        visits["PRODUCT_RATING"].to_numpy(),
        visits["PAGE_LOAD_TIME"].to_numpy(),
        visits["REVIEW_QUALITY"].map(_QUALITY_NAME).to_numpy(),
        visits["PRODUCT_TYPE"].to_numpy(),
        visits["PRODUCT_LAYOUT"].to_numpy(),
    )
    bought = (rng.random(len(visits)) < probability).astype(int)
    return visits.assign(**{drift.SCORE: probability, TARGET: bought})


@dataclass(frozen=True)
class Injection:
    """A change of the visits, what must be found of it, and what may be found besides because it depends on it."""

    name: str
    change: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
    moved: tuple[str, str]
    depending: frozenset[tuple[str, str]] = frozenset()


_OUTCOMES = frozenset({(drift.SCORE, "score"), (TARGET, "label")})
INJECTIONS = (
    Injection("pages load 30 % slower", slower_pages, ("PAGE_LOAD_TIME", "numeric"), _OUTCOMES),
    Injection("one product type doubled", doubled_type, ("PRODUCT_TYPE", "nominal"), _OUTCOMES),
    Injection("10 % without sentiment", missing_sentiment, ("REVIEW_SENTIMENT", "nulls")),
    Injection("a third of the others buys too", more_purchases, (TARGET, "label")),
)


def alarms(reference: pd.DataFrame, current: pd.DataFrame, settings: Settings) -> set[tuple[str, str]]:
    """What is reported as drifted: (measured, kind)."""
    return {(one.measured, one.kind) for one in drift.measure(reference, current, settings) if one.drifted}


def unlikely(one: drift.Measurement, settings: Settings) -> bool:
    """Whether chance alone does not explain what was found, however small it is."""
    return one.p_value is not None and one.p_value < settings.drift_significance / len(drift.COMPARISONS)


def counts(seeds: int = 100, sizes: Sequence[int] = SIZES, settings: Settings | None = None) -> str:
    """A Markdown table: reports with a false alarm among ``seeds`` re-samples of the same visits, and the share of
    ``seeds`` in which each injected drift was found, by visits of the window.

    "Chance alone": what would be false alarms if every size counted as large; at most the significance of the settings
    in the long run.
    """
    settings = settings or Settings()
    visits = population()
    rows = []
    for size in sizes:
        false, by_chance, found = 0, 0, dict.fromkeys((injection.name for injection in INJECTIONS), 0)
        for seed in range(seeds):
            reference, current = resampled(visits, size, seed)
            measured = drift.measure(reference, current, settings)
            false += any(one.drifted for one in measured)
            by_chance += any(unlikely(one, settings) for one in measured)
            for injection in INJECTIONS:
                changed = injection.change(current, np.random.default_rng(seed))
                found[injection.name] += injection.moved in alarms(reference, changed, settings)
        shares = (f"{count / seeds:.0%}" for count in found.values())
        rows.append((f"{size:,}", f"{false} of {seeds}", f"{by_chance} of {seeds}", *shares))
    header = ("visits", "false alarms", "chance alone", *(f"found: {injection.name}" for injection in INJECTIONS))
    return markdown_table(header, rows)


if __name__ == "__main__":
    print(counts())
