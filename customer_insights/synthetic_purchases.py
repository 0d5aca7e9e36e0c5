"""The synthetic purchase side of the sample data: the documented model that says whether a visit ended in a purchase.

No public package holds reviews with what their writers saw and bought, so visits are generated with a fixed seed from
each review's own labels. The true probability of every visit is known, and with it the best AUC that any model can
reach. Reading and writing sample data is in ``sample_data``; the model that is trained on these rows is in
``purchase_model`` and knows nothing of this one.

The model is logistic. The log-odds of a purchase are the sum of

* ``INTERCEPT``,
* ``SENTIMENT_EFFECT`` x sentiment (-1..1),
* ``RATING_EFFECT`` x (stars - 3),
* ``-SLOW_PAGE_EFFECT`` x logistic((page load time - ``SLOW_PAGE_SECONDS``) / ``SLOW_PAGE_WIDTH``): visitors leave
  once the page takes about 3 s,
* ``QUALITY_EFFECT`` of the review's quality (0 where nobody labelled it),
* ``LAYOUT_EFFECT`` of the layout for that product type: an interaction, the layouts are equally good on average.
"""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from customer_insights.zero_shot import QUALITY_LABELS

if TYPE_CHECKING:
    import pandas as pd

PRODUCT_TYPES = ("Electronics", "Kitchen", "Furniture", "Clothing", "Toys", "Books")
PRODUCT_LAYOUTS = ("Grid", "List", "Carousel")
SENTIMENT_VALUE = {"positive": 0.8, "neutral": 0.0, "mixed": 0.0, "negative": -0.8}

INTERCEPT = -0.1
SENTIMENT_EFFECT = 1.3
RATING_EFFECT = 0.5
SLOW_PAGE_EFFECT = 1.8
SLOW_PAGE_SECONDS = 3.0
SLOW_PAGE_WIDTH = 0.35
QUALITY_EFFECT = {"detailed": 0.5, "basic": 0.0, "generic": -0.4}
# Rows: PRODUCT_TYPES. Columns: PRODUCT_LAYOUTS. What is compared by its data sells in a list, what is looked at in a
# carousel.
LAYOUT_EFFECT = np.array(
    [[0.1, 0.7, -0.8], [0.5, -0.1, -0.4], [0.3, -0.7, 0.4], [0.1, -0.9, 0.8], [-0.3, -0.4, 0.7], [-0.5, 0.8, -0.3]]
)

# The share of a benchmark's rows in each language; the language has no effect on the purchase.
_LANGUAGES = ("en", "zh", "de", "fr", "es", "it", "pt", "ja", "ko", "nl", "pl", "tr", "ru", "ar")
_BENCHMARK_DAYS = 90
_BENCHMARK_LAST_DAY = date(2026, 3, 31)


def true_probability(
    sentiment: np.ndarray,
    rating: np.ndarray,
    page_load_time: np.ndarray,
    quality: np.ndarray,
    product_type: np.ndarray,
    product_layout: np.ndarray,
) -> np.ndarray:
    """The probability of a purchase for each visit, (n,), from the module's logistic model.

    ``quality`` holds the written labels; anything else has no effect. Unknown product types and layouts raise KeyError.
    """
    types = {name: position for position, name in enumerate(PRODUCT_TYPES)}
    layouts = {name: position for position, name in enumerate(PRODUCT_LAYOUTS)}
    log_odds = (
        INTERCEPT
        + SENTIMENT_EFFECT * sentiment
        + RATING_EFFECT * (rating - 3)
        - SLOW_PAGE_EFFECT / (1 + np.exp(-(page_load_time - SLOW_PAGE_SECONDS) / SLOW_PAGE_WIDTH))
        + np.array([QUALITY_EFFECT.get(label, 0.0) for label in quality])
        + LAYOUT_EFFECT[[types[name] for name in product_type], [layouts[name] for name in product_layout]]
    )
    return 1 / (1 + np.exp(-log_odds))


def best_achievable_auc(probability: np.ndarray) -> float:
    """The expected ROC-AUC of a model that predicts ``probability`` exactly, for purchases drawn with it.

    It is the chance that a buyer's probability exceeds a non-buyer's: the sum over pairs of p_i (1 - p_j) [p_i >
    p_j], ties counted half, over the sum of p_i (1 - p_j). No model that sees the same inputs can expect more.
    """
    levels, level = np.unique(probability, return_inverse=True)
    buyers = np.bincount(level, weights=probability, minlength=len(levels))
    others = np.bincount(level, weights=1 - probability, minlength=len(levels))
    below = np.cumsum(others) - others
    # A visit makes no pair with itself.
    own = np.sum(probability * (1 - probability))
    return float((np.sum(buyers * (below + others / 2)) - own / 2) / (buyers.sum() * others.sum() - own))


