"""Nobody on the network reaches anything: every socket that listens does so on the loopback address.

Those of Dagster's page are looked at in ``test_escaping.py``, which starts it. What the embedded server answers to who
has no password is in ``test_defences.py``, that Ray wants a job's token in ``test_embedded_jobs.py``.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import Embedded

MARK = "EMBEDDED_SNOWFLAKE_DATA_DIR"


def listening(pid: int, *others: int) -> list:
    """Addresses on which a process, its descendants and others take connections from the network (TCP and UDP)."""
    found = []
    parents = [psutil.Process(each) for each in (pid, *others) if psutil.pid_exists(each)]
    for process in {*parents, *(child for parent in parents for child in parent.children(recursive=True))}:
        try:
            connections = process.net_connections(kind="inet")
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        # An UDP socket has no state; one that has a peer takes nothing from others.
        found += [
            c.laddr
            for c in connections
            if c.status == psutil.CONN_LISTEN or (c.type.name == "SOCK_DGRAM" and not c.raddr)
        ]
    return [address for address in found if address]


def only_loopback(addresses: list) -> bool:
    """Whether all are, and there are any; ``::ffff:127.0.0.1`` is one, too."""
    assert addresses
    parsed = [ipaddress.ip_address(address.ip) for address in addresses]
    return all((getattr(each, "ipv4_mapped", None) or each).is_loopback for each in parsed)


def test_the_look_finds_a_socket_that_is_open_to_the_network():
    code = (
        "import socket, sys; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); print('on', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert not only_loopback(listening(process.pid))
        process.kill()


def test_the_embedded_server_listens_on_the_loopback_address_only(embedded: Embedded):
    assert only_loopback(listening(embedded.process.pid))


@pytest.mark.slow
def test_a_jobs_ray_cluster_listens_on_the_loopback_address_only(embedded: Embedded, tmp_path: Path):
    from snowflake.ml import jobs

    session = embedded.session()
    session.use_schema("HOL_DB.HOL_SCHEMA")
    session.sql(
        "CREATE COMPUTE POOL IF NOT EXISTS LOOPBACK_POOL MIN_NODES = 1 MAX_NODES = 2 INSTANCE_FAMILY = CPU_X64_XS"
    ).collect()
    file = tmp_path / "waits.py"
    file.write_text(
        "import time, ray\n"
        "@ray.remote(num_cpus=0.1)\n"
        "def waits():\n    time.sleep(60)\n"
        "tasks = [waits.remote() for _ in range(2)]\n"
        "time.sleep(1)\n"
        "print('running', flush=True)\n"
        "ray.get(tasks)\n"
    )
    job = jobs.submit_file(str(file), "LOOPBACK_POOL", stage_name="LOOPBACK_STAGE", session=session, target_instances=2)
    try:
        wait_until_it_runs(job)
        data = str(embedded.home / "data")
        marked = [process.pid for process in psutil.process_iter() if environment(process).get(MARK) == data]
        assert {"raylet", "gcs_server"} <= {program(pid) for pid in marked}
        assert only_loopback(listening(*marked))
    finally:
        job.cancel()


def program(pid: int) -> str:
    """Name of a process's program; empty where it has ended meanwhile."""
    try:
        return Path((psutil.Process(pid).cmdline() or [""])[0]).name
    except psutil.Error:
        return ""


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def wait_until_it_runs(job, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if job.status == "RUNNING" and "running" in job.get_logs():
            return
        assert job.status in ("PENDING", "RUNNING"), job.get_logs()
        time.sleep(0.5)
    raise AssertionError(f"the job did not run within {seconds} s")
