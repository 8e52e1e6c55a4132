"""Keys that are bound to a client certificate, at gunicorn, which ends TLS itself: over a real connection with mutual TLS."""

from __future__ import annotations

import secrets
import ssl
from pathlib import Path

import httpx2
from cryptography.hazmat.primitives.serialization import Encoding

from certificates import Issued, authority, issued, pem
from other_servers import gunicorn
from provisioned import Provider
from tos_guard.rights import Binding, KeyTerms, certificate_thumbprint, hash_secret, new_api_key

QUESTION = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}


def written(folder: Path, name: str, pair: Issued) -> tuple[Path, Path]:
    """Files with its key and certificate."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    for path, data in zip((key, certificate), pem(pair), strict=True):
        path.write_bytes(data)
    return key, certificate


def test_a_key_bound_to_a_certificate_is_served_on_its_connection_alone(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    provider.settings.write_text(f"{provider.settings.read_text()}\n[mutual_tls]\n")
    root = authority()
    server, client, other = (issued(name, root) for name in ("server", "client", "other"))
    _, trusted = written(tmp_path, "root", root)
    key = new_api_key(secrets.token_bytes)
    binding = Binding(x5t=certificate_thumbprint(client[0].public_bytes(Encoding.DER)))
    with provider.store() as store:
        store.add_api_key("good", key.public_id, hash_secret(key.secret, store.pepper()), terms=KeyTerms(binding=binding))
    server_key, server_certificate = written(tmp_path, "server", server)
    options = ["--keyfile", str(server_key), "--certfile", str(server_certificate), "--ca-certs", str(trusted), "--cert-reqs", "2"]
    with gunicorn(
        "provider_flask.guarded:guarded()", workers=1, options=[*options, "--threads", "2"], env=provider.environment()
    ) as served:
        for name, shown, bound, unbound in (("client", client, 200, 200), ("other", other, 401, 200)):
            private, certificate = written(tmp_path, name, shown)
            context = ssl.create_default_context(cafile=str(trusted))
            context.load_cert_chain(certificate, private)
            with httpx2.Client(base_url=served.base_url, verify=context) as http:
                for credential, status in ((key.text, bound), (provider.keys["good"], unbound)):
                    headers = {"authorization": f"Bearer {credential}"}
                    assert http.post("/v1/chat/completions", json=QUESTION, headers=headers).status_code == status, (name, credential[:15])
