"""What the project loads that could be code: no pickle but the registry's models, and every package pinned."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("command_line", "customer_insights", "assets", "resources", "schedules", "embedded_snowflake", "training")
UNPICKLING_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops"}
# (object, function): what runs code out of a file.
UNPICKLING_CALLS = {
    *(("torch", "load"), ("torch", "jit"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")),
    *(("pd", "read_pickle"), ("pandas", "read_pickle"), ("builtins", "eval"), ("builtins", "exec")),
}


def dangers(source: str) -> Iterator[str]:
    """What in a module's source may run code that it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in UNPICKLING_MODULES)
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        called = ast.unparse(node.func)
        owner, _, function = called.rpartition(".")
        if (owner or "builtins", function) in UNPICKLING_CALLS:
            yield called
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield f"{called} without allow_pickle=False"
        if keywords.get("trust_remote_code", "False") != "False" or keywords.get("weights_only", "True") != "True":
            yield f"{called} with remote code"
        if keywords.get("shell", "False") != "False":
            yield f"{called} in a shell"


def test_nothing_is_unpickled_but_models_of_the_registry():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 80
    found = {str(file.relative_to(ROOT)): list(dangers(file.read_text())) for file in [*files, ROOT / "definitions.py"]}
    assert {file: what for file, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import cloudpickle as c",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "torch.load(p)",
        "yaml.load(t)",
        "M.from_pretrained(n, trust_remote_code=True)",
        "subprocess.run(c, shell=True)",
        "eval(t)",
    ],
)
def test_whatever_would_run_code_is_found(source: str):
    assert list(dangers(source))


def test_every_package_is_pinned_to_one_version_and_the_audit_asks_for_all_of_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    pins = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["pins"]()
    lines = [line for line in Path("constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if "==" not in line]
    assert {line.partition(";")[0].replace(" ", "") for line in lines} <= set(pins)
    assert len({pin.partition("==")[0].lower() for pin in pins}) == len(pins)
