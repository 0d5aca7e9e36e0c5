"""Which job gets which nodes, and when: a queue per compute pool, first come first served, MAX_NODES at most.

A job's nodes are its own and start when it is its turn. After a job that ended well they wait warm for the next job
with as many instances, until the pool is suspended or their place is needed. What happens on them is in ``job_runs``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedded_snowflake import compute_pools, job_history
from embedded_snowflake.compute_pools import Pool
from embedded_snowflake.job_history import CANCELLED, CANCELLING, INTERNAL_ERROR, PENDING, RUNNING, Job
from embedded_snowflake.job_runs import JobRun
from embedded_snowflake.ray_nodes import RayCluster, end_leftovers

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
STOP_TIMEOUT_SECONDS = 15.0
# Ray keeps a little of every job that it has seen.
JOBS_PER_CLUSTER = 50

_IDLE, _ACTIVE, _STOPPING = "idle", "active", "stopping"


@dataclass(frozen=True)
class Nodes:
    """How many of a pool's nodes do what; those that end still count as active."""

    starting: int
    active: int
    idle: int


@dataclass(eq=False)
class _Lease:
    cluster: RayCluster
    pool: str
    state: str
    since: float = field(default_factory=time.monotonic)

    def turn(self, state: str) -> None:
        self.state, self.since = state, time.monotonic()


