"""The pages say what is: their links lead somewhere, their commands and settings exist, their graph is Dagster's."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from conftest import ROOT

import definitions
from command_line.main import app
from customer_insights import deployment
from customer_insights.settings import Settings, settings
from resources.notifications import AlertSettings

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```(?:bash|console|sh)\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_ROW = re.compile(r"^\| (?P<assets>`[^|]+) \| `(?P<check>\w+)` \|", re.MULTILINE)


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The words after each call of ``program`` in a page's code."""
    for block, inline in _CODE.findall(page.read_text()):
        for line in (block or inline).splitlines():
            for words in re.findall(rf"(?:^|[\s/;&(]){re.escape(program)}((?: [^\s#|;&)]+)*)", line):
                yield words.split()


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one of its level."""
    return page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def diagrams(page: Path, heading: str) -> list[str]:
    return re.findall(r"```mermaid\n(.*?)```", section(page, heading), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_is_there(page: Path):
    broken = []
    for target in _LINK.findall(_FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", found.read_text()), re.MULTILINE) if anchor else []
        if not found.exists() or (anchor and anchor not in {slug(heading) for heading in headings}):
            broken.append(target)
    assert broken == []


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[0] for page in PAGES for words in commands(page, "make") if words}
    named -= {word for word in named if "=" in word}
    assert len(named) > 5
    assert named - targets == set()


def test_every_command_and_option_of_customer_insights_that_is_named_exists():
    declared = typer.main.get_group(app).commands
    known = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in declared.items()
    }
    wrong, calls = [], 0
    for page in PAGES:
        for words in commands(page, "customer-insights"):
            calls += 1
            name = next((word for word in words if not word.startswith("-")), "")
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            everywhere = {"--help", "--debug", "--install-completion", "--show-completion"}
            if (name not in ("", "COMMAND", *known)) or options - known.get(name, set()) - everywhere:
                wrong.append(f"{page.name}: customer-insights {' '.join(words)}")
    assert calls > 5
    assert wrong == []


def test_every_module_that_is_run_exists():
    for page in PAGES:
        for words in commands(page, "python -m"):
            path = ROOT / words[0].replace(".", "/")
            of_this_project = (ROOT / path.relative_to(ROOT).parts[0]).is_dir()
            assert not of_this_project or path.with_suffix(".py").exists() or path.is_dir(), f"{page.name}: {words[0]}"


def test_every_setting_that_is_named_exists():
    fields = [*Settings.model_fields, *AlertSettings.model_fields, "debug"]
    known = {f"CUSTOMER_INSIGHTS_{name.upper()}" for name in fields}
    sql = deployment.roles_script(settings())
    named = {name for page in PAGES for name in re.findall(r"\bCUSTOMER_INSIGHTS_\w+", page.read_text())}
    assert named & known
    assert {name for name in named - known if name not in sql} == set()


def test_the_reference_of_settings_is_current():
    write_settings = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))
    assert (ROOT / "docs" / "settings.md").read_text() == write_settings["page"](), "run: python docs/write_settings.py"
    listed = [name for names in write_settings["sections"]().values() for name in names]
    assert sorted(listed) == sorted(Settings.model_fields)


def test_the_graph_of_the_architecture_is_the_one_of_dagster():
    (drawn,) = diagrams(ROOT / "docs" / "architecture.md", "The graph")
    arrows = set(re.findall(r"^ +(\w+) --> (\w+)$", drawn, re.MULTILINE))
    boxes = re.findall(r"subgraph \w+ \[(\w+)\]\n(.*?)\n  end", drawn, re.DOTALL)
    groups = {name: group for group, body in boxes for name in re.findall(r"^ +(\w+)", body, re.MULTILINE)}
    graph = definitions.defs.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    assert groups == {name: node.group_name for name, node in nodes.items()}
    assert arrows == {(parent.to_user_string(), name) for name, node in nodes.items() for parent in node.parent_keys}


def test_the_layers_of_the_architecture_are_those_that_are_held():
    (drawn,) = diagrams(ROOT / "docs" / "architecture.md", "Layers of the code")
    arrows = re.findall(r"^ +(\w+)(?:\[[^]]*\])? --> (\w+)", drawn, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    layers = ["definitions", *contract["layers"]]
    assert {name for arrow in arrows for name in arrow} == set(layers)
    assert all(layers.index(upper) < layers.index(lower) for upper, lower in arrows)


def test_every_check_is_explained():
    explained = [
        (asset, row["check"])
        for row in _ROW.finditer(section(ROOT / "docs" / "operating.md", "Checks"))
        for asset in re.findall(r"`(\w+)`", row["assets"])
    ]
    keys = definitions.defs.resolve_asset_graph().asset_check_keys
    assert len(explained) == len(set(explained))
    assert set(explained) == {(key.asset_key.to_user_string(), key.name) for key in keys}


def test_every_schedule_sensor_and_job_is_explained():
    page = section(ROOT / "docs" / "operating.md", "What runs when")
    automatic = [*(definitions.defs.schedules or []), *(definitions.defs.sensors or [])]
    unexplained = {item.name for item in automatic if f"`{item.name}`" not in page}
    unexplained |= {job.name for job in definitions.defs.jobs or [] if f"`{job.name}`" not in page}
    assert unexplained == set()
