"""Which errors another try may mend: Snowflake out of reach, a session that is gone, a Ray node or worker that died.

What this project raises itself says so by its class (``errors``); here are the errors of others.
"""

from __future__ import annotations

from collections.abc import Iterator

from customer_insights.errors import PermanentError, RetryableError

# The request did not get through (25xxxx), or the session is gone (39011x) and a new one helps,
# https://github.com/snowflakedb/snowflake-connector-python/blob/main/src/snowflake/connector/errorcode.py
# and the stage's storage did not answer (253002, 253003).
_NO_ANSWER = frozenset({250001, 250002, 250003, 250006, 251001, 251002, 251011, 251012, 253002, 253003})
_SESSION_GONE = frozenset({290401, 390104, 390110, 390111, 390112, 390114, 390115})


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, nearest first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def error_number(error: BaseException) -> int | None:
    """Snowflake's number of an error of the connector or of Snowpark."""
    number = getattr(error, "sql_error_code", None) or getattr(error, "errno", None)
    return number if isinstance(number, int) and not isinstance(error, OSError) else None


def is_transient(error: BaseException) -> bool:
    """Whether Snowflake was out of reach or the session is gone, so that another try may succeed."""
    if isinstance(error, RetryableError):
        return True
    if isinstance(error, PermanentError):
        return False
    from snowflake.connector import errors
    from snowflake.snowpark.exceptions import SnowparkSessionException

    # HTTP errors that the connector repeated until its time was over; they share no class but Error.
    http_errors = (
        errors.InternalServerError,
        errors.BadGatewayError,
        errors.ServiceUnavailableError,
        errors.GatewayTimeoutError,
        errors.TooManyRequests,
        errors.RequestTimeoutError,
        errors.OtherHTTPRetryableError,
        errors.RequestExceedMaxRetryError,
    )
    for cause in causes(error):
        number = error_number(cause)
        if number in _NO_ANSWER or number in _SESSION_GONE or isinstance(cause, (ConnectionError, TimeoutError)):
            return True
        if isinstance(cause, (*http_errors, SnowparkSessionException)):
            return True
    return False


def is_transient_in_job(error: BaseException) -> bool:
    """As ``is_transient``, inside a job: also a node, a worker or an actor that died more often than Ray tries
    again."""
    from ray import exceptions

    lost = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.LocalRayletDiedError,
        exceptions.OutOfMemoryError,
    )
    return is_transient(error) or any(isinstance(cause, lost) for cause in causes(error))
