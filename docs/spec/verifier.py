"""An independent verifier of AI provenance tokens, version 1, written from the pages beside it; it shares no code with the package.

It decodes leniently and then checks strictly. Each check is a call `rule("T5", condition, verdict)` with the number of the rule it enforces, so
that a mutation run can leave out exactly one (`DISABLED`) and see which vectors notice. Standard library and `cryptography`, no network.
"""
# fmt: off
from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import sys
import time
from decimal import Decimal
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

DISABLED: set[str] = set()  # rules that a mutation run leaves out
EXIT = {"valid": 0, "invalid": 1, "incomplete": 1, "undecidable": 3, "unacceptable": 4, "absent": 5}
SAFE, P_ED, P_256 = 2**53 - 1, 2**255 - 19, 2**256 - 2**224 + 2**192 + 2**96 - 1
B_256 = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
Y_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # with P_ED - Y_8: y of the Ed25519 points of order 8
KEY = r"[a-z*][a-z0-9_.*-]*"  # of a structured field
DIGEST_FIELD = rf'{KEY}=:[A-Za-z0-9+/]*={{0,2}}:( *; *{KEY}(=([^,;" ]+|"[^"]*"))?)*'
TEXTS = {"text": "content", "refusal": "refusal", "reasoning": "reasoning", "reasoning_content": "reasoning_content"}
PROJECTIONS = ("chat-1", "json-1", "bytes-1")

class Refused(Exception):
    """(verdict, which rule was broken and how)."""

def rule(name, condition, verdict="invalid", detail=""):
    if not condition and name not in DISABLED:
        raise Refused(verdict, f"{name}: {detail}")
def is_int(value, low=-SAFE, high=SAFE):
    return type(value) is int and low <= value <= high
def is_text(value, pattern=r"(?s).*"):
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
def is_id(value):
    return is_text(value, r"[A-Za-z0-9._-]{1,64}")
def is_digest(value):
    return is_text(value, r"[A-Za-z0-9_-]{43}") and b64(unb64(value)) == value
def has(value, **forms):  # an object whose members have these forms; a name that ends in `_` is optional
    return isinstance(value, dict) and all(
        form(value[name.rstrip("_")]) if name.rstrip("_") in value else name.endswith("_") for name, form in forms.items())
def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
def unb64(text):  # lenient: whoever cares compares the re-encoding
    letters = re.sub(r"[^A-Za-z0-9_-]", "", str(text).replace("+", "-").replace("/", "_"))
    return base64.urlsafe_b64decode((letters[:-1] if len(letters) % 4 == 1 else letters) + "==")
def sha(data):
    return b64(hashlib.sha256(data).digest())

def read_json(data, depth, plain):
    """The value, and what is wrong with it; `plain` adds what T3 demands of numbers and surrogates."""
    def pairs(items):
        faults.extend(["duplicate names"] * (len(dict(items)) < len(items)))
        return dict(items)
    def walk(value, level):
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else None
        faults.extend(["nested too deep"] * (inner is not None and level > depth))
        if plain and (isinstance(value, float) or type(value) is int and abs(value) > SAFE or is_text(value, "(?s).*[\ud800-\udfff].*")):
            faults.append("not a safe integer, or a lone surrogate")
        for item in inner or ():
            walk(item, level + 1)
    text = data.decode("utf-8", "replace")
    faults = ["not UTF-8, or a byte-order mark"] * (text.encode() != data or text.startswith("\ufeff"))
    text = text.lstrip("\ufeff").strip(" \t\r\n")
    try:
        decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=faults.append, parse_int=lambda s: int(s) if len(s) < 99 else float(s))
        value, end = decoder.raw_decode(text)
        walk(value, 1)
        return value, faults + ["something after the value"] * (end < len(text))
    except (ValueError, RecursionError):
        return None, ["not JSON"]

