"""Whether a bound credential comes from its holder: a proof with the request (DPoP, RFC 9449), or the connection's certificate (RFC 8705).

- What a credential is bound to, it or its issuer says; a request can only prove it. A bound credential without proof is refused like a
  wrong one, and so is a proof for a credential that is not bound: neither falls back to the other.
- The certificate is that of the connection, or, behind a proxy, what ``Client-Cert`` says (RFC 9440): from proxies in the settings alone.
  The field from anybody else is refused, not passed over, since whoever sends it means to be believed.
- A proof is used when it is believed in every other respect, so that nobody can use up another's by sending it damaged.
"""

from __future__ import annotations

import binascii
import hmac
import ipaddress
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import http_sf

from tos_guard.config import GuardSettings
from tos_guard.errors import MalformedRequestError, ProofError, StoreError
from tos_guard.guard._needs import RequestView, Steps, UseProof
from tos_guard.guard._refusals import unavailable
from tos_guard.protocols import Clock
from tos_guard.rights import Binding, DPoPNonces, DPoPPolicy, certificate_thumbprint, read_dpop_proof

__all__ = ["Prover", "der_of"]

MAX_CERTIFICATE_CHARS: Final = 16_384
CERTIFICATE_FIELD: Final = "client-cert"
_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"


class Prover:
    """Proves bound credentials.

    Args:
        settings: The settings.
        secret: Secret of the fleet, from which nonces are made.
        clock: The present.
        report: Told of each use of a replay cache that failed.
    """

    def __init__(self, settings: GuardSettings, *, secret: bytes, clock: Clock, report: Callable[[str, Exception], None]) -> None:
        self._clock = clock
        self._report = report
        dpop, mutual_tls = settings.dpop, settings.mutual_tls
        self._policy: DPoPPolicy | None = None
        if dpop is not None:
            self._policy = DPoPPolicy(
                uris=dpop.urls or (settings.issuer,),
                window=timedelta(seconds=dpop.window_seconds),
                leeway=timedelta(seconds=dpop.leeway_seconds),
                require_nonce=dpop.require_nonce,
                nonce_lifetime=timedelta(seconds=dpop.nonce_seconds),
            )
            self._nonces = DPoPNonces(secret, lifetime=self._policy.nonce_lifetime)
        self._takes_certificates = mutual_tls is not None
        self._proxies = () if mutual_tls is None else tuple(map(ipaddress.ip_network, mutual_tls.proxies))

    def prove(self, view: RequestView, credential: str, *, is_dpop: bool, binding: Binding) -> Steps[None]:
        """See that whoever sends a credential proves what it is bound to.

        Args:
            view: Head of the request.
            credential: The credential, as it came.
            is_dpop: Whether it came under the scheme ``DPoP``.
            binding: What it is bound to.

        Raises:
            ProofError: It is not proven.
            RequestError: 503, where it is not known whether the proof was used, and the settings deny.
        """
        if binding.x5t is not None:
            self._prove_certificate(view, binding.x5t)
        if binding.jkt is None:
            if is_dpop:
                raise ProofError("scheme")  # RFC 9449 section 7.1: whoever proves a key for it believes that it is bound
            return
        try:
            yield from self._prove_key(view, credential, is_dpop, binding.jkt)
        except ProofError as error:
            if self._policy is not None:
                error.nonce = self._nonces.new(self._clock())
            raise

    def _prove_key(self, view: RequestView, credential: str, is_dpop: bool, jkt: str) -> Steps[None]:
        policy = self._policy
        if policy is None:
            raise ProofError("key")
        try:
            field = view.header("dpop")
        except MalformedRequestError:
            raise ProofError("malformed") from None  # two proofs are none
        if field is None or not is_dpop:
            raise ProofError("missing", wants_nonce=policy.require_nonce)
        proof = read_dpop_proof(
            field, method=view.method, path=view.path, credential=credential, policy=policy, nonces=self._nonces, now=self._clock()
        )
        if not proof.is_of(jkt):
            raise ProofError("key")
        try:
            use = yield UseProof(proof.use, proof.made_after, policy.keep)
        except StoreError as failure:
            self._report("replay", failure)
            raise unavailable() from failure
        if use == "used":
            raise ProofError("replayed")
        if use == "forgotten":
            raise ProofError("forgotten", wants_nonce=True)

    def _prove_certificate(self, view: RequestView, x5t: str) -> None:
        if not self._takes_certificates:
            raise ProofError("certificate")
        certificate = self._certificate(view)
        if certificate is None or not hmac.compare_digest(certificate_thumbprint(certificate), x5t):
            raise ProofError("certificate")

    def check_fields(self, view: RequestView) -> None:
        """See that nobody but a proxy of the settings speaks of certificates.

        Raises:
            ProofError: Somebody else does.
        """
        if (
            self._takes_certificates
            and any(name == b"client-cert" for name, _ in view.headers)
            and not self._is_proxy(view.connection.peer)
        ):
            raise ProofError("certificate")

    def _certificate(self, view: RequestView) -> bytes | None:
        if not self._is_proxy(view.connection.peer):
            return view.connection.certificate()
        try:
            field = view.header(CERTIFICATE_FIELD)
        except MalformedRequestError:
            return None
        if field is None or len(field) > MAX_CERTIFICATE_CHARS:
            return None
        try:
            item: Any = http_sf.parse(field.encode("ascii"), tltype="item")
        except (ValueError, http_sf.StructuredFieldError):
            return None
        value, parameters = item
        return value if isinstance(value, bytes) and not parameters else None

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._proxies)


def der_of(pem: str) -> bytes | None:
    """The first certificate of a PEM text, or None where there is none that can be read."""
    begin, end = pem.find(_PEM_BEGIN), pem.find(_PEM_END)
    if begin < 0 or end < begin:
        return None
    try:
        return binascii.a2b_base64("".join(pem[begin + len(_PEM_BEGIN) : end].split()), strict_mode=True)
    except (ValueError, binascii.Error):
        return None
