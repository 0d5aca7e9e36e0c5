"""Follows a job's log from snapshots of its tail: what is new since the last one, without repeating a line."""

from __future__ import annotations

from collections import deque

SKIPPED = "[... more was logged between two looks at the log than Snowflake keeps at hand; it is left out here ...]"


class LogFollower:
    """Turns snapshots of a growing log into its new lines.

    ``SYSTEM$GET_SERVICE_LOGS`` returns about the last 100 KB, whatever was read before. A snapshot therefore begins
    anywhere, also in the middle of a line.
    """

    def __init__(self, tail_lines: int = 30) -> None:
        self._snapshot = ""
        self._partial = ""
        self.tail: deque[str] = deque(maxlen=tail_lines)
        """The last lines, for an error's message."""

    def feed(self, snapshot: str) -> list[str]:
        """The lines that were completed since the last snapshot."""
        if not snapshot or snapshot == self._snapshot:
            return []
        new, gap = _appended(self._snapshot, snapshot)
        self._snapshot = snapshot
        if gap:
            return [*self.end(), *self._kept([SKIPPED]), *self._split(new)]
        return self._split(new)

    def end(self) -> list[str]:
        """The last line, when the log ended without a line feed."""
        partial, self._partial = self._partial, ""
        return self._kept([partial] if partial else [])

    def _split(self, text: str) -> list[str]:
        *lines, self._partial = (self._partial + text).split("\n")
        return self._kept(lines)

    def _kept(self, lines: list[str]) -> list[str]:
        self.tail.extend(lines)
        return lines


def _appended(before: str, now: str) -> tuple[str, bool]:
    """What ``now`` has that ``before`` has not, and whether something between the two is missing."""
    if now.startswith(before):
        return now[len(before) :], False
    # The window has moved: its first line may be cut. The longest end of `before` that `now` begins with is what both
    # have.
    whole_lines = now[now.find("\n") + 1 :]
    start = 0
    while start < len(before):
        if whole_lines.startswith(before[start:]):
            return whole_lines[len(before) - start :], False
        line_feed = before.find("\n", start)
        if line_feed < 0:
            break
        start = line_feed + 1
    return whole_lines, True
