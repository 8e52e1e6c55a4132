"""What is asked of an issuer, and what of its answer is believed (docs/spec/discovery.md; DESIGN D8, D16).

Rules kept here, as generators that yield what they need from the network and open nothing themselves:

- Only issuers from the caller's list are asked. Nothing in a token becomes an address.
- https, or http on literal loopback names. Every document lies on the issuer's own origin; redirects are refused.
- A name is resolved once, every address of it is checked, and the connection goes to a checked address, so that a second answer
  of the name server cannot lead elsewhere. An https issuer must live on public addresses.
- The key history must be signed by a key that is pinned, that an earlier history named, or, at the first contact only, that the
  issuer's key set holds. With pinned history keys only keys of the history count: who controls the web server alone adds none.
- Nothing that was known is taken back: a key that vanished or changed, or a history that is older, refuses the whole answer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

from tos_guard._canonical import parse_json
from tos_guard.errors import ConfigurationError, DiscoveryError, MalformedError, UndecidableError, UntrustedIssuerError
from tos_guard.keys import KeyHistory, KeyRecord, KeySet, open_key_history, parse_key_set
from tos_guard.types import KeyPurpose

__all__ = ["KEY_SET_TYPES", "Fetch", "Fetched", "Issuer", "KnownKeys", "Resolve", "Step", "discover", "parse_issuer", "strictest", "way_to"]

METADATA_PATH: Final = "/.well-known/ai-provenance"
MAX_METADATA_BYTES: Final = 65_536  # a route list of a large provider takes 10 KB
MAX_KEY_SET_BYTES: Final = 65_536  # K1
MAX_HISTORY_BYTES: Final = 262_144  # keys.md
MAX_METADATA_DEPTH: Final = 8
MAX_ADDRESSES: Final = 16  # of one name; more are no service but an attempt to keep us busy

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{1,512}")
_JSON: Final = ("application/json",)
KEY_SET_TYPES: Final = ("application/json", "application/jwk-set+json")
_JWT: Final = ("application/jwt",)
_OK: Final = frozenset({200})
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last four bytes


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer the caller allows us to ask.

    Attributes:
        origin: As tokens name it.
        scheme: ``https``, or ``http`` on loopback.
        host: Name or literal address, IPv6 in brackets.
        port: TCP port.
    """

    origin: str
    scheme: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is a test on this machine."""
        return self.scheme == "http"


@dataclass(frozen=True, slots=True)
class Resolve:
    """Wanted: the addresses of a name, as texts. Receives a list."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Wanted: one document. Receives `Fetched`.

    Attributes:
        issuer: Whom to ask.
        path: Where on its origin.
        addresses: Checked addresses to connect to, tried in order, or None where the caller lets its client find the way.
        max_bytes: More is refused while it is read. 0: the body is not read.
        media_types: What it must be; empty where that is not looked at.
        headers: Further fields of the request.
        content: A body to send, as a POST, or None to GET.
        statuses: Statuses of an answer that is one.
        cure: What becomes of things without it, for errors.
    """

    issuer: Issuer
    path: str
    addresses: tuple[str, ...] | None
    max_bytes: int
    media_types: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    content: bytes | None = field(default=None, repr=False)
    statuses: frozenset[int] = _OK
    cure: str = "Keys that are known already stay in use."


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to `Fetch`: the whole body, with its status and its ``ETag``, empty where it has none that we could send back."""

    body: bytes
    status: int = 200
    etag: str = ""


