"""``customer-insights doctor``: every probe, whatever another one found, each with a time limit, and what to run.

The probes are in ``snowflake_probes`` and ``machine_probes``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from command_line import connection, local, machine_probes, snowflake_probes
from command_line.findings import Finding, failed, ok, skipped
from command_line.terminal import plain, print_json, progress

if TYPE_CHECKING:
    from snowflake.snowpark import Session

Probe = Callable[[], list[Finding]]
MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}
MACHINE: dict[str, Probe] = {
    "packages": machine_probes.packages,
    "model weights": machine_probes.model_weights,
    "Dagster": machine_probes.dagster_instance,
    "disk": machine_probes.disk,
}
SNOWFLAKE: dict[str, Callable[[Session], list[Finding]]] = {
    "privileges": snowflake_probes.privileges,
    "warehouse": snowflake_probes.warehouse,
    "schema": snowflake_probes.schema,
    "stages": snowflake_probes.stages,
    "compute pool": snowflake_probes.compute_pool,
    "clock": snowflake_probes.clock,
}
CORTEX = "Cortex"


def examine(console: Console, *, as_json: bool, cortex: bool, send_alert: bool = False, seconds: float) -> bool:
    """Print what was found; whether nothing must be mended."""
    found = look(cortex=cortex, send_alert=send_alert, seconds=seconds)
    well = not any(finding.level == "failed" for finding in found)
    if as_json:
        print_json({"well": well, "findings": [asdict(finding) for finding in found]})
    else:
        console.print(_table(found, console.width))
        console.print(_conclusion(found))
    return well


def look(*, cortex: bool, send_alert: bool, seconds: float) -> list[Finding]:
    """What every probe found, those of Snowflake first."""
    asked = [*SNOWFLAKE, *([CORTEX] if cortex else [])]
    with progress() as bar:
        task = bar.add_task("looking", total=2 + len(MACHINE) + len(asked))

        def within(name: str, probe: Probe) -> list[Finding]:
            found = _within(name, probe, seconds)
            bar.advance(task)
            return found

        sessions: list[Session] = []
        found = within("connection", lambda: _connected(sessions, seconds))
        of_snowflake: list[Finding] = []
        try:
            for name in asked:
                if not sessions:
                    of_snowflake.append(skipped(name, "not looked at: no connection"))
                    continue
                ask = snowflake_probes.cortex if name == CORTEX else SNOWFLAKE[name]
                of_snowflake += within(name, lambda ask=ask: ask(sessions[0]))
        finally:
            for session in sessions:
                _close(session)
        if not cortex:
            of_snowflake.append(skipped(CORTEX, "not asked (--no-cortex)"))
        machine = {**MACHINE, "alerts": lambda: machine_probes.alerts(send_alert)}
        of_machine = [finding for name, probe in machine.items() for finding in within(name, probe)]
    return [*found, *of_snowflake, *of_machine]


def _connected(sessions: list[Session], seconds: float) -> list[Finding]:
    """Whether somebody answers and lets us in; the session goes to ``sessions``."""
    address = connection.reach()
    begun = time.monotonic()
    session = connection.open_session(seconds)
    sessions.append(session)
    user = str(session.get_current_user()).strip('"')
    role = str(session.get_current_role()).strip('"')
    took = time.monotonic() - begun
    return [ok("connection", f"{connection.name()!r} at {address}: user {user}, role {role}, in {took:.1f} s")]


def _close(session: Session) -> None:
    # Closing asks the server, which may be what does not answer.
    threading.Thread(target=session.close, daemon=True).start()


def _within(name: str, probe: Probe, seconds: float) -> list[Finding]:
    """What the probe found, what it raised, or that it took too long: then it goes on alone and is forgotten."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(probe())
        except Exception as error:
            found.append(_raised(name, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [failed(name, f"no answer within {seconds:.0f} s", "try again, with a longer --seconds")]
    return found


def _raised(name: str, error: Exception) -> Finding:
    from customer_insights.connecting import SnowflakeUnreachableError
    from customer_insights.transient import error_number

    said, number = " ".join(str(error).split()), error_number(error)
    if name == "connection":
        unreachable = isinstance(error, SnowflakeUnreachableError)
        start = "make embedded" if unreachable and local.uses_embedded() else "docs/connections.md says how to log in"
        return failed(name, said, start)
    if name == CORTEX:
        return failed(
            name,
            said,
            "an administrator: GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE <role>; or let the job read every "
            'language: export CUSTOMER_INSIGHTS_SENTIMENT_CORTEX_LANGUAGES=""',
        )
    remedy = "an administrator runs what `customer-insights deploy --role-script` prints"
    return failed(name, said, remedy if number in (2003, 2043, 3001) else "the message says what was expected")


def _table(found: list[Finding], width: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), width=min(width, 130))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for finding in found:
        mark, colour = MARKS[finding.level]
        text = plain(finding.found)
        if finding.remedy:
            text = Text.assemble(text, ("\n→ ", colour), plain(finding.remedy))
        table.add_row(Text(mark, f"bold {colour}"), Text(finding.probe, "bold"), text)
    return table


def _conclusion(found: list[Finding]) -> Text:
    count = sum(finding.level == "failed" for finding in found)
    warned = sum(finding.level == "warning" for finding in found)
    if count:
        return Text(f"{count} of {len(found)} must be mended: run what stands behind →", "bold red")
    return Text.assemble(
        ("everything that the project needs is there", "bold green"),
        (f"; {warned} to know of", "yellow") if warned else "",
    )