def purchases(reviews: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The synthetic visit of each review: the columns of TABULAR_DATA, and TRUE_PROBABILITY.

    ``reviews`` has uuid, product_type, sentiment and quality as ``sample_data.sample`` returns them. A visit depends
    on its own review and the seed only, not on the rows around it. The model sees estimates of sentiment and quality,
    these visits were drawn from the labels: ``best_achievable_auc(TRUE_PROBABILITY)`` is an upper bound here.
    """
    import pandas as pd

    generators = [_generator(uuid, seed) for uuid in reviews["uuid"]]
    noise = np.array([generator.standard_normal(2) for generator in generators]).reshape(-1, 2)
    uniform = np.array([generator.random(2) for generator in generators]).reshape(-1, 2)
    sentiment = reviews["sentiment"].map(SENTIMENT_VALUE).to_numpy(dtype=float)
    layout = _choice(PRODUCT_LAYOUTS, uniform[:, 0])
    load_time = _page_load_time(noise[:, 0])
    rating = _rating(sentiment, noise[:, 1])
    product_type = reviews["product_type"].to_numpy()
    probability = true_probability(
        sentiment, rating, load_time, reviews["quality"].to_numpy(), product_type, np.asarray(layout)
    )
    return pd.DataFrame(
        {
            "UUID": reviews["uuid"].to_numpy(),
            "PRODUCT_TYPE": product_type,
            "PRODUCT_LAYOUT": layout,
            "PAGE_LOAD_TIME": load_time,
            "PRODUCT_RATING": rating,
            "PURCHASE_DECISION": (uniform[:, 1] < probability).astype(np.int64),
            "TRUE_PROBABILITY": probability,
        }
    )


def random_product_type(uuid: str, seed: int = 0) -> str:
    """A product type for a review whose source names none; the same one for the same review and seed."""
    return str(_choice(PRODUCT_TYPES, np.array([_generator(f"product type of {uuid}", seed).random()]))[0])


def synthetic_features(n_rows: int, seed: int = 0) -> pd.DataFrame:
    """``n_rows`` rows of PURCHASE_FEATURES from the same purchase model, and TRUE_PROBABILITY, for benchmarks.

    Here the features are what the purchase was drawn from, so a perfect model reaches
    ``best_achievable_auc(TRUE_PROBABILITY)``. Language, review length and day of arrival have no effect.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    mood = rng.choice([0.75, -0.7, 0.0], size=n_rows, p=[0.5, 0.32, 0.18])
    sentiment = np.clip(np.round(mood + 0.2 * rng.standard_normal(n_rows), 4), -1, 1)
    quality = rng.choice(list(QUALITY_LABELS), size=n_rows)
    product_type = rng.choice(PRODUCT_TYPES, size=n_rows)
    layout = rng.choice(PRODUCT_LAYOUTS, size=n_rows)
    load_time = _page_load_time(rng.standard_normal(n_rows))
    rating = _rating(sentiment, rng.standard_normal(n_rows))
    probability = true_probability(sentiment, rating, load_time, quality, product_type, layout)
    days = rng.integers(0, _BENCHMARK_DAYS, size=n_rows)
    features = pd.DataFrame(
        {
            "UUID": [f"synthetic-{seed}-{row}" for row in range(n_rows)],
            "PRODUCT_TYPE": product_type,
            "PRODUCT_LAYOUT": layout,
            "PAGE_LOAD_TIME": load_time,
            "PRODUCT_RATING": rating,
            "LANGUAGE": rng.choice(_LANGUAGES, size=n_rows),
            "REVIEW_LENGTH": np.exp(4.6 + 0.9 * rng.standard_normal(n_rows)).astype(np.int64) + 2,
            "REVIEW_SENTIMENT": sentiment,
            "REVIEW_QUALITY": [QUALITY_LABELS[label] for label in quality],
            "PURCHASE_DECISION": (rng.random(n_rows) < probability).astype(np.int64),
            "ARRIVAL_DATE": [_BENCHMARK_LAST_DAY - timedelta(days=int(day)) for day in days],
            "TRUE_PROBABILITY": probability,
        }
    )
    certainty = 0.5 + 0.5 * rng.beta(4, 2, size=n_rows)
    place = np.array([1 - list(QUALITY_LABELS).index(label) / (len(QUALITY_LABELS) - 1) for label in quality])
    return features.assign(
        QUALITY_PROBABILITY=np.round(certainty, 6),
        # The rest of the probability is spread evenly over the labels, whose mean place is the middle.
        QUALITY_SCORE=np.round(certainty * place + (1 - certainty) * 0.5, 6),
    )


def _generator(key: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big"))


def _choice(values: tuple[str, ...], uniform: np.ndarray) -> np.ndarray:
    return np.array(values, dtype=object)[(uniform * len(values)).astype(int)]


def _page_load_time(noise: np.ndarray) -> np.ndarray:
    """Seconds, log-normal with median 2.0: about one page in five takes more than 3 s."""
    return np.round(np.clip(2.0 * np.exp(0.5 * noise), 0.2, 30.0), 2)


def _rating(sentiment: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Stars 1 to 5 that follow the sentiment with noise of about one star."""
    return np.clip(np.round(3.3 + 1.1 * sentiment + 0.9 * noise), 1, 5).astype(np.int64)
