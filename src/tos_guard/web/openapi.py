"""What the guard does, in the words of a host's OpenAPI document (3.0 and 3.1).

- Said of exactly the operations that the guard serves: whether one is exempt or guarded is asked of the guard, as the middleware does.
- Nothing of the host's is changed: what its document says of a scheme, a response, a field or a schema stays, and ours is left out.
- Of a refusal it says what refusals are: the shape of the route's dialect, with the members that `tos_guard.guard` gives.

Documents come in and go out as plain JSON values; adapters know where their framework keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from tos_guard.dialects import Dialect, MessagesDialect, OpenAIDialect
from tos_guard.guard import AsyncGuard, Guard, Route
from tos_guard.web.wellknown import account_addresses, addresses, is_well_known

__all__ = ["EXTENSION", "action_scheme", "concrete", "described", "guarded_route"]

Schema = dict[str, Any]

EXTENSION: Final = "x-tos-guard"
"""At the root: where terms and keys are. On an operation: the actions of the terms that it asks for."""

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_ACTION_SCHEME: Final = "TosGuard.action."
_BEARER, _KEY = "TosGuardBearer", "TosGuardKey"
_ERROR, _MESSAGES_ERROR, _PROBLEM = "TosGuardError", "TosGuardMessagesError", "TosGuardProblem"

_SEALED: Final = {
    "AI-Provenance": "The signed provenance token of this response (compact JWS).",
    "AI-Provenance-Salt": "Binds the token to the request; only the caller learns it.",
    "Content-Usage": "What may be done with the content, as the token says it.",
    "Content-Digest": "Digest of a body that is sent whole (RFC 9530).",
}
_ALWAYS: Final = {
    "Link": "Where the terms in force are, with rel=terms-of-service.",
    "X-Request-ID": "Id of the exchange.",
    "Request-ID": "The same.",
    "RateLimit-Policy": "The account's limits, as structured fields.",
    "RateLimit": "How much of them is left, and when some comes back.",
}
_OPENAI: Final = {
    f"X-RateLimit-{what}-{unit}": f"{said} of {unit.lower()}."
    for unit in ("Requests", "Tokens")
    for what, said in (("Limit", "The tightest limit"), ("Remaining", "What is left"), ("Reset", "When some comes back: 6m0s"))
}
_ANTHROPIC: Final = {
    f"Anthropic-RateLimit-{unit}-{what}": f"{said} of {unit.lower().replace('-', ' ')}."
    for unit in ("Requests", "Tokens", "Input-Tokens", "Output-Tokens")
    for what, said in (
        ("Limit", "The tightest limit"),
        ("Remaining", "What is left"),
        ("Reset", "When some comes back, as a date and time"),
    )
}
_REFUSED: Final = {"X-Should-Retry": "Whether trying again soon can help: true or false."}
_REFUSED_WITH: Final = {
    "401": {"WWW-Authenticate": "The scheme of credentials."},
    "429": {"Retry-After": "Seconds until there is room; absent where waiting cannot help."},
}
_REFUSALS: Final = {
    "400": "The request cannot be read: its body, or a header of it.",
    "401": "The credential is missing or not accepted.",
    "403": "The account may not do this: `code` and `clauses` say why, `terms_url` where it is written.",
    "413": "The request is larger than is accepted.",
    "429": "A limit of the account is reached: the error names it, whose it is, its window, and when it has room again.",
    "503": "The provider cannot check or seal the request at present.",
}


def action_scheme(action: str) -> str:
    """Name of the security scheme under which an adapter's dependency brings the action it demands into a document."""
    return _ACTION_SCHEME + action


def concrete(template: str) -> str:
    """A path template as one path that it serves: ``/v1/models/{id}`` becomes ``/v1/models/x``."""
    return "/".join("x" if segment.startswith("{") else segment for segment in template.split("/"))


def guarded_route(guard: Guard | AsyncGuard, path: str) -> Route | None:
    """The route under which the middleware guards a path; None for what is exempt, served by the guard itself, or nobody's."""
    return None if guard.is_exempt(path) or is_well_known(path) else guard.route(path)


def described(document: Mapping[str, Any], guard: Guard | AsyncGuard, *, prefix: str = "") -> dict[str, Any]:
    """A copy of a host's document that says what the guard does.

    Args:
        document: An OpenAPI document. One that guards nothing comes back as it is.
        guard: The guard.
        prefix: Path under which the document's app is mounted, without a slash at its end.
    """
    found = deepcopy(dict(document))
    guarded = list(_guarded(found, guard, prefix)) if "openapi" in found else []
    if not guarded:
        return found
    writer = _Writer(found, guard)
    for operation, route in guarded:
        writer.write(operation, route)
    writer.finish()
    return found


