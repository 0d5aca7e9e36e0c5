"""Randomized rounds: a writing job is started, something goes wrong at a random moment, retries end it well, and its
rows are counted.

``make rounds ROUNDS=200 SEED=1`` prints the table; ``tests/test_exactly_once.py`` plays a few. ``server`` is the
embedded server with a window into it, ``drivers`` starts the jobs' processes, which ``zygote`` forks, ``place`` is
where a round takes place, ``jobs`` says what each job works on and must have written, and ``rounds`` what goes wrong.
"""
