"""Every error the library raises, in one tree.

    TosGuardError
    ├── ConfigurationError          start-up: a file, key or setting is unusable
    │   ├── TermsError              terms document or text; names file and line
    │   ├── KeyFileError            key file: missing, readable by others, damaged
    │   └── AccountError            account administration: unknown, duplicate, invalid
    ├── RequestError                one request cannot be served; carries an HTTP status
    │   ├── AuthenticationError     no credential, or none that we accept
    │   │   └── BearerError         a bearer token of another authorization server; names the fault for logs, never for the caller
    │   ├── MalformedRequestError   the body or a header cannot be read
    │   ├── NotFoundError           there is nothing of this name for whoever asks
    │   ├── ConflictError           it does not fit what is there already
    │   └── DeniedError             the terms in force do not allow it; names the clauses
    │       └── LimitExceededError  a limit of the account has not enough left; says which, and when
    ├── PolicyStop                  raised by the host inside a response: stop, by this clause
    ├── StoreError                  an engine did not keep or return what it should
    │   └── LimitsForgottenError    the engine of the limits has lost its memory, and this limit's window is not over yet
    ├── SignerError                 a signer did not sign
    └── VerificationError           a check of bytes did not end in `valid`
        ├── MalformedError          the bytes are not what the format says      (invalid)
        ├── SignatureError          the signature does not match                (invalid)
        ├── ContentMismatchError    the content is not the content that was sealed (invalid)
        ├── IncompleteError         cut before the final token, or only pending (incomplete)
        ├── UndecidableError        trust or knowledge is missing               (undecidable)
        │   ├── UnknownKeyError     no trusted key has this id
        │   ├── UntrustedIssuerError the issuer is not one the caller trusts
        │   ├── UnsupportedVersionError  a version we do not read
        │   ├── KeyRevokedError     revoked key, and no outside proof of time
        │   └── DiscoveryError      the issuer's documents could not be fetched
        ├── UnacceptableError       genuine, but not what the caller demanded   (unacceptable)
        │   ├── ExpiredError · AudienceError · NonceError · PolicyMismatchError
        └── AbsentError             there is no tag; this proves nothing        (absent)

Every error has a stable ``code`` for programs, and a message for people that says what happened, to which input, and what
to do. Adapters map codes to HTTP or gRPC in one table; the command line maps ``verdict`` to an exit code. Nothing in the
library prints or exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

__all__ = [
    "EXIT_CODES",
    "AbsentError",
    "AccountError",
    "AudienceError",
    "AuthenticationError",
    "BearerError",
    "BearerFault",
    "ConfigurationError",
    "ConflictError",
    "ContentMismatchError",
    "DeniedError",
    "DiscoveryError",
    "ExpiredError",
    "IncompleteError",
    "KeyFileError",
    "KeyRevokedError",
    "LimitExceededError",
    "LimitsForgottenError",
    "MalformedError",
    "MalformedRequestError",
    "NonceError",
    "NotFoundError",
    "PolicyMismatchError",
    "PolicyStop",
    "ProofError",
    "ProofFault",
    "RequestError",
    "SignatureError",
    "SignerError",
    "StoreError",
    "TermsError",
    "TosGuardError",
    "UnacceptableError",
    "UndecidableError",
    "UnknownKeyError",
    "UnsupportedVersionError",
    "UntrustedIssuerError",
    "Verdict",
    "VerificationError",
]

Verdict = Literal["valid", "invalid", "incomplete", "undecidable", "unacceptable", "absent"]
"""What a verification concludes (DESIGN D14). Only ``valid`` is a pass."""

EXIT_CODES: Final = MappingProxyType[Verdict, int](
    {"valid": 0, "invalid": 1, "incomplete": 1, "undecidable": 3, "unacceptable": 4, "absent": 5},
)
"""Exit code of a program that verifies, by verdict (DESIGN §7). 2 is left to usage errors: a wrong option is no verdict."""


BearerFault = Literal[
    "malformed", "type", "issuer", "unknown_key", "signature", "claims", "audience", "bound", "lifetime", "early", "expired", "scope"
]
"""Why a bearer token is not accepted: the closed set of words that logs and counts use."""

ProofFault = Literal[
    "missing", "malformed", "signature", "request", "time", "nonce", "credential", "key", "replayed", "forgotten", "scheme", "certificate"
]
"""Why a proof of possession is not accepted: the closed set of words that logs and counts use."""


class TosGuardError(Exception):
    """Root of the tree.

    Args:
        what: What happened, as a sentence without a full stop.
        where: Which input: a file, a header, a claim, a line. Never its secret value.
        cure: What the reader can do about it, as a sentence.
    """

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what = what
        self.where = where
        self.cure = cure
        super().__init__(what, where, cure)

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}. {self.cure}" if self.cure else located


class ConfigurationError(TosGuardError):
    """A file, key or setting is unusable; found at start-up or by a command."""

    code = "configuration"


class TermsError(ConfigurationError):
    """A terms document or its text cannot be used; ``where`` is ``file:line`` when the line is known."""

    code = "terms"


class KeyFileError(ConfigurationError):
    """A key file is missing, readable by others, damaged, or holds a key for another purpose."""

    code = "key_file"


class AccountError(ConfigurationError):
    """An account administration step names an unknown, duplicate or invalid account or key."""

    code = "account"


class RequestError(TosGuardError):
    """One request cannot be served.

    Attributes:
        status: HTTP status of the answer.
        code: Stable machine code, prefixed ``tos_``.
    """

    code = "tos_request"
    status: ClassVar[int] = 400


class AuthenticationError(RequestError):
    """No credential was given, or none that we accept. One text for unknown and wrong, so neither can be told apart."""

    code = "tos_unauthenticated"
    status = 401

    def __init__(
        self,
        what: str = "The credential is missing or not accepted",
        *,
        where: str = "",
        cure: str = "Send a valid credential as 'Authorization: Bearer …'.",
    ) -> None:
        super().__init__(what, where=where, cure=cure)


class BearerError(AuthenticationError):
    """A bearer token is not accepted. The caller reads what every wrong credential gets.

    Attributes:
        fault: Why, for logs and counts.
    """

    def __init__(self, fault: BearerFault) -> None:
        super().__init__()
        self.fault: BearerFault = fault


class ProofError(AuthenticationError):
    """A credential is bound to a key or certificate, and who sends it does not prove that it is theirs.

    Attributes:
        fault: Why, for logs and counts.
        wants_nonce: Whether a new proof that carries a nonce of ours can succeed (RFC 9449 section 9).
        nonce: A nonce for the next proof; empty where none was made.
    """

    def __init__(self, fault: ProofFault, *, wants_nonce: bool = False) -> None:
        super().__init__()
        self.fault: ProofFault = fault
        self.wants_nonce = wants_nonce
        self.nonce = ""


class MalformedRequestError(RequestError):
    """The request's body or a header cannot be read."""

    code = "tos_malformed_request"
    status = 400


