"""The sensor that looks at the stage: it asks for a day once, and again when something came."""

from __future__ import annotations

import dagster as dg
from conftest import Graph, today

from resources.snowflake import SnowflakeConnection
from schedules.sensors import new_review_files


def ask(graph: Graph, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    snowflake = SnowflakeConnection(database=graph.database, schema_name="HOL_SCHEMA")
    with graph.instance as instance:
        result = new_review_files(dg.build_sensor_context(instance=instance, cursor=cursor), snowflake=snowflake)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def test_a_day_is_asked_for_once_and_again_when_a_file_came(empty_graph: Graph):
    assert isinstance(ask(empty_graph, None), dg.SkipReason)
    empty_graph.put("first.txt", b'"a-1","good chair"')
    first = ask(empty_graph, None)
    assert isinstance(first, dg.SensorResult)
    assert [request.partition_key for request in first.run_requests or []] == [today()]
    assert isinstance(ask(empty_graph, first.cursor), dg.SkipReason)
    empty_graph.put("second.txt", b'"a-2","bad chair"')
    second = ask(empty_graph, first.cursor)
    assert isinstance(second, dg.SensorResult)
    keys = [request.run_key for result in (first, second) for request in result.run_requests or []]
    assert len(set(keys)) == 2
