"""Faults as data, and how a running embedded server is told of them: a client class, and a command line.

``python -m embedded_snowflake.faults add '{"kind": "drop_after", "match": "INSERT"}'``. What a fault does to a request
belongs in ``fault_injection``; nothing here needs the server's own modules.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

PATH = "/embedded/faults"
CONNECTION = "embedded"
TIMEOUT_SECONDS = 30.0

Kind = Literal[
    "refuse",
    "unavailable",
    "delay",
    "drop_before",
    "drop_after",
    "expire_session",
    "disk_full",
    "lose_node",
]
# Fields that mean something for some kinds only.
_OF_SOME = {
    "seconds": ("refuse", "delay"),
    "when": ("delay",),
    "renewable": ("expire_session",),
    "node": ("lose_node",),
}


class Fault(BaseModel):
    """One fault: what happens, to which requests, how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    # Searched, ignoring case, in a statement's text, and in the path of a request that is no statement (login,
    # heartbeat, upload). None: every statement, and no other request.
    match: str | None = None
    of: Literal["any", "job", "client"] = "any"
    skip: int = Field(0, ge=0)
    # 0: until it is removed.
    times: int = Field(1, ge=0)
    probability: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    seconds: float = Field(0, ge=0, le=3600)
    when: Literal["before", "after"] = "before"
    renewable: bool = True
    node: Literal["worker", "head"] = "worker"

    @field_validator("match")
    @classmethod
    def _is_regular_expression(cls, match: str | None) -> str | None:
        try:
            re.compile(match or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression: {error}") from error
        return match

    @model_validator(mode="after")
    def _has_the_fields_of_its_kind(self) -> Fault:
        for name, kinds in _OF_SOME.items():
            if name in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"{name} is for {' and '.join(kinds)} only")
        if self.kind in _OF_SOME["seconds"] and not self.seconds:
            raise ValueError(f"{self.kind} needs seconds greater than 0")
        if self.kind == "lose_node" and self.of == "client":
            raise ValueError("lose_node strikes when a job sends a statement: of is job or any")
        return self

    @property
    def at_once(self) -> bool:
        """Whether it strikes when it is added instead of when a request comes."""
        return self.kind in ("refuse", "lose_node") and self.match is None


class FaultError(ValueError):
    """What was given is no fault, or the server did not take it; the message says what it expected."""


def read(document: str | bytes) -> list[Fault]:
    """The faults of a JSON object or list. Raises FaultError with a sentence that names the fields and the kinds."""
    try:
        found = json.loads(document)
        return TypeAdapter(list[Fault]).validate_python(found if isinstance(found, list) else [found])
    except ValueError as error:
        problems = [_problem(each) for each in error.errors()] if isinstance(error, ValidationError) else [str(error)]
        raise FaultError(
            f"this is no fault: {'; '.join(problems)}. Expected a JSON object, or a list of them, with the "
            f"field kind ({', '.join(get_args(Kind))}) and optionally "
            f"{', '.join(name for name in Fault.model_fields if name != 'kind')}."
        ) from error


def _problem(error: Any) -> str:
    # The first part is the fault's place in the list.
    place = ".".join(str(part) for part in error["loc"][1:])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


@dataclass(frozen=True)
class Faults:
    """The faults of a running server. Raises FaultError for an answer that is no success, OSError where none comes."""

    host: str
    port: int
    user: str
    password: str

    @classmethod
    def of_connection(cls, name: str = CONNECTION, home: Path | None = None) -> Faults:
        """By the name of a connection in ``connections.toml`` of SNOWFLAKE_HOME."""
        home = home or Path(os.environ.get("SNOWFLAKE_HOME", "~/.snowflake")).expanduser()
        file = home / "connections.toml"
        found = tomlkit.parse(file.read_text()).unwrap().get(name) if file.is_file() else None
        if not found or "port" not in found:
            raise FaultError(
                f"expected the connection '{name}' of an embedded server in {file}: start the server, or set "
                "SNOWFLAKE_HOME to the directory that it wrote connections.toml to"
            )
        return cls(str(found["host"]), int(found["port"]), str(found["user"]), str(found["password"]))

    def add(self, *faults: dict[str, Any]) -> list[str]:
        """Arm faults; their ids."""
        return self._request("POST", PATH, list(faults))["ids"]

    def list(self) -> list[dict[str, Any]]:
        """Every fault with its id, how often it was ``injected``, and how many requests are ``waiting`` in it."""
        return self._request("GET", PATH)["faults"]

    def remove(self, fault_id: str) -> None:
        """Remove one fault; requests that wait in it go on."""
        self._request("DELETE", f"{PATH}/{fault_id}")

    def clear(self) -> None:
        """Remove all faults; requests that wait go on."""
        self._request("DELETE", PATH)

    def _request(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, None if document is None else json.dumps(document), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise FaultError(str(answer.get("message", answer)))
        return answer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="embedded_snowflake.faults", description="Rehearse faults on a running embedded server."
    )
    parser.add_argument("--connection", default=CONNECTION, help="in connections.toml of SNOWFLAKE_HOME")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="arm faults")
    adding.add_argument("fault", help="a JSON object, a JSON list, or the name of a file with either")
    commands.add_parser("list", help="every fault and how often it has struck")
    clearing = commands.add_parser("clear", help="remove all faults, or those named")
    clearing.add_argument("id", nargs="*")
    options = parser.parse_args(arguments)
    try:
        server = Faults.of_connection(options.connection)
        if options.command == "add":
            armed = [fault.model_dump(exclude_unset=True) for fault in read(given(options.fault))]
            print(*server.add(*armed), sep="\n")
        elif options.command == "list":
            print(*map(json.dumps, server.list()), sep="\n")
        elif options.id:
            for fault_id in options.id:
                server.remove(fault_id)
        else:
            server.clear()
    except (FaultError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def given(file_or_json: str) -> str:
    """The JSON that was given, or that is in the file of that name."""
    return file_or_json if file_or_json.lstrip().startswith(("{", "[")) else Path(file_or_json).read_text()


if __name__ == "__main__":
    raise SystemExit(main())
