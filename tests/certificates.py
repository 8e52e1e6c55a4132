"""Certificates for tests: an authority, and what it issues for loopback."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Issued = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
"""A certificate and its key."""


def authority() -> Issued:
    """A new authority."""
    return issued("authority", None)


def issued(name: str, by: Issued | None, *, host: str | None = None) -> Issued:
    """A certificate by an authority, or its own; for 127.0.0.1, or for a host of that name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")) if host is None else x509.DNSName(host)]), critical=False
        )
    )
    return builder.sign(key if by is None else by[1], SHA256()), key


def pem(pair: Issued) -> tuple[bytes, bytes]:
    """Key and certificate as PEM."""
    certificate, key = pair
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate.public_bytes(Encoding.PEM)


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Files of a certificate that vouches for itself, and of its key."""
    key, certificate = pem(issued(host, None, host=host))
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate)
    paths[1].write_bytes(key)
    return paths
