"""The command ``customer-insights`` as a person types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import tomlkit
from conftest import HOME, ROOT, Graph
from dagster._core.test_utils import freeze_time
from typer.testing import CliRunner

from command_line import demo, local, main, terminal
from command_line.load import load_paths, stage_name
from customer_insights.errors import PermanentError, RetryableError

COMMAND = str(Path(sys.executable).with_name("customer-insights"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own embedded server runs already."""
    monkeypatch.setattr(local, "start", lambda: 0.0)


def call(*arguments: str, code: int = 0) -> str:
    """Standard output of a command that ends with ``code``."""
    result = CliRunner().invoke(main.app, [*arguments], env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.stdout


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
    assert "1 review file is on @REVIEWS" in said
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


# -- starting, errors, exit codes -------------------------------------------------------------------------------------


def test_help_is_quick_because_nothing_heavy_is_imported():
    script = "import sys; from command_line import main; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "typer" in imported.stdout.split()
    heavy = {"dagster", "snowflake.connector", "snowflake.snowpark", "pandas", "numpy", "torch", "ray", "pydantic"}
    assert not heavy & set(imported.stdout.split())


def test_the_shell_completes_commands():
    asked = {"_CUSTOMER_INSIGHTS_COMPLETE": "complete_bash", "COMP_WORDS": "customer-insights do", "COMP_CWORD": "1"}
    told = subprocess.run([COMMAND], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["doctor"]


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (PermanentError("no such day"), 1, "no such day"),
        (FileNotFoundError(2, "No such file", "/nowhere"), 1, "/nowhere"),
        (RetryableError("nobody answers"), 3, "nobody answers"),
        (KeyError("column"), 4, "defect of the program: report it with what `--debug` shows"),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(error, code, expected, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = capsys.readouterr()
    assert ended.value.code == code
    assert expected in text(told.err)
    assert "Traceback" not in told.err
    assert not told.out
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DEBUG", "1")
    with pytest.raises(SystemExit):
        main.main()
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_setting_is_named_and_a_wrong_option_is_a_mistake_of_use():
    wrong = {**os.environ, "CUSTOMER_INSIGHTS_TARGET_INSTANCES": "many"}
    told = subprocess.run([COMMAND, "deploy", "--dry-run"], env=wrong, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1
    assert "CUSTOMER_INSIGHTS_TARGET_INSTANCES is 'many'" in text(told.stderr)
    assert "Traceback" not in told.stderr
    call("deploy", "--dry-run", "--role-script", code=2)
    call("deploy", "--address", "192.0.2.0/24", code=2)


def test_the_demo_shows_what_a_later_run_made_in_the_place_of_the_earlier():
    told = demo.Progress(order=["pipeline_costs", "reviews"], rows={"pipeline_costs": 0, "reviews": 7}, failures=["a"])
    told.add(demo.Progress(order=["pipeline_costs"], rows={"pipeline_costs": 9}, failures=["a", "b"]))
    assert told.order == ["reviews", "pipeline_costs"]
    assert told.rows == {"reviews": 7, "pipeline_costs": 9}
    assert told.failures == ["a", "b"]


# -- deploy -----------------------------------------------------------------------------------------------------------


def test_deploy_says_what_was_made_and_what_was_there(empty_graph: Graph, started):
    session = empty_graph.session()
    session.sql("DROP TABLE TARGETING").collect()
    session.sql("DROP STAGE WORK_STAGE").collect()
    changes = json.loads(call("deploy", "--json"))
    made = {(change["kind"], change["name"]) for change in changes if change["outcome"] == "created"}
    assert made == {("TABLE", "TARGETING"), ("STAGE", "WORK_STAGE")}
    assert {change["outcome"] for change in changes} == {"created", "existed", "replaced"}
    assert "nothing had to be made" in call("deploy")


def test_a_table_of_the_quickstart_is_not_lost(empty_graph: Graph, started):
    session = empty_graph.session()
    session.sql("DROP VIEW REVIEWS").collect()
    session.sql("CREATE TABLE REVIEWS (UUID STRING, REVIEW_TEXT STRING)").collect()
    session.sql("INSERT INTO REVIEWS VALUES ('u-1', 'kept')").collect()
    session.sql("DROP TABLE TARGETING").collect()
    result = CliRunner().invoke(main.app, ["deploy"])
    assert isinstance(result.exception, PermanentError)
    rename = re.search(r"ALTER TABLE .*", str(result.exception))
    assert rename
    assert not session.sql("SHOW TABLES LIKE 'TARGETING'").collect(), "something was made all the same"
    session.sql(rename[0]).collect()
    call("deploy")
    assert empty_graph.value("SELECT REVIEW_TEXT FROM REVIEWS_QUICKSTART") == "kept"
    assert empty_graph.value("SELECT COUNT(*) FROM REVIEWS") == 0


def test_the_role_script_is_printed_for_an_administrator():
    script = call("deploy", "--role-script", "--address", "192.0.2.0/24")
    assert "CREATE USER IF NOT EXISTS CUSTOMER_INSIGHTS TYPE = SERVICE" in script
    assert "VALUE_LIST = ('192.0.2.0/24')" in script
    assert "{{" not in script


def test_load_tells_a_script_what_it_did(empty_graph: Graph, started, tmp_path: Path):
    file = tmp_path / "mine.csv"
    file.write_text("uuid,review_text\nm-1,ganz gut\n")
    result = CliRunner().invoke(main.app, ["load", str(file), "--json"])
    assert json.loads(result.stdout) == {"reviews": ["mine.csv"], "visits": {}, "left_out": []}
    # No bar where nobody looks.
    assert "\x1b" not in result.stderr


# -- status -----------------------------------------------------------------------------------------------------------


def test_status_of_a_new_project_says_that_nothing_was_made_yet(empty_graph: Graph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(empty_graph.dagster_home))
    shown = call("status")
    assert "Dagster is not running" in shown
    assert "no model yet" in shown
    assert "nothing is overdue or failed" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_status_shows_what_is_overdue_and_failed_and_a_backfill_hides_nothing(
    empty_graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAGSTER_HOME", str(empty_graph.dagster_home))
    now = datetime.now(UTC)
    past = now - timedelta(days=3)
    day, at = f"{past:%Y-%m-%d}", f"{past:%Y-%m-%d %H:%M:%S}"
    session = empty_graph.session()
    for sql in (
        "INSERT INTO INGESTED_FILES (SOURCE_FILE, FILE_SIZE, FILE_MD5, ARRIVAL_DATE, ROWS_ACCEPTED, ROWS_REJECTED, "
        f"INGESTED_AT, RUN_ID, FILE_ARRIVED_AT) VALUES ('a', 1, 'a', '{day}', 1, 1, '{at}', 'r', '{at}')",
        "INSERT INTO RAW_REVIEWS (UUID, REVIEW_TEXT, TEXT_HASH, LANGUAGE, LANGUAGE_CONFIDENCE, SOURCE_FILE, "
        "SOURCE_LINE, ARRIVAL_DATE, INGESTED_AT, RUN_ID) "
        f"VALUES ('u', 't', 'h', 'en', 1, 'a', 1, '{day}', '{at}', 'r')",
        "INSERT INTO REJECTED_REVIEWS (SOURCE_FILE, FILE_MD5, SOURCE_LINE, REASON, ARRIVAL_DATE, REJECTED_AT, RUN_ID) "
        f"VALUES ('a', 'a', 2, 'no text', '{day}', '{at}', 'r')",
        "INSERT INTO PIPELINE_COSTS (RUN_ID, ASSET, RESOURCE, JOB_ID, RESOURCE_NAME, STARTED_AT, ENDED_AT, "
        "ESTIMATED_CREDITS, COLLECTED_AT) VALUES "
        f"('r', 'raw_reviews', 'compute_pool', '', 'P', '{at}', '{at}', 1.25, '{at}')",
    ):
        session.sql(sql).collect()
    with empty_graph.instance as instance:
        with freeze_time(past):
            instance.report_runless_asset_event(dg.AssetMaterialization("raw_reviews", partition=day))
        # Fresh by its policy: something was made just now. The review of three days ago has no sentiment all the same.
        instance.report_runless_asset_event(dg.AssetMaterialization("review_sentiment", partition="2026-01-05"))
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("reviews"), check_name="keys_are_unique", passed=False, description="2 rows twice"
            )
        )
    assert empty_graph.run("reviews").success
    session.sql("ALTER TABLE TABULAR_DATA RENAME TO ELSEWHERE").collect()
    assert not empty_graph.run("purchase_features").success
    session.sql("ALTER TABLE ELSEWHERE RENAME TO TABULAR_DATA").collect()
    # Another run of the same job and day, of something else, mends nothing.
    assert empty_graph.run("reviews").success

    told = json.loads(call("status", "--json", code=1))
    assets = {asset["name"]: asset for asset in told["dagster"]["assets"]}
    assert assets["raw_reviews"]["freshness"] == "overdue"
    assert assets["review_sentiment"]["freshness"] == "overdue"
    assert "1 reviews of" in assets["review_sentiment"]["said"]
    assert assets["reviews"]["rows"] == 1
    assert assets["champion"]["freshness"] == "never"
    assert [run["status"] for run in told["dagster"]["runs"]] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert [run["job"] for run in told["dagster"]["failed_runs"]] == ["purchase_features"]
    assert (told["snowflake"]["reviews"], told["snowflake"]["rejected"]) == (1, 1)
    assert (told["snowflake"]["credits_day"], told["snowflake"]["credits_month"]) == (0, 1.25)
    shown = call("status", code=1)
    for expected in ("overdue", "failed", "1.25 in 30 days", "1 rejected"):
        assert expected in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_status_without_snowflake_shows_what_dagster_knows(empty_graph: Graph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(empty_graph.dagster_home))
    known = tomlkit.parse((HOME / "connections.toml").read_text()).unwrap()["embedded"]
    monkeypatch.setenv("SNOWFLAKE_CONNECTIONS", tomlkit.dumps({"embedded": {**known, "port": 9}}))
    shown = text(call("status", code=1))
    assert "embedded cannot be used" in shown
    assert "nobody answers at 127.0.0.1:9" in shown
    assert "raw_reviews" in shown


def test_numbers_stand_to_the_right_and_words_to_the_left():
    table = terminal.summary("t", ["asset", "rows", "share"], [["reviews", "1,234", "5 %"], ["champion", "", None]])
    assert [column.justify for column in table.columns] == ["left", "right", "right"]


def test_a_long_review_ends_in_an_ellipsis_also_where_words_have_no_spaces():
    text = "外形很漂亮，有买的冲动。" * 4
    assert demo._excerpt(text) == text[: demo.EXCERPT_CHARACTERS - 1] + "…"
    assert demo._excerpt(" as  it\nis ") == "as it is"
