"""A sentiment model for the tests of AI_SENTIMENT. It counts the words of a small lexicon.

An aspect is spoken of where its name occurs, and has the sentiment of its clause (what stands between commas)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRAISE = {"good", "great", "love", "excellent"}
BLAME = {"bad", "awful", "hate", "broken"}
# A text with this word gets no label: AI_SENTIMENT says 'unknown' of some texts.
RIDDLE = "riddle"
# And one with this word no answer at all.
MUTE = "mute"
# A model's fixed cost per call: with one call a row, the tests' 10,000 rows would take eight minutes.
CALL_SECONDS = 0.05


@dataclass(frozen=True)
class Prediction:
    """``scores``: (n_texts,), -1..1; ``labels``: one of AI_SENTIMENT's for each text, or none."""

    scores: np.ndarray
    labels: list[str | None]


class LexiconModel:
    """Words of praise less words of blame, over both."""

    passes = 0
    aspect_names = ("price", "delivery")

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Score and label of each text."""
        type(self).passes += 1
        time.sleep(CALL_SECONDS)
        counts = [_counts(text) for text in texts]
        scores = [(praise - blame) / max(praise + blame, 1) for praise, blame in counts]
        return Prediction(np.array(scores), [_answer(*pair) for pair in zip(texts, counts, strict=True)])

    def aspects(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """The class of each aspect that a text speaks of."""
        return [
            {
                name: _label(*_counts(clause))
                for name in self.aspect_names
                for clause in text.split(",")
                if name in clause
            }
            for text in texts
        ]


def build() -> LexiconModel:
    return LexiconModel()


def _counts(text: str) -> tuple[int, int]:
    words = re.findall(r"\w+", text.lower())
    return sum(word in PRAISE for word in words), sum(word in BLAME for word in words)


def _answer(text: str, counts: tuple[int, int]) -> str | None:
    if MUTE in text:
        return None
    return "unknown" if RIDDLE in text else _label(*counts)


def _label(praise: int, blame: int) -> str:
    if praise and blame:
        return "mixed"
    return "positive" if praise else "negative" if blame else "neutral"
