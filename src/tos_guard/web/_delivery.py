"""One response on its way out: what the app says goes in, what to send comes out, sealed where its machine says so (DESIGN §5).

Without I/O: each method of `Delivery` is a generator that yields what it needs of the guard and, in between, what is to be sent, in order.
Every door drives the same one: it serves needs with ``guard.run(next_out(need, steps))`` and sends `SendHead` and `SendBody` as its
server has them sent.

The rules are those of `tos_guard.web.asgi`. What a response means and when it is whole is the business of `tos_guard.exchange`.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

from tos_guard.dialects import Step
from tos_guard.errors import DeniedError, PolicyStop, RequestError, SignerError, StoreError, TosGuardError
from tos_guard.exchange import Exchange, Head, Headers, Response, respond
from tos_guard.guard import Ask, GuardSteps, SealConflictError, Steps, denial_members, unavailable
from tos_guard.guard._needs import Need
from tos_guard.types import Completion

__all__ = ["LARGE_BYTES", "OUT", "Delivering", "Delivery", "Out", "SendBody", "SendHead", "next_out"]

LARGE_BYTES: Final = 262_144
"""A body larger than this is read in a thread: 16 MiB of brackets take seconds, in which the event loop would serve nobody."""


class SendHead(NamedTuple):
    """The head is to be sent, now: a client of a stream waits for it."""

    status: int
    headers: Headers


class SendBody(NamedTuple):
    """Bytes of the body are to be sent.

    Attributes:
        data: The bytes, maybe none.
        last: Whether the body ends with them.
    """

    data: bytes
    last: bool


Out = SendHead | SendBody
OUT: Final = (SendHead, SendBody)

_T = TypeVar("_T")
Delivering = Generator[Need | Out, Any, _T]
"""A step of a delivery: yields what it needs and receives what came of it, and yields what is to be sent."""


def next_out(need: Need, delivering: Delivering[None]) -> Steps[Out | None]:
    """Serve what a delivery needs, until it has something to send or is done.

    Args:
        need: What it has yielded.
        delivering: The step of the delivery that yielded it; it goes on from there.
    """
    item: Need | Out = need
    try:
        while not isinstance(item, OUT):
            try:
                answer = yield item
            except TosGuardError as failure:
                item = delivering.throw(failure)
            else:
                item = delivering.send(answer)
    except StopIteration:
        return None
    return item


class Delivery:
    """The delivery of one response.

    A door calls `start`, `feed` and `finish` as the app answers; `returned` or `raised` when the app is done; and `close` in the end, in
    any case.

    Args:
        guard: The guard.
        exchange: The exchange that the app answers.
        bodiless: Whether the method allows no body (HEAD).

    Attributes:
        response: The response, or None while the app has not begun one.
        sealed: Whether the final token was made.
        started: Whether the head is sent.
        ended: Whether the last of the body is sent.
        broken: Whether the rest does not leave, and the body must not look whole: the door breaks the connection.
        client_gone: Whether the door knows that the client left; the door says so.
        status: Of the response; 0 while it has none.
    """

    def __init__(self, guard: GuardSteps, exchange: Exchange, *, bodiless: bool) -> None:
        self.response: Response | None = None
        self.sealed = False
        self.started = False
        self.ended = False
        self.broken = False
        self.client_gone = False
        self.status = 0
        self._guard = guard
        self._exchange = exchange
        self._bodiless = bodiless
        self._denied: str | None = None
        self._asked_at: datetime | None = None
        self._reason = "client_gone"  # unless we learn better: a server may also end us by cancelling
        self._closed = False

    @property
    def sent_status(self) -> int:
        """The status that was sent, or 0 while none is."""
        return self.status if self.started else 0

    @property
    def _is_over(self) -> bool:
        """Whether nothing more of the body leaves."""
        return self.ended or self.broken

    def start(self, head: Head) -> Delivering[None]:
        """The app begins its answer. It may do so again, as long as nothing is sent.

        Raises:
            DeniedError: It goes on although it met a denial, which is by now the answer; so with `feed` and `finish`.
            PolicyStop: The host has stopped it (`Admission.stop`), which is by now the answer; likewise.
            RuntimeError: Another answer of it is under way.
        """
        if self._exchange.is_refused:
            yield from self._insist()
        if self._is_over:
            return
        if self.started:  # as servers say it: what is left of one answer must not be sealed as if it were all
            raise RuntimeError("the app began an answer while another was under way")
        yield from self._mind_stop()
        self.status = head.status
        self.response = respond(self._exchange, head, bodiless=self._bodiless)
        if self.response.early:
            yield from self._start_before_seal(self.response)

    def feed(self, chunk: bytes) -> Delivering[None]:
        """The app gives more of its body."""
        if self._exchange.is_refused:
            yield from self._insist()
        if self._is_over or self.response is None:
            return
        if self._exchange.stopped is not None:
            yield from self._mind_stop()
        if self._exchange.checkpoint_seconds is not None:
            self._mind_time(self.response, self._exchange.checkpoint_seconds)
        step = self.response.feed(chunk)
        if self.started and not step.seal and not step.checkpoint:  # so are nearly all chunks of a stream
            if step.out:
                yield SendBody(step.out, last=False)
        else:
            yield from self._forward(self.response, step)

    def finish(self) -> Delivering[None]:
        """The app has given all of its body."""
        if self._exchange.is_refused:
            yield from self._insist()
        response = self.response
        if self._is_over or response is None:
            return
        yield from self._mind_stop()
        # Reading and canonicalising megabytes takes seconds, which no other request should wait for.
        step = (yield Ask(response.finish)) if response.held_bytes > LARGE_BYTES else response.finish()
        yield from self._forward(response, step, last=True)
        if self._is_over:
            return
        if not self.started:
            yield from self._start(response, None)
        yield from self._send(b"", last=True)

    def returned(self) -> Delivering[None]:
        """The app is done, whether or not it has answered."""
        if self._exchange.is_refused:  # the app has caught the denial, and answered nothing
            yield from self._deny()
        elif self._is_over:
            self._reason = ""
        elif self._exchange.stopped is not None and not self.sealed:
            yield from self._stop(self._exchange.stopped)
        elif not self.client_gone:
            self._reason = "handler_ended_early"

    def raised(self, error: Exception) -> Delivering[None]:
        """The app raised: end what it has begun. `explains` knows whether that is all there is to say of it."""
        if self._exchange.is_refused:
            yield from self._deny()
        elif (stop := _policy_stop_in(error)) is not None:
            yield from self._stop(stop)
        elif not self.client_gone:
            self._reason = "" if self._is_over else "handler_raised"
            if self.started:
                yield from self._fail("The response could not be completed", "tos_handler_error", {}, Completion.ERROR)

    def explains(self, error: Exception) -> bool:
        """Whether an exception that the app raised says no more than what it is answered with, and need not go on to the server.

        One that leaves half a body does: the server is to break the connection.
        """
        if self.broken:
            return False
        if self._exchange.is_refused:
            return _is_only(DeniedError, error) or isinstance(error.__cause__, DeniedError)
        return _is_only(PolicyStop, error)

    def _mind_stop(self) -> Delivering[None]:
        """End the response where the host has said so, and tell the app, which need not go on."""
        stop = self._exchange.stopped
        if stop is not None and not self.sealed:
            yield from self._stop(stop)
            raise stop

    def _stop(self, stop: PolicyStop) -> Delivering[None]:
        self._reason = ""
        yield from self._fail(str(stop.what), stop.reason, {"clause": stop.clause}, Completion.POLICY)

    def _mind_time(self, response: Response, seconds: float) -> None:
        """Ask for a checkpoint where the last was asked for so many seconds ago. A clock that was set back begins again."""
        now = self._guard.clock()
        if self._asked_at is None or now < self._asked_at:
            self._asked_at = now
        elif (now - self._asked_at).total_seconds() >= seconds:
            self._asked_at = now
            response.ask_checkpoint()

    def close(self) -> Steps[None]:
        """Record and settle the exchange, once; however the response ended."""
        if not self._closed:
            self._closed = True
            yield from self._guard.close(self._exchange, self.response, status=self.sent_status, sealed=self.sealed, reason=self._reason)

    def _send(self, data: bytes, *, last: bool) -> Delivering[None]:
        data = b"" if self._bodiless else data
        self.ended = last
        if last:
            self._exchange.answered = True
            yield from self._guard.settle(self._exchange, self.response, status=self.sent_status)
        yield SendBody(data, last)

    def _start(self, response: Response, token: str | None) -> Delivering[None]:
        head = response.head(token)
        self.started = True
        self.status = head.status
        yield SendHead(head.status, head.headers)

    def _start_before_seal(self, response: Response) -> Delivering[None]:
        """Begin with the pending token, where one is to follow; with a refusal, where none can be made and the settings deny."""
        token: str | None = None
        if response.early:
            try:
                token = yield from self._guard.pending(self._exchange)
            except SignerError:
                yield from self._replace_by_refusal(unavailable(), "signer")
                return
        yield from self._start(response, token)

    def _forward(self, response: Response, step: Step, *, last: bool = False) -> Delivering[None]:
        """Send what a step says, sealing when it asks for that. After a *last* step nothing follows but what its seal adds."""
        while step.checkpoint:
            if step.out:
                yield from self._send(step.out, last=False)
            token = yield from self._guard.checkpoint(self._exchange, response)
            step = response.checkpointed(token)
        if step.out:
            if not self.started:
                yield from self._start_before_seal(response)  # a body too large to wait for
            if self.ended:
                return
            yield from self._send(step.out, last=last and not step.seal)
        if step.seal:
            yield from self._seal(response, last=last)

    def _seal(self, response: Response, *, last: bool) -> Delivering[None]:
        try:
            seal = yield from self._guard.seal(self._exchange, response, self.status)
        except SealConflictError as error:
            if response.completion is Completion.COMPLETE:
                yield from self._withhold(response, "seal_conflict", error)
            else:  # it says itself that it failed, and needs no token to be refused
                yield from self._forward(response, response.unsealed_because("seal_conflict"), last=last)
            return
        except (SignerError, StoreError) as error:
            what = "signer" if isinstance(error, SignerError) else "store"
            self._guard.report_failure(what, error)
            part = "signer" if what == "signer" else "records"
            if self._guard.denies_without(part):
                yield from self._withhold(response, what, unavailable())
            else:
                self._guard.report_degraded(part, "allow")
                yield from self._forward(response, response.unsealed_because(what), last=last)
            return
        step = response.sealed(seal)
        self.sealed = True
        if not self.started:
            yield from self._start(response, seal.token)
        yield from self._forward(response, step, last=last)

    def _withhold(self, response: Response, what: str, error: RequestError) -> Delivering[None]:
        """No seal, no content: a whole body becomes a refusal, a stream ends with an error instead of its last content.

        Raises:
            RequestError: It has no place for an error, and breaks off.
        """
        response.unsealed_because(what)
        if not self.started:
            yield from self._replace_by_refusal(error, what)
            return
        rid = self._exchange.shown.ids.rid
        event = response.in_band_error(message=str(error), code=error.code, extra={"request_id": rid})
        if not response.can_end:
            self.broken = True
            raise error  # for the server to know of, which breaks the connection
        yield from self._send(event, last=True)

    def _insist(self) -> Delivering[None]:
        """The denial stands, and the app that goes on is told so once more."""
        yield from self._deny()
        raise self._guard.denied(self._exchange)

    def _deny(self) -> Delivering[None]:
        """Answer with the denial that the handler met, once: as a refusal while nothing is sent, in-band afterwards."""
        if self._denied is None:
            error = self._guard.denied(self._exchange)
            # In-band, the response itself knows whether it is sealed.
            self._denied = "" if self.started else "denied"
            if self.started:
                yield from self._fail(str(error), error.reason, denial_members(error), Completion.POLICY)
            else:
                yield from self._replace_by_refusal(error, self._denied)
        self._reason = self._denied

    def _replace_by_refusal(self, error: RequestError, reason: str) -> Delivering[None]:
        head, body = self._guard.refuse(error, self._exchange.dialect, self._exchange)
        if self.response is not None:
            self.response.unsealed_because(reason)
        self.status = head.status
        self.started = self.ended = True
        yield SendHead(head.status, head.headers)
        yield from self._send(body, last=True)

    def _fail(self, message: str, code: str, extra: dict[str, Any], completion: Completion) -> Delivering[None]:
        """End a response that cannot go on, with the dialect's error and a token that says so.

        Where nothing can be said in-band any more it is left open: the server then breaks the connection, and half a body does not
        look like all of it.
        """
        if self._is_over:
            return
        if self.response is None:
            self.response = respond(self._exchange, Head(200, [(b"content-type", b"application/json")]), bodiless=False)
        response = self.response
        extra = {**extra, "request_id": self._exchange.ids.rid, "terms_url": self._exchange.in_force.terms.uri}
        step = response.fail(message=message, code=code, extra=extra, completion=completion)
        if not self.started:
            self.status = response.head(None).status
        yield from self._forward(response, step)
        self.broken = not response.can_end
        if (step.out or step.seal) and not self._is_over:
            yield from self._send(b"", last=True)


def _is_only(kind: type[Exception], error: Exception) -> bool:
    """Whether an exception is of this kind, or a group of nothing else, as task groups of frameworks make them."""
    return isinstance(error, kind) or (isinstance(error, ExceptionGroup) and error.split(kind)[1] is None)


def _policy_stop_in(error: BaseException) -> PolicyStop | None:
    """A policy stop, maybe inside an exception group."""
    if isinstance(error, PolicyStop):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if (found := _policy_stop_in(inner)) is not None:
                return found
    return None