class NotFoundError(RequestError):
    """There is nothing of this name, or nothing that whoever asks may know of."""

    code = "tos_not_found"
    status = 404


class ConflictError(RequestError):
    """What is asked for does not fit what is there already."""

    code = "tos_conflict"
    status = 409


class DeniedError(RequestError):
    """The rights of the account do not allow the request.

    Attributes:
        reason: Stable code of the refusal, for example ``tos_model_not_allowed``.
        clauses: Ids of the clauses that decided, in the order of the terms.
        details: What a program needs to act on it, as JSON members: who may accept, which limit, ….
    """

    code = "tos_denied"
    status = 403

    def __init__(
        self,
        what: str,
        *,
        reason: str,
        clauses: tuple[str, ...] = (),
        details: Mapping[str, Any] = MappingProxyType({}),
        where: str = "",
        cure: str = "",
    ) -> None:
        super().__init__(what, where=where, cure=cure)
        self.reason = reason
        self.clauses = clauses
        self.details = details


class LimitExceededError(DeniedError):
    """A limit of the account has not enough left for the request.

    Attributes:
        retry_after: Seconds until it has, if nobody else takes it; None for never, since the request alone wants more than the limit.
    """

    code = "tos_limit"
    status = 429

    def __init__(self, what: str, *, retry_after: float | None, details: Mapping[str, Any], cure: str) -> None:
        super().__init__(what, reason="tos_limit", details=details, cure=cure)
        self.retry_after = retry_after


