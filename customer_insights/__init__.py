"""The work itself: what a job does on the compute pool and what a query does in the warehouse.

This package is the payload that is uploaded with every job, so it never imports dagster, nor assets, resources or
schedules.
"""

__version__ = "0.1.0"
