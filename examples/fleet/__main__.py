"""The script: four workers under load, what is done to them, and whether what was promised held."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.clients import CHAT, MODELS, Answer, Client, Load
from fleet.engines import Postgres, Valkey, running
from fleet.provider import AMOUNT, ISSUER, WORKERS, Fleet, Provider, serve
from tos_guard.provenance import parse_token
from tos_guard.stores import PostgresStore
from tos_guard.types import Standing

__all__ = ["play"]

BOUND: Final = 1.0
"""A change is obeyed everywhere after so many seconds."""

BACK_SECONDS: Final = 15.0
"""How long a fleet may take until it serves again after an engine is back. It takes two or three."""

SUSPENDED: Final = "403 tos_account_suspended"
OVER: Final = "429 tos_limit"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table."""

    done: str
    promised: str
    happened: str
    held: bool


class Play:
    """Does it, and keeps the table."""

    def __init__(self, provider: Provider, fleet: Fleet, store: PostgresStore, postgres: Postgres, valkey: Valkey) -> None:
        self.steps: list[Step] = []
        self._provider = provider
        self._fleet = fleet
        self._store = store
        self._postgres = postgres
        self._valkey = valkey
        self._clients = {name: Client(provider.url, key) for name, key in provider.api_keys.items()}
        self._tokens: list[str] = []

    def play(self) -> None:
        """Everything, in order."""
        self._limit()
        self._keys()
        self._standing()
        self._rotation()
        self._worker()
        self._valkey_stands_still()
        self._valkey_starts_again()
        self._postgres_stands_still()
        self._postgres_starts_again()
        self._records()

    def _limit(self) -> None:
        answers = self._ask_often("trial", 2 * AMOUNT)
        said, workers = _said(answers), {answer.worker for answer in answers}
        held = said == Counter({"200": AMOUNT, OVER: AMOUNT})
        self._step(
            f"{2 * AMOUNT} requests at {len(workers)} workers, limit {AMOUNT}", f"{AMOUNT} served", _text(said), held and len(workers) > 1
        )

    def _keys(self) -> None:
        bound = self._clients["bound"]
        bare = bound.ask()
        self._step("A bound key without a proof", "refused", bare.said, bare.status == 401)
        # What knows of used proofs is new: it lets pass what is made from now on, and a client makes another after a refusal.
        began = time.monotonic()
        while (first := bound.ask(proof=self._proof())).status != 200 and time.monotonic() - began < BACK_SECONDS:
            time.sleep(0.2)
        said = _said(self._kept([first, *bound.ask_often(20, proof=self._proof())])[1:])
        self._step("One proof, 20 times at once", "passes once", _text(said), said["200"] == 1 and said["401 tos_unauthenticated"] == 19)
        scoped = self._clients["scoped"]
        may, may_not = scoped.ask(MODELS), scoped.ask(CHAT)
        held = (may.said, may_not.said) == ("200", "403 tos_key_scope")
        self._step("A key that is for the catalogue alone", "200 there, 403 elsewhere", f"{may.said}, {may_not.said}", held)

    def _proof(self) -> str:
        return self._provider.proof_key.proof(self._provider.url + CHAT, self._clients["bound"].api_key)

    def _standing(self) -> None:
        for standing, said in ((Standing.SUSPENDED, SUSPENDED), (Standing.GOOD, "200")):
            with Load([self._clients["offender"]] * 6).running() as load:
                load.wait_until(lambda answers: len(answers) >= 6, BACK_SECONDS)
                self._store.set_standing("offender", standing, "shown in an example")
                self._obeyed(f"An account's standing becomes {standing}", load, time.monotonic(), said)

    def _rotation(self) -> None:
        old_id, new = self._provider.rotate(self._store, "good", timedelta(hours=1))
        old = self._clients["good"]
        self._clients["good"] = Client(self._provider.url, new)
        both = [client.ask(MODELS).said for client in (old, self._clients["good"])]
        self._step("A key is rotated, with an overlap", "old and new pass", ", ".join(both), both == ["200", "200"])
        with Load([old] * 6).running() as load:
            load.wait_until(lambda answers: len(answers) >= 6, BACK_SECONDS)
            self._store.revoke_api_key(old_id, "rotated")
            self._obeyed("The old key is revoked", load, time.monotonic(), "401 tos_unauthenticated")

    def _obeyed(self, done: str, load: Load, changed: float, said: str) -> None:
        """Every worker obeys within the bound, and none goes back."""
        load.wait_until(lambda answers: len({a.worker for a in answers if a.sent > changed + BOUND}) == WORKERS, BACK_SECONDS)
        after = load.since(changed)
        disobeying = [answer for answer in after if answer.said != said]
        last = max((answer.ended - changed for answer in disobeying), default=0.0)
        late = [answer for answer in disobeying if answer.sent - changed > BOUND]
        workers = {answer.worker for answer in after if answer.said == said}
        happened = (
            f"{len(workers)} workers in {len(after)} requests, {f'the last after {1000 * last:.0f} ms' if disobeying else 'all at once'}"
        )
        self._step(done, f"all {WORKERS} workers: {said.partition(' ')[0]} within 1 s", happened, not late and len(workers) == WORKERS)

    def _worker(self) -> None:
        with Load([self._clients["good"]] * 3, CHAT).running() as load:
            load.wait_until(lambda answers: len(answers) >= 20, BACK_SECONDS)
            killed, new = self._fleet.kill_worker()
            back = load.wait_until(lambda answers: any(answer.worker == str(new) for answer in answers), BACK_SECONDS)
        said = _said(self._kept(load.answers))
        happened = f"{_text(said)}; worker {new} in the place of {killed}"
        self._step("kill -9 of a worker under load", "a few cut, all others served", happened, back and set(said) <= {"200", "0 cut"})
        again = _said(self._ask_often("trial", 8))
        self._step("… and the account over its limit", "still refused", _text(again), set(again) == {OVER})

    def _valkey_stands_still(self) -> None:
        self._valkey.pause()
        try:
            said = _said(self._ask_often("good", 8))
        finally:
            self._valkey.resume()
        self._step("Valkey stands still", "503: [failure] limits is deny", _text(said), set(said) == {"503 tos_unavailable"})
        self._back("Valkey goes on")

    def _valkey_starts_again(self) -> None:
        self._valkey.kill()
        said = _said(self._ask_often("good", 8))
        self._valkey.start()
        self._step("kill -9 of Valkey", "503", _text(said), set(said) == {"503 tos_unavailable"})
        self._back("Valkey is started again")
        again = _said(self._ask_often("trial", 8))
        self._step("… and the account over its limit", "still refused", _text(again), set(again) == {OVER})

    def _postgres_stands_still(self) -> None:
        with Load([self._clients["good"]] * 6, CHAT).running() as load:
            load.wait_until(lambda answers: len(answers) >= 6, BACK_SECONDS)
            self._postgres.pause()
            stood = time.monotonic()  # what was asked before each of its processes stood may have been answered by one that did not yet
            load.wait_until(lambda answers: sum(a.sent > stood + BOUND for a in answers) >= 20, BACK_SECONDS)
            resumed = time.monotonic()
            self._postgres.resume()
        meanwhile = [answer for answer in self._kept(load.answers) if answer.sent > stood and answer.ended < resumed]
        said = _said([answer for answer in meanwhile if answer.sent > stood + BOUND])
        wrong = [answer for answer in meanwhile if answer.status == 200]
        held = set(said) == {"503 tos_unavailable"} and not wrong
        self._step("PostgreSQL stands still", "after 1 s 503: [failure] accounts is deny", _text(said), held)
        self._back("PostgreSQL goes on")

    def _postgres_starts_again(self) -> None:
        self._postgres.kill()
        time.sleep(BOUND)
        said = _said(self._ask_often("good", 8))
        self._postgres.start()
        self._step("kill -9 of PostgreSQL", "503", _text(said), set(said) == {"503 tos_unavailable"})
        self._back("PostgreSQL is started again")

    def _back(self, done: str) -> None:
        """The same workers serve again, without anybody's help."""
        began = time.monotonic()
        with Load([self._clients["good"]] * 6).running() as load:
            back = load.wait_until(lambda answers: len({a.worker for a in answers if a.status == 200}) == WORKERS, BACK_SECONDS)
        workers = {answer.worker for answer in load.answers if answer.status == 200}
        said = f"{len(workers)} workers serve again after {time.monotonic() - began:.1f} s"
        self._step(f"… {done}", f"all {WORKERS} serve again", said, back)

    def _records(self) -> None:
        self._store.flush()
        names = [parse_token(token).jws.payload["jti"] for token in self._tokens]
        missing = [name for name in names if self._store.by_token_id(ISSUER, name) is None]
        said = f"{len(names)} tokens, {len(missing)} without a record"
        self._step("Every final token that a client holds", "has its record", said, not missing and len(names) > AMOUNT)

    def _ask_often(self, name: str, times: int) -> list[Answer]:
        return self._kept(self._clients[name].ask_often(times))

    def _kept(self, answers: Sequence[Answer]) -> list[Answer]:
        self._tokens += [answer.token for answer in answers if answer.token]
        return list(answers)

    def _step(self, done: str, promised: str, happened: str, held: bool) -> None:
        self.steps.append(Step(done, promised, happened, held))


