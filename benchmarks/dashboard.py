"""How long the dashboard's pages and filters take with a million reviews: the tables are made in an embedded server by
SQL, and each page is run as Streamlit runs it, without a browser.

For each: the first load (nothing kept), a rerun on kept answers, and each filter (an answer that is not kept yet), as
median and worst of ``ROUNDS``. ``--rows 100000`` for fewer, ``--work`` for a folder that is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
START_SECONDS = 120
DATABASE = "DB_BENCHMARK"
PAGES = ("overview", "product", "reviews", "targeting", "model", "drift")
FILTERS: dict[str, tuple[str, list[list[str]]]] = {
    "product type": ("filter_types_0", [["Books"], ["Toys"], ["Garden"], ["Sports"], ["Office"]]),
    "layout": ("filter_layouts_0", [["Grid"], ["List"], ["Carousel"], ["Grid", "List"], ["List", "Carousel"]]),
    "quality": ("filter_qualities_0", [[], [], [], [], []]),
    "language": ("filter_languages_0", [["en"], ["de"], ["zh"], ["fr"], ["ja"]]),
}


def start(home: Path) -> subprocess.Popen[str]:
    """The embedded server, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedded_snowflake", "--data-dir", str(home / "data"), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        if "listens on" in line:
            return process
        if not line:
            raise RuntimeError(f"the embedded server ended with {process.wait()}")
    raise TimeoutError("the embedded server did not listen")


def make(rows: int) -> None:
    """Tables of ``rows`` visits over a year, by SQL alone; the model's tables have the size that they have."""
    from snowflake.snowpark import Session

    from customer_insights import deployment, features, insights
    from customer_insights.settings import settings

    session = Session.builder.config("connection_name", "embedded").create()
    deployment.deploy(session, settings())
    labels = settings().quality_labels
    types, layouts = ("Books", "Toys", "Garden", "Sports", "Office", "Kitchen"), ("Grid", "List", "Carousel")
    languages = ("en", "de", "zh", "fr", "ja", "es", "it", "pt", "pl", "nl", "ru", "tr", "ko", "ar")

    def one_of(values: tuple[str, ...], seed: int) -> str:
        cases = " ".join(f"WHEN {place} THEN '{value}'" for place, value in enumerate(values))
        return f"CASE MOD(N * {seed} + FLOOR(N / 97), {len(values)}) {cases} END"

    session.sql(
        f"""CREATE OR REPLACE TEMPORARY TABLE MADE AS
SELECT 'visit-' || N AS UUID, MD5(N::STRING) AS TEXT_HASH,
  'Review ' || N || '. The parcel came in time. ' || IFF(MOD(N, 3) = 0, '', REPEAT('It does what it should. ', 8))
    AS REVIEW_TEXT,
  {one_of(languages, 7)} AS LANGUAGE, {one_of(labels, 5)} AS REVIEW_QUALITY, {one_of(types, 11)} AS PRODUCT_TYPE,
  {one_of(layouts, 13)} AS PRODUCT_LAYOUT, SIN(N * 12.9898) AS REVIEW_SENTIMENT,
  ABS(SIN(N * 78.233)) AS LUCK, 1 + MOD(N, 5) AS PRODUCT_RATING, MOD(N, 700) / 100 AS PAGE_LOAD_TIME,
  DATEADD(day, -MOD(N, 365), CURRENT_DATE()) AS ARRIVAL_DATE
FROM (SELECT SEQ8() AS N FROM TABLE(GENERATOR(ROWCOUNT => {rows}))) AS numbers"""
    ).collect()
    now, run = "SYSDATE()", "'benchmark'"
    origin = "'benchmark' AS BACKEND, 'made' AS MODEL, '1' AS REVISION"
    for table, columns in (
        ("RAW_REVIEWS", f"UUID, REVIEW_TEXT, TEXT_HASH, LANGUAGE, 0.9, 'made.csv', 1, ARRIVAL_DATE, {now}, {run}"),
        (
            "REVIEW_SENTIMENT",
            "UUID, TEXT_HASH, LANGUAGE, REVIEW_SENTIMENT, IFF(REVIEW_SENTIMENT > 0, 'positive', 'negative'), 0.8, "
            f'\'{{"price": "positive"}}\', 0, {origin}, ARRIVAL_DATE, {now}, {run}',
        ),
        (
            "REVIEW_QUALITY",
            f"UUID, TEXT_HASH, REVIEW_QUALITY, 0.8, '{{}}', 1 / LENGTH(REVIEW_QUALITY), {origin}, ARRIVAL_DATE, "
            f"{now}, {run}",
        ),
        (
            "TABULAR_DATA",
            "UUID, PRODUCT_TYPE, PRODUCT_LAYOUT, PAGE_LOAD_TIME, PRODUCT_RATING, "
            "IFF(LUCK < 0.4 + 0.2 * REVIEW_SENTIMENT, 1, 0)",
        ),
        (
            "PURCHASE_PROPENSITY",
            f"UUID, LUCK, NTILE(10) OVER (ORDER BY LUCK DESC, UUID), 'RUN_MADE', {now}, {run}",
        ),
        (
            "MODEL_REFERENCE",
            "'RUN_MADE', UUID, 'test', PRODUCT_TYPE, PRODUCT_LAYOUT, PAGE_LOAD_TIME, PRODUCT_RATING, LANGUAGE, 50, "
            f"REVIEW_SENTIMENT, REVIEW_QUALITY, 0.8, 0.5, IFF(LUCK < 0.5, 1, 0), LUCK, {now}, {run}",
        ),
        ("MODEL_EXPLANATIONS", f"UUID, 'PRODUCT_RATING', '5', LUCK, 'RUN_MADE', {now}, {run}"),
    ):
        # The model's tables keep samples: 20,000 reference visits, 200 explained ones.
        some = {"MODEL_REFERENCE": " LIMIT 20000", "MODEL_EXPLANATIONS": " ORDER BY LUCK DESC LIMIT 200"}.get(table, "")
        session.sql(f"INSERT INTO {table} SELECT {columns} FROM MADE{some}").collect()
    features.build(session)
    for build in (insights.build_products, insights.build_aspects, insights.build_targeting):
        build(session, settings(), "benchmark")
    session.sql(f"INSERT INTO CHAMPION_HISTORY SELECT {now}, 'RUN_MADE', NULL, 'promotion', 'made', {run}").collect()
    session.sql(
        "INSERT INTO MODEL_EVALUATIONS\n"
        f"SELECT 'RUN_MADE', 'challenger', 'ALL', 'ALL', COLUMN1, 0.8, 0.7, 0.9, 1000, 400, {now}, {run}\n"
        "FROM (VALUES ('roc_auc'), ('top_decile_lift'), ('expected_calibration_error'))"
    ).collect()
    session.close()


