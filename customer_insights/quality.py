"""Quality of reviews by zero-shot classification: how much a reader learns from one, and what was found on the days of
a window.

The labels are hypotheses of natural language inference; which model infers is a setting. The model's code is in
``zero_shot``.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from customer_insights import query
from customer_insights.pending import Query, Window, pending, scored_by_others
from customer_insights.settings import Settings
from customer_insights.tables import RAW_REVIEWS, REVIEW_QUALITY

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from snowflake.snowpark import Session

BACKEND = "transformers"
_ARRIVED = "ARRIVAL_DATE BETWEEN ?::DATE AND ?::DATE"


def revision(settings: Settings, model_revision: str) -> str:
    """The model's revision with a hash of labels and template: another label set is another score, and is computed
    anew."""
    question = json.dumps([settings.quality_labels, settings.quality_hypothesis_template])
    return f"{model_revision}+{hashlib.sha256(question.encode()).hexdigest()[:8]}"


def quality_pending(settings: Settings, window: Window, model: str, model_revision: str) -> Query:
    """Reviews that this revision of the model has not labelled with these labels."""
    return pending(REVIEW_QUALITY, window, model, revision(settings, model_revision))


def of_other_versions(settings: Settings, model: str, model_revision: str) -> Query:
    """Days of the rows that another revision, or other labels, gave."""
    version = (Query("TRUE", ()), model, revision(settings, model_revision))
    return scored_by_others(REVIEW_QUALITY, [version])


def labels_by_language(session: Session, days: tuple[str, str]) -> dict[str, dict[str, int]]:
    """Language -> label -> reviews, in alphabetical order of the language."""
    counts: dict[str, dict[str, int]] = {}
    for row in query.rows(
        session,
        f"SELECT r.LANGUAGE, q.REVIEW_QUALITY, COUNT(*) AS N FROM {REVIEW_QUALITY.name} AS q "
        f"JOIN {RAW_REVIEWS.name} AS r ON r.UUID = q.UUID AND r.TEXT_HASH = q.TEXT_HASH "
        f"WHERE q.{_ARRIVED} GROUP BY r.LANGUAGE, q.REVIEW_QUALITY ORDER BY r.LANGUAGE, q.REVIEW_QUALITY",
        days,
    ):
        counts.setdefault(row["LANGUAGE"], {})[str(row["REVIEW_QUALITY"])] = int(row["N"])
    return counts


def probabilities(session: Session, days: tuple[str, str]) -> list[float]:
    """The probabilities of the chosen labels: up to 10,000 reviews, the same ones each time."""
    found = query.rows(
        session,
        f"SELECT QUALITY_PROBABILITY AS P FROM {REVIEW_QUALITY.name} WHERE {_ARRIVED} ORDER BY MD5(UUID) LIMIT 10000",
        days,
    )
    return [float(row["P"]) for row in found]


def scores(probabilities: np.ndarray) -> np.ndarray:
    """(n_texts,) from 0 to 1: the mean place of the labels by probability, the first label at 1 and the last at 0.

    ``probabilities``: (n_texts, n_labels).
    """
    import numpy as np

    return probabilities @ np.linspace(1, 0, probabilities.shape[1])


class QualityScorer:
    """Turns pending rows into quality columns."""

    def __init__(self, settings: Settings) -> None:
        from customer_insights import zero_shot

        self._settings = settings
        self._classifier = zero_shot.load(settings)

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        labels = list(self._settings.quality_labels)
        probabilities = self._classifier.probabilities(rows["REVIEW_TEXT"].tolist())
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "REVIEW_QUALITY": [labels[index] for index in best],
                "QUALITY_PROBABILITY": probabilities.max(axis=1).astype(float),
                "QUALITY_PROBABILITIES": [
                    json.dumps(dict(zip(labels, (round(float(p), 6) for p in row), strict=True)))
                    for row in probabilities
                ],
                "QUALITY_SCORE": scores(probabilities).astype(float),
                "BACKEND": BACKEND,
                "MODEL": self._classifier.name,
                "REVISION": revision(self._settings, self._classifier.revision),
            },
            index=rows.index,
        )
