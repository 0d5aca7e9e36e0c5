"""Reviews with scores, visits and predictions written straight into the tables, for tests of what is made of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Embedded, Graph

from customer_insights import deployment, features, tables
from customer_insights.settings import settings
from customer_insights.tables import Table

NOW = datetime(2026, 11, 20, 6, 30)
TODAY = date(2026, 11, 20)
VERSION = "RUN_TEST"
ASPECTS = ("price", "quality", "delivery", "service")


def scored(rows: int = 400, seed: int = 1) -> pd.DataFrame:
    """Random visits with a scored review each: the columns that ``write`` takes."""
    rng = np.random.default_rng(seed)
    sentiment = rng.choice(["positive", "negative", "neutral", "mixed", "unknown"], rows, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    score = pd.Series(sentiment).map({"positive": 0.9, "negative": -0.9, "neutral": 0.0, "mixed": 0.0})
    probability = np.clip(0.4 + 0.3 * score.fillna(0) + rng.normal(0, 0.1, rows), 0.01, 0.99)
    aspects = [
        {
            str(name): str(rng.choice(["positive", "negative", "neutral", "mixed"]))
            for name in ASPECTS
            if rng.random() < 0.5
        }
        for _ in range(rows)
    ]
    decision = (rng.random(rows) < probability).astype(float)
    decision[rng.random(rows) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "UUID": [f"r-{seed}-{row}" for row in range(rows)],
            "REVIEW_TEXT": [f"review {row} " + "word " * int(rng.integers(2, 90)) for row in range(rows)],
            "LANGUAGE": rng.choice(["en", "de", "ar", "zh"], rows, p=[0.5, 0.3, 0.15, 0.05]),
            "REVIEW_SENTIMENT": score,
            "SENTIMENT_LABEL": sentiment,
            "ASPECTS": [json.dumps(found) if rng.random() < 0.9 else None for found in aspects],
            "REVIEW_QUALITY": rng.choice(settings().quality_labels, rows),
            "PRODUCT_TYPE": rng.choice(["Books", "Toys"], rows),
            "PRODUCT_LAYOUT": rng.choice(["Grid", "List"], rows),
            # The limits of the ranges are among the values.
            "PAGE_LOAD_TIME": np.round(rng.uniform(0, 7, rows) * 4) / 4,
            "PRODUCT_RATING": rng.integers(1, 6, rows),
            "PURCHASE_DECISION": pd.array(decision, dtype="Float64").astype("Int64"),
            "PURCHASE_PROBABILITY": probability,
            "ARRIVAL_DATE": TODAY,
        }
    )


def write(session, frame: pd.DataFrame) -> None:
    """Fill the tables that insights are made of; PURCHASE_FEATURES by the statement of its asset."""
    frame = frame.assign(
        TEXT_HASH=[hashlib.sha256(text.encode()).hexdigest() for text in frame["REVIEW_TEXT"]],
        LANGUAGE_CONFIDENCE=0.9,
        SOURCE_FILE="reviews.csv",
        SOURCE_LINE=range(1, len(frame) + 1),
        INGESTED_AT=NOW,
        RUN_ID="test",
        SENTIMENT_CONFIDENCE=None,
        UNANSWERED=0,
        BACKEND="test",
        MODEL="test",
        REVISION="1",
        SCORED_AT=NOW,
        QUALITY_PROBABILITY=0.8,
        QUALITY_PROBABILITIES="{}",
        QUALITY_SCORE=0.5,
        MODEL_VERSION=VERSION,
        DECILE=(frame["PURCHASE_PROBABILITY"].rank(ascending=False, method="first") * 10 / len(frame))
        .apply(np.ceil)
        .astype(int),
    )
    for table in (
        tables.RAW_REVIEWS,
        tables.REVIEW_SENTIMENT,
        tables.REVIEW_QUALITY,
        tables.TABULAR_DATA,
        tables.PURCHASE_PROPENSITY,
    ):
        insert(session, table, frame)
    features.build(session)


def insert(session, table: Table, frame: pd.DataFrame) -> None:
    """Append the table's columns of a frame."""
    session.write_pandas(frame[list(table.column_names)], table.name, use_logical_type=True)


@contextmanager
def scored_graph(embedded: Embedded, home: Path, database: str, frame: pd.DataFrame) -> Iterator[Graph]:
    """The graph in a database of its own that holds these reviews; the settings name it meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUSTOMER_INSIGHTS_DATABASE", database)
        settings.cache_clear()
        shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
        graph = Graph(embedded, home, len(frame), database)
        session = embedded.session()
        deployment.deploy(session, settings())
        write(session, frame)
        yield graph
    settings.cache_clear()
