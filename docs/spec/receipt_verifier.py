"""An independent verifier of receipts of accepted terms, version 1, written from receipts.md; it shares no code with the package.

What receipts have in common with tokens (the form of a JWS, keys, signatures) it takes from verifier.py beside it.
"""

import argparse
import time

from verifier import EXIT, Refused, check_signature, has, is_digest, is_id, is_int, is_text, open_jws, read_json, rule, sha, trusted_keys

ORIGIN = r"https://[^/?#@\s]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def is_claims(claims):
    def text(most):
        return lambda value: is_text(value, rf"(?s).{{1,{most}}}")

    return has(
        claims, iss=lambda v: is_text(v, ORIGIN), iat=is_int, jti=is_id, event=lambda v: v in ("acceptance", "withdrawal"), at=is_int,
        terms=lambda v: has(v, series=is_text, version=is_text, uri=is_text, locale=is_text, sha256=is_digest, text_sha256=is_digest),
        subject=lambda v: has(v, kind=lambda kind: kind in ("account", "organization"), id=text(128)),
        person=lambda v: has(v, id=text(128), authority_=text(200)), method=text(32), identified_by=text(32),
        exp_=is_int, acceptance_=is_id, reason_=text(500),
    )  # fmt: skip


def check_claims(claims, now):  # R3 to R6
    version, withdrawn = claims.get("ver"), claims.get("event") == "withdrawal"
    subject, person = (claims[name] if has(claims.get(name)) else {} for name in ("subject", "person"))
    rule("R3", is_int(version, 1, 1), "undecidable" if is_int(version) else "invalid", "another version")
    rule("R4", is_claims(claims), detail="a claim is missing or has another form")
    rule("R5", ("acceptance" in claims) == withdrawn, detail="acceptance is of a withdrawal")
    rule("R5", not ("reason" in claims and not withdrawn) and not ("exp" in claims and withdrawn), detail="reason or exp")
    rule("R5", subject.get("kind") != "organization" or "authority" in person, detail="no authority")
    iat = claims["iat"] if is_int(claims.get("iat")) else now
    at = claims["at"] if is_int(claims.get("at")) else iat
    rule("R6", iat <= now + 60, detail="signed in the future")
    rule("R6", at <= iat and at <= (claims["exp"] if is_int(claims.get("exp")) else at), detail="at is after iat or exp")
    return iat


def check_terms(terms, document, words):  # R7, R8
    if document is not None:
        rule("R7", terms.get("sha256") == sha(document), detail="another terms document")
        value, faults = read_json(document, 8, True)
        header = value["terms"] if has(value) and has(value.get("terms")) else {}
        rule("R7", header and not faults and len(document) <= 2**22, detail=", ".join(faults) or "no terms document")
        said = {"series": "general", "locale": "en", **header, "text_sha256": value.get("text_sha256") if has(value) else None}
        for name in ("series", "version", "uri", "locale", "text_sha256"):
            rule("R7", terms.get(name) == said.get(name), detail=f"the document has another {name}")
    rule("R8", words is None or terms.get("text_sha256") == sha(words), detail="another text")


def check_receipt(receipt, trust, now, document, words, expect):
    header, claims, signed, signature = open_jws(receipt, 8192)
    rule("R1", header.get("typ") == "ai-terms-receipt+jwt", detail="typ")
    iss, kid = claims.get("iss"), header.get("kid")
    known = trusted_keys(trust[iss], iss) if is_text(iss) and iss in trust else []
    mine = [key for key in known if key.get("kid") == kid and key.get("purpose") == "receipt"]
    rule("R2", mine, "undecidable", "no trusted receipt key of this issuer with this kid")
    every = mine or [key for name, entry in trust.items() for key in trusted_keys(entry, name)]
    key = min(every, key=lambda key: key.get("kid") != kid, default={})
    check_signature(key, header.get("alg"), signed, signature)
    iat = check_claims(claims, now)
    rule("K8", key.get("nbf", iat) <= iat <= key.get("exp", iat), "unacceptable", "signed outside the key's time")
    rule("K9", "revoked" not in key or (key.get("reason") == "superseded" and iat < key["revoked"]), "undecidable", "a revoked key")
    terms, subject, person = (claims[name] if has(claims.get(name)) else {} for name in ("terms", "subject", "person"))
    check_terms(terms, document, words)
    rule("R9", now <= (claims["exp"] if is_int(claims.get("exp")) else now), "unacceptable", "the acceptance has expired")
    says = {"event": claims.get("event"), "at": claims.get("at"), "version": terms.get("version"), "person": person.get("id")}
    says |= {"subject_kind": subject.get("kind"), "subject_id": subject.get("id")}
    for name, value in expect.items():
        rule("R10", says[name] == value, "unacceptable", f"another {name}")


def verify_receipt(receipt, *, trust, now, document=None, words=None, expect=None):  # `trust` as in verifier.py; document, words: bytes
    try:
        check_receipt(receipt, trust, now, document, words, expect or {})
        return "valid", ""
    except Refused as refused:
        return refused.args


if __name__ == "__main__":
    parser, read = argparse.ArgumentParser(description="Verify a receipt of accepted terms offline."), argparse.FileType("rb")
    for option, form in {"file": read, "--keys": read, "--terms": read, "--text": read, "--now": int, "--at": int}.items():
        parser.add_argument(option, type=form, **({"required": True} if option == "--keys" else {}))
    for option in ("--issuer", "--event", "--version", "--person", "--subject-kind", "--subject-id"):
        parser.add_argument(option, required=option == "--issuer")
    args = vars(parser.parse_args())
    document, words = (args[name] and args[name].read() for name in ("terms", "text"))
    expected = {name: args[name] for name in ("event", "at", "version", "person", "subject_kind", "subject_id") if args[name] is not None}
    found, why = verify_receipt(
        args["file"].read().decode("latin-1").strip(), trust={args["issuer"]: args["keys"].read()}, now=args["now"] or int(time.time()),
        document=document, words=words, expect=expected,
    )  # fmt: skip
    print(found, why)
    raise SystemExit(EXIT[found])
