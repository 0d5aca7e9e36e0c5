"""``customer-insights status``: assets, freshness, runs, model and costs in one screen, and what is wrong."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from command_line import snowflake_overview
from command_line.overview import Asset, Dagster, Overview, Run, Snowflake, Version
from command_line.terminal import ago, plain, print_json
from customer_insights.settings import settings

COLOURS = {"fresh": "green", "late": "yellow", "overdue": "bold red", "never": "dim", "none": "dim"}
SEVERITY = ("none", "never", "fresh", "late", "overdue")
RESULTS = {"SUCCESS": ("done", "green"), "FAILURE": ("failed", "bold red"), "CANCELED": ("cancelled", "yellow")}


def show_status(console: Console, as_json: bool) -> bool:
    """Print the overview; whether nothing is overdue or failed."""
    found = gather()
    if as_json:
        print_json(asdict(found))
    else:
        console.print(screen(found))
    return not found.problems


def watch_status(console: Console, seconds: float) -> None:
    """The overview again and again, until Ctrl-C."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(gather()), refresh=True)
            time.sleep(seconds)


def gather() -> Overview:
    """What Dagster and Snowflake tell; they are asked side by side."""
    answers: list[Snowflake | Exception] = []

    def ask() -> None:
        try:
            answers.append(snowflake_overview.read())
        except Exception as error:
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    # Dagster and the graph are imported meanwhile.
    from command_line import dagster_overview
    from definitions import defs

    dagster = dagster_overview.read(defs)
    asking.join()
    if isinstance(answers[0], Exception):
        raise answers[0]
    dagster = replace(dagster, assets=tuple(_with_day(asset, answers[0]) for asset in dagster.assets))
    problems = tuple(_problems(answers[0], dagster))
    return Overview(datetime.now(UTC), settings().qualified_schema, answers[0], dagster, problems)


def _with_day(asset: Asset, snowflake: Snowflake) -> Asset:
    """A materialization of an old day makes an asset fresh by its policy; its rows tell when the newest is missing."""
    day = snowflake.days.get(asset.name)
    if day is None or SEVERITY.index(day.freshness) <= SEVERITY.index(asset.freshness):
        return asset
    return replace(asset, freshness=day.freshness, said=day.said)


def _problems(snowflake: Snowflake, dagster: Dagster) -> list[str]:
    checks = [check for asset in dagster.assets for check in asset.failed_checks if check.blocking]
    overdue = [asset for asset in dagster.assets if asset.freshness == "overdue"]
    checked = {check.said for check in checks}
    rows = [f"{asset.name} is overdue: {asset.said}" for asset in overdue if asset.said and asset.said not in checked]
    others = ", ".join(asset.name for asset in overdue if not asset.said)
    return [
        *([snowflake.error] if snowflake.error else []),
        *rows,
        *([f"not made in time: {others}; materialize what comes first in Dagster"] if others else []),
        *(f"check {check.check} of {check.asset} failed: {check.said}" for check in checks),
        *(
            f"run {run.id[:8]} of {_of(run)} failed: read its error in Dagster, mend it, then Re-execute, From failure"
            for run in dagster.failed_runs
        ),
    ]


def _of(run: Run) -> str:
    return f"{run.job} ({run.partition})" if run.partition else run.job


# -- the screen -------------------------------------------------------------------------------------------------------


def screen(found: Overview) -> RenderableType:
    """The overview for a terminal of 80 columns or more."""
    return Group(_head(found), Text(), _assets(found), Text(), _runs(found), Text(), _facts(found), *_wrong(found))


def _head(found: Overview) -> Text:
    return Text.assemble(
        (found.snowflake.connection, "bold"),
        (" cannot be used", "bold red") if found.snowflake.error else "",
        f" · {found.schema} · ",
        ("Dagster runs", "green") if found.dagster.alive else "Dagster is not running",
        f" · {_clock(found.at)}",
    )


def _assets(found: Overview) -> Table:
    table = _plain_table(("asset", "left"), ("made", "right"), ("ago", "right"), ("rows", "right"), ("day", "left"))
    table.add_column("freshness")
    table.add_column("checks", overflow="fold", ratio=1)
    for asset in found.dagster.assets:
        made = _clock(asset.made_at) if asset.made_at else ""
        since = ago((found.at - asset.made_at).total_seconds()) if asset.made_at else ""
        newest = day.newest if (day := found.snowflake.days.get(asset.name)) else None
        table.add_row(
            asset.name,
            made,
            Text(since, "dim"),
            "" if asset.rows is None else f"{asset.rows:,}",
            f"{newest:%m-%d}" if newest else "",
            Text(asset.freshness if asset.freshness != "none" else "", COLOURS[asset.freshness]),
            _check_words(asset),
        )
    return table


