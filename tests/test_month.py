"""`make week`: a simulated week of operation, or with ``--month-days 30`` the month of docs/simulated-month.md.

One play for all tests: ``python -m month`` in a process of its own, which lives by a simulated clock. Each test is one
of its comparisons; what is expected is known before, from the files that arrive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from month.clock import MISSING

pytestmark = [pytest.mark.month, pytest.mark.skipif(MISSING is not None, reason=MISSING or "")]

SECONDS_A_DAY = 200
COMPARED = (
    "reviews_by_day",
    "rows_of_every_table",
    "ledger",
    "rejected_lines",
    "reports",
    "nothing_left",
    "runs",
    "ticks",
    "jobs_by_day",
    "drift",
    "versions",
    "freshness",
    "alerts",
    "measured_alerts",
    "messages_are_whole",
    "costs_of_jobs",
    "costs_of_runs",
)


@pytest.fixture(scope="module")
def month(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Name of a comparison -> what came of it."""
    days = int(request.config.getoption("--month-days") or 6)
    folder = tmp_path_factory.mktemp("month")
    outcome = folder / "outcome.json"
    command = [
        sys.executable,
        "-m",
        "month",
        "--days",
        str(days),
        "--outcome",
        str(outcome),
        "--folder",
        str(folder / "m"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
        timeout=days * SECONDS_A_DAY,
        check=False,
    )
    assert outcome.exists(), f"{done.stdout}\n{_end(folder / 'm' / 'log')}"
    print(done.stdout)
    return {one["name"]: one for one in json.loads(outcome.read_text())}


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""


@pytest.mark.parametrize("name", COMPARED)
def test_after_days_in_which_everything_went_wrong_once_everything_is_as_it_should_be(month, name: str):
    assert month[name]["holds"], f"{month[name]['what']}\n{month[name]['difference']}"


def test_nothing_that_is_compared_is_left_out_here(month):
    assert set(month) == set(COMPARED)
