"""Batches: files of requests that a worker answers in its own time (DESIGN D17; docs/guides/batch.md).

- Lines are OpenAI's. In: ``custom_id``, ``method``, ``url``, ``body``. Out: ``id``, ``custom_id``, ``response`` (``status_code``,
  ``request_id``, ``body``), ``error``.
- Each line is decided and reserved when the batch is opened. What is refused, or cannot be read, is answered at once; nothing is lost.
- An output line carries its token in its body, and its record is durable before it is given out.
- What is open is kept under the batch and the line's id, so that another process can go on; neither requests nor responses are.
- A line is sealed once. The same answer again gets the token it had; another one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Any, Final

from tos_guard._canonical import b64url_encode, canonical_json
from tos_guard.dialects import RequestFacts, RequestHead
from tos_guard.dialects._body import parse_request_object
from tos_guard.errors import ConflictError, MalformedError, MalformedRequestError, NotFoundError, RequestError
from tos_guard.exchange import Exchange, Head, Sealed, closed, covers, kept_content, opened, original_of, respond
from tos_guard.guard._admitting import Admitting
from tos_guard.guard._keeping import NO_EXCHANGE, SealConflictError, damaged
from tos_guard.guard._needs import Ask, Caller, FindHolder, Keep, KeepSeals, RequestView, Route, Steps
from tos_guard.guard._refusing import Refusing
from tos_guard.guard._sealing import Sealing
from tos_guard.ledger import KeptSeal, SealKind
from tos_guard.rights import UNLIMITED_KEY, KeyTerms
from tos_guard.telemetry import Observed

__all__ = ["MAX_BATCH_LINES", "Batch", "BatchLine", "Batching"]

MAX_BATCH_LINES: Final = 50_000
"""As OpenAI has it; each line behind is answered with an error."""

MAX_ID_CHARS: Final = 256  # of a line or a batch; together they are the name of what is kept
_CHUNK: Final = 200  # lines read in one go, and kept in one commit
_WHERE: Final = "batch"
_CLOSED: Final = "closed"
"""In place of the token of a batch that was closed, and of a line that it left without an answer. No token is so short."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A line that is to be answered.

    Attributes:
        custom_id: How the caller names it.
        request_id: Id of its exchange.
        body: The request; empty in a batch that was opened again, for requests are not kept.
    """

    custom_id: str
    request_id: str
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Batch:
    """An open batch. One process at a time works on it.

    Attributes:
        id: Its id, by which it is opened again.
        account_id: Whose it is.
        endpoint: Path that each of its lines is for.
        lines: Lines that were to be answered when it was opened, in the order of the input.
        refused: Output lines of what was refused or could not be read, in the order of the input.
    """

    id: str
    account_id: str
    endpoint: str
    lines: list[BatchLine] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    _seals: dict[str, KeptSeal] = field(default_factory=dict, repr=False)
    _head: KeptSeal = field(kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class _Read:
    """A line as it was read: what it asks for, or why it cannot be."""

    number: int
    custom_id: str | None
    body: Mapping[str, Any] = field(default_factory=dict)
    error: RequestError | None = None


class Batching(Admitting, Refusing, Sealing):
    """The steps of a batch."""

    def open_batch(
        self,
        account_id: str,
        endpoint: str,
        lines: bytes | Iterable[bytes],
        *,
        batch_id: str | None = None,
        key: KeyTerms = UNLIMITED_KEY,
    ) -> Steps[Batch]:
        """Decide and reserve each line of an input file.

        Args:
            account_id: Whose batch it is.
            endpoint: Path that each line must name; a guarded route.
            lines: The file, or its lines with or without their ends, as an open file gives them. Blank ones are passed over.
            batch_id: What the host calls it, or None for a new id.
            key: What the API key is for that submitted it, as `Admission.key` says: its lines may ask for no more.

        Raises:
            AuthenticationError: There is no such account, or the key has expired.
            NotFoundError: The endpoint is no guarded route, or nothing keeps seals.
            ConflictError: A batch of this id was opened before.
            MalformedRequestError: The id is none.
            RequestError: 503, where the limits engine failed and the settings deny. Lines that were reserved keep their estimates.
            StoreError: A part failed; likewise.
        """
        name = batch_id if batch_id is not None else f"batch_{b64url_encode(self._entropy(16))}"
        if not _is_id(name) or ":" in name:
            raise MalformedRequestError(f"is not 1 to {MAX_ID_CHARS} printable characters without a colon", where="batch id")
        route = self._batch_route(endpoint)
        caller = replace((yield from self._caller(FindHolder(account_id=account_id), None)), key=key)
        batch = Batch(name, account_id, endpoint, _head=self._batch_seal(name, account_id, endpoint))
        if (yield KeepSeals((batch._head,))) is not None:
            raise ConflictError("this batch was opened before", where=f"batch {name}", cure="Open it again, or give another id.")
        reading = _read_lines(lines.split(b"\n") if isinstance(lines, bytes) else lines, endpoint)
        while chunk := (yield Ask(lambda: list(islice(reading, _CHUNK)))):
            caller = replace((yield from self.still(caller)), key=key)
            yield from self._admit_lines(batch, caller, route, chunk)
        return batch

    def reopen_batch(self, account_id: str, batch_id: str) -> Steps[Batch]:
        """Go on with a batch that another process opened, or this one before it was started again. Its requests are in the host's file.

        Raises:
            NotFoundError: The account has no open batch of this id.
            StoreError: A part failed.
        """
        head = yield from self._kept(account_id, SealKind.BATCH, batch_id)
        if head is None or not head.is_open or self.seals is None:
            raise NotFoundError("no open batch of this id", where=f"batch {batch_id[:MAX_ID_CHARS]}")
        batch = Batch(batch_id, account_id, head.exchange["endpoint"], _head=head)
        store, prefix = self.seals, f"{batch_id}:"
        kept: list[KeptSeal] = yield Ask(lambda: list(store.kept_of(account_id, SealKind.BATCH, prefix)))
        for seal in sorted(kept, key=lambda one: one.exchange["line"]):
            custom_id = seal.key.removeprefix(prefix)
            batch._seals[custom_id] = seal
            if seal.is_open:
                batch.lines.append(BatchLine(custom_id, seal.rid))
        return batch

    def seal_line(self, batch: Batch, custom_id: str, status: int, body: bytes | Mapping[str, Any]) -> Steps[bytes]:
        """The output line of an answer, with its token in ``response.body``. Given out once its record is durable.

        Args:
            batch: The batch.
            custom_id: The line that it answers.
            status: HTTP status of the answer.
            body: The answer, a JSON object.

        Raises:
            NotFoundError: The batch has no such line that was admitted, or was closed before it was answered, in this process or another.
            AuthenticationError: The account is there no more.
            SealConflictError: The line was sealed with another answer before.
            ValueError: The body is no JSON object, or has no canonical form.
            SignerError, StoreError: No token could be made.
        """
        kept = batch._seals.get(custom_id)
        if kept is None:
            raise _no_line(custom_id)
        exchange = yield from self._of_line(batch, custom_id, kept)
        response = respond(exchange, Head(status, [(b"content-type", b"application/json")]), bodiless=False)
        response.feed(body if isinstance(body, bytes) else _written(body))
        if not response.finish().seal or response.carrier != "json" or response.content is None:
            raise ValueError("the answer to a line is a JSON object that has a canonical form")
        sealed: Sealed | None = None
        if kept.is_open:
            now = self.clock()
            sealed, record = yield from self._final(exchange, response, status)
            seals = closed(kept, sealed)
            if names := self._names(exchange, response, status, now):
                seals += closed(opened(exchange, names, now, request_hash=None)[0], sealed)
            in_the_way: KeptSeal | None = yield KeepSeals(seals, record)
            batch._seals[custom_id] = kept = in_the_way or seals[0]
            if in_the_way is None:
                self.telemetry.ended(exchange.observed, carrier=response.carrier)
                yield from self.settle(exchange, response, status=status)
            else:
                sealed = None
        if kept.token == _CLOSED:
            raise _no_line(custom_id)
        if sealed is None:
            if not covers(kept, response.content) or kept.token is None:
                raise SealConflictError
            self.telemetry.kept("reused")
            sealed = Sealed(kept.token, kept_content(kept, response.content))
        return _answer_line(custom_id, exchange, status, response.sealed(sealed).out)

    def close_batch(self, batch: Batch, *, may_have_run: bool = True) -> Steps[list[bytes]]:
        """End a batch. Lines without an answer get an output line that says so, and are recorded.

        Args:
            batch: The batch.
            may_have_run: Whether lines without an answer may have been served; then they keep their estimates, and otherwise what they
                had reserved is given back.

        Raises:
            AuthenticationError: The account is there no more, and nothing of the batch is.
            StoreError: The store failed. Closing again does the rest.
        """
        waiting = iter([custom_id for custom_id, seal in batch._seals.items() if seal.is_open])
        while chunk := list(islice(waiting, _CHUNK)):
            yield from self._close_lines(batch, chunk, may_have_run=may_have_run)
        output = [
            _error_line(custom_id, seal.rid, "tos_batch_closed", "The batch was closed before this line was answered")
            for custom_id, seal in batch._seals.items()
            if seal.token == _CLOSED
        ]
        yield KeepSeals((replace(batch._head, token=_CLOSED),))
        batch.lines.clear()
        batch._seals.clear()
        return output

    def _close_lines(self, batch: Batch, custom_ids: list[str], *, may_have_run: bool) -> Steps[None]:
        """End lines for every process that has the batch open, record them, and settle them; those that one of them has sealed are its."""
        exchanges: dict[str, Exchange] = {}
        for custom_id in custom_ids:
            exchanges[custom_id] = yield from self._of_line(batch, custom_id, batch._seals[custom_id])
        ended = {custom_id: replace(batch._seals[custom_id], token=_CLOSED) for custom_id in custom_ids}
        if (yield KeepSeals(tuple(ended.values()))) is not None:
            for custom_id, seal in tuple(ended.items()):
                in_the_way: KeptSeal | None = yield KeepSeals((seal,))
                if in_the_way is not None:
                    batch._seals[custom_id] = in_the_way
                    del ended[custom_id]
        batch._seals |= ended
        for custom_id in ended:
            exchange = exchanges[custom_id]
            yield Keep(exchange.record(now=self.clock(), status=0, unsealed="no_response"), wait=False)
            self.telemetry.ended(exchange.observed, unsealed="no_response")
            exchange.uncharged = not may_have_run
            yield from self.settle(exchange, None, status=0)

    def _batch_route(self, endpoint: str) -> Route:
        route = self.route(endpoint)
        if route is None or self.seals is None:
            raise NotFoundError("is no guarded route, or nothing keeps seals", where=endpoint[:200])
        return route

    def _batch_seal(self, name: str, account_id: str, endpoint: str) -> KeptSeal:
        """What says that there is a batch, and that it is open."""
        now = self.clock()
        return KeptSeal(
            issuer=self.settings.issuer,
            account_id=account_id,
            kind=SealKind.BATCH,
            key=name,
            rid=f"req_{b64url_encode(self._entropy(16))}",
            jti="",
            sub="",
            req="",
            kept=int(now.timestamp() * 1000),
            until=int((now + timedelta(days=self.settings.retention.kept_seal)).timestamp() * 1000),
            exchange={"endpoint": endpoint},
        )

    def _admit_lines(self, batch: Batch, caller: Caller, route: Route, chunk: list[_Read]) -> Steps[None]:
        """Decide some lines, and keep those that are to be answered in one commit."""
        admitted: list[tuple[BatchLine, KeptSeal]] = []
        for read in chunk:
            observed = self.telemetry.observe("batch")
            try:
                if read.error is not None:
                    raise read.error
                exchange = yield from self._admit_line(batch, caller, route, read, observed)
            except (MalformedRequestError, ConflictError) as error:
                self.count_refusal(error, observed)
                batch.refused.append(_error_line(read.custom_id, None, error.code, str(error), line=read.number))
                continue
            if exchange.is_refused:
                refused = yield from self.keep_denial(exchange)
                head, body = self.refuse(refused, route.dialect, exchange)
                batch.refused.append(_answer_line(str(read.custom_id), exchange, head.status, body, salted=False))
                continue
            line = BatchLine(str(read.custom_id), exchange.ids.rid, read.body)
            until = int((self.clock() + timedelta(days=self.settings.retention.kept_seal)).timestamp() * 1000)
            (seal,) = opened(exchange, ((SealKind.BATCH, f"{batch.id}:{line.custom_id}", until),), self.clock(), request_hash=None)
            stores = {"background": exchange.request.background, "line": read.number, "stores": exchange.request.stores}
            admitted.append((line, replace(seal, exchange={**seal.exchange, **stores})))
        if admitted:
            yield KeepSeals(tuple(seal for _, seal in admitted))
            batch.lines += (line for line, _ in admitted)
            batch._seals |= {line.custom_id: seal for line, seal in admitted}

    def _admit_line(self, batch: Batch, caller: Caller, route: Route, read: _Read, observed: Observed) -> Steps[Exchange]:
        body = _line_bytes(read)
        view = RequestView("POST", batch.endpoint, (), None, observed)
        request = route.dialect.read_request(body, RequestHead("POST", batch.endpoint, "application/json"))
        if request.stream or request.retrieves is not None:
            raise MalformedRequestError("is answered whole: no stream, and no stored response", where=f"line {read.number}")
        salt = self._line_salt(batch, str(read.custom_id))
        facts = replace(self._facts(caller, view, request), channel="batch")
        exchange, rights = yield from self._decided(caller, route, request, facts, body=body, nonce=None, now=self.clock(), salt=salt)
        exchange.observed = observed
        observed.request_id = exchange.ids.rid
        if exchange.decision.allowed:
            yield from self._reserve(exchange, caller.holder, rights)
        self._told(exchange)
        return exchange

    def _of_line(self, batch: Batch, custom_id: str, seal: KeptSeal) -> Steps[Exchange]:
        """The exchange of a line, from what is kept of it."""
        caller = yield from self._caller(FindHolder(account_id=batch.account_id), None)
        route = self._batch_route(batch.endpoint)
        facts = self._facts_of(seal)
        plan = self.rulebook.plan(caller.holder, facts.model, self.clock())
        request = RequestFacts(facts.action, facts.model, stores=bool(seal.exchange.get("stores")))
        observed = self.telemetry.observe("batch")
        observed.request_id = seal.rid
        try:
            return original_of(
                seal, dialect=route.dialect, plan=plan, request=request, observed=observed, salt=self._line_salt(batch, custom_id)
            )
        except NO_EXCHANGE as error:
            raise damaged(seal) from error

    def _line_salt(self, batch: Batch, custom_id: str) -> bytes:
        return self._mac("salt", json.dumps([self.settings.issuer, batch.account_id, _WHERE, batch.id, custom_id]))


def _read_lines(lines: Iterable[bytes], endpoint: str) -> Iterator[_Read]:
    """The lines of an input file that are not blank; each is answered, whatever it is."""
    count, seen = 0, set[str | None]((None,))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        count += 1
        if count > MAX_BATCH_LINES:
            error = MalformedRequestError(f"is behind the {MAX_BATCH_LINES} lines of a batch", where=f"line {number}")
            yield _Read(number, _custom_id(line), error=error)
            continue
        read = _read_line(number, line, endpoint)
        if read.custom_id in seen and read.error is None:
            twice = ConflictError("occurs twice", where=f"line {number}, custom_id", cure="Give each line its own.")
            read = replace(read, error=twice)
        seen.add(read.custom_id)
        yield read


def _read_line(number: int, line: bytes, endpoint: str) -> _Read:
    where = f"line {number}"
    custom_id: str | None = None
    try:
        members = parse_request_object(line.strip())
        named, body = members.get("custom_id"), members.get("body")
        if not isinstance(named, str) or not _is_id(named):
            raise MalformedRequestError(f"has no custom_id of 1 to {MAX_ID_CHARS} printable characters", where=where)
        custom_id = named
        if (members.get("method"), members.get("url")) != ("POST", endpoint):
            raise MalformedRequestError(f"is not a POST to {endpoint}, the endpoint of the batch", where=where)
        if not isinstance(body, dict):
            raise MalformedRequestError("has no object as body", where=where)
    except MalformedRequestError as error:
        return _Read(number, custom_id, error=error)
    return _Read(number, custom_id, body)


def _custom_id(line: bytes) -> str | None:
    """The id of a line that is not served, so that its answer can be told from others'."""
    try:
        named = parse_request_object(line.strip()).get("custom_id")
    except MalformedRequestError:
        return None
    return named if isinstance(named, str) and _is_id(named) else None


