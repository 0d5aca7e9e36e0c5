"""The simulated time of day: one offset to the machine's clock, shared by all processes that the month starts.

``clock.c`` is preloaded into them; here it is compiled, passed on and set. Nothing else of a process is touched.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
VARIABLE = "SIMULATED_CLOCK"
# What a process must have in its environment to live in the simulated time.
PASSED_ON = ("LD_PRELOAD", VARIABLE)
COMPILER = shutil.which("cc") or shutil.which("gcc")
MISSING = None if COMPILER and sys.platform == "linux" else "a simulated clock needs Linux and a C compiler (gcc)"
NANOSECONDS = 10**9


def environment(folder: Path) -> dict[str, str]:
    """Compile the clock and set it to now: the variables of a process that lives by it."""
    library, file = folder / "clock.so", folder / "clock"
    if COMPILER is None:
        raise RuntimeError(f"{MISSING}: apt-get install gcc libc6-dev")
    command = [COMPILER, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    file.write_bytes(struct.pack("q", 0))
    return {"LD_PRELOAD": str(library), VARIABLE: str(file)}


class Clock:
    """The clock of this process and of all that share its file."""

    def __init__(self) -> None:
        with Path(os.environ[VARIABLE]).open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)
        self.zero = self.now()

    @property
    def offset(self) -> float:
        """Seconds from the machine's time to the simulated one."""
        return struct.unpack("q", self._offset)[0] / NANOSECONDS

    def now(self) -> datetime:
        return datetime.now(UTC)

    def set(self, moment: datetime) -> None:
        """Let it be ``moment``; the clock never goes back."""
        ahead = moment.timestamp() - time.time()
        if ahead < 0 and self.offset:
            raise ValueError(f"{moment} is over: it is {self.now()}")
        self._offset[:] = struct.pack("q", int((self.offset + ahead) * NANOSECONDS))
        if abs(time.time() - moment.timestamp()) > 1:
            raise RuntimeError(f"the clock was set to {moment} and shows {self.now()}: is clock.c preloaded?")
