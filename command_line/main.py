"""The commands. Each says what to do next; an error that a person can mend is a sentence, not a traceback.

Exit codes: 0 done; 1 something must be mended, or is overdue or failed; 2 the command was typed wrongly; 3 Snowflake
did not answer, another attempt may succeed; 4 a defect of this program; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from command_line import local
from command_line.terminal import console, errors, plain, print_json, summary

__all__ = ["app", "console", "main", "plain", "summary"]

FAILED, USAGE, TRY_AGAIN, DEFECT = 1, 2, 3, 4
DEBUG = "CUSTOMER_INSIGHTS_DEBUG"

app = typer.Typer(
    no_args_is_help=True,
    help=__doc__,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="print JSON for a script instead of words")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", envvar=DEBUG, help="show the traceback of an error")] = False,
) -> None:
    """Multilingual reviews in, purchase predictions out."""
    if debug:
        os.environ[DEBUG] = "true"


@app.command(rich_help_panel="Start")
def demo(
    reviews: Annotated[int, typer.Option(help="real reviews to load beside the written ones, at least")] = 2100,
) -> None:
    """Run the whole graph on the sample data and show what came out."""
    from command_line.demo import run_demo

    run_demo(console, reviews)


@app.command(rich_help_panel="Start")
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


@app.command(rich_help_panel="Start")
def dashboard(port: Annotated[int, typer.Option(help="port of the page on 127.0.0.1")] = 8501) -> None:
    """Open the dashboard: what customers say, who buys, whom to contact and why."""
    from command_line.dashboard import serve

    _ready()
    serve(port)


@app.command(rich_help_panel="Start")
def stop() -> None:
    """Stop the embedded Snowflake."""
    console.print(
        "the embedded Snowflake has stopped; Dagster and the dashboard end with Ctrl-C where they run"
        if local.stop()
        else "no embedded Snowflake runs"
    )


@app.command(rich_help_panel="Every day")
def status(
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="show it again every few seconds, until Ctrl-C")] = False,
    every: Annotated[float, typer.Option(help="seconds between two looks with --watch", min=1)] = 10,
) -> None:
    """Show assets, freshness, runs, the model in service and costs in one screen; exit code 1 when something is overdue
    or failed."""
    from command_line.status import show_status, watch_status

    if watch and not as_json:
        watch_status(console, every)
        return
    raise typer.Exit(0 if show_status(console, as_json) else FAILED)


@app.command(rich_help_panel="Every day")
def load(
    paths: Annotated[
        list[Path], typer.Argument(help="review files, tables of visits (CSV, Parquet), or folders of both")
    ],
    as_json: Json = False,
) -> None:
    """Put your own reviews on the stage and your table of visits into TABULAR_DATA."""
    from command_line.load import load_paths

    _ready()
    loaded = load_paths(errors if as_json else console, paths)
    if as_json:
        print_json(asdict(loaded))


@app.command(rich_help_panel="Every day")
def report(
    date: Annotated[str | None, typer.Option(help="day of the report (YYYY-MM-DD); by default the newest")] = None,
    output: Annotated[
        Path | None, typer.Option(help="file or folder to write to; by default this folder, under the report's name")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    as_json: Json = False,
) -> None:
    """Fetch the daily report, one page of HTML for a manager."""
    from command_line.report import fetch_report

    _ready()
    target = fetch_report(errors if as_json else console, date, output)
    if as_json:
        print_json({"file": str(target.resolve())})
    # Not typer.launch, which prints the complaints of every browser that is not there.
    if open_it and not webbrowser.open(target.resolve().as_uri()):
        errors.print(plain(f"no browser was found here: open {target.resolve()} yourself"), soft_wrap=True)


@app.command(rich_help_panel="Set up")
def doctor(
    as_json: Json = False,
    cortex: Annotated[
        bool, typer.Option(help="ask AI_SENTIMENT about one short text, which costs a fraction of a cent")
    ] = True,
    send_alert: Annotated[
        bool, typer.Option("--send-alert", help="send a test message to every channel of alerts")
    ] = False,
    seconds: Annotated[float, typer.Option(help="after which a probe that has no answer is given up", min=1)] = 30,
) -> None:
    """Look whether everything that the project needs is there, and say what to run where it is not; exit code 1 when
    something must be mended."""
    from command_line.doctor import examine

    raise typer.Exit(
        0 if examine(console, as_json=as_json, cortex=cortex, send_alert=send_alert, seconds=seconds) else FAILED
    )


@app.command(rich_help_panel="Set up")
def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the statements and run nothing")] = False,
    role_script: Annotated[
        bool, typer.Option("--role-script", help="print what an account's administrator runs once, and run nothing")
    ] = False,
    addresses: Annotated[
        list[str] | None,
        typer.Option("--address", help="with --role-script: a network (CIDR) that the service user logs in from"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create the Snowflake objects that the project needs; what exists is left as it is."""
    from command_line import deploy as deploying

    if dry_run and role_script:
        raise typer.BadParameter("--dry-run and --role-script each print another script: choose one")
    if addresses and not role_script:
        raise typer.BadParameter("--address belongs to --role-script")
    if dry_run:
        sys.stdout.write(deploying.script())
        return
    if role_script:
        sys.stdout.write(deploying.role_script(addresses or []))
        return
    if local.uses_embedded():
        local.start()
    deploying.run_deploy(console, as_json)


