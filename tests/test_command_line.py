"""The command ``customer-insights`` as a person types it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Graph
from typer.testing import CliRunner

from command_line import main
from command_line.load import load_paths, stage_name
from customer_insights.errors import PermanentError


def text(console_output: str) -> str:
    """What a terminal shows, without line breaks of the layout."""
    return re.sub(r"\s+", " ", console_output)


def test_deploy_dry_run_prints_the_statements_and_needs_no_connection():
    result = CliRunner().invoke(main.app, ["deploy", "--dry-run"])
    assert result.exit_code == 0
    for expected in ("CREATE STAGE IF NOT EXISTS REVIEWS", "CREATE TABLE IF NOT EXISTS RAW_REVIEWS", "VIEW REVIEWS"):
        assert expected in text(result.output)


def test_load_puts_reviews_and_visits_where_they_belong_and_says_what_is_next(
    empty_graph: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "reviews of mai's.csv").write_text("uuid,review_text\nm-1,ganz gut\n")
    (folder / "visits.csv").write_text(
        "uuid,product_type,product_layout,page_load_time,product_rating,purchase_decision\nm-1,Toys,Grid,1.5,4,1\n"
    )
    (folder / "notes.docx").write_bytes(b"PK")
    load_paths(main.console, [folder])
    said = text(capsys.readouterr().out)
    assert "visits.csv: 1 visits added, 0 replaced" in said
    assert "1 review files are on @REVIEWS" in said
    assert "left out" in said
    assert "notes.docx" in said.replace(" ", "")
    assert "Materialize" in said
    assert empty_graph.value("SELECT PURCHASE_DECISION FROM TABULAR_DATA WHERE UUID = 'm-1'") == 1
    assert len(empty_graph.session().sql("LIST @REVIEWS").collect()) == 1


def test_load_of_nothing_says_what_was_expected(tmp_path: Path):
    with pytest.raises(PermanentError, match="does not exist"):
        load_paths(main.console, [tmp_path / "nowhere"])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(PermanentError, match=r"expected review files .*\.jsonl"):
        load_paths(main.console, [tmp_path])


def test_two_odd_file_names_stay_two_files_on_the_stage():
    assert stage_name("plain-name_1.csv.gz") == "plain-name_1.csv.gz"
    assert stage_name("a b.txt") != stage_name("a_b.txt")
    assert stage_name("a b.txt") != stage_name("a\tb.txt")
    for name in ("../../etc/passwd.txt", "it's;DROP.txt", ".hidden.txt"):
        assert re.fullmatch(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*", stage_name(name))
