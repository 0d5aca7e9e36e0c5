"""Fixtures that every test may ask for: a running embedded server and connections to it."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

# Snowflake's clients read SNOWFLAKE_HOME once, when they are imported: set it before any test module imports them.
HOME = Path(tempfile.mkdtemp(prefix="customer_insights_tests_")) / ".snowflake"
HOME.mkdir()
os.environ["SNOWFLAKE_HOME"] = str(HOME)
os.environ["SNOWFLAKE_DEFAULT_CONNECTION_NAME"] = "embedded"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["CUSTOMER_INSIGHTS_RETRY_SECONDS"] = "0.2"

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS = 120
SCREENSHOTS = ROOT / "tests" / "screenshots"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the randomized and the simulated tests go on, and from which seed."""
    parser.addoption("--fault-rounds", type=int, default=5, help="runs of a job under random faults")
    parser.addoption("--fault-seed", type=int, default=1, help="seed of their faults")
    parser.addoption("--month-days", type=int, default=6, help="6: a simulated week; 30: the month of docs/")


# These share the graph that was materialized once.
MODULES_OF_THE_GRAPH = frozenset(
    {"tests/test_graph.py", "tests/test_status.py", "tests/test_team.py", "tests/test_ui.py", "tests/test_ui_team.py"}
)


def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Keep together what shares an expensive fixture: the tests of one module, and those of the materialized graph.

    xdist's own ``--dist loadgroup`` renames tests by an attribute that pytest 9.2 has no more, and so groups nothing.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.split("::")[0]
            return "graph" if module in MODULES_OF_THE_GRAPH else module

    return ByFixture(config, log)


@dataclass(frozen=True)
class Embedded:
    """A running embedded server: its Snowflake home, and Snowflake's own clients connected to it."""

    home: Path
    process: subprocess.Popen[str]
    # A client that is still open when the server stops retries for a minute and a half as Python exits.
    opened: list = field(default_factory=list)

    def connect(self):
        """A new connection of snowflake-connector-python."""
        import snowflake.connector

        self.opened.append(snowflake.connector.connect(connection_name="embedded"))
        return self.opened[-1]

    def session(self):
        """A new Snowpark session."""
        from snowflake.snowpark import Session

        self.opened.append(Session.builder.config("connection_name", "embedded").create())
        return self.opened[-1]


def start_embedded(home: Path, *options: str) -> Embedded:
    """Start the server on a free port and wait until it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedded_snowflake", "--data-dir", str(home / "data"), "--port", "0", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SNOWFLAKE_HOME": str(home)},
    )
    assert process.stdout
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        readable, _, _ = select.select([process.stdout], [], [], 1)
        if readable:
            line = process.stdout.readline()
            if "listens on" in line:
                return Embedded(home, process)
            if not line:
                raise RuntimeError(f"the embedded server ended with {process.wait()}")
    process.kill()
    raise TimeoutError(f"the embedded server did not listen within {START_TIMEOUT_SECONDS} s")


def stop_embedded(server: Embedded) -> None:
    """Ask the server to stop as Ctrl-C does, and wait until it has."""
    for client in server.opened:
        client.close()
    server.process.terminate()
    server.process.wait(timeout=60)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Embedded]:
    """One embedded server for the whole test run, with HOL_DB.HOL_SCHEMA in it."""
    server = start_embedded(HOME)
    with server.connect() as connection:
        connection.cursor().execute("CREATE DATABASE IF NOT EXISTS HOL_DB")
        connection.cursor().execute("CREATE SCHEMA IF NOT EXISTS HOL_DB.HOL_SCHEMA")
    yield server
    stop_embedded(server)
    shutil.rmtree(HOME.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, str]]:
    """A Postgres server with an empty database, as the environment that the team's dagster.yaml reads."""
    from postgres import BINARIES, MISSING, postgres_server

    if BINARIES is None:
        pytest.skip(MISSING)
    with postgres_server() as environment:
        yield environment


@pytest.fixture(scope="session")
def payload_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose jobs behave as told, and that has nothing of this one but the job's side of Pipes."""
    root = tmp_path_factory.mktemp("payload")
    shutil.copy(ROOT / "tests/pipes_jobs/behave.py", root)
    (root / "customer_insights/jobs").mkdir(parents=True)
    for name in ("customer_insights/__init__.py", "customer_insights/jobs/__init__.py"):
        (root / name).touch()
    shutil.copy(ROOT / "customer_insights/jobs/pipes_stage_writer.py", root / "customer_insights/jobs")
    return root


