"""The command ``customer-insights``: starts what runs on this machine and calls the project for a person at a terminal.

The work is in ``customer_insights``, the graph in ``definitions``.
"""