def _check_words(asset: Asset) -> Text:
    failed = sum(check.blocking for check in asset.failed_checks)
    warned = len(asset.failed_checks) - failed
    words = (
        (f"{failed} failed", "bold red") if failed else None,
        (f"{warned} warned", "yellow") if warned else None,
        (f"{asset.passed_checks} passed", "dim") if asset.passed_checks else None,
    )
    return Text(", ").join(Text(*word) for word in words if word)


def _runs(found: Overview) -> Table:
    table = _plain_table(("run", "left"), ("started", "right"), ("took", "right"))
    table.add_column("result")
    table.add_column("of", overflow="ellipsis", no_wrap=True, ratio=1)
    for run in found.dagster.runs:
        word, colour = RESULTS.get(run.status, (run.status.lower().replace("_", " "), "cyan"))
        table.add_row(
            run.id[:8],
            _clock(run.started_at) if run.started_at else "",
            "" if run.seconds is None else ago(run.seconds),
            Text(word, colour),
            plain(_of(run)),
        )
    if not found.dagster.runs:
        table.add_row("none", "", "", "", "`make demo` or Materialize in `make ui` starts one")
    return table


def _facts(found: Overview) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    snowflake = found.snowflake
    if not snowflake.error:
        table.add_row("reviews", _reviews(snowflake, found.at))
        if snowflake.awaited:
            table.add_row("expected", f"reviews of {snowflake.awaited[0]} by {_clock(snowflake.awaited[1])}")
        table.add_row("in service", _version(snowflake.champion, found.at) if snowflake.champion else "no model yet")
        if snowflake.challenger:
            table.add_row("challenger", _version(snowflake.challenger, found.at))
        if snowflake.credits_month is not None:
            table.add_row("credits", f"{snowflake.credits_day:.2f} in a day, {snowflake.credits_month:.2f} in 30 days")
    for kind in ("schedule", "sensor"):
        names = {
            on: [one.name for one in found.dagster.automation if one.kind == kind and one.on == on]
            for on in (True, False)
        }
        table.add_row(f"{kind}s", _switched(names[True], names[False]))
    return table


def _switched(on: list[str], off: list[str]) -> Text:
    words = (
        Text.assemble(("on ", "green"), ", ".join(on)) if on else None,
        Text.assemble(("off ", "yellow"), (", ".join(off), "dim")) if off else None,
    )
    return Text("; ").join(word for word in words if word)


def _reviews(snowflake: Snowflake, now: datetime) -> Text:
    newest = snowflake.newest_day
    if newest is None:
        return Text("none yet")
    age = (now.date() - newest).days
    day = f"newest day {newest} ({'today' if age <= 0 else f'{age} d ago'})"
    rejected = f"{snowflake.rejected:,} rejected ({snowflake.rejected_newest_day:,} of that day)"
    return Text.assemble(
        f"{snowflake.reviews:,}, ",
        (day, "" if age <= 1 else "yellow"),
        ", ",
        (rejected, "yellow" if snowflake.rejected_newest_day else ""),
    )


def _version(version: Version, now: datetime) -> str:
    auc = "" if version.roc_auc is None else f", ROC-AUC {version.roc_auc:.3f}"
    since = f", since {_clock(version.since)} ({ago((now - version.since).total_seconds())})" if version.since else ""
    return f"{version.name}{auc}{since}"


def _wrong(found: Overview) -> list[RenderableType]:
    warned = [check for asset in found.dagster.assets for check in asset.failed_checks if not check.blocking]
    lines: list[RenderableType] = [Text.assemble(("✗ ", "bold red"), plain(problem)) for problem in found.problems]
    lines += [
        Text.assemble(("! ", "yellow"), plain(f"{check.check} of {check.asset}: {check.said}")) for check in warned
    ]
    return [Text(), *lines] if lines else [Text(), Text("nothing is overdue or failed", "bold green")]


def _plain_table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", expand=True)
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(ZoneInfo(settings().timezone)):%m-%d %H:%M}"
