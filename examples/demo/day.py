"""The script of the day: steps in order, each with what should happen and what did."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from demo.customers import Call, Customer
from demo.judge import Judge, Judgement
from demo.provider import ISSUER, Provider, now, serve
from demo.rights import AccountHolder, Operator, Told
from tos_guard._canonical import b64url_decode, b64url_encode
from tos_guard.keys import KeySet
from tos_guard.provenance import parse_token
from tos_guard.rights import Grant
from tos_guard.stores import KeyFolder
from tos_guard.types import Standing

__all__ = ["run"]

RIVAL: Final = "https://api.rival.example"
OBEYED_WITHIN_SECONDS: Final = 1.0
ROTATED_WITHIN_SECONDS: Final = 10.0
TRIAL_SECONDS: Final = 66  # the window of a minute, and one of the slots it is counted in
MARK: Final = ".a-day-was-played-here"  # what we may empty again


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table."""

    what: str
    expected: str
    happened: str
    held: bool


class Day:
    """Plays the day and keeps its table."""

    def __init__(self, folder: Path, base_url: str, provider: Provider, console: Console) -> None:
        self.steps: list[Step] = []
        self._folder = folder
        self._provider = provider
        self._console = console
        self._customers = {name: Customer(base_url, key, folder) for name, key in provider.api_keys.items()}
        self._people = {name: AccountHolder(base_url, key) for name, key in provider.api_keys.items()}
        self._operator = Operator(provider)
        self._judge = Judge(ISSUER)
        self._sealed: list[Call] = []
        self._receipt = folder / "receipt.jwt"

    def play(self) -> None:
        """All steps, in order."""
        self._acceptance()
        before = self._good_standing()
        past = self._grants()
        self._refusals()
        self._limits()
        self._licences()
        after = self._rotation(before)
        self._evidence(before, after)
        self._history(past)
        self._records()

    # The steps

    def _acceptance(self) -> None:
        refused = self._ask("newcomer", "newcomer-refused", "Hello")
        self._step(
            "Terms not accepted",
            "403 tos_terms_not_accepted, where to accept",
            f"{_refusal(refused)}, {refused.details.get('accept_url', 'no address')}",
            refused.code == "tos_terms_not_accepted" and refused.details.get("accept_url") == f"{ISSUER}/account/terms",
        )
        accepted = self._people["newcomer"].accept("2026-11", "dana@newcomer.example")
        self._save("newcomer-accepted.json", json.dumps(accepted.document, indent=1).encode())
        self._step(
            "Accepted on the account's page", "a receipt", f"{accepted.status}, {_receipt_id(accepted)}", _receipt_id(accepted) != "none"
        )
        served = self._until("newcomer", "newcomer", lambda call: call.status == 200)
        told = self._operator.explain(served).document.get("explanation", {})
        named = (told.get("acceptance") or {}).get("id", "none")
        self._step(
            "Served, and explained by the acceptance",
            f"200, {_receipt_id(accepted)}",
            f"{served.status}, {named}",
            (served.status, named) == (200, _receipt_id(accepted)),
        )
        self._receipt = self._save("receipt.jwt", self._people["newcomer"].receipt(_receipt_id(accepted)))

    def _receipt_judged(self) -> None:
        """The receipt proves the terms that were accepted, and no others."""
        text = self._provider.first_terms.with_name("sample-2026-11.md").read_bytes()
        changed = self._save("other-terms.md", text.replace(b"lawful", b"unlawful", 1))
        ours = self._save("terms.md", text)
        self._judged("The receipt, with the text that was accepted", 0, self._receipt, "--as", "receipt", "--terms-text", str(ours))
        self._judged("… with one word of the text changed", 1, self._receipt, "--as", "receipt", "--terms-text", str(changed))

    def _grants(self) -> Call:
        """A licence given and taken back while the provider runs. Returns a call made under it."""
        self._operator.grant(
            "good",
            Grant(id="lic-trial", type="licensed-distillation", purposes=frozenset({"distillation"}), reason="pilot", issuer="legal"),
        )
        licensed = self._until("good", "grant-given", lambda call: call.status == 200, purpose="distillation")
        said = f"{licensed.status}, grant {_claims(licensed).get('grant', 'none')}, {_usage(licensed)}"
        self._step("A licence given while it runs", "200, grant lic-trial, train-ai=y", said, _usage(licensed).startswith("train-ai=y"))
        recorded = self._operator.recorded(licensed, "purpose")
        self._step("The declared purpose is recorded", "distillation", recorded, recorded == "distillation")
        self._operator.void("good", "lic-trial", "pilot ended")
        voided = self._until("good", "grant-voided", lambda call: call.status == 403, purpose="distillation")
        self._step(
            "The licence voided",
            "403 by clause distillation-licence",
            _refusal(voided),
            voided.details.get("clause") == "distillation-licence",
        )
        return licensed

    def _limits(self) -> None:
        calls = [self._ask("trial", f"trial-{turn}", "Hello") for turn in range(4)]
        served = [call.status for call in calls]
        last = calls[-1]
        self._step("A limit of three requests a minute", "200 200 200 429", " ".join(map(str, served)), served == [200, 200, 200, 429])
        told = [name for name in ("limit", "scope", "window", "resets_at", "retry_after") if last.details.get(name)]
        self._step(
            "The official client says which limit",
            "limit, scope, window, when",
            f"{last.text[:120]}…",
            len(told) == 5 and "trial-requests" in last.text,
        )
        again = last.headers.get("retry-after", "none")
        held = again.isdigit() and 1 <= int(again) <= TRIAL_SECONDS
        self._step("It is told when to come back", f"Retry-After up to {TRIAL_SECONDS} s", f"{again} s", held)

    def _history(self, past: Call) -> None:
        """The terms change twice; what was decided before is still explained as it was decided."""
        closing = '\n[[clause]]\nid = "no-batches-by-night"\neffect = "prohibit"\naction = "batch"\ntext = "No batches."\n'
        for version in ("2026-12", "2027-01"):
            self._provider.publish(self._provider.write_terms(version, acceptance="none", closing=closing))
        changed = self._until("good", "terms-changed", lambda call: _terms_version(call) == "2027-01")
        self._step("The terms change twice while it runs", "2027-01", _terms_version(changed), _terms_version(changed) == "2027-01")
        told = self._operator.explain(past)
        found = told.document.get("explanation", {})
        said = (
            f"exit {told.status}, {found.get('decision')}, terms {_first(found, 'terms', 'version')}, grant {_first(found, 'grants', 'id')}"
        )
        self._step(
            "A past decision explained",
            "exit 0, allow, terms 2026-11, grant lic-trial",
            said,
            said == "exit 0, allow, terms 2026-11, grant lic-trial",
        )
        today = self._operator.explain(changed)
        now_in_force = _first(today.document.get("explanation", {}), "terms", "version")
        self._step(
            "… and one of today",
            "exit 0, terms 2027-01",
            f"exit {today.status}, terms {now_in_force}",
            (today.status, now_in_force) == (0, "2027-01"),
        )

    def _good_standing(self) -> tuple[Call, Call]:
        answer = self._ask("good", "answer", "What is a contract, in one sentence?")
        self._step(
            "Good standing, JSON", "200, token, train-ai=n", f"{answer.status}, {_usage(answer)}", _usage(answer) == "train-ai=n, ai-use=y"
        )
        stream = self._ask("good", "stream", "Name three colours.", stream=True)
        self._step(
            "Good standing, stream",
            "200, token, train-ai=n",
            f"{stream.status}, {_usage(stream)}",
            _usage(stream) == "train-ai=n, ai-use=y",
        )
        return answer, stream

    def _refusals(self) -> None:
        other = self._ask("good", "other-model", "Hello", model="gpt-extra")
        self._step("A model it has no right to", "403 tos_model_not_allowed", _refusal(other), other.code == "tos_model_not_allowed")
        first = self._ask("offender", "offender-before", "Hello")
        self._step("Offender, not yet suspended", "200", str(first.status), first.status == 200)
        with self._provider.store() as store:
            store.set_standing("offender", Standing.SUSPENDED, "resale of access, case 12")
        suspended = now()
        answers = [self._ask("offender", f"offender-{turn}", "Hello") for turn in range(1)]
        while answers[-1].status == 200 and (now() - suspended).total_seconds() < OBEYED_WITHIN_SECONDS:
            answers.append(self._ask("offender", f"offender-{len(answers)}", "Hello"))
        last = [self._ask("offender", f"offender-suspended-{turn}", "Hello") for turn in range(8)]
        held = all(call.code == "tos_account_suspended" for call in last)
        self._step("Suspended while it runs", "403 by all workers in 1 s", _refusal(last[-1]), held)
        self._step(
            "It learns where to appeal", "an address", str(last[-1].details.get("appeal_url", "none")), "appeal_url" in last[-1].details
        )

    def _licences(self) -> None:
        refused = self._ask("good", "distil-refused", "Label this text.", purpose="distillation")
        self._step(
            "Distillation without a licence",
            "403 by clause distillation-licence",
            _refusal(refused),
            refused.details.get("clause") == "distillation-licence",
        )
        licensed = self._ask("distiller", "distil-licensed", "Label this text.", purpose="distillation")
        claims = _claims(licensed)
        said = f"{licensed.status}, grant {claims.get('grant', 'none')}, {_usage(licensed)}"
        self._step(
            "Licensed distiller",
            "200, its grant, train-ai=y",
            said,
            claims.get("grant") == "lic-2026-7" and _usage(licensed).startswith("train-ai=y"),
        )

    def _rotation(self, before: tuple[Call, Call]) -> Call:
        fresh = self._provider.keys.rotate(now=now(), lead=timedelta(0))
        deadline = time.monotonic() + ROTATED_WITHIN_SECONDS
        turn = 0
        after = self._ask("good", "rotated", "What is a key?")
        while after.token and _kid(after) != fresh.kid and time.monotonic() < deadline:
            turn += 1
            after = self._ask("good", f"rotated-{turn}", "What is a key?")
        self._step("Key rotated", f"new key {fresh.kid[:8]}…", f"key {_kid(after)[:8]}…", _kid(after) == fresh.kid)
        (self._folder / "keys.json").write_bytes(self._provider.keys.public_set(now()).to_bytes())
        answer, stream = before
        self._judged("An answer from before the rotation", 0, answer.response)
        self._judged("A stream from before the rotation", 0, stream.response, "--token", stream.headers.get("ai-provenance", "none"))
        self._judged("An answer from after it", 0, after.response)
        return after

    def _evidence(self, before: tuple[Call, Call], after: Call) -> None:
        answer, stream = before
        salt = answer.headers.get("ai-provenance-salt", "none")
        self._judged("With the request and its salt", 0, answer.response, "--request", str(answer.request), "--salt", salt)
        self._judged("With another request", 4, answer.response, "--request", str(after.request), "--salt", salt)
        text = self._save("text.txt", answer.text.encode())
        self._judged("The text alone, with its token", 0, text, "--as", "text", "--token", answer.token or "none")
        raw = stream.response.read_bytes()
        self._judged(
            "Stream cut half-way", 1, self._save("cut.sse", raw[: len(raw) // 2]), "--token", stream.headers.get("ai-provenance", "none")
        )
        changed = _with_text(answer, "#" + answer.text[1:])
        self._judged("One character of the text changed", 1, self._save("changed.json", changed))
        self._judged("Tokens of two answers swapped", 1, self._save("swapped.json", _with_tag(answer, after.tag)))
        relabelled = self._save("relabelled.json", _with_tag(answer, {"token": _relabelled(answer.token)}))
        self._judged("Issuer relabelled as a rival's", 3, relabelled)
        self._judged("… who publishes our keys as its own", 1, relabelled, keys=self._rival_keys(), issuer=RIVAL)
        self._judged("Judged by another provider's keys", 3, answer.response, keys=self._other_provider())
        self._judged("Tag stripped", 5, self._save("stripped.json", _with_tag(answer, None)))
        self._judged("No trusted key", 3, answer.response, keys=None)
        self._receipt_judged()

    def _records(self) -> None:
        with self._provider.store() as store:
            found = [call for call in self._sealed if store.by_token_id(ISSUER, str(_claims(call).get("jti"))) is not None]
        held = len(found) == len(self._sealed) > 0
        self._step(
            "Each final token has its record",
            f"{len(self._sealed)} of {len(self._sealed)}, more than none",
            f"{len(found)} of {len(self._sealed)}",
            held,
        )

    # How a step is taken

    def _until(self, account: str, name: str, held: Callable[[Call], bool], *, purpose: str | None = None) -> Call:
        """Ask until it is so, or for as long as a change may take to reach every process."""
        deadline = time.monotonic() + OBEYED_WITHIN_SECONDS
        call = self._ask(account, name, "Name three colours.", purpose=purpose)
        turn = 0
        while not held(call) and time.monotonic() < deadline:
            turn += 1
            call = self._ask(account, f"{name}-{turn}", "Name three colours.", purpose=purpose)
        return call

    def _ask(
        self, account: str, name: str, question: str, *, stream: bool = False, model: str = "smollm2-135m", purpose: str | None = None
    ) -> Call:
        call = self._customers[account].ask(name, question, stream=stream, model=model, purpose=purpose)
        if call.token:
            self._sealed.append(call)
        return call

    def _judged(
        self, what: str, code: int, file: Path, *options: str, keys: Path | str | None = "pinned", issuer: str | None = None
    ) -> None:
        pinned = self._folder / "keys.json" if isinstance(keys, str) else keys
        judgement: Judgement = self._judge.verify(file, keys=pinned, options=options, issuer=issuer)
        agree = judgement.second is None or judgement.second == code
        self._step(what, f"exit {code}", str(judgement), judgement.code == code and agree)
        (self._folder / f"{file.stem}.{len(self.steps):02}.verdict.txt").write_text(judgement.said, encoding="utf-8")

    def _step(self, what: str, expected: str, happened: str, held: bool) -> None:
        self.steps.append(Step(what, expected, happened, held))
        self._console.print(f"  {'ok  ' if held else 'FAIL'} {what}", highlight=False)

    def _save(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def _rival_keys(self) -> Path:
        """The provider's own public keys under the rival's name: anyone can copy what is public."""
        ours = self._provider.keys.public_set(now())
        return self._save("rival-keys.json", KeySet(RIVAL, ours.keys).to_bytes())

    def _other_provider(self) -> Path:
        other = KeyFolder(self._folder / "other-provider")
        other.create(ISSUER, now=now() - timedelta(minutes=1))
        return self._save("other-keys.json", other.public_set(now()).to_bytes())


def _claims(call: Call) -> dict[str, object]:
    return parse_token(call.token).jws.payload if call.token else {}


def _terms_version(call: Call) -> str:
    terms = _claims(call).get("terms")
    return str(terms["version"]) if isinstance(terms, dict) else "no token"


def _receipt_id(told: Told) -> str:
    acceptance = told.document.get("acceptance", told.document)
    return str(acceptance.get("id", "none")) if isinstance(acceptance, dict) else "none"


def _first(document: dict[str, object], name: str, member: str) -> str:
    found = document.get(name)
    return str(found[0].get(member)) if isinstance(found, list) and found else "none"


def _usage(call: Call) -> str:
    usage = _claims(call).get("usage")
    return str(usage["content_usage"]) if isinstance(usage, dict) else "no token"


def _kid(call: Call) -> str:
    return parse_token(call.token).jws.kid if call.token else "none"


def _refusal(call: Call) -> str:
    clause = f" by clause {call.details['clause']}" if "clause" in call.details else ""
    return f"{call.status} {call.code}{clause}"


def _with_text(call: Call, text: str) -> bytes:
    body = json.loads(call.response.read_bytes())
    body["choices"][0]["message"]["content"] = text
    return json.dumps(body).encode()


def _with_tag(call: Call, tag: dict[str, object] | None) -> bytes:
    body = json.loads(call.response.read_bytes())
    body.pop("ai_provenance", None)
    return json.dumps({**body, **({} if tag is None else {"ai_provenance": tag})}).encode()


def _relabelled(token: str) -> str:
    """The token with the rival's name written into it as its issuer."""
    if not token:
        return "none"
    header, payload, signature = token.split(".")
    claims = {**json.loads(b64url_decode(payload)), "iss": RIVAL}
    return f"{header}.{b64url_encode(json.dumps(claims).encode())}.{signature}"


def run(folder: Path, *, model: str = "smollm2", guarded: bool = True, console: Console | None = None) -> int:
    """Play the day.

    Args:
        folder: Where artifacts are kept; emptied first if a day was played there before.
        model: ``smollm2`` or ``replay``.
        guarded: Whether with the guard.
        console: Where to print.

    Returns:
        0 if everything happened as it should, 1 otherwise.
    """
    out = console or (Console() if sys.stdout.isatty() else Console(width=140))
    if any(folder.glob("*")) and not (folder / MARK).exists():
        out.print(f"{folder} holds other files than a demonstration's: name an empty folder.", style="bold")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    provider = Provider(folder / "provider")
    started = time.monotonic()
    with (
        out.status("The provider starts and loads its model …"),
        serve(provider, model=model, guarded=guarded, log=folder / "provider.log") as base_url,
    ):
        day = Day(folder, base_url, provider, out)
        play: Callable[[], None] = day.play
        play()
    return _report(
        day.steps,
        folder,
        out,
        title=f"A day at a provider, {model}, guard {'on' if guarded else 'off'}",
        seconds=time.monotonic() - started,
    )


def _report(steps: list[Step], folder: Path, out: Console, *, title: str, seconds: float) -> int:
    table = Table(title=title, title_justify="left")
    for column in ("", "what", "should be", "was"):
        table.add_column(column, overflow="fold")
    for step in steps:
        table.add_row("✓ held" if step.held else "✗ FAILED", step.what, step.expected, step.happened)
    failed = sum(not step.held for step in steps)
    closing = f"{len(steps) - failed} of {len(steps)} held in {seconds:.0f} s. Everything is kept in {folder}."
    out.print(table)
    out.print(closing if not failed else f"{failed} did NOT hold. {closing}", style="bold")
    with (folder / "table.txt").open("w", encoding="utf-8") as file:
        kept = Console(file=file, width=140)
        kept.print(table)
        kept.print(closing)
    report = {"version": 1, "held": not failed, "steps": [asdict(step) for step in steps]}
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), model=sys.argv[2] if len(sys.argv) > 2 else "smollm2", guarded=sys.argv[3:] != ["off"]))
