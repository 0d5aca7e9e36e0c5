"""``python -m month --days 30``: play a month (or with 6 a short week), compare, and say what came of it.

The program starts itself anew with the simulated clock preloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from month.clock import MISSING, environment
from month.plan import FULL_DAYS

ROOT = Path(__file__).resolve().parent.parent.parent
INSIDE = "CUSTOMER_INSIGHTS_MONTH"
# Marks a folder that is removed when all is well.
TEMPORARY = "temporary"


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a month in ``folder``: what a deployment would set, and the clock."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUSTOMER_INSIGHTS_")}
    return {
        **kept,
        **environment(folder),
        "SNOWFLAKE_HOME": str(folder / ".snowflake"),
        "SNOWFLAKE_DEFAULT_CONNECTION_NAME": "embedded",
        "DAGSTER_HOME": str(folder / "dagster"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "CUSTOMER_INSIGHTS_TIMEZONE": "Europe/Berlin",
        "CUSTOMER_INSIGHTS_RETRY_SECONDS": "0.2",
        # So that it is due between the predictions and the look after them.
        "CUSTOMER_INSIGHTS_COSTS_HOURS": "1",
        INSIDE: str(folder),
    }


def main(
    days: Annotated[int, typer.Option(help="30, or 6: a short week in which the same goes wrong")] = FULL_DAYS,
    seed: Annotated[int, typer.Option(help="of the reviews, visits and times")] = 1,
    page: Annotated[
        Path | None, typer.Option(help="write what happened as Markdown, when all is as it should be")
    ] = None,
    outcome: Annotated[Path | None, typer.Option(help="write what was expected and found as JSON")] = None,
    folder: Annotated[Path | None, typer.Option(help="for data and logs; by default temporary")] = None,
    sabotage: Annotated[str | None, typer.Option(help="break something on purpose, to see the month fail")] = None,
) -> None:
    """Play a month and compare what came of it with what should have."""
    if os.environ.get(INSIDE):
        at = Path(os.environ[INSIDE])
        # What steps and jobs print goes to the log as well.
        told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        # So that a month that is told to end takes its server with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        code = inside(at, partial(print, file=told, flush=True), days, seed, page, outcome, sabotage)
        if code:
            print(f"logs and data are in {at}", file=told)
        elif (at / TEMPORARY).exists():
            shutil.rmtree(at, ignore_errors=True)
        raise typer.Exit(code)
    if MISSING:
        typer.echo(MISSING, err=True)
        raise typer.Exit(2)
    at = folder or Path(tempfile.mkdtemp(prefix="month-"))
    (at / ".snowflake").mkdir(parents=True)
    if folder is None:
        (at / TEMPORARY).touch()
    # What Dagster logs of every step is not what one wants to read here.
    with (at / "log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    os.execve(sys.executable, [sys.executable, "-m", "month", *sys.argv[1:]], surroundings(at))  # noqa: S606


Say = Callable[[str], None]


def inside(
    folder: Path, say: Say, days: int, seed: int, page: Path | None, outcome: Path | None, sabotage: str | None
) -> int:
    """The same in the simulated time: 0 when everything is as it should be."""
    from month.audit import compare
    from month.page import written
    from month.plan import make
    from month.play import Sabotage, played

    if sabotage and sabotage not in get_args(Sabotage):
        say(f"to be broken: {', '.join(get_args(Sabotage))}; found {sabotage!r}")
        return 2
    if sabotage == "no retry":
        os.environ["CUSTOMER_INSIGHTS_DAY_ATTEMPTS"] = "1"
    warnings.filterwarnings("ignore")
    made = make(days, seed)
    with played(made, folder, say, cast("Sabotage | None", sabotage)) as record:
        compared = compare(record)
        wrong = [one for one in compared if not one.holds]
        # What did not come out is no page of the docs.
        (folder / "page.md" if wrong or not page else page).write_text(written(record, compared))
    if outcome:
        outcome.write_text(json.dumps([one.as_document() for one in compared], indent=1, default=str))
    for one in compared:
        say(f"{'ok    ' if one.holds else 'WRONG '} {one.what}")
    for one in wrong:
        say(f"\n{one.what}\n{one.difference()}")
    say(f"{days} days in {record.seconds:.0f} s, {len(compared) - len(wrong)} of {len(compared)} comparisons hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    application = typer.Typer(pretty_exceptions_enable=False)
    application.command()(main)
    application()
