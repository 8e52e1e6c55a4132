"""Standard Webhooks: the published example verifies, whatever is changed does not, and hostile fields raise our errors."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard.errors import ConfigurationError, ExpiredError, MalformedError, SignatureError, VerificationError
from tos_guard.keys import parse_webhook_head, parse_webhook_secret, sign_webhook, verify_webhook

# The example that the specification's own libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = "1614265330"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

KEY = parse_webhook_secret(SECRET, where="test")
OTHER_KEY = bytes(range(32))
NOW = datetime.fromtimestamp(int(TIME), UTC)


def test_the_published_example_is_signed_as_published() -> None:
    fields = sign_webhook(BODY, message_id=ID, at=NOW, secrets=[KEY])
    assert fields == {"webhook-id": ID, "webhook-timestamp": TIME, "webhook-signature": SIGNATURE}


def test_the_published_example_verifies() -> None:
    verify_webhook(parse_webhook_head(ID, TIME, SIGNATURE, now=NOW), BODY, secrets=[KEY])


@pytest.mark.parametrize(
    ("message_id", "time", "body"),
    [
        pytest.param(ID[:-1], TIME, BODY, id="id"),
        pytest.param(ID, "1614265331", BODY, id="time"),
        pytest.param(ID, TIME, BODY + b" ", id="body"),
        pytest.param(ID, TIME, b"", id="no body"),
    ],
)
def test_whatever_is_changed_does_not_verify(message_id: str, time: str, body: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_webhook(parse_webhook_head(message_id, time, SIGNATURE, now=NOW), body, secrets=[KEY])


def test_a_secret_is_changed_without_a_gap() -> None:
    """Either side may go first: both signatures on one message, or both secrets at its receiver."""
    both = sign_webhook(BODY, message_id=ID, at=NOW, secrets=[OTHER_KEY, KEY])["webhook-signature"]
    verify_webhook(parse_webhook_head(ID, TIME, both, now=NOW), BODY, secrets=[KEY])
    verify_webhook(parse_webhook_head(ID, TIME, both, now=NOW), BODY, secrets=[OTHER_KEY])
    verify_webhook(parse_webhook_head(ID, TIME, SIGNATURE, now=NOW), BODY, secrets=[OTHER_KEY, KEY])
    with pytest.raises(SignatureError):
        verify_webhook(parse_webhook_head(ID, TIME, SIGNATURE, now=NOW), BODY, secrets=[OTHER_KEY])
    with pytest.raises(SignatureError):
        verify_webhook(parse_webhook_head(ID, TIME, SIGNATURE, now=NOW), BODY, secrets=[])


def test_signatures_of_other_kinds_are_passed_over() -> None:
    head = parse_webhook_head(
        ID, TIME, f"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo {SIGNATURE}", now=NOW
    )
    verify_webhook(head, BODY, secrets=[KEY])
    with pytest.raises(MalformedError, match="no signature v1"):
        parse_webhook_head(ID, TIME, "v1a," + SIGNATURE[3:], now=NOW)


@pytest.mark.parametrize("away", [-1, 1])
def test_a_message_is_good_for_five_minutes(away: int) -> None:
    parse_webhook_head(ID, TIME, SIGNATURE, now=NOW + away * timedelta(minutes=5))
    with pytest.raises(ExpiredError):
        parse_webhook_head(ID, TIME, SIGNATURE, now=NOW + away * timedelta(minutes=5, seconds=1))


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "ä", "a\n", "x" * 257])
def test_no_id_can_move_the_border_to_the_time(message_id: str) -> None:
    with pytest.raises(MalformedError):
        parse_webhook_head(message_id, TIME, SIGNATURE, now=NOW)
    with pytest.raises(MalformedError):
        sign_webhook(BODY, message_id=message_id, at=NOW, secrets=[KEY])


@pytest.mark.parametrize("time", ["", "0", "-1", "+1614265330", "1614265330.0", " 1614265330", "1614265330\n", "9" * 13, "१६१४२६५३३०"])
def test_other_spellings_of_the_time_are_refused(time: str) -> None:
    with pytest.raises(MalformedError):
        parse_webhook_head(ID, time, SIGNATURE, now=NOW)


@pytest.mark.parametrize(
    "signature",
    [
        *("", " ", "v1", "v1,", ",", SIGNATURE[:-1], SIGNATURE[:-2] + "F=", SIGNATURE + "\n", SIGNATURE.replace("+", "-")),
        *(" ".join([SIGNATURE] * 9), f"{SIGNATURE}  {SIGNATURE}", f"v1,{'A' * 4096}", "v1,ä", "v1,AAAA"),
    ],
)
def test_other_forms_of_signatures_are_refused(signature: str) -> None:
    with pytest.raises(MalformedError):
        parse_webhook_head(ID, TIME, signature, now=NOW)


@given(st.text(), st.text(), st.text())
def test_hostile_fields_raise_our_errors(message_id: str, time: str, signature: str) -> None:
    with suppress(VerificationError):
        parse_webhook_head(message_id, time, signature, now=NOW)


@pytest.mark.parametrize(
    "secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_ä"]
)
def test_an_unusable_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_webhook_secret(secret, where="env:HOOK")
    assert len(secret) < 7 or secret not in str(caught.value)
