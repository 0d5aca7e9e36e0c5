"""A round: what goes wrong is drawn, the job is started, it goes wrong, retries end it, and what is left is counted."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param

from customer_insights.settings import Settings
from embedded_snowflake.faults import Faults
from rounds.drivers import PYTHON_PATH, ROOT, Cluster, Driver, Zygote
from rounds.jobs import (
    INGEST,
    JOBS,
    QUALITY,
    SENTIMENT,
    TRAINING,
    Data,
    Found,
    Job,
    Reference,
    compare,
    make_features,
    put_files,
    remember,
)
from rounds.place import Place, Window

CONNECTION = "embedded"
SERVER_START_SECONDS = 120
# An attempt that takes longer hangs.
ATTEMPT_SECONDS = 300.0
# Attempts that are disturbed, at most, and those that are left alone after them.
MOST_DISTURBED = 3
MOST_LEFT_ALONE = 3
LOOK_SECONDS = 0.02
_JOB_WEIGHTS = {INGEST.entrypoint: 40, SENTIMENT.entrypoint: 25, QUALITY.entrypoint: 15, TRAINING.entrypoint: 20}
# What a publication does, and what training changes in the registry.
_WRITES = r"\A\s*(BEGIN|UPDATE|INSERT|MERGE|COMMIT|CREATE MODEL|ALTER MODEL)\b"
# Longer than the server lets an idle transaction keep others waiting.
MOST_HELD_SECONDS = 8.0
_CONNECTION_FAULTS = ("drop_before", "drop_after", "unavailable", "expire_session", "session_lost")


@dataclass
class Undisturbed:
    """How long a job takes when nothing goes wrong, and how many statements it sends, and of those that write."""

    seconds: float
    statements: int
    writes: int


@dataclass
class Result:
    """One round: what was drawn, what happened, and what was found afterwards."""

    seed: int
    job: str
    fault: str
    injected: int = 0
    attempts: int = 0
    seconds: float = 0.0
    found: Found = field(default_factory=Found)
    story: list[str] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return self.found.well


class Arena:
    """One embedded server, a Ray cluster and a process to fork drivers from, for all rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder.resolve()
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        os.environ["SNOWFLAKE_HOME"] = str(self.home)
        self._port = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._session: Any = None
        self._clusters: dict[int, Cluster] = {}
        self._numbers = 0
        self._zygote: Zygote | None = None
        self._seed = seed
        self.usual: dict[str, Undisturbed] = {}

    @property
    def zygote(self) -> Zygote:
        """What drivers are forked from."""
        if self._zygote is None:
            self._zygote = Zygote(self.folder)
        return self._zygote

    @cached_property
    def reference(self) -> Reference:
        """What the jobs write when nothing goes wrong, measured at the first use."""
        return self._undisturbed(self._seed)

    # -- what there is --------------------------------------------------------------------------------------------

    def start_server(self) -> None:
        """Start the embedded server, after a kill on the same data and the same port."""
        log = self.folder / "server.log"
        with log.open("ab") as output:
            begin = output.tell()
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "rounds.server",
                    "--data-dir",
                    str(self.home / "data"),
                    "--port",
                    str(self._port),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": PYTHON_PATH},
                start_new_session=True,
            )
        deadline = time.monotonic() + SERVER_START_SECONDS
        while b"listens on" not in log.read_bytes()[begin:]:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the embedded server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        self._port = int(self.connection["port"])

    @property
    def connection(self) -> dict[str, Any]:
        return tomllib.loads((self.home / "connections.toml").read_text())[CONNECTION]

    @property
    def faults(self) -> Faults:
        return Faults.of_connection(CONNECTION, self.home)

    @cached_property
    def window(self) -> Window:
        return Window(self._port, str(self.connection["user"]), str(self.connection["password"]))

    @property
    def session(self) -> Any:
        if self._session is None:
            from snowflake.snowpark import Session

            self._session = Session.builder.config("connection_name", CONNECTION).create()
        return self._session

    def _variables(self, password: str) -> dict[str, str]:
        """A job's environment."""
        names = ("account", "user", "host", "port", "protocol", "database", "schema", "warehouse")
        known = {f"SNOWFLAKE_{name.upper()}": str(self.connection[name]) for name in names}
        return {**known, "SNOWFLAKE_PASSWORD": password}

    def cluster(self, number: int = 0) -> Cluster:
        """A Ray cluster; two jobs at once have one each."""
        if number not in self._clusters:
            # Workers outlive no job, but their environment is the cluster's: it has the user's own password.
            variables = self._variables(str(self.connection["password"]))
            nodes = 2 if number == 0 else 1
            self._clusters[number] = Cluster(nodes, self.folder / f"r{number}", variables)
        return self._clusters[number]

    def kill_server(self) -> None:
        assert self._server
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self.start_server()
        # Of a session that the new server does not know. Left open it would try to close itself when Python exits, when
        # no server is there to say so, for minutes.
        if self._session is not None:
            self._session.connection.close()
            self._session = None

    def close(self) -> None:
        """End every process."""
        if self._zygote is not None:
            self._zygote.stop()
        for cluster in self._clusters.values():
            cluster.stop()
        if self._session is not None:
            self._session.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(60)

    # -- jobs -----------------------------------------------------------------------------------------------------

    def start(self, place: Place, job: Job, run_id: str, cluster: int = 0) -> Driver:
        """Start an attempt."""
        self._numbers += 1
        pipes = encode_param(place.pipes_location(run_id, self._numbers, job.extras(place)))
        password = self.window.ask("/rounds/password", {"job": f"{run_id}-{self._numbers}"})["password"]
        variables = {
            **self._variables(password),
            "RAY_ADDRESS": self.cluster(cluster).address,
            DAGSTER_PIPES_CONTEXT_ENV_VAR: pipes,
            DAGSTER_PIPES_MESSAGES_ENV_VAR: pipes,
        }
        folder = self.folder / "attempts" / f"{self._numbers:05d}-{run_id}"
        return self.zygote.start(job.entrypoint, run_id, password, folder, variables)

    def wait(self, *drivers: Driver, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait for all to end, or for ``until``. False where one had to be killed because it hung."""
        while not all(driver.ended for driver in drivers) and not until():
            self.zygote.look(LOOK_SECONDS)
            for driver in drivers:
                if not driver.ended and not driver.killed and time.monotonic() - driver.began > ATTEMPT_SECONDS:
                    driver.kill()
                    self.wait(driver)
                    return False
        return True

    def end_sessions(self, driver: Driver) -> None:
        """What the job service does when a job has ended."""
        self.window.ask("/rounds/end", {"password": driver.password})

    def _undisturbed(self, seed: int) -> Reference:
        """Run every job once, with nothing in its way."""
        data = Data.make(seed)
        place = Place.make(self.session, "REFERENCE")
        put_files(place, data)
        make_features(place, seed)
        for job in JOBS.values():
            driver = self.start(place, job, f"undisturbed-{job.entrypoint}")
            before = self.window.ask("/rounds/trace")["last"]
            self.wait(driver)
            if not driver.succeeded:
                raise RuntimeError(f"{job.entrypoint} failed undisturbed: {(driver.folder / 'driver.log').read_text()}")
            seconds = time.monotonic() - driver.began
            sent = [each["sql"] for each in self.window.ask(f"/rounds/trace?since={before}")["statements"]]
            writes = sum(bool(re.search(_WRITES, sql, re.IGNORECASE)) for sql in sent)
            self.usual[job.entrypoint] = Undisturbed(seconds, len(sent), writes)
        return remember(place, data)


# -- what goes wrong ------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A round while it happens."""

    arena: Arena
    place: Place
    job: Job
    chance: random.Random
    result: Result
    drivers: list[Driver] = field(default_factory=list)
    # Whether the last attempt of a run ended well.
    ended_well: dict[str, bool] = field(default_factory=dict)

    def tell(self, what: str) -> None:
        self.result.story.append(what)

    def start(self, run_id: str, cluster: int = 0) -> Driver:
        driver = self.arena.start(self.place, self.job, run_id, cluster)
        self.drivers.append(driver)
        self.result.attempts += 1
        return driver

    def finish(self, *drivers: Driver) -> None:
        """Wait for the drivers and note how they ended."""
        for driver in drivers:
            if not self.arena.wait(driver):
                self.result.found.notes.append(f"{driver.run_id} hung: {driver.folder}")
            if driver.succeeded and not any(earlier.succeeded for earlier in self.drivers if earlier is not driver):
                # It did all the work. How long that takes depends on what else this machine does.
                took = time.monotonic() - driver.began
                self.usual.seconds = 0.7 * self.usual.seconds + 0.3 * took
            self.ended_well[driver.run_id] = driver.succeeded
            error = driver.outcome.get("error", "")
            how = "well" if driver.succeeded else "killed" if driver.killed else f"with {error[-300:]}"
            self.tell(f"{driver.run_id} ended {how} after {time.monotonic() - driver.began:.1f} s")
            if driver.ended and not driver.killed and not driver.succeeded and not driver.outcome.get("retryable"):
                self.result.found.notes.append(f"{driver.run_id} failed for good: {error[-600:]} ({driver.folder})")
            # On an account the sessions of a job that was killed stay for a while; here the job service ends them.
            if self.chance.random() < 0.5:
                self.arena.end_sessions(driver)

    @property
    def usual(self) -> Undisturbed:
        return self.arena.usual[self.job.entrypoint]

    def injected(self, what: str) -> None:
        self.result.injected += 1
        self.tell(what)


def _kill_at_a_time(scene: Scene, run_id: str) -> None:
    """SIGKILL of the driver's process group at any time between its start and its usual end."""
    driver = scene.start(run_id)
    moment = time.monotonic() + scene.chance.uniform(0.1, scene.usual.seconds * 1.05)
    scene.arena.wait(driver, until=lambda: time.monotonic() > moment)
    if not driver.ended:
        scene.injected(f"killed {run_id} after {time.monotonic() - driver.began:.2f} s")
        driver.kill()
    scene.finish(driver)


def _statement(scene: Scene) -> tuple[str, dict[str, Any]]:
    """Any of the statements that the job sends, or any of those that write: they are few, and matter most."""
    if scene.chance.random() < 0.5:
        k = scene.chance.randrange(scene.usual.writes)
        return f"writing statement {k} of {scene.usual.writes}", {"match": _WRITES, "skip": k, "times": 1}
    k = scene.chance.randrange(scene.usual.statements)
    return f"statement {k} of {scene.usual.statements}", {"skip": k, "times": 1}


def _kill_at_a_statement(scene: Scene, run_id: str) -> None:
    """SIGKILL of the driver while the k-th statement is held, before it is run or after."""
    when = scene.chance.choice(("before", "after"))
    k, which = _statement(scene)
    faults = scene.arena.faults
    driver = scene.start(run_id)
    # Armed when the harness has put down what the driver needs: those are statements too.
    faults.add({**which, "kind": "delay", "seconds": 60, "when": when})
    held = lambda: any(each["waiting"] for each in faults.list())  # noqa: E731
    scene.arena.wait(driver, until=held)
    if not driver.ended:
        scene.injected(f"killed {run_id} while {k} was held {when} it ran")
        driver.kill()
    scene.finish(driver)
    if scene.chance.random() < 0.5:
        # The statement of the dead driver goes on when the next attempt is already there.
        scene.tell("the statement that was held goes on during the next attempt")
        late = scene.start(run_id)
        moment = time.monotonic() + scene.chance.uniform(0, scene.usual.seconds / 2)
        scene.arena.wait(late, until=lambda: time.monotonic() > moment)
        faults.clear()
        scene.finish(late)
    faults.clear()


def _kill_a_worker(scene: Scene, run_id: str) -> None:
    """SIGKILL of a Ray worker that runs a task or holds an actor; Ray starts another, the driver goes on."""
    driver = scene.start(run_id)
    cluster = scene.arena.cluster()
    working: list[Any] = []

    def busy() -> bool:
        working[:] = cluster.working()
        return bool(working)

    scene.arena.wait(driver, until=busy)
    moment = time.monotonic() + scene.chance.uniform(0, scene.usual.seconds / 3)
    scene.arena.wait(driver, until=lambda: time.monotonic() > moment)
    if not driver.ended and busy():
        victim = scene.chance.choice(working)
        try:
            title = victim.cmdline()[0]
            victim.kill()
            scene.injected(f"killed the worker {title}")
        except Exception as error:
            scene.tell(f"the worker was gone: {error}")
    scene.finish(driver)


def _twice_at_once(scene: Scene, run_id: str, other: str) -> None:
    """Two drivers; in half of the rounds one is held between two statements that write, until the other is there."""
    scene.arena.cluster(1)
    first = scene.start(run_id)
    if scene.chance.random() < 0.5:
        k, seconds = scene.chance.randrange(scene.usual.writes), scene.chance.uniform(1, MOST_HELD_SECONDS)
        held = {"kind": "delay", "match": _WRITES, "skip": k, "times": 1, "seconds": seconds}
        scene.arena.faults.add({**held, "when": scene.chance.choice(("before", "after"))})
        scene.tell(f"statement {k} of those that write is held for {seconds:.1f} s")
    else:
        moment = time.monotonic() + scene.chance.choice((0.0, scene.chance.uniform(0, scene.usual.seconds)))
        scene.arena.wait(first, until=lambda: time.monotonic() > moment)
    second = scene.start(other, cluster=1)
    scene.injected(f"{run_id} and {other} at the same time")
    if scene.chance.random() < 0.4:
        victim = scene.chance.choice((first, second))
        moment = time.monotonic() + scene.chance.uniform(0.1, scene.usual.seconds)
        scene.arena.wait(victim, until=lambda: time.monotonic() > moment)
        if not victim.ended:
            scene.tell(f"killed one of them, {victim.run_id}")
            victim.kill()
    scene.arena.wait(first, second)
    scene.arena.faults.clear()
    scene.finish(first, second)


def _same_run_twice(scene: Scene, run_id: str) -> None:
    """Two drivers with one run id at the same time, with and without a kill of one."""
    _twice_at_once(scene, run_id, run_id)
    drivers = [driver for driver in scene.drivers if driver.run_id == run_id][-2:]
    scene.ended_well[run_id] = all(driver.succeeded for driver in drivers)


def _two_runs(scene: Scene, run_id: str) -> None:
    """Two runs at the same time, with and without a kill of one."""
    _twice_at_once(scene, run_id, f"{run_id}b")


def _connection_fault(scene: Scene, run_id: str) -> None:
    """The answer to a statement is lost, or the statement, or it is refused for a moment, or the session is gone."""
    kind = scene.chance.choice(_CONNECTION_FAULTS)
    k, which = _statement(scene)
    fault: dict[str, Any] = {**which, "kind": kind}
    if kind == "session_lost":
        fault |= {"kind": "expire_session", "renewable": False}
    driver = scene.start(run_id)
    scene.arena.faults.add(fault)
    scene.arena.wait(driver)
    if any(each["injected"] for each in scene.arena.faults.list()):
        scene.injected(f"{kind} at {k}")
    scene.arena.faults.clear()
    scene.finish(driver)


def _kill_the_server(scene: Scene, run_id: str) -> None:
    """SIGKILL of the embedded server, which is started again on its data."""
    driver = scene.start(run_id)
    moment = time.monotonic() + scene.chance.uniform(0.1, scene.usual.seconds)
    scene.arena.wait(driver, until=lambda: time.monotonic() > moment)
    scene.injected(f"killed the server {time.monotonic() - driver.began:.2f} s after {run_id} began")
    scene.arena.kill_server()
    # A server that is started again ends what ran in its jobs.
    if not driver.ended and scene.chance.random() < 0.5:
        driver.kill()
    scene.arena.wait(driver)
    scene.place = Place(scene.arena.session, scene.place.settings)
    scene.place.session.use_schema(scene.place.settings.qualified_schema)
    scene.finish(driver)


FAULTS: dict[str, tuple[int, Callable[[Scene, str], None]]] = {
    "driver killed at a random time": (22, _kill_at_a_time),
    "driver killed at a statement": (34, _kill_at_a_statement),
    "worker killed": (12, _kill_a_worker),
    "same run twice at once": (10, _same_run_twice),
    "two runs at once": (10, _two_runs),
    "connection fault": (16, _connection_fault),
    "server killed": (4, _kill_the_server),
}


# -- a round --------------------------------------------------------------------------------------------------------


def play(arena: Arena, seed: int, jobs: tuple[str, ...] = (), faults: tuple[str, ...] = ()) -> Result:
    """One round, all of which follows from its seed but the time that things take."""
    chance = random.Random(seed)
    names = jobs or tuple(_JOB_WEIGHTS)
    job = JOBS[chance.choices(names, [_JOB_WEIGHTS[name] for name in names])[0]]
    kinds = faults or tuple(FAULTS)
    fault = chance.choices(kinds, [FAULTS[name][0] for name in kinds])[0]
    result = Result(seed, job.entrypoint, fault)
    began = time.monotonic()
    place = Place.make(arena.session, f"ROUND_{seed}")
    job.prepare(place, arena.reference, chance)
    since = arena.window.ask("/rounds/trace")["last"]
    scene = Scene(arena, place, job, chance, result)
    try:
        _play(scene, fault)
        _look_around(scene)
        found = compare(scene.place, job, arena.reference)
        found.notes = result.found.notes + found.notes
        found.prefixes = result.found.prefixes
        result.found = found
    finally:
        arena.faults.clear()
        for driver in scene.drivers:
            if not driver.ended:
                driver.kill()
        arena.wait(*scene.drivers)
        result.seconds = time.monotonic() - began
        if not result.well:
            result.trace = arena.window.ask(f"/rounds/trace?since={since}")["statements"]
    if result.well:
        arena.session.sql(f"DROP SCHEMA {place.settings.qualified_schema}").collect()
        for driver in scene.drivers:
            shutil.rmtree(driver.folder)
    return result


def _play(scene: Scene, fault: str) -> None:
    """Disturb the job once or more often, then let it be until it ends well."""
    chance, run_id = scene.chance, f"run-{scene.result.seed}"
    for number in range(MOST_DISTURBED):
        FAULTS[fault][1](scene, run_id)
        if scene.result.found.notes:
            return
        if chance.random() < 0.5:
            run_id = f"run-{scene.result.seed}-{number}"
        if chance.random() < 0.6:
            break
    for _ in range(MOST_LEFT_ALONE):
        driver = scene.start(run_id)
        scene.finish(driver)
        if driver.succeeded or scene.result.found.notes:
            return
    scene.result.found.notes.append(f"{run_id} did not end well in {MOST_LEFT_ALONE} attempts that were left alone")


def _look_around(scene: Scene) -> None:
    """What must not be there any more: files of runs that ended well, locks, transactions, temporary tables."""
    arena, found = scene.arena, scene.result.found
    for driver in scene.drivers:
        arena.end_sessions(driver)
    own = int(arena.session.connection.session_id)
    # The workers', who have the user's password: on a server their sessions end with their job's.
    arena.window.ask("/rounds/end", {"keep": [own]})
    state = arena.window.ask(f"/rounds/state?except={own}")
    found.notes += [f"left open: {name}: {left}" for name, left in state.items() if left]
    files = scene.place.work_files()
    work_stage = f"{scene.place.settings.qualified_schema}.{scene.place.settings.work_stage}"
    for run_id, well in scene.ended_well.items():
        left = [file for file in files if f"/{run_id}/" in file]
        if well and left:
            found.prefixes += 1
            found.notes.append(f"left on {work_stage} by {run_id}: {left[:5]}")


@contextmanager
def opened(folder: Path, seed: int) -> Iterator[Arena]:
    """An arena in an empty folder; its processes end with the block."""
    arena = Arena(folder, seed)
    try:
        arena.start_server()
        arena.session.sql(f"CREATE DATABASE IF NOT EXISTS {Settings().database}").collect()
        assert arena.reference
        yield arena
    finally:
        arena.close()


def totals(results: list[Result]) -> dict[str, Counter[str]]:
    """The table's rows: fault -> counts."""
    rows: dict[str, Counter[str]] = {}
    for result in results:
        row = rows.setdefault(result.fault, Counter())
        row["times injected"] += result.injected
        row["attempts"] += result.attempts
        row["rounds"] += 1
        row["rows lost"] += result.found.lost
        row["rows doubled"] += result.found.doubled
        row["wrong values"] += result.found.wrong
        row["prefixes left"] += result.found.prefixes
        row["versions doubled"] += result.found.versions_doubled
        row["rounds failed"] += not result.well
    return rows


def saved(result: Result, folder: Path) -> Path:
    """Write a round that failed to a file: its story, what was found, and every statement."""
    file = folder / f"failed-{result.seed}.json"
    file.write_text(
        json.dumps(
            {
                "seed": result.seed,
                "job": result.job,
                "fault": result.fault,
                "story": result.story,
                "found": vars(result.found),
                "statements": result.trace,
            },
            indent=1,
            default=str,
        )
    )
    return file
