"""ML Jobs of the embedded server, submitted and watched by Snowflake's own client (snowflake.ml.jobs) alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import start_embedded

STAGE = "JOBS_TEST_STAGE"
POOL = "JOBS_TEST"


def script(directory: Path, code: str, name: str = "work.py") -> str:
    """A file with this Python code."""
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(code))
    return str(file)


def wait_until(true, seconds: float = 40.0):
    """What ``true()`` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def alive(pids: list[int]) -> list[int]:
    """Those that run; a zombie does not."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def prepare(session):
    """A session in HOL_DB.HOL_SCHEMA, with a pool of two nodes."""
    for sql in (
        "CREATE DATABASE IF NOT EXISTS HOL_DB",
        "CREATE SCHEMA IF NOT EXISTS HOL_DB.HOL_SCHEMA",
        "USE SCHEMA HOL_DB.HOL_SCHEMA",
        f"CREATE COMPUTE POOL IF NOT EXISTS {POOL} MIN_NODES = 1 MAX_NODES = 2 INSTANCE_FAMILY = CPU_X64_S",
    ):
        session.sql(sql).collect()
    return session


@pytest.fixture(scope="module")
def session(embedded):
    return prepare(embedded.session())


@pytest.fixture
def submit(session):
    """submit_file with the pool, stage and session of this module; what a test leaves running ends with it."""
    from snowflake.ml import jobs

    def submit(file: str, **options):
        return jobs.submit_file(file, POOL, stage_name=STAGE, session=session, **options)

    yield submit
    session.sql(f"ALTER COMPUTE POOL {POOL} STOP ALL").collect()


def pool(session):
    (row,) = session.sql(f"DESCRIBE COMPUTE POOL {POOL}").collect()
    return row


# Each finds the pool's nodes as the one before left them; the order saves their start.


def test_a_file_runs_on_the_pool_and_its_session_reaches_the_server_from_driver_and_workers(session, submit, tmp_path):
    from snowflake.ml import jobs

    session.sql("CREATE OR REPLACE TABLE JOBS_TEST_SEEN (PLACE STRING)").collect()
    file = script(
        tmp_path,
        """
        import os, sys
        import ray
        from snowflake.snowpark import Session
        from snowflake.snowpark.context import get_active_session
        from snowflake.ml._internal.utils.connection_params import SnowflakeLoginOptions

        @ray.remote
        def insert(place):
            with Session.builder.configs(SnowflakeLoginOptions()).create() as session:
                session.sql("INSERT INTO JOBS_TEST_SEEN VALUES (?)", params=[place]).collect()
                return os.environ["FLAVOUR"]

        print("arguments", sys.argv[1:], "flavour", os.environ["FLAVOUR"])
        get_active_session().sql("INSERT INTO JOBS_TEST_SEEN VALUES ('driver')").collect()
        __return__ = {"flavour": ray.get(insert.remote("worker")), "address": os.environ["RAY_ADDRESS"],
                      "password": os.environ["SNOWFLAKE_PASSWORD"]}
        """,
    )
    job = submit(file, args=["--day", "2026-01-01"], env_vars={"FLAVOUR": "mint"}, comment="run 4711")
    assert job.wait(90) == "DONE", job.get_logs(verbose=True)
    result = job.result()
    assert result["flavour"] == "mint"
    assert job.get_logs() == "arguments ['--day', '2026-01-01'] flavour mint"
    logs = session.sql(f"SELECT LOG FROM TABLE({job.id}!SPCS_GET_LOGS()) WHERE INSTANCE_ID = 0 ORDER BY TIMESTAMP")
    assert "\n".join(row["LOG"] for row in logs.collect()) == job.get_logs(verbose=True).rstrip()
    seen = session.table("JOBS_TEST_SEEN").collect()
    assert sorted(row[0] for row in seen) == ["driver", "worker"]
    (shown,) = session.sql(f"SHOW JOB SERVICES LIKE '{job.name}' IN SCHEMA HOL_DB.HOL_SCHEMA").collect()
    assert (shown["status"], shown["comment"], shown["target_instances"]) == ("DONE", "run 4711", 1)
    assert jobs.get_job(job.id, session=session).status == "DONE"
    test_a_file_runs_on_the_pool_and_its_session_reaches_the_server_from_driver_and_workers.result = result


def test_the_password_of_a_job_is_its_own_and_ends_with_it(embedded):
    import snowflake.connector
    import tomlkit

    known = test_a_file_runs_on_the_pool_and_its_session_reaches_the_server_from_driver_and_workers.result["password"]
    settings = tomlkit.parse((embedded.home / "connections.toml").read_text())["embedded"].unwrap()
    assert known != settings["password"]
    with pytest.raises(snowflake.connector.errors.DatabaseError, match="Incorrect username or password"):
        snowflake.connector.connect(**{**settings, "password": known})


def test_another_user_of_the_machine_cannot_run_code_on_a_jobs_nodes(session, tmp_path):
    known = test_a_file_runs_on_the_pool_and_its_session_reaches_the_server_from_driver_and_workers.result["address"]
    assert pool(session)["idle_nodes"] == 1
    # As the job's own driver does it, but for the token.
    environment = {"HOME": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    other = subprocess.run(
        [sys.executable, "-c", f"import ray; ray.init('{known}')"],
        env={**environment, "RAY_TMPDIR": tempfile.mkdtemp(dir=tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert other.returncode
    assert "authentication" in other.stderr.lower()
    assert pool(session)["idle_nodes"] == 1


def test_the_next_job_finds_warm_nodes_and_nothing_of_the_last_one(session, submit, tmp_path):
    from snowflake.ml import jobs

    script(tmp_path / "payload", "def name():\n    return __name__\n", "package/inner.py")
    script(tmp_path / "payload", "", "package/__init__.py")
    script(
        tmp_path / "payload",
        """
        import os
        import ray
        from package import inner

        @ray.remote
        class Left:
            pass

        @ray.remote
        def in_worker():
            return inner.name(), os.environ.get("FLAVOUR")

        kept = Left.options(name="left", namespace="jobs_test", lifetime="detached").remote()
        __return__ = {"worker": ray.get(in_worker.remote()), "address": os.environ["RAY_ADDRESS"]}
        """,
        "main.py",
    )
    assert pool(session)["idle_nodes"] == 1
    job = jobs.submit_directory(
        str(tmp_path / "payload"), POOL, entrypoint="main.py", stage_name=STAGE, session=session
    )
    assert job.wait(60) == "DONE", job.get_logs(verbose=True)
    first = test_a_file_runs_on_the_pool_and_its_session_reaches_the_server_from_driver_and_workers.result
    assert job.result() == {"worker": ["package.inner", None], "address": first["address"]}


def test_two_instances_are_two_ray_nodes_and_work_runs_on_both(session):
    from snowflake.ml import jobs

    def spread(tasks):
        import time

        import ray

        @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
        def where(_):
            time.sleep(0.5)
            return ray.get_runtime_context().get_node_id()

        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        try:
            left_over = bool(ray.get_actor("left", namespace="jobs_test"))
        except ValueError:
            left_over = False
        return nodes, set(ray.get([where.remote(task) for task in range(tasks)])), left_over

    job = jobs.remote(POOL, stage_name=STAGE, target_instances=2, session=session)(spread)(6)
    assert job.wait(90) == "DONE", job.get_logs(verbose=True)
    nodes, used, left_over = job.result()
    assert len(nodes) == 2
    assert used == set(nodes)
    assert not left_over, "a detached actor of the job before was still there"
    instances = session.sql(f"SHOW SERVICE INSTANCES IN SERVICE {job.id}").collect()
    assert [(row["instance_id"], row["status"]) for row in instances] == [("0", "SUCCEEDED"), ("1", "SUCCEEDED")]
    assert "worker node 1 joined" in job.get_logs(instance_id=1)
    assert job.min_instances == job.target_instances == 2


def test_a_job_that_raises_fails_with_its_traceback_in_the_log(submit, tmp_path):
    job = submit(script(tmp_path, "def boom():\n    raise KeyError('no such review')\n\nboom()\n"), target_instances=2)
    assert job.wait(60) == "FAILED"
    log = job.get_logs(verbose=True)
    assert "Traceback (most recent call last)" in log
    assert "in boom" in log
    assert "KeyError: 'no such review'" in log
    with pytest.raises(RuntimeError, match="no such review"):
        job.result()
    assert len(job.get_logs(limit=3, verbose=True).splitlines()) == 3


def test_a_second_job_waits_in_the_queue_and_a_cancelled_one_leaves_no_process(embedded, session, submit, tmp_path):
    sleeper = script(
        tmp_path,
        """
        import os, subprocess, time
        import ray

        def note():
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            with open(os.environ["NOTES"], "a") as notes:
                notes.write(f"{os.getpid()} {child.pid} ")

        @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
        def forever():
            note()
            time.sleep(600)

        note()
        ray.get([forever.remote() for _ in range(2)])
        """,
    )
    notes = tmp_path / "pids"
    running = submit(sleeper, target_instances=2, env_vars={"NOTES": str(notes)})
    waiting = submit(sleeper)
    pids = wait_until(lambda: found if len(found := _pids(notes)) == 6 else None, 90)
    assert waiting.status == "PENDING"
    assert waiting.get_logs() == ""
    assert pool(session)["active_nodes"] == 2
    assert pool(session)["state"] == "ACTIVE"
    with embedded.session() as other, ThreadPoolExecutor() as pool_of_one:
        waiter = pool_of_one.submit(other.sql(f"CALL {running.id}!SPCS_WAIT_FOR('DONE', 3)").collect)
        assert session.sql("SELECT 1").collect()[0][0] == 1
        assert not waiter.done(), "a wait keeps other sessions from nothing"
        assert "did not within 3 seconds reach status DONE. Current status: RUNNING" in str(waiter.exception())
    with pytest.raises(TimeoutError):
        running.wait(0)
    waiting.cancel()
    assert waiting.status == "CANCELLED"
    assert alive(pids) == pids
    started = time.monotonic()
    running.cancel()
    assert wait_until(lambda: running.status == "CANCELLED", 20)
    print(f"cancelled in {time.monotonic() - started:.1f} s")
    assert alive(pids) == []
    assert wait_until(lambda: pool(session)["active_nodes"] == 0)


def _pids(notes: Path) -> list[int]:
    return [int(pid) for pid in notes.read_text().split()] if notes.exists() else []


def test_more_cpus_than_a_node_has_is_said_instead_of_waited_for(submit, tmp_path):
    job = submit(
        script(tmp_path, "import ray\nray.get(ray.remote(lambda: 1).options(num_cpus=24).remote())\n"),
    )
    assert job.wait(90) == "FAILED"
    assert f"the job asks Ray for 24 CPUs, which can never be met: a node of compute pool {POOL}" in job.get_logs(
        verbose=True
    )


def test_a_requirement_that_is_not_installed_fails_the_job_and_is_named(submit, tmp_path):
    file = script(tmp_path, "__return__ = 1\n")
    job = submit(file, pip_requirements=["numpy<1", "no-such-package-at-all>=3", "pandas", "ray[data]"])
    assert job.wait(60) == "FAILED"
    log = job.get_logs(verbose=True)
    assert "numpy<1: numpy " in log
    assert "no-such-package-at-all is not installed" in log
    assert "pandas" not in log
    assert "ray[data]" not in log


def test_a_job_that_cannot_run_is_refused_when_it_is_submitted(session, tmp_path):
    from snowflake.ml import jobs
    from snowflake.snowpark.exceptions import SnowparkSQLException

    file = script(tmp_path, "__return__ = 1\n")
    with pytest.raises(SnowparkSQLException, match="Compute pool 'NO_SUCH_POOL' does not exist"):
        jobs.submit_file(file, "NO_SUCH_POOL", stage_name=STAGE, session=session)
    with pytest.raises(SnowparkSQLException, match=r"asks for 3 instances, .* has MAX_NODES = 2"):
        jobs.submit_file(file, POOL, stage_name=STAGE, session=session, target_instances=3, min_instances=1)
    with pytest.raises(SnowparkSQLException, match="unsupported on the embedded server: ML Jobs with parallel=True"):
        jobs.submit_file(file, POOL, stage_name=STAGE, session=session, parallel=True)


def test_jobs_are_listed_and_a_deleted_one_is_gone(session, submit, tmp_path):
    from snowflake.ml import jobs
    from snowflake.snowpark.exceptions import SnowparkSQLException

    session.sql(f"ALTER COMPUTE POOL {POOL} SET AUTO_RESUME = FALSE").collect()
    session.sql(f"ALTER COMPUTE POOL {POOL} SUSPEND").collect()
    job = submit(script(tmp_path, "__return__ = 1\n"))
    assert job.status == "PENDING", "a suspended pool that does not resume by itself keeps its jobs waiting"
    listed = jobs.list_jobs(limit=3, session=session)
    assert listed["name"][0] == job.name
    assert listed["status"][0] == "PENDING"
    assert set(listed["compute_pool"]) == {POOL}
    assert int(listed["target_instances"][0]) == 1
    jobs.delete_job(job, session=session)
    assert job.name not in set(jobs.list_jobs(limit=-1, session=session)["name"])
    with pytest.raises(SnowparkSQLException):
        session.sql(f"DESCRIBE SERVICE {job.id}").collect()
    assert session.sql(f"LIST @{STAGE}/{job.name.lower()}").collect() == []


# -- a server of its own --------------------------------------------------------------------------------------------


def own_session(home: Path):
    """A session of the server that has this home; the client knows one home only."""
    import tomlkit
    from snowflake.snowpark import Session

    return Session.builder.configs(tomlkit.parse((home / "connections.toml").read_text())["embedded"].unwrap()).create()


def test_jobs_and_logs_outlast_a_server_that_is_killed_and_processes_do_not(tmp_path):
    from snowflake.ml import jobs

    home, notes = tmp_path / ".snowflake", tmp_path / "pids"
    server = start_embedded(home)
    quick = script(tmp_path, "print('was here')\n")
    slow = script(
        tmp_path,
        """
        import os, subprocess, sys, time
        with open(sys.argv[1], "w") as notes:
            notes.write(f"{os.getpid()} {subprocess.Popen(['sleep', '600'], start_new_session=True).pid}")
        time.sleep(600)
        """,
        "slow.py",
    )
    with own_session(home) as session:
        options = {"compute_pool": POOL, "stage_name": STAGE, "session": prepare(session)}
        done = jobs.submit_file(quick, **options)
        assert done.wait(90) == "DONE", done.get_logs(verbose=True)
        assert processes_of(home), "its nodes wait warm for the next job"
        session.sql(f"ALTER COMPUTE POOL {POOL} SET AUTO_SUSPEND_SECS = 1").collect()
        wait_until(lambda: pool(session)["state"] == "SUSPENDED" and not processes_of(home))
        session.sql(f"ALTER COMPUTE POOL {POOL} UNSET AUTO_SUSPEND_SECS").collect()
        cut_off = jobs.submit_file(slow, args=[str(notes)], **options)
        queued = jobs.submit_file(quick, target_instances=2, **options)
        pids = wait_until(lambda: _pids(notes), 60)
    server.process.kill()
    server.process.wait()

    again = start_embedded(home)
    try:
        assert alive(pids) == []
        with own_session(home) as session:
            found = {job: jobs.get_job(job.id, session=session) for job in (done, cut_off, queued)}
            assert found[done].status == "DONE"
            assert found[done].get_logs() == "was here"
            assert found[cut_off].status == "INTERNAL_ERROR"
            assert found[queued].wait(90) == "DONE", "a job that had not begun runs on the next server"
        assert processes_of(home), "the nodes of the last job wait warm"
    finally:
        again.process.terminate()
        again.process.wait(timeout=30)
    assert processes_of(home) == []


def processes_of(home: Path) -> list[int]:
    """Processes that a server with this home started; those that are not ours to look at are none of its."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("EMBEDDED_SNOWFLAKE_DATA_DIR") == str(home / "data"):
                found.append(process.pid)
    return found


def test_a_job_name_that_is_a_path_is_refused(embedded):
    session = embedded.session()
    session.sql("CREATE STAGE IF NOT EXISTS HOL_DB.HOL_SCHEMA.ODD_NAMES").collect()
    session.sql(
        "CREATE COMPUTE POOL IF NOT EXISTS ODD_NAMES_POOL MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_XS"
    ).collect()
    spec = json.dumps(
        {
            "STAGE_PATH": "@HOL_DB.HOL_SCHEMA.ODD_NAMES/payload",
            "ARGS": ["bash", "/mnt/job_stage/system/startup.sh", "a.py"],
            "ENV_VARS": {},
        }
    )
    with pytest.raises(Exception, match="a job's name has letters, digits"):
        session.sql(
            "CALL SYSTEM$EXECUTE_ML_JOB(?, ?, ?, ?)",
            params=['HOL_DB.HOL_SCHEMA."../../ELSEWHERE"', "ODD_NAMES_POOL", spec, json.dumps({"TARGET_INSTANCES": 1})],
        ).collect()
