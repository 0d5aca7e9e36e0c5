"""The commands. Each says what to do next; an error that a person can mend is one sentence and exit code 1."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from command_line import local
from customer_insights import display

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_show_locals=False, add_completion=True)
console = Console()
COLUMNS_OF_WORDS = ("", "checks", "product", "review")


@app.command()
def demo(
    reviews: Annotated[int, typer.Option(help="real reviews to load beside the written ones, at least")] = 2100,
) -> None:
    """Run the whole graph on the sample data and show what came out."""
    from command_line.demo import run_demo

    run_demo(console, reviews)


@app.command()
def ui(port: Annotated[int, typer.Option(help="port of Dagster's page on 127.0.0.1")] = 3000) -> None:
    """Open Dagster: every asset can be materialized by a click."""
    import dagster as dg

    from resources.compute_pool import set_slots

    _ready()
    with dg.DagsterInstance.get() as instance:
        set_slots(instance)
        for run_id in local.end_dead_runs(instance):
            console.print(f"run {run_id[:8]} had lost its process and is marked as failed")
    console.print(f"Dagster opens at [bold]http://127.0.0.1:{port}[/]; Ctrl-C ends it")
    arguments = ["dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    os.chdir(local.ROOT)
    os.execv(str(Path(sys.executable).parent / "dagster"), arguments)  # noqa: S606 - Dagster, by its path


@app.command()
def load(
    paths: Annotated[
        list[Path], typer.Argument(help="review files, tables of visits (CSV, Parquet), or folders of both")
    ],
) -> None:
    """Put your own reviews on the stage and your table of visits into TABULAR_DATA."""
    from command_line.load import load_paths

    _ready()
    load_paths(console, paths)


@app.command()
def report(
    date: Annotated[str | None, typer.Option(help="day of the report (YYYY-MM-DD); by default the newest")] = None,
    output: Annotated[
        Path | None, typer.Option(help="file or folder to write to; by default this folder, under the report's name")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
) -> None:
    """Fetch the daily report, one page of HTML for a manager."""
    from command_line.report import fetch_report

    _ready()
    target = fetch_report(console, date, output)
    if open_it:
        typer.launch(target.resolve().as_uri())


@app.command()
def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the statements and run nothing")] = False,
) -> None:
    """Create the Snowflake objects that the project needs; what exists is left as it is."""
    from customer_insights import deployment
    from customer_insights.settings import settings

    if dry_run:
        console.print(
            ";\n\n".join(deployment.statements(settings())) + ";", markup=False, highlight=False, soft_wrap=True
        )
        return
    _ready()
    console.print(f"{settings().qualified_schema} is ready on connection {_connection().name!r}")


@app.command()
def stop() -> None:
    """Stop the embedded Snowflake."""
    console.print("the embedded Snowflake has stopped" if local.stop() else "no embedded Snowflake runs")


def _connection():
    from customer_insights.settings import settings
    from resources.snowflake import SnowflakeConnection

    return SnowflakeConnection(connection_name=settings().connection)


def _ready() -> None:
    """The embedded server runs where the connection is its own, and the objects exist."""
    from customer_insights import deployment
    from customer_insights.settings import settings

    if local.uses_embedded():
        local.start()
    with _connection().session() as session:
        deployment.deploy(session, settings())


def summary(title: str, columns: list[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table for the terminal."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        # In a narrow terminal the columns of words become narrower, so that no number is cut.
        table.add_column(name, overflow="fold", no_wrap=name not in COLUMNS_OF_WORDS)
    for row in rows:
        table.add_row(*("" if value is None else plain(value) for value in row))
    return table


def plain(value: object) -> Text:
    """A value for the terminal as it is, whoever wrote it: brackets are no markup, escape sequences do nothing."""
    return Text(display.literal(str(value)))


def main() -> None:
    """Entry point of ``customer-insights``."""
    # Logs, Dagster's events with samples of reviews, files of the sample: nobody else on this machine is to read them.
    os.umask(0o077)
    local.set_defaults()
    from customer_insights.errors import CustomerInsightsError

    try:
        app()
    except (CustomerInsightsError, RuntimeError) as error:
        console.print(Text(type(error).__name__, "red") + plain(f": {error}"))
        sys.exit(1)


if __name__ == "__main__":
    main()
