"""The server's end of the process in which models run: started on first use, ended when idle, hung or not needed.

What a request means belongs in ``inference_worker``; which SQL asks for it in ``ai_functions`` and ``model_inference``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from embedded_snowflake.inference_worker import arrow_bytes

IDLE_SECONDS = 600.0
REQUEST_TIMEOUT_SECONDS = 600.0
_STOP_TIMEOUT_SECONDS = 5.0


class InferenceError(Exception):
    """A model raised, or its process ended; the message is for the user of the SQL function."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class InferenceProcess:
    """One Python process that runs models, one request at a time. Safe to use from many threads."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def request(self, header: dict[str, Any], table: pa.Table) -> pa.Table:
        """The process's answer. Raises InferenceError with the model's message, or with what became of the process."""
        head, body = json.dumps(header).encode(), arrow_bytes(table)
        with self._lock:
            connection = self._open()
            try:
                return self._exchange(connection, head, body)
            except (EOFError, OSError) as error:
                code = self._reap()
                if code != 0:
                    raise InferenceError(f"the process of the model ended with {code}") from error
                # It had been idle and left between the look and the request.
                return self._exchange(self._open(), head, body)

    def stop(self) -> None:
        """End the process, also in the middle of a request, and start none again."""
        self._stopped = True
        if process := self._process:
            process.kill()
        with self._lock:
            self._reap()

    def _exchange(self, connection: Connection, head: bytes, body: bytes) -> pa.Table:
        connection.send_bytes(head)
        connection.send_bytes(body)
        if not connection.poll(self._timeout_seconds):
            self._reap()
            raise InferenceError(f"the model did not answer within {self._timeout_seconds:.0f} s and was stopped")
        answer = json.loads(connection.recv_bytes())
        if not answer["ok"]:
            raise InferenceError(answer["error"], missing=answer["missing"])
        with pa.ipc.open_stream(connection.recv_bytes()) as reader:
            return reader.read_all()

    def _open(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        if self._stopped:
            raise InferenceError("the server is stopping")
        self._reap()
        near_end, far_end = socket.socketpair()
        self._connection = Connection(near_end.detach())
        # OpenMP's default is to spin between parallel regions: on a busy machine that makes a short call take seconds.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        with far_end:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
                [
                    sys.executable,
                    "-m",
                    "embedded_snowflake.inference_worker",
                    str(far_end.fileno()),
                    str(self._idle_seconds),
                ],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env=environment,
                start_new_session=True,
            )
        return self._connection

    def _reap(self) -> int | None:
        """Close the pipe, end the process and return its exit code."""
        if self._connection is not None:
            self._connection.close()
        process, self._process, self._connection = self._process, None, None
        if process is None:
            return None
        try:
            return process.wait(_STOP_TIMEOUT_SECONDS if process.poll() is not None else 0.2)
        except subprocess.TimeoutExpired:
            process.terminate()
        try:
            return process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
