"""Where entitlements are asked for and notices go: only where the settings say, and nowhere inside by mistake."""

from __future__ import annotations

import pytest

from outside_systems import serve_outside
from tos_guard.errors import ConfigurationError, DiscoveryError
from tos_guard.remote import EntitlementClient, WebhookClient


@pytest.mark.parametrize(
    "url", ["ftp://a.example/x", "http://crm.example/x", "https://a.example", "https://A.example/x", "https://u:p@a.example/x", ""]
)
def test_an_address_that_is_not_asked_is_refused_at_start(url: str) -> None:
    with pytest.raises(ConfigurationError):
        WebhookClient(url)
    with pytest.raises(ConfigurationError):
        EntitlementClient(url, max_bytes=10)


def test_a_name_that_leads_inside_is_refused_before_anything_is_sent() -> None:
    """Unless the settings name that unsafe; then the certificate still decides."""
    with serve_outside() as system:
        inside = system.origin.replace("http://127.0.0.1", "https://localhost") + "/x"
        for call in (
            lambda: WebhookClient(inside).send(b"{}", {}),
            lambda: EntitlementClient(inside, max_bytes=10).fetch(""),
        ):
            with pytest.raises(DiscoveryError, match="not a public address"):
                call()
        with pytest.raises(DiscoveryError, match="could not be fetched"):
            WebhookClient(inside, unsafe_any_address=True).send(b"{}", {})
        assert (system.asked, system.received) == ([], [])


def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(DiscoveryError, match=r"sent again later"):
        WebhookClient("http://127.0.0.1:9/x").send(b"{}", {})
    with pytest.raises(DiscoveryError, match=r"holds for stale_if_error_seconds"):
        EntitlementClient("http://127.0.0.1:9/x", max_bytes=10).fetch("")
