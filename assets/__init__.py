"""What exists and what it depends on: Dagster's asset definitions, a few lines each.

The work is in ``customer_insights``; how Snowflake is reached is in ``resources``; when things run is in ``schedules``.
"""
