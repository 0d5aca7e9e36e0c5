"""What ``customer-insights doctor`` looks at on this machine: packages, model weights, Dagster's files, disk, alerts.

Nothing here asks Snowflake.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from command_line import local
from command_line.findings import Finding, failed, ok, warning
from customer_insights.settings import settings

GIB = 2**30
NEEDED_GIB, WANTED_GIB = 1, 5
INSTALL = ".venv/bin/python -m pip install -c constraints.txt -e ."
# What README asks of a Dagster instance: the place in dagster.yaml, and what it gives.
INSTANCE_SETTINGS = {
    ("concurrency", "pools", "default_limit"): "two people who materialize one asset wait for each other",
    ("concurrency", "runs", "tag_concurrency_limits"): "two runs of one day wait for each other",
    ("run_retries", "enabled"): "a run whose worker died is started again",
    ("run_monitoring", "enabled"): "a run whose worker died is noticed",
}


def packages() -> list[Finding]:
    """What is installed is what the project was tested with."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    asked = [Requirement(text) for text in requires("customer-insights") or []]
    wanted = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    pins = _pins()
    wrong, other = [], []
    for one in wanted:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(found, prereleases=True):
            wrong.append(f"{one.name} {found}, wanted {one.specifier}")
        # The build after the + is the machine's: torch comes with or without CUDA.
        elif Version(found).public != pins.get(_normal(one.name), Version(found).public):
            other.append(f"{one.name} {found}, tested with {pins[_normal(one.name)]}")
    findings = []
    if wrong:
        findings.append(failed("packages", "; ".join(wrong), INSTALL))
    if other:
        findings.append(warning("packages", "; ".join(other), INSTALL))
    return findings or [ok("packages", f"{len(wanted)} packages are those of constraints.txt")]


