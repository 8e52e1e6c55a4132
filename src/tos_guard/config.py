"""Settings of a guard, from a TOML file or from code. Values only: nothing here opens what it names.

issuer = "https://api.example.com"
terms = "terms/2026-11.toml"
store = "tos-guard.db"
keys = "keys"
exempt = ["/healthz"]

[routes."/v1/chat/completions"]
dialect = "openai-chat"

[[limits]]
id = "tokens-per-minute"
quantity = "tokens"
amount = 200_000
window = "1m"
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tos_guard.errors import ConfigurationError

__all__ = [
    "AcceptanceSettings",
    "BearerSettings",
    "CalendarSettings",
    "DPoPSettings",
    "EngineAddress",
    "EntitlementSettings",
    "EstimateSettings",
    "FactSources",
    "FailureModes",
    "GuardSettings",
    "LimitSettings",
    "ModelSettings",
    "MutualTLSSettings",
    "NoticeSettings",
    "PostgresSettings",
    "PriceSettings",
    "Retention",
    "RouteSettings",
    "SecretPlace",
    "ServerAddress",
    "SlidingSettings",
    "StandingSettings",
    "StepSettings",
    "ValkeySettings",
    "WebhookSettings",
    "parse_settings",
]

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024  # what the dialects read
MAX_ISSUER_CHARS: Final = 96  # it stands in each token, which must stay under 1.8 KB (docs/adr/0004)
MAX_DOMAIN_CHARS: Final = 64
MAX_BEARER_ISSUERS: Final = 16  # each has a thread that keeps its keys
_ORIGIN: Final = re.compile(r"(https://[a-z0-9.-]+|http://(localhost|127\.0\.0\.1|\[::1\]))(:[0-9]{1,5})?")

_SERVER: Final = re.compile(r"postgres(?:ql)?://\S+")
_ENGINE: Final = re.compile(r"(?:redis|rediss|valkey|valkeys)://\S+|unix://[^\s/]*/\S+")
_NAMED: Final = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_SECRETS: Final = re.compile(r"//[^/\s]*@|\?\S*")

_ROOT: Final = re.compile(_ORIGIN.pattern + r"(/[^\s?#]*)?")
_NO_FILE_NAME: Final = re.compile(r"[^a-z0-9.-]")

MAX_LIMIT_AMOUNT: Final = 2**53 - 1  # what JSON carries exactly, and sums of it fit into an engine's 64 bits
MAX_LIMIT_SECONDS: Final = 366 * 86_400
MAX_LIMIT_BLOCK: Final = 0.25  # four such blocks are the whole limit
_SLIDING: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_CALENDAR: Final = re.compile(r"calendar (minute|hour|day|week|month)(?: (\S+))?")
_WINDOW_FORMS: Final = 'write "60s", "1m", "1h", "30d", or "calendar day", "calendar month Europe/Berlin"'

DialectName = Literal[
    "anthropic-messages",
    "openai-chat",
    "openai-completions",
    "openai-embeddings",
    "openai-responses",
    "open-inference",
    "file",
    "grpc",
    "ndjson",
    "plain-json",
]
"""As `tos_guard.dialects` registers them."""

MAY_NAME_NO_MODEL: Final = frozenset({"file", "grpc", "ndjson", "plain-json"})
"""Dialects whose requests may name no model, so that their routes must."""

Amount = Annotated[int, Field(ge=1, le=MAX_LIMIT_AMOUNT)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]


class _Settings(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)  # it may hold a password


class ServerAddress(_Settings):
    """Where a server is, as a setting says it: ``postgresql://user@host/database``, or ``env:NAME``.

    The latter is read from the environment when it is needed, so that no secret stands in the file. As text it holds no secret.

    Attributes:
        said: As it stands in the setting.
    """

    said: str = Field(repr=False)

    _form: ClassVar[re.Pattern[str]] = _SERVER
    _setting: ClassVar[str] = "store"
    _example: ClassVar[str] = "postgresql://user@host/database"

    def __str__(self) -> str:
        return _SECRETS.sub(lambda found: "//" if found[0].startswith("//") else "", self.said)

    @classmethod
    def of(cls, said: Any) -> Any:
        """The address that *said* is; anything else as it is."""
        if isinstance(said, str) and (said.startswith("env:") or cls._form.fullmatch(said) is not None):
            if said.startswith("env:") and _NAMED.fullmatch(said) is None:
                raise ValueError(
                    f"{said!r} names no variable of the environment; write env:TOS_GUARD_{cls._setting.partition('.')[0].upper()}"
                )
            return cls(said=said)
        return said

    def resolve(self, environment: Mapping[str, str]) -> str:
        """The address itself, by the variables of an environment.

        Raises:
            ConfigurationError: The environment has no such variable, or it holds no address.
        """
        named = _NAMED.fullmatch(self.said)
        if named is None:
            return self.said
        address = environment.get(named[1], "")
        if self._form.fullmatch(address) is None:
            problem = "holds no address of a server" if address else "is not set"
            raise ConfigurationError(f"the variable {named[1]} {problem}", where=self._setting, cure=f"{named[1]}={self._example}")
        return address


class EngineAddress(ServerAddress):
    """Where Valkey or Redis is: ``redis://user:password@host:6379/0``; ``rediss://`` for TLS; ``unix:///socket``; or ``env:NAME``."""

    _form: ClassVar[re.Pattern[str]] = _ENGINE
    _setting: ClassVar[str] = "valkey.url"
    _example: ClassVar[str] = "redis://user:password@host:6379/0"


