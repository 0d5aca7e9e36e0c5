"""A payload's requirements, checked against the packages that are installed here. Nothing is ever installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement


def unmet(directory: Path) -> list[str]:
    """What the payload asks for and this environment does not have, each a sentence; empty when all is there."""
    if (directory / "app" / "environment.yml").exists():
        return ["app/environment.yml: conda environments are not supported by ML Jobs"]
    problems: list[str] = []
    for part in ("system", "app"):
        problems += _unmet_file(directory / part / "requirements.txt")
    return problems


def _unmet_file(file: Path) -> list[str]:
    if not file.exists():
        return []
    problems: list[str] = []
    for line in file.read_text().splitlines():
        spelled = line.split(" #")[0].strip()
        if not spelled or spelled.startswith("#"):
            continue
        option, _, value = spelled.partition(" ")
        if option in ("-r", "--requirement"):
            problems += _unmet_file(file.parent / value.strip())
        elif option.startswith("-"):
            # Where pip would look for packages is of no interest: they are installed or they are not.
            continue
        else:
            problems += _unmet_line(spelled)
    return problems


def _unmet_line(spelled: str) -> list[str]:
    try:
        requirement = Requirement(spelled)
    except InvalidRequirement as error:
        return [f"{spelled}: not understood ({error})"]
    if requirement.url:
        return [f"{spelled}: requirements by URL cannot be checked against what is installed"]
    return _unmet(requirement, set())


def _unmet(requirement: Requirement, seen: set[str]) -> list[str]:
    if str(requirement) in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        return []
    seen.add(str(requirement))
    try:
        installed = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return [f"{requirement}: {requirement.name} is not installed"]
    if not requirement.specifier.contains(installed.version, prereleases=True):
        return [f"{requirement}: {requirement.name} {installed.version} is installed"]
    problems: list[str] = []
    for extra in sorted(requirement.extras):
        for spelled in installed.requires or []:
            needed = Requirement(spelled)
            if needed.marker and needed.marker.evaluate({"extra": extra}) and not needed.marker.evaluate({"extra": ""}):
                needed.marker = None
                problems += _unmet(needed, seen)
    return problems
