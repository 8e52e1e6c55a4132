"""Webhooks that come in: other systems move accounts and tell of entitlements, by messages that are signed (docs/guides/webhooks.md).

- A message is believed for its signature alone, over the exact bytes of its body, and within five minutes of its time. Whatever is wrong
  about that (no such webhook, another secret, a changed byte, an old time) gets one answer.
- It may do what its webhook's settings name, and nothing else; the history has it as ``webhook:<name>``.
- It is answered with 2xx once what it asks for is durable. The same message again changes nothing, and gets 2xx as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from tos_guard._canonical import parse_json, sha256_b64url
from tos_guard.config import WebhookSettings, describe
from tos_guard.errors import (
    AccountError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    DeniedError,
    MalformedError,
    MalformedRequestError,
    NotFoundError,
    RequestError,
    VerificationError,
)
from tos_guard.guard import Ask, EntitlementSync, GuardSteps, Steps, webhook_secrets
from tos_guard.keys import UnverifiedWebhook, parse_webhook_head, verify_webhook
from tos_guard.rights import Account, Measure
from tos_guard.stores import Store
from tos_guard.types import Standing
from tos_guard.web._admin_inputs import MAX_REASON_CHARS, MAX_SAID, Input, _Moment, _Text, _Why
from tos_guard.web._routes import (
    MAX_BODY_BYTES,
    Answer,
    MethodNotAllowedError,
    UnsupportedMediaTypeError,
    WebRequest,
    check_prefix,
    is_json,
    json_answer,
    refusal_answer,
)

__all__ = ["WebhookRoutes"]

MAX_DOCUMENT_BYTES: Final = 1_048_576  # of a pushed document: it is held in memory before anybody is known to have sent it
MAX_DEPTH: Final = 9  # message, data, document, accounts, account, grants, grant, its models
MAX_TYPE_CHARS: Final = 64
_FIELDS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")

_Model = TypeVar("_Model", bound=Input)


class _Measure(Input):
    """A measure to take, as `Measure` has it."""

    account: _Text
    id: _Text | None = None
    step: Standing
    reason: _Why
    clauses: Annotated[list[_Text], Field(max_length=16, default_factory=list)]
    notice: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = ""
    evidence: _Text = ""
    automated: bool = True
    begins: _Moment | None = None
    requires: Literal["accept", "verify", "contact"] | None = None
    deadline: _Moment | None = None
    then: Standing | None = None
    expires: _Moment | None = None


class _Lift(Input):
    """A measure to lift."""

    account: _Text
    measure: _Text
    reason: _Why


class _Set(Input):
    """The account's own standing."""

    account: _Text
    standing: Standing
    reason: _Why


class _Changed(Input):
    """A source whose document has changed."""

    source: _Text


