"""A local stand-in for a Snowflake account, on which Snowflake's own clients run unchanged.

fakesnow (DuckDB behind Snowflake's wire protocol) answers SQL; this package adds what fakesnow lacks: stages that last,
compute pools and ML jobs on local Ray nodes, the Model Registry and AI functions. Everything it keeps is under one data
directory. It imports nothing of the project around it.
"""