class ValkeySettings(_Settings):
    """The Valkey or Redis server that the processes of a fleet share.

    Attributes:
        url: Where it is; ``rediss://`` takes ``?ssl_ca_certs=``, ``ssl_certfile=`` and ``ssl_keyfile=``.
        domain: Under which name this issuer counts there; by default one made from the issuer.
        deadline_ms: How long one call may take. A thread's may take as long for each of a free connection, a new one and the answer.
    """

    url: EngineAddress
    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    deadline_ms: Annotated[int, Field(ge=10, le=10_000)] = 250

    @field_validator("url", mode="before")
    @classmethod
    def _read_url(cls, url: Any) -> Any:
        address = EngineAddress.of(url)
        if not isinstance(address, EngineAddress | dict):
            raise ValueError(  # noqa: TRY004 - pydantic's
                "is no address of Valkey or Redis; write redis://host:6379/0, rediss:// for TLS, unix:///path, or env:NAME"
            )
        return address


class SecretPlace(_Settings):
    """Where a secret is: in a file of its own, or in a variable of the environment (``env:NAME``). The secret itself is no setting.

    Attributes:
        variable: The variable, or None.
        file: The file, or None.
    """

    variable: str | None = None
    file: Path | None = None

    def __str__(self) -> str:
        return f"env:{self.variable}" if self.variable is not None else str(self.file)

    @classmethod
    def of(cls, said: Any) -> Any:
        """The place that *said* is; anything else as it is."""
        if not isinstance(said, str):
            return said
        named = _NAMED.fullmatch(said)
        if named is not None:
            return cls(variable=named[1])
        if not said or said.startswith(("env:", "whsec_")) or "\0" in said:
            raise ValueError('a secret does not stand in the settings: name a file that holds it, or a variable as "env:NAME"')
        return cls(file=Path(said))

    def beside(self, folder: Path) -> SecretPlace:
        """The same, a relative path taken from *folder*."""
        return self if self.file is None else SecretPlace(file=folder / self.file)


class PostgresSettings(_Settings):
    """How the PostgreSQL server of the store is spoken to.

    Attributes:
        namespace: The schema of the accounts; that of the records has ``_records`` at its end.
        deadline_ms: How long one call may take.
        connections: Connections of each process at most, beside one that listens and one that asks; an asynchronous one has as many again.
        announcements: How a process hears of changes by others: ``listen``, at once, on a connection that stays. Where a pooler such as
            PgBouncer gives each transaction another connection: ``valkey``, at once, over that server; ``none``, by asking five times a
            second.
    """

    namespace: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,47}$")] = "tos_guard"
    deadline_ms: Annotated[int, Field(ge=100, le=60_000)] = 2_000
    connections: Annotated[int, Field(ge=2, le=100)] = 8
    announcements: Literal["listen", "valkey", "none"] = "listen"


class RouteSettings(_Settings):
    """How one route is guarded.

    Attributes:
        dialect: What its requests and responses are: ``openai-chat``, …; ``grpc`` for any gRPC method, whose path is
            ``/package.Service/Method``; ``plain-json`` for any other JSON endpoint.
        action: Action of the terms that a request on this route asks for.
        model: Model of a request that names none; required where requests of the dialect may do so.
        idempotent: The handler answers the same ``Idempotency-Key`` with the same response; then so does the seal, charged once.
        checkpoint_seconds: A stream gets a checkpoint with the first content after so many seconds; None for never.
        checkpoint_events: A stream gets a checkpoint with every so many events that bear content; None for never.
        tag_line: A response in lines (``ndjson``) ends with a line that carries its tag.
    """

    dialect: DialectName
    action: str = "generate"
    model: Annotated[str, Field(min_length=1, max_length=96)] | None = None
    idempotent: bool = False
    checkpoint_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    checkpoint_events: Annotated[int, Field(ge=1)] | None = None
    tag_line: bool = False

    @model_validator(mode="after")
    def _has_lines(self) -> RouteSettings:
        if self.tag_line and self.dialect != "ndjson":
            raise ValueError(f'responses of {self.dialect} have no line for a tag: leave out tag_line, or set dialect = "ndjson"')
        return self

    @model_validator(mode="after")
    def _needs_model(self) -> RouteSettings:
        if self.dialect in MAY_NAME_NO_MODEL and self.model is None:
            raise ValueError(f'a {self.dialect} route needs model = "…", for requests that name none')
        return self