class _Document(Input):
    """A source and its document."""

    source: _Text
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who seems to send, before the signature has been checked."""

    hook: WebhookSettings
    unverified: UnverifiedWebhook


@dataclass(frozen=True, slots=True)
class _Message:
    """A message whose signature is right."""

    hook: WebhookSettings
    id: str
    data: dict[str, Any]

    @property
    def actor(self) -> str:
        """Who does what it asks for, as histories name it."""
        return f"webhook:{self.hook.name}"

    @property
    def delivery(self) -> tuple[str, str]:
        """By what it is known to have been taken."""
        return self.hook.name, self.id


class WebhookRoutes:
    """Serves ``<admin_routes>/webhooks/<name>``; stands before the administrators' routes, whose path is around it.

    Args:
        guard: The guard, of either colour.

    Attributes:
        prefix: The path that all of them are under.
        name: ``webhooks``.

    Raises:
        ConfigurationError: The settings name no path, the guard has no store, a secret cannot be read, or two webhooks share one.
    """

    name = "webhooks"

    def __init__(self, guard: GuardSteps) -> None:
        settings = guard.settings
        if settings.admin_routes is None or guard.store is None:
            raise ConfigurationError("there are no administrators' routes, or no store", where="webhooks", cure="Set admin_routes.")
        prefix = f"{settings.admin_routes}/webhooks"
        self.prefix: str = check_prefix(guard, prefix, where="admin_routes", others=(settings.account_routes,))
        self._guard = guard
        self._store: Store = guard.store
        self._hooks = {hook.name: (hook, webhook_secrets(hook.secret)) for hook in settings.webhooks}
        _check_apart({name: secrets for name, (_, secrets) in self._hooks.items()})
        self._sources = {source.name: source for source in settings.entitlements}
        self._types: dict[str, tuple[str, Callable[[_Message], None]]] = {
            "standing.measure": ("standing", self._take_measure),
            "standing.lift": ("standing", self._lift_measure),
            "standing.set": ("standing", self._set_standing),
            "entitlements.changed": ("entitlements", self._entitlements_changed),
            "entitlements.document": ("entitlements", self._entitlements_document),
        }

    def owns(self, path: str) -> bool:
        """Whether a path is one of ours."""
        return path.startswith(f"{self.prefix}/")

    def enter(self, request: WebRequest) -> Steps[_Sender]:
        """Find who seems to send. Without a body no signature can be checked: only fields that are none are refused here.

        Raises:
            MethodNotAllowedError: It is no POST.
            AuthenticationError: It bears no signature of this time, or there is no such webhook.
        """
        yield from ()
        self._guard.keep_up()
        if request.view.method != "POST":
            raise MethodNotAllowedError("POST")
        found = self._hooks.get(request.segments[0]) if len(request.segments) == 1 else None
        try:
            message_id, timestamp, signature = (request.view.header(name) or "" for name in _FIELDS)
            unverified = parse_webhook_head(message_id, timestamp, signature, now=self._guard.clock())
        except (VerificationError, MalformedRequestError):
            raise _refused() from None
        if found is None:
            raise _refused()
        return _Sender(found[0], unverified)

    def still(self, who: _Sender, request: WebRequest) -> Steps[_Sender]:
        """As `enter`, which finds whoever it is again."""
        del who
        return self.enter(request)

    def body_limit(self, request: WebRequest) -> int:
        """Largest body that is read, in bytes."""
        found = self._hooks.get(request.segments[0]) if request.segments else None
        return MAX_DOCUMENT_BYTES if found is not None and "entitlements" in found[0].may else MAX_BODY_BYTES

    def answer(self, who: _Sender, request: WebRequest) -> Steps[Answer]:
        """Do what a message asks for.

        Raises:
            RequestError: It is not from whom it says, or asks for something that cannot be done.
            StoreError: The store failed: the sender does well to send it again.
        """
        try:
            verify_webhook(who.unverified, request.body, secrets=self._hooks[who.hook.name][1])
        except VerificationError:
            raise _refused() from None
        reading = partial(self._message, who, request)
        read: tuple[str, _Message] = (yield Ask(reading)) if len(request.body) > MAX_BODY_BYTES else reading()
        kind, message = read
        right, handler = self._types[kind]
        if right not in who.hook.may:
            raise DeniedError(f"this webhook may not send {kind}", reason="tos_denied", cure=f"Its settings would name {right!r}.")
        known: bool = yield Ask(partial(self._store.knows_delivery, *message.delivery))
        if not known:
            yield Ask(partial(self._done, handler, message))
        return json_answer({"id": message.id, "taken": "before" if known else "now"})

    def refuse(self, request: WebRequest, error: RequestError) -> Answer:
        """The answer to a message that is not taken: problem details."""
        del request
        return refusal_answer(self._guard, error)

    def _message(self, who: _Sender, request: WebRequest) -> tuple[str, _Message]:
        """The type of a message, one that we know, and what it says."""
        if not is_json(request.view):
            raise UnsupportedMediaTypeError("is not application/json", where="content-type", cure="Send JSON, and say so.")
        try:
            members = parse_json(request.body, where="request body", max_depth=MAX_DEPTH, max_bytes=MAX_DOCUMENT_BYTES)
        except MalformedError as error:
            raise MalformedRequestError(error.what, where=error.where) from None
        kind = members.get("type") if isinstance(members, dict) else None
        data = members.get("data") if isinstance(members, dict) else None
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise MalformedRequestError("is not an object with type and data", where="request body")
        if kind not in self._types:
            raise MalformedRequestError(
                f"unknown type {kind[:MAX_TYPE_CHARS]!r}", where="type", cure=f"Known are: {', '.join(sorted(self._types))}."
            )
        return kind, _Message(who.hook, who.unverified.id, data)

    @staticmethod
    def _done(handler: Callable[[_Message], None], message: _Message) -> None:
        try:
            handler(message)
        except AccountError as error:
            raise ConflictError(error.what, where=error.where, cure=error.cure) from None
        except VerificationError as error:  # a document that is refused
            raise MalformedRequestError(error.what, where=error.where, cure=error.cure) from None

    # Standing

    def _take_measure(self, message: _Message) -> None:
        given = _read(_Measure, message)
        account = self._account(given.account)
        if given.requires == "verify" and not self._guard.rulebook.ladder.levels(given.step):  # nothing that the account does could end it
            raise ConflictError(
                "no step of the ladder names a level of verification", where="requires", cure=f"Set [standing.{given.step}] verify = […]."
            )
        members = given.model_dump(exclude={"account"}) | {
            "id": given.id or f"wh-{sha256_b64url(message.id.encode('ascii'))[:24]}",
            "begins": given.begins or self._guard.clock(),
            "clauses": tuple(given.clauses),
        }
        try:
            measure = Measure(**members)
        except AccountError as error:
            raise MalformedRequestError(error.what, where=error.where, cure=error.cure) from None
        self._store.take_measure(account.id, measure, actor=message.actor, delivery=message.delivery)
        self._guard.telemetry.changed("measure_taken", standing=measure.step)

    def _lift_measure(self, message: _Message) -> None:
        given = _read(_Lift, message)
        account = self._account(given.account)
        if all(measure.id != given.measure for measure in account.measures):
            raise NotFoundError("the account has no such measure", where=f"measure {given.measure[:64]}")
        self._store.lift_measure(account.id, given.measure, given.reason, actor=message.actor, delivery=message.delivery)
        self._guard.telemetry.changed("measure_lifted")

    def _set_standing(self, message: _Message) -> None:
        given = _read(_Set, message)
        account = self._account(given.account)
        self._store.set_standing(account.id, given.standing, given.reason, actor=message.actor, delivery=message.delivery)
        self._guard.telemetry.changed("standing", standing=given.standing)

    def _account(self, account_id: str) -> Account:
        account = self._store.by_id(account_id)
        if account is None:
            raise NotFoundError("unknown account", where=f"account {account_id[:128]}")
        return account

    # Entitlements

    def _entitlements_changed(self, message: _Message) -> None:
        name = _read(_Changed, message).source
        self._entitlements(message, name).announce(name)
        self._store.note_delivery(*message.delivery)

    def _entitlements_document(self, message: _Message) -> None:
        given = _read(_Document, message)
        self._entitlements(message, given.source).push(given.source, json.dumps(given.document).encode("ascii"))
        self._store.note_delivery(*message.delivery)

    def _entitlements(self, message: _Message, name: str) -> EntitlementSync:
        """What applies the document of a source, if this webhook may send for it."""
        source, sync = self._sources.get(name), self._guard.entitlements
        if source is None or sync is None or source.webhook != message.hook.name:
            raise NotFoundError("this webhook sends for no such source", where=f"source {name[:64]}")
        return sync


def _check_apart(secrets: Mapping[str, Sequence[bytes]]) -> None:
    """See that no two webhooks share a secret: whoever may send the one could send the other, since a signature does not name its address.

    Raises:
        ConfigurationError: Two do.
    """
    owners: dict[bytes, str] = {}
    for name, own in secrets.items():
        for secret in own:
            if owners.setdefault(secret, name) != name:
                raise ConfigurationError(f"{owners[secret]} and {name} have one secret", where="webhooks", cure="Give each its own.")


def _read(model: type[_Model], message: _Message) -> _Model:
    """What a message says, as *model*."""
    try:
        return model.model_validate_json(json.dumps(message.data))
    except ValidationError as error:
        raise MalformedRequestError(describe(error)[:MAX_SAID], where="data") from None


def _refused() -> AuthenticationError:
    return AuthenticationError(
        "The message is not signed by whom it is said to be from", cure="Sign it as Standard Webhooks say, with the present time."
    )
