"""How good the purchase model is where the truth is known: generated visits, the best achievable AUC, simpler models
and the recipe of Snowflake's quickstart, all on the same rows.

Part of ``make eval``; the page that it is put on is written by ``training.model_quality``.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from customer_insights import evaluation, purchase_model
from customer_insights.sample_data import best_achievable_auc, synthetic_features
from customer_insights.settings import Settings
from customer_insights.tables import TARGET
from training import quickstart_recipe

ROWS = (2_700, 10_000, 50_000)
SEED = 1
THREADS = 1
SHOWN = {
    "roc_auc": "ROC-AUC",
    "average_precision": "PR-AUC",
    "log_loss": "log loss",
    "brier": "Brier",
    "expected_calibration_error": "ECE",
    "top_decile_lift": "lift of the top tenth",
    "profit_per_visit": "profit a visit",
}
NAMES = {
    "challenger": "**this project's model**",
    "quickstart": "the quickstart's recipe",
    "quickstart clipped": "the same, clipped to 0..1",
    "logistic_regression": "logistic regression",
    "known_before_purchase": "this model without the review",
    "prior": "purchase rate alone",
}


def measured_on(rows: int, settings: Settings) -> tuple[dict[str, evaluation.Measured], dict[str, float]]:
    """Every model on the test part of ``rows`` generated visits, and facts about them."""
    parts = purchase_model.split(synthetic_features(rows, seed=SEED), settings)
    started = time.perf_counter()
    model = purchase_model.train(parts, settings, THREADS)
    seconds = time.perf_counter() - started
    found = evaluation.evaluate(model, parts, settings, threads=THREADS)
    # The quickstart has no validation rows: it gets them for training, so that both see the same visits.
    seen = pd.concat([parts["train"], parts["validation"]], ignore_index=True)
    started = time.perf_counter()
    raw = np.asarray(quickstart_recipe.fit_predict(seen, parts["test"]), dtype=float)
    quickstart_seconds = time.perf_counter() - started
    outcomes = parts["test"][TARGET].to_numpy(dtype=int)
    models = dict(found.models)
    models["quickstart"] = evaluation.measure(outcomes, raw, settings)
    models["quickstart clipped"] = evaluation.measure(outcomes, np.clip(raw, 0, 1), settings)
    facts = {
        "best": best_achievable_auc(parts["test"]["TRUE_PROBABILITY"].to_numpy()),
        "best here": evaluation.measure(outcomes, parts["test"]["TRUE_PROBABILITY"].to_numpy(), settings, rounds=1)
        .metrics["roc_auc"]
        .value,
        "by chance": found.calibration_by_chance,
        "test rows": len(outcomes),
        "outside": float(((raw < 0) | (raw > 1)).mean()),
        "seconds": seconds,
        "quickstart seconds": quickstart_seconds,
        "trees": purchase_model.number_of_trees(model),
    }
    less = evaluation.difference(found.models["challenger"], models["quickstart"], "roc_auc")
    facts |= {"less": less.value, "less low": less.low, "less high": less.high}
    return models, facts


def report(settings: Settings) -> tuple[str, dict[str, float]]:
    """The section of the page in Markdown, and of the largest number of visits the share of the best achievable AUC
    and the calibration error."""
    sections = []
    reached: dict[str, float] = {}
    for rows in ROWS:
        models, facts = measured_on(rows, settings)
        sections.append(_section(rows, models, facts))
        ours = models["challenger"].metrics
        reached = {
            "share": ours["roc_auc"].value / max(facts["best"], facts["best here"]),
            "ece": ours["expected_calibration_error"].value,
        }
    return "\n\n".join(sections), reached


def _section(rows: int, models: dict[str, evaluation.Measured], facts: dict[str, float]) -> str:
    ours = models["challenger"].metrics
    lines = [
        f"### {rows:,} visits, {facts['test rows']:,} of them to test on",
        "",
        f"The best AUC that any model can expect on these test visits is {facts['best']:.4f} (the true probabilities "
        f"reach {facts['best here']:.4f} on these very purchases). This project's model reaches "
        f"{ours['roc_auc'].value:.4f}: **{ours['roc_auc'].value / facts['best here']:.1%}** of what the true "
        f"probabilities reach ({ours['roc_auc'].value / facts['best']:.1%} of the expected best). Its expected "
        f"calibration error is {ours['expected_calibration_error'].value:.4f}; chance alone gives a true model up to "
        f"{facts['by chance']:.4f}. Against the quickstart's recipe its AUC is {facts['less']:+.4f} "
        f"(95 % interval {facts['less low']:+.4f} to {facts['less high']:+.4f}). Training took {facts['seconds']:.1f} "
        f"s ({facts['trees']:.0f} trees), the quickstart's {facts['quickstart seconds']:.1f} s, on one core.",
        "",
        "| model | " + " | ".join(SHOWN.values()) + " |",
        "|---|" + "---|" * len(SHOWN),
    ]
    for name, label in NAMES.items():
        cells = (_cell(name, metric, models[name].metrics[metric], facts) for metric in SHOWN)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(model: str, metric: str, found: evaluation.Metric, facts: dict[str, float]) -> str:
    if model == "quickstart" and metric == "log_loss" and facts["outside"]:
        return f"not defined: {facts['outside']:.2%} outside 0..1"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


if __name__ == "__main__":
    print(report(Settings())[0])
