"""The admin routes: accounts, organizations, grants, limits, end users, terms and acceptances, as JSON (docs/guides/administration.md).

- No path is served to anyone but an administrator: known by a key of the store (``tga-…``), or by the host (``authorize_admin=``).
- What is looked at is a GET, and every change a POST of JSON, which no page of another site can send unasked. Each change is kept with
  the name of the administrator.
- A change of an account or organization names the version that was read, so that nobody undoes what another has done meanwhile.
- Lists come in pages of bounded size.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar, cast, get_args

from tos_guard.errors import AccountError, ConfigurationError, ConflictError, MalformedRequestError, NotFoundError, RequestError, TermsError
from tos_guard.guard import Ask, GuardSteps, Steps
from tos_guard.rights import Account, AuthorizedPerson, Grant, Measure, Organization, hash_secret, new_api_key
from tos_guard.stores import Appeal, AppealState, Store
from tos_guard.terms import TermsVersion, check_terms, parse_terms, terms_from_document
from tos_guard.types import Standing, SubjectKind
from tos_guard.web._admin_documents import (
    acceptance_members,
    account_members,
    appeal_members,
    change_members,
    finding_members,
    key_members,
    organization_members,
    record_members,
    standing_members,
    terms_members,
)
from tos_guard.web._admin_inputs import (
    ChangeAccount,
    ChangeOrganization,
    DecideAppeal,
    EndUser,
    NewAccount,
    NewGrant,
    NewKey,
    NewMeasure,
    NewOrganization,
    PublishTerms,
    Reason,
    RecordAcceptance,
    RecordWithdrawal,
    RotateKey,
    SetLimit,
    read_input,
)
from tos_guard.web._routes import (
    MAX_BODY_BYTES,
    Answer,
    MethodNotAllowedError,
    WebRequest,
    check_prefix,
    json_answer,
    refusal_answer,
)

__all__ = ["AdminRoutes"]

MAX_TERMS_BYTES: Final = 2 * 1_048_576  # a document and its text, as JSON
MAX_PAGE: Final = 200  # an account may have grants by the dozen: a page of them is a megabyte at most
DEFAULT_PAGE: Final = 50
_ANY: Final = ""

_T = TypeVar("_T")
Said = tuple[int, dict[str, Any]]
"""Status and document of an answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an administrator asks for.

    Attributes:
        actor: The administrator.
        request: The request.
        names: Parts of the path that name something.
        store: The store.
    """

    actor: str
    request: WebRequest
    names: tuple[str, ...]
    store: Store

    def page(self) -> tuple[str, int]:
        """After which id a page begins, and how much it holds at most.

        Raises:
            MalformedRequestError: The query says something else.
        """
        parameters = self.parameters("after", "limit")
        return parameters.get("after", ""), self.limit(parameters)

    @staticmethod
    def limit(parameters: Mapping[str, str]) -> int:
        """How much a page holds at most.

        Raises:
            MalformedRequestError: The query says something else.
        """
        text = parameters.get("limit", str(DEFAULT_PAGE))
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
        if not 1 <= limit <= MAX_PAGE:
            raise MalformedRequestError(f"is not a number from 1 to {MAX_PAGE}", where="limit")
        return limit

    def parameters(self, *known: str) -> dict[str, str]:
        """Members of the query.

        Raises:
            MalformedRequestError: One is unknown.
        """
        parameters = self.request.parameters()
        if unknown := sorted(parameters.keys() - set(known)):
            raise MalformedRequestError(f"unknown member {unknown[0][:64]!r}", where="query")
        return parameters


class AdminRoutes:
    """Serves the routes below ``admin_routes`` of the settings.

    Args:
        guard: The guard, of either colour.

    Attributes:
        prefix: The path that all of them are under.
        name: ``admin``.

    Raises:
        ConfigurationError: The settings name no path, another route is there, or the guard has no store to administer.
    """

    name = "admin"

    def __init__(self, guard: GuardSteps) -> None:
        settings = guard.settings
        if settings.admin_routes is None:
            raise ConfigurationError("no path is set for the admin routes", where="admin_routes")
        if guard.store is None or not guard.keeps_acceptances:
            raise ConfigurationError(
                "the guard has no store to administer, or nothing that signs receipts",
                where="admin_routes",
                cure="Give store= and receipts=, or use from_file.",
            )
        self.prefix: str = check_prefix(guard, settings.admin_routes, where="admin_routes", others=(settings.account_routes,))
        self._guard = guard
        self._store: Store = guard.store
        self._limits = {limit.id for limit in guard.meter.limits}
        self._routes: tuple[tuple[str, tuple[str, ...], Callable[[Asked], Steps[Said]]], ...] = (
            ("GET", (), self._blocking(self._index)),
            ("GET", ("accounts",), self._blocking(self._accounts)),
            ("POST", ("accounts",), self._blocking(self._add_account)),
            ("GET", ("accounts", _ANY), self._blocking(self._show_account)),
            ("POST", ("accounts", _ANY), self._blocking(self._change_account)),
            ("GET", ("accounts", _ANY, "history"), self._blocking(self._account_history)),
            ("POST", ("accounts", _ANY, "suspend"), self._blocking(partial(self._set_standing, Standing.SUSPENDED))),
            ("POST", ("accounts", _ANY, "reinstate"), self._blocking(partial(self._set_standing, Standing.GOOD))),
            ("POST", ("accounts", _ANY, "keys"), self._blocking(self._add_key)),
            ("POST", ("accounts", _ANY, "keys", _ANY, "revoke"), self._blocking(self._revoke_key)),
            ("POST", ("accounts", _ANY, "keys", _ANY, "rotate"), self._blocking(self._rotate_key)),
            ("POST", ("accounts", _ANY, "grants"), self._blocking(self._add_grant)),
            ("POST", ("accounts", _ANY, "grants", _ANY, "void"), self._blocking(self._void_grant)),
            ("POST", ("accounts", _ANY, "measures"), self._blocking(self._take_measure)),
            ("POST", ("accounts", _ANY, "measures", _ANY, "lift"), self._blocking(self._lift_measure)),
            ("POST", ("accounts", _ANY, "limits"), self._blocking(self._set_limit)),
            ("GET", ("accounts", _ANY, "end-users"), self._blocking(self._end_users)),
            ("POST", ("accounts", _ANY, "end-users", "block"), self._blocking(self._block)),
            ("POST", ("accounts", _ANY, "end-users", "unblock"), self._blocking(self._unblock)),
            ("GET", ("accounts", _ANY, "acceptances"), self._blocking(partial(self._acceptances, SubjectKind.ACCOUNT))),
            ("GET", ("appeals",), self._blocking(self._appeals)),
            ("GET", ("appeals", _ANY), self._blocking(self._show_appeal)),
            ("POST", ("appeals", _ANY, "decide"), self._blocking(self._decide_appeal)),
            ("GET", ("organizations",), self._blocking(self._organizations)),
            ("POST", ("organizations",), self._blocking(self._add_organization)),
            ("GET", ("organizations", _ANY), self._blocking(self._show_organization)),
            ("POST", ("organizations", _ANY), self._blocking(self._change_organization)),
            ("GET", ("organizations", _ANY, "history"), self._blocking(self._organization_history)),
            ("POST", ("organizations", _ANY, "limits"), self._blocking(self._set_organization_limit)),
            ("GET", ("organizations", _ANY, "acceptances"), self._blocking(partial(self._acceptances, SubjectKind.ORGANIZATION))),
            ("GET", ("terms",), self._blocking(self._terms)),
            ("POST", ("terms",), self._blocking(self._publish)),
            ("GET", ("terms", _ANY), self._blocking(self._show_terms)),
            ("POST", ("acceptances",), self._record_acceptance),
            ("GET", ("acceptances", _ANY), self._blocking(self._show_acceptance)),
            ("POST", ("acceptances", _ANY, "withdraw"), self._record_withdrawal),
            ("GET", ("records", _ANY), self._blocking(self._record)),
        )

    def owns(self, path: str) -> bool:
        """Whether a path is one of ours."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")

    def enter(self, request: WebRequest) -> Steps[str]:
        """Find the administrator.

        Raises:
            AuthenticationError, StoreError: As `GuardSteps.authenticate_admin`.
        """
        return self._guard.authenticate_admin(request.view)

    def still(self, who: str, request: WebRequest) -> Steps[str]:
        """As `enter`, which finds whoever it is again."""
        del who
        return self.enter(request)

    def body_limit(self, request: WebRequest) -> int:
        """Largest body that is read, in bytes."""
        return MAX_TERMS_BYTES if request.segments == ("terms",) else MAX_BODY_BYTES

    def answer(self, who: str, request: WebRequest) -> Steps[Answer]:
        """Serve.

        Raises:
            RequestError: There is nothing at this path, or what is asked for cannot be done.
            StoreError, SignerError: A part failed.
        """
        segments = request.segments if request.segments != ("",) else ()
        method = "GET" if request.view.method == "HEAD" else request.view.method
        found = {route: (handler, pattern) for route, pattern, handler in self._routes if _matches(pattern, segments)}
        if not found:
            raise NotFoundError("there is nothing at this path", where=request.view.path[:200])
        if method not in found:
            raise MethodNotAllowedError(*sorted(found))
        handler, pattern = found[method]
        names = tuple(segment for part, segment in zip(pattern, segments, strict=True) if part == _ANY)
        status, document = yield from handler(Asked(who, request, names, self._store))
        return json_answer(document, status=status)

    def refuse(self, request: WebRequest, error: RequestError) -> Answer:
        """The answer to a request that is not served: problem details."""
        del request
        return refusal_answer(self._guard, error)

    @staticmethod
    def _blocking(handler: Callable[[Asked], Said]) -> Callable[[Asked], Steps[Said]]:
        """A handler that reads or writes the store, where that may wait. What the store refuses does not fit what is there."""

        def refusing(asked: Asked) -> Said:
            try:
                return handler(asked)
            except AccountError as error:
                raise ConflictError(error.what, where=error.where, cure=error.cure) from None

        def steps(asked: Asked) -> Steps[Said]:
            said: Said = yield Ask(partial(refusing, asked))
            return said

        return steps

    def _index(self, asked: Asked) -> Said:
        paths = sorted({"/".join((self.prefix, *(part or "*" for part in pattern))) for _, pattern, _ in self._routes if pattern})
        return 200, {"administrator": asked.actor, "issuer": self._guard.settings.issuer, "routes": paths}

    # Accounts

    def _accounts(self, asked: Asked) -> Said:
        after, limit = asked.page()
        return 200, _paged("accounts", asked.store.accounts(after=after, limit=limit + 1), limit, account_members)

    def _add_account(self, asked: Asked) -> Said:
        given = read_input(NewAccount, asked.request)
        account = asked.store.add_account(_built(Account, given.model_dump()), actor=asked.actor)
        self._guard.telemetry.changed("added")
        return 201, {"account": account_members(account)}

    def _show_account(self, asked: Asked) -> Said:
        account = _account(asked)
        keys = [key_members(key) for key in asked.store.api_keys(account.id)]
        holder = asked.store.rights_of(account)
        return 200, {"account": account_members(account), "keys": keys, "standing": standing_members(self._guard.standing(holder)[0])}

    def _change_account(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(ChangeAccount, asked.request).given()
        reason, version = given.pop("reason"), given.pop("version")
        changed = _built(Account, {**account.model_dump(), **given, "version": version})
        return self._changed("changed", asked.store.put_account(changed, reason=reason, actor=asked.actor))

    def _account_history(self, asked: Asked) -> Said:
        return 200, _newest("history", asked.store.history(_account(asked).id), asked)

    def _set_standing(self, standing: Standing, asked: Asked) -> Said:
        account, given = _account(asked), read_input(Reason, asked.request)
        changed = asked.store.set_standing(account.id, standing, given.reason, actor=asked.actor)
        self._guard.telemetry.changed("standing", standing=standing)
        return 200, {"account": account_members(changed)}

    def _add_key(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(NewKey, asked.request)
        key = new_api_key(secrets.token_bytes)
        hashed = hash_secret(key.secret, asked.store.pepper())
        stored = asked.store.add_api_key(account.id, key.public_id, hashed, label=given.label, terms=given.terms(), actor=asked.actor)
        self._guard.telemetry.changed("key_added")
        return 201, {"key": key_members(stored) | {"text": key.text}}

    def _rotate_key(self, asked: Asked) -> Said:
        public_id, given = _key(asked), read_input(RotateKey, asked.request)
        key = new_api_key(secrets.token_bytes)
        hashed, overlap = hash_secret(key.secret, asked.store.pepper()), timedelta(seconds=given.overlap_seconds)
        stored = asked.store.rotate_api_key(public_id, key.public_id, hashed, overlap=overlap, actor=asked.actor)
        self._guard.telemetry.changed("key_rotated")
        return 201, {"key": key_members(stored) | {"text": key.text}}

    def _revoke_key(self, asked: Asked) -> Said:
        public_id, given = _key(asked), read_input(Reason, asked.request)
        revoked = asked.store.revoke_api_key(public_id, given.reason, actor=asked.actor)
        self._guard.telemetry.changed("key_revoked")
        return 200, {"key": key_members(revoked)}

    def _add_grant(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(NewGrant, asked.request)
        self._check_limits(given.limits)
        grant = _built(Grant, {**given.model_dump(), "issuer": given.issuer or asked.actor})
        return self._changed("grant_added", asked.store.add_grant(account.id, grant, actor=asked.actor), status=201)

    def _void_grant(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(Reason, asked.request)
        if all(grant.id != asked.names[1] for grant in account.grants):
            raise NotFoundError("the account has no such grant", where=f"grant {asked.names[1][:64]}")
        return self._changed("grant_voided", asked.store.void_grant(account.id, asked.names[1], given.reason, actor=asked.actor))

    # Standing

    def _take_measure(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(NewMeasure, asked.request)
        if given.requires == "verify" and not self._guard.rulebook.ladder.levels(given.step):
            raise ConflictError(
                "no step of the ladder names a level of verification", where="requires", cure=f"Set [standing.{given.step}] verify = […]."
            )
        members = given.model_dump() | {
            "id": given.id or f"m-{secrets.token_hex(8)}",
            "begins": given.begins or self._guard.clock(),
            "issuer": given.issuer or asked.actor,
        }
        taken = _built(Measure, members)
        changed = asked.store.take_measure(account.id, taken, actor=asked.actor)
        self._guard.telemetry.changed("measure_taken", standing=taken.step)
        return 201, {"account": account_members(changed), "measure": taken.id}

    def _lift_measure(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(Reason, asked.request)
        if all(measure.id != asked.names[1] for measure in account.measures):
            raise NotFoundError("the account has no such measure", where=f"measure {asked.names[1][:64]}")
        return self._changed("measure_lifted", asked.store.lift_measure(account.id, asked.names[1], given.reason, actor=asked.actor))

    def _appeals(self, asked: Asked) -> Said:
        """Appeals, the oldest first: those that wait longest."""
        parameters = asked.parameters("account", "state", "after", "limit")
        state = parameters.get("state")
        if state is not None and state not in get_args(AppealState):
            raise MalformedRequestError(f"is none of {', '.join(get_args(AppealState))}", where="state")
        limit = asked.limit(parameters)
        found = asked.store.appeals(
            account_id=parameters.get("account"),
            state=cast("AppealState | None", state),
            after=parameters.get("after", ""),
            limit=limit + 1,
        )
        page = found[:limit]
        return 200, {"appeals": [appeal_members(one) for one in page], "next": page[-1].id if len(found) > limit else None}

    def _show_appeal(self, asked: Asked) -> Said:
        return 200, {"appeal": appeal_members(_appeal(asked))}

    def _decide_appeal(self, asked: Asked) -> Said:
        appeal, given = _appeal(asked), read_input(DecideAppeal, asked.request)
        decided = asked.store.decide_appeal(appeal.id, upheld=given.upheld, answer=given.answer, actor=asked.actor)
        self._guard.telemetry.changed("measure_lifted" if given.upheld else "appeal_rejected")
        return 200, {"appeal": appeal_members(decided)}

    # Limits and end users

    def _set_limit(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(SetLimit, asked.request)
        self._check_limits((given.limit,))
        changed = asked.store.set_limit(account.id, given.limit, given.amount, given.reason, actor=asked.actor)
        return self._changed("limit_set" if given.amount is not None else "limit_cleared", changed)

    def _end_users(self, asked: Asked) -> Said:
        account, (after, limit) = _account(asked), asked.page()
        blocked = sorted(end_user for end_user in account.blocked_end_users if end_user > after)
        return 200, {"end_users": blocked[:limit], "next": blocked[limit - 1] if len(blocked) > limit else None}

    def _block(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(EndUser, asked.request)
        hashed = self._hashed(account, given)
        asked.store.block_end_user(account.id, hashed, given.reason, actor=asked.actor)
        self._guard.telemetry.changed("end_user_blocked")
        return 200, {"end_user": hashed}

    def _unblock(self, asked: Asked) -> Said:
        account, given = _account(asked), read_input(EndUser, asked.request)
        hashed = self._hashed(account, given)
        asked.store.unblock_end_user(account.id, hashed, given.reason, actor=asked.actor)
        self._guard.telemetry.changed("end_user_unblocked")
        return 200, {"end_user": hashed}

    def _hashed(self, account: Account, given: EndUser) -> str:
        if given.end_user is not None:
            return self._guard.end_user_hash(account.id, given.end_user)
        return given.hash or ""

    def _changed(self, change: str, account: Account, *, status: int = 200) -> Said:
        self._guard.telemetry.changed(change)
        return status, {"account": account_members(account)}

    def _check_limits(self, names: Sequence[str] | dict[str, int]) -> None:
        """A misspelt limit would be set, and limit nothing."""
        for name in names:
            if name not in self._limits:
                known = ", ".join(sorted(self._limits)) or "none"
                raise MalformedRequestError(f"there is no limit {name[:64]!r}", where="limit", cure=f"The settings have: {known}.")

    # Organizations

    def _organizations(self, asked: Asked) -> Said:
        after, limit = asked.page()
        return 200, _paged("organizations", asked.store.organizations(after=after, limit=limit + 1), limit, organization_members)

    def _add_organization(self, asked: Asked) -> Said:
        given = read_input(NewOrganization, asked.request)
        organization = asked.store.add_organization(_organization_of(given.model_dump()), actor=asked.actor)
        return 201, {"organization": organization_members(organization)}

    def _show_organization(self, asked: Asked) -> Said:
        return 200, {"organization": organization_members(_organization(asked))}

    def _change_organization(self, asked: Asked) -> Said:
        organization, given = _organization(asked), read_input(ChangeOrganization, asked.request).given()
        reason, version = given.pop("reason"), given.pop("version")
        changed = _organization_of({**organization.model_dump(), **given, "version": version})
        stored = asked.store.put_organization(changed, reason=reason, actor=asked.actor)
        return 200, {"organization": organization_members(stored)}

    def _organization_history(self, asked: Asked) -> Said:
        return 200, _newest("history", asked.store.organization_history(_organization(asked).id), asked)

    def _set_organization_limit(self, asked: Asked) -> Said:
        organization, given = _organization(asked), read_input(SetLimit, asked.request)
        self._check_limits((given.limit,))
        changed = asked.store.set_organization_limit(organization.id, given.limit, given.amount, given.reason, actor=asked.actor)
        return 200, {"organization": organization_members(changed)}

    # Terms

    def _terms(self, asked: Asked) -> Said:
        asked.parameters()
        found = [terms_members(terms_from_document(stored.document, stored.text), stored) for stored in asked.store.terms_versions()]
        return 200, {"terms": found}

    def _show_terms(self, asked: Asked) -> Said:
        stored = asked.store.terms(asked.names[0])
        if stored is None:
            raise NotFoundError("no terms of this version", where=f"version {asked.names[0][:64]}")
        terms = terms_from_document(stored.document, stored.text)
        return 200, {"document": dict(terms.document), "terms": terms_members(terms, stored), "text": stored.text}

    def _publish(self, asked: Asked) -> Said:
        given = read_input(PublishTerms, asked.request, max_bytes=MAX_TERMS_BYTES)
        terms = self._usable(given)
        findings = finding_members(check_terms(given.document.encode("utf-8"), given.text.encode("utf-8"), where="document"))
        if given.check_only:
            return 200, {"findings": findings, "terms": terms_members(terms, None)}
        known = asked.store.terms(terms.version)
        try:
            asked.store.publish_terms(terms, actor=asked.actor)
        except TermsError as error:
            raise ConflictError(error.what, where=error.where, cure=error.cure) from None
        return 201 if known is None else 200, {"findings": findings, "terms": terms_members(terms, asked.store.terms(terms.version))}

    def _usable(self, given: PublishTerms) -> TermsVersion:
        """The version, if every guard of these settings can keep it: what cannot be kept is not published."""
        try:
            terms = parse_terms(given.document.encode("utf-8"), given.text.encode("utf-8"), where="document")
            self._guard.check_fulfillable(terms)
        except ConfigurationError as error:
            raise MalformedRequestError(error.what, where=error.where, cure=error.cure) from None
        return terms

    # Acceptances

    def _acceptances(self, kind: SubjectKind, asked: Asked) -> Said:
        name = _account(asked).id if kind is SubjectKind.ACCOUNT else _organization(asked).id
        _, limit = asked.page()
        found = list(reversed(asked.store.acceptances(kind, name)))[:limit]
        return 200, {"acceptances": [acceptance_members(one, asked.store.acceptance_recorded_by(one.id)) for one in found]}

    def _show_acceptance(self, asked: Asked) -> Said:
        acceptance = asked.store.acceptance(asked.names[0])
        if acceptance is None:
            raise NotFoundError("no such acceptance", where=f"acceptance {asked.names[0][:64]}")
        return 200, {"acceptance": acceptance_members(acceptance, asked.store.acceptance_recorded_by(acceptance.id))}

    def _record_acceptance(self, asked: Asked) -> Steps[Said]:
        given = read_input(RecordAcceptance, asked.request)
        acceptance = yield from self._guard.record_acceptance(
            given.subject.kind,
            given.subject.id,
            given.version,
            accepted_by=given.accepted_by,
            authority=given.authority,
            at=given.at,
            expires=given.expires,
            actor=asked.actor,
        )
        recorded: tuple[str, str] | None = yield Ask(partial(asked.store.acceptance_recorded_by, acceptance.id))
        return 201, {"acceptance": acceptance_members(acceptance, recorded)}

    def _record_withdrawal(self, asked: Asked) -> Steps[Said]:
        given = read_input(RecordWithdrawal, asked.request)
        acceptance = yield from self._guard.record_withdrawal(
            asked.names[0], withdrawn_by=given.withdrawn_by, authority=given.authority, reason=given.reason, actor=asked.actor
        )
        recorded: tuple[str, str] | None = yield Ask(partial(asked.store.acceptance_recorded_by, acceptance.id))
        return 200, {"acceptance": acceptance_members(acceptance, recorded)}

    # Records

    def _record(self, asked: Asked) -> Said:
        issuer, name = self._guard.settings.issuer, asked.names[0]
        record = asked.store.by_request_id(issuer, name) or asked.store.by_token_id(issuer, name)
        if record is None:
            raise NotFoundError("no record has this request id or token id", where=f"record {name[:64]}")
        return 200, record_members(record)


def _matches(pattern: tuple[str, ...], segments: tuple[str, ...]) -> bool:
    return len(pattern) == len(segments) and all(part in (_ANY, segment) for part, segment in zip(pattern, segments, strict=True))


def _account(asked: Asked) -> Account:
    account = asked.store.by_id(asked.names[0])
    if account is None:
        raise NotFoundError("unknown account", where=f"account {asked.names[0][:128]}")
    return account


def _key(asked: Asked) -> str:
    """Public id of a key of the account that the path names."""
    account, public_id = _account(asked), asked.names[1]
    if all(key.public_id != public_id for key in asked.store.api_keys(account.id)):
        raise NotFoundError("the account has no such key", where=f"key {public_id[:64]}")
    return public_id


def _appeal(asked: Asked) -> Appeal:
    appeal = asked.store.appeal(asked.names[0])
    if appeal is None:
        raise NotFoundError("no such appeal", where=f"appeal {asked.names[0][:64]}")
    return appeal


def _organization(asked: Asked) -> Organization:
    organization = asked.store.organization(asked.names[0])
    if organization is None:
        raise NotFoundError("unknown organization", where=f"organization {asked.names[0][:128]}")
    return organization


def _built(kind: Callable[..., _T], members: dict[str, Any]) -> _T:
    """A value of what was sent.

    Raises:
        MalformedRequestError: A member is wrong.
    """
    try:
        return kind(**members)
    except AccountError as error:
        raise MalformedRequestError(error.what, where=error.where, cure=error.cure) from None


def _organization_of(members: dict[str, Any]) -> Organization:
    persons = tuple(_built(AuthorizedPerson, dict(person)) for person in members.pop("authorized"))
    return _built(Organization, {**members, "authorized": persons})


def _paged(
    name: str, found: Sequence[Account] | Sequence[Organization], limit: int, members: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """A page, and after which id the next begins."""
    page = found[:limit]
    return {name: [members(one) for one in page], "next": page[-1].id if len(found) > limit else None}


def _newest(name: str, steps: Sequence[Any], asked: Asked) -> dict[str, Any]:
    """The newest steps of a history, as many as a page holds."""
    _, limit = asked.page()
    return {name: [change_members(step) for step in reversed(steps[-limit:])]}
