"""Embeddings of the labelled reviews, computed once and kept by the text's hash; training reads them again and again.

Only training needs a cache: a job scores a text once. What an encoder is belongs in
``customer_insights.sentiment_models``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from customer_insights import sentiment_models
from customer_insights.sequence_classifier import readable

DIRECTORY = Path(__file__).resolve().parent.parent / ".cache" / "embeddings"
_TEXTS_A_FILE = 256
_ENCODERS = {
    "use": sentiment_models.use_encoder,
    "e5": sentiment_models.e5_encoder,
    "e5-tuned": sentiment_models.tuned_e5_encoder,
}


def embed(encoder: str, texts: Sequence[str], directory: Path = DIRECTORY, threads: int = 1) -> np.ndarray:
    """(n_texts, dimensions) float32: what the encoder makes of each text; missing ones are computed.

    Each part is saved as soon as it is ready, so that an interrupted run goes on where it stopped.
    """
    # Other changes of an encoder make other embeddings.
    changes = sentiment_models.CHANGES.get(encoder)
    folder = directory / (f"{encoder}-{_key(changes.read_bytes())}" if changes else encoder)
    folder.mkdir(parents=True, exist_ok=True)
    prepared = [readable(text, sentiment_models.MAXIMUM_CHARACTERS[encoder]) for text in texts]
    keys = [_key(text.encode("utf-8", "surrogatepass")) for text in prepared]
    known = _read(folder)
    missing = {key: text for key, text in zip(keys, prepared, strict=True) if key not in known}
    encode = _ENCODERS[encoder](threads)
    rest = list(missing.items())
    for start in range(0, len(rest), _TEXTS_A_FILE):
        part = rest[start : start + _TEXTS_A_FILE]
        vectors = np.asarray(encode([text for _, text in part]), dtype=np.float32)
        _save(folder / f"{part[0][0]}.npz", [key for key, _ in part], vectors)
        known.update(zip((key for key, _ in part), vectors, strict=True))
    return np.stack([known[key] for key in keys])


def _key(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _read(folder: Path) -> dict[str, np.ndarray]:
    known: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            known.update(zip(arrays["keys"].tolist(), arrays["vectors"], strict=True))
    return known


def _save(path: Path, keys: list[str], vectors: np.ndarray) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    with unfinished.open("wb") as file:
        np.savez(file, keys=np.array(keys), vectors=vectors)
    unfinished.replace(path)
