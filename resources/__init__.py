"""How Dagster reaches Snowflake: connections, the compute pool (a Pipes client) and what they raise.

Nothing heavy is imported here or by the modules of this package when they load: a code location imports them at
start-up.
"""
