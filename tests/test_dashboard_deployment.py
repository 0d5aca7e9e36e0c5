"""deploy/snowflake/dashboard.sql: it uploads what the dashboard imports, and gives nobody more than is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = (ROOT / "deploy/snowflake/dashboard.sql").read_text()
# Python that has only the packages of deploy/snowflake/environment.yml, as far as this project would miss another.
IN_SNOWFLAKE = """
import importlib.abc, json, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"dagster", "dagster_pipes", "pydantic", "pydantic_settings", "ray", "matplotlib"}:
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
from dashboard import app
app.views()
from customer_insights.plots import wilson
wilson(1, 2)
ours = {name.replace(".", "/") for name in sys.modules if name.split(".")[0] in ("dashboard", "customer_insights")}
print(json.dumps(sorted(ours)))
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_SNOWFLAKE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = set()
    for module in json.loads(done.stdout.splitlines()[-1]):
        files.add(f"{module}/__init__.py" if (ROOT / module).is_dir() else f"{module}.py")
    return files


def uploaded() -> set[str]:
    """Files on the stage, by their folders."""
    found = set()
    for pattern, folder in re.findall(r"PUT file://(\S+) @DASHBOARD_STAGE/?(\S*) AUTO_COMPRESS = FALSE", SCRIPT):
        files = [path for path in ROOT.glob(pattern) if path.is_file()]
        assert files, pattern
        found |= {f"{folder}/{path.name}" for path in files}
    return found


def test_what_the_dashboard_imports_is_uploaded_where_python_finds_it(imported: set[str]):
    there = uploaded()
    assert imported <= there
    assert {"dashboard/style.css", "dashboard/icon.png", "/streamlit_app.py", "/environment.yml"} <= there


def test_only_the_dashboard_s_own_role_owns_it_and_readers_may_open_it():
    grants = re.findall(r"^GRANT (.+?)(?: ON .+?)? TO ROLE (\w+);", SCRIPT, re.M)
    assert grants == [
        ("ROLE HOL_READER", "HOL_DASHBOARD"),
        ("ROLE HOL_DASHBOARD", "SYSADMIN"),
        ("CREATE STREAMLIT, CREATE STAGE", "HOL_DASHBOARD"),
        ("USAGE", "HOL_READER"),
    ]
    assert "ACCOUNTADMIN" not in SCRIPT
