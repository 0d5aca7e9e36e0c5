"""The daily report as a manager gets it: on the stage, by the command, on a phone, printed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import CHROMIUM, SCREENSHOTS, Embedded, Graph, materializations
from rich.console import Console
from scored_reviews import TODAY, VERSION, insert, scored, scored_graph

from command_line.report import fetch_report
from customer_insights import daily_report, display, insights, report_page, tables
from customer_insights.daily_report import Facts
from customer_insights.errors import PermanentError
from customer_insights.insights import Share
from customer_insights.settings import settings

HOSTILE = (
    "<script>alert(1)</script>",
    "</style></svg></blockquote><script>alert(2)</script>",
    '"><img src=http://127.0.0.1:9/x onerror=alert(3)>',
    "' onmouseover='alert(4)' {{ 7 * 7 }} {% raw %} &lt;b&gt; <!-- --> ]]>",
    "evil \u202egnp.exe \u2066isolated \x1b[31m \x00 \ud800 $\\frac$",
    "<svg/onload=alert(5)><iframe src=//127.0.0.1:9></iframe><base href=//127.0.0.1:9>",
)
VOID = {"meta", "img", "br", "base", "link", "input", "hr", "path", "use"}
# Without what a table does not hold.
STORABLE = [text.replace("\x00", "").replace("\ud800", "") for text in HOSTILE]


class Page(HTMLParser):
    """Elements with their attributes, and the text of each kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.quotes: list[tuple[str, str | None, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "blockquote":
            self.quotes.append(("", dict(attrs).get("lang"), dict(attrs).get("dir")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "blockquote" in self.open:
            text, lang, direction = self.quotes[-1]
            self.quotes[-1] = (text + data, lang, direction)


def tags(page: Page) -> set[str]:
    return {tag for tag, _ in page.elements}


@pytest.fixture(scope="module")
def reported(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Graph, dict]]:
    """Ordinary reviews with their insights and report, made through Dagster."""
    with scored_graph(embedded, tmp_path_factory.mktemp("report"), "REPORTED", scored(600)) as graph:
        fill_evaluation(graph)
        build_insights(graph)
        yield graph, materializations(graph.run("daily_report", raise_on_error=True))


def build_insights(graph: Graph) -> None:
    session = graph.session()
    insights.build_products(session, settings(), "test")
    insights.build_aspects(session, settings(), "test")
    insights.build_purchase_rates(session, settings(), "test")
    insights.build_targeting(session, settings(), "test")


def fill_evaluation(graph: Graph) -> None:
    """What training and drift would have written."""
    origin = {"MODEL_VERSION": VERSION, "RUN_ID": "test"}
    measured = [
        {
            **origin,
            "MODEL": "challenger",
            "SEGMENT_BY": "ALL",
            "SEGMENT": "ALL",
            "METRIC": metric,
            "VALUE": value,
            "LOW": low,
            "HIGH": high,
            "VISITS": 100,
            "PURCHASES": 40,
            "MEASURED_AT": pd.Timestamp(TODAY),
        }
        for metric, value, low, high in (
            ("roc_auc", 0.781, 0.742, 0.818),
            ("expected_calibration_error", 0.071, 0.052, 0.090),
        )
    ]
    contributions = [
        {
            **origin,
            "UUID": "r-1-1",
            "FEATURE": feature,
            "FEATURE_VALUE": "x",
            "CONTRIBUTION": -0.1 * place,
            "EXPLAINED_AT": pd.Timestamp(TODAY),
        }
        for place, feature in enumerate(tables.MODEL_FEATURES, start=1)
    ]
    session = graph.session()
    insert(session, tables.MODEL_EVALUATIONS, pd.DataFrame(measured))
    insert(session, tables.MODEL_EXPLANATIONS, pd.DataFrame(contributions))
    session.sql(
        "INSERT INTO DRIFT_REPORT (WINDOW_START, WINDOW_END, MODEL_VERSION, MEASURED, KIND, REFERENCE_ROWS, "
        "CURRENT_ROWS, DRIFTED, COMPUTED_AT, RUN_ID)\n"
        "SELECT '2026-11-14', '2026-11-20', ?, COLUMN1, 'numeric', 10, 10, COLUMN2, '2026-11-20 06:00:00', 'test' "
        "FROM VALUES ('PAGE_LOAD_TIME', 1), ('LANGUAGE', 0), ('REVIEW_LENGTH', 0)",
        params=[VERSION],
    ).collect()


@pytest.fixture(scope="module")
def facts(reported: tuple[Graph, dict]) -> Facts:
    return daily_report.gather(reported[0].session(), settings(), TODAY)


@pytest.fixture(scope="module")
def hostile_page(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory, reported) -> str:
    """The report where every review, product and layout tries to do something."""
    frame = scored(240, seed=2)
    frame["REVIEW_TEXT"] = [f"{STORABLE[row % len(STORABLE)]} {row} {'W' * 120}" for row in range(len(frame))]
    kinds = (f"{HOSTILE[0]} {'W' * 60}", HOSTILE[2], "W" * 80)
    frame["PRODUCT_TYPE"] = [kinds[row % 3] for row in range(len(frame))]
    frame["PRODUCT_LAYOUT"] = [f"{HOSTILE[1]}{row // 3 % 3}{'M' * 90}" for row in range(len(frame))]
    before = settings().database
    with scored_graph(embedded, tmp_path_factory.mktemp("hostile"), "HOSTILE_REPORT", frame) as graph:
        fill_evaluation(graph)
        build_insights(graph)
        page = report_page.render(daily_report.gather(graph.session(), settings(), TODAY))
    assert settings().database == before
    return page


# -- what it says -----------------------------------------------------------------------------------------------------


def test_the_report_is_on_the_stage_and_its_summary_in_dagster(reported: tuple[Graph, dict]):
    graph, metadata = reported
    shown = metadata["daily_report"]
    (listed,) = graph.session().sql("LIST @REPORTS").collect()
    assert listed["name"] == f"reports/daily_report-{shown['day']}.html"
    assert listed["size"] == shown["bytes"]
    assert shown["path"] == f"@REPORTED.HOL_SCHEMA.REPORTS/daily_report-{shown['day']}.html"
    assert str(shown["summary"]).count("](data:image/png;base64,") == 2
    assert "| Purchase rate |" in str(shown["summary"])


def test_the_headlines_are_those_of_the_tables(facts: Facts):
    shown = {what: (figure, note) for what, figure, note in report_page.headlines(facts)}
    decided = scored(600)["PURCHASE_DECISION"].dropna().astype(int)
    assert shown["New reviews"][0] == "600"
    assert shown["Purchase rate"][0] == f"{decided.mean():.0%}"
    assert f"{len(decided):,} visits decided" in shown["Purchase rate"][1]
    assert shown["Mean sentiment"][0] == f"{scored(600)['REVIEW_SENTIMENT'].mean():+.2f}".replace("-", "−")
    assert shown["Model in service"] == ("0.781", "ROC-AUC 0.742 to 0.818, calibration error 0.071, RUN_TEST")
    assert shown["Drift alarms"] == ("1", "Page load time; 3 measured up to 20 Nov")


def test_advice_follows_the_numbers(facts: Facts):
    said = [str(text) for text in report_page.advice(facts)]
    chosen = facts.plan.deciles_to_contact
    assert said[0].startswith(f"Contact the {chosen * 10}% of visits most likely to buy.")
    assert "Positive reviews go together with more purchases than negative ones" in said[1]
    # Page load time and layout were drawn without an effect.
    assert said[2].startswith("Page load time tells little")
    assert said[3].startswith("Layouts tell little")
    slower = replace(
        facts, rates={"page load time": [Share.of("under 1 s", 60, 100), Share.of("5 s or more", 20, 100)]}
    )
    assert "Fast pages go together with more purchases: 60% where the page took under 1 s against 20%" in " ".join(
        map(str, report_page.advice(slower))
    )
    dear = replace(facts, plan=insights.Plan(tuple(replace(d, profit=-1.0) for d in facts.plan.deciles)))
    assert str(report_page.advice(dear)[0]).startswith("Contact nobody by these figures.")


def test_what_keeps_a_reader_from_relying_on_it_comes_first(facts: Facts):
    warned = " ".join(report_page.warnings(facts))
    assert "differ from those that the model learned from, in page load time" in warned
    assert "off by 7.1% on average" in warned
    assert "No review has arrived for 5 days" in " ".join(
        report_page.warnings(replace(facts, day=TODAY + timedelta(days=5)))
    )
    calm = replace(facts, drift=None, service=None)
    assert report_page.warnings(calm) == []


def test_reviews_are_in_their_language_and_direction(facts: Facts):
    arabic = daily_report.Example("جودة ممتازة", "ar", "quality", "Books / List")
    unknown = daily_report.Example("123", "und")
    page = Page(report_page.render(replace(facts, liked=(arabic, unknown), disliked=())))
    assert page.quotes == [("جودة ممتازة", "ar", "rtl"), ("123", "", "auto")]
    assert dict(page.elements[0][1]) == {"lang": "en"}


def test_an_empty_database_gives_a_page_that_says_so(empty_graph: Graph):
    facts = daily_report.gather(empty_graph.session(), settings(), TODAY)
    page = Page(report_page.render(facts))
    assert "No review has been read yet" in page.text
    assert not re.search(r"\b(None|nan|inf)\b", page.text)
    assert report_page.advice(facts) == []
    assert "| Purchase rate | – |" in report_page.summary(facts)


def test_without_aspects_reviews_are_quoted_by_their_sentiment(reported: tuple[Graph, dict]):
    session = reported[0].session()
    found = daily_report._examples_of_reviews(session, "negative")
    labels = scored(600).set_index("REVIEW_TEXT")["SENTIMENT_LABEL"]
    assert len({example.language for example in found}) == len(found) == 3
    assert {labels[example.text] for example in found} == {"negative"}


# -- what customers wrote ---------------------------------------------------------------------------------------------


def test_what_customers_wrote_is_text_and_nothing_else(hostile_page: str, facts: Facts):
    page = Page(hostile_page)
    assert page.open == []
    assert tags(page) - tags(Page(report_page.render(facts))) == set()
    assert not tags(page) & {"script", "img", "iframe", "base", "link", "object", "embed"}
    ours = {"content", "class", "style", "d", "id", "lang", "dir"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name, value in attributes.items():
            if name in ("href", "src", "xlink:href") or (name not in ours and "url(" in str(value)):
                assert str(value).startswith(("#", "url(#")), (tag, name, value)
    assert "<script>alert(1)</script>" in page.text
    begun = tuple(display.literal(" ".join(text.split())) for text in STORABLE)
    assert page.quotes
    assert not [text for text, _, _ in page.quotes if not text.startswith(begun)]


def test_marks_that_turn_or_hide_text_are_shown_as_such(facts: Facts):
    example = daily_report.Example(HOSTILE[4], "en")
    page = report_page.render(replace(facts, liked=(example,)))
    assert not [c for c in page if c in "\u202e\u2066\x1b\x00" or 0xD800 <= ord(c) < 0xE000]
    assert "evil \ufffdgnp.exe" in page


def test_names_in_a_chart_are_escaped(facts: Facts):
    aspects = tuple(insights.Aspect(text, 100, 60, 40) for text in HOSTILE)
    page = Page(report_page.render(replace(facts, aspects=aspects)))
    assert page.open == []
    assert not tags(page) & {"script", "img", "iframe"}


def test_a_long_review_is_cut_at_a_space_or_between_characters():
    assert report_page.excerpt("word " * 100) == " ".join(["word"] * 39) + "…"
    assert report_page.excerpt("好" * 300) == "好" * 199 + "…"
    assert report_page.excerpt(" short\n one ") == "short one"


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_fetches_the_newest_report_or_that_of_a_day(empty_graph: Graph, tmp_path: Path):
    session = empty_graph.session()
    output = io.StringIO()
    console = Console(file=output, width=300)
    with pytest.raises(PermanentError, match=r"there is no report on @.*REPORTS yet: materialize daily_report"):
        fetch_report(console, None, tmp_path)
    older, newer = TODAY - timedelta(days=1), TODAY
    for day, text in ((newer, b"first"), (older, b"older"), (newer, b"second")):
        daily_report.publish(session, settings(), day, text)
    assert len(session.sql("LIST @REPORTS").collect()) == 2
    assert fetch_report(console, None, tmp_path).read_bytes() == b"second"
    assert (tmp_path / f"daily_report-{newer}.html").exists()
    assert fetch_report(console, older.isoformat(), tmp_path / "r.html").read_bytes() == b"older"
    assert f"the report of {older} is in {tmp_path / 'r.html'}" in output.getvalue()
    with pytest.raises(PermanentError, match="there is no report of 2020-01-01"):
        fetch_report(console, "2020-01-01", tmp_path)
    with pytest.raises(PermanentError, match="'yesterday' is no day: expected YYYY-MM-DD"):
        fetch_report(console, "yesterday", tmp_path)
    with pytest.raises(PermanentError, match="name another by --output"):
        fetch_report(console, None, tmp_path / "missing" / "r.html")


def test_other_files_on_the_stage_are_no_reports(empty_graph: Graph):
    session = empty_graph.session()
    for name in ("daily_report-2026-99-99.html", "notes.html", "daily_report-2026-02-01.html.bak"):
        with io.BytesIO(b"x") as content:
            session.file.put_stream(content, f"@REPORTS/{name}", auto_compress=False)
    daily_report.publish(session, settings(), date(2026, 1, 2), b"report")
    assert daily_report.find(session, settings())[0] == date(2026, 1, 2)


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `make browser` installs it")
def test_the_page_fits_a_phone_and_a_sheet_of_paper_and_asks_nobody(
    facts: Facts, hostile_page: str, tmp_path: Path, browser
):
    SCREENSHOTS.mkdir(exist_ok=True)
    dialogs: list[str] = []
    for name, text in (("ordinary", report_page.render(facts)), ("hostile", hostile_page)):
        file = tmp_path / f"{name}.html"
        file.write_text(text)
        asked: list[str] = []
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asking, asked=asked: asked.append(asking.url))
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        cut = page.evaluate(
            "[...document.querySelectorAll('main *:not(svg *):not(bdi, b, strong, span)')].filter("
            "e => e.getBoundingClientRect().right > 361 "
            "|| (e.tagName != 'svg' && e.scrollWidth > e.clientWidth + 1)"
            ").map(e => e.tagName)"
        )
        assert cut == [], name
        page.screenshot(path=SCREENSHOTS / f"daily_report_{name}_360.png", full_page=True)
        assert pages_of(page.pdf(prefer_css_page_size=True, print_background=True)) == 1, name
        dark = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        dark.goto(file.as_uri())
        dark.screenshot(path=SCREENSHOTS / f"daily_report_{name}_dark.png", full_page=True)
        background = dark.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background != page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert asked == [file.as_uri()]
        page.close()
        dark.close()
    assert dialogs == []


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))
