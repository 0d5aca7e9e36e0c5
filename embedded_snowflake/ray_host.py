"""The process that holds one Ray cluster: a head node and its workers, as many as a job has instances.

Run by its path, not as a module, so that nothing of the server is importable in the jobs. Starting and watching the
nodes belongs here; which job gets them in ``scheduler``. It lives no longer than the server: when its pipe closes, the
nodes end.

``ray start`` is not used: it takes 127.0.0.1 for a mistake, gives the node the machine's outward address and listens
there, so that anybody who reaches the machine could run code in it. Ray's own ``Cluster`` starts the same processes on
the loopback address, with ports that no other cluster has.
"""

from __future__ import annotations

import json
import os
import sys
from multiprocessing.connection import Connection
from typing import Any


def main(descriptor: int, settings: dict[str, Any]) -> int:
    """Start the nodes, say where, then answer each request with what the cluster is doing until the pipe closes."""
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": settings["cpus"],
        "memory": settings["memory"],
        "object_store_memory": settings["object_store_memory"],
        "node_ip_address": "127.0.0.1",
        # The default is one port for every cluster of the machine.
        "dashboard_agent_listen_port": 0,
    }
    with Connection(descriptor) as pipe:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**node, "include_dashboard": False, "dashboard_port": 0, "no_monitor": True},
        )
        try:
            for _ in range(settings["nodes"] - 1):
                cluster.add_node(**node, wait=False)
            cluster.wait_for_nodes(timeout=settings["timeout_seconds"])
            pipe.send_bytes(json.dumps({"address": cluster.address}).encode())
            while True:
                pipe.recv_bytes()
                pipe.send_bytes(json.dumps(observed(cluster)).encode())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return 0
        finally:
            cluster.shutdown()


def observed(cluster: Any) -> dict[str, Any]:
    """Living nodes, demands that no node can ever meet, and what a job that ended has left running."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(cluster.address)
    nodes = [
        {usage.resource_name: usage.total for usage in node.resource_usage.usage}
        for node in [*status.active_nodes, *status.idle_nodes]
        if node.resource_usage
    ]
    demands = status.resource_demands
    tasks = [request.bundle for demand in demands.ray_task_actor_demand for request in demand.bundles_by_count]
    groups = [
        (demand.strategy or "", [dict(each.bundle) for each in demand.bundles_by_count for _ in range(each.count)])
        for demand in demands.placement_group_demand
    ]
    actors = cluster.global_state.actor_table(None, None, None).values()
    placement_groups = cluster.global_state.placement_group_table().values()
    return {
        "nodes": len(nodes),
        "infeasible": infeasible(nodes, tasks, groups),
        "left_over": sum(actor["State"] != "DEAD" for actor in actors)
        + sum(group["state"] != "REMOVED" for group in placement_groups),
    }


def infeasible(
    nodes: list[dict[str, float]], tasks: list[dict[str, float]], groups: list[tuple[str, list[dict[str, float]]]]
) -> list[dict[str, float]]:
    """The requests larger than every node, and the placement groups (strategy, bundles) that can have no place."""
    too_large = [dict(bundle) for bundle in tasks if not _fits_one(bundle, nodes)]
    everything = _sum(nodes)
    for strategy, bundles in groups:
        total = _sum(bundles)
        packed = [total] if strategy == "STRICT_PACK" else bundles
        if not all(_fits_one(bundle, nodes) for bundle in packed) or not _fits(total, everything):
            too_large.append(total)
    return too_large


def _fits_one(bundle: dict[str, float], nodes: list[dict[str, float]]) -> bool:
    return any(_fits(bundle, node) for node in nodes)


def _fits(bundle: dict[str, float], node: dict[str, float]) -> bool:
    # Ray adds resources of its own, such as the names of placement groups, to what a user asked for.
    wanted = {name: amount for name, amount in bundle.items() if "_group_" not in name}
    return all(amount <= node.get(name, 0.0) for name, amount in wanted.items())


def _sum(bundles: list[dict[str, float]]) -> dict[str, float]:
    names = {name for bundle in bundles for name in bundle}
    return {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in names}


if __name__ == "__main__":
    # What Ray prints must not be where another process's answer is expected.
    os.dup2(2, 1)
    sys.exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
