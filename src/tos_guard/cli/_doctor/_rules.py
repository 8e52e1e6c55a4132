"""What settings and terms come to: rules that cannot be kept, and what is looser than it may seem."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tos_guard.cli._arguments import read_input
from tos_guard.cli._doctor._check import Check, ok, problem, warning
from tos_guard.cli._terms_files import text_beside
from tos_guard.errors import ConfigurationError
from tos_guard.guard._base import swallows

if TYPE_CHECKING:
    from tos_guard.config import GuardSettings
    from tos_guard.stores import Store
    from tos_guard.terms import TermsShelf, TermsVersion

__all__ = ["check_modes", "check_routes", "check_terms", "known_terms"]

MAX_STALE: Final = timedelta(minutes=15)
"""A suspension that some process does not hear of for longer is none."""


# Terms


def check_terms(settings: GuardSettings, store: Store | None, now: datetime) -> Iterator[Check]:
    """Whether the terms can be kept: sound, published as they are, in force, with a source for each fact, and no duty left out."""
    terms, found = _terms_file(settings)
    if terms is not None:
        shelf = _shelf(store, terms)
        found += [*_published_otherwise(settings, store, terms), *_in_force(shelf, now), *_nowhere_to_accept(settings, shelf)]
        found += [check for one in shelf.versions for check in (*_fulfillable(settings, one), *_clauses_in_shadow(one, shelf, now))]
    yield from found
    if terms is not None and not found:
        names = ", ".join(f"{one.series} {one.version}" for one in _shelf(store, terms).in_force(now).values())
        yield ok("terms", f"in force: {names}; each fact has a source, each duty is kept", str(settings.terms))


def _terms_file(settings: GuardSettings) -> tuple[TermsVersion | None, list[Check]]:
    """The terms of the settings, or None; and what `tos-guard terms check` says of them."""
    from tos_guard.stores import load_terms
    from tos_guard.terms import check_terms as find_odd

    where = str(settings.terms)
    try:
        terms = load_terms(settings.terms)
        document = read_input(where)
        findings = find_odd(document, text_beside(settings.terms, document), where=where)
    except (ConfigurationError, ValueError, RecursionError) as error:
        what, at = (error.what, error.where) if isinstance(error, ConfigurationError) else (f"not TOML ({error})", where)
        cure = "'tos-guard terms check' finds all that is wrong with it."
        return None, [problem("terms-file", what, where=at or where, cure=cure)]
    cure = "'tos-guard terms check' says the same; correct it in the next version."
    return terms, [warning("terms-odd", one.message, where=f"{one.file}:{one.line}", cure=cure) for one in findings]


def _shelf(store: Store | None, terms: TermsVersion) -> TermsShelf:
    """All that is published, and the terms of the settings, which the next start publishes."""
    from tos_guard.terms import TermsShelf, terms_from_document

    stored = [terms_from_document(one.document, one.text) for one in store.terms_versions()] if store is not None else []
    return TermsShelf.of(stored if any(one.version == terms.version for one in stored) else (*stored, terms))


def known_terms(settings: GuardSettings, store: Store | None) -> TermsShelf | None:
    """All terms of the installation, or None where its file cannot be read."""
    terms, _ = _terms_file(settings)
    return None if terms is None else _shelf(store, terms)


def _published_otherwise(settings: GuardSettings, store: Store | None, terms: TermsVersion) -> Iterator[Check]:
    stored = store.terms(terms.version) if store is not None else None
    if stored is not None and stored.sha256 != terms.sha256:
        what = f"version {terms.version} was published with other words: what is published never changes, and the server will not start"
        cure = "Restore the file, or give the new words a version of their own."
        yield problem("terms-changed", what, where=str(settings.terms), cure=cure)


def _in_force(shelf: TermsShelf, now: datetime) -> Iterator[Check]:
    if "general" not in shelf.in_force(now):
        first = min((terms.effective for terms in shelf.versions_of("general")), default=None)
        when = f"; the first take effect on {first}" if first is not None else ""
        cure = "Publish terms that are in effect: 'tos-guard terms publish'."
        yield problem("no-terms-in-force", f"no general terms are in effect{when}", where="terms", cure=cure)


def _nowhere_to_accept(settings: GuardSettings, shelf: TermsShelf) -> Iterator[Check]:
    """Whether a refusal for want of acceptance can say where to accept."""
    asking = [terms.version for terms in shelf.versions if terms.acceptance.value == "required"]
    if asking and settings.account_routes is None and settings.acceptance.url is None:
        what = f"they ask to be accepted ({', '.join(asking)}), and no refusal can say where"
        cure = 'Set account_routes = "/account", or [acceptance] url = "…" where people accept elsewhere.'
        yield warning("nowhere-to-accept", what, where="terms", cure=cure)


def _fulfillable(settings: GuardSettings, terms: TermsVersion) -> Iterator[Check]:
    """What the guard refuses at start, or leaves out while it runs."""
    from tos_guard.guard._base import FULFILLED_DUTIES

    where = f"terms {terms.version}"
    for fact in sorted(terms.required_facts):
        if getattr(settings.sources, fact, None) is None:
            cure = f'Set {fact} = "account" or "host" under [sources], or remove the condition from the terms.'
            yield problem("fact-without-source", f"they ask for the fact {fact!r}, which has no source", where=where, cure=cure)
    for clause in terms.clauses:
        for duty in sorted(set(clause.duties) - FULFILLED_DUTIES):
            cure = f"Fulfilled are: {', '.join(sorted(FULFILLED_DUTIES))}. Remove the duty from the next version."
            yield problem("duty-not-kept", f"clause {clause.id} obliges to {duty!r}, which this guard does not do", where=where, cure=cure)


def _clauses_in_shadow(terms: TermsVersion, shelf: TermsShelf, now: datetime) -> Iterator[Check]:
    shadowed = [clause.id for clause in terms.clauses if clause.shadow]
    if shadowed and terms in shelf.in_force(now).values():
        what = f"clauses {', '.join(shadowed)} are in shadow: they report, and decide nothing"
        cure = "Publish a version without 'shadow' once their reports are as meant."
        yield warning("clause-in-shadow", what, where=f"terms {terms.version}", cure=cure)


# Modes


def check_modes(settings: GuardSettings) -> Iterator[Check]:
    """What is looser than it may seem: monitor mode, failure modes that let requests pass, settings that say ``unsafe``."""
    found = [*_loose(settings)]
    yield from found
    if not found:
        modes = ", ".join(f"{failed}: {mode}" for failed, mode in settings.failure.modes.items())
        yield ok("modes", f"mode is {settings.mode}, records are {settings.records}; when a part fails: {modes}", "settings")


def _loose(settings: GuardSettings) -> Iterator[Check]:
    if settings.mode == "monitor":
        what = 'mode = "monitor": everything is decided and recorded, and nothing is refused'
        yield warning("monitor-mode", what, where="settings", cure='Set mode = "enforce" once the counts are as meant.')
    consequences = {
        "limits": "while the limits engine fails, no limit holds",
        "records": "while records cannot be kept, responses leave untagged",
        "signer": "while the signer fails, responses leave untagged",
    }
    for failed, mode in settings.failure.modes.items():
        if mode == "allow":
            what = f'{failed} = "allow": {consequences[failed]}'
            yield warning("permissive-failure-mode", what, where="[failure]", cure=f'Set {failed} = "deny", unless that is what you want.')
    if settings.failure.accounts == "local" and settings.failure.stale_seconds > MAX_STALE.total_seconds():
        what = f"while the store fails, a suspension may go unheard for {settings.failure.stale_seconds} s"
        yield warning(
            "permissive-failure-mode", what, where="[failure]", cure=f"Set stale_seconds to {MAX_STALE.total_seconds():.0f} or less."
        )
    for server in settings.bearer:
        if server.unsafe_any_address:
            what = f"keys of {server.issuer} may be fetched from private addresses"
            yield warning(
                "unsafe-setting", what, where="[[bearer]]", cure="Remove unsafe_any_address, unless its keys are inside your network."
            )
    if settings.acceptance.organization == "declared":
        what = "whoever holds a key of an organization's account may accept terms for all of it under an authorized person's name"
        yield warning("unsafe-setting", what, where="[acceptance]", cure='Set organization = "proven".')


# Routes of the settings


def check_routes(settings: GuardSettings) -> Iterator[Check]:
    """Whether what is guarded is also exempt, which comes first, and whether what is stored can be had again, and sealed."""
    found = [*_guarded_and_exempt(settings), *_stored(settings)]
    yield from found
    if not found:
        yield ok("routes", f"{len(settings.routes)} guarded, {len(settings.exempt)} exempt by name", "[routes]")


def _guarded_and_exempt(settings: GuardSettings) -> Iterator[Check]:
    for route in settings.routes:
        for name in settings.exempt:
            if swallows(name, route):
                what = f"{route} is guarded, and {name!r} among the exempt paths lets every request to it pass unguarded"
                yield problem("guarded-route-exempt", what, where="exempt", cure=f"Narrow {name!r}, or remove it.")


def _stored(settings: GuardSettings) -> Iterator[Check]:
    """Whether responses that are stored unless the caller says otherwise leave again through the guard."""
    for route, how in settings.routes.items():
        below = f"{route}/*"
        if how.dialect != "openai-responses" or route.endswith("*") or below in settings.routes:
            continue
        if any(name == below or (name.endswith("*") and below.startswith(name[:-1])) for name in settings.exempt):
            what = f"stored responses of {route} leave again below it, where {below} is exempt: without their tokens, to any account"
            yield problem("stored-responses-exempt", what, where="exempt", cure=f'Guard "{below}" = "openai-responses" instead.')
        else:
            what = f"responses of {route} are stored, and {below} is not guarded: whoever asks for one again is refused"
            yield warning("stored-responses-refused", what, where="[routes]", cure=f'Add "{below}" = "openai-responses".')
