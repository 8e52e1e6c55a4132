"""One response on its way through ASGI: the app's messages in, the server's out, sealed where its machine says so (DESIGN §5).

The rules are those of `tos_guard.web.asgi`. What a response means and when it is whole is the business of `tos_guard.exchange`; here its
bytes are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from tos_guard.dialects import Step
from tos_guard.errors import RequestError, SignerError, StoreError
from tos_guard.exchange import Exchange, Head, Response, respond
from tos_guard.guard import AsyncGuard, denial_members, unavailable
from tos_guard.types import Completion

__all__ = ["LARGE_BYTES", "WITHOUT_CONTENT", "ASGIApp", "Delivery", "Message", "Receive", "Scope", "Send", "send_answer"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGE_BYTES: Final = 262_144
"""A request larger than this is read in a thread: 16 MiB of brackets take seconds, in which the event loop would serve nobody."""

WITHOUT_CONTENT: Final = frozenset({"http.response.debug", "http.response.early_hint"})
"""Extensions of servers through which no content can leave. Others (pathsend, zerocopysend, push, trailers) are not offered to the app."""


class Delivery:
    """Sends one response through its machine."""

    def __init__(self, guard: AsyncGuard, exchange: Exchange, send: Send, *, bodiless: bool) -> None:
        self.response: Response | None = None
        self.sealed = False
        self.started = False
        self.ended = False
        self.client_gone = False
        self.status = 0
        self._guard = guard
        self._exchange = exchange
        self._server_send = send
        self._bodiless = bodiless
        self._denied: str | None = None

    @property
    def sent_status(self) -> int:
        """The status that was sent, or 0 while none is."""
        return self.status if self.started else 0

    async def _send(self, message: Message) -> None:
        """Send to the server, and remember if it says that the client left: an ``OSError`` of the app's own means nothing of the kind."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._exchange.answered = True
            await self._guard.run(self._guard.settle(self._exchange, self.response, status=self.sent_status))
        try:
            await self._server_send(message)
        except OSError:
            self.client_gone = True
            raise

    async def send(self, message: Message) -> None:
        """Take one message of the app.

        Raises:
            DeniedError: The app goes on although it met a denial, which is by now the answer.
        """
        if self._exchange.is_refused:
            await self.deny()
            raise self._guard.denied(self._exchange)
        if message["type"] == "http.response.start":
            head = Head(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
            self.status = head.status
            self.response = respond(self._exchange, head, bodiless=self._bodiless)
            if self.response.early:
                await self._start_early()
        elif message["type"] == "http.response.body" and self.response is not None:
            if self.ended:
                return
            step = self.response.feed(message.get("body", b""))
            await self._forward(step)
            if not message.get("more_body", False):
                await self._finish()
        elif message["type"] in WITHOUT_CONTENT:
            await self._send(message)
        else:
            raise RuntimeError(f"the message {message['type']!r} would carry content past the guard")

    async def _start_early(self) -> None:
        assert self.response is not None  # noqa: S101
        try:
            token = await self._guard.run(self._guard.pending(self._exchange))
        except SignerError:
            await self._replace_by_refusal(unavailable(), "signer")
            return
        await self._start(token)

    async def _start(self, token: str | None) -> None:
        assert self.response is not None  # noqa: S101
        head = self.response.head(token)
        self.started = True
        self.status = head.status
        await self._send({"type": "http.response.start", "status": head.status, "headers": head.headers})

    async def _finish(self) -> None:
        assert self.response is not None  # noqa: S101
        # Reading and canonicalising megabytes takes seconds, which no other request should wait for.
        large = self.response.held_bytes > LARGE_BYTES
        step = await asyncio.to_thread(self.response.finish) if large else self.response.finish()
        await self._forward(step, last=True)
        if self.ended:
            return
        if not self.started:
            await self._start(None)
        self.ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _forward(self, step: Step, *, last: bool = False) -> None:
        """Send what a step says, sealing when it asks for that. After a *last* step nothing follows but what its seal adds."""
        assert self.response is not None  # noqa: S101
        if step.out:
            await self._body(step.out, last=last and not step.seal)
        if step.seal:
            await self._seal(last=last)

    async def _seal(self, *, last: bool) -> None:
        assert self.response is not None  # noqa: S101
        response = self.response
        try:
            seal = await self._guard.run(self._guard.seal(self._exchange, response, self.status))
        except (SignerError, StoreError) as error:
            what = "signer" if isinstance(error, SignerError) else "store"
            self._guard.report_failure(what, error)
            if self._guard.denies_without("signer" if what == "signer" else "records"):
                await self._withhold(what)
            else:
                self._guard.report_degraded("signer" if what == "signer" else "records", "allow")
                await self._forward(response.unsealed_because(what), last=last)
            return
        step = response.sealed(seal)
        self.sealed = True
        if not self.started:
            await self._start(seal.token)
        await self._forward(step, last=last)

    async def _withhold(self, what: str) -> None:
        """No seal, no content: a whole body becomes a refusal, a stream ends with an error instead of its last content."""
        assert self.response is not None  # noqa: S101
        self.response.unsealed_because(what)
        if not self.started:
            await self._replace_by_refusal(unavailable(), "signer")
            return
        error = unavailable()
        event = self._exchange.dialect.error_event(message=str(error), code=error.code, extra={"request_id": self._exchange.ids.rid})
        self.ended = True
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    async def deny(self) -> str:
        """Answer with the denial that the handler met, once: as a refusal while nothing is sent, in-band afterwards.

        Returns:
            ``denied`` where it is the whole answer, else nothing: then the response knows whether it is sealed.
        """
        if self._denied is None:
            error = self._guard.denied(self._exchange)
            self._denied = "" if self.started else "denied"
            if self.started:
                await self.fail(str(error), error.reason, denial_members(error), Completion.POLICY)
            else:
                await self._replace_by_refusal(error, self._denied)
        return self._denied

    async def _replace_by_refusal(self, error: RequestError, reason: str) -> None:
        head, body = self._guard.refuse(error, self._exchange.dialect, self._exchange)
        if self.response is not None:
            self.response.unsealed_because(reason)
        self.status = head.status
        self.started = self.ended = True
        await send_answer(self._send, head.status, head.headers, body)

    async def _body(self, data: bytes, *, last: bool) -> None:
        if not self.started:
            await self._start(None)  # a body too large to wait for
        self.ended = last
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def fail(self, message: str, code: str, extra: dict[str, Any], completion: Completion) -> None:
        """End a response that cannot go on, with the dialect's error and a token that says so.

        Where nothing can be said in-band any more it is left open: the server then breaks the connection, and half a body does not
        look like all of it.
        """
        if self.ended:
            return
        if self.response is None:
            head = Head(200, [(b"content-type", b"application/json")])
            self.response = respond(self._exchange, head, bodiless=False)
        extra = {**extra, "request_id": self._exchange.ids.rid, "terms_url": self._exchange.in_force.terms.uri}
        step = self.response.fail(message=message, code=code, extra=extra, completion=completion)
        if not self.started:
            self.status = self.response.head(None).status
        await self._forward(step)
        if (step.out or step.seal) and not self.ended:
            self.ended = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole response of our own."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
