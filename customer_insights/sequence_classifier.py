"""A transformers model that gives logits to texts or to pairs of texts: how it is pinned, loaded, fed and batched.

What the logits mean is in ``sentiment_models`` and ``zero_shot``. transformers and torch are imported when a model is
loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Commits of models on the Hugging Face hub, as other public projects pin them too (the hub cannot be reached from
# where this was written; transformers itself names the first as d7645e1). Any other model needs its revision in the
# settings.
REVISIONS = {
    "facebook/bart-large-mnli": "d7645e127eaf1aefc7862fd59a17a5aa8558b8ce",
    "MoritzLaurer/mDeBERTa-v3-base-mnli-xnli": "8adb042d524ecd5c26d3e3ba0e3fbcf7e2d0864c",
    "MoritzLaurer/multilingual-MiniLMv2-L6-mnli-xnli": "0a71e92a985b6e1ad1828cf67ce9c459639c1dca",
    "cardiffnlp/twitter-xlm-roberta-base-sentiment": "f3e34b6c30bf27b6649f72eca85d0bbe79df1e55",
}

# No tokenizer makes fewer than one token of this many characters of a review; what a model cannot read need not be
# tokenized.
_CHARACTERS_A_TOKEN = 8
# Of the checkout, or of what was uploaded with a job.
_ROOT = Path(__file__).resolve().parent.parent


def located(name: str) -> str:
    """``name``, or where the folder is that it names from the project's root.

    A folder below ``customer_insights/`` is uploaded with the jobs, whose actors work in another directory.
    """
    folder = _ROOT / name
    return str(folder) if folder.is_dir() else name


def identity(name: str, revision: str | None) -> tuple[str, str]:
    """Name and revision of a model of the hub or of a folder, known without loading it.

    A folder is named without its path, and has a hash of its files in place of a commit.

    Raises:
        ValueError: ``name`` is no folder and has no known revision, and none was given.
    """
    folder = Path(located(name))
    if folder.is_dir():
        return folder.name, revision or _folder_revision(folder)
    known = revision or REVISIONS.get(name)
    if known is None:
        raise ValueError(
            f"{name} is no folder, so it is a model on the Hugging Face hub: set its revision (a commit hash) too, "
            "or its answers would change when its owner changes it"
        )
    return name, known


class SequenceClassifier:
    """A loaded ``AutoModelForSequenceClassification`` with its tokenizer.

    ``name`` and ``revision`` identify it; ``labels`` are its classes in lower case, in the order of the logits.
    """

    def __init__(self, name: str, revision: str | None, *, threads: int, token_budget: int) -> None:
        """Load a model of the hub or of a folder; ``threads`` are torch's, for the whole process.

        Raises:
            ValueError: ``name`` is no folder and has no known revision, and none was given.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        # A bar that is redrawn fills a job's log.
        logging.disable_progress_bar()
        name = located(name)
        self.name, self.revision = identity(name, revision)
        torch.set_num_threads(threads)
        where: dict[str, Any] = {} if Path(name).is_dir() else {"revision": self.revision}
        # Weights may be stored in half precision, in which a CPU computes slowly.
        model: Any = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, **where)
        self._model = model.eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(name, **where)
        self._token_budget = token_budget
        self._maximum_tokens = _maximum_tokens(model.config, self._tokenizer)
        names = model.config.id2label
        self.labels = tuple(str(names[index]).lower() for index in range(len(names)))

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(n_texts, n_labels) for each text, or for each text as premise with the hypothesis beside it in ``pairs``.

        A text that is too long for the model loses its end; a hypothesis is never cut.
        """
        import torch

        result = np.zeros((len(texts), len(self.labels)))
        if not texts:
            return result
        limit = self._maximum_tokens
        encoded = self._tokenizer(
            [self._plain(text) for text in texts],
            list(pairs) if pairs is not None else None,
            truncation="only_first",
            max_length=limit,
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        with torch.inference_mode():
            for batch in token_batches(lengths, self._token_budget):
                rows = {key: [values[index] for index in batch] for key, values in encoded.items()}
                padded = self._tokenizer.pad(rows, return_tensors="pt")
                result[batch] = self._model(**padded).logits.double().numpy()
        return result

    def _plain(self, text: str) -> str:
        """The text without what a tokenizer would take for its own marks.

        BART finds the end of a pair by its last ``</s>`` and refuses a batch whose rows have different numbers of
        them; a review may well contain one.
        """
        text = readable(text, _CHARACTERS_A_TOKEN * self._maximum_tokens, keep_end=False)
        for token in self._tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions of texts, shortest first, in batches whose padded size (texts x longest) stays within ``budget``
    tokens.

    Padding in the order of arrival multiplies the tokens of mixed reviews by 1.5 to 2. A text longer than the budget
    is a batch alone.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[position] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def readable(text: str, maximum_characters: int, *, keep_end: bool = True) -> str:
    """``text`` as tokenizers can read it: without lone surrogates, which raise, and not longer than it may be.

    With ``keep_end``, beginning and end of a longer text are kept, else the beginning.
    """
    if len(text) > maximum_characters:
        half = maximum_characters // 2
        text = f"{text[:half]} {text[-half:]}" if keep_end else text[:maximum_characters]
    return text.encode("utf-8", "replace").decode("utf-8")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _maximum_tokens(config: Any, tokenizer: Any) -> int:
    """Tokens that a model reads at once.

    The tokenizer does not always know (it then says 10^30), and RoBERTa's positions begin after the padding's.
    """
    positions = getattr(config, "max_position_embeddings", 512)
    if config.model_type in ("roberta", "xlm-roberta"):
        positions -= config.pad_token_id + 1
    return min(tokenizer.model_max_length, positions)


def _folder_revision(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
