"""What names a step of a run: in its jobs' comments, and in the query tag of its sessions."""

from __future__ import annotations

import dagster as dg
from dagster import AssetExecutionContext, OpExecutionContext

from customer_insights import costs


def name(context: AssetExecutionContext | OpExecutionContext) -> str:
    """The asset; of an op, whose name says nothing outside of its job, the job too."""
    step = context.get_step_execution_context().step.key
    return step if context.has_assets_def else f"{context.job_name}.{step}"


def partition(context: AssetExecutionContext | OpExecutionContext) -> str | None:
    """The day, or the range of days as ``first...last``; None for a step without partitions."""
    # A run for one day may also make assets that have no partitions.
    whole = context.has_assets_def and context.assets_def.partitions_def is None
    if whole or not (context.has_partition_key or context.has_partition_key_range):
        return None
    return costs.partition_label(context.partition_key_range.start, context.partition_key_range.end)


def query_tag() -> str | None:
    """The tag of the step that this thread runs; None outside of steps."""
    try:
        context = OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None
    return costs.query_tag(context.run_id, name(context), partition(context))