class FactSources(_Settings):
    """Where facts come from that the provider asserts (DESIGN D2).

    ``account`` means a field of the account, ``host`` the ``assertions=`` callable. None means that there is no source, and terms
    that ask for the fact are refused at start.
    """

    region: Literal["account", "host"] | None = None
    verification: Literal["account", "host"] | None = None


_Claim = Annotated[str, Field(min_length=1, max_length=128)]
_NO_NAMES: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "scope", "cnf"})
_ADDRESS: Final = re.compile(r"(https://[a-z0-9.-]+|http://(localhost|127\.0\.0\.1|\[::1\]))(:[0-9]{1,5})?/[^\s#]*")


class BearerSettings(_Settings):
    """One authorization server whose access tokens (RFC 9068) name accounts.

    Attributes:
        issuer: Its name, exactly as ``iss`` of its tokens.
        jwks_uri: Where its keys are: https, or http on loopback.
        audience: Our name, as ``aud`` of its tokens; one, or several of which a token has one.
        account_claim: The claim that names the account.
        account_prefix: Stands before that name in the account's id. Several servers need one each, and none may begin another.
        organization_claim: The claim that names the account's organization, or None. A token that names another than the account's is
            not accepted.
        end_user_claim: The claim that names the end user behind the account, or None.
        person_claim: The claim that names the person who acts for the account, or None.
        scopes: Scopes that a token must have, all of them.
        leeway_seconds: How far its clock may differ from ours.
        max_lifetime_seconds: Tokens made for longer are refused.
        algorithm: Algorithm of RSA keys that name none, or None: then such keys are refused.
        refresh_seconds: Keys older than this are fetched again.
        max_stale_seconds: So long keys are used while their address does not answer, where ``[failure] bearer_keys`` is ``local``.
        unsafe_any_address: Fetch keys from private addresses too.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=256)]
    jwks_uri: Annotated[str, Field(max_length=512)]
    audience: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(min_length=1)]
    account_claim: _Claim = "sub"
    account_prefix: Annotated[str, Field(max_length=64)] = ""
    organization_claim: _Claim | None = None
    end_user_claim: _Claim | None = None
    person_claim: _Claim | None = None
    scopes: tuple[Annotated[str, Field(pattern=r"^[!#-\[\]-~]+$")], ...] = ()
    leeway_seconds: Annotated[int, Field(ge=0, le=60)] = 30
    max_lifetime_seconds: Annotated[int, Field(ge=60, le=30 * 86_400)] = 86_400
    algorithm: Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] | None = None
    refresh_seconds: Annotated[int, Field(ge=60, le=86_400)] = 600
    max_stale_seconds: Annotated[int, Field(ge=86_400, le=30 * 86_400)] = 7 * 86_400
    unsafe_any_address: bool = False

    @field_validator("audience", mode="before")
    @classmethod
    def _one_audience(cls, audience: Any) -> Any:
        return (audience,) if isinstance(audience, str) else audience

    @field_validator("jwks_uri")
    @classmethod
    def _is_address(cls, uri: str) -> str:
        if _ADDRESS.fullmatch(uri) is None:
            raise ValueError("is not an address such as https://login.example.com/jwks.json (http:// only on loopback)")
        return uri

    @field_validator("account_claim", "organization_claim", "end_user_claim", "person_claim")
    @classmethod
    def _names_somebody(cls, claim: str | None) -> str | None:
        if claim in _NO_NAMES:
            raise ValueError(f"the claim {claim!r} names nobody")
        return claim


class DPoPSettings(_Settings):
    """Proofs of possession (RFC 9449): which are accepted.

    Attributes:
        urls: Addresses under which clients reach our root, with a path where a proxy adds one; the issuer where none is given. What a
            request says of its host does not count.
        window_seconds: How old a proof may be.
        leeway_seconds: How far a client's clock may differ from ours.
        require_nonce: Whether each proof must carry a nonce of ours, which costs a client one more request every `nonce_seconds`.
        nonce_seconds: For how long a nonce of ours is accepted.
        shared_by: Who knows of one another which proofs were used: all processes of this ``host``, over a file; those of a ``fleet``,
            over Valkey; or each ``process`` alone, in memory: with several of them, each takes a proof once.
    """

    urls: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    window_seconds: Annotated[int, Field(ge=5, le=300)] = 60
    leeway_seconds: Annotated[int, Field(ge=0, le=60)] = 5
    require_nonce: bool = False
    nonce_seconds: Annotated[int, Field(ge=30, le=3_600)] = 300
    shared_by: Literal["host", "process", "fleet"] = "host"

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if _ROOT.fullmatch(url) is None:
                raise ValueError(f"{url!r} is not an address such as https://api.example.com (http:// only on loopback)")
        return urls


class MutualTLSSettings(_Settings):
    """Tokens and keys that are bound to a client certificate (RFC 8705).

    Attributes:
        proxies: Addresses or networks of proxies that end TLS for us, and whose ``Client-Cert`` (RFC 9440) is believed: they must set
            or remove it on every request. Empty where our own server ends it.
    """

    proxies: Annotated[tuple[str, ...], Field(max_length=64)] = ()

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                network = ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"{proxy!r} is no address or network ({error})") from None
            if network.prefixlen == 0:
                raise ValueError(f"{proxy!r} is everybody: name the proxies")
        return proxies


class WebhookSettings(_Settings):
    """Who may send us webhooks, signed as Standard Webhooks say, to ``<admin_routes>/webhooks/<name>``.

    Attributes:
        name: Its name; the history names it as ``webhook:<name>``.
        secret: Where its secret (``whsec_…``) is; several while it is being changed.
        may: What its messages may do: move the ``standing`` of accounts, tell of ``entitlements``.
    """

    name: Word
    secret: Annotated[tuple[SecretPlace, ...], Field(min_length=1, max_length=4)]
    may: Annotated[frozenset[Literal["standing", "entitlements"]], Field(min_length=1)]

    @field_validator("secret", mode="before")
    @classmethod
    def _read_places(cls, said: Any) -> Any:
        return _places(said)


class NoticeSettings(_Settings):
    """Who is told of what happens to the standing of accounts, by webhooks signed as Standard Webhooks say.

    Attributes:
        url: Where they go: https, or http on loopback.
        secret: Where the secret (``whsec_…``) is that they are signed with; while it is being changed, the new and the old.
        on: What they tell of: a ``measure`` that was taken, its ``lift``, an ``appeal`` against it; and ``standing``, set by itself.
        unsafe_any_address: Send to private addresses too.
    """

    url: Annotated[str, Field(max_length=512)]
    secret: Annotated[tuple[SecretPlace, ...], Field(min_length=1, max_length=4)]
    on: Annotated[frozenset[Literal["standing", "measure", "lift", "appeal"]], Field(min_length=1)]
    unsafe_any_address: bool = False

    @field_validator("secret", mode="before")
    @classmethod
    def _read_places(cls, said: Any) -> Any:
        return _places(said)

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return _address(url)


class EntitlementSettings(_Settings):
    """A system outside that says what accounts may do. It is asked in the background; no request waits for it.

    Attributes:
        name: Its name: the history names it as ``entitlements:<name>``, and it stands in the ids of the grants that it gives.
        url: Where its document is: https, or http on loopback. None where it is only pushed.
        token: Where the bearer token is that it is asked with, or None.
        webhook: The webhook (`WebhookSettings`) that may push its document, or tell that it has changed; or None.
        interval_seconds: How often it is asked.
        stale_if_error_seconds: For how long what it gave holds while it fails; then ``[failure] entitlements`` decides.
        create: Whether accounts that it names and we do not know are added.
        unsafe_any_address: Ask private addresses too.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,9}$")]
    url: Annotated[str, Field(max_length=512)] | None = None
    token: SecretPlace | None = None
    webhook: Word | None = None
    interval_seconds: Annotated[int, Field(ge=5, le=86_400)] = 300
    stale_if_error_seconds: Annotated[int, Field(ge=60, le=90 * 86_400)] = 7 * 86_400
    create: bool = False
    unsafe_any_address: bool = False

    @field_validator("token", mode="before")
    @classmethod
    def _read_place(cls, said: Any) -> Any:
        return SecretPlace.of(said)

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        return None if url is None else _address(url)

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> EntitlementSettings:
        if self.url is None and self.webhook is None:
            raise ValueError(f"entitlements {self.name}: neither a url to ask, nor a webhook that pushes them")
        return self


