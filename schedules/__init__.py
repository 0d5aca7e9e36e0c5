"""When things run: the jobs that schedules start, the schedules and the sensors. What runs is in ``assets``."""
