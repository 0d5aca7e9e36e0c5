"""How much longer Dagster takes to load this code location than an empty one: medians of interleaved fresh
processes."""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 5
EMPTY = "import dagster as dg; dg.Definitions()"
OURS = "import definitions"


def seconds(code: str) -> float:
    """Seconds that ``code`` takes in a new process, measured inside it."""
    timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", timed], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print both medians, their difference and their ratio."""
    pairs = [(seconds(EMPTY), seconds(OURS)) for _ in range(ROUNDS)]
    empty, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"empty {empty:.2f} s, this project {ours:.2f} s: {ours - empty:+.2f} s, ratio {ours / empty:.2f}")


if __name__ == "__main__":
    main()
