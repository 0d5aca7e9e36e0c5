"""The other end of the webhook: a web server that keeps what it is told, with the simulated time."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Message:
    """One message as it came: when, its headline, and everything that it says."""

    at: datetime
    headline: str
    text: str


class Mailbox:
    """Listens on the loopback address until it is closed."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        received = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = "\n".join(block["text"]["text"] for block in body["blocks"])
                received.append(Message(datetime.now(UTC), body["blocks"][0]["text"]["text"], said))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *arguments: object) -> None:
                """What came is kept; that it came is not news."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
