"""Tables as the dashboard finds them after a month: reviews and visits, a model in service, its evaluation,
explanations and drift; some of the names and texts are hostile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import Embedded, Graph
from scored_reviews import NOW, TODAY, VERSION, insert, scored, scored_graph

from customer_insights import insights, tables
from customer_insights.settings import settings

HOSTILE_TYPE = "<b>Hats</b> $x$ [a](http://a.example)"
HOSTILE_TEXTS = (
    '<script>document.title = "owned"</script> so **good** [link](javascript:alert(1)) $\\frac{1}{2}$ :material/home:',
    '<img src=x onerror="document.title = 1"> # heading\n- list `code` </blockquote><h1>out</h1>',
    '=HYPERLINK("http://a.example") {{ 7 * 7 }} \u202egnp.exe &lt;b&gt;',
)
DAYS = 28


def shown(rows: int = 400) -> pd.DataFrame:
    """Scored visits of four weeks; the hostile product has English reviews only."""
    frame = scored(rows)
    rng = np.random.default_rng(7)
    frame["ARRIVAL_DATE"] = [TODAY - timedelta(days=int(back)) for back in rng.integers(0, DAYS, rows)]
    frame.loc[frame["SENTIMENT_LABEL"] == "mixed", "REVIEW_SENTIMENT"] = 0.5
    hostile = frame.index[frame["LANGUAGE"] == "en"][: rows // 16]
    frame.loc[hostile, "PRODUCT_TYPE"] = HOSTILE_TYPE
    frame.loc[hostile[: len(HOSTILE_TEXTS)], "REVIEW_TEXT"] = list(HOSTILE_TEXTS)
    frame.loc[hostile[: len(HOSTILE_TEXTS)], "REVIEW_SENTIMENT"] = [1.0, 0.99, 0.98]
    # The likeliest of all has a name that a spreadsheet would run.
    frame.loc[hostile[0], ["UUID", "PURCHASE_PROBABILITY"]] = ["=1+1", 0.999]
    frame.loc[hostile[0], "PURCHASE_DECISION"] = 0
    return frame


@contextmanager
def shown_graph(embedded: Embedded, home: Path, database: str, frame: pd.DataFrame) -> Iterator[Graph]:
    """As ``scored_graph``, with the tables of model, insights and drift."""
    with scored_graph(embedded, home, database, frame) as graph:
        session = graph.session()
        for build in (insights.build_products, insights.build_aspects, insights.build_purchase_rates):
            build(session, settings(), "test")
        insights.build_targeting(session, settings(), "test")
        for table, rows in (
            (tables.CHAMPION_HISTORY, _history()),
            (tables.MODEL_EVALUATIONS, _evaluations()),
            (tables.MODEL_REFERENCE, _reference(frame)),
            (tables.MODEL_EXPLANATIONS, _explanations(frame)),
            (tables.DRIFT_REPORT, _drift()),
        ):
            insert(session, table, rows.assign(RUN_ID="test", MODEL_VERSION=rows.get("MODEL_VERSION", VERSION)))
        yield graph


def _history() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "CHANGED_AT": [NOW - timedelta(days=9), NOW],
            "MODEL_VERSION": ["RUN_EARLIER", VERSION],
            "PREVIOUS_VERSION": [None, "RUN_EARLIER"],
            "ACTION": "promotion",
            "REASON": "better by <i>0.02</i>",
        }
    )


def _evaluations() -> pd.DataFrame:
    values = {
        "challenger": (0.81, 1.9, 0.02),
        "champion": (0.79, 1.8, 0.03),
        "logistic_regression": (0.8, 1.7, 0.02),
        "known_before_purchase": (0.7, 1.5, 0.02),
        "prior": (0.5, 1.0, 0.0),
    }
    metrics = ("roc_auc", "top_decile_lift", "expected_calibration_error")
    rows = [
        (model, "ALL", "ALL", *pair) for model, found in values.items() for pair in zip(metrics, found, strict=True)
    ]
    rows += [("challenger", "LANGUAGE", code, "roc_auc", 0.7 + place / 50) for place, code in enumerate(("en", "de"))]
    rows += [("challenger", "PRODUCT_TYPE", name, "roc_auc", 0.75) for name in ("Books", HOSTILE_TYPE)]
    frame = pd.DataFrame(rows, columns=["MODEL", "SEGMENT_BY", "SEGMENT", "METRIC", "VALUE"])
    return frame.assign(
        LOW=frame["VALUE"] - 0.03, HIGH=frame["VALUE"] + 0.03, VISITS=120, PURCHASES=50, MEASURED_AT=NOW
    )


def _reference(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        PART=np.where(np.arange(len(frame)) % 2, "train", "test"),
        REVIEW_LENGTH=frame["REVIEW_TEXT"].str.len(),
        QUALITY_PROBABILITY=0.8,
        QUALITY_SCORE=0.5,
        LOGGED_AT=NOW,
    )


def _explanations(frame: pd.DataFrame) -> pd.DataFrame:
    explained = frame.nlargest(20, "PURCHASE_PROBABILITY")
    features = (("PRODUCT_RATING", 0.8), ("PAGE_LOAD_TIME", -0.3), ("PRODUCT_TYPE", 0.1))
    return pd.DataFrame(
        [
            {"UUID": row["UUID"], "FEATURE": name, "FEATURE_VALUE": str(row[name]), "CONTRIBUTION": contribution}
            for _, row in explained.iterrows()
            for name, contribution in features
        ]
    ).assign(EXPLAINED_AT=NOW)


def _drift() -> pd.DataFrame:
    rows = [
        ("PAGE_LOAD_TIME", "numeric", 0.31, 1),
        ("LANGUAGE", "nominal", 0.02, 0),
        ("REVIEW_SENTIMENT", "nulls", 0.01, 0),
    ]
    frame = pd.DataFrame(
        [(*row, TODAY - timedelta(days=back)) for row in rows for back in (0, 1)],
        columns=["MEASURED", "KIND", "DISTANCE", "DRIFTED", "WINDOW_END"],
    )
    return frame.assign(
        WINDOW_START=frame["WINDOW_END"] - timedelta(days=6),
        REFERENCE_ROWS=300,
        CURRENT_ROWS=200,
        REFERENCE_VALUE=2.5,
        CURRENT_VALUE=3.2,
        POPULATION_STABILITY=0.2,
        P_VALUE=0.001,
        COMPUTED_AT=NOW,
    )


@dataclass(frozen=True)
class Choice:
    """A filter as a viewer sets it: its label, what is typed into it, the value, and the condition that it means."""

    label: str
    typed: str
    key: str
    value: Any
    condition: str


CHOICES = (
    Choice("Product type", "Toys", "types", "Toys", "PRODUCT_TYPE = 'Toys'"),
    Choice("Page layout", "Grid", "layouts", "Grid", "PRODUCT_LAYOUT = 'Grid'"),
    Choice(
        "Review quality",
        "generic",
        "qualities",
        "generic brief with no details",
        "REVIEW_QUALITY = 'generic brief with no details'",
    ),
    Choice("Language", "German", "languages", "de", "LANGUAGE = 'de'"),
)


def truth(graph: Graph, condition: str = "TRUE") -> dict[str, str]:
    """The four figures on top of the overview, as SQL says them."""
    row = (
        graph.session()
        .sql(
            "SELECT COUNT(*) AS N, AVG(PURCHASE_DECISION)::FLOAT AS RATE, AVG(REVIEW_SENTIMENT)::FLOAT AS SENTIMENT, "
            f"AVG(PRODUCT_RATING)::FLOAT AS RATING FROM PURCHASE_FEATURES WHERE {condition}"
        )
        .collect()[0]
    )
    return {
        "Purchase rate": f"{row['RATE']:.0%}",
        "Mean sentiment": f"{row['SENTIMENT']:+.2f}".replace("-", "−"),
        "Mean rating": f"{row['RATING']:.1f} of 5",
        "Reviews": f"{row['N']:,}",
    }