def _places(said: Any) -> Any:
    """One place, or a list of them."""
    return tuple(map(SecretPlace.of, said)) if isinstance(said, list | tuple) else (SecretPlace.of(said),)


def _address(url: str) -> str:
    if _ADDRESS.fullmatch(url) is None:
        raise ValueError("is not an address such as https://crm.example.com/entitlements.json (http:// only on loopback)")
    return url


class Retention(_Settings):
    """Days for which records are kept, per type, and seals of responses that may leave again.

    Attributes:
        exchange: Records of requests that reached the handler.
        denial: Records of requests that were denied.
        denial_count: Counts of requests that were refused before they were decided.
        kept_seal: Seals of stored and background responses, of those fetched by request id, and lines of open batches. A change holds
            for what is kept from then on.
        idempotency: Seals under an ``Idempotency-Key``; afterwards the key is a new one. Likewise.
    """

    exchange: Annotated[int, Field(ge=1)] = 400
    denial: Annotated[int, Field(ge=1)] = 90
    denial_count: Annotated[int, Field(ge=1)] = 400
    kept_seal: Annotated[int, Field(ge=1)] = 30
    idempotency: Annotated[int, Field(ge=1)] = 1

    @property
    def of_records(self) -> dict[str, int]:
        """Days by type of record."""
        return {name: getattr(self, name) for name in ("exchange", "denial", "denial_count")}