def canonical(value):
    """RFC 8785 bytes; ValueError where there are none."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, float) and value - value == 0:  # finite: ECMAScript's form from Python's shortest digits
        digits = Decimal(repr(value)).normalize()
        places = digits.adjusted()
        return b"0" if value == 0 else (f"{digits:f}" if -7 < places < 21 else f"{digits.scaleb(-places):f}e{places:+d}").encode()
    if isinstance(value, float) or type(value) is int and abs(value) > SAFE:
        raise ValueError("a number without exact form")
    return json.dumps(value, ensure_ascii=False).encode()

def normal(name, value):
    return value.replace("\r\n", "\n").replace("\r", "\n").strip("\t\n\r ") if name in TEXTS else value

def encode(name, values):
    """P2, P3: the bytes of a part from its values, None for an uncoverable one."""
    try:
        if all(isinstance(value, str) for value in values):
            return normal(name, "".join(values).encode("utf-16-le", "surrogatepass").decode("utf-16-le")).encode()
        if len(values) == 1 and isinstance(values[0], dict) and name.endswith((".arguments", ".input")):
            return canonical(values[0])
    except ValueError:
        pass
    return None

def chat_values(body, kind):
    """P1: (choice, name, value) for what a body (kind `message`) or an event (kind `delta`) adds to its parts."""
    def member(holder, name, of=dict):
        value = holder.get(name)
        rule("P1", value is None or isinstance(value, of), detail=str(name))
        return value if isinstance(value, of) else of()
    found, seen = [], set()
    for position, entry in enumerate(member(body, "choices", list)):
        rule("P1", isinstance(entry, dict), detail="a choice is no object")
        entry = entry if isinstance(entry, dict) else {}
        choice = entry["index"] if is_int(entry.get("index"), 0, 65535) else position
        rule("P1", entry.get("index") is choice and (kind == "delta" or choice not in seen), detail="index of a choice")
        seen.add(choice)
        message = member(entry, kind)
        calls, called = member(message, "tool_calls", list), member(message, "function_call")
        rule("P1", len(calls) <= 256, detail="too many tool calls")
        found += [(choice, name, message.get(source)) for name, source in TEXTS.items()]
        found += [(choice, f"function_call.{name}", called.get(name)) for name in ("name", "arguments")]
        for place in range(len(calls)):
            call = member(dict(enumerate(calls)), place)
            rule("P1", kind == "message" or calls[place] is None or is_int(call.get("index"), 0, 255), detail="index of a tool call")
            at = f"tool_calls.{call['index'] if kind == 'delta' and is_int(call.get('index')) else place}."
            function, custom = member(call, "function"), member(call, "custom")
            found += [(choice, at + "name", custom.get("name") if function.get("name") is None else function["name"]),
                      (choice, at + "arguments", function.get("arguments")), (choice, at + "input", custom.get("input"))]
    return [(choice, name, value) for choice, name, value in found if value is not None and value != ""]

def leaves_of(values):
    parts = {}
    for choice, name, value in values:
        parts.setdefault((choice, name), []).append(value)
    coded = [(*place, encode(place[1], parts[place])) for place in sorted(parts)]
    return [[choice, name, None if data is None else sha(data)] for choice, name, data in coded if data != b""]

def root(leaves):
    def tree(items):  # RFC 6962 section 2.1
        half = 1 << (len(items) - 1).bit_length() - 1 if len(items) > 1 else 0
        data = b"\1" + tree(items[:half]) + tree(items[half:]) if half else b"\0" + items[0] if items else b""
        return hashlib.sha256(data).digest()
    return b64(tree([canonical(leaf) for leaf in leaves]))

def is_leaf(leaf):
    shaped = isinstance(leaf, list) and len(leaf) == 3 and is_int(leaf[0], 0, 65535) and is_text(leaf[1], r"[a-z0-9_.]{1,64}")
    return shaped and (leaf[2] is None or is_digest(leaf[2]))

def check_leaves(leaves, content):
    rule("P4", all(map(is_leaf, leaves)), detail="form of a leaf")
    rule("P5", all(a[:2] < b[:2] for a, b in zip(leaves, leaves[1:], strict=False)), detail="leaves out of order, or two alike")
    rule("P6", root(leaves) == content.get("root"), detail="the leaves have another root")

def check_found(leaves, content):
    rule("P7", content.get("n") == len(leaves) and content.get("root") == root(leaves), detail="the content is not what was sealed")

def is_point(curve, x, y):
    if curve != "Ed25519":
        a, b = int.from_bytes(x, "big"), int.from_bytes(y, "big")
        return max(a, b) < P_256 and (b * b - a * a * a + 3 * a - B_256) % P_256 == 0
    b = int.from_bytes(x, "little") & 2**255 - 1
    square = (b * b - 1) * pow(1 - 121665 * pow(121666, -1, P_ED) * b * b, -1, P_ED)  # of the other coordinate
    return b < P_ED and b not in (0, 1, P_ED - 1, Y_8, P_ED - Y_8) and pow(square, P_ED // 2, P_ED) == 1

def algorithms(key):
    return ("Ed25519", "EdDSA") if key.get("kty") == "OKP" else ("ES256",)

def check_keys(keys):
    for key in keys:
        names, curve = ("x", "y")[:1 + (key.get("kty") == "EC")], (key.get("kty"), key.get("crv"))
        raw, known = [unb64(key.get(name)) for name in names], curve in (("OKP", "Ed25519"), ("EC", "P-256"))
        whole = known and all(len(data) == 32 for data in raw)
        rule("K2", whole and [b64(data) for data in raw] == [key.get(name) for name in names], detail="kty, crv, x or y")
        rule("K3", not whole or is_point(curve[1], raw[0], raw[-1]), detail="not a point to trust")
        rule("K4", not key.keys() & {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}, detail="a private key")
        ops = key.get("key_ops", ["verify"])
        rule("K5", isinstance(ops, list) and all(map(is_text, ops)) and len(set(ops)) == len(ops) and "verify" in ops, detail="key_ops")
        rule("K5", key.get("use", "sig") == "sig" and key.get("alg", algorithms(key)[0]) in algorithms(key), detail="use or alg")
        rule("K6", key.get("kid") == sha(canonical({name: key.get(name) for name in ("crv", "kty", *names)})), detail="kid is no thumbprint")
        rule("K7", key.get("purpose") in ("provenance", "key-history"), detail="purpose")
        rule("K7", has(key, nbf_=is_int, exp_=is_int, revoked_=is_int, reason_=lambda v: v in ("compromised", "superseded")), detail="a time or the reason")
    rule("K6", len({str(key.get("kid")) for key in keys}) == len(keys), detail="two keys alike")

def key_set(data):
    value, faults = read_json(data, 8, True)
    keys = value.get("keys") if isinstance(value, dict) else None
    rule("K1", len(data) <= 65536 and not faults and has(value, issuer_=is_text), detail="size, JSON or issuer")
    rule("K1", isinstance(keys, list) and 1 <= len(keys) <= 64 and all(isinstance(key, dict) for key in keys), detail="keys")
    keys = [key for key in keys or [] if isinstance(key, dict)]
    check_keys(keys)
    return keys

def key_history(history, trusted, earlier, iss):
    header, claims, signed, signature = open_jws(history.decode("latin-1"), 262_144)
    keys = [key for key in claims.get("keys") or [] if isinstance(key, dict)]
    try:
        check_keys(keys)
        rule("H1", all(is_int(key.get("nbf")) for key in keys) and keys == claims.get("keys"), detail="form of keys")
    except Refused as refused:
        rule("H1", False, detail=refused.args[1])
    shaped = has(claims, ver=lambda v: is_int(v, 1, 1), iss=is_text, iat=is_int, seq=lambda v: is_int(v, 0))
    rule("H1", shaped and header.get("typ") == "ai-key-history+jwt", detail="typ or claims")
    own, anchors = ({key.get("kid"): key for key in some} for some in (keys, key_set(trusted)))
    key = anchors.get(header.get("kid")) or own.get(header.get("kid")) or {}
    rule("H2", header.get("kid") in anchors and key.get("purpose") == "key-history" and claims.get("iss") == iss, detail="not by a trusted key")
    check_signature(key, header.get("alg"), signed, signature)
    rule("H2", "revoked" not in own.get(header.get("kid"), {"revoked": 0}), detail="the signing key is not in it, or revoked")
    before = open_jws(earlier.decode("latin-1"), 262_144)[1] if earlier else {"seq": 0, "keys": []}
    for old, new in ((old, own.get(old["kid"], {})) for old in before["keys"]):
        rule("H3", all(new.get(name) == old.get(name) for name in ("kty", "crv", "x", "y")), detail="a key is lost or another")
        rule("H3", new.get("exp", SAFE) <= old.get("exp", SAFE) and ("revoked" in new or "revoked" not in old), detail="a key came back to life")
    rule("H3", before["seq"] <= claims.get("seq", 0), detail="lower seq")
    return keys

def trusted_keys(entry, iss):
    try:
        return key_set(entry) if isinstance(entry, bytes) else key_history(*entry, iss)
    except Refused as refused:
        raise Refused("undecidable", refused.args[1]) from None

def open_jws(token, limit):
    """T1 to T4 but for the typ: header, claims, signed bytes and signature, none of it proven yet."""
    parts = token.split(".")
    rule("T1", token.isascii() and len(token) <= limit and len(parts) == 3 and all(parts), detail="not three ASCII parts, or too long")
    parts = [*parts, "", ""][:3]
    rule("T2", all(b64(unb64(part)) == part for part in parts), detail="not canonical base64url")
    (header, faults), (claims, more) = (read_json(unb64(part), 8, True) for part in parts[:2])
    rule("T3", isinstance(header, dict) and isinstance(claims, dict) and not faults + more, detail=", ".join(faults + more))
    header, claims = (value if isinstance(value, dict) else {} for value in (header, claims))
    rule("T4", header.keys() == {"alg", "kid", "typ"} and all(map(is_text, header.values())), detail="header members")
    return header, claims, f"{parts[0]}.{parts[1]}".encode(), unb64(parts[2])

def check_signature(key, alg, signed, signature):
    rule("T6", alg in algorithms(key), detail="the key is not for this alg")
    x, y, r, s = unb64(key.get("x")), unb64(key.get("y")), signature[:32], signature[32:]
    try:
        rule("T7", len(signature) == 64, detail="not 64 bytes")
        if key.get("kty") == "OKP":
            ed25519.Ed25519PublicKey.from_public_bytes(x).verify(signature, signed)
        else:
            point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()).public_key()
            der = utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
            point.verify(der, signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        rule("T7", False, detail="the signature does not verify")

def is_claims(claims):
    return has(
        claims, iss=lambda v: is_text(v, r"https://[^/?#@\s]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"), iat=is_int, jti=is_id, rid=is_id,
        sub=is_id, stage=lambda v: v in ("pending", "final"), model=lambda v: is_text(v, r"(?s).{1,96}"), dst=is_text, req=is_digest,
        terms=lambda v: has(v, uri=is_text, version=is_text, sha256=is_digest, receipt_=is_text), usage=lambda v: has(
            v, sha256=is_digest, clauses=lambda ids: isinstance(ids, list) and len(ids) <= 8 and all(map(is_text, ids)), content_usage=is_text),
        completion_=lambda v: v in ("complete", "policy", "aborted", "error"), aud_=is_text, nonce_=lambda v: is_text(v, r"(?s).{1,128}"), exp_=is_int,
        grant_=is_text, status_=has, ledger_=lambda v: has(v, origin=is_text, size=is_int, root=is_digest, index_=is_int))

def check_token(token, trust, now, stage="final"):
    """T1 to T12, for a `final` token also K8, K9 and P9; returns the claims and the content claim."""
    header, claims, signed, signature = open_jws(token, 8192)
    rule("T4", header.get("typ") == "ai-provenance+jwt", detail="typ")
    iss, kid = claims.get("iss"), header.get("kid")
    known = trusted_keys(trust[iss], iss) if is_text(iss) and iss in trust else []
    mine = [key for key in known if key.get("kid") == kid and key.get("purpose") == "provenance"]
    rule("T5", mine, "undecidable", "no trusted provenance key of this issuer with this kid")
    every = [key for name, entry in trust.items() for key in trusted_keys(entry, name)] if not mine else []
    key = ([*mine, *(key for key in every if key.get("kid") == kid), *every] or [{}])[0]
    check_signature(key, header.get("alg"), signed, signature)
    ver, iat = claims.get("ver"), claims["iat"] if is_int(claims.get("iat")) else 0
    rule("T8", is_int(ver, 1, 1), "undecidable" if is_int(ver) else "invalid", "another version")
    rule("T9", is_claims(claims), detail="a claim is missing or has another form")
    final = claims.get("stage") != "pending"
    rule("T10", ("content" in claims, "completion" in claims) == (final, final), detail="stage, content and completion do not fit")
    rule("C4", final or stage != "event", detail="a pending token in an event")
    rule("C7", not final or stage != "pending", detail="not a pending token")
    rule("T10", final or stage == "pending", "incomplete", "the tag is pending")
    content = claims["content"] if isinstance(claims.get("content"), dict) else {}
    if "content" in claims:
        rule("T11", has(content, proj=is_text, n=lambda v: is_int(v, 0, 65536), root=is_digest), detail="form of content")
        leaves, few = content.get("leaves"), is_int(content.get("n"), 0, 4)
        rule("T11", ("leaves" in content) == few and (not few or isinstance(leaves, list) and len(leaves) == content["n"]), detail="leaves")
        check_leaves(leaves, content) if isinstance(leaves, list) else None
    rule("T12", iat <= now + 60, detail="signed in the future")
    if stage != "pending":
        rule("K8", key.get("nbf", iat) <= iat <= key.get("exp", iat), "unacceptable", "signed outside the key's time")
        rule("K9", "revoked" not in key or key.get("reason") == "superseded" and iat < key["revoked"], "undecidable", "the key was revoked")
        rule("P9", content.get("proj") in PROJECTIONS, "undecidable", "unknown projection")
    return claims, content

def check_tag(tag):
    """C1: the token of a tag member."""
    listed = tag.get("leaves", []) if isinstance(tag, dict) else []
    rule("C1", has(tag, token=is_text) and isinstance(listed, list) and all(map(is_leaf, listed)), detail="form of the tag member")
    tag = tag[0] if isinstance(tag, list) and tag else tag
    token = tag.get("token") if isinstance(tag, dict) else tag
    return str(token[0] if isinstance(token, list) and token else token)

def check_body(content, trust, now, token, digest):
    value, faults = read_json(content, 64, False)
    faults += ["over 16 MiB"] * (len(content) > 2**24)
    body = value if isinstance(value, dict) else {}
    own = check_tag(body["ai_provenance"]) if "ai_provenance" in body else None
    rule("C9", not faults or token or not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"), detail=", ".join(faults))
    rule("C2", own or token, "absent", "there is no tag, which proves nothing")
    rule("C2", not own or not token or own == token, detail="header and member differ")
    claims, sealed = check_token(own or token or "", trust, now)
    proj = sealed.get("proj")
    rule("C9", proj == "bytes-1" or not faults, detail=", ".join(faults))
    rule("P9", not (own and proj == "bytes-1") and (proj != "chat-1" or body.get("choices") is not None), detail="proj does not fit")
    if proj in ("json-1", "bytes-1"):
        rest = {name: member for name, member in body.items() if name != "ai_provenance"} if isinstance(value, dict) else value
        try:
            data = content if proj == "bytes-1" else canonical(rest)
            check_found([[0, "body", sha(data)]] if data else [], sealed)
        except ValueError:
            check_found([[0, "body", None]], sealed)
    else:
        check_found(leaves_of(chat_values(body, "message")), sealed)
    fields = re.split("[ \t]*,[ \t]*", digest.strip(" ")) if digest is not None else []
    rule("C10", all(is_text(field, DIGEST_FIELD) for field in fields), detail="not a dictionary of byte sequences")
    for name, data in (field.split(":")[:2] for field in fields if field.startswith(("sha-256=:", "sha-512=:"))):
        real = hashlib.new(name[:-1].replace("-", ""), content).digest()
        rule("C10", base64.b64encode(real).decode() == data, detail="Content-Digest differs")
    return claims, ""

def events(content):
    """C6: the data of every event that a blank line ends."""
    found, lines = [[]], content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for line in lines[:-1]:
        if not line:
            found.append([])
        elif line == b"data" or line.startswith(b"data:"):
            found[-1].append(line[5:].removeprefix(b" "))
    return [data for data in map(b"\n".join, found[:-1]) if data]

def check_stream(content, trust, now, pending):
    read = [(data, *read_json(data, 64, False)) for data in events(content)]
    rule("C3", all(data == b"[DONE]" or isinstance(event, dict) and not faults for data, event, faults in read), detail="an event is not strict JSON")
    bodies = [event for _, event, _ in read if isinstance(event, dict)]
    tagged = [place for place, event in enumerate(bodies) if "ai_provenance" in event]
    tokens = [check_tag(bodies[place]["ai_provenance"]) for place in tagged]
    rule("C4", tokens, "incomplete" if pending else "absent", "no final token")
    rule("C4", len(tokens) < 2, detail="more than one token")
    claims, sealed = check_token(([*tokens, ""])[0], trust, now, "event")
    values = [chat_values(event, "delta") for event in bodies]
    late = range(tagged[0] + 1, len(bodies))
    rule("C5", not any(values[place] or "error" in bodies[place] for place in late), detail="content or an error after the token")
    if pending and "C7" not in DISABLED:
        first = check_token(pending, trust, now, "pending")[0]
        rule("C7", all(first[name] == claims[name] for name in ("iss", "rid", "sub", "req")), detail="the pending token is of another exchange")
    rule("P9", sealed.get("proj") == "chat-1", detail="proj does not fit a stream")
    check_found(leaves_of([value for some in values for value in some]), sealed)
    ends = [place for place, (data, _, _) in enumerate(read) if data == b"[DONE]"]  # C8
    return claims, "terminator: " + ("missing" if not ends else "present" if ends[0] == len(read) - 1 else "followed")

def check_text(content, trust, now, token, leaves, choice):
    rule("C2", token, "absent", "a text alone carries no tag")
    claims, sealed = check_token(token or "", trust, now)
    if "leaves" not in sealed:
        rule("P8", leaves is not None, "undecidable", "the leaves are needed")
        check_leaves(leaves or [], sealed)
        rule("P6", len(leaves or []) == sealed.get("n"), detail="another number of leaves")
    own = leaves_of([(0, "text", content)])
    fits = [leaf for leaf in sealed.get("leaves", leaves) if own and leaf[1:] == own[0][1:] and leaf[2] and choice in (None, leaf[0])]
    rule("P8", fits, detail="not a text of this response")
    return claims, ""

def verify(kind, content, *, trust, now, token=None, request=None, salt=None, audience=None, nonce=None, choice=None, content_digest=None, leaves=None):
    """(verdict, detail) of a `body` or `stream` (bytes) or a `text` (str); `token` is the header's, or the text's.

    `trust` maps an issuer to its key set, or to (key history, key set that signs it, earlier history or None), all bytes.
    """
    try:
        if kind == "text":
            claims, detail = check_text(content, trust, now, token, leaves, choice)
        else:
            claims, detail = check_body(content, trust, now, token, content_digest) if kind == "body" else check_stream(content, trust, now, token)
        rule("T13", now <= claims.get("exp", now), "unacceptable", "expired")
        rule("T14", claims.get("aud") == audience, "unacceptable", "for another audience")
        rule("T15", nonce is None or claims.get("nonce") == nonce, "unacceptable", "another nonce")
        mac = b64(hmac.digest(unb64(salt), request, "sha256")) if None not in (request, salt) else claims.get("req")
        rule("T16", mac == claims.get("req"), "unacceptable", "for another request")
        return "valid", detail
    except Refused as refused:
        return refused.args

def main():
    parser = argparse.ArgumentParser(description="Verify an AI provenance token offline.")
    for option in ("file", "--keys", "--issuer", "--token", "--request", "--salt", "--audience", "--nonce"):
        parser.add_argument(option, **({"required": True} if option in ("--keys", "--issuer") else {}))
    parser.add_argument("--as", dest="kind", choices=("body", "stream", "text"))
    parser.add_argument("--now", type=int, default=int(time.time()))
    args = parser.parse_args()
    content, request = Path(args.file).read_bytes(), args.request and Path(args.request).read_bytes()
    kind = args.kind or ("stream" if re.search(rb"(?m)^data:", content) else "text" if args.token and content.lstrip()[:1] != b"{" else "body")
    verdict, detail = verify(
        kind, content.decode() if kind == "text" else content, trust={args.issuer: Path(args.keys).read_bytes()}, now=args.now, token=args.token,
        request=request, salt=args.salt, audience=args.audience, nonce=args.nonce)
    print(verdict, detail)
    return EXIT[verdict]

if __name__ == "__main__":
    sys.exit(main())
