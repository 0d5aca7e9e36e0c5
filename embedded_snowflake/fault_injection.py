"""Faults that strike: an ASGI application around the server's own that decides for each request what goes wrong.

What a fault is and how clients send one belongs in ``faults``. With no fault armed a request passes untouched.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import fakesnow.server as fakesnow_server
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedded_snowflake import disk_space, request_bodies, sessions, stages
from embedded_snowflake.armed_faults import Armed, Target
from embedded_snowflake.faults import PATH, Fault, FaultError, read
from embedded_snowflake.request_bodies import BodyError

if TYPE_CHECKING:
    from embedded_snowflake.job_runs import JobRun
    from embedded_snowflake.server import EmbeddedSnowflake

logger = logging.getLogger(__name__)

STATEMENTS = "/queries/v1/query-request"
LARGEST_DOCUMENT = 2**20
MOST_FAULTS = 1000


class FaultInjection:
    """The server's application with its faults. ``refuse``, given by who owns the socket, closes it for some time."""

    refuse: Callable[[float], Awaitable[None]]

    def __init__(self, server: EmbeddedSnowflake) -> None:
        self._server = server
        self._known: dict[str, Armed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def arm(self, faults: list[Fault]) -> list[Armed]:
        """Add faults. Raises FaultError where there are too many."""
        if len(self._known) + len(faults) > MOST_FAULTS:
            raise FaultError(f"at most {MOST_FAULTS} faults are kept: remove some first")
        armed = [Armed(fault) for fault in faults]
        self._known.update({each.id: each for each in armed})
        return armed

    def around(self, app: ASGIApp) -> ASGIApp:
        """``app`` with what goes wrong."""

        async def injected(scope: Scope, receive: Receive, send: Send) -> None:
            armed = [each for each in self._known.values() if not each.spent]
            if scope["type"] != "http" or not armed or scope["path"].startswith(PATH):
                await app(scope, receive, send)
            else:
                await self._with_faults(app, armed, scope, receive, send)

        return injected

    async def _with_faults(self, app: ASGIApp, armed: list[Armed], scope: Scope, receive: Receive, send: Send) -> None:
        target = await self._target(Request(scope, receive))
        concerned = [each for each in armed if each.is_of(target)]
        full = [each for each in concerned if each.fault.kind == "disk_full"]
        late = [each for each in concerned if each.fault.kind == "drop_after" or each.fault.when == "after"]
        for each in concerned:
            kind = each.fault.kind
            if each in full or each in late or not each.strikes():
                continue
            if kind == "delay":
                await _delay(each)
            elif kind == "unavailable":
                await PlainTextResponse("a fault was injected: unavailable", 503)(scope, receive, send)
                return
            elif kind == "drop_before":
                await _drop(receive, send)
                return
            elif kind == "refuse":
                self._begin_refusal(each)
                await _drop(receive, send)
                return
            elif kind == "expire_session":
                await self._expire(each, target)
            elif kind == "lose_node":
                await run_in_threadpool(self._lose_node, target.job, each.fault.node == "head")
        if full:
            disk_space.strikes.set(lambda: any(each.strikes() for each in full))
        # Not counted before it is sure that the request runs.
        after = [each for each in late if each.strikes()]
        await self._answer(app, after, scope, receive, send)

    async def _answer(self, app: ASGIApp, after: list[Armed], scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request and then do what is to be done to its answer."""
        if not after:
            await app(scope, receive, send)
            return
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await app(scope, receive, keep)
        for each in after:
            if each.fault.kind == "delay":
                await _delay(each)
        if any(each.fault.kind == "drop_after" for each in after):
            await _drop(receive, send)
            return
        for message in messages:
            await send(message)

    async def _target(self, request: Request) -> Target:
        token = request.headers.get("Authorization", "")[17:-1]
        connection = fakesnow_server.sessions.get(token)
        job = sessions.of(connection).job if connection else None
        path = request.url.path
        if path == STATEMENTS and connection:
            try:
                text = str((await request_bodies.document(request)).get("sqlText", ""))
            except BodyError:
                # The route says so.
                text = ""
            return Target(text, True, False, token, True, job)
        if path.startswith(stages.FILES_PATH):
            address = stages.address(path)
            known = address is not None
            text = f"{stages.FILES_PATH}{address.relative}" if address else path
            return Target(text, False, request.method == "PUT", token, known, address.job if address else None)
        return Target(path, False, False, token, connection is not None, job)

    async def _expire(self, armed: Armed, target: Target) -> None:
        if armed.fault.renewable:
            self._server.session_tokens.expire(target.token)
        else:
            await run_in_threadpool(self._server.session_tokens.lose, self._server, target.token)

    def _running_jobs(self, key: str | None = None) -> list[JobRun]:
        return self._server.scheduler.running(key)

    def _lose_node(self, job: str | None, head: bool) -> None:
        for run in self._running_jobs(job)[:1]:
            lost = run.lose_node(head)
            logger.warning("job %s %s", run.job.name, "has lost a node" if lost else "has no node left to lose")

    def _begin_refusal(self, armed: Armed) -> None:
        task = asyncio.create_task(self._refuse(armed.fault.seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refuse(self, seconds: float) -> None:
        try:
            await self.refuse(seconds)
        except OSError:
            logger.exception("the port could not be opened again")

    # -- the control endpoint -----------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """``/embedded/faults``: add, list and remove, with user and password of the connection."""
        return [
            Route(PATH, self._control, methods=["GET", "POST", "DELETE"]),
            Route(f"{PATH}/{{fault_id}}", self._control, methods=["DELETE"]),
        ]

    async def _control(self, request: Request) -> Response:
        if not self._is_user(request.headers.get("Authorization", "")):
            message = "expected HTTP Basic authentication with the user and the password of the connection"
            return JSONResponse({"message": message}, 401, {"WWW-Authenticate": 'Basic realm="embedded Snowflake"'})
        if request.method == "GET":
            return JSONResponse({"faults": [each.described() for each in self._known.values()]})
        if request.method == "DELETE":
            return self._remove(request.path_params.get("fault_id"))
        try:
            faults = read(await request_bodies.raw(request, LARGEST_DOCUMENT))
            if any(fault.at_once and fault.kind == "lose_node" for fault in faults) and not self._running_jobs():
                raise FaultError("no job has nodes to lose now: give a match that says when the fault strikes")
            armed = self.arm(faults)
        except (FaultError, BodyError) as error:
            return JSONResponse({"message": str(error)}, 400)
        logger.warning("%d faults are armed", len(self._known))
        # After the answer: a refusal would cut it off.
        now = [each for each in armed if each.fault.at_once]
        return JSONResponse({"ids": [each.id for each in armed]}, background=BackgroundTask(self._strike_now, now))

    async def _strike_now(self, armed: list[Armed]) -> None:
        for each in armed:
            if not each.strikes():
                continue
            if each.fault.kind == "refuse":
                self._begin_refusal(each)
            else:
                await run_in_threadpool(self._lose_node, None, each.fault.node == "head")

    def _remove(self, fault_id: str | None) -> Response:
        if fault_id is not None and fault_id not in self._known:
            return JSONResponse({"message": f"there is no fault {fault_id}"}, 404)
        for each in [self._known[fault_id]] if fault_id else list(self._known.values()):
            del self._known[each.id]
            each.removed.set()
        return JSONResponse({"message": "removed"})

    def _is_user(self, header: str) -> bool:
        scheme, _, credentials = header.partition(" ")
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            return False
        return scheme.lower() == "basic" and self._server.is_user(user, password)


async def _delay(armed: Armed) -> None:
    armed.waiting += 1
    try:
        await asyncio.wait_for(armed.removed.wait(), armed.fault.seconds)
    except TimeoutError:
        # Nobody removed it: that was the delay.
        return
    finally:
        armed.waiting -= 1


async def _drop(receive: Receive, send: Send) -> None:
    """Cut the connection without an answer. ``send`` is a method of uvicorn's request, which has the transport."""
    cycle: Any = getattr(send, "__self__", None)
    cycle.transport.abort()
    while (await receive())["type"] != "http.disconnect":
        # The rest of the body; uvicorn takes a return before it has noticed for an error of ours.
        continue