def _ready() -> None:
    """The embedded server runs where the connection is its own, and the objects exist."""
    from command_line.deploy import deploy_objects

    if local.uses_embedded():
        local.start()
    deploy_objects()


def main() -> None:
    """Entry point of ``customer-insights``."""
    # Logs, Dagster's events with samples of reviews, files of the sample: nobody else on this machine is to read them.
    os.umask(0o077)
    local.set_defaults()
    try:
        app()
    except Exception as error:
        if os.environ.get(DEBUG, "").lower() in ("1", "true", "yes", "on"):
            errors.print_exception()
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Print what a person can do about the error; the exit code."""
    from customer_insights.errors import RetryableError

    name, said, code = type(error).__name__, str(error), FAILED
    if isinstance(error, RetryableError):
        code = TRY_AGAIN
    elif mistakes := _mistakes_in_settings(error):
        name, said = "Settings", mistakes
    elif _of_snowflake(error):
        said = f"{said}\n`customer-insights doctor` says what is missing"
    elif not _is_expected(error):
        code, said = DEFECT, f"{said}\nThis is a defect of the program: report it with what `--debug` shows"
    errors.print(Text(name, "red") + plain(f": {said}"))
    return code


def _is_expected(error: Exception) -> bool:
    from customer_insights.errors import CustomerInsightsError

    # A file that cannot be read, a full disk, a server that does not start: said in a sentence by who raises it.
    return isinstance(error, (CustomerInsightsError, OSError)) or type(error) is RuntimeError


def _of_snowflake(error: Exception) -> bool:
    # Who raised it has imported the module; importing it for the question would take a second.
    modules = (sys.modules.get("snowflake.connector.errors"), sys.modules.get("snowflake.snowpark.exceptions"))
    kinds = tuple(
        kind
        for module, kind_name in zip(modules, ("Error", "SnowparkClientException"), strict=True)
        if module and (kind := getattr(module, kind_name))
    )
    return isinstance(error, kinds)


def _mistakes_in_settings(error: Exception) -> str:
    """Which variable of the environment or of .env is wrong, and how; empty for another error."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title not in ("Settings", "AlertSettings"):
        return ""
    if error.title == "AlertSettings":
        # Some of these are secrets: what was found is not printed.
        return "; ".join(problem["msg"] for problem in error.errors(include_input=False))
    return "\n".join(
        f"CUSTOMER_INSIGHTS_{'_'.join(map(str, problem['loc'])).upper()} is {problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    )


if __name__ == "__main__":
    main()
