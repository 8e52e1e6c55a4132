"""The clients: one request at a time, many at once, a load that goes on; and one that proves that it holds its key (RFC 9449)."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

__all__ = ["CHAT", "MODELS", "Answer", "Client", "Load", "ProofKey"]

CHAT: Final = "/v1/chat/completions"
MODELS: Final = "/v1/models"
SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 0.02  # the machine has to run the fleet as well
QUESTION: Final = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


class ProofKey:
    """A key of a client, and the proofs that it holds it."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        jwk: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(self._private.public_key()))
        self._jwk = {name: jwk[name] for name in ("crv", "kty", "x", "y")}

    @property
    def thumbprint(self) -> str:
        """What a credential is bound to (RFC 7638)."""
        return _digest(json.dumps(self._jwk, separators=(",", ":"), sort_keys=True))

    def proof(self, url: str, credential: str, *, method: str = "POST") -> str:
        """A proof for one request."""
        claims = {"jti": uuid.uuid4().hex, "htm": method, "htu": url, "iat": int(time.time()), "ath": _digest(credential)}
        return jwt.encode(claims, self._private, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": self._jwk})


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        sent: When it was sent, by a clock that never goes back.
        ended: When it was answered.
        status: HTTP status; 0 where the connection was cut.
        code: Code of a refusal, or empty.
        worker: Number of the worker.
        token: The final token, or empty.
    """

    sent: float
    ended: float
    status: int
    code: str = ""
    worker: str = ""
    token: str = ""

    @property
    def said(self) -> str:
        """Status and code."""
        return f"{self.status} {self.code}".strip()


class Client:
    """Asks, each time over a new connection, so that any worker may answer.

    Args:
        url: The provider.
        api_key: The key.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self.api_key = api_key

    def ask(self, path: str = CHAT, *, proof: str | None = None) -> Answer:
        """Ask once."""
        headers = {"authorization": f"Bearer {self.api_key}", "connection": "close", "content-type": "application/json"}
        if proof is not None:
            headers |= {"authorization": f"DPoP {self.api_key}", "dpop": proof}
        method, question = ("POST", json.dumps(QUESTION)) if path == CHAT else ("GET", None)
        sent = time.monotonic()
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=SECONDS)
        try:
            connection.request(method, path, question, headers)
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return Answer(sent, time.monotonic(), 0, "cut")
        finally:
            connection.close()
        # OpenAI's routes refuse in the shape that its clients know, all others with members of their own (RFC 9457).
        code, token = body.get("error", body).get("code", ""), body.get("ai_provenance", {}).get("token", "")
        return Answer(sent, time.monotonic(), response.status, str(code), response.headers.get("x-worker", ""), str(token))

    def ask_often(self, times: int, *, at_once: int = 8, path: str = CHAT, proof: str | None = None) -> list[Answer]:
        """Ask so often, so many at a time."""
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(lambda _: self.ask(path, proof=proof), range(times)))


class Load:
    """Clients that ask again and again until they are told to stop.

    Attributes:
        answers: What they were answered, in the order in which it came.
    """

    def __init__(self, clients: Sequence[Client], path: str = MODELS) -> None:
        self.answers: list[Answer] = []
        self._path = path
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in clients]

    def _run(self, client: Client) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            answer = client.ask(self._path)
            with self._changed:
                self.answers.append(answer)
                self._changed.notify_all()

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Ask meanwhile."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def wait_until(self, is_so: Callable[[list[Answer]], bool], seconds: float) -> bool:
        """Until the answers are as they should be; False where they are not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: is_so(self.answers), seconds)

    def since(self, moment: float) -> list[Answer]:
        """Answers to what was sent after *moment*."""
        with self._changed:
            return [answer for answer in self.answers if answer.sent >= moment]
