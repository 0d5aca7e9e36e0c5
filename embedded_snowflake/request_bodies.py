"""The JSON body of a request, read and unpacked within limits.

A login is read before anybody has shown a password, so what it may cost has a bound.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

# Snowflake takes statements of 1 MB; array bindings are sent in full here, since nothing is staged for them.
LARGEST_BODY = 256 * 2**20
LARGEST_LOGIN = 2**20
_SMALL = 4 * 2**10
# Where the document is kept once it is read: fault injection and the route both need it.
_KEPT = "embedded_snowflake.document"


class BodyError(Exception):
    """The body is too large, or is not what its headers say."""


async def document(request: Request, limit: int = LARGEST_BODY) -> dict[str, Any]:
    """The request's JSON object. Raises BodyError; ``limit`` is in bytes, for the packed and the unpacked body."""
    if _KEPT in request.scope:
        return request.scope[_KEPT]
    body = await raw(request, limit)
    packed = request.headers.get("Content-Encoding") == "gzip"
    if len(body) > _SMALL:
        # Off the event loop: unpacking 200 MB would keep everybody else waiting.
        found = await run_in_threadpool(_read, body, packed, limit)
    else:
        found = _read(body, packed, limit)
    request.scope[_KEPT] = found
    return found


async def raw(request: Request, limit: int) -> bytes:
    """The body as it was sent. Raises BodyError where it has more than ``limit`` bytes."""
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > limit:
            raise BodyError(f"the request's body has more than {limit} bytes")
    return bytes(read)


def _read(raw: bytes, packed: bool, limit: int) -> dict[str, Any]:
    try:
        found = json.loads(_unpacked(raw, limit) if packed else raw or b"{}")
    except (ValueError, zlib.error, RecursionError) as error:
        raise BodyError(f"expected a JSON object as the request's body: {error}") from error
    if not isinstance(found, dict):
        raise BodyError(f"expected a JSON object as the request's body, found {type(found).__name__}")
    return found


def _unpacked(raw: bytes, limit: int) -> bytes:
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    unpacked = unpacking.decompress(raw, limit + 1)
    if len(unpacked) > limit:
        raise BodyError(f"the request's body unpacks to more than {limit} bytes")
    if not unpacking.eof:
        raise BodyError("the request's gzip body is cut off")
    return unpacked
