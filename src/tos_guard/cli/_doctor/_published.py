"""The documents that anyone may read, as they arrive over the network: issuer, keys, key history, terms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from tos_guard._canonical import sha256_b64url
from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.cli._doctor._http import Answer, Origin, UnreachableError, ask
from tos_guard.cli._output import moment
from tos_guard.errors import KeyFileError, VerificationError
from tos_guard.keys import KeyRecord, KeySet, open_key_history, parse_key_set

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.terms import TermsVersion

__all__ = ["PASS_ON", "check_documents", "json_object", "local_keys", "published_keys"]

METADATA: Final = "/.well-known/ai-provenance"
JWKS: Final = "/.well-known/jwks.json"
KEY_HISTORY: Final = "/.well-known/ai-provenance/key-history"

MAX_SKEW: Final = timedelta(seconds=60)  # docs/spec/token.md T12
PASS_ON: Final = "Let the proxy pass it on unchanged: docs/guides/doctor.md says what that takes."
"""What to do about what a proxy has changed."""


def check_documents(origin: Origin, settings: GuardSettings | None, terms: TermsVersion | None, now: datetime) -> Iterator[Check]:
    """Whether issuer, keys and terms are published as they are, over a connection that nobody can change.

    Args:
        origin: Where the provider is reached.
        settings: Its settings, to compare with; or None.
        terms: The general terms in force, likewise.
        now: The present.
    """
    if not origin.is_confidential:
        cure = "Serve it over https: keys that came over http prove nothing, and API keys can be read along."
        yield problem("plain-http", "is reached over http", where=str(origin), cure=cure)
    answer = _fetched(origin, METADATA)
    if isinstance(answer, Check):
        yield answer
        return
    found = [*_date(answer, origin, now), *_metadata(answer, origin, settings)]
    found += [*_keys(origin, settings, now), *_history(origin, settings)]
    if terms is not None:
        found += _terms(origin, answer, terms)
    yield from found
    if not found:
        yield ok("documents", "issuer, keys, key history and terms are published as they are", str(origin))


def _fetched(origin: Origin, path: str) -> Answer | Check:
    where = f"{origin}{path}"
    try:
        answer = ask(origin, "GET", path, headers={"Accept": "*/*"})
    except UnreachableError as error:
        if error.is_tls:
            return problem(
                "tls", f"its certificate is not accepted ({error})", where=where, cure="Clients will not accept it either: renew it."
            )
        return problem("unreachable", f"there is no answer ({error})", where=where, cure="Check the address, and that the server runs.")
    if 300 <= answer.status < 400:
        what = f"leads elsewhere ({answer.status}, {answer.field('location')}): verifiers follow no redirect"
        return problem("redirected", what, where=where, cure="Serve the document itself at the issuer's own origin.")
    if answer.status != 200:
        cure = "Let the proxy pass /.well-known/ on to the application, and install the guard there."
        return problem("documents-missing", f"is answered with {answer.status}", where=where, cure=cure)
    if answer.field("content-encoding") not in (None, "identity"):
        return problem("re-encoded", f"arrives as {answer.field('content-encoding')}, which nobody asked for", where=where, cure=PASS_ON)
    return answer


def _date(answer: Answer, origin: Origin, now: datetime) -> Iterator[Check]:
    """Whether the server's clock is ours."""
    try:
        date = parsedate_to_datetime(answer.field("date") or "")
    except (ValueError, TypeError, OverflowError):
        return
    shown = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    if abs(shown - now) > MAX_SKEW:
        what = f"its clock shows {moment(shown)}, and this machine's {moment(now)}"
        yield problem(
            "clock-differs",
            what,
            where=str(origin),
            cure="Set both, and keep them right with NTP: verifiers refuse tokens from the future.",
        )


