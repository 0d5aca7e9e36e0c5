"""Exactly once: the writing jobs are killed at random moments and tried again, and every row is there once.

``make rounds`` plays hundreds of rounds; here are a few with fixed seeds. They run in a process of their own, because
Snowflake's clients read the home of their connections once, and rounds have a server of their own, which they may kill.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

# With these seeds every job is disturbed, each in its own way: the same run twice at once (sentiment), a killed worker
# (quality), a driver killed at a statement (training), two runs at once (ingest).
SEED, ROUNDS = 5948, 4
TIMEOUT_SECONDS = 500


@dataclass(frozen=True)
class Played:
    """What the rounds printed, and what came of each."""

    output: str
    results: list[dict[str, Any]]


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """The rounds of the seeds, in a short folder: Ray's sockets lie in it, whose paths have at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="rounds-", dir="/tmp"))
    process = subprocess.Popen(
        [sys.executable, "-m", "rounds", "--rounds", str(ROUNDS), "--seed", str(SEED), "--folder", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        # It takes its own processes with it.
        process.terminate()
        process.wait(60)
    file = folder / "results.json"
    assert file.exists(), output
    yield Played(output, json.loads(file.read_text()))
    shutil.rmtree(folder, ignore_errors=True)


def test_jobs_that_are_killed_and_tried_again_lose_and_double_no_row(played: Played):
    assert len(played.results) == ROUNDS
    counts = ("lost", "doubled", "wrong", "versions_doubled")
    assert all(result["found"][count] == 0 for result in played.results for count in counts), played.output


def test_jobs_that_were_killed_leave_no_file_lock_transaction_or_temporary_table(played: Played):
    assert [note for result in played.results for note in result["found"]["notes"]] == [], played.output
    assert all(result["found"]["prefixes"] == 0 for result in played.results), played.output


def test_the_rounds_disturb_every_job(played: Played):
    assert len({result["job"] for result in played.results}) == 4
    # A worker may have done its work before it is killed; the others find their moment.
    assert sum(result["injected"] > 0 for result in played.results) >= ROUNDS - 1, played.output
