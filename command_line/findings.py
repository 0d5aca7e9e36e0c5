"""What a probe of ``customer-insights doctor`` found. Which probes there are is in ``snowflake_probes`` and
``machine_probes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and what to run where it is not well."""

    probe: str
    level: Level
    found: str
    remedy: str = ""


def ok(probe: str, found: str) -> Finding:
    return Finding(probe, "ok", found)


def warning(probe: str, found: str, remedy: str = "") -> Finding:
    """It works, or may work; somebody should know."""
    return Finding(probe, "warning", found, remedy)


def failed(probe: str, found: str, remedy: str) -> Finding:
    """It must be mended before the project works."""
    return Finding(probe, "failed", found, remedy)


def skipped(probe: str, why: str) -> Finding:
    return Finding(probe, "skipped", why)
