"""How good the labels of review quality are on the held-out written reviews, as data and as Markdown.

    python -m training.quality_evaluation

Everything goes through the code that serves. The model's card is made of it, and so are reports on all models; how the
model is trained is in ``train_quality_nli``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from sklearn.metrics import accuracy_score, f1_score

from customer_insights import evaluation, sample_data, zero_shot
from customer_insights.evaluation import Metric
from training import quality_baselines

BOOTSTRAP_ROUNDS = 1000
SEED = 0
NAMES = np.array(list(zero_shot.QUALITY_LABELS))


@dataclass(frozen=True)
class OfLanguage:
    """``macro_f1`` with its 95 % bootstrap interval; the others are macro-F1 too, but for ``accuracy``."""

    language: str
    texts: int
    macro_f1: Metric
    accuracy: float
    majority: float
    length_cutoffs: float
    teacher: float


@dataclass(frozen=True)
class Hard:
    """Reviews whose length misleads: the share of them that each one labels right."""

    name: str
    texts: int
    model: float
    length_cutoffs: float
    teacher: float


@dataclass(frozen=True)
class CalibrationBin:
    """Reviews of similar probability: what was promised, and what came true."""

    texts: int
    probability: float
    right: float


@dataclass(frozen=True)
class QualityEvaluation:
    """``languages``: "all" first. ``error_by_chance``: 95 % of models whose probabilities are true have a smaller
    calibration error on as many texts."""

    languages: tuple[OfLanguage, ...]
    hard: tuple[Hard, ...]
    cutoffs: tuple[float, float]
    expected_calibration_error: float
    error_by_chance: float
    calibration: tuple[CalibrationBin, ...]

    @property
    def not_better_than_lengths(self) -> tuple[str, ...]:
        """The languages where the cut-offs, or the majority, reach the same macro-F1 or more."""
        return tuple(
            found.language
            for found in self.languages
            if found.macro_f1.value <= max(found.length_cutoffs, found.majority)
        )


def evaluate(
    classifier: zero_shot.ZeroShotClassifier, training: pd.DataFrame, tested: pd.DataFrame
) -> QualityEvaluation:
    """Compare the classifier with teacher and baselines; those are fitted on ``training``, all are judged on
    ``tested`` (columns review_text, language, quality)."""
    probabilities = classifier.probabilities(tested["review_text"].tolist())
    truth = tested["quality"].to_numpy(str)
    found = quality_baselines.lengths(tested["review_text"])
    cutoffs = quality_baselines.length_cutoffs(training)
    guesses = {
        "model": NAMES[probabilities.argmax(axis=1)],
        "majority": np.full(len(tested), training["quality"].value_counts().index[0]),
        "cutoffs": quality_baselines.by_length(found, cutoffs),
        "teacher": _taught(training, tested),
    }
    right = guesses["model"] == truth
    confidence = probabilities.max(axis=1)
    return QualityEvaluation(
        languages=tuple(_of_languages(truth, guesses, tested["language"].to_numpy(str))),
        hard=tuple(_hard(truth, guesses, found, cutoffs)),
        cutoffs=cutoffs,
        expected_calibration_error=evaluation.expected_calibration_error(right, confidence),
        error_by_chance=evaluation.calibration_by_chance(confidence),
        calibration=tuple(
            CalibrationBin(len(part), float(confidence[part].mean()), float(right[part].mean()))
            for part in np.array_split(np.argsort(confidence, kind="stable"), evaluation.CALIBRATION_BINS)
            if len(part)
        ),
    )


def _taught(training: pd.DataFrame, tested: pd.DataFrame) -> np.ndarray:
    known = quality_baselines.embed(training["review_text"])
    return quality_baselines.teacher(known, training["quality"]).predict(quality_baselines.embed(tested["review_text"]))


def held_out(folder: Path = zero_shot.EMBEDDED) -> QualityEvaluation:
    """The model of ``folder`` on the quarter of the written reviews that nothing here has learnt from."""
    parts = quality_baselines.parts(sample_data.load_written())
    return evaluate(zero_shot.ZeroShotClassifier(str(folder)), parts.learnt_from, parts.held_out)


def _of_languages(truth: np.ndarray, guesses: dict[str, np.ndarray], languages: np.ndarray) -> list[OfLanguage]:
    rows = []
    for code in ["all", *sorted(set(languages))]:
        chosen = np.flatnonzero((languages == code) | (code == "all"))
        f1 = {name: _macro_f1(truth[chosen], guess[chosen]) for name, guess in guesses.items()}
        low, high = _interval(truth[chosen], guesses["model"][chosen])
        accuracy = float(accuracy_score(truth[chosen], guesses["model"][chosen]))
        measured = Metric(f1["model"], low, high)
        rows.append(OfLanguage(code, len(chosen), measured, accuracy, f1["majority"], f1["cutoffs"], f1["teacher"]))
    return rows


def _hard(
    truth: np.ndarray, guesses: dict[str, np.ndarray], found: np.ndarray, cutoffs: tuple[float, float]
) -> list[Hard]:
    low, high = cutoffs
    subsets = {
        "generic of more than 40 characters": (truth == "generic") & (found > 40),
        f"generic, longer than the first cut-off ({low:.0f})": (truth == "generic") & (found >= low),
        "detailed of less than 200 characters": (truth == "detailed") & (found < 200),
        f"detailed, shorter than the second cut-off ({high:.0f})": (truth == "detailed") & (found < high),
        "basic, outside of the cut-offs": (truth == "basic") & ((found < low) | (found >= high)),
        "all where the cut-offs are right": guesses["cutoffs"] == truth,
    }
    return [
        Hard(
            name,
            int(rows.sum()),
            *(_share_right(truth[rows], guesses[by][rows]) for by in ("model", "cutoffs", "teacher")),
        )
        for name, rows in subsets.items()
    ]


def _share_right(truth: np.ndarray, guess: np.ndarray) -> float:
    return float((truth == guess).mean()) if len(truth) else float("nan")


def _macro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(f1_score(truth, guess, average="macro", labels=NAMES, zero_division=0))


def _interval(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    """Percentiles of the macro-F1 on samples with replacement, counted in matrices: scikit-learn takes a millisecond a
    sample."""
    generator = np.random.default_rng(SEED)
    pairs = np.searchsorted(np.sort(NAMES), truth) * len(NAMES) + np.searchsorted(np.sort(NAMES), guess)
    share = np.bincount(pairs, minlength=len(NAMES) ** 2) / len(pairs)
    counts = generator.multinomial(len(pairs), share, BOOTSTRAP_ROUNDS).reshape(-1, len(NAMES), len(NAMES))
    hits = np.einsum("nii->ni", counts)
    sizes = counts.sum(axis=1) + counts.sum(axis=2)
    f1 = (2 * hits / np.maximum(1, sizes)).mean(axis=1)
    low, high = np.percentile(f1, [2.5, 97.5])
    return float(low), float(high)


def markdown(measured: QualityEvaluation) -> str:
    """The results as tables with a sentence each."""
    lines = [
        "| held-out written reviews | texts | macro-F1 (95 % interval) | accuracy | majority F1 | length cut-offs F1 "
        "| teacher F1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured.languages:
        f1 = f"{row.macro_f1.value:.3f} ({row.macro_f1.low:.3f} to {row.macro_f1.high:.3f})"
        others = f"{row.majority:.3f} | {row.length_cutoffs:.3f} | {row.teacher:.3f}"
        lines.append(f"| {row.language} | {row.texts} | {f1} | {row.accuracy:.3f} | {others} |")
    worse = measured.not_better_than_lengths
    verdict = (
        f"**Not better than the length cut-offs in {', '.join(worse)}.**"
        if worse
        else "Better than majority and length cut-offs in every language."
    )
    low, high = measured.cutoffs
    lines += [
        "",
        f"{verdict} The cut-offs are two lengths, the best on the reviews for training: {low:.0f} and {high:.0f} "
        "characters, of which one of Chinese, Japanese or Korean counts 2.6. Majority always says the most frequent "
        "label.",
        "",
        "| where length misleads, share labelled right | texts | model | length cut-offs | teacher |",
        "|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.texts} | {row.model:.3f} | {row.length_cutoffs:.3f} | {row.teacher:.3f} |"
            for row in measured.hard
        ),
        "",
        f"Expected calibration error of the chosen label's probability: {measured.expected_calibration_error:.3f} "
        f"({len(measured.calibration)} bins of equal count; true probabilities would stay below "
        f"{measured.error_by_chance:.3f} on as many texts, 19 times in 20).",
        "",
        "| texts | mean probability | labelled right |",
        "|---|---|---|",
        *(f"| {row.texts} | {row.probability:.3f} | {row.right:.3f} |" for row in measured.calibration),
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the held-out results of the weights in use."""
    typer.echo(markdown(held_out()))


if __name__ == "__main__":
    typer.run(main)