def _pins() -> dict[str, str]:
    lines = (local.ROOT / "constraints.txt").read_text().splitlines()
    found = [re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines]
    return {_normal(match[1]): match[2] for match in found if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def model_weights() -> list[Finding]:
    """The models of the settings can be loaded, or will be where the jobs run."""
    return [*_sentiment_weights(), *_quality_weights()]


def _sentiment_weights() -> list[Finding]:
    from customer_insights import sentiment_models

    name = settings().sentiment_model
    if name not in sentiment_models.ENCODER_PACKAGES:
        return _transformers_model("sentiment", name, settings().sentiment_revision)
    folder = sentiment_models.weights_folder(name)
    try:
        # Reading compares every array with its checksum.
        _, revision = sentiment_models.identity(name)
    except Exception as error:
        return [_broken("sentiment", folder, error)]
    return [ok("model weights", f"sentiment: {name}, revision {revision}")]


def _quality_weights() -> list[Finding]:
    from customer_insights import zero_shot

    name = settings().quality_model
    return _transformers_model(
        "quality", str(zero_shot.EMBEDDED) if name == "embedded" else name, settings().quality_revision
    )


def _transformers_model(what: str, name: str, revision: str | None) -> list[Finding]:
    from customer_insights import sequence_classifier

    folder = Path(name)
    if folder.is_absolute() or folder.is_dir():
        try:
            size = _read(folder)
        except Exception as error:
            return [_broken(what, folder, error)]
        return [ok("model weights", f"{what}: {folder.name}, {size / 2**20:.1f} MB, whole")]
    try:
        _, known = sequence_classifier.identity(name, revision)
    except ValueError as error:
        variable = f"CUSTOMER_INSIGHTS_{what.upper()}_REVISION"
        return [failed("model weights", f"{what}: {error}", f"export {variable}=<the commit on huggingface.co/{name}>")]
    return [_on_the_hub(what, name, known)]


def _on_the_hub(what: str, name: str, revision: str) -> Finding:
    """A model of the hub is here already, or the jobs' containers can fetch it."""
    from huggingface_hub import try_to_load_from_cache

    said = f"{what}: {name} at {revision[:12]}"
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return ok("model weights", f"{said}, in this machine's cache")
    if local.uses_embedded():
        return failed(
            "model weights",
            f"{said}, which is not on this machine",
            f"HF_HUB_OFFLINE=0 .venv/bin/hf download {name} --revision {revision}",
        )
    if settings().external_access_integrations:
        return ok("model weights", f"{said}, fetched by the jobs' containers")
    return failed(
        "model weights",
        f"{said}, which the jobs' containers cannot fetch",
        "export CUSTOMER_INSIGHTS_EXTERNAL_ACCESS_INTEGRATIONS=<an integration that reaches huggingface.co>",
    )


def _read(folder: Path) -> int:
    """Read every tensor and every JSON file of a folder of transformers; its bytes."""
    from safetensors import safe_open

    for name in ("config.json", "tokenizer.json"):
        json.loads((folder / name).read_text(encoding="utf-8"))
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {folder}")
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                tensors.get_tensor(key)
    return sum(file.stat().st_size for file in files)


def _broken(what: str, folder: Path, error: Exception) -> Finding:
    remedy = "name a folder with config.json, tokenizer.json and *.safetensors in the settings"
    if folder.is_relative_to(local.ROOT / "customer_insights"):
        remedy = f"git checkout -- {folder.relative_to(local.ROOT)}; or make models (an hour)"
    return failed("model weights", f"{what}: {folder} is missing or broken: {error}", remedy)


def dagster_instance() -> list[Finding]:
    """DAGSTER_HOME holds a dagster.yaml that has what README asks for, and the jobs' pool has a slot a node."""
    import yaml

    home = Path(os.environ.get("DAGSTER_HOME") or "")
    if not os.environ.get("DAGSTER_HOME") or not home.is_dir():
        said = f"DAGSTER_HOME is {str(home)!r}, which is no folder"
        return [failed("Dagster", said, f"export DAGSTER_HOME={local.ROOT / '.dagster'}")]
    file = home / "dagster.yaml"
    if not file.is_file():
        return [failed("Dagster", f"no dagster.yaml in {home}", f"cp .dagster/dagster.yaml {home}/")]
    configured: Any = yaml.safe_load(file.read_text()) or {}
    findings = [
        failed(
            "Dagster", f"{file} has no {'.'.join(place)}, so that {effect}", "take it over from .dagster/dagster.yaml"
        )
        for place, effect in INSTANCE_SETTINGS.items()
        if not _at(configured, place)
    ]
    return [*findings, *_slots()] or [ok("Dagster", f"{_place(file)}: queue, pools, retries and monitoring are set")]


def _place(path: Path) -> Path:
    """As a person in the checkout writes it."""
    return path.relative_to(local.ROOT) if path.is_relative_to(local.ROOT) else path


def _at(configured: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        configured = configured.get(key) if isinstance(configured, dict) else None
    return configured


def _slots() -> list[Finding]:
    import dagster as dg

    from resources.compute_pool import SLOTS

    wanted = max(1, settings().compute_pool_max_nodes // settings().target_instances)
    with dg.DagsterInstance.get() as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    if limits.get(SLOTS) == wanted:
        return []
    said = f"pool {SLOTS} has {limits.get(SLOTS, 'no')} slots, the compute pool has nodes for {wanted} jobs at once"
    return [warning("Dagster", said, f"dagster instance concurrency set {SLOTS} {wanted}")]


def disk() -> list[Finding]:
    """There is room for Dagster's history and the embedded server's data."""
    folders = {Path(os.environ.get(name) or "~").expanduser() for name in ("DAGSTER_HOME", "SNOWFLAKE_HOME")}
    findings = []
    for folder in sorted(folders):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free / GIB
        said = f"{free:.0f} GB free for {_place(folder)}"
        if free < NEEDED_GIB:
            findings.append(failed("disk", said, "make room: runs and tables would end half-way"))
        elif free < WANTED_GIB:
            findings.append(warning("disk", said))
        else:
            findings.append(ok("disk", said))
    return findings


def alerts(send: bool = False) -> list[Finding]:
    """Somebody is told when an asset is overdue or failed. ``send``: try it, by a message that says it is a test."""
    from resources import notifications

    names = [channel.name for channel in notifications.channels()]
    if not names:
        said = "no channel is set: nobody is told when something is overdue or failed"
        return [warning("alerts", said, "set up a webhook or e-mail: docs/alerts.md")]
    if not send:
        return [ok("alerts", f"to {', '.join(names)}; --send-alert tries it")]
    return [
        failed("alerts", f"{name}: {wrong}", "docs/alerts.md") if wrong else ok("alerts", f"{name}: a test was sent")
        for name, wrong in notifications.send_test().items()
    ]
