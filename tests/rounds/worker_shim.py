"""What Ray starts as a worker: it asks ``ray_host`` for a fork and lives as long as that. It imports little."""

import json
import os
import socket
import sys

_RAYS_OWN = ("--serialized-runtime-env-context", "--language")

arguments = [part for part in sys.argv[1:] if not part.startswith(_RAYS_OWN)]
order = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}
with socket.socket(socket.AF_UNIX) as host:
    host.connect(os.environ["ROUNDS_FORK_SOCKET"])
    socket.send_fds(host, [json.dumps(order).encode()], [0, 1, 2])
    ended = host.recv(64)
code = json.loads(ended) if ended else 1
sys.exit(code if code >= 0 else 128 - code)
