"""The example of docs/extending.md is put into a copy of the project and run there, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "extending.md"
_BLOCK = re.compile(r"^<!-- (?P<place>[^\n]+) -->\n```(?:python|diff)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACE = re.compile(r"(?P<how>new file:|edit:|in) (?P<file>\S+)( before: (?P<mark>.+))?")
# What the example's tests need: no documents, no benchmarks, no training.
COPIED = ("assets", "customer_insights", "resources", "schedules", "embedded_snowflake", "command_line", "tests")
LONGEST_SECONDS = 500


@dataclass(frozen=True)
class Step:
    """A block of the page: where it goes, and its text."""

    place: str
    code: str

    def follow(self, root: Path) -> str:
        """Do in ``root`` what the page says; returns the file."""
        place = _PLACE.fullmatch(self.place)
        assert place, self.place
        file = root / place["file"]
        if place["how"] == "new file:":
            assert not file.exists(), file
            file.write_text(self.code)
        elif place["how"] == "edit:":
            for hunk in self.code.split("@@\n"):
                lines = hunk.splitlines(keepends=True)
                replace_once(file, *("".join(line[1:] for line in lines if line[0] in (" ", side)) for side in "-+"))
        else:
            replace_once(file, place["mark"], f"{self.code}\n{place['mark']}")
        return place["file"]


def replace_once(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {text.count(old)} times, not once: {old}"
    file.write_text(text.replace(old, new))


def steps() -> list[Step]:
    return [Step(found["place"], found["code"]) for found in _BLOCK.finditer(PAGE.read_text())]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of the project in which the page was followed, and the files that it touched."""
    root = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        unneeded = shutil.ignore_patterns("__pycache__", "weights", "screenshots")
        shutil.copytree(ROOT / name, root / name, ignore=unneeded)
    for name in ("definitions.py", "pyproject.toml", ".dagster", "sample_data", "deploy", ".venv"):
        (root / name).symlink_to(ROOT / name) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, root)
    (root / "customer_insights" / "weights").symlink_to(ROOT / "customer_insights" / "weights")
    return root, [step.follow(root) for step in steps()]


def run(root: Path, *command: str) -> None:
    """A module's command in the copy; with all that it started it is gone when it takes too long."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, said[-3000:]


def test_the_page_shows_a_table_a_statement_a_declaration_and_a_test(extended):
    _, files = extended
    assert set(files) == {
        *("customer_insights/tables.py", "customer_insights/languages.py", "assets/languages.py"),
        *("assets/automation.py", "schedules/jobs.py", "definitions.py", "tests/test_languages.py"),
    }


def test_the_examples_own_test_passes(extended):
    root, _ = extended
    run(root, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_languages.py")


def test_the_example_is_written_as_the_project_is(extended):
    root, files = extended
    run(root, "ruff", "check", "--no-cache", *files)
    run(root, "ruff", "format", "--check", "--no-cache", *files)
