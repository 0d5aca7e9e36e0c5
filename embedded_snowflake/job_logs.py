"""A job's logs: one file per instance that does not grow without end, and what Snowflake shows of it."""

from __future__ import annotations

from pathlib import Path

# Two files of this size are kept at most, the older half of a long log goes.
LARGEST_FILE = 5 * 2**20
# Snowflake shows about the last 100 KB.
SHOWN_BYTES = 100_000


class JobLog:
    """The log that one instance writes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab")

    def write(self, output: bytes) -> None:
        if self._file.tell() + len(output) > LARGEST_FILE:
            self._file.close()
            self._path.replace(_older(self._path))
            self._file = self._path.open("ab")
        self._file.write(output)
        self._file.flush()

    def note(self, message: str) -> None:
        """A line of the server's own."""
        self.write(f"{message}\n".encode())

    def close(self) -> None:
        self._file.close()


def path(job_directory: Path, instance: int) -> Path:
    """The log of one instance of a job."""
    return job_directory / "logs" / f"instance-{instance}.log"


def read(log: Path) -> str:
    """The whole log, as far as it is kept."""
    parts = [part.read_bytes() for part in (_older(log), log) if part.exists()]
    return b"".join(parts).decode(errors="replace")


def tail(log: Path, lines: int | None = None) -> str:
    """The last so many lines of the log, and no more than Snowflake would show."""
    text = read(log)
    if len(text) > SHOWN_BYTES:
        text = text[-SHOWN_BYTES:].partition("\n")[2]
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else text


def _older(log: Path) -> Path:
    return log.with_suffix(".log.1")