class FailureModes(_Settings):
    """What happens when a part fails, per class (DESIGN D11). The mode in force is logged at start, and each use of one is counted.

    Attributes:
        accounts: The store of accounts, terms and acceptances: ``deny``, or ``local`` (what was last read of an account holds for
            `stale_seconds` more).
        bearer_keys: The key endpoint of an authorization server: ``local`` (keys that are known go on), or ``deny``.
        entitlements: A source of entitlements, for longer than its ``stale_if_error_seconds``: ``deny`` (models, actions and grants that
            it gave are taken back), or ``local`` (they hold on).
        limits: The limits engine: ``deny``; ``local`` (this process counts alone, up to `local_share` of each limit); or ``allow``.
        records: The store of records: ``deny`` (no final token, no content), or ``allow`` (untagged, counted).
        replay: What knows which proofs of possession were used: ``deny``; or ``local`` (this process alone: each may take a proof once).
        signer: The signer: ``deny`` or ``allow``, likewise.
        stale_seconds: For how long ``accounts = "local"`` holds. A suspension may go unheard for as long.
        local_share: Which part of each limit ``limits = "local"`` gives one process: one divided by the number of processes.
    """

    accounts: Literal["deny", "local"] = "deny"
    bearer_keys: Literal["deny", "local"] = "local"
    entitlements: Literal["deny", "local"] = "deny"
    limits: Literal["deny", "local", "allow"] = "deny"
    records: Literal["deny", "allow"] = "deny"
    replay: Literal["deny", "local"] = "deny"
    signer: Literal["deny", "allow"] = "deny"
    stale_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    local_share: Annotated[float, Field(gt=0, le=1)] = 0.1

    @property
    def modes(self) -> dict[str, str]:
        """Mode by class."""
        return {name: getattr(self, name) for name in ("accounts", "bearer_keys", "entitlements", "limits", "records", "replay", "signer")}


class AcceptanceSettings(_Settings):
    """How terms are accepted.

    Attributes:
        organization: Who may accept for an organization through the account routes: ``proven``, an authorized person whom the host
            or a bearer token names; ``declared``, whoever gives an authorized person's name.
        url: Where people accept, for refusals; the account routes' own page by default.
    """

    organization: Literal["proven", "declared"] = "proven"
    url: Annotated[str, Field(max_length=200)] | None = None


class StepSettings(_Settings):
    """What a step of the ladder of standing does to the accounts that stand on it.

    Attributes:
        refuse: No request is served.
        limit_share: Part of each amount of the account's own limits that is left; of each at least 1. Limits that it shares with others
            stay.
        models: Only these models are served; None for all that the account may use.
        without_actions: Actions that are closed.
        without_grants: Grants are suspended: the account has its own rights and no more.
        duties: What each response must carry, beside what the terms oblige to.
        accept: Requests wait until the terms are accepted again, since the measure began.
        verify: Requests wait until the account is verified to one of these levels; empty for no such demand.
    """

    refuse: bool = False
    limit_share: Annotated[float, Field(gt=0, le=1)] = 1
    models: frozenset[Annotated[str, Field(min_length=1, max_length=128)]] | None = None
    without_actions: frozenset[Word] = frozenset()
    without_grants: bool = False
    duties: tuple[Word, ...] = ()
    accept: bool = False
    verify: frozenset[Word] = frozenset()


_STEPS: Final[Mapping[str, Mapping[str, Any]]] = {
    "throttled": {"limit_share": 0.1},
    "restricted": {"limit_share": 0.1, "without_grants": True},
    "suspended": {"refuse": True},
    "terminated": {"refuse": True},
}
"""What steps do that the settings say nothing of."""


class StandingSettings(_Settings):
    """The ladder of standing. A member that a table names takes the place of that step's own; the others stay.

    Attributes:
        noticed: The account has been written to. Nothing but being told.
        warned: It has been warned. Nothing but being told.
        throttled: Its limits are lowered, to a tenth.
        restricted: Its grants are suspended, and its limits lowered.
        suspended: No request is served.
        terminated: No request is served, for good.
    """

    noticed: StepSettings = StepSettings()
    warned: StepSettings = StepSettings()
    throttled: StepSettings = StepSettings(**_STEPS["throttled"])
    restricted: StepSettings = StepSettings(**_STEPS["restricted"])
    suspended: StepSettings = StepSettings(**_STEPS["suspended"])
    terminated: StepSettings = StepSettings(**_STEPS["terminated"])

    @model_validator(mode="before")
    @classmethod
    def _keep_the_rest(cls, members: Any) -> Any:
        if not isinstance(members, dict):
            return members
        return {name: {**_STEPS.get(name, {}), **said} if isinstance(said, dict) else said for name, said in members.items()}


class SlidingSettings(_Settings):
    """A window that may begin at any moment: ``"60s"``, ``"1m"``, ``"1h"``, ``"30d"``."""

    seconds: Annotated[int, Field(ge=1, le=MAX_LIMIT_SECONDS)]


class CalendarSettings(_Settings):
    """A window of the calendar: ``"calendar month Europe/Berlin"``; without a zone, of UTC."""

    unit: Literal["minute", "hour", "day", "week", "month"]
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{zone!r} is no zone of this machine; name one such as Europe/Berlin, or install tzdata") from None
        return zone