class Scheduler:
    """The queues of all pools. ``start`` and ``stop`` it once."""

    def __init__(self, server: EmbeddedSnowflake, object_store_memory: int) -> None:
        self._server = server
        self._object_store_memory = object_store_memory
        self._changed = threading.Condition()
        self._leases: list[_Lease] = []
        self._runs: dict[str, JobRun] = {}
        self._threads: set[threading.Thread] = set()
        self._last_use: dict[str, float] = {}
        self.stopping = threading.Event()

    def start(self) -> None:
        """End what an earlier server left, then serve the queues."""
        ended = end_leftovers(self._server.data_dir)
        for job in job_history.select(self._server, "status IN (?, ?)", (RUNNING, CANCELLING)):
            reason = "the embedded server was killed while the job ran"
            logger.warning("job %s: %s; %d processes were left and were ended", job.name, reason, ended)
            job_history.change(self._server, job.key, status=INTERNAL_ERROR, message=reason)
        waiting = {job.compute_pool for job in job_history.select(self._server, "status = ?", (PENDING,))}
        for pool in compute_pools.every(self._server):
            if pool.auto_resume:
                compute_pools.change(self._server, pool.name, suspended=pool.name not in waiting)
        self._thread(self._serve, "compute pools")

    def stop(self) -> None:
        """End every job and every node. A job that has not begun stays in its queue for the next server."""
        self.stopping.set()
        with self._changed:
            for run in self._runs.values():
                run.ask_to_end(INTERNAL_ERROR, "the embedded server stopped while the job ran")
            for lease in self._leases:
                if lease.state == _IDLE:
                    self._end(lease)
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        end_leftovers(self._server.data_dir)

    def wake(self) -> None:
        """Look at the queues now."""
        with self._changed:
            self._changed.notify_all()

    # -- what statements ask and tell ---------------------------------------------------------------------------------

    def nodes(self, pool: str) -> Nodes:
        """What the pool's nodes are doing."""
        with self._changed:
            leases = [lease for lease in self._leases if lease.pool == pool]
            starting = [lease for lease in leases if lease.state == _ACTIVE and not lease.cluster.address]
            idle = [lease for lease in leases if lease.state == _IDLE]
            busy = [lease for lease in leases if lease not in starting and lease not in idle]
        return Nodes(*(sum(lease.cluster.shape.nodes for lease in group) for group in (starting, busy, idle)))

    def unfinished(self, pool: str) -> list[Job]:
        """The pool's jobs that have not ended."""
        condition = "compute_pool = ? AND status IN (?, ?, ?)"
        return job_history.select(self._server, condition, (pool, PENDING, RUNNING, CANCELLING))

    def submitted(self, job: Job) -> None:
        """A job was added to the queue of its pool: resume the pool where it resumes by itself."""
        pool = compute_pools.find(self._server, job.compute_pool)
        if pool.suspended and pool.auto_resume:
            compute_pools.change(self._server, pool.name, suspended=False, resumed_on=compute_pools.now())
        self.wake()

    def cancel(self, key: str, reason: str) -> None:
        """End a job: at once in the queue, in a moment on its nodes; nothing where it is over."""
        with self._changed:
            run = self._runs.get(key)
            if run:
                run.ask_to_end(CANCELLED, reason)
            elif not job_history.select(self._server, "key = ?", (key,))[0].over:
                job_history.change(self._server, key, status=CANCELLED, message=reason)

    def running(self, key: str | None = None) -> list[JobRun]:
        """The jobs that have their nodes, or the one with this key if it has; the oldest first."""
        with self._changed:
            return [run for run in self._runs.values() if run.cluster.address and key in (None, run.job.key)]

    # -- the queues ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with self._changed:
            while not self.stopping.is_set():
                try:
                    self._look()
                except Exception:
                    # Whatever it was, the other pools' jobs still wait.
                    logger.exception("the queues of the compute pools")
                self._changed.wait(TICK_SECONDS)

    def _look(self) -> None:
        pools = {pool.name: pool for pool in compute_pools.every(self._server)}
        queues: dict[str, list[Job]] = {}
        for job in job_history.select(self._server, "status = ?", (PENDING,)):
            if job.key not in self._runs:
                queues.setdefault(job.compute_pool, []).append(job)
        for name, queue in queues.items():
            if name in pools and not pools[name].suspended:
                self._give_nodes(pools[name], queue)
        for pool in pools.values():
            if not pool.suspended and self._is_unused(pool) and pool.name not in queues:
                compute_pools.change(self._server, pool.name, suspended=True)
        for lease in self._leases:
            pool = pools.get(lease.pool)
            if lease.state == _IDLE and (pool is None or pool.suspended):
                self._end(lease)

    def _is_unused(self, pool: Pool) -> bool:
        leases = [lease for lease in self._leases if lease.pool == pool.name]
        if not pool.auto_suspend_secs or any(lease.state != _IDLE for lease in leases):
            self._last_use[pool.name] = time.monotonic()
            return False
        since = max([self._last_use.setdefault(pool.name, time.monotonic()), *(lease.since for lease in leases)])
        return time.monotonic() - since > pool.auto_suspend_secs

    def _give_nodes(self, pool: Pool, queue: list[Job]) -> None:
        for job in queue:
            try:
                lease = self._lease(pool, job.target_instances)
            except OSError as error:
                # No memory, no disk, no process: the other jobs and pools are still looked at.
                logger.exception("job %s", job.name)
                reason = f"Ray's nodes could not be started: {error}"
                job_history.change(self._server, job.key, status=INTERNAL_ERROR, message=reason)
                continue
            if not lease:
                # Those behind it wait, too: a small job must not keep a large one from ever getting its nodes.
                return
            run = JobRun(self._server, job, lease.cluster)
            self._runs[job.key] = run
            self._last_use[pool.name] = time.monotonic()
            self._thread(lambda run=run, lease=lease: self._carry_out(run, lease), f"job {job.name}")

    def _lease(self, pool: Pool, nodes: int) -> _Lease | None:
        leases = [lease for lease in self._leases if lease.pool == pool.name]
        cpus = pool.shape(nodes, self._object_store_memory).cpus
        for lease in leases:
            shape = lease.cluster.shape
            if lease.state == _IDLE and (shape.nodes, shape.cpus) == (nodes, cpus):
                lease.turn(_ACTIVE)
                return lease
        used = sum(lease.cluster.shape.nodes for lease in leases)
        if used + nodes <= pool.max_nodes:
            shape = pool.shape(nodes, self._object_store_memory)
            self._leases.append(_Lease(RayCluster(shape, self._server.data_dir), pool.name, _ACTIVE))
            return self._leases[-1]
        freed = sum(lease.cluster.shape.nodes for lease in leases if lease.state == _STOPPING)
        for lease in sorted(leases, key=lambda lease: lease.since):
            if used - freed + nodes <= pool.max_nodes:
                break
            if lease.state == _IDLE:
                freed += lease.cluster.shape.nodes
                self._end(lease)
        return None

    def _carry_out(self, run: JobRun, lease: _Lease) -> None:
        succeeded = False
        try:
            succeeded = run.run()
        finally:
            lease.cluster.jobs_run += 1
            fresh = lease.cluster.jobs_run < JOBS_PER_CLUSTER and not self.stopping.is_set()
            reusable = succeeded and fresh and lease.cluster.is_clean()
            with self._changed:
                self._runs.pop(run.job.key, None)
                lease.turn(_IDLE)
                if not reusable or self.stopping.is_set():
                    self._end(lease)
                self._changed.notify_all()

    def _end(self, lease: _Lease) -> None:
        lease.turn(_STOPPING)

        def end() -> None:
            lease.cluster.stop()
            with self._changed:
                self._leases.remove(lease)
                self._changed.notify_all()

        self._thread(end, f"end of nodes of {lease.pool}")

    def _thread(self, target: Callable[[], None], name: str) -> None:
        def run() -> None:
            try:
                target()
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.add(thread)
        thread.start()
