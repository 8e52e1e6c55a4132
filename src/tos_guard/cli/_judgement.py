"""One question to the verifier, and its answer: whatever was given on the command line, brought before `tos_guard.verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tos_guard._content_digest import check_content_digest
from tos_guard.cli._evidence import Form, SavedHeaders, form_of, parse_headers, parse_leaves_file, unverified_token
from tos_guard.cli._outcome import Outcome
from tos_guard.errors import AbsentError, ConfigurationError, MalformedError, UndecidableError, UntrustedIssuerError, VerificationError
from tos_guard.keys import KeySet, open_key_history, parse_key_set
from tos_guard.provenance import UnverifiedToken, parse_token
from tos_guard.verify import Expected, Trust, Verified, verify_body, verify_lines, verify_stream, verify_text

__all__ = ["Question", "TrustGiven", "judge", "read_trust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was given to be verified, as it was given.

    Attributes:
        name: What it is called in answers.
        data: The bytes.
        form: ``body``, ``stream``, ``lines``, ``text``, or ``auto``.
        headers: Bytes of saved header lines.
        token: Value of ``AI-Provenance``.
        salt: Value of ``AI-Provenance-Salt``.
        content_digest: Value of ``Content-Digest``.
        leaves: Bytes of the leaves beside the token.
        choice: The choice that a text must be.
        request: Bytes of the request body.
        audience: Demanded audience.
        nonce: Demanded nonce.
        policies: Acceptable usage policies, or None for any.
        at: The moment as of which it is judged.
    """

    name: str
    data: bytes
    form: str
    headers: bytes | None
    token: str | None
    salt: str | None
    content_digest: str | None
    leaves: bytes | None
    choice: int | None
    request: bytes | None
    audience: str | None
    nonce: str | None
    policies: tuple[str, ...] | None
    at: datetime


@dataclass(frozen=True, slots=True)
class TrustGiven:
    """Trust as it was given.

    Attributes:
        trust: The keys that can be used; perhaps none.
        refused: Why nobody is trusted, or one of the files is not; None where all is well.
    """

    trust: Trust
    refused: UntrustedIssuerError | None


def read_trust(keys: Sequence[tuple[str, bytes]], *, history_key: bytes | None, issuer: str | None) -> TrustGiven:
    """Read key sets and key histories. One that is refused leaves its issuer without a key: that is no usage error (spec, "Verdicts").

    Args:
        keys: Name and bytes of each file.
        history_key: Bytes of the key set that signs histories.
        issuer: The issuer the caller trusts them for, or None where the sets say.

    Raises:
        ConfigurationError: It is not said which issuer they are trusted for, or a history comes without the key that signs it.
    """
    if not keys:
        cure = "Give --keys FILE with keys that you pinned; a key that came with the data proves nothing."
        return TrustGiven(Trust({}), UntrustedIssuerError("no trusted key was given", where="token", cure=cure))
    refused: UntrustedIssuerError | None = None
    issuers: dict[str, KeySet] = {}
    for name, data in keys:
        try:
            found = _key_set(name, data, history_key=history_key, issuer=issuer)
        except VerificationError as error:
            refused = UntrustedIssuerError(f"these keys are refused ({error})", where="token", cure="Get the issuer's keys again.")
            continue
        speaks_for = found.issuer or issuer
        if speaks_for is None:
            raise ConfigurationError("names no issuer", where=name, cure="Say with --issuer whom you trust these keys for.")
        if issuer is not None and speaks_for != issuer:
            raise ConfigurationError(f"speaks for {speaks_for}, not for {issuer}", where=name, cure="Correct --issuer or --keys.")
        issuers[speaks_for] = issuers[speaks_for].merged(found.keys) if speaks_for in issuers else found
    return TrustGiven(Trust(issuers), refused)


def _key_set(name: str, data: bytes, *, history_key: bytes | None, issuer: str | None) -> KeySet:
    if data.lstrip(b" \t\r\n").startswith(b"{") or b"." not in data:
        return parse_key_set(data, where=name)
    if history_key is None:
        raise ConfigurationError("is a key history", where=name, cure="Give with --history-key the key set that signs it.")
    trusted = parse_key_set(history_key, where="--history-key")
    expected = issuer or trusted.issuer
    if expected is None:
        raise ConfigurationError("names no issuer", where="--history-key", cure="Say with --issuer whose history it is.")
    text = data.decode("utf-8", "replace").strip()
    return open_key_history(text, trusted=trusted, expected_issuer=expected, where=name).to_key_set()


