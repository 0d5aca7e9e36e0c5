"""``python -m embedded_snowflake --data-dir DIR [--port N]``: run the server in the foreground.

Writes the connection ``embedded`` (loopback address, port, user, a password made once) into ``connections.toml`` of
Snowflake's home, so that ``snowflake.connector.connect(connection_name="embedded")`` works from any script that has the
same ``SNOWFLAKE_HOME``.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import stat
import sys
from pathlib import Path

import duckdb
import tomlkit

from embedded_snowflake import faults
from embedded_snowflake.listener import Listener, bound
from embedded_snowflake.server import Configuration, EmbeddedSnowflake

CONNECTION = "embedded"
DEFAULT_PORT = 8765
DEFAULT_SENTIMENT_MODEL = "customer_insights.sentiment_models:embedded_default"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="embedded_snowflake", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="where tables, stages, jobs and models are kept")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 chooses a free one (default: %(default)s)")
    parser.add_argument(
        "--connections-file",
        type=Path,
        help="connections.toml to write (default: connections.toml beside the data directory)",
    )
    parser.add_argument("--database", default="HOL_DB", help="database of the connection (default: %(default)s)")
    parser.add_argument("--schema", default="HOL_SCHEMA", help="schema of the connection (default: %(default)s)")
    parser.add_argument("--warehouse", default="HOL_WAREHOUSE", help="warehouse of the connection")
    parser.add_argument(
        "--sentiment-model",
        default=DEFAULT_SENTIMENT_MODEL,
        help="module:callable whose result answers AI_SENTIMENT by predict(texts) (default: %(default)s)",
    )
    parser.add_argument(
        "--object-store-mb",
        type=int,
        default=256,
        help="what a job's Ray node keeps in memory before it spills to disk (default: %(default)s)",
    )
    parser.add_argument(
        "--faults",
        type=given_faults,
        default=[],
        metavar="FILE_OR_JSON",
        help="what shall go wrong from the start (docs/rehearsing-faults.md)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    options.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        listener = bound(options.port)
    except OSError as error:
        print(
            f"port {options.port} on 127.0.0.1 is taken ({error.strerror}): choose another with --port", file=sys.stderr
        )
        return 1
    port = listener.getsockname()[1]
    file = options.connections_file or options.data_dir.resolve().parent / "connections.toml"
    password = known_password(file) or secrets.token_urlsafe(24)
    configuration = Configuration(
        options.data_dir.resolve(),
        port,
        CONNECTION,
        password,
        options.sentiment_model,
        warehouse=options.warehouse.upper(),
        object_store_memory=options.object_store_mb * 2**20,
    )
    try:
        server = EmbeddedSnowflake(configuration)
    except duckdb.IOException as error:
        if "lock" not in str(error):
            raise
        print(
            f"{options.data_dir} is in use by another embedded Snowflake: use that one, or stop it (`make stop`)",
            file=sys.stderr,
        )
        return 1
    # Not before: the connection of a server that runs on the same data would be overwritten.
    write_connection(file, port, password, options.database, options.schema, options.warehouse)
    listener.listen()
    print(f"embedded Snowflake listens on 127.0.0.1:{port}; connection '{CONNECTION}' is in {file}", flush=True)
    server.faults.arm(options.faults)
    serving = Listener(server.app(), listener)
    server.faults.refuse = serving.refuse
    serving.run()
    return 0


def given_faults(file_or_json: str) -> list[faults.Fault]:
    """The faults of --faults. Those that strike at once would strike before anybody is there."""
    try:
        found = faults.read(faults.given(file_or_json))
    except (faults.FaultError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if any(fault.at_once for fault in found):
        raise argparse.ArgumentTypeError("from the start, refuse and lose_node need a match that says when they strike")
    return found


def known_password(file: Path) -> str | None:
    """The password of an earlier start, so that it stays the same."""
    connection = tomlkit.parse(file.read_text()).get(CONNECTION, {}) if file.exists() else {}
    return str(connection["password"]) if connection.get("password") else None


def write_connection(file: Path, port: int, password: str, database: str, schema: str, warehouse: str) -> None:
    """Write the connection ``embedded`` into ``connections.toml``; other connections stay as they are."""
    document = tomlkit.parse(file.read_text()) if file.exists() else tomlkit.document()
    document[CONNECTION] = {
        "account": CONNECTION,
        "user": CONNECTION,
        "password": password,
        "host": "127.0.0.1",
        "port": port,
        "protocol": "http",
        "database": database,
        "schema": schema,
        "warehouse": warehouse,
        # The connector's own limits are minutes to endless; this server is on this machine or it is not running.
        "login_timeout": 10,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(tomlkit.dumps(document))
    # The connector refuses a connections file that others can read.
    partial.chmod(stat.S_IRUSR | stat.S_IWUSR)
    partial.replace(file)


if __name__ == "__main__":
    raise SystemExit(main())