def _said(answers: Sequence[Answer]) -> Counter[str]:
    return Counter(answer.said for answer in answers)


def _text(said: Counter[str]) -> str:
    return ", ".join(f"{number} × {what}" for what, number in sorted(said.items()))


def play(console: Console) -> int:
    """Start everything, play, and print the table.

    Returns:
        0 if everything happened as promised, 1 otherwise.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True)))
        with console.status("PostgreSQL, Valkey and four workers start …"):
            postgres: Postgres = stack.enter_context(running(lambda place: Postgres(place, durable=True)))
            valkey: Valkey = stack.enter_context(running(lambda place: Valkey(place, persist="always")))
            (folder / "provider").mkdir()
            provider = Provider(folder / "provider", postgres.conninfo(), valkey)
            store = stack.enter_context(provider.store())
            fleet = stack.enter_context(serve(provider))
        started = time.monotonic()
        acts = Play(provider, fleet, store, postgres, valkey)
        with console.status("It runs …"):
            acts.play()
    table = Table(title="A fleet of four workers over PostgreSQL and Valkey", title_justify="left")
    for column in ("", "what was done", "what is promised", "what happened"):
        table.add_column(column, overflow="fold")
    for step in acts.steps:
        table.add_row("✓ held" if step.held else "✗ FAILED", *map(escape, (step.done, step.promised, step.happened)))
    failed = sum(not step.held for step in acts.steps)
    console.print(table)
    seconds = f"{time.monotonic() - began:.0f} s, of which {started - began:.0f} to start"
    console.print(f"{len(acts.steps) - failed} of {len(acts.steps)} held in {seconds}.", style="bold" if failed else None)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(play(Console() if sys.stdout.isatty() else Console(width=150)))
