"""The errors of this project, in two branches: what a retry may mend, and what only a person can."""

from __future__ import annotations


class CustomerInsightsError(Exception):
    """Base of both; its message says what was expected, what was found and what to do."""


class RetryableError(CustomerInsightsError):
    """A network, a queue or a node failed: the same call may succeed later."""


class PermanentError(CustomerInsightsError):
    """The data, the settings or the rights are wrong: the same call will fail again until somebody changes them."""
