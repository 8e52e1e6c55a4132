"""The account routes: what an account may know of itself, and where its people accept terms (docs/guides/account-routes.md).

- Whoever may make requests for the account may look: the credential is the same, and judged by the same step. An account that has
  accepted nothing, or is suspended or closed, may look all the same, and appeal: these are the people who need to.
- Everything is a JSON document and a page that shows its members. ``Accept: application/json`` or a path ending in ``.json`` asks for the
  document.
- A person accepts: as the host names them (``acceptor=``), or as a bearer token does, or by a name they give. The record says which.
- Pages are self-contained and run no script. Their forms carry a token that no other site can have (`tos_guard.web._forms`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial
from typing import Any, Final

from tos_guard.errors import ConfigurationError, ConflictError, DeniedError, MalformedRequestError, NotFoundError, RequestError
from tos_guard.guard import Ask, Caller, GuardSteps, Person, Steps, Subject
from tos_guard.rights import ACCOUNT_ROUTES, Holder
from tos_guard.stores import Appeal
from tos_guard.terms import Acceptance, TermsVersion, parse_receipt
from tos_guard.types import AcceptanceMethod, Identification, Standing
from tos_guard.web._account_documents import (
    acceptance_document,
    appeal_document,
    overview_document,
    receipts_document,
    rights_document,
    seal_document,
    standing_document,
    terms_document,
    terms_members,
    usage_document,
    who_document,
)
from tos_guard.web._account_pages import (
    accepted_page,
    appealed_page,
    overview_page,
    receipts_page,
    refusal_page,
    rights_page,
    standing_page,
    terms_page,
    usage_page,
    version_page,
)
from tos_guard.web._forms import check_form_token, form_token
from tos_guard.web._frame import PAGE_HEADERS, Frame
from tos_guard.web._routes import (
    MAX_BODY_BYTES,
    Answer,
    MethodNotAllowedError,
    WebRequest,
    answer,
    check_prefix,
    form_members,
    is_json,
    json_answer,
    json_members,
    prefers_json,
    refusal_answer,
    wants_page,
)

__all__ = ["AccountRoutes"]

_JSON: Final = ".json"
_TEXT: Final = ".txt"
_READ: Final = ("GET", "HEAD")
_SOON: Final = (b"retry-after", b"1")


class SealNotFoundError(NotFoundError):
    """No seal is kept under a request id: there never was one, its time is over, or its response still runs."""


class AccountRoutes:
    """Serves the routes below ``account_routes`` of the settings.

    Args:
        guard: The guard, of either colour.

    Attributes:
        prefix: The path that all of them are under.
        name: ``account``.

    Raises:
        ConfigurationError: The settings name no path, another route is there, or the guard cannot keep acceptances.
    """

    name = "account"

    def __init__(self, guard: GuardSteps) -> None:
        settings = guard.settings
        if settings.account_routes is None:
            raise ConfigurationError("no path is set for the account routes", where="account_routes")
        if not guard.keeps_acceptances:
            raise ConfigurationError(
                "the guard has no store to keep acceptances in, or nothing that signs receipts",
                where="account_routes",
                cure="Give store= and receipts=, or use from_file.",
            )
        self.prefix: str = check_prefix(guard, settings.account_routes, where="account_routes", others=(settings.admin_routes,))
        self._guard = guard
        self._site = settings.issuer.partition("://")[2]
        self._pages: Mapping[str, Callable[[Caller, WebRequest, Frame], Steps[tuple[dict[str, Any], Callable[[], bytes]]]]] = {
            "overview": self._overview,
            "terms": self._terms,
            "standing": self._standing,
            "rights": self._rights,
            "usage": self._usage,
            "receipts": self._receipts,
        }

    def owns(self, path: str) -> bool:
        """Whether a path is one of ours."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")

    def enter(self, request: WebRequest) -> Steps[Caller]:
        """Find the account, as for a request on a guarded route.

        Raises:
            AuthenticationError, RequestError, StoreError: As `GuardSteps.authenticate`.
            DeniedError: The API key is for other things.
        """
        return _permitted((yield from self._guard.authenticate(request.view)))

    def still(self, who: Caller, request: WebRequest) -> Steps[Caller]:
        """The account as it is now. Errors as of `enter`."""
        del request
        return _permitted((yield from self._guard.still(who)))

    def body_limit(self, request: WebRequest) -> int:
        """Largest body that is read, in bytes."""
        del request
        return MAX_BODY_BYTES

    def answer(self, who: Caller, request: WebRequest) -> Steps[Answer]:
        """Serve.

        Raises:
            RequestError: There is nothing at this path, or what is asked for cannot be done.
            StoreError, SignerError: A part failed.
        """
        match request.segments:
            case () | ("",):
                return (yield from self._page("overview", who, request, as_json=prefers_json(request.view)))
            case (name,) if name.removesuffix(_JSON) in self._pages:
                as_json = name.endswith(_JSON) or prefers_json(request.view)
                return (yield from self._page(name.removesuffix(_JSON), who, request, as_json=as_json))
            case ("terms", "accept") if request.view.method not in _READ:
                return (yield from self._accept(who, request))
            case ("terms", "withdraw") if request.view.method not in _READ:
                return (yield from self._withdraw(who, request))
            case ("standing", "appeal") if request.view.method not in _READ:
                return (yield from self._appeal(who, request))
            case ("standing", "withdraw") if request.view.method not in _READ:
                return (yield from self._withdraw_appeal(who, request))
            case ("terms", version):
                return (yield from self._version(who, request, version))
            case ("receipts", name):
                return self._receipt(who.holder, request, name)
            case ("seals", rid):
                return (yield from self._seal(who, request, rid))
            case _:
                raise NotFoundError("there is nothing at this path", where=request.view.path[:200])

    def refuse(self, request: WebRequest, error: RequestError) -> Answer:
        """The answer to a request that is not served: problem details, or a page for browsers."""
        status, headers, body = refusal_answer(self._guard, error)
        if isinstance(error, SealNotFoundError):
            headers.append(_SOON)
        if not wants_page(request.view) or request.view.path.endswith(_JSON):
            return status, headers, body
        kept = [(name, value) for name, value in headers if name not in (b"content-type", b"content-length", b"cache-control")]
        page = refusal_page(self._frame(request, None), status, json.loads(body))
        return answer(status, b"text/html; charset=utf-8", page, *PAGE_HEADERS, *kept)

    def _frame(self, request: WebRequest, account: str | None, twin: str | None = None) -> Frame:
        here = self._here(request)
        return Frame(here, self._site, account, f"{here}/{twin}{_JSON}" if twin is not None else None)

    def _here(self, request: WebRequest) -> str:
        return f"{request.root}{self.prefix}"

    # Looking

    def _page(self, name: str, caller: Caller, request: WebRequest, *, as_json: bool) -> Steps[Answer]:
        _only(request, *_READ)
        document, page = yield from self._pages[name](caller, request, self._frame(request, caller.account.id, name))
        if as_json:
            return json_answer(document)
        written: bytes = yield Ask(page)
        return _html(written)

    def _overview(self, caller: Caller, request: WebRequest, frame: Frame) -> Steps[tuple[dict[str, Any], Callable[[], bytes]]]:
        binding = yield from self._guard.binding(caller.holder)
        document = overview_document(
            caller.holder,
            binding,
            self._step(caller),
            served=self._is_served(caller),
            appeal_url=self._guard.appeal_url,
            here=self._here(request),
        )
        return document, lambda: overview_page(frame, document)

    def _terms(self, caller: Caller, request: WebRequest, frame: Frame) -> Steps[tuple[dict[str, Any], Callable[[], bytes]]]:
        holder, now = caller.holder, self._guard.clock()
        binding = yield from self._guard.binding(holder)
        person = yield from self._guard.identify_person(request.view, caller)
        subject = Subject.of(holder)
        since = self._guard.demanded_since(holder)
        acceptable = self._guard.acceptable(subject, now, since=since)
        document = terms_document(
            holder,
            binding,
            [terms for terms in acceptable if terms.effective > now.astimezone(UTC).date()],
            self._guard.standing(holder)[0],
            again=since is not None,
            who=self._who(subject, person),
            here=self._here(request),
        )
        return document, lambda: terms_page(frame, document, token=self._token(caller, person))

    def _rights(self, caller: Caller, request: WebRequest, frame: Frame) -> Steps[tuple[dict[str, Any], Callable[[], bytes]]]:
        del request
        settings, now = self._guard.settings, self._guard.clock()
        policies = yield from self._guard.usage_policies(caller.holder)
        kinds = {kind.id: kind for terms in self._guard.rulebook.shelf.in_force(now).values() for kind in terms.grants}
        held, rung = self._guard.standing(caller.holder)
        document = rights_document(
            caller.holder,
            policies,
            kinds.values(),
            held.step,
            grants_suspended=rung.without_grants,
            appeal_url=self._guard.appeal_url,
            issuer=settings.issuer,
            now=now,
        )
        return document, lambda: rights_page(frame, document)

    def _standing(self, caller: Caller, request: WebRequest, frame: Frame) -> Steps[tuple[dict[str, Any], Callable[[], bytes]]]:
        yield from self._guard.binding(caller.holder)
        appeals = yield from self._guard.appeals_of(caller.holder)
        person = yield from self._guard.identify_person(request.view, caller)
        held, _ = self._guard.standing(caller.holder)
        document = standing_document(
            caller.holder,
            held,
            self._guard.rulebook.ladder,
            appeals,
            served=self._is_served(caller),
            appeal_url=self._guard.settings.appeal_url,
            here=self._here(request),
            now=self._guard.clock(),
        )
        token, name = self._token(caller, person), person.id if person is not None else None
        return document, lambda: standing_page(frame, document, token=token, person=name)

    def _step(self, caller: Caller) -> Standing:
        return self._guard.standing(caller.holder)[0].step

    def _is_served(self, caller: Caller) -> bool:
        """Whether any request is served at all."""
        return not self._guard.rulebook.plan(caller.holder, "", self._guard.clock()).refuses_all

    def _usage(self, caller: Caller, request: WebRequest, frame: Frame) -> Steps[tuple[dict[str, Any], Callable[[], bytes]]]:
        del request
        uses = yield from self._guard.limit_uses(caller.holder)
        document = usage_document(caller.account, uses, self._guard.clock())
        return document, lambda: usage_page(frame, document)

    def _receipts(self, caller: Caller, request: WebRequest, frame: Frame) -> Steps[tuple[dict[str, Any], Callable[[], bytes]]]:
        yield from self._guard.binding(caller.holder)
        titles = {terms.version: terms.title for terms in self._guard.rulebook.shelf.versions}
        document = receipts_document(caller.holder, titles, self._step(caller), self._here(request))
        return document, lambda: receipts_page(frame, document)

    def _version(self, caller: Caller, request: WebRequest, name: str) -> Steps[Answer]:
        """A version that the account may know, as page, document or text."""
        _only(request, *_READ)
        yield from self._guard.binding(caller.holder)
        subject = Subject.of(caller.holder)
        found = self._known(subject, name)
        form = ""
        for suffix in (_JSON, _TEXT):
            if found is None and name.endswith(suffix):
                found, form = self._known(subject, name.removesuffix(suffix)), suffix
        if found is None:
            raise NotFoundError("no terms of this version", where=f"version {name[:64]}")
        if form == _TEXT:
            return answer(200, b"text/markdown; charset=utf-8", found.text.encode("utf-8"))
        if form == _JSON or prefers_json(request.view):
            return answer(200, b"application/json", found.document_bytes)
        person = yield from self._guard.identify_person(request.view, caller)
        here = self._here(request)
        since = self._guard.demanded_since(caller.holder)
        is_acceptable = found in self._guard.acceptable(subject, self._guard.clock(), since=since)
        page = partial(
            version_page,
            self._frame(request, caller.account.id),
            terms_members(found, here) | {"text": found.text},
            self._who(subject, person),
            is_acceptable=is_acceptable,
            token=self._token(caller, person),
        )
        written: bytes = yield Ask(page)
        return _html(written)

    def _known(self, subject: Subject, name: str) -> TermsVersion | None:
        terms = self._guard.rulebook.shelf.version(name)
        return terms if terms is not None and subject.may_know(terms) else None

    def _receipt(self, holder: Holder, request: WebRequest, name: str) -> Answer:
        """A receipt of the account or its organization: the signed record to keep, or what it says."""
        _only(request, *_READ)
        wanted = name.removesuffix(_JSON)
        for acceptance in holder.acceptances:
            for record in (acceptance, acceptance.withdrawal):
                if record is None or record.id != wanted or record.receipt is None:
                    continue
                if name.endswith(_JSON) or prefers_json(request.view):
                    return json_answer({"claims": parse_receipt(record.receipt).jws.payload, "receipt": record.receipt})
                saved = f'attachment; filename="{record.id}.jwt"'.encode("ascii")
                return answer(200, b"application/jwt", record.receipt.encode("ascii"), (b"content-disposition", saved))
        raise NotFoundError("no such receipt", where=f"receipt {wanted[:64]}")

    def _seal(self, caller: Caller, request: WebRequest, rid: str) -> Steps[Answer]:
        """The seal of a response of the account that could not carry it (docs/spec/discovery.md): for programs, without a page."""
        _only(request, *_READ)
        seal = yield from self._guard.detached_seal(caller.account.id, rid)
        if seal is None:
            raise SealNotFoundError(
                "no seal is kept under this request id", where=f"seal {rid[:64]}", cure="It is there when the stream has ended."
            )
        return json_answer(seal_document(seal))

    def _who(self, subject: Subject, person: Person | None) -> dict[str, Any]:
        by = person.identified_by if person is not None else Identification.DECLARED
        return who_document(subject, person, self._guard.why_not_accept(subject, person.id if person is not None else None, by))

    # Accepting

    def _accept(self, caller: Caller, request: WebRequest) -> Steps[Answer]:
        members, person = yield from self._instruction(caller, request, {"version", "sha256", "accepted_by"}, "accepted_by")
        version = _required(members, "version")
        if (digest := members.get("sha256")) is not None:
            yield from self._guard.binding(caller.holder)
            terms = self._guard.rulebook.shelf.version(version)
            if terms is not None and terms.sha256 != digest:
                raise ConflictError("is not the digest of these terms", where="sha256", cure="Read the terms again, and accept those.")
        acceptance = yield from self._guard.accept(
            caller.holder, version, accepted_by=person.id, method=AcceptanceMethod.ACCOUNT_ROUTE, identified_by=person.identified_by
        )
        is_new = all(one.id != acceptance.id for one in caller.holder.acceptances)
        return self._done(caller, request, acceptance, acceptance.receipt, status=201 if is_new else 200)

    def _withdraw(self, caller: Caller, request: WebRequest) -> Steps[Answer]:
        members, person = yield from self._instruction(caller, request, {"acceptance", "reason", "withdrawn_by"}, "withdrawn_by")
        acceptance = yield from self._guard.withdraw(
            caller.holder,
            _required(members, "acceptance"),
            withdrawn_by=person.id,
            method=AcceptanceMethod.ACCOUNT_ROUTE,
            identified_by=person.identified_by,
            reason=members.get("reason", ""),
        )
        receipt = acceptance.withdrawal.receipt if acceptance.withdrawal is not None else None
        return self._done(caller, request, acceptance, receipt, status=200)

    # Appealing

    def _appeal(self, caller: Caller, request: WebRequest) -> Steps[Answer]:
        members, person = yield from self._instruction(caller, request, {"measure", "text", "filed_by"}, "filed_by")
        text = _required({"text": members.get("text", "").replace("\r\n", "\n").strip()}, "text")
        appeal = yield from self._guard.file_appeal(caller.holder, _required(members, "measure"), text, filed_by=person.id)
        return self._appealed(caller, request, appeal, status=201)

    def _withdraw_appeal(self, caller: Caller, request: WebRequest) -> Steps[Answer]:
        members, person = yield from self._instruction(caller, request, {"appeal", "withdrawn_by"}, "withdrawn_by")
        appeal = yield from self._guard.withdraw_appeal(caller.holder, _required(members, "appeal"), withdrawn_by=person.id)
        return self._appealed(caller, request, appeal, status=200)

    def _appealed(self, caller: Caller, request: WebRequest, appeal: Appeal, *, status: int) -> Answer:
        document = {"appeal": appeal_document(appeal)}
        if is_json(request.view) or prefers_json(request.view):
            return json_answer(document, status=status)
        return _html(appealed_page(self._frame(request, caller.account.id), document), status=status)

    def _instruction(self, caller: Caller, request: WebRequest, known: set[str], name: str) -> Steps[tuple[dict[str, str], Person]]:
        """What a person tells us to do, and who it is.

        Args:
            caller: The account.
            request: The request.
            known: Members that it may have; others are refused, since a misspelt one would be overlooked.
            name: The member by which people give their names.
        """
        _only(request, "POST")
        is_form = not is_json(request.view)
        members = form_members(request) if is_form else _texts(json_members(request))
        if unknown := sorted(members.keys() - known - ({"csrf", "agree"} if is_form else set())):
            raise MalformedRequestError(
                f"unknown member {unknown[0][:64]!r}", where="request body", cure=f"Known are {', '.join(sorted(known))}."
            )
        person = yield from self._guard.identify_person(request.view, caller)
        if is_form:
            check_form_token(
                members.get("csrf", ""),
                self._guard.form_key,
                account=caller.account.id,
                person=person.id if person is not None else "",
                now=self._guard.clock(),
            )
            if members.get("agree") != "yes":
                raise MalformedRequestError("is not ticked", where="agree", cure="Tick the box if you agree.")
        declared = members.get(name, "").strip()
        if person is None:
            return members, Person(_required(members | {name: declared}, name), Identification.DECLARED)
        if declared not in ("", person.id):
            raise ConflictError(f"you act as {person.id}", where=name, cure="Leave the name out, or sign in as somebody else.")
        return members, person

    def _done(self, caller: Caller, request: WebRequest, acceptance: Acceptance, receipt: str | None, *, status: int) -> Answer:
        terms = self._guard.rulebook.shelf.version(acceptance.version)
        document = {
            "acceptance": acceptance_document(acceptance, self._here(request)),
            "receipt": receipt,
            "title": terms.title if terms is not None else "",
        }
        if is_json(request.view) or prefers_json(request.view):
            return json_answer(document, status=status)
        # No redirect: another worker may not have heard of it yet, and would show the form once more. To reload is to accept once.
        return _html(accepted_page(self._frame(request, caller.account.id), document), status=status)

    def _token(self, caller: Caller, person: Person | None) -> str:
        name = person.id if person is not None else ""
        return form_token(self._guard.form_key, account=caller.account.id, person=name, now=self._guard.clock())


def _permitted(caller: Caller) -> Caller:
    """The caller, whose key is for the account routes.

    Raises:
        DeniedError: It is for other things.
    """
    if not caller.key.permits_account_routes:
        raise DeniedError(
            "This API key is not for the account routes",
            reason="tos_key_scope",
            cure=f"Use another key of the account, or one with the action {ACCOUNT_ROUTES!r}.",
        )
    return caller


def _html(page: bytes, *, status: int = 200) -> Answer:
    return answer(status, b"text/html; charset=utf-8", page, *PAGE_HEADERS)


def _only(request: WebRequest, *methods: str) -> None:
    if request.view.method not in methods:
        raise MethodNotAllowedError(*methods)


def _texts(members: Mapping[str, Any]) -> dict[str, str]:
    for name, value in members.items():
        if not isinstance(value, str):
            raise MalformedRequestError("is not a string", where=name[:64])
    return dict(members)


def _required(members: Mapping[str, str], name: str) -> str:
    value = members.get(name, "")
    if not value:
        raise MalformedRequestError("is missing", where=name)
    return value
