"""What a verification came to, in words: for people, and as the stable JSON document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tos_guard.cli._evidence import Form
from tos_guard.cli._output import Line, mark, moment, plain
from tos_guard.errors import EXIT_CODES, IncompleteError, Verdict, VerificationError
from tos_guard.provenance import Claims, UnverifiedToken
from tos_guard.verify import Expected, Prefix, Verified

__all__ = ["Outcome"]

_THING: Final = {Form.BODY: "response body", Form.STREAM: "stream", Form.LINES: "response in lines", Form.TEXT: "text"}

_SENTENCE: Final = {
    "malformed": "the {thing} or its tag does not have the form that the format demands",
    "signature": "the tag was changed, or was not made with the key it names",
    "content_mismatch": "the tag is genuine, but this {thing} is not the one it was made for",
    "incomplete": "the response ends before its final tag",
    "undecidable": "something needed to decide is missing",
    "unknown_key": "you trust the issuer, but not the key that this tag names",
    "untrusted_issuer": "no key that you trust vouches for this tag",
    "unsupported_version": "the tag is of a version that this program does not read",
    "key_revoked": "the key that signed this tag was revoked",
    "expired": "the tag is genuine, but outside the time for which it holds",
    "audience": "the tag is genuine, but not made for this audience",
    "nonce": "the tag is genuine, but not made for your request",
    "policy_mismatch": "the tag is genuine, but its usage policy is not one you accept",
    "absent": "this {thing} carries no tag; that proves nothing",
}
"""The first sentence, by code of the error."""

_CHECK: Final = {
    "malformed": "form",
    "content_mismatch": "content",
    "incomplete": "completeness",
    "undecidable": "content",
    "unknown_key": "key",
    "untrusted_issuer": "issuer",
    "unsupported_version": "version",
    "key_revoked": "key",
    "expired": "time",
    "policy_mismatch": "policy",
    "absent": "tag",
}
"""The check that fails, by code of the error, where it is not the code itself."""

_CURE: Final[dict[Verdict, str]] = {
    "invalid": "Do not rely on it. Get the response again from where it came, byte for byte, and verify that.",
    "incomplete": "Get the whole response, to its end.",
    "undecidable": "Pin the issuer's keys (--keys), from a source that you trust.",
    "unacceptable": "Nobody has changed it, but it is not what you asked for: check what you demanded, or ask for a new response.",
    "absent": "Tags are easily lost. Get the response from its source, or give the token that was kept with it (--token, --headers).",
}

_USES: Final = {
    "train-ai=n": "it may not be used to train AI models",
    "train-ai=y": "it may be used to train AI models",
    "ai-use=n": "it may not be fed to AI models as input",
    "ai-use=y": "it may be fed to AI models as input",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one verification came to.

    Attributes:
        name: What was verified: a path, or ``-``.
        form: As what.
        verified: What was proven, or None.
        error: Why nothing was, or None.
        demands: What was demanded.
        digests_checked: How many digests of ``Content-Digest`` were compared.
        claimed: What the token says of itself where its key could not be checked. Not proven.
    """

    name: str
    form: Form
    verified: Verified | None = None
    error: VerificationError | None = None
    demands: Expected
    digests_checked: int = 0
    claimed: UnverifiedToken | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict."""
        return "valid" if self.error is None else self.error.verdict

    @property
    def prefix(self) -> Prefix | None:
        """How far a cut stream is proven, or None."""
        return self.error.proven if isinstance(self.error, IncompleteError) else None

    @property
    def exit_code(self) -> int:
        """The exit code of the verdict."""
        return EXIT_CODES[self.verdict]

    def checks(self) -> list[tuple[str, bool, str]]:
        """Name, result and words of each check: all that ran where it is valid, else the one that failed."""
        if self.error is not None:
            located = f"{self.error.where}: {self.error.what}" if self.error.where else self.error.what
            check = "request" if self.error.where == "token req" else _CHECK.get(self.error.code, self.error.code)
            return [(check, False, located)]
        assert self.verified is not None  # noqa: S101 - an outcome without an error was proven
        return [(name, True, words) for name, words in _passed(self.verified, self)]

    def to_document(self) -> dict[str, Any]:
        """The stable JSON form."""
        error = None
        if self.error is not None:
            cure = self.error.cure or _CURE[self.error.verdict]
            error = {"code": self.error.code, "what": self.error.what, "where": self.error.where, "cure": cure}
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "input": self.name,
            "form": self.form.value,
            "checks": [{"name": name, "passed": passed, "text": words} for name, passed, words in self.checks()],
            "proven": None if self.verified is None else _proven_document(self.verified),
            "uncovered": list(self.verified.uncovered) if self.verified is not None else [],
            "notes": list(self.verified.notes) if self.verified is not None else [],
            "prefix": None if (prefix := self.prefix) is None else {"bytes": prefix.size_bytes, **_proven_document(prefix)},
            "request_checked": self.verified is not None and self.verified.request_checked,
            "error": error,
            "unverified_claims": None if self.claimed is None else self.claimed.jws.payload,
        }

    def to_lines(self) -> list[str | Line]:
        """The words for people: a sentence, the checks, what was proven and what was not, what to do."""
        thing = _THING[self.form]
        if self.error is None:
            assert self.verified is not None  # noqa: S101 - as above
            sentence = f"{plain(self.verified.claims.iss)} made this {thing}, and what its tag covers has not been changed"
        else:
            sentence = _SENTENCE.get(self.error.code, self.error.what).format(thing=thing)
        lines: list[str | Line] = [(f"{self.verdict.upper()}: {sentence}.", "bold green" if self.error is None else "bold red"), ""]
        lines.append("Checked" if self.error is None else "Failed check")
        for name, passed, words in self.checks():
            lines.append((f"  {mark(passed)}  {name:<10} {plain(words)}", "green" if passed else "red"))
        if self.verified is not None:
            lines += ["", "Proven", *_table(_proven_lines(self.verified.claims))]
            if self.verified.uncovered:
                lines += [
                    "",
                    "NOT covered by the tag (may have been changed)",
                    *(f"  {plain(member)}" for member in self.verified.uncovered),
                ]
            if self.verified.notes:
                lines += ["", "Notes", *(f"  {plain(text)}" for text in self.verified.notes)]
        if (prefix := self.prefix) is not None:
            lines += [
                "",
                f"Proven by a checkpoint: the first {prefix.size_bytes} bytes, and nothing of what follows",
                *_table(_proven_lines(prefix.claims)),
            ]
        if self.error is not None:
            lines += ["", "What to do", f"  {plain(self.error.cure or _CURE[self.error.verdict])}"]
        if self.claimed is not None:
            lines += ["", "The tag says of itself, NOT verified", *_table(_claimed_lines(self.claimed))]
        return lines


def _passed(verified: Verified, outcome: Outcome) -> list[tuple[str, str]]:
    claims, demands = verified.claims, outcome.demands
    content = claims.content
    checks = [
        ("tag", f"there is one, with the final token {claims.jti}"),
        ("form", "token and response keep to the format"),
        ("issuer", f"{claims.iss} is one you trust"),
        ("key", f"{verified.kid} is a key of it that you trust, in use when it signed"),
        ("signature", "made with this key over these claims"),
        ("content", f"{content.count} parts match ({content.projection})" if content is not None else ""),
    ]
    if outcome.digests_checked:
        checks.append(("digest", "the bytes are those of Content-Digest"))
    if claims.exp is not None:
        checks.append(("time", f"holds until {moment(claims.exp)}"))
    checks.append(("audience", f"made for {claims.aud}" if claims.aud is not None else "made for no one in particular"))
    if demands.nonce is not None:
        checks.append(("nonce", "carries the nonce you sent"))
    if demands.request is not None:
        checks.append(("request", "made for this very request"))
    if demands.policies is not None:
        checks.append(("policy", "its usage policy is one you accept"))
    return checks


def _proven_lines(claims: Claims) -> list[tuple[str, object]]:
    clauses = f" Clauses: {', '.join(claims.usage.clauses)}." if claims.usage.clauses else ""
    lines: list[tuple[str, object]] = [
        ("issuer", claims.iss),
        ("model", claims.model),
        ("signed", moment(claims.iat)),
        ("completion", claims.completion or "not yet"),
        ("request id", claims.rid),
        ("terms", f"version {claims.terms.version}, {claims.terms.uri}"),
        ("usage", f"{_usage_words(claims.usage.content_usage)}{clauses}"),
    ]
    if claims.grant is not None:
        lines.append(("grant", f"{claims.grant} applied"))
    return lines


def _usage_words(content_usage: str) -> str:
    """The AIPREF string in words; what is not known of it is left as it stands."""
    if not content_usage:
        return "the terms say nothing in short; read their clauses."
    words = [_USES.get(member.strip(), member.strip()) for member in content_usage.split(",")]
    sentence = "; ".join(words)
    return f"{sentence[0].upper()}{sentence[1:]}. ({content_usage})"


def _claimed_lines(claimed: UnverifiedToken) -> list[tuple[str, object]]:
    payload = claimed.jws.payload
    return [("key", claimed.jws.kid), *((name, payload[name]) for name in ("iss", "model", "iat", "stage", "rid") if name in payload)]


def _table(lines: list[tuple[str, object]]) -> list[str]:
    return [f"  {name:<10}  {plain(value)}" for name, value in lines]


def _proven_document(verified: Verified | Prefix) -> dict[str, Any]:
    claims = verified.claims
    return {
        "issuer": claims.iss,
        "kid": verified.kid,
        "signed_at": claims.iat,
        "token_id": claims.jti,
        "request_id": claims.rid,
        "subject": claims.sub,
        "model": claims.model,
        "stage": claims.stage.value,
        "completion": None if claims.completion is None else claims.completion.value,
        "projection": None if claims.content is None else claims.content.projection,
        "parts": None if claims.content is None else claims.content.count,
        "terms": {"uri": claims.terms.uri, "version": claims.terms.version, "sha256": claims.terms.sha256},
        "usage": {
            "sha256": claims.usage.sha256,
            "clauses": list(claims.usage.clauses),
            "content_usage": claims.usage.content_usage,
        },
        "grant": claims.grant,
        "audience": claims.aud,
        "nonce": claims.nonce,
        "expires": claims.exp,
        "token": verified.token,
    }
