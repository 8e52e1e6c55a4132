"""The record of an exchange: its bytes, and records of earlier releases (docs/spec/records.md)."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from sample_records import sample_record
from tos_guard._canonical import canonical_json
from tos_guard.ledger import ExchangeRecord, RecordType

ISSUER = "https://api.example"

RELEASE_0_1 = (
    b'{"action":"generate","carrier":"sse","completion":"complete","decision":"allow","finished":1795000000250,"grant":null,'
    b'"issuer":"https://api.example","jti":"j","kid":"k","model":"small","n":1,"proj":"ai-provenance-text-1","purpose":"undeclared",'
    b'"reasons":["tos_clause:use"],"req":"q","rid":"r1","root":"r","started":1795000000000,"status":200,"sub":"s",'
    b'"terms_sha256":"t","terms_version":"2026-11","type":"exchange","unsealed":null,"usage_sha256":"u"}'
)
"""A record as release 0.1 stored it."""

FULL = sample_record(
    "r1",
    issuer=ISSUER,
    region="FR",
    verification="email",
    channel="batch",
    end_user="eu_" + "A" * 22,
    account_version=7,
    terms_also=("acme-7", "preview-2"),
    receipt="acc_" + "A" * 22,
    mode="monitor",
)


def test_a_record_of_the_first_release_reads_and_keeps_its_bytes() -> None:
    """What was added later has its default, and says nothing in the bytes."""
    record = ExchangeRecord.from_document(json.loads(RELEASE_0_1), account_id="acme")
    assert (record.type, record.rid, record.reasons, record.n, record.account_id) == (
        RecordType.EXCHANGE,
        "r1",
        ("tos_clause:use",),
        1,
        "acme",
    )
    assert (record.region, record.channel, record.account_version, record.terms_also, record.mode) == (None, "api", None, (), "enforce")
    assert record.to_bytes() == RELEASE_0_1


@pytest.mark.parametrize("record", [FULL, sample_record("r1", issuer=ISSUER)])
def test_a_record_reads_back_from_its_bytes_and_its_document(record: ExchangeRecord) -> None:
    """Nothing is lost by leaving out what has its default; the document has every member of docs/spec/records.md."""
    assert ExchangeRecord.from_document(json.loads(record.to_bytes())) == record
    assert ExchangeRecord.from_document(record.to_document()) == record
    assert record.to_document().keys() == {field.name for field in fields(ExchangeRecord)} - {"account_id"}


def test_each_member_that_is_set_is_in_the_bytes() -> None:
    """And the bytes are the canonical JSON of those members."""
    for field in fields(ExchangeRecord):
        alone = replace(sample_record("r1", issuer=ISSUER), **{field.name: getattr(FULL, field.name)})
        if field.name != "account_id" and getattr(FULL, field.name) is not None:
            assert json.loads(alone.to_bytes())[field.name] == FULL.to_document()[field.name]
    assert FULL.to_bytes() == canonical_json(FULL.to_document())


def test_the_account_is_not_in_the_record() -> None:
    """The link is kept apart, so that it can be erased."""
    assert replace(FULL, account_id="customer-7").to_bytes() == FULL.to_bytes()
