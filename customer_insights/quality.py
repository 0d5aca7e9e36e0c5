"""Quality of reviews by zero-shot classification: how much a reader learns from one.

The labels are hypotheses of natural language inference; which model infers is a setting. The model's code is in
``zero_shot``.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from customer_insights.pending import Query, Window, pending
from customer_insights.settings import Settings
from customer_insights.tables import REVIEW_QUALITY

if TYPE_CHECKING:
    import pandas as pd

BACKEND = "transformers"


def revision(settings: Settings, model_revision: str) -> str:
    """The model's revision with a hash of labels and template: another label set is another score, and is computed
    anew."""
    question = json.dumps([settings.quality_labels, settings.quality_hypothesis_template])
    return f"{model_revision}+{hashlib.sha256(question.encode()).hexdigest()[:8]}"


def quality_pending(settings: Settings, window: Window, model: str, model_revision: str) -> Query:
    """Reviews that this revision of the model has not labelled with these labels."""
    return pending(REVIEW_QUALITY, window, model, revision(settings, model_revision))


class QualityScorer:
    """Turns pending rows into quality columns."""

    def __init__(self, settings: Settings) -> None:
        from customer_insights import zero_shot

        self._settings = settings
        self._classifier = zero_shot.load(settings)

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        import numpy as np
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
                "QUALITY_SCORE": (probabilities @ np.linspace(1, 0, len(labels))).astype(float),
                "BACKEND": BACKEND,
                "MODEL": self._classifier.name,
                "REVISION": revision(self._settings, self._classifier.revision),
            },
            index=rows.index,
        )