class LimitSettings(_Settings):
    """One limit.

    Attributes:
        id: Its name, in refusals and for amounts of single accounts.
        quantity: What it counts. ``tokens`` is input and output together, and output includes reasoning.
        amount: How much is allowed. Of cost: millionths of the currency unit.
        per: What it is counted per; empty for one counter of everybody.
        window: In which time. Concurrency has none.
        burst: At most so much at once, of a sliding window.
        models: Models it counts; empty for all.
        actions: Actions it counts; empty for all.
        kinds: Kinds of account it is for; empty for all.
        shadow: It is counted and reported, and refuses nothing.
    """

    id: Word
    quantity: Literal["requests", "input-tokens", "output-tokens", "reasoning-tokens", "tokens", "cost", "concurrency"]
    amount: Amount
    per: tuple[Literal["account", "organization", "end-user", "model", "action"], ...] = ("account",)
    window: SlidingSettings | CalendarSettings | None = None
    burst: Amount | None = None
    models: frozenset[Annotated[str, Field(min_length=1, max_length=128)]] = frozenset()
    actions: frozenset[Word] = frozenset()
    kinds: frozenset[Word] = frozenset()
    shadow: bool = False

    @field_validator("window", mode="before")
    @classmethod
    def _read_window(cls, window: Any) -> Any:
        """A window is written in words."""
        if window is None or isinstance(window, SlidingSettings | CalendarSettings):
            return window
        if isinstance(window, str) and (sliding := _SLIDING.fullmatch(window)) is not None:
            return SlidingSettings(seconds=int(sliding[1]) * _SECONDS[sliding[2]])
        if isinstance(window, str) and (calendar := _CALENDAR.fullmatch(window)) is not None:
            return CalendarSettings.model_validate({"unit": calendar[1], "zone": calendar[2] or "UTC"})
        raise ValueError(f"{window!r} is no window; {_WINDOW_FORMS}")

    @model_validator(mode="after")
    def _fits_together(self) -> LimitSettings:
        if self.quantity == "concurrency" and self.window is not None:
            raise ValueError(f"limit {self.id}: concurrency is what runs now, and has no window")
        if self.quantity != "concurrency" and self.window is None:
            raise ValueError(f"limit {self.id}: {self.quantity} need a window; {_WINDOW_FORMS}")
        if self.burst is not None and not isinstance(self.window, SlidingSettings):
            raise ValueError(f'limit {self.id}: a burst needs a sliding window, such as "1m"')
        if self.burst is not None and self.burst > self.amount:
            raise ValueError(f"limit {self.id}: a burst above the amount bounds nothing")
        return self


class PriceSettings(_Settings):
    """What a million tokens of a model cost, in millionths of the currency unit: ``2_500_000`` is 2.50.

    Attributes:
        input: Of the prompt.
        output: Of the response.
        reasoning: Of the part of the response spent on reasoning; by default as the rest.
    """

    input: Annotated[int, Field(ge=0, le=MAX_LIMIT_AMOUNT)]
    output: Annotated[int, Field(ge=0, le=MAX_LIMIT_AMOUNT)]
    reasoning: Annotated[int, Field(ge=0, le=MAX_LIMIT_AMOUNT)] | None = None


class ModelSettings(_Settings):
    """What is known of a model.

    Attributes:
        max_output_tokens: Most that it gives, for requests that declare no maximum.
        price: What it costs; without one, requests for it cost nothing.
    """

    max_output_tokens: Amount | None = None
    price: PriceSettings | None = None


class EstimateSettings(_Settings):
    """How much a request could take, before it is known how much it does.

    Attributes:
        default_max_output_tokens: Output of a request that declares no maximum, for a model whose own is not known.
        bytes_per_token: Bytes of a prompt that count as one token.
        tokens_per_media: Tokens of an image, sound or file.
    """

    default_max_output_tokens: Amount = 4_096
    bytes_per_token: Annotated[int, Field(ge=1, le=16)] = 2
    tokens_per_media: Annotated[int, Field(ge=0, le=MAX_LIMIT_AMOUNT)] = 2_000


