"""What the small model of review quality is measured against, and on which reviews: the teacher that it learns from and
two cut-offs on the length.

How the model learns is in ``train_quality_nli``, how they compare in ``quality_evaluation``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from customer_insights import sample_data, sentiment_models
from customer_insights.sequence_classifier import readable

# From the shortest text to the longest.
BY_LENGTH = np.array(["generic", "basic", "detailed"])
# A character of Chinese, Japanese or Korean says as much as 2.6 others.
_DENSE = re.compile(r"[\u3041-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_MORE_A_DENSE_CHARACTER = 1.6


@dataclass(frozen=True)
class Parts:
    """The written reviews: those that models and baselines learn from, a quarter of the others to choose and calibrate
    by, and those that are held out."""

    learnt_from: pd.DataFrame
    chosen_on: pd.DataFrame
    held_out: pd.DataFrame


def parts(written: pd.DataFrame) -> Parts:
    """The same parts on every machine, by hashes of the identifiers."""
    held_out = sample_data.held_out(written["uuid"])
    digests = [hashlib.sha256(f"chosen:{name}".encode()).digest() for name in written["uuid"]]
    chosen = np.array([int.from_bytes(digest[:8], "big") < 0.25 * 2**64 for digest in digests])
    return Parts(written[~held_out & ~chosen], written[~held_out & chosen], written[held_out])


def teacher(embeddings: np.ndarray, labels: Sequence[str]) -> LogisticRegression:
    """Quality from sentence embeddings. ``C`` is the best of 1, 10, 30 and 100 on the reviews to choose by."""
    return LogisticRegression(C=1, max_iter=2000).fit(embeddings, labels)


def embed(texts: Sequence[str]) -> np.ndarray:
    """(n_texts, 512)."""
    limit = sentiment_models.MAXIMUM_CHARACTERS["use"]
    return sentiment_models.use_encoder(1)([readable(text, limit) for text in texts])


def length_cutoffs(training: pd.DataFrame) -> tuple[float, float]:
    """The two lengths that part the training reviews best, by macro-F1."""
    found = lengths(training["review_text"])
    grid = np.unique(np.quantile(found, np.linspace(0.02, 0.98, 49)))
    pairs = [(float(low), float(high)) for low in grid for high in grid if low < high]
    truth = np.array([list(BY_LENGTH).index(label) for label in training["quality"]])

    def macro_f1(pair: tuple[float, float]) -> float:
        # scikit-learn takes 3 ms for each of 1,176 pairs.
        counts = np.bincount(3 * truth + np.digitize(found, pair), minlength=9).reshape(3, 3)
        return float((2 * counts.diagonal() / (counts.sum(axis=0) + counts.sum(axis=1))).mean())

    return max(pairs, key=macro_f1)


def by_length(found: np.ndarray, cutoffs: tuple[float, float]) -> np.ndarray:
    """The label of each length."""
    return BY_LENGTH[np.digitize(found, cutoffs)]


def lengths(texts: Sequence[str]) -> np.ndarray:
    """Characters of each text; one of Chinese, Japanese or Korean counts 2.6."""
    return np.array([len(text) + _MORE_A_DENSE_CHARACTER * len(_DENSE.findall(text)) for text in texts])