class PolicyStop(TosGuardError):
    """Raised by the host while it produces a response: stop here, because of this clause.

    The guard ends the response with the dialect's in-band error and a final token whose completion is ``policy``.
    """

    code = "tos_policy_stop"

    def __init__(self, what: str, *, clause: str, reason: str = "tos_policy_stop") -> None:
        super().__init__(what, where=f"clause {clause}")
        self.clause: str = clause
        self.reason: str = reason


class StoreError(TosGuardError):
    """An engine did not keep or return what it should."""

    code = "store"


class LimitsForgottenError(StoreError):
    """The engine of the limits has lost its memory: how much was used of a limit is not known, and its window is not yet over.

    The engine works. Other limits are counted as ever, and so is what is settled.

    Attributes:
        seconds: For how much longer it is not known.
    """

    code = "limits_forgotten"

    def __init__(self, what: str, *, where: str = "", cure: str = "", seconds: float) -> None:
        super().__init__(what, where=where, cure=cure)
        self.seconds: float = seconds


class SignerError(TosGuardError):
    """A signer did not sign."""

    code = "signer"


class VerificationError(TosGuardError):
    """A check of bytes did not end in ``valid``.

    Attributes:
        verdict: The verdict this error stands for; never ``valid``.
    """

    code = "verification"
    verdict: ClassVar[Verdict] = "invalid"


class MalformedError(VerificationError):
    """The bytes are not what the format says."""

    code = "malformed"


class SignatureError(VerificationError):
    """The signature does not match, or is made with an algorithm the key is not for."""

    code = "signature"


class ContentMismatchError(VerificationError):
    """The token is genuine, but this content is not the content it was made for."""

    code = "content_mismatch"


class IncompleteError(VerificationError):
    """The response was cut before its final token, or only a pending token or a checkpoint is present.

    Attributes:
        proven: How far the newest checkpoint of a cut stream proves it, a `tos_guard.verify.Prefix`; None where nothing does.
    """

    code = "incomplete"
    verdict: ClassVar[Verdict] = "incomplete"

    def __init__(self, what: str, *, where: str = "", cure: str = "", proven: Any = None) -> None:
        super().__init__(what, where=where, cure=cure)
        self.proven: Any = proven


class UndecidableError(VerificationError):
    """Trust or knowledge is missing, so neither ``valid`` nor ``invalid`` can be said."""

    code = "undecidable"
    verdict: ClassVar[Verdict] = "undecidable"


class UnknownKeyError(UndecidableError):
    """No trusted key of the issuer has this key id."""

    code = "unknown_key"


class UntrustedIssuerError(UndecidableError):
    """The token names an issuer the caller does not trust."""

    code = "untrusted_issuer"


class UnsupportedVersionError(UndecidableError):
    """A token or document version, or a projection, that we do not read."""

    code = "unsupported_version"


class KeyRevokedError(UndecidableError):
    """The key was revoked, and nothing outside the token proves that the signature is older (DESIGN D16)."""

    code = "key_revoked"


class DiscoveryError(UndecidableError):
    """The issuer's documents could not be fetched or were refused."""

    code = "discovery"


class UnacceptableError(VerificationError):
    """Genuine and unaltered, but not what the caller demanded."""

    code = "unacceptable"
    verdict: ClassVar[Verdict] = "unacceptable"


class ExpiredError(UnacceptableError):
    """The token is outside its validity at ``now``, or its key was outside its own when it signed."""

    code = "expired"


class AudienceError(UnacceptableError):
    """The token is addressed to someone else, or to no one where an audience was demanded."""

    code = "audience"


class NonceError(UnacceptableError):
    """The token does not carry the nonce, or was not made for the request, that the caller expected."""

    code = "nonce"


class PolicyMismatchError(UnacceptableError):
    """The usage policy in the token is not the one the caller demanded."""

    code = "policy_mismatch"


class AbsentError(VerificationError):
    """There is no tag. Absence proves nothing: it neither shows nor rules out that the content was generated."""

    code = "absent"
    verdict: ClassVar[Verdict] = "absent"