class GuardSettings(_Settings):
    """Everything a guard needs to know.

    Attributes:
        issuer: Our origin, as tokens name it.
        terms: Terms file (TOML, with its text beside it).
        store: SQLite file for accounts, terms and records; or the address of a PostgreSQL database.
        postgres: How that database's server is spoken to.
        keys: Folder of key files.
        routes: Guarded paths (``*`` stands for one segment) and how.
        exempt: Paths that are not guarded, by name; ``*`` at the end stands for the rest, but for no detour (``//``, ``/../``).
        sources: Where asserted facts come from.
        bearer: Authorization servers whose access tokens name accounts.
        dpop: How credentials that are bound to a key are proven, or None: then none of them is accepted.
        mutual_tls: How credentials that are bound to a certificate are proven, or None: then none of them is accepted.
        records: ``durable``: a record is committed before its final token leaves. ``async``: it follows; a crash may lose the newest.
        mode: ``enforce``; or ``monitor``: everything is decided, counted and recorded, and nothing is refused.
        failure: What happens when a part fails.
        acceptance: How terms are accepted.
        standing: What the steps of the ladder of standing do.
        account_routes: Path under which the account routes are served, or None.
        admin_routes: Path under which the administrators' routes are served, or None.
        webhooks: Who may send webhooks to the administrators' routes; names differ.
        notices: Who is told of what happens to the standing of accounts.
        entitlements: Systems outside that say what accounts may do; names differ.
        appeal_url: Where a refused account can appeal; the account routes' own page by default.
        max_request_bytes: Largest request body.
        retention: Days per type of record.
        limits: Limits of the accounts; ids differ.
        limits_shared_by: Who counts together: all processes of this ``host``, over a file; those of a ``fleet``, over Valkey; or each
            ``process`` alone, in memory. With several processes the last allows each of them the whole of every limit.
        limits_block: Which part of a limit a process may reserve at once, to spend it without a question; 0 for none.
        valkey: The server that a fleet shares, where anything is shared by one.
        estimates: How much a request could take.
        models: What is known of single models.
    """

    issuer: Annotated[str, Field(max_length=MAX_ISSUER_CHARS)]
    terms: Path
    store: Path | ServerAddress
    postgres: PostgresSettings = PostgresSettings()
    keys: Path
    routes: Annotated[dict[str, RouteSettings], Field(min_length=1)]
    exempt: tuple[str, ...] = ()
    sources: FactSources = FactSources()
    bearer: Annotated[tuple[BearerSettings, ...], Field(max_length=MAX_BEARER_ISSUERS)] = ()
    dpop: DPoPSettings | None = None
    mutual_tls: MutualTLSSettings | None = None
    records: Literal["durable", "async"] = "durable"
    mode: Literal["enforce", "monitor"] = "enforce"
    failure: FailureModes = FailureModes()
    acceptance: AcceptanceSettings = AcceptanceSettings()
    standing: StandingSettings = StandingSettings()
    account_routes: str | None = None
    admin_routes: str | None = None
    webhooks: Annotated[tuple[WebhookSettings, ...], Field(max_length=32)] = ()
    notices: Annotated[tuple[NoticeSettings, ...], Field(max_length=8)] = ()  # each has a thread that sends, in each process
    entitlements: Annotated[tuple[EntitlementSettings, ...], Field(max_length=8)] = ()  # likewise, one that asks
    appeal_url: Annotated[str, Field(max_length=200)] | None = None
    max_request_bytes: Annotated[int, Field(ge=1024, le=MAX_REQUEST_BYTES)] = MAX_REQUEST_BYTES
    retention: Retention = Retention()
    limits: tuple[LimitSettings, ...] = ()
    limits_shared_by: Literal["host", "process", "fleet"] = "host"
    limits_block: Annotated[float, Field(ge=0, le=MAX_LIMIT_BLOCK)] = 0.0
    valkey: ValkeySettings | None = None
    estimates: EstimateSettings = EstimateSettings()
    models: dict[str, ModelSettings] = Field(default_factory=dict)

    @field_validator("issuer")
    @classmethod
    def _is_origin(cls, issuer: str) -> str:
        if _ORIGIN.fullmatch(issuer) is None:
            raise ValueError(
                "is not an https origin such as https://api.example.com (http:// only on loopback), without a slash at its end"
            )
        return issuer

    @field_validator("bearer")
    @classmethod
    def _name_accounts_apart(cls, servers: tuple[BearerSettings, ...]) -> tuple[BearerSettings, ...]:
        """No server may name an account that another vouches for."""
        for one in servers:
            for other in servers:
                if one is other:
                    continue
                if one.issuer == other.issuer:
                    raise ValueError(f"{one.issuer!r} occurs twice")
                if other.account_prefix.startswith(one.account_prefix):
                    both = f"{one.issuer!r} and {other.issuer!r}"
                    raise ValueError(f"{both} could name one account: give each an account_prefix, none of which begins another")
        return servers

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, members: Any) -> Any:
        if isinstance(members, dict) and "on_seal_failure" in members:
            raise ValueError('on_seal_failure is now two settings: [failure] signer = "…" and records = "…"')
        return members

    @field_validator("account_routes", "admin_routes")
    @classmethod
    def _is_prefix(cls, path: str | None) -> str | None:
        if path is not None and (not path.startswith("/") or path.endswith("/") or "*" in path):
            raise ValueError(f"{path!r} is not a path such as /account: it starts with / and does not end with it")
        return path

    @model_validator(mode="after")
    def _outside_fits_together(self) -> GuardSettings:
        hooks = {hook.name: hook for hook in self.webhooks}
        if self.webhooks and self.admin_routes is None:
            raise ValueError("webhooks come in below the administrators' routes: set admin_routes")
        if len(hooks) != len(self.webhooks):
            raise ValueError("two webhooks have one name")
        if len({source.name for source in self.entitlements}) != len(self.entitlements):
            raise ValueError("two sources of entitlements have one name")
        if len({notice.url for notice in self.notices}) != len(self.notices):
            raise ValueError("two notices go to one url")
        for source in self.entitlements:
            hook = hooks.get(source.webhook or "")
            if source.webhook is not None and (hook is None or "entitlements" not in hook.may):
                raise ValueError(f"entitlements {source.name}: there is no webhook {source.webhook!r} that may tell of entitlements")
        return self

    @field_validator("routes", mode="before")
    @classmethod
    def _short_routes(cls, routes: Any) -> Any:
        """A route may be given by its dialect alone."""
        if not isinstance(routes, dict):
            return routes
        return {path: {"dialect": route} if isinstance(route, str) else route for path, route in routes.items()}

    @field_validator("routes", "exempt")
    @classmethod
    def _are_paths(cls, paths: Any) -> Any:
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f"{path!r} is not a path: it starts with /")
        return paths

    @field_validator("limits")
    @classmethod
    def _limits_differ(cls, limits: tuple[LimitSettings, ...]) -> tuple[LimitSettings, ...]:
        ids = [limit.id for limit in limits]
        for limit_id in ids:
            if ids.count(limit_id) > 1:
                raise ValueError(f"two limits have the id {limit_id!r}")
        return limits

    @field_validator("store", mode="before")
    @classmethod
    def _read_store(cls, store: Any) -> Any:
        """A server has another form than a file."""
        return ServerAddress.of(store)

    @model_validator(mode="after")
    def _fleet_has_an_engine(self) -> GuardSettings:
        shared = {"limits_shared_by": self.limits_shared_by, "dpop.shared_by": self.dpop.shared_by if self.dpop is not None else ""}
        for setting, by in shared.items():
            if by == "fleet" and self.valkey is None:
                raise ValueError(f'{setting} = "fleet" needs the server that the fleet shares: [valkey] url = "redis://…"')
        if self.limits_block and self.limits_shared_by == "process":
            raise ValueError('limits_block is for limits that processes share: leave it out, or set limits_shared_by = "fleet"')
        if self.postgres.announcements == "valkey" and self.valkey is None:
            raise ValueError('postgres.announcements = "valkey" needs the server: [valkey] url = "redis://…"')
        return self

    @property
    def valkey_domain(self) -> str:
        """Under which name this issuer counts in Valkey."""
        if self.valkey is not None and self.valkey.domain is not None:
            return self.valkey.domain
        name = _NO_FILE_NAME.sub("_", self.issuer.removeprefix("https://"))
        return name if len(name) <= MAX_DOMAIN_CHARS else hashlib.sha256(name.encode()).hexdigest()

    @property
    def store_name(self) -> str:
        """What the store is, without secrets: the file's whole path, or the server's address."""
        return str(self.store.absolute() if isinstance(self.store, Path) else self.store)

    @property
    def limits_file(self) -> Path:
        """Where the processes of this host count what accounts of this issuer use: beside the store, which may be several issuers'.

        Where the store is on a server, beside the keys.
        """
        issuer = _NO_FILE_NAME.sub("_", self.issuer.removeprefix("https://"))
        beside = self.store if isinstance(self.store, Path) else self.keys.with_name("tos-guard.db")
        return beside.with_name(f"{beside.stem}.{issuer}.limits{beside.suffix}")

    @property
    def replays_file(self) -> Path:
        """Where the processes of this host keep which proofs of possession were used."""
        return self.limits_file.with_name(self.limits_file.name.replace(".limits", ".replays"))

    def beside(self, folder: Path) -> GuardSettings:
        """The same settings with relative paths taken from *folder*."""
        paths = {name: getattr(self, name) for name in ("terms", "store", "keys")}
        update: dict[str, Any] = {name: folder / path for name, path in paths.items() if isinstance(path, Path)}
        for name in ("webhooks", "notices"):
            update[name] = tuple(
                one.model_copy(update={"secret": tuple(place.beside(folder) for place in one.secret)}) for one in getattr(self, name)
            )
        update["entitlements"] = tuple(
            one if one.token is None else one.model_copy(update={"token": one.token.beside(folder)}) for one in self.entitlements
        )
        return self.model_copy(update=update)


def parse_settings(data: bytes, *, where: str = "tos-guard.toml") -> GuardSettings:
    """Read settings from the bytes of a TOML file.

    Raises:
        ConfigurationError: Not TOML, or a setting is missing, unknown or wrong; the message names each.
    """
    try:
        members = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # wrong UTF-8, no TOML, an integer of 5,000 digits, brackets without end
        raise ConfigurationError(f"not TOML ({error})", where=where) from None
    try:
        return GuardSettings.model_validate(members)
    except ValidationError as error:
        raise ConfigurationError(describe(error), where=where, cure="See docs/guides/configuration.md.") from None


def describe(error: ValidationError) -> str:
    """One line that names each wrong setting."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
    )