@dataclass(frozen=True)
class Graph:
    """The whole graph on the embedded server, with a Dagster instance of its own and some sample reviews."""

    embedded: Embedded
    dagster_home: Path
    uploaded: int
    database: str = "HOL_DB"

    @property
    def instance(self):
        """The instance, as Dagster's own processes open it."""
        import dagster as dg

        return dg.DagsterInstance.from_config(str(self.dagster_home))

    def run(self, *assets: str, start: str | None = None, end: str | None = None, raise_on_error: bool = False):
        """Materialize assets (all when none is named) for a range of days of arrival, today when none is given."""
        import dagster as dg

        from definitions import definitions

        start = start or today()
        tags = {
            "dagster/asset_partition_range_start": start,
            "dagster/asset_partition_range_end": end or start,
        }
        with self.instance as instance:
            return (
                definitions()
                .resolve_job_def("everything")
                .execute_in_process(
                    instance=instance,
                    tags=tags,
                    asset_selection=[dg.AssetKey(name) for name in assets] or None,
                    raise_on_error=raise_on_error,
                )
            )

    def session(self):
        """A Snowpark session in the graph's schema."""
        session = self.embedded.session()
        session.use_schema(f"{self.database}.HOL_SCHEMA")
        return session

    def put(self, name: str, content: bytes) -> None:
        """Put one file on the review stage."""
        import io

        with io.BytesIO(content) as stream:
            self.session().file.put_stream(stream, f"@REVIEWS/{name}", auto_compress=False, overwrite=True)

    def value(self, sql: str):
        """The one value of a query."""
        return next(iter(self.session().sql(sql).collect()[0].as_dict().values()))


def today() -> str:
    """The day (UTC) on which a file that is put now arrives."""
    return datetime.now(UTC).date().isoformat()


def materializations(result) -> dict[str, dict[str, object]]:
    """Metadata of each asset that a run materialized."""
    return {
        event.asset_key.to_user_string(): {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
    }


SAMPLE_REVIEWS_OF_THE_GRAPH = 480


@pytest.fixture
def empty_graph(
    embedded: Embedded, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Graph]:
    """The graph in a database of the test's own, deployed and empty; the settings name it while the test runs."""
    from customer_insights import deployment
    from customer_insights.settings import settings

    database = f"DB_{hashlib.sha256(request.node.name.encode()).hexdigest()[:10].upper()}"
    monkeypatch.setenv("CUSTOMER_INSIGHTS_DATABASE", database)
    settings.cache_clear()
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", tmp_path)
    deployment.deploy(embedded.session(), settings())
    yield Graph(embedded, tmp_path, 0, database)
    settings.cache_clear()


@pytest.fixture(scope="session")
def graph(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Deployed objects and a few hundred written reviews on the stage; nothing is materialized yet."""
    from command_line.load import upload
    from customer_insights import deployment, sample_data, visits
    from customer_insights.settings import settings

    dagster_home = tmp_path_factory.mktemp("dagster")
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", dagster_home)
    files = tmp_path_factory.mktemp("files")
    # Of every language.
    frame = sample_data.load_written().sample(SAMPLE_REVIEWS_OF_THE_GRAPH, random_state=0)
    session = embedded.session()
    deployment.deploy(session, settings())
    upload(session, sample_data.write_files(frame, files))
    visits.load_visits(session, visits.read_visits(files / "tabular_data.csv"))
    return Graph(embedded, dagster_home, len(frame))


@pytest.fixture(scope="session")
def materialized_graph(graph: Graph):
    """The graph after its first run; gives the graph and the run's result."""
    result = graph.run(raise_on_error=True)
    return graph, result


@pytest.fixture(scope="module")
def browser():
    """One Chromium; its flags keep it from calling anybody but the pages that a test opens.

    Of one module: while Playwright runs, nothing else in this process can have an event loop, and Dagster wants one.
    """
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, "--disable-sync", "--no-first-run"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, request: pytest.FixtureRequest):
    """A page of desktop size; its last state is kept as a screenshot named after the test."""
    SCREENSHOTS.mkdir(exist_ok=True)
    opened = browser.new_page(viewport={"width": 1700, "height": 1100})
    opened.set_default_timeout(60_000)
    yield opened
    opened.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
    opened.close()
