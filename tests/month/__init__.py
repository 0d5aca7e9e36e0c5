"""A month of operation, simulated: reviews arrive day by day, and the project's own schedules and sensors work on them.

The parts that are real: the embedded server with its Ray jobs, a Dagster instance, the schedules and sensors of
``definitions``, a web server that receives the alerts. Simulated is the time of day, for every process (``clock``).
What shall arrive and what must then be true is in ``plan``, known before anything runs; ``operation`` plays a day,
``play`` the days one after the other, ``audit`` compares, ``page`` writes docs/simulated-month.md.
"""
