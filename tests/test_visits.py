"""A person's own table of visits: what is read, and what is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from customer_insights.visits import VisitsError, is_visits_file, read_visits

HEADER = "uuid,product_type,product_layout,page_load_time,product_rating,purchase_decision"


def visits(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "visits.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def test_visits_are_read_with_any_case_of_column_names_and_an_open_decision(tmp_path: Path):
    frame = read_visits(visits(tmp_path, "1,Toys,grid,1.5,4,1", "2,Toys,list,0.7,3,"))
    assert frame["UUID"].tolist() == ["1", "2"]
    assert frame["PURCHASE_DECISION"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("1,Toys,grid,fast,4,1",), "PAGE_LOAD_TIME is 'fast', expected a number"),
        ((",Toys,grid,1,4,1",), "UUID is empty"),
        (("1,Toys,grid,1,4,1", "1,Toys,grid,2,4,0"), "occurs more than once"),
        (("1,Toys,grid,1,4,2",), "expected 0 or 1"),
        (("1,Toys,grid,1,4.5,1",), "PRODUCT_RATING is 4.5, expected a whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(tmp_path: Path, lines: tuple[str, ...], said: str):
    with pytest.raises(VisitsError, match=said):
        read_visits(visits(tmp_path, *lines))


def test_a_missing_column_is_named(tmp_path: Path):
    with pytest.raises(VisitsError, match="lacks the columns PURCHASE_DECISION"):
        read_visits(visits(tmp_path, "1,Toys,grid,1,4", header=HEADER.rpartition(",")[0]))


def test_a_file_of_reviews_is_not_taken_for_visits(tmp_path: Path):
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("uuid,review_text\n1,good\n")
    assert not is_visits_file(reviews)
    assert is_visits_file(visits(tmp_path, "1,Toys,grid,1,4,1"))