def judge(question: Question, given: TrustGiven) -> Outcome:
    """Verify.

    Raises:
        ConfigurationError: Options that do not fit together, or not to this form.
    """
    form = form_of(question.data) if question.form == "auto" else Form(question.form)
    _check_options(question, form)
    demands = Expected()
    verified: Verified | None = None
    error: VerificationError | None = None
    token, digest = question.token, None
    try:
        saved = SavedHeaders() if question.headers is None else parse_headers(question.headers, where="--headers")
        token, pending = _tokens(question.token, saved.token, form)
        salt = _one("--salt", question.salt, saved.salt)
        digest = _one("--content-digest", question.content_digest, saved.content_digest) if form is Form.BODY else None
        demands = _demands(question, salt)
        verified = _verify(question, form, token=token, pending=pending, digest=digest, trust=given.trust, demands=demands)
    except VerificationError as raised:
        error = given.refused if isinstance(raised, UntrustedIssuerError) and given.refused is not None else raised
    return Outcome(
        name=question.name,
        form=form,
        verified=verified,
        error=error,
        demands=demands,
        digests_checked=0 if verified is None or digest is None else check_content_digest(digest, question.data),
        claimed=_claimed(question, form, token) if isinstance(error, UndecidableError) else None,
    )


def _check_options(question: Question, form: Form) -> None:
    for option, value, fits in (
        ("--choice", question.choice, form is Form.TEXT),
        ("--leaves", question.leaves, form is Form.TEXT),
        ("--content-digest", question.content_digest, form is Form.BODY),
    ):
        if value is not None and not fits:
            raise ConfigurationError(f"does not fit a {form}", where=option, cure="Leave it out, or say with --as what the input is.")
    if question.salt is not None and question.request is None:
        raise ConfigurationError("needs the request", where="--salt", cure="Give it with --request.")


def _one(option: str, given: str | None, saved: str | None) -> str | None:
    """The value that was given, or else the saved one.

    Raises:
        ConfigurationError: They differ.
    """
    if given is not None and saved is not None and given != saved:
        raise ConfigurationError("is not the one in --headers", where=option, cure="Leave one of them out.")
    return saved if given is None else given


def _tokens(given: str | None, saved: str | None, form: Form) -> tuple[str | None, str | None]:
    """The token to check with, and a pending one that stood in the head.

    A body or lines whose token was fetched by request id had a pending one in their head: that they differ is no mistake.

    Raises:
        ConfigurationError: They differ otherwise.
        MalformedError: The saved one is no token.
    """
    if saved is None or given == saved or form not in (Form.BODY, Form.LINES):
        return _one("--token", given, saved), None
    if parse_token(saved).unverified_stage == "pending" and (given is not None or form is Form.LINES):
        return given, saved
    return _one("--token", given, saved), None


def _demands(question: Question, salt: str | None) -> Expected:
    if question.request is not None and salt is None:
        raise ConfigurationError("needs the salt", where="--request", cure="Give it with --salt, or the saved headers with --headers.")
    return Expected(
        audience=question.audience,
        nonce=question.nonce,
        request=question.request,
        salt=None if question.request is None else salt,
        policies=question.policies,
    )


def _verify(
    question: Question, form: Form, *, token: str | None, pending: str | None, digest: str | None, trust: Trust, demands: Expected
) -> Verified:
    now = question.at
    match form:
        case Form.BODY:
            return verify_body(question.data, trust=trust, now=now, token=token, content_digest=digest, expected=demands)
        case Form.STREAM:
            return verify_stream(question.data, trust=trust, now=now, token=token, expected=demands)
        case Form.LINES:
            return verify_lines(question.data, trust=trust, now=now, token=token, pending=pending, expected=demands)
        case Form.TEXT:
            if token is None:
                raise AbsentError("a text alone carries no token", where="text", cure="Give the token that was kept with it (--token).")
            leaves = None if question.leaves is None else parse_leaves_file(question.leaves, where="--leaves")
            text = _text(question.data)
            return verify_text(text, token=token, trust=trust, now=now, leaves=leaves, choice=question.choice, expected=demands)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 at byte {error.start}", where="text", cure="Save the text as UTF-8.") from None


def _claimed(question: Question, form: Form, token: str | None) -> UnverifiedToken | None:
    try:
        found = unverified_token(question.data, form) or token
        return None if found is None else parse_token(found)
    except MalformedError:
        return None