def _guarded(document: dict[str, Any], guard: Guard | AsyncGuard, prefix: str) -> Iterator[tuple[dict[str, Any], Route]]:
    for template, item in (document.get("paths") or {}).items():
        route = guarded_route(guard, concrete(prefix + template))
        if route is not None:
            yield from ((item[method], route) for method in _METHODS if method in item)


class _Writer:
    """Writes into one document, which it may change."""

    def __init__(self, document: dict[str, Any], guard: Guard | AsyncGuard) -> None:
        self._document = document
        self._guard = guard
        self._has_own_security = "security" in document
        self._nullable = _nullable_30 if str(document["openapi"]).startswith("3.0") else _nullable
        self._components: dict[str, dict[str, Any]] = document.setdefault("components", {})

    def write(self, operation: dict[str, Any], route: Route) -> None:
        """Say of one operation what the guard does on its route."""
        media_type = route.dialect.refusal_type.decode("ascii")
        schema, of_dialect, refusal = self._shape(route.dialect)
        always = {**_ALWAYS, **of_dialect}
        actions = [self._guard.settings.routes[route.path].action, *_demanded(operation)]
        operation.setdefault(EXTENSION, {"actions": list(dict.fromkeys(actions))})
        if self._guard.takes_credentials and not self._has_own_security:
            operation.setdefault("security", [{_BEARER: []}, {_KEY: []}])
        responses = operation.setdefault("responses", {})
        for response in responses.values():
            self._add_fields(response, _SEALED | always)
        for status, description in _REFUSALS.items():
            response = responses.setdefault(status, {"description": description})
            if "$ref" not in response:
                content = response.setdefault("content", {})
                content.setdefault(media_type, {"schema": {"$ref": f"#/components/schemas/{schema}"}})
            self._add_fields(response, _REFUSED | _REFUSED_WITH.get(status, {}) | always)
        if schema not in self._components.get("schemas", {}):
            self._put("schemas", schema, refusal())

    def _shape(self, dialect: Dialect) -> tuple[str, Mapping[str, str], Callable[[], Schema]]:
        """How refusals of a dialect look: name of their schema, fields of its own, and what makes the schema."""
        if isinstance(dialect, OpenAIDialect):
            return _ERROR, _OPENAI, self._error
        if isinstance(dialect, MessagesDialect):
            return _MESSAGES_ERROR, _ANTHROPIC, self._messages_error
        return _PROBLEM, {}, self._problem

    def finish(self) -> None:
        """Say what is the same for all of them."""
        settings, terms = self._guard.settings, self._guard.terms
        own = account_addresses(settings.issuer, settings.account_routes)
        self._document.setdefault(EXTENSION, {**addresses(settings.issuer, terms), **own})
        self._document.setdefault("info", {}).setdefault("termsOfService", terms.uri)
        schemes = self._components.get("securitySchemes", {})
        for name in [name for name in schemes if name.startswith(_ACTION_SCHEME) and name not in _schemes_in(self._document)]:
            del schemes[name]  # how an action was brought here; it now stands with its operation
        if self._guard.takes_credentials and not self._has_own_security:
            servers = " or ".join(server.issuer for server in settings.bearer)
            token = f", or an access token of {servers}" if servers else ""
            self._put(
                "securitySchemes", _BEARER, {"type": "http", "scheme": "bearer", "description": f"An API key of the provider{token}."}
            )
            self._put(
                "securitySchemes",
                _KEY,
                {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key of the provider."},
            )
        for kind in [kind for kind, members in self._components.items() if not members]:
            del self._components[kind]

    def _put(self, kind: str, name: str, value: dict[str, Any]) -> None:
        self._components.setdefault(kind, {}).setdefault(name, value)

    def _add_fields(self, response: dict[str, Any], fields: Mapping[str, str]) -> None:
        """Add header fields to a response that is not kept elsewhere, but for those that it has in any spelling."""
        if "$ref" in response:
            return
        headers = response.setdefault("headers", {})
        known = {name.lower() for name in headers}
        for name, description in fields.items():
            if name.lower() not in known:
                self._put("headers", name, {"description": description, "schema": {"type": "string"}})
                headers[name] = {"$ref": f"#/components/headers/{name}"}

    def _error(self) -> Schema:
        """A refusal in the shape of OpenAI's errors."""
        said = {
            "message": _text("For people."),
            "type": _text("Kind of error."),
            "param": self._nullable(_text("Always null.")),
            "code": _text(_CODE),
        }
        error = {"type": "object", "required": ["message", "type", "code", *_NAMED], "properties": {**said, **self._members()}}
        return {"type": "object", "required": ["error"], "properties": {"error": error}}

    def _messages_error(self) -> Schema:
        """A refusal in the shape of Anthropic's errors, whose request id stands outside."""
        members = self._members()
        rid = members.pop("request_id")
        said = {"type": _text("Kind of error."), "message": _text("For people."), "code": _text(_CODE)}
        error = {"type": "object", "required": [*said, "terms_url"], "properties": {**said, **members}}
        properties = {"type": _text("error"), "error": error, "request_id": rid}
        return {"type": "object", "required": list(properties), "properties": properties}

    def _problem(self) -> Schema:
        """A refusal as problem details (RFC 9457)."""
        said = {
            "type": _text("about:blank"),
            "title": _text("Kind of error."),
            "detail": _text("For people."),
            "code": _text(_CODE),
        }
        return {"type": "object", "required": [*said, *_NAMED], "properties": {**said, **self._members()}}

    def _members(self) -> Schema:
        """What refusals of every shape have."""
        accept = {name: _text(said) for name, said in _TO_ACCEPT.items()}
        return {
            "terms_url": _text("Where the terms in force are."),
            "request_id": _text("Id of the exchange."),
            "appeal_url": _text("Where to appeal."),
            "clause": _text("The clause that decided; of several, the first."),
            "clauses": {"type": "array", "items": {"type": "string"}, "description": "The clauses that decided."},
            "accept": {
                "type": "array",
                "items": {"type": "object", "required": list(accept), "properties": accept},
                "description": "Terms that are to be accepted first.",
            },
            "accept_url": _text("Where people accept them."),
            "who_may_accept": _text("Who can: account or organization."),
            "limit": _text("Id of the limit that is reached."),
            "quantity": _text("What it counts."),
            "scope": {"type": "array", "items": {"type": "string"}, "description": "What it is counted per; empty for everyone."},
            "window": self._nullable(_text("In which time; null for what runs at a time.")),
            "amount": _number("How much is allowed."),
            "remaining": _number("How much is left."),
            "requested": _number("How much this request could take."),
            "retry_after": self._nullable(
                _number("Seconds until there is room; null where this request alone asks for more than the limit.")
            ),
            "resets_at": _text("When that is, as a date and time."),
            "standing": _text("The step of standing that the account is on."),
            "measure": _text("Id of the measure that put it there."),
            "standing_reason": _text("Why."),
            "notice": _text("What the provider tells the account."),
            "requires": _text("What is asked of the account."),
            "deadline": _text("By when, as a date and time."),
            "deadline_missed": {"type": "boolean", "description": "Whether that has passed."},
            "expires": _text("When the measure ends, as a date and time."),
            "verify": {"type": "array", "items": {"type": "string"}, "description": "Levels of which one must be reached."},
        }


_CODE: Final = "Stable, for programs: tos_unauthenticated, tos_clause, tos_terms_not_accepted, tos_limit, …"
_NAMED: Final = ("terms_url", "request_id")
_TO_ACCEPT: Final = {"series": "Their series.", "version": "Their version.", "uri": "Where they are.", "sha256": "Digest of the version."}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _number(description: str) -> Schema:
    return {"type": "integer", "description": description}


def _nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _nullable_30(schema: Schema) -> Schema:
    return {**schema, "nullable": True}


def _schemes_in(document: dict[str, Any]) -> set[str]:
    """Names of the security schemes that operations still ask for."""
    operations = (item[method] for item in (document.get("paths") or {}).values() for method in _METHODS if method in item)
    return {name for operation in operations for requirement in operation.get("security", ()) for name in requirement}


def _demanded(operation: dict[str, Any]) -> list[str]:
    """Take out the actions that dependencies brought into an operation as security schemes of ours."""
    actions: list[str] = []
    security: list[dict[str, Any]] = []
    for requirement in operation.get("security", ()):
        actions += [name.removeprefix(_ACTION_SCHEME) for name in requirement if name.startswith(_ACTION_SCHEME)]
        others = {name: scopes for name, scopes in requirement.items() if not name.startswith(_ACTION_SCHEME)}
        if others or not requirement:  # an empty one is the host's word that nothing is needed
            security.append(others)
    if actions:
        del operation["security"]
        if security:
            operation["security"] = security
    return actions
