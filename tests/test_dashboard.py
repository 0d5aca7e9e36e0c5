"""The dashboard's pages run as Streamlit runs them, on an embedded server: what they show, and what when there is
nothing to show."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import altair as alt
import pandas as pd
import pytest
from conftest import Embedded, Graph
from scored_reviews import TODAY
from shown_reviews import CHOICES, HOSTILE_TEXTS, HOSTILE_TYPE, Choice, shown, shown_graph, truth
from streamlit.testing.v1 import AppTest

from customer_insights import deployment
from customer_insights.errors import PermanentError, RetryableError
from customer_insights.settings import settings
from dashboard import connection, parts, queries, selection
from dashboard.selection import Options, Selection

PAGES = ("overview", "product", "reviews", "targeting", "model", "drift")


@pytest.fixture(scope="module")
def graph(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with shown_graph(embedded, tmp_path_factory.mktemp("dagster"), "DB_DASHBOARD", shown()) as graph:
        yield graph


@pytest.fixture(autouse=True, scope="module")
def sessions_end(embedded: Embedded) -> Iterator[None]:
    """Before the server does."""
    yield
    connection.close()


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """No answer of an earlier test is shown."""
    connection.read_again()


def opened(start: str = "overview", **address: str | list[str]) -> AppTest:
    """A page, as an address with these parameters opens it."""

    def run(start: str) -> None:
        from dashboard.app import main

        main(start)

    page = AppTest.from_function(run, default_timeout=60, kwargs={"start": start})
    page.query_params.update(address)
    page.run()
    assert not page.exception, page.exception
    return page


def figures(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def html(page: AppTest) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def words(page: AppTest) -> str:
    """Everything that a page says outside of its charts."""
    kinds = ("title", "subheader", "caption", "info", "warning", "error", "success")
    texts = [element.value for kind in kinds for element in page.get(kind)]
    return "\n".join([*map(str, texts), html(page)])


def charts(page: AppTest) -> list[dict]:
    return [json.loads(element.proto.spec) for element in page.get("vega_lite_chart")]


def test_the_overview_shows_what_sql_says(graph: Graph):
    assert figures(opened()) == truth(graph)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.key)
def test_each_filter_changes_the_figures_to_what_sql_says(graph: Graph, choice: Choice):
    page = opened()
    page.multiselect(key=f"filter_{choice.key}_0").set_value([choice.value]).run()
    assert figures(page) == truth(graph, choice.condition) != truth(graph)


def test_days_are_a_filter_too(graph: Graph):
    page = opened()
    page.date_input(key="filter_days_0").set_value((TODAY - timedelta(days=9), TODAY - timedelta(days=3))).run()
    expected = truth(graph, f"ARRIVAL_DATE BETWEEN '{TODAY - timedelta(days=9)}' AND '{TODAY - timedelta(days=3)}'")
    assert figures(page) == expected != truth(graph)


def test_filters_are_in_the_address_and_an_address_sets_them(graph: Graph):
    page = opened()
    page.multiselect(key="filter_types_0").set_value(["Toys"])
    page.multiselect(key="filter_languages_0").set_value(["de", "en"]).run()
    assert page.query_params == {"type": "Toys", "language": ["en", "de"]}
    shared = opened(**page.query_params)
    assert figures(shared) == figures(page)
    assert shared.multiselect(key="filter_languages_0").value == ["en", "de"]


def test_one_click_shows_everything_again(graph: Graph):
    page = opened(type="Toys")
    next(button for button in page.button if button.label == "Show everything").click().run()
    assert figures(page) == truth(graph)
    assert page.query_params == {}


@pytest.mark.parametrize("value", ["x' OR '1'='1", "Toys') --", "Books; DROP TABLE RAW_REVIEWS"])
def test_what_an_address_holds_is_no_sql(graph: Graph, value: str):
    assert figures(opened(type=value, until="'; DROP TABLE RAW_REVIEWS --")) == truth(graph)
    condition, binds = Selection(types=(value,)).condition()
    assert (condition, binds) == ("PRODUCT_TYPE IN (?)", [value])


def test_a_selection_keeps_what_occurs():
    options = Options(types=("a", "b"), first=date(2026, 1, 1), last=date(2026, 1, 31))
    asked = Selection(types=("b", "c"), first=date(2025, 1, 1), last=date(2026, 1, 7))
    assert asked.within(options) == Selection(types=("b",), last=date(2026, 1, 7))
    assert Selection(first=date(2026, 2, 9)).within(options) == Selection()
    assert Selection(first=date(2026, 1, 9), last=date(2026, 1, 3)).within(options) == Selection()
    assert selection.of_address(asked.address()) == asked


def test_groups_add_up_to_the_whole_and_agree_with_one_query_each(graph: Graph):
    found = queries.groups(Selection(languages=("en",)), (), ("SENTIMENT",), ("REVIEW_QUALITY", "SENTIMENT"))
    for rows in found.values():
        assert rows["VISITS"].sum() == graph.value("SELECT COUNT(*) FROM PURCHASE_FEATURES WHERE LANGUAGE = 'en'")
    band = found["SENTIMENT",].set_index("SENTIMENT").loc["very positive"]
    assert band["PURCHASES"] == graph.value(
        "SELECT SUM(PURCHASE_DECISION) FROM PURCHASE_FEATURES WHERE LANGUAGE = 'en' AND REVIEW_SENTIMENT > 0.6"
    )
    assert set(found["SENTIMENT",]["SENTIMENT"]) <= set(queries.BANDS)


@pytest.mark.parametrize(
    ("start", "titles"),
    [
        (
            "overview",
            {
                "Purchase rate by review quality", "Purchase rate by review sentiment",
                "Quality and sentiment together",
                "Product type and page layout", "Product type and review quality", "Purchase rate by day of arrival",
                "New reviews by day of arrival", "Purchase rate by language of the review",
            },
        ),
        (
            "product",
            {
                "By page layout", "By page load time", "By stars shown", "By review sentiment",
                "Praise and complaint by aspect",
            },
        ),
        (
            "targeting",
            {"How many buyers are reached", "Expected profit of each tenth", "What each feature contributes"},
        ),
        (
            "model",
            {
                "ROC-AUC on the same test visits", "ROC-AUC by product type", "ROC-AUC by language",
                "Predicted and observed purchase rate", "Mean strength of each feature",
            },
        ),
        ("drift", {"How far each thing has moved"}),
    ],
)  # fmt: skip
def test_every_chart_has_a_title_a_description_and_its_numbers_as_a_table(graph: Graph, start: str, titles: set[str]):
    page = opened(start)
    drawn = charts(page)
    assert {" ".join(chart["title"]["text"]) for chart in drawn} == titles
    for chart in drawn:
        alt.LayerChart.from_dict(chart, validate=True)
        assert re.search(r"\d", chart["description"])
    assert html(page).count('<table class="ci-table">') >= len(drawn)


def test_the_reliability_curve_is_of_the_test_part_of_the_version_in_service(graph: Graph):
    tenths = queries.reliability("RUN_TEST")
    tested = "MODEL_VERSION = 'RUN_TEST' AND PART = 'test' AND PURCHASE_DECISION IS NOT NULL"
    assert len(tenths) == 10
    assert tenths["VISITS"].sum() == graph.value(f"SELECT COUNT(*) FROM MODEL_REFERENCE WHERE {tested}")
    assert tenths["PURCHASES"].sum() == graph.value(
        f"SELECT SUM(PURCHASE_DECISION) FROM MODEL_REFERENCE WHERE {tested}"
    )
    assert tenths["PREDICTED"].is_monotonic_increasing


def test_drift_names_what_moved_and_counts_earlier_comparisons(graph: Graph):
    page = opened("drift")
    assert "1 of 3 measurements drifted: Page load time" in page.warning[-1].value
    assert list(queries.drift_history()["ALARMS"].astype(int)) == [1, 1]


def test_the_list_to_contact_is_the_likeliest_who_have_not_bought(graph: Graph):
    expected = graph.session().sql(
        "SELECT p.UUID FROM PURCHASE_PROPENSITY AS p JOIN PURCHASE_FEATURES AS f ON f.UUID = p.UUID "
        "WHERE LANGUAGE = 'en' AND COALESCE(PURCHASE_DECISION, 0) = 0 "
        "ORDER BY PURCHASE_PROBABILITY DESC, p.UUID LIMIT 5"
    ).collect()  # fmt: skip
    found = queries.most_likely(Selection(languages=("en",)), 5, undecided_only=True)
    assert list(found["UUID"]) == [row["UUID"] for row in expected]
    assert found["UUID"].iloc[0] == "=1+1"
    everybody = queries.most_likely(Selection(), 1000, undecided_only=False)
    assert len(everybody) == graph.value("SELECT COUNT(*) FROM PURCHASE_PROPENSITY")


def test_a_downloaded_cell_is_no_formula(graph: Graph):
    found = queries.most_likely(Selection(), 50, undecided_only=True)
    content = parts.csv_of(found)
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert rows[0]["UUID"] == "'=1+1"
    assert rows[0]["PRODUCT_TYPE"] == HOSTILE_TYPE
    assert float(rows[0]["PURCHASE_PROBABILITY"]) == pytest.approx(0.999)
    for mark in ("=", "+", "-", "@", "\t=", "  ="):
        assert parts.defused(f"{mark}1").startswith("'")
    # A number below 0 is a number.
    assert parts.defused(-0.5) == -0.5
    assert parts.defused(None) == ""


def test_why_says_what_raises_and_what_lowers_a_prediction(graph: Graph):
    page = opened("targeting")
    said = html(page)
    assert "A purchase has a probability of" in said
    assert "raises it the most" in said
    assert "Page load time" in said
    contributions = queries.explanation("=1+1")
    assert list(contributions["FEATURE"]) == ["PRODUCT_RATING", "PAGE_LOAD_TIME", "PRODUCT_TYPE"]


def test_hostile_reviews_are_shown_literally(graph: Graph):
    page = opened("reviews")
    said = html(page)
    for text in HOSTILE_TEXTS:
        assert text.splitlines()[0][:6].replace("<", "&lt;") in said
    assert "<script" not in said
    assert "<img" not in said
    assert "<h1>" not in said
    assert "\u202e" not in said
    for start in ("product", "model", "targeting"):
        assert "<b>Hats" not in words(opened(start, **({"type": HOSTILE_TYPE} if start == "product" else {})))


def test_reviews_are_of_the_kind_and_the_words_asked_for(graph: Graph):
    negative = queries.reviews(Selection(), "Negative, but a purchase", "", 500)
    assert (negative["REVIEW_SENTIMENT"] < -0.2).all()
    assert (negative["PURCHASE_DECISION"] == 1).all()
    assert len(negative) == graph.value(
        "SELECT COUNT(*) FROM PURCHASE_FEATURES WHERE REVIEW_SENTIMENT < -0.2 AND PURCHASE_DECISION = 1"
    )
    page = opened("reviews")
    page.text_input(key="reviews_contains").set_value("REVIEW 123 WORD").run()
    assert html(page).count("<article") == 1
    page.text_input(key="reviews_contains").set_value("100%_'").run()
    assert "No review matches" in words(page)


def test_more_reviews_are_shown_by_a_click(graph: Graph):
    page = opened("reviews")
    first = html(page).count("<article")
    next(button for button in page.button if button.label == "Show more").click().run()
    assert html(page).count("<article") > first


def test_a_selection_without_visits_says_so(graph: Graph):
    for start in ("overview", "product", "reviews", "targeting"):
        page = opened(start, type=HOSTILE_TYPE, language="de")
        assert "matches this selection" in words(page)
        assert any(button.label == "Show everything" and not button.disabled for button in page.button)


def test_old_data_are_warned_of(graph: Graph):
    assert "Older than it should be: Newest reviews" in opened().warning[0].value


def test_age_is_said_in_words():
    now = datetime(2026, 11, 20, 12, 0)
    for moment, said in (
        (now, "just now"),
        (now - timedelta(minutes=5), "5 minutes ago"),
        (now - timedelta(hours=1), "1 hour ago"),
        (now - timedelta(hours=30), "30 hours ago"),
        (now - timedelta(days=9), "9 days ago"),
        (date(2026, 11, 20), "today"),
        (date(2026, 11, 19), "yesterday"),
        (date(2026, 11, 17), "3 days ago"),
    ):
        assert parts.age(moment, now) == said
    assert parts.hours_old(date(2026, 11, 18), now) == 48


@pytest.mark.parametrize(
    ("start", "asset"),
    [
        ("overview", "customer-insights load"),
        ("product", "purchase_features"),
        ("reviews", "purchase_features"),
        ("targeting", "purchase_propensity"),
        ("model", "champion"),
        ("drift", "drift_report"),
    ],
)
def test_an_empty_page_says_what_to_materialize(empty_graph: Graph, start: str, asset: str):
    page = opened(start)
    assert asset in words(page)
    assert "aterialize" in words(page)
    assert not page.error


def test_missing_tables_are_named_with_their_asset(empty_graph: Graph):
    session = empty_graph.session()
    for table in ("PURCHASE_FEATURES", "TARGETING", "MODEL_EVALUATIONS", "CHAMPION_HISTORY", "DRIFT_REPORT"):
        session.sql(f"DROP TABLE {table}").collect()
    pages = {"overview": "purchase_features", "targeting": "targeting", "model": "champion", "drift": "drift_report"}
    for start, asset in pages.items():
        said = words(opened(start))
        assert "There is no table" in said
        assert f"**{asset}**" in said


def test_a_schema_without_tables_says_how_to_deploy(embedded: Embedded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DATABASE", "DB_WITHOUT_TABLES")
    settings.cache_clear()
    session = embedded.session()
    for statement in deployment.statements(settings())[:3]:
        session.sql(statement).collect()
    try:
        assert "customer-insights deploy" in opened().error[0].value
    finally:
        settings.cache_clear()


def test_one_page_asks_few_questions(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    asked = []
    ask = connection._ask
    monkeypatch.setattr(connection, "_ask", lambda sql, binds: asked.append(sql) or ask(sql, binds))
    for start, most in (("overview", 4), ("product", 6), ("reviews", 4), ("targeting", 6), ("model", 7), ("drift", 5)):
        connection.read_again()
        asked.clear()
        page = opened(start)
        assert 1 <= len(asked) <= most, (start, asked)
        asked.clear()
        page.run()
        assert not asked


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"port": 1, "login_timeout": 1}, "make embedded"),
        ({"password": "canary-password"}, "refused the login"),
        ({"connection_name": "nowhere"}, "nowhere"),
    ],
    ids=["unreachable", "wrong password", "no such connection"],
)
def test_an_error_of_the_connection_is_a_sentence_with_a_button(graph: Graph, monkeypatch, changed: dict, told: str):
    options = connection.options
    monkeypatch.setattr(connection, "options", lambda: {**options(), **changed})
    connection.close()
    page = opened()
    assert told in page.error[0].value
    assert "canary" not in page.error[0].value
    assert "Traceback" not in page.error[0].value
    monkeypatch.undo()
    next(button for button in page.button if button.label == "Try again").click().run()
    assert figures(page) == truth(graph)


def test_a_session_that_was_lost_is_opened_again(graph: Graph):
    page = opened()
    # Snowflake forgets a session that nobody used for hours; the client does not know of it.
    for session in connection._opened:
        session.connection.rest.delete_session()
    connection.read_again()
    page.run()
    assert figures(page) == truth(graph)


def test_errors_of_snowflake_are_told_apart(graph: Graph):
    with pytest.raises(connection.MissingTableError, match="NOWHERE"):
        connection.read("SELECT * FROM NOWHERE")
    with pytest.raises(PermanentError, match="refused the query"):
        connection.read("SELECT 1 +")
    assert issubclass(connection.SlowQueryError, RetryableError)


def test_rates_have_intervals_and_an_order():
    frame = pd.DataFrame(
        {"NAME": ["b", "a", "c"], "VISITS": [10, 20, 5], "DECIDED": [10, 20, 0], "PURCHASES": [5, 20, 0]}
    )
    rows = parts.in_order(parts.with_rates(frame), "NAME", ["a", "b"])
    assert list(rows["NAME"]) == ["a", "b"]
    assert list(rows["RATE"]) == [1.0, 0.5]
    assert ((rows["LOW"] <= rows["RATE"]) & (rows["RATE"] <= rows["HIGH"])).all()