def _metadata(answer: Answer, origin: Origin, settings: GuardSettings | None) -> Iterator[Check]:
    where = f"{origin}{METADATA}"
    expected = settings.issuer if settings is not None else str(origin)
    named = json_object(answer.body).get("issuer")
    if named is None:
        yield problem("documents-changed", "is not the issuer's metadata", where=where, cure=PASS_ON)
    elif named != expected:
        source = "the settings say" if settings is not None else "it is reached at"
        cure = "Correct 'issuer' in the settings of the server, or the address."
        yield problem("wrong-issuer", f"names the issuer {named!r}, and {source} {expected}", where=where, cure=cure)


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a body is; an empty one where it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def local_keys(settings: GuardSettings | None, now: datetime) -> KeySet | None:
    """The key set that should be published, or None where it is not at hand."""
    from tos_guard.stores import KeyFolder

    try:
        return KeyFolder(settings.keys).public_set(now) if settings is not None else None
    except KeyFileError:
        return None  # said already


def _keys(origin: Origin, settings: GuardSettings | None, now: datetime) -> Iterator[Check]:
    where = f"{origin}{JWKS}"
    published = published_keys(origin)
    if isinstance(published, Check):
        yield published
        return
    local = local_keys(settings, now)
    if local is None:
        return
    cure = "Look for a cache in front of it, or for another server with another key folder."
    theirs, ours = {key.kid: key for key in published.keys}, {key.kid: key for key in local.keys}
    missing = [kid for kid, key in ours.items() if kid not in theirs and (key.not_after is None or key.not_after >= now.timestamp())]
    if missing:
        yield problem(
            "wrong-keys", f"lacks the keys {', '.join(missing)} of {local.issuer}: what they sign does not verify", where=where, cure=cure
        )
    elif unknown := theirs.keys() - ours.keys():
        kept = {key.kid for key in _all_keys(settings)}
        if foreign := unknown - kept:
            yield problem("wrong-keys", f"has keys that are not in the key folder: {', '.join(sorted(foreign))}", where=where, cure=cure)


def _all_keys(settings: GuardSettings | None) -> tuple[KeyRecord, ...]:
    from tos_guard.stores import KeyFolder

    return KeyFolder(settings.keys).history().keys if settings is not None else ()


def published_keys(origin: Origin) -> KeySet | Check:
    """The key set as anyone gets it, or why not."""
    answer = _fetched(origin, JWKS)
    if isinstance(answer, Check):
        return answer
    try:
        return parse_key_set(answer.body, where=f"{origin}{JWKS}")
    except VerificationError as error:
        return problem("documents-changed", error.what, where=error.where, cure=PASS_ON)


def _history(origin: Origin, settings: GuardSettings | None) -> Iterator[Check]:
    from tos_guard.stores import KeyFolder

    where = f"{origin}{KEY_HISTORY}"
    answer = _fetched(origin, KEY_HISTORY)
    if isinstance(answer, Check):
        yield answer
        return
    try:
        local = KeyFolder(settings.keys).history() if settings is not None else None
    except KeyFileError:
        return  # said already
    if local is None:
        return
    text = answer.body.decode("latin-1").strip()
    try:
        published = open_key_history(text, trusted=local.to_key_set(), expected_issuer=local.issuer, where=where)
        local.check_follows(published)
    except VerificationError as error:
        cure = "Look for a cache in front of it, or for another server with another key folder."
        yield problem("wrong-keys", f"is not the history of these keys ({error.what})", where=where, cure=cure)
        return
    if published.sequence < local.sequence:
        what = f"is of step {published.sequence}, and the key folder of step {local.sequence}: revocations may be among what is missing"
        yield warning("stale-documents", what, where=where, cure="Let no cache keep it longer than its Cache-Control says.")


def _terms(origin: Origin, metadata: Answer, terms: TermsVersion) -> Iterator[Check]:
    """Whether the terms in force are served at their address, byte for byte."""
    uri = json_object(metadata.body).get("terms_uri")
    if not isinstance(uri, str):
        return  # said already
    version = uri.rpartition("/")[2]
    if version != terms.version:
        what = f"names terms {version}, and {terms.version} are in force"
        cure = "Look for a server that was not told, or for a cache in front of it."
        yield problem("wrong-terms", what, where=f"{origin}{METADATA}", cure=cure)
        return
    path = f"{METADATA}/terms/{version}"
    answer = _fetched(origin, path)
    if isinstance(answer, Check):
        yield answer
    elif sha256_b64url(answer.body) != terms.sha256:
        what = "is not the document that tokens name by its digest"
        yield problem("wrong-terms", what, where=f"{origin}{path}", cure=PASS_ON)
