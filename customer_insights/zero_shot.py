"""Zero-shot classification by natural language inference: how probable each label is for a text.

Every label becomes a hypothesis ("This review is basic accurate information.") about the text as premise. The
probability of a label is its share in the softmax over the hypotheses' entailment logits: the single-label rule of
transformers' ZeroShotClassificationPipeline (after Yin, Hay and Roth 2019, https://arxiv.org/abs/1909.00161). Which
reviews are labelled and where the labels go is in ``quality``; how a model is loaded and fed is in
``sequence_classifier``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from customer_insights import sequence_classifier
from customer_insights.errors import PermanentError
from customer_insights.sequence_classifier import SequenceClassifier, softmax
from customer_insights.settings import Settings

# A small model of ours that knows the three quality labels only; it is no general zero-shot model. See its card.
EMBEDDED = Path(__file__).resolve().parent / "weights" / "quality_nli"
# For an account: the quickstart's model, which reads English only. Two of sequence_classifier.REVISIONS read many
# languages: MoritzLaurer's mDeBERTa, and the MiniLM that is four times faster.
PRODUCTION_MODEL = "facebook/bart-large-mnli"
MULTILINGUAL_MODEL = "MoritzLaurer/mDeBERTa-v3-base-mnli-xnli"
# In the config.json of a model that has learnt these hypotheses and no others.
LEARNT = "learnt_hypotheses"

# The short names of the quality labels, as the reviews written for this project carry them, and the values of
# REVIEW_QUALITY.
QUALITY_LABELS: dict[str, str] = dict(
    zip(("detailed", "basic", "generic"), Settings.model_fields["quality_labels"].default, strict=True)
)
HYPOTHESIS_TEMPLATE: str = Settings.model_fields["quality_hypothesis_template"].default


def load(settings: Settings, threads: int = 1) -> ZeroShotClassifier:
    """The classifier that the settings name."""
    return ZeroShotClassifier(
        *_model(settings),
        hypothesis_template=settings.quality_hypothesis_template,
        labels=settings.quality_labels,
        threads=threads,
    )


def identity(settings: Settings) -> tuple[str, str]:
    """Name and revision of that classifier's model, known without loading it.

    Raises:
        PermanentError: it has not learnt the settings' labels.
    """
    model, revision = _model(settings)
    _refuse_unlearnt(model, hypotheses(settings.quality_hypothesis_template, settings.quality_labels))
    return sequence_classifier.identity(model, revision)


def _model(settings: Settings) -> tuple[str, str | None]:
    if settings.quality_model == "embedded":
        return str(EMBEDDED), None
    return settings.quality_model, settings.quality_revision


def hypotheses(template: str = HYPOTHESIS_TEMPLATE, labels: Sequence[str] | None = None) -> list[str]:
    """One hypothesis a label, in the labels' order."""
    return [template.format(label) for label in labels or QUALITY_LABELS.values()]


def _refuse_unlearnt(model: str, asked: Sequence[str]) -> None:
    """A model of a few hypotheses answers any question, and its answers to others mean nothing."""
    config = Path(sequence_classifier.located(model)) / "config.json"
    learnt: list[str] = json.loads(config.read_text(encoding="utf-8")).get(LEARNT, []) if config.is_file() else []
    unknown = [hypothesis for hypothesis in asked if hypothesis not in learnt]
    if learnt and unknown:
        raise PermanentError(
            f"the model {Path(model).name} has learnt {len(learnt)} hypotheses ({'; '.join(learnt)}) and was asked for "
            f"others: {'; '.join(unknown)}. Set CUSTOMER_INSIGHTS_QUALITY_MODEL to a model of inference on the hub "
            f"({PRODUCTION_MODEL} for English, {MULTILINGUAL_MODEL} for many languages), or leave quality labels and "
            "hypothesis template as they are"
        )


class ZeroShotClassifier:
    """Labels texts with any model of natural language inference."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        labels: Sequence[str] | None = None,
        *,
        threads: int = 1,
        token_budget: int = 1024,
    ) -> None:
        """``model``: a name on the hub or a folder. ``token_budget``: tokens of a padded batch; 512 to 1024 is best
        on a CPU.

        Raises:
            ValueError: the model has no label named entailment, or comes from the hub without a known revision.
            PermanentError: the model has learnt a few hypotheses only, and these labels are not among them.
        """
        self.labels = tuple(labels or QUALITY_LABELS.values())
        self._hypotheses = hypotheses(hypothesis_template, self.labels)
        _refuse_unlearnt(model, self._hypotheses)
        self._classifier = SequenceClassifier(model, revision, threads=threads, token_budget=token_budget)
        self.name = self._classifier.name
        self.revision = self._classifier.revision
        self._entailment = _entailment(model, self._classifier.labels)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_texts, n_labels) in the order of ``labels``; each row sums to 1."""
        n_labels = len(self.labels)
        premises = [text for text in texts for _ in range(n_labels)]
        logits = self._classifier.logits(premises, self._hypotheses * len(texts))
        return softmax(logits[:, self._entailment].reshape(len(texts), n_labels))


def _entailment(model: str, labels: Sequence[str]) -> int:
    """The position of the entailment logit: it is 2 in BART and 0 in others, so it is looked up by name."""
    found = [index for index, name in enumerate(labels) if name.startswith("entail")]
    if len(found) != 1:
        raise ValueError(f"{model} has the labels {tuple(labels)}; a model of inference has one named entailment")
    return found[0]
