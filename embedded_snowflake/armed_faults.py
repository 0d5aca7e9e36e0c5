"""A fault on a server: which requests it is about, whether it strikes this time, and how often it has.

What it does to a request belongs in ``fault_injection``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from embedded_snowflake.faults import Fault

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A request as a fault sees it: its text is a statement or a path, ``job`` the key of the job that sent it."""

    text: str
    is_statement: bool
    is_upload: bool
    token: str
    session_known: bool
    job: str | None


@dataclass(eq=False)
class Armed:
    """A fault on a server, with what has become of it."""

    fault: Fault
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    seen: int = 0
    injected: int = 0
    waiting: int = 0
    removed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._pattern = re.compile(self.fault.match or "", re.IGNORECASE)
        self._random = random.Random(self.fault.seed)  # noqa: S311 - a rehearsal is to be repeatable

    def is_of(self, target: Target) -> bool:
        """Whether the request is one that the fault is about."""
        of_job = target.job is not None
        if self.fault.kind == "lose_node" and not of_job:
            return False
        if self.fault.of != "any" and (not target.session_known or (self.fault.of == "job") != of_job):
            return False
        if self.fault.match is None:
            return target.is_statement or (self.fault.kind == "disk_full" and target.is_upload)
        return bool(self._pattern.search(target.text))

    def strikes(self) -> bool:
        """Whether it strikes this time; counts."""
        fault = self.fault
        with self._lock:
            if self.spent or self.removed.is_set():
                return False
            self.seen += 1
            if self.seen <= fault.skip or self._random.random() >= fault.probability:
                return False
            self.injected += 1
        logger.warning("fault %s strikes: %s", self.id, fault.model_dump_json(exclude_unset=True))
        return True

    @property
    def spent(self) -> bool:
        return bool(self.fault.times) and self.injected >= self.fault.times

    def described(self) -> dict[str, Any]:
        counts = {"injected": self.injected, "waiting": self.waiting}
        return {"id": self.id, **self.fault.model_dump(exclude_unset=True), **counts}
