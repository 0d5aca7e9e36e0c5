"""Retries of a step: what another attempt may mend is tried again with back-off, everything else fails at once.

A run whose worker died is Dagster's to retry (``run_retries`` of dagster.yaml). Which errors are which is in
``customer_insights.errors`` and ``customer_insights.transient``.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar

import dagster as dg

from customer_insights.settings import settings
from customer_insights.transient import is_transient
from resources import metering

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

RETRIES = 3
LONGEST_WAIT_SECONDS = 600


def retried(step: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function of an asset or a check that Dagster calls again after an error that another attempt may mend.

    What the step used is on its materialization (``metering``).
    Stands below ``@dg.asset``. The step waits outside of its process and of its pool's slot.
    """

    @functools.wraps(step)
    def attempt(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        began = datetime.now(UTC)
        try:
            result = step(*args, **kwargs)
        except Exception as error:
            retry = dg.OpExecutionContext.get().retry_number
            if retry >= RETRIES or not is_transient(error):
                raise
            raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait_seconds(retry)) from error
        return metering.with_use(result, kwargs, began)

    return attempt


def wait_seconds(retry: int) -> float:
    """Seconds before the retry after ``retry`` earlier ones: doubled each time, and spread, so that steps that failed
    together do not come back together."""
    longest = min(settings().retry_seconds * 2**retry, LONGEST_WAIT_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - to part those that wait
