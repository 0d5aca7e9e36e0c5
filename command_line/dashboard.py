"""``customer-insights dashboard``: the Streamlit server on this machine. What it shows is in ``dashboard``."""

from __future__ import annotations

import os
import sys

from command_line import local
from command_line.terminal import console

MAIN_FILE = local.ROOT / "dashboard" / "streamlit_app.py"


def arguments(port: int) -> list[str]:
    """How the server is started: seen from this machine only, and telling nobody of its use."""
    options = {
        "server.address": "127.0.0.1",
        "server.port": port,
        # It asks for no e-mail address and opens no browser.
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "streamlit", "run", str(MAIN_FILE), *flags]


def serve(port: int) -> None:
    """Become the server; Ctrl-C ends it."""
    console.print(f"the dashboard opens at [bold]http://127.0.0.1:{port}[/]; Ctrl-C ends it")
    os.chdir(local.ROOT)
    os.execv(sys.executable, arguments(port))  # noqa: S606 - Streamlit, by this interpreter
