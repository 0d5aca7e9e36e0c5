"""``python -m rounds --rounds N --seed S``: play rounds and print what came of them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rounds.jobs import JOBS
from rounds.rounds import FAULTS, Result, opened, play, saved, totals

COLUMNS = (
    *("times injected", "attempts", "rounds", "rows lost", "rows doubled", "wrong values", "prefixes left"),
    *("versions doubled", "rounds failed"),
)
console = Console(width=170)


def table(results: list[Result]) -> Table:
    """Fault by fault, and all together."""
    shown = Table("fault", *COLUMNS)
    rows = totals(results)
    for fault in sorted(rows):
        shown.add_row(fault, *(str(rows[fault][column]) for column in COLUMNS))
    shown.add_section()
    shown.add_row("all", *(str(sum(row[column] for row in rows.values())) for column in COLUMNS))
    return shown


def main(
    rounds: Annotated[int, typer.Option(help="how many")] = 200,
    seed: Annotated[int, typer.Option(help="of the first round; the next has the next number")] = 1,
    data_seed: Annotated[int, typer.Option(help="of the reviews and visits")] = 1,
    job: Annotated[list[str] | None, typer.Option(help=f"only this one of {', '.join(JOBS)}")] = None,
    fault: Annotated[list[str] | None, typer.Option(help=f"only this one of {', '.join(FAULTS)}")] = None,
    folder: Annotated[Path | None, typer.Option(help="for data and logs; by default temporary")] = None,
) -> None:
    """Kill and retry the writing jobs, and count their rows."""
    # So that a run that is told to end takes its processes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # The registry warns at every load that a model's environment is to be that of its training.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="snowflake.ml")
    at = folder or Path(tempfile.mkdtemp(prefix="rounds-"))
    results: list[Result] = []
    with opened(at / "arena", data_seed) as arena:
        for name, usual in arena.usual.items():
            sends = f"{usual.statements} statements, {usual.writes} of them write"
            console.print(f"undisturbed {name}: {usual.seconds:.1f} s, {sends}")
        for number in range(seed, seed + rounds):
            result = play(arena, number, tuple(job or ()), tuple(fault or ()))
            results.append(result)
            (at / "results.json").write_text(json.dumps([asdict(each) for each in results], default=str))
            how = "well" if result.well else "FAILED"
            console.print(
                f"{len(results):4d} seed {number} {result.job}, {result.fault} ({result.injected} times): {how}, "
                f"{result.attempts} attempts, {result.seconds:.1f} s",
                highlight=False,
            )
            if not result.well:
                console.print(*result.story, *result.found.notes, sep="\n     ", markup=False, highlight=False)
                again = f"make rounds ROUNDS=1 SEED={number}"
                console.print(f"     the statements are in {saved(result, at)}; again: {again}", markup=False)
    failed = sum(not result.well for result in results)
    console.print(f"seeds {seed} to {seed + rounds - 1}, reviews and visits of seed {data_seed}")
    console.print(table(results))
    if folder is None and not failed:
        shutil.rmtree(at, ignore_errors=True)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    command = typer.Typer(pretty_exceptions_enable=False)
    command.command()(main)
    command()
