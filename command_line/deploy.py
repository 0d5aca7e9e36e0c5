"""``customer-insights deploy``: the project's objects, and what was made and what was there. Which objects those are is
in ``customer_insights.deployment`` and ``deploy/snowflake/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from command_line.terminal import plain, print_json, progress
from customer_insights import deployment
from customer_insights.settings import settings

if TYPE_CHECKING:
    from customer_insights.deployment import Change


def script() -> str:
    """The statements of ``deploy``, to read or to run elsewhere."""
    return ";\n\n".join(deployment.statements(settings())) + ";\n"


def role_script(addresses: Sequence[str]) -> str:
    """What an account's administrator runs once."""
    return deployment.roles_script(settings(), addresses)


def deploy_objects() -> list[Change]:
    """Create what is missing on the chosen connection."""
    from resources.snowflake import SnowflakeConnection

    with progress() as bar, SnowflakeConnection(connection_name=settings().connection).session() as session:
        task = bar.add_task("objects", total=len(deployment.statements(settings())) - 1)
        return deployment.deploy(session, settings(), lambda change: bar.advance(task))


def run_deploy(console: Console, as_json: bool) -> None:
    """Create what is missing and say what was made and what was there."""
    from resources.snowflake import SnowflakeConnection

    changes = deploy_objects()
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    for change in changes:
        if change.outcome not in ("existed", "replaced"):
            console.print(f"[green]{change.outcome}[/]", plain(f"{change.kind.lower()} {change.name}"))
    counts = Counter(change.outcome for change in changes)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    name = SnowflakeConnection(connection_name=settings().connection).name
    console.print(plain(f"{settings().qualified_schema} is ready on connection {name!r}: {said}"))
    if not counts["created"] and not counts["columns added"]:
        console.print("nothing had to be made")
