"""The account routes' pages: the members of their documents in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tos_guard.stores import MAX_APPEAL_CHARS
from tos_guard.web._frame import Frame, State, chip, day, facts, notice, page, table, time
from tos_guard.web._html import Html, el, join, prose

__all__ = [
    "accepted_page",
    "appealed_page",
    "overview_page",
    "receipts_page",
    "refusal_page",
    "rights_page",
    "standing_page",
    "terms_page",
    "usage_page",
    "version_page",
]

Members = Mapping[str, Any]

_STANDINGS: Final[Mapping[str, tuple[State, str, str]]] = {
    "good": ("good", "In good standing", ""),
    "noticed": ("wait", "Noticed", "The provider has something to tell about how the account is used."),
    "warned": ("wait", "Warned", "The provider has warned the account."),
    "throttled": ("wait", "Throttled", "The account may do less than before."),
    "restricted": ("wait", "Restricted", "Some uses are closed to the account."),
    "suspended": ("bad", "Suspended", "The account is suspended."),
    "terminated": ("bad", "Terminated", "The account is closed."),
}
_GRANT_STATES: Final[Mapping[str, tuple[State, str]]] = {
    "active": ("good", "In force"),
    "to_come": ("none", "Not yet in force"),
    "ended": ("none", "Ended"),
    "voided": ("bad", "Taken back"),
    "suspended": ("bad", "Suspended, because of where the account stands"),
}
_IDENTIFIED: Final = {
    "administrator": "the provider's own people say who it was",
    "host": "signed in with the provider",
    "bearer": "signed in through an identity provider",
    "declared": "by their own word",
}
_QUANTITIES: Final = {
    "requests": "requests",
    "input-tokens": "input tokens",
    "output-tokens": "output tokens",
    "reasoning-tokens": "reasoning tokens",
    "tokens": "tokens",
    "cost": "of cost",
    "concurrency": "requests at a time",
}
_EFFECTS: Final[Mapping[str, tuple[State, str]]] = {
    "permit": ("good", "You may"),
    "prohibit": ("bad", "You may not"),
    "oblige": ("wait", "You must"),
}
_SOON: Final = 2 * 3_600  # seconds
_NEARLY: Final = 0.8  # of a limit: then one should know


# Overview


def overview_page(frame: Frame, document: Members) -> bytes:
    """Whether requests are served, and what is to be done."""
    account, owed = document["account"], document["to_accept"]
    state, words, said = _STANDINGS[account["standing"]]
    organization = account["organization"]
    served = chip("good", "Requests are served") if document["served"] else chip("bad", "Requests are refused")
    appeal = document["appeal_url"]
    about = el(
        "section",
        el("div", el("h2", "Account"), served, class_="top"),
        facts(
            ("Account", el("code", account["id"])),
            ("Organization", _organization(organization) if organization is not None else None),
            ("Kind", account["kind"]),
            ("Standing", join((chip(state, words), " ", said))),
            ("Appeal", el("a", appeal, href=appeal) if appeal is not None and state != "good" else None),
        ),
        class_="card",
    )
    why = el("a", "Read why, and what to do", href=document["links"]["standing"])
    told = notice(state, f"{words}. {said}", why) if state != "good" else None
    return page(frame, "Your account", told, *_to_do(owed, document["links"]["terms"]), about, _places(document["links"]), current="")


def _to_do(owed: Iterable[Members], terms_url: str) -> Iterable[Html]:
    for one in owed:
        named = f"{one['title']}, version {one['version']}"
        link = el("a", "Read and accept", href=terms_url)
        if one["refused"]:
            concerned = f"requests on {', '.join(one['models'])}" if one["models"] else "requests"
            yield notice("bad", f"{named} must be accepted before {concerned} are served.", link)
        else:
            yield notice("wait", join((f"{named} is to be accepted before ", time(one["accept_by"]), ".")), link)


def _places(links: Members) -> Html:
    said = {
        "terms": ("Terms", "What binds the account, what is to be accepted, and the texts."),
        "standing": ("Standing", "Where the account stands and why, what to do by when, and appeals."),
        "rights": ("Rights", "Models, actions and grants, and what may be done with output."),
        "usage": ("Usage", "Each limit, how much of it is used, and when it comes back."),
        "receipts": ("Receipts", "Signed proof of what was accepted, to download and keep."),
    }
    rows = (join((el("dt", el("a", words, href=links[name])), el("dd", text))) for name, (words, text) in said.items())
    return el("section", el("h2", "Look up"), el("dl", *rows), class_="card")


def _organization(organization: Members) -> Html:
    return join((organization["name"], " ", el("code", organization["id"]))) if organization["name"] else el("code", organization["id"])


# Terms


def terms_page(frame: Frame, document: Members, *, token: str) -> bytes:
    """What binds, what is to be accepted and until when, and what is to come."""
    who = document["who_accepts"]
    cards = [_series(series, who, frame.here, token) for series in document["series"]]
    upcoming = [_upcoming(terms) for terms in document["upcoming"]]
    if upcoming:
        cards.append(el("section", el("h2", "To come"), *upcoming, class_="card"))
    return page(frame, "Terms", *cards, current="terms")


def _series(series: Members, who: Members, here: str, token: str) -> Html:
    binding, wanted, acceptance = series["binding"], series["to_accept"], series["acceptance"]
    shown = wanted or binding
    if shown is None:
        return el("section", el("div", el("h2", series["series"]), chip("none", "Not yet in effect"), class_="top"), class_="card")
    state, words = _series_state(series)
    until = (
        join(("Accept it before ", el("b", time(series["accept_by"])), ". Until then version ", binding["version"], " binds."))
        if (series["accept_by"] is not None and binding is not None)
        else None
    )
    refused = f"Requests{_on_models(shown)} are refused until it is accepted." if series["state"] == "refused" else None
    if series["state"] == "again":
        by = join((" by ", el("b", time(series["accept_by"])))) if series["accept_by"] is not None else None
        until = join(("The provider asks to accept it again", by, "."))
    return el(
        "section",
        el("div", el("h2", shown["title"]), chip(state, words), class_="top"),
        el("p", until or refused) if until or refused else None,
        _version_facts(shown, acceptance if wanted is None else None),
        _text(shown, is_open=wanted is not None),
        _accept_form(shown, who, here, token) if wanted is not None else None,
        _text(binding, is_open=False, summary=f"The text of version {binding['version']}, which binds now")
        if wanted is not None and binding is not None and series["state"] != "again"
        else None,
        _withdraw_form(acceptance, who, here, token) if acceptance is not None else None,
        class_="card",
    )


def _series_state(series: Members) -> tuple[State, str]:
    match series["state"]:
        case "refused":
            return "bad", "To be accepted"
        case "grace":
            return "wait", "New version to accept"
        case "again":
            return "wait", "To be accepted again"
        case _:
            return ("good", "Accepted") if series["acceptance"] is not None else ("good", "In force")


def _on_models(terms: Members) -> str:
    return f" on {', '.join(terms['models'])}" if terms["models"] else ""


def _version_facts(terms: Members, acceptance: Members | None = None, *, is_linked: bool = True) -> Html:
    return facts(
        ("Version", el("a", terms["version"], href=terms["url"]) if is_linked else None),
        ("In effect from", day(terms["effective"])),
        ("For", f"the organization {terms['organization']} alone" if terms["organization"] is not None else None),
        ("For models", _words(terms["models"]) if terms["models"] else None),
        ("Accepted", _accepted(acceptance) if acceptance is not None else None),
        ("Acceptance", "binds without being accepted" if terms["acceptance"] == "none" else None),
        ("Text digest", el("span", terms["text_sha256"], class_="digest")),
    )


def _accepted(acceptance: Members) -> Html:
    subject = acceptance["subject"]
    whom = f" for the organization {subject['id']}" if subject["kind"] == "organization" else ""
    authority = f" ({acceptance['authority']})" if acceptance["authority"] else ""
    receipt = el("a", "Receipt", href=acceptance["receipt_url"]) if acceptance["receipt_url"] is not None else None
    ends = join((" It counts until ", time(acceptance["expires"]), ".")) if acceptance["expires"] is not None else None
    return join((time(acceptance["at"]), f" by {acceptance['accepted_by']}{authority}{whom}. ", receipt, ends))


def _text(terms: Members, *, is_open: bool, summary: str = "The text") -> Html:
    body = el(
        "div", prose(terms["text"], level=3), class_="text", lang=terms["locale"], tabindex="0", role="region", aria_label=terms["title"]
    )
    plain = el("p", el("a", "The exact text", href=terms["text_url"]), class_="small")
    return el("details", el("summary", summary), body, el("div", plain), open=is_open)


def _accept_form(terms: Members, who: Members, here: str, token: str) -> Html:
    if who["may_not"] is not None:
        return _may_not(who)
    subject = _subject(who)
    return el(
        "form",
        _hidden("csrf", token),
        _hidden("version", terms["version"]),
        _hidden("sha256", terms["sha256"]),
        *_person_fields(who, "accepted_by", terms["version"]),
        _agree(f"I have read {terms['title']}, version {terms['version']}, and accept it for {subject}."),
        el("button", "Accept", type="submit"),
        method="post",
        action=f"{here}/terms/accept",
    )


def _withdraw_form(acceptance: Members, who: Members, here: str, token: str) -> Html:
    form: Html
    if who["may_not"] is not None and acceptance["subject"]["kind"] == "organization":
        form = _may_not(who)
    else:
        reason = f"reason-{acceptance['id']}"
        form = el(
            "form",
            _hidden("csrf", token),
            _hidden("acceptance", acceptance["id"]),
            *_person_fields(who, "withdrawn_by", acceptance["id"]),
            el("label", "Reason, if you like", for_=reason),
            el("input", type="text", name="reason", id=reason, maxlength="500", autocomplete="off"),
            _agree("I take this acceptance back. Requests that need it are refused from then on."),
            el("button", "Take it back", type="submit", class_="quiet"),
            method="post",
            action=f"{here}/terms/withdraw",
        )
    return el("details", el("summary", f"Take the acceptance of version {acceptance['version']} back"), el("div", form))


def _may_not(who: Members) -> Html:
    refusal = who["may_not"]
    offices = f"Who may: {', '.join(who['authorities'])}." if who["authorities"] else ""
    message = refusal["message"]
    return notice("wait", f"{message[:1].upper()}{message[1:]}.", join((refusal["cure"], " ", offices)))


def _subject(who: Members) -> str:
    return f"all accounts of {who['name'] or who['id']}" if who["kind"] == "organization" else f"the account {who['id']}"


def _person_fields(who: Members, name: str, of: str) -> Iterable[Html]:
    person = who["person"]
    if person is not None:
        yield el("p", "You act as ", el("b", person["id"]), f", {_IDENTIFIED[person['identified_by']]}.")
        return
    field = f"{name}-{of}"
    hint = "Your name, as the provider knows you" if who["kind"] == "organization" else "Your name"
    yield el("label", hint, for_=field)
    yield el("input", type="text", name=name, id=field, required=True, maxlength="128", autocomplete="name")


def _agree(words: str) -> Html:
    return el("label", el("input", type="checkbox", name="agree", value="yes", required=True), el("span", words), class_="agree")


def _hidden(name: str, value: str) -> Html:
    return el("input", type="hidden", name=name, value=value)


def _upcoming(terms: Members) -> Html:
    link = el("a", f"{terms['title']}, version {terms['version']}", href=terms["url"])
    return el("p", link, f", from {day(terms['effective'])}{_on_models(terms)}. It can be accepted now.")


def version_page(frame: Frame, terms: Members, who: Members, *, is_acceptable: bool, token: str) -> bytes:
    """One version, whole."""
    body = el("div", prose(terms["text"], level=2), class_="text", lang=terms["locale"])
    about = el(
        "section",
        el("div", el("h2", f"Version {terms['version']}"), chip("wait", "To be accepted") if is_acceptable else None, class_="top"),
        _version_facts(terms, is_linked=False),
        el(
            "p",
            el("a", "The exact text", href=terms["text_url"]),
            " · ",
            el("a", "The document as JSON", href=f"{terms['url']}.json"),
            class_="small",
        ),
        class_="card",
    )
    form = el("section", el("h2", "Accept"), _accept_form(terms, who, frame.here, token), class_="card") if is_acceptable else None
    return page(frame, terms["title"], about, el("section", body, class_="card"), form, current="terms")


def accepted_page(frame: Frame, document: Members) -> bytes:
    """What was done, and the receipt of it."""
    acceptance = document["acceptance"]
    taken = acceptance["withdrawal"]
    url = acceptance["receipt_url"] if taken is None else taken["receipt_url"]
    named = f"{document['title'] or acceptance['series']}, version {acceptance['version']}"
    said = (
        notice("good", f"Accepted: {named}.", "It holds for every request within a second.")
        if taken is None
        else notice("wait", f"Taken back: {named}.", "Requests that need it are refused within a second.")
    )
    receipt = el(
        "section",
        el("h2", "Receipt"),
        el("p", "A signed record of this. Keep it: it proves itself without us, for as long as our public keys are known."),
        facts(
            ("Receipt", el("code", acceptance["id"] if taken is None else taken["id"])),
            ("When", time(acceptance["at"] if taken is None else taken["at"])),
            ("Who", acceptance["accepted_by"] if taken is None else taken["withdrawn_by"]),
            ("For", f"{acceptance['subject']['kind']} {acceptance['subject']['id']}"),
        ),
        el("a", "Download the receipt", href=url, class_="button") if url is not None else None,
        class_="card",
    )
    back = el("p", el("a", "Back to the terms", href=f"{frame.here}/terms"))
    return page(frame, "Accepted" if taken is None else "Taken back", said, receipt, back, current="terms")


# Standing


_MEASURE_STATES: Final[Mapping[str, tuple[State, str]]] = {
    "in_force": ("wait", "In force"),
    "to_come": ("none", "Not yet in force"),
    "ended": ("none", "Ended"),
    "done": ("good", "Ended: what it asked for is done"),
    "lifted": ("good", "Lifted"),
}
_APPEAL_STATES: Final[Mapping[str, tuple[State, str]]] = {
    "filed": ("wait", "Open"),
    "withdrawn": ("none", "Withdrawn"),
    "upheld": ("good", "Upheld"),
    "rejected": ("bad", "Rejected"),
}
_ASKED: Final = {
    "accept": "Accept the terms again",
    "verify": "Have the account verified",
    "contact": "Contact the provider",
}


def standing_page(frame: Frame, document: Members, *, token: str, person: str | None) -> bytes:
    """Where the account stands, why, what to do by when, and how to appeal."""
    state, words, said = _STANDINGS[document["account"]["standing"]]
    effects = list(_effects(document["effects"]))
    appeal = document["appeal_url"]
    about = el(
        "section",
        el("div", el("h2", "Where the account stands"), chip(state, words), class_="top"),
        el("p", said) if said else None,
        el("ul", *(el("li", effect) for effect in effects)) if effects else None,
        el("p", "No measure says why: ask the provider.") if document["because_of"] is None and state != "good" else None,
        el("p", "Appeals are also taken at ", el("a", appeal, href=appeal), ".") if appeal is not None and state != "good" else None,
        class_="card",
    )
    measures = [_measure(one, document, token=token, person=person) for one in document["measures"]]
    return page(frame, "Standing", about, *measures, current="standing")


def _effects(effects: Members) -> Iterable[Html | str]:
    if effects["refuse"]:
        yield "No request is served."
    if effects["limit_share"] < 1:
        yield f"The account's own limits are at {effects['limit_share']:.0%}."
    if effects["models"] is not None:
        yield join(("Only these models are served: ", _words(effects["models"])))
    if effects["without_actions"]:
        yield join(("These actions are closed: ", _words(effects["without_actions"])))
    if effects["without_grants"]:
        yield "Grants are suspended."
    if effects["accept"]:
        yield "Requests wait until the terms are accepted again."
    if effects["verify"]:
        yield join(("Requests wait until the account is verified: ", _words(effects["verify"])))


def _measure(measure: Members, document: Members, *, token: str, person: str | None) -> Html:
    _, step, _ = _STANDINGS[measure["step"]]
    state, words = _MEASURE_STATES[measure["state"]]
    is_over = measure["state"] in ("lifted", "ended", "done")
    return el(
        "section",
        el("div", el("h2", step), chip(state, words), class_="top"),
        None if is_over else _what_to_do(measure),
        *_lines(measure["notice"]),
        facts(
            ("Measure", el("code", measure["id"])),
            ("Reason", measure["reason"]),
            ("Clauses", _words(measure["clauses"]) if measure["clauses"] else None),
            ("Decided", "by a machine, without a person" if measure["automated"] else "by a person"),
            ("From", time(measure["begins"])),
            ("Until", time(measure["expires"])),
            ("Lifted", join((time(measure["lifted"]), f": {measure['lift_reason']}")) if measure["lifted"] is not None else None),
        ),
        *(_appeal(one, document, token=token, person=person) for one in measure["appeals"]),
        _appeal_form(measure, document, token=token, person=person) if measure["may_appeal"] else None,
        class_="card",
    )


def _lines(text: str) -> Iterable[Html]:
    """Text of people, line by line: none of it means anything but itself."""
    return (el("p", line) for line in text.splitlines() if line.strip())


def _what_to_do(measure: Members) -> Html | None:
    if measure["requires"] is None:
        return None
    asked = _ASKED[measure["requires"]]
    levels = f": {' or '.join(measure['verify'])}" if measure["verify"] else ""
    what: Html | str = el("a", asked, href=measure["accept_url"]) if measure["accept_url"] is not None else f"{asked}{levels}"
    by = join((" by ", el("b", time(measure["deadline"])))) if measure["deadline"] is not None else None
    then = f" After that the account is {measure['then']}." if measure["then"] is not None else None
    missed = " The time for it is over; it counts all the same." if measure["deadline_missed"] else None
    return notice("bad" if measure["deadline_missed"] else "wait", join((what, by, ".", then, missed)))


def _appeal(appeal: Members, document: Members, *, token: str, person: str | None) -> Html:
    state, words = _APPEAL_STATES[appeal["state"]]
    form = el(
        "form",
        _hidden("csrf", token),
        _hidden("appeal", appeal["id"]),
        *_name_fields(person, "withdrawn_by", appeal["id"]),
        _agree("I withdraw this appeal."),
        el("button", "Withdraw the appeal", type="submit", class_="quiet"),
        method="post",
        action=document["withdraw_to"],
    )
    return el(
        "div",
        el("div", el("h3", "Appeal"), chip(state, words), class_="top"),
        facts(
            ("Appeal", el("code", appeal["id"])),
            ("Filed", join((time(appeal["filed"]), appeal["filed_by"] and f" by {appeal['filed_by']}"))),
            ("Ended", time(appeal["ended"])),
            ("Answer", appeal["answer"]),
        ),
        *_lines(appeal["text"]),
        el("details", el("summary", "Withdraw it"), el("div", form)) if appeal["state"] == "filed" else None,
        class_="grant",
    )


def _appeal_form(measure: Members, document: Members, *, token: str, person: str | None) -> Html:
    field = f"text-{measure['id']}"
    form = el(
        "form",
        _hidden("csrf", token),
        _hidden("measure", measure["id"]),
        el("label", "Why it is wrong, or too much", for_=field),
        el("textarea", name="text", id=field, required=True, rows="8", maxlength=str(MAX_APPEAL_CHARS)),
        *_name_fields(person, "filed_by", measure["id"]),
        _agree(f"I appeal for the account {document['account']['id']}."),
        el("button", "File the appeal", type="submit"),
        method="post",
        action=document["appeal_to"],
    )
    return el("details", el("summary", "Appeal against this"), el("div", form))


def _name_fields(person: str | None, name: str, of: str) -> Iterable[Html]:
    if person is not None:
        yield el("p", "You act as ", el("b", person), ".")
        return
    yield el("label", "Your name", for_=f"{name}-{of}")
    yield el("input", type="text", name=name, id=f"{name}-{of}", required=True, maxlength="128", autocomplete="name")


def appealed_page(frame: Frame, document: Members) -> bytes:
    """What was done."""
    appeal = document["appeal"]
    is_filed = appeal["state"] == "filed"
    said = (
        notice("good", "The appeal is filed.", "The provider decides. The answer stands beside the measure.")
        if is_filed
        else notice("wait", "The appeal is withdrawn.")
    )
    about = facts(("Appeal", el("code", appeal["id"])), ("Measure", el("code", appeal["measure"])), ("Filed", time(appeal["filed"])))
    back = el("p", el("a", "Back to where the account stands", href=f"{frame.here}/standing"))
    return page(frame, "Appeal", said, el("section", about, class_="card"), back, current="standing")


# Rights


def rights_page(frame: Frame, document: Members) -> bytes:
    """Models, actions, grants, standing, and what may be done with output."""
    account = document["account"]
    state, words, said = _STANDINGS[account["standing"]]
    appeal = document["appeal_url"]
    blocked = document["blocked_end_users"]
    about = el(
        "section",
        el("div", el("h2", "What the account may ask for"), chip(state, words), class_="top"),
        el("p", said) if said else None,
        el("p", "Appeal: ", el("a", appeal, href=appeal)) if appeal is not None and state != "good" else None,
        facts(
            ("Models", _words(document["models"], every="every model")),
            ("Actions", _words(document["actions"], every="every action")),
            ("Region", document["region"]),
            ("Verified", document["verification"]),
            ("Blocked end users", str(blocked) if blocked else "none"),
        ),
        class_="card",
    )
    grants = [_grant(grant) for grant in document["grants"]] or [el("p", "None.", class_="soft")]
    output = [_policy(policy) for policy in document["output"]]
    return page(
        frame,
        "Rights",
        about,
        el("section", el("h2", "What may be done with output"), *output, class_="card") if output else None,
        el("section", el("h2", "Grants"), *grants, class_="card"),
        current="rights",
    )


def _words(names: Iterable[str], *, every: str = "") -> Html:
    said = [every if name == "*" and every else name for name in names]
    return el("ul", *(el("li", name) for name in said), class_="words") if said else Html("none")


def _policy(policy: Members) -> Html:
    models = join(("For ", _words(policy["models"]))) if policy["models"] else None
    others = "every other model" if policy["models"] else "For every model"
    purpose = policy["purpose"]
    heading = join(
        (
            models,
            (" and " if models is not None else "") + others if policy["other_models"] else None,
            f", for requests whose declared purpose is {purpose}" if purpose is not None else None,
        )
    )
    clauses = [
        el(
            "li",
            chip(*_EFFECTS[clause["effect"]]),
            " ",
            _words(clause["actions"]),
            el("p", clause["text"]) if clause["text"] else None,
            el("p", "Clause ", el("code", clause["id"]), class_="small soft"),
        )
        for clause in policy["clauses"]
    ]
    listed = el("ul", *clauses, class_="clauses") if clauses else el("p", "No clause speaks of it.", class_="soft")
    whole = el("p", el("a", "This usage policy", href=policy["url"]), ", as tokens name it.", class_="small")
    return el("div", el("h3", heading), listed, whole, class_="policy")


def _grant(grant: Members) -> Html:
    state, words = _GRANT_STATES[grant["state"]]
    limits = [f"{name}: {amount:,}" for name, amount in grant["limits"].items()]
    return el(
        "div",
        el("div", el("h3", grant["title"] or grant["type"]), chip(state, words), class_="top"),
        el("p", grant["text"]) if grant["text"] else None,
        facts(
            ("Grant", el("code", grant["id"])),
            ("Kind", el("code", grant["type"])),
            ("For models", _words(grant["models"], every="every model") if grant["models"] else None),
            ("Adds actions", _words(grant["actions"], every="every action") if grant["actions"] else None),
            ("For purposes", _words(grant["purposes"]) if grant["purposes"] else None),
            ("For regions", _words(grant["regions"]) if grant["regions"] else None),
            ("Larger limits", _words(limits) if limits else None),
            ("From", time(grant["not_before"])),
            ("Until", time(grant["not_after"])),
            ("Reason", grant["reason"]),
            (
                "Taken back",
                join((time(grant["voided"]), grant["void_reason"] and f": {grant['void_reason']}"))
                if grant["voided"] is not None
                else None,
            ),
        ),
        class_="grant",
    )


# Usage


def usage_page(frame: Frame, document: Members) -> bytes:
    """Each limit with its amount, what is used and left, and when it comes back."""
    limits = document["limits"]
    if not limits:
        return page(frame, "Usage", el("p", "No limits hold for this account.", class_="card"), current="usage")
    rows: list[tuple[Html | str, ...]] = [(_limit_name(use), _limit_words(use), *_limit_state(use)) for use in limits]
    return page(
        frame,
        "Usage",
        el("section", table(("Limit", "Allowed", "Used", "Left", "Comes back"), rows, caption="Limits"), class_="card"),
        el("p", "As of ", time(document["as_of"]), ". Looking takes nothing.", class_="small soft"),
        current="usage",
    )


def _limit_name(use: Members) -> Html:
    scope = use["scope"] or {}
    only = [scope[name] for name in ("model", "action") if name in scope] or [*use["models"], *use["actions"]]
    return join((use["id"], el("div", _words(only)) if only else None))


def _amount(use: Members, amount: int) -> str:
    return f"{amount / 1_000_000:,.2f}" if use["quantity"] == "cost" else f"{amount:,}"


def _limit_words(use: Members) -> str:
    per = [name.replace("-", " ") for name in use["per"] if name != "account"]
    each = f", for each {' and '.join(per)}" if per else ""
    return f"{_amount(use, use['amount'])} {_QUANTITIES[use['quantity']]}{_window(use['window'])}{each}"


def _window(window: Members | None) -> str:
    if window is None:
        return ""
    if "calendar" in window:
        return f" in a {window['calendar']} of the calendar ({window['zone']})"
    return f" in any {_span(window['seconds'])}"


def _span(seconds: int) -> str:
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {name}s" if count > 1 else name
    return f"{seconds} seconds" if seconds > 1 else "second"


def _limit_state(use: Members) -> tuple[Html | str, Html | str, Html | str]:
    used, amount = use["used"], use["amount"]
    if used is None:
        return Html("counted for each by itself"), "–", "–"
    share = 1.0 if amount == 0 else min(used / amount, 1.0)
    state = "full" if share >= 1 else "near" if share >= _NEARLY else ""
    fill = el("rect", width=f"{share * 100:.1f}%", height="100%")
    bar = el("svg", fill, class_=f"meter {state}".strip(), aria_hidden="true")
    left = _amount(use, max(use["remaining"], 0))
    words: Html | str = chip("bad", f"{left} left") if share >= 1 else chip("wait", f"{left} left") if share >= _NEARLY else left
    if use["quantity"] == "concurrency":
        back: Html | str = "when a response ends"
    else:
        back = _when(use["reset_seconds"], use["resets_at"]) if use["resets_at"] is not None else "–"
    return join((el("span", f"{_amount(use, used)} ({share:.0%})"), bar)), words, back


def _when(seconds: int, at: str) -> Html:
    """When something comes back: soon in seconds or minutes, later by the clock."""
    if seconds > _SOON:
        return join((time(at),))
    words = f"in {seconds} s" if seconds < 2 * 60 else f"in {seconds // 60} min"
    return el("time", words, datetime=at)


# Receipts


def receipts_page(frame: Frame, document: Members) -> bytes:
    """What was accepted and taken back, with its signed records."""
    receipts = document["receipts"]
    about = el(
        "p",
        "Each receipt is a signed record that proves itself without us. Keep the files: they name who accepted what, for whom, and when.",
    )
    if not receipts:
        return page(
            frame,
            "Receipts",
            el("section", about, el("p", "Nothing has been accepted yet.", class_="soft"), class_="card"),
            current="receipts",
        )
    rows: list[tuple[Html | str, ...]] = [
        (
            join((chip("good", "Accepted") if one["event"] == "acceptance" else chip("bad", "Taken back"),)),
            f"{one['title']}, version {one['version']}" if one["title"] else f"{one['series']} {one['version']}",
            join((one["person"], el("div", f"for {one['subject']['kind']} {one['subject']['id']}", class_="small soft"))),
            join((time(one["at"]),)),
            join((el("a", "Download", href=one["url"], aria_label=f"Download the receipt {one['id']}"),)),
        )
        for one in receipts
    ]
    return page(
        frame,
        "Receipts",
        el("section", about, table(("What", "Terms", "Who", "When", "Receipt"), rows, caption="Receipts"), class_="card"),
        current="receipts",
    )


# Refusals


def refusal_page(frame: Frame, status: int, problem: Members) -> bytes:
    """Why a page is not served, and what to do."""
    titles = {401: "Sign in first", 403: "Not allowed", 404: "There is no such page", 409: "Nothing was changed", 503: "Not at present"}
    appeal = problem.get("appeal_url")
    return page(
        frame,
        titles.get(status, "That did not work"),
        notice("bad" if status >= 500 else "wait", str(problem["detail"])),
        facts(
            ("Code", el("code", str(problem["code"]))),
            ("Request", el("code", str(problem["request_id"]))),
            ("Appeal", el("a", str(appeal), href=str(appeal)) if appeal is not None else None),
        ),
        el("p", el("a", "Back to your account", href=frame.here)),
    )