Step = Resolve | Fetch


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What an issuer has told and we believed.

    Attributes:
        keys: Every key known, each with the strictest of all times told.
        history: The newest history.
        fetched_at: When it was told.
    """

    keys: KeySet
    history: KeyHistory
    fetched_at: datetime


def parse_issuer(origin: str) -> Issuer:
    """Read an issuer the caller allows.

    Raises:
        ConfigurationError: Not an https origin in lower case without a path, or an http one that is not loopback.
    """
    match = _ORIGIN.fullmatch(origin)
    port = int(match[3]) if match and match[3] else None
    if match is None or not (port is None or 0 < port < 65_536) or (match[1] == "http" and match[2] not in _LOOPBACK_NAMES):
        raise ConfigurationError(
            f"{origin[:200]!r} is not an origin we ask",
            where="issuers",
            cure="Give https://host, in lower case and without a trailing slash.",
        )
    return Issuer(origin, match[1], match[2], port or (443 if match[1] == "https" else 80))


def discover(
    issuer: Issuer, *, earlier: KnownKeys | None, pinned: KeySet | None, history: KeyHistory | None, any_address: bool, now: datetime
) -> Generator[Step, Any, KnownKeys]:
    """Ask an issuer for its keys.

    Args:
        issuer: Whom.
        earlier: What it told before.
        pinned: Keys the caller pinned for it.
        history: A history that the caller kept, where there is no *earlier*.
        any_address: Leave the way to the client, and check no address.
        now: The present.

    Raises:
        DiscoveryError: It could not be reached.
        VerificationError: What it said is refused.
    """
    addresses = yield from way_to(issuer, any_address=any_address)
    metadata: Fetched = yield Fetch(issuer, METADATA_PATH, addresses, MAX_METADATA_BYTES, _JSON)
    key_set_path, history_path = _paths(metadata.body, issuer)
    answer: Fetched = yield Fetch(issuer, key_set_path, addresses, MAX_KEY_SET_BYTES, KEY_SET_TYPES)
    published = parse_key_set(answer.body, where="published key set")
    if published.issuer not in (None, issuer.origin):
        raise UntrustedIssuerError("speaks for another issuer", where="published key set")
    # The history after the set: of a rotation in between it then knows more, and never less.
    answer = yield Fetch(issuer, history_path, addresses, MAX_HISTORY_BYTES, _JWT)
    known_history = earlier.history if earlier is not None else history
    trusted = _history_keys(published, pinned, known_history)
    opened = open_key_history(_ascii(answer.body), trusted=trusted, expected_issuer=issuer.origin)
    if known_history is not None:
        opened.check_follows(known_history)
    only_history = _has_history_keys(pinned)
    return KnownKeys(_accepted(issuer, published, opened, earlier, only_history=only_history), opened, now)


def way_to(issuer: Issuer, *, any_address: bool) -> Generator[Step, Any, tuple[str, ...] | None]:
    """The addresses to connect to, each of them checked; None where the client may find the way, whatever it is.

    Raises:
        DiscoveryError: The name has no address, or one where such an issuer must not be.
    """
    if any_address:
        return None
    found: list[str] = yield Resolve(issuer.host.strip("[]"), issuer.port)
    return _checked_addresses(issuer, found)


def _paths(data: bytes, issuer: Issuer) -> tuple[str, str]:
    where = "issuer metadata"
    document = parse_json(data, where=where, max_depth=MAX_METADATA_DEPTH, max_bytes=MAX_METADATA_BYTES)
    if not isinstance(document, dict) or document.get("ver") != 1 or type(document["ver"]) is not int:
        raise MalformedError("is not an object of version 1", where=where)
    if document.get("issuer") != issuer.origin:
        raise UntrustedIssuerError("speaks for another issuer", where=where)
    return _own_path(document, "jwks_uri", issuer), _own_path(document, "key_history_uri", issuer)


def _own_path(document: dict[str, Any], name: str, issuer: Issuer) -> str:
    uri = document.get(name)
    path = uri.removeprefix(issuer.origin) if isinstance(uri, str) and uri.startswith(f"{issuer.origin}/") else ""
    if _PATH.fullmatch(path) is None:
        raise MalformedError(f"{name} is not an address on the issuer's own origin", where="issuer metadata")
    return path


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii").strip("\r\n")
    except UnicodeDecodeError:
        raise MalformedError("is not ASCII", where="key history") from None


def _history_keys(published: KeySet, pinned: KeySet | None, earlier: KeyHistory | None) -> KeySet:
    """The keys whose signature under a history counts."""
    if earlier is not None:
        return earlier.to_key_set().merged(pinned.keys if pinned is not None else ())
    return pinned if pinned is not None and _has_history_keys(pinned) else published


def _has_history_keys(keys: KeySet | None) -> bool:
    return keys is not None and any(key.purpose is KeyPurpose.KEY_HISTORY for key in keys.keys)


def _accepted(issuer: Issuer, published: KeySet, history: KeyHistory, earlier: KnownKeys | None, *, only_history: bool) -> KeySet:
    listed = {key.kid for key in history.keys}
    told = [*history.keys, *(key for key in published.keys if not only_history or key.kid in listed)]
    keys: dict[str, KeyRecord] = {}
    for key in told:
        keys[key.kid] = strictest(keys[key.kid], key) if key.kid in keys else key
    for before in earlier.keys.keys if earlier is not None else ():
        if before.kid not in keys:
            raise UndecidableError(f"key {before.kid} was published and has vanished", where="published key set")
        keys[before.kid] = strictest(keys[before.kid], before)
    return KeySet(issuer.origin, tuple(keys.values()))


def strictest(one: KeyRecord, other: KeyRecord) -> KeyRecord:
    """Two statements about one key as one: it may sign only when both say so, and is revoked if either says so.

    Raises:
        UndecidableError: They give it different purposes.
    """
    if one.purpose is not other.purpose:
        raise UndecidableError(f"key {one.kid} is said to be for {one.purpose} and for {other.purpose}", where="published key set")
    revoked = [key for key in (one, other) if key.revoked is not None]
    reasons: set[Literal["compromised", "superseded"]] = {key.reason or "compromised" for key in revoked}
    return replace(
        one,
        not_before=max(_given(one.not_before, other.not_before), default=None),
        not_after=min(_given(one.not_after, other.not_after), default=None),
        revoked=min(_given(one.revoked, other.revoked), default=None),
        reason=("compromised" if "compromised" in reasons else "superseded") if revoked else None,
    )


def _given(*moments: int | None) -> Iterable[int]:
    return [moment for moment in moments if moment is not None]


def _checked_addresses(issuer: Issuer, found: list[str]) -> tuple[str, ...]:
    if not 1 <= len(found) <= MAX_ADDRESSES:
        raise DiscoveryError(f"has {len(found)} addresses", where=issuer.origin, cure="Check the name.")
    for text in found:
        try:
            address = _innermost(ipaddress.ip_address(text))
        except ValueError:
            raise DiscoveryError(f"{text[:64]!r} is no address", where=issuer.origin) from None
        if not (address.is_loopback if issuer.is_loopback else _is_public(address)):
            raise DiscoveryError(
                f"resolves to {text}, which is not {'a loopback' if issuer.is_loopback else 'a public'} address",
                where=issuer.origin,
                cure="Nothing was sent. For an issuer inside your own network, pin its keys or set unsafe_any_address.",
            )
    return tuple(found)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _innermost(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address leads to, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _is_public(address: _Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local)