def page(start: str):
    """A page that has not run yet."""
    from streamlit.testing.v1 import AppTest

    return AppTest.from_string(f"from dashboard.app import main\nmain({start!r})", default_timeout=300)


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def told(name: str, taken: list[float]) -> None:
    print(f"{name:<34} median {statistics.median(taken):6.2f} s   worst {max(taken):6.2f} s", flush=True)


def measure() -> None:
    """Print a line for each page and each filter."""
    from dashboard import connection

    print(f"{'the first page of all, with imports':<34} {seconds(page('overview').run):13.2f} s", flush=True)
    for name in PAGES:
        first, again = [], []
        for _ in range(ROUNDS):
            connection.read_again()
            opened = page(name)
            first.append(seconds(opened.run))
            assert not opened.exception, opened.exception
            again.append(seconds(opened.run))
        told(f"{name}, first load", first)
        told(f"{name}, again", again)
    for name in ("overview", "reviews", "targeting"):
        for choice, (key, values) in FILTERS.items():
            connection.read_again()
            opened = page(name)
            opened.run()
            box = opened.multiselect(key=key)
            chosen = [value if value else list(box.options[: 1 + place % 2]) for place, value in enumerate(values)]
            taken = []
            for value in chosen:
                opened.multiselect(key=key).set_value(value)
                # Kept answers would be fast.
                connection.read_again()
                taken.append(seconds(opened.run))
                assert not opened.exception, opened.exception
            told(f"{name}, filter by {choice}", taken)
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="folder of the server, kept; without it a temporary one")
    options = parser.parse_args()
    home = options.work or Path(tempfile.mkdtemp(prefix="dashboard_benchmark_"))
    home.mkdir(parents=True, exist_ok=True)
    # Snowflake's clients read these when they are imported.
    os.environ |= {
        "SNOWFLAKE_HOME": str(home),
        "SNOWFLAKE_DEFAULT_CONNECTION_NAME": "embedded",
        "CUSTOMER_INSIGHTS_DATABASE": DATABASE,
    }
    sys.path.insert(0, str(ROOT))
    server = start(home)
    try:
        print(f"{options.rows:,} reviews and visits made in {seconds(lambda: make(options.rows)):.0f} s", flush=True)
        measure()
    finally:
        server.terminate()
        server.wait(timeout=60)
        if not options.work:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