def _is_id(name: str) -> bool:
    return 1 <= len(name) <= MAX_ID_CHARS and name.isprintable()


def _line_bytes(read: _Read) -> bytes:
    """The bytes that a line's request is bound by: the RFC 8785 form of its body, however the line was written."""
    try:
        return canonical_json(read.body)
    except MalformedError as error:
        raise MalformedRequestError(error.what, where=f"line {read.number}") from None


def _no_line(custom_id: str) -> NotFoundError:
    return NotFoundError("the batch has no such line, or was closed before", where=f"line {custom_id[:MAX_ID_CHARS]}")


def _written(body: Mapping[str, Any]) -> bytes:
    """The JSON of an answer that is given as a mapping, of whatever kind, with others in it.

    Raises:
        ValueError: It has none.
    """
    try:
        return json.dumps(body, default=_plain).encode("ascii")
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the answer to a line cannot be written as JSON ({error})") from error


def _plain(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _answer_line(custom_id: str, exchange: Exchange, status: int, body: bytes, *, salted: bool = True) -> bytes:
    """An output line with a response."""
    rid = exchange.ids.rid
    response: dict[str, Any] = {"status_code": status, "request_id": rid}
    if salted:
        response["ai_provenance_salt"] = b64url_encode(exchange.ids.salt)
    head = json.dumps({"id": _line_id(rid), "custom_id": custom_id, "response": response})
    # The body's bytes as they were sealed; line ends in it stand between its members, where a space says the same.
    said = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"".join((head[:-2].encode("ascii"), b', "body": ', said, b'}, "error": null}\n'))


def _error_line(custom_id: str | None, rid: str | None, code: str, message: str, *, line: int | None = None) -> bytes:
    """An output line of a request that was not served."""
    error: dict[str, Any] = {"code": code, "message": message}
    if line is not None:
        error["line"] = line
    said = {"id": _line_id(rid or "none"), "custom_id": custom_id, "response": None, "error": error}
    return json.dumps(said).encode("ascii") + b"\n"


def _line_id(rid: str) -> str:
    return f"batch_{rid}"
