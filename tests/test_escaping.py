"""What customers wrote is shown as they wrote it, wherever it is shown: on the terminal, in plots, on Dagster's page.

The sockets of what serves that page are looked at here, too, because it runs here; those of jobs are in
``test_loopback.py``.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from conftest import CHROMIUM, ROOT, Embedded, Graph, today
from dagster_ui import START_TIMEOUT_SECONDS
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_loopback import listening, only_loopback

from command_line.main import plain, summary
from customer_insights import display, plots

HOSTILE = {
    "script": "<script>alert(1)</script> nice chair",
    "image": "<img src=x onerror=alert(2)> & <b>bold</b>",
    "link": "[click](javascript:alert(3)) ![i](http://127.0.0.1:9/x.png)",
    "marks": "a | b `c` **d** ~~e~~ <http://127.0.0.1:9/y> \\| www.example.org me@example.org http://127.0.0.1:9/z",
    "entity": "&lt;i&gt; &#60;script&#62; =cmd|' /C calc'!A0 $\\frac$",
}
ESCAPES = "\x1b]0;title\x07\x1b[2J\x1b[31m \x9b31m \u202eevil\u2066"


# -- the terminal -----------------------------------------------------------------------------------------------------


def printed(*shown: object) -> str:
    output = io.StringIO()
    Console(file=output, force_terminal=True, color_system="truecolor", width=200).print(*shown)
    return output.getvalue()


@pytest.mark.parametrize("text", ["[red]not red[/red]", "[link=http://127.0.0.1:9]not a link[/link]", "[/]", "[bold"])
def test_markup_in_a_review_is_shown_on_the_terminal_and_does_nothing(text: str):
    assert text in printed(summary("Reviews", ["review"], [[text]]))
    assert text in printed(plain(text))


def test_escape_sequences_in_a_review_do_not_reach_the_terminal():
    shown = printed(summary("Reviews", ["review"], [[ESCAPES]])) + printed(plain(ESCAPES))
    ours = ("\x1b[1m", "\x1b[0m", "\x1b[3m")
    for sequence in ours:
        shown = shown.replace(sequence, "")
    assert not [c for c in shown if c in "\x1b\x07\x9b\u202e\u2066"]
    assert "evil" in shown


def test_an_error_that_quotes_a_review_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch):
    from command_line import main

    output = io.StringIO()
    monkeypatch.setattr(main, "errors", Console(file=output, force_terminal=True, width=200))
    monkeypatch.setattr(main, "app", lambda: (_ for _ in ()).throw(RuntimeError(f"[/red] [bold]x {ESCAPES}")))
    with pytest.raises(SystemExit):
        main.main()
    assert "[/red] [bold]x" in output.getvalue()
    assert "\x1b]0;" not in output.getvalue()


@given(st.text())
def test_what_is_shown_has_no_control_characters_and_loses_nothing_else(text: str):
    shown = display.literal(text)
    assert len(shown) == len(text)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
    assert display.literal(shown) == shown


# -- plots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["$\\frac$", "$x^2$", "costs $5 or $6", "<b>"])
def test_a_product_whose_name_looks_like_a_formula_is_drawn_by_its_name(name: str):
    picture = plots.bars({name: 0.5, "Sofa": 0.2}, "Purchase rate", "share of visits", "purchase rate")
    assert picture.startswith("![purchase rate](data:image/png;base64,")


# -- Dagster's page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_graph(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """Reviews that try to do something, ingested; each comes early by MD5(UUID), so that it is in the sample."""
    from customer_insights import deployment
    from customer_insights.settings import settings

    home = tmp_path_factory.mktemp("escaping")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUSTOMER_INSIGHTS_DATABASE", "ESCAPING")
        settings.cache_clear()
        shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
        deployment.deploy(embedded.session(), settings())
        graph = Graph(embedded, home, len(HOSTILE), "ESCAPING")
        rows = [f'"{first_by_md5(name)}","{text}"' for name, text in HOSTILE.items()]
        rows += [f'"plain-{number}","a plain review"' for number in range(40)]
        graph.put("hostile.txt", "\n".join(rows).encode())
        graph.run("raw_reviews", raise_on_error=True)
        assert graph.value("SELECT COUNT(*) FROM RAW_REVIEWS") == len(rows)
        # Made by this process, with its own umask; the command makes it again.
        shutil.rmtree(home / "schedules", ignore_errors=True)
        yield graph
    settings.cache_clear()


def first_by_md5(name: str) -> str:
    """A UUID whose MD5 begins with zeros: the sample is ordered by it."""
    candidates = (f"{name}-{number}" for number in range(10**6))
    return next(c for c in candidates if hashlib.md5(c.encode()).hexdigest().startswith("000"))


@pytest.fixture(scope="module")
def own_ui(hostile_graph: Graph) -> Iterator[tuple[int, int]]:
    """``customer-insights ui`` as a person starts it; gives its process and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Named otherwise, because for the one named embedded the command would start a server.
    connections = hostile_graph.embedded.home / "connections.toml"
    document = tomlkit.parse(connections.read_text())
    document["tests"] = document["embedded"].unwrap()
    connections.write_text(tomlkit.dumps(document))
    log = hostile_graph.dagster_home / "ui.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("customer-insights")), "ui", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "DAGSTER_HOME": str(hostile_graph.dagster_home),
                "CUSTOMER_INSIGHTS_CONNECTION": "tests",
            },
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    try:
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
        yield process.pid, port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_dagster_listens_on_the_loopback_address_only(own_ui: tuple[int, int]):
    pid, port = own_ui
    found = listening(pid)
    assert port in {address.port for address in found}
    assert only_loopback(found)


@pytest.mark.slow
def test_nobody_else_on_the_machine_reads_what_dagster_writes(own_ui: tuple[int, int], hostile_graph: Graph):
    # The runs were made by this test's own process; what schedules and sensors did is written by the command's.
    written = list((hostile_graph.dagster_home / "schedules").rglob("*"))
    assert written
    assert not [file for file in written if stat.S_IMODE(file.stat().st_mode) & 0o077]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `make browser` installs it")
def test_a_hostile_review_is_shown_literally_on_dagsters_page(own_ui: tuple[int, int], page):
    dialogs: list[str] = []
    asked: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asking: asked.append(asking.url))
    page.set_default_timeout(90_000)
    page.goto(f"http://127.0.0.1:{own_ui[1]}/assets/raw_reviews?partition={today()}")
    page.get_by_text("[Show Markdown]").first.wait_for()
    # The sample is one of several Markdown texts: the one whose table has the reviews.
    shown = page.locator("table", has_text="nice chair")
    for number in range(page.get_by_text("[Show Markdown]").count()):
        page.get_by_text("[Show Markdown]").nth(number).click()
        page.wait_for_timeout(1500)
        if shown.count():
            break
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
    text = " ".join(shown.first.inner_text().replace("\u2060", "").split())
    assert not [review for review in HOSTILE.values() if " ".join(review.split()) not in text], text
    assert shown.first.locator("script, img, a, b, i, strong, em, del, code").count() == 0
    assert dialogs == []
    assert not [url for url in asked if "127.0.0.1:9/" in url or url.endswith("/x")]
