"""Requests that a client sends again because it saw no answer: they get the first one's answer, and nothing runs twice.

Snowflake knows a repeated request by its ``requestId``. So does this server, for the latest requests of all sessions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

REMEMBERED = 5000
REMEMBERED_BYTES = 64 * 2**20
SMALL_BYTES = 64 * 2**10

Document = dict[str, Any]


@dataclass
class Answers:
    """The latest answers by session and request. The oldest go first; those that are still awaited stay."""

    _known: OrderedDict[Hashable, tuple[Future[Document], int]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, key: Hashable) -> tuple[Future[Document], bool]:
        """The answer that there is or will be, and whether it is for the caller to bring it about by ``end``."""
        with self._lock:
            if key in self._known:
                return self._known[key][0], False
            future: Future[Document] = Future()
            # So that nobody who waits for it can cancel it.
            future.set_running_or_notify_cancel()
            self._known[key] = future, 0
            return future, True

    def end(self, key: Hashable, document: Document, keep: bool) -> None:
        """Give the answer to all who wait. ``keep`` it where the statement must not run again."""
        with self._lock:
            future, _ = self._known.pop(key)
            if keep:
                size = _size(document)
                self._known[key] = future, size
                self._bytes += size
            self._shrink()
        future.set_result(document)

    def _shrink(self) -> None:
        while len(self._known) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
            # The first or nearly so: few are awaited.
            oldest = next((key for key, (future, _) in self._known.items() if future.done()), None)
            if oldest is None:
                return
            self._bytes -= self._known.pop(oldest)[1]


def is_small(document: Document) -> bool:
    """Whether an answer may be kept for a question, too."""
    return _size(document) <= SMALL_BYTES


def _size(document: Document) -> int:
    data = document.get("data") or {}
    rows = data.get("rowsetBase64") or data.get("rowset") or ()
    return 1000 + (len(rows) if isinstance(rows, str) else 100 * len(rows))
