"""Asks pip-audit for known vulnerabilities in the pinned packages, and says so where nobody answers.

pip-audit alone would not do: a package that PyPI's JSON interface does not know is "skipped", and when all are, because
a mirror has no such interface, it ends with "No known vulnerabilities found" and exit code 0. Run by `make audit`.

Exit code 0: every package was looked up and none is known to be vulnerable; 1: some are; 2: not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PINNED = (Path("constraints.txt"), Path("requirements/hashed.txt"))


def pins() -> list[str]:
    """Every ``name==version`` of the project's pinned files, once."""
    lines = [line.partition("#")[0] for file in PINNED for line in file.read_text().splitlines()]
    found = [line.partition(";")[0].strip(" \\") for line in lines]
    return sorted({line.replace(" ", "") for line in found if "==" in line and not line.startswith("-")})


def audited(packages: list[str]) -> list[dict]:
    """pip-audit's findings for the packages. Raises RuntimeError with its words where it has none."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder, "pins.txt"), Path(folder, "found.json")
        wanted.write_text("\n".join(packages))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(wanted), "--output", str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip-audit itself
        if not found.exists() or not found.read_text():
            raise RuntimeError(done.stderr.strip()[-1000:] or f"pip-audit ended with {done.returncode}")
        return json.loads(found.read_text())["dependencies"]


def main() -> int:
    packages = pins()
    try:
        # One first: where it is not known, none will be.
        found = audited(packages[:1])
        if not any("skip_reason" in package for package in found):
            found = audited(packages)
    except RuntimeError as error:
        print(f"NOT AUDITED: the vulnerability data could not be reached:\n{error}")
        return 2
    vulnerable = [package for package in found if package.get("vulns")]
    skipped = [package for package in found if "skip_reason" in package]
    for package in vulnerable:
        for vulnerability in package["vulns"]:
            mended = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {mended}")
    for package in skipped:
        print(f"{package['name']}: {package['skip_reason']}")
    looked_up = len(found) - len(skipped)
    print(f"{looked_up} of {len(packages)} packages looked up, {len(vulnerable)} known to be vulnerable")
    if vulnerable:
        return 1
    if looked_up < len(packages):
        print("NOT AUDITED in full. Try again where https://pypi.org/pypi/<package>/<version>/json is reachable.")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
