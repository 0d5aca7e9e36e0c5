"""``python docs/write_settings.py``: docs/settings.md, made of customer_insights/settings.py.

What a setting means is said there, in its description; sections are the comments between the settings.
"""

from __future__ import annotations

import json
import re
from datetime import time
from pathlib import Path
from typing import Any

from customer_insights.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "settings.md"
SOURCE = ROOT / "customer_insights" / "settings.py"
FIELD = re.compile(r"    (\w+): ")
HEADING = re.compile(r"    # (.+)")
TOP = """# Settings

Made of [customer_insights/settings.py](../customer_insights/settings.py) by `python docs/write_settings.py`.

A setting is an environment variable, or a line `NAME=value` in the file `.env` at the root of the checkout; the
environment wins. Lists are separated by commas. Dagster reads the settings when it loads the code: after a change
restart `make ui`. A job gets the settings of the run that submitted it.

How Snowflake is reached is no setting: that is the connection of `connections.toml`, chosen by
`SNOWFLAKE_DEFAULT_CONNECTION_NAME` ([connections.md](connections.md)). Who is told of what goes wrong is set in the
environment alone, because it holds secrets ([alerts.md](alerts.md#set-it-up)).
"""


def sections() -> dict[str, list[str]]:
    """Heading -> names of the settings below it, as the class has them."""
    found: dict[str, list[str]] = {}
    heading = ""
    body = SOURCE.read_text().partition("class Settings(BaseSettings):")[2].partition("    @model_validator")[0]
    previous = ""
    for line in body.splitlines():
        # A comment after a blank line heads what follows; another one explains a setting.
        if (matched := HEADING.fullmatch(line)) and not previous:
            heading = matched[1]
        elif (matched := FIELD.match(line)) and matched[1] in Settings.model_fields:
            found.setdefault(heading, []).append(matched[1])
        previous = line.strip()
    return found


def shown(default: Any) -> str:
    """A default as the environment variable would say it."""
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, time):
        return f"{default:%H:%M}"
    if isinstance(default, tuple):
        return json.dumps(default) if any(" " in one for one in default) else ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def page() -> str:
    """The whole of docs/settings.md."""
    parts = [TOP]
    for heading, names in sections().items():
        title, _, rest = heading.partition(": ")
        parts.append(f"## {title[0].upper()}{title[1:]}\n" + (f"\n{rest[0].upper()}{rest[1:]}.\n" if rest else ""))
        parts.append("| setting | default | what it is |\n|---|---|---|")
        for name in names:
            field = Settings.model_fields[name]
            text = (field.description or "").replace("|", "\\|").replace("<", "&lt;")
            parts.append(f"| `CUSTOMER_INSIGHTS_{name.upper()}` | `{shown(field.default)}` | {text} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)}: {len(Settings.model_fields)} settings")
