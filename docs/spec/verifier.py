"""An independent verifier of AI provenance tokens, version 1, written from the pages beside it; it shares no code with the package.

This file has tokens, keys, texts, and bodies under chat-1, json-1 and bytes-1; dialect_verifier.py has streams, lines and what else LLM
providers speak, infer_verifier.py Open Inference and gRPC.

It decodes leniently, then checks strictly: each check is a call `rule("T5", condition, verdict)` that names the rule it enforces, so
that a mutation run can leave out exactly one (`DISABLED`) and see which vectors notice.
"""

import argparse
import base64
import hashlib
import hmac
import json
import re
import time
from decimal import Decimal
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

DISABLED: set[str] = set()  # rules that a mutation run leaves out
EXIT = {"valid": 0, "invalid": 1, "incomplete": 1, "undecidable": 3, "unacceptable": 4, "absent": 5}
SAFE, P_ED = 2**53 - 1, 2**255 - 19
P_256, B_256 = 2**256 - 2**224 + 2**192 + 2**96 - 1, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
Y_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # with P_ED - Y_8: y of the Ed25519 points of order 8
FIELD = r'[a-z*][a-z0-9_.*-]*=:[A-Za-z0-9+/]*={0,2}:( *; *[a-z*][a-z0-9_.*-]*(=([^,;" ]+|"[^"]*"))?)*'  # one digest of Content-Digest
TEXTS = {"text": "content", "refusal": "refusal", "reasoning": "reasoning", "reasoning_content": "reasoning_content"}
STAGES = ("pending", "checkpoint", "final")
TEXT_NAME = r"(text|refusal|reasoning|reasoning_content|reasoning_summary|thinking|compaction)(\.\d+)?"

class Refused(Exception):
    """(verdict, rule and reason)."""
def rule(name, condition, verdict="invalid", detail=""):
    if not condition and name not in DISABLED:
        raise Refused(verdict, f"{name}: {detail}")
def is_int(value, low=-SAFE, high=SAFE): return type(value) is int and low <= value <= high
def is_text(value, pattern=r"(?s).*"): return isinstance(value, str) and re.fullmatch(pattern, value) is not None
def is_id(value): return is_text(value, r"[A-Za-z0-9._-]{1,64}")
def is_digest(value): return is_text(value, r"[A-Za-z0-9_-]{43}") and b64(unb64(value)) == value
def is_list(value, form): return isinstance(value, list) and all(map(form, value))
def has(value, **forms):  # an object whose members have these forms; a name that ends in `_` is optional
    return isinstance(value, dict) and all(form(value[n]) if (n := key.rstrip("_")) in value else n != key for key, form in forms.items())
def sha(data): return b64(hashlib.sha256(data).digest())
def b64(data): return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
def unb64(text):  # lenient: whoever cares compares the re-encoding
    letters = re.sub(r"[^A-Za-z0-9_-]", "", str(text).replace("+", "-").replace("/", "_"))
    return base64.urlsafe_b64decode((letters[:-1] if len(letters) % 4 == 1 else letters) + "==")

def read_json(data, depth, plain):  # the value, and what is wrong with it; `plain` adds what T3 demands of numbers and surrogates
    text = data.decode("utf-8", "replace")
    faults = ["not UTF-8, or a byte-order mark"] * (text.encode() != data or text.startswith("\ufeff"))
    text = text.lstrip("\ufeff").strip(" \t\r\n")
    try:
        value, end = json.JSONDecoder(
            object_pairs_hook=lambda items: faults.extend(["a name twice"] * (len(dict(items)) < len(items))) or dict(items),
            parse_int=lambda s: int(s) if len(s) < 18 and is_int(int(s)) else float("inf"), parse_constant=faults.append).raw_decode(text)
        level = [value]
        while level:
            faults += ["nested too deep"] * (depth < 1 and any(isinstance(item, (dict, list)) for item in level))
            faults += ["number or text"] * (plain and any(isinstance(x, float) or is_text(x, "(?s).*[\ud800-\udfff].*") for x in level))
            level = [x for item in level for x in ([*item, *item.values()] if has(item) else item if isinstance(item, list) else ())]
            depth -= 1
        return value, faults + ["something after the value"] * (end < len(text))
    except (ValueError, RecursionError):
        return None, ["not JSON"]
def canonical(value):  # RFC 8785 bytes; ValueError where there are none (an integer beyond SAFE was read as infinity)
    if has(value):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, float) and value - value == 0:  # finite: ECMAScript's form from Python's shortest digits
        digits, places = (number := Decimal(repr(value)).normalize()), number.adjusted()
        return b"0" if value == 0 else (f"{digits:f}" if -7 < places < 21 else f"{digits.scaleb(-places):f}e{places:+d}").encode()
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
def normal(name, value): return value.replace("\r\n", "\n").replace("\r", "\n").strip("\t\n\r ") if is_text(name, TEXT_NAME) else value
def encode(name, values):  # P2, P3: the bytes of a part, None for an uncoverable one
    exact = name == "body" or (len(values) == 1 and has(values[0]) and name.endswith(("arguments", "input")))
    try:
        if is_list(values, is_text) and not exact:
            return normal(name, "".join(values).encode("utf-16-le", "surrogatepass").decode("utf-16-le")).encode()
        return canonical(values[0]) if exact and not isinstance(values[0], bytes) else b"".join(values)
    except (ValueError, TypeError):
        return None
def leaves_of(values):  # P4, P5
    parts = {}
    for choice, name, value in values:
        parts.setdefault((choice, name), []).append(value)
    coded = [(*place, encode(place[1], parts[place])) for place in sorted(parts)]
    return [[choice, name, None if data is None else sha(data)] for choice, name, data in coded if data != b""]
def chat_values(body, kind):  # P1: (choice, name, value) for what a body (kind `message`) or an event (kind `delta`) adds to its parts
    def member(holder, name, of=dict):
        rule("P1", holder.get(name) is None or isinstance(holder[name], of), detail=str(name))
        return holder[name] if isinstance(holder.get(name), of) else of()
    found, seen, choices = [], set(), member(body, "choices", list)
    rule("P1", is_list(choices, has), detail="a choice is no object")
    for position, entry in enumerate(choice if has(choice) else {} for choice in choices):
        choice = entry["index"] if is_int(entry.get("index"), 0, 65535) else position
        message = member(entry, kind)
        calls, called = member(message, "tool_calls", list), member(message, "function_call")
        rule("P1", entry.get("index") is choice and (kind == "delta" or choice not in seen) and len(calls) <= 256, detail="index or calls")
        seen.add(choice)
        found += [(choice, name, message.get(source)) for name, source in TEXTS.items()]
        found += [(choice, f"function_call.{name}", called.get(name)) for name in ("name", "arguments")]
        for place in range(len(calls)):
            call = member(dict(enumerate(calls)), place)
            rule("P1", kind == "message" or calls[place] is None or is_int(call.get("index"), 0, 255), detail="index of a tool call")
            at = f"tool_calls.{call['index'] if kind == 'delta' and is_int(call.get('index')) else place}."
            function, custom = member(call, "function"), member(call, "custom")
            found += [(choice, at + "name", function.get("name")), (choice, at + "arguments", function.get("arguments"))]
            found += [(choice, at + "custom_name", custom.get("name")), (choice, at + "input", custom.get("input"))]
    return [(choice, name, value) for choice, name, value in found if value is not None and value != ""]
def tree(leaves):  # RFC 6962 section 2.1
    half = 1 << (len(leaves) - 1).bit_length() - 1 if len(leaves) > 1 else 0
    data = b"\1" + tree(leaves[:half]) + tree(leaves[half:]) if half else b"\0" + canonical(leaves[0]) if leaves else b""
    return hashlib.sha256(data).digest()
def is_leaf(leaf):
    choice, name, digest = leaf if isinstance(leaf, list) and len(leaf) == 3 else (None, None, None)
    return is_int(choice, 0, 65535) and is_text(name, r"[a-z0-9_.]{1,64}") and (digest is None or is_digest(digest))
def check_leaves(leaves, content):
    rule("P4", is_list(leaves, is_leaf), detail="form of a leaf")
    rule("P5", all(a[:2] < b[:2] for a, b in zip(leaves, leaves[1:], strict=False)), detail="leaves out of order, or two alike")
    rule("P6", b64(tree(leaves)) == content.get("root") and len(leaves) == content.get("n"), detail="leaves of another number or root")
def check_found(found, content, tag):  # the leaves found in the content, and those that stand beside its token
    for leaves in (found, tag["leaves"]) if has(tag, leaves=lambda v: is_list(v, is_leaf)) else (found,):
        rule("P7", b64(tree(leaves)) == content.get("root") and len(leaves) == content.get("n"), detail="not what was sealed")
def is_point(kty, x, y):
    a, b, low = int.from_bytes(x, "big"), int.from_bytes(y, "big"), int.from_bytes(x, "little") & 2**255 - 1
    square = (low * low - 1) * pow(1 - 121665 * pow(121666, -1, P_ED) * low * low, -1, P_ED)  # of the other coordinate, Ed25519
    return (max(a, b) < P_256 and (b * b - a * a * a + 3 * a - B_256) % P_256 == 0) if kty == "EC" else (
        low < P_ED and low not in (0, 1, P_ED - 1, Y_8, P_ED - Y_8) and pow(square, P_ED // 2, P_ED) == 1)
def algorithms(key): return ("Ed25519", "EdDSA") if key.get("kty") == "OKP" else ("ES256",)
def check_keys(keys):
    for key in keys:
        kty, names = key.get("kty"), ("x", "y") if key.get("kty") == "EC" else ("x",)
        raw, ops = [unb64(key.get(name)) for name in names], key.get("key_ops", ["verify"])
        whole = (kty, key.get("crv")) in (("OKP", "Ed25519"), ("EC", "P-256")) and all(len(data) == 32 for data in raw)
        rule("K2", whole and [b64(data) for data in raw] == [key.get(name) for name in names], detail="kty, crv, x or y")
        rule("K3", not whole or is_point(kty, raw[0], raw[-1]), detail="not a point to trust")
        rule("K4", not key.keys() & {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}, detail="a private key")
        rule("K5", is_list(ops, is_text) and len(set(ops)) == len(ops) and "verify" in ops, detail="key_ops")
        rule("K5", key.get("use", "sig") == "sig" and key.get("alg", algorithms(key)[0]) in algorithms(key), detail="use or alg")
        rule("K6", key.get("kid") == sha(canonical({name: key.get(name) for name in ("crv", "kty", *names)})), detail="kid: no thumbprint")
        timed = has(key, nbf_=is_int, exp_=is_int, revoked_=is_int, reason_=lambda v: v in ("compromised", "superseded"))
        rule("K7", timed and key.get("purpose") in ("provenance", "key-history", "receipt"), detail="purpose, times or reason")
    rule("K6", len({str(key.get("kid")) for key in keys}) == len(keys), detail="two keys alike")
    return keys
def key_set(data):
    value, faults = read_json(data, 8, True)
    whole = has(value, issuer_=is_text, keys=lambda keys: is_list(keys, has) and 1 <= len(keys) <= 64)
    rule("K1", len(data) <= 65536 and not faults and whole, detail="size, JSON, issuer or keys")
    return check_keys([key for key in (value.get("keys") or [] if has(value) else []) if has(key)])
def key_history(history, trusted, earlier, iss):
    header, claims, signed, signature = open_jws(history.decode("latin-1"), 262_144)
    keys, kid = [key for key in claims.get("keys") or [] if has(key)], header.get("kid")
    shaped = has(claims, ver=lambda v: is_int(v, 1, 1), iss=is_text, iat=is_int, seq=lambda v: is_int(v, 0)) and keys == claims.get("keys")
    rule("H1", shaped and header.get("typ") == "ai-key-history+jwt" and all(is_int(key.get("nbf")) for key in keys), detail="typ or claims")
    own, anchors = ({key.get("kid"): key for key in check_keys(some)} for some in (keys, key_set(trusted)))
    key = anchors.get(kid) or own.get(kid) or {}
    rule("H2", kid in anchors and key.get("purpose") == "key-history" and claims.get("iss") == iss, detail="not by a trusted key")
    check_signature(key, header.get("alg"), signed, signature)
    rule("H2", "revoked" not in own.get(kid, {"revoked": 0}), detail="the signing key is not in it, or revoked")
    before = open_jws(earlier.decode("latin-1"), 262_144)[1] if earlier else {"seq": claims.get("seq"), "keys": []}
    for old, new in ((old, own.get(old["kid"], {})) for old in before["keys"]):
        fell = ["revoked" in old and new.get("reason") == "superseded" != old.get("reason")]  # no longer compromised
        fell += [new.get(name) != old.get(name) for name in ("kty", "crv", "x", "y")]
        rule("H3", not any(fell + [new.get(time, SAFE) > old.get(time, SAFE) for time in ("exp", "revoked")]), detail="a key is back")
    rule("H3", not earlier or before["seq"] <= claims["seq"], detail="lower seq")
    return keys
def trusted_keys(entry, iss):
    try:
        return key_set(entry) if isinstance(entry, bytes) else key_history(*entry, iss)
    except Refused as refused:
        raise Refused("undecidable", refused.args[1]) from None
def open_jws(token, limit, typ=None):  # T1 to T4: header, claims, signed bytes and signature, none of it proven yet
    parts = [*token.split("."), "", ""][:3]
    rule("T1", token.isascii() and len(token) <= limit and token.count(".") == 2 and all(parts), detail="not three ASCII parts, or long")
    rule("T2", all(b64(unb64(part)) == part for part in parts), detail="not canonical base64url")
    (header, faults), (claims, more) = (read_json(unb64(part), 8, True) for part in parts[:2])
    rule("T3", has(header) and has(claims) and not faults + more, detail=", ".join(faults + more))
    header, claims = (value if has(value) else {} for value in (header, claims))
    rule("T4", header.keys() == {"alg", "kid", "typ"} and all(map(is_text, header.values())) and typ in (None, header["typ"]))
    return header, claims, f"{parts[0]}.{parts[1]}".encode(), unb64(parts[2])
def check_signature(key, alg, signed, signature):
    rule("T6", alg in algorithms(key), detail="the key is not for this alg")
    rule("T7", len(signature) == 64, detail="not 64 bytes")
    x, y, r, s = (int.from_bytes(data, "big") for data in (unb64(key.get("x")), unb64(key.get("y")), signature[:32], signature[32:]))
    try:
        if key.get("kty") == "OKP":
            return ed25519.Ed25519PublicKey.from_public_bytes(unb64(key.get("x"))).verify(signature, signed)
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        return public.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return rule("T7", False, detail="the signature does not verify")
def is_claims(claims):
    return has(
        claims, iss=lambda v: is_text(v, r"https://[^/?#@\s]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"), iat=is_int, jti=is_id,
        rid=is_id, sub=is_id, stage=lambda v: v in STAGES, model=lambda v: is_text(v, r"(?s).{1,96}"), dst=is_text,
        req=is_digest, terms=lambda v: has(v, uri=is_text, version=is_text, sha256=is_digest, receipt_=is_text),
        usage=lambda v: has(v, sha256=is_digest, clauses=lambda ids: is_list(ids, is_text) and len(ids) <= 8, content_usage=is_text),
        completion_=lambda v: v in ("complete", "policy", "aborted", "error"), aud_=is_text, nonce_=lambda v: is_text(v, r"(?s).{1,128}"),
        exp_=is_int, grant_=is_text, status_=has, ledger_=lambda v: has(v, origin=is_text, size=is_int, root=is_digest, index_=is_int))
def stage_of(token):  # unproven
    value, _ = read_json(unb64([*token.split("."), ""][1]), 8, True)
    return value.get("stage") if has(value) else None
def check_token(token, trust, now, stage="final"):  # `stage`: found as the tag, in an `event`, or where a `pending` or `checkpoint` is due
    header, claims, signed, signature = open_jws(token, 8192, "ai-provenance+jwt")
    iss, kid, ver, content = claims.get("iss"), header.get("kid"), claims.get("ver"), claims.get("content", {})
    known = trusted_keys(trust[iss], iss) if is_text(iss) and iss in trust else []
    mine = [key for key in known if key.get("kid") == kid and key.get("purpose") == "provenance"]
    rule("T5", mine, "undecidable", "no trusted provenance key of this issuer with this kid")
    every = mine or [key for name, entry in trust.items() for key in trusted_keys(entry, name)]
    key = min(every, key=lambda key: key.get("kid") != kid, default={})
    check_signature(key, header.get("alg"), signed, signature)
    rule("T8", is_int(ver, 1, 1), "undecidable" if is_int(ver) else "invalid", "another version")
    rule("T9", is_claims(claims), detail="a claim is missing or has another form")
    first, iat = claims.get("stage") == "pending", claims["iat"] if is_int(claims.get("iat")) else 0
    final = not first and claims.get("stage") != "checkpoint"
    rule("T10", ("content" in claims, "completion" in claims) == (not first, final), detail="stage, content and completion do not fit")
    rule("C4", not first or stage != "event", detail="a pending token in an event")
    rule("T10", final or stage in ("pending", "checkpoint"), "incomplete", "the tag is not final")
    shaped = has(content, proj=is_text, n=lambda v: is_int(v, 0, 65536), root=is_digest, leaves_=lambda v: isinstance(v, list))
    rule("T11", "content" not in claims or (shaped and ("leaves" not in content or content["n"] <= 4)), detail="form of content")
    if has(content, leaves=lambda v: isinstance(v, list)):
        check_leaves(content["leaves"], content)
    rule("T12", iat <= now + 60, detail="signed in the future")
    rule("K8", key.get("nbf", iat) <= iat <= key.get("exp", iat), "unacceptable", "signed outside the key's time")
    rule("K9", "revoked" not in key or (key.get("reason") == "superseded" and iat < key["revoked"]), "undecidable", "a revoked key")
    rule("P9", first or stage == "pending" or content.get("proj") in KNOWN, "undecidable", "unknown projection")
    return claims, content
def check_tag(tag):
    rule("C1", has(tag, token=is_text, leaves_=lambda v: is_list(v, is_leaf)), detail="form of the tag member")
    while isinstance(tag, (dict, list)):
        tag = tag.get("token") if has(tag) else (tag or [None])[0]
    return str(tag)
def check_body(content, trust, now, token, digest, *_):
    value, faults = read_json(content, 64, False)
    body = value if has(value) else {}
    own = check_tag(body["ai_provenance"]) if "ai_provenance" in body else None
    rule("C9", not faults or token or not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"), detail=", ".join(faults))
    rule("C2", own == token if own and token else own or token, "invalid" if own else "absent", "two tags, or none, which proves nothing")
    claims, sealed = check_token(own or token or "", trust, now)
    proj, rest = sealed.get("proj"), {name: member for name, member in body.items() if name != "ai_provenance"} if body else value
    rule("C9", proj == "bytes-1" or (not faults and len(content) <= 2**24), detail=", ".join(faults) or "over 16 MiB")
    fits, read = BODIES.get(proj, BODIES["chat-1"])
    rule("P9", proj in BODIES and fits(body) and not (own and proj == "bytes-1"), detail="proj does not fit")
    values = read(body, content) if proj not in ("json-1", "bytes-1") else [(0, "body", rest if proj == "json-1" else content)]
    check_found(leaves_of(values), sealed, body.get("ai_provenance"))
    for field in re.split("[ \t]*,[ \t]*", digest.strip(" ")) if digest is not None else []:
        name, _, given = field.partition("=:")
        real = base64.b64encode(hashlib.new(name.replace("-", ""), content).digest()).decode() if name in ("sha-256", "sha-512") else ""
        rule("C10", is_text(field, FIELD) and real in ("", given.partition(":")[0]), detail="not byte sequences, or another digest")
    return claims, ""
BODIES = {  # what a body under a projection has, and its values
    "chat-1": (lambda body: body.get("choices") is not None, lambda body, _: chat_values(body, "message")),
    "json-1": (lambda _: True, None), "bytes-1": (lambda _: True, None)}
KNOWN = {*BODIES}  # the other two files add to both, and to CHECKS
def check_text(content, trust, now, token, _, leaves, choice, *_more):
    rule("C2", token, "absent", "a text alone carries no tag")
    claims, sealed = check_token(token or "", trust, now)
    if "leaves" not in sealed:
        rule("P8", leaves is not None, "undecidable", "the leaves are needed")
        check_leaves(leaves or [], sealed)
    own = [leaf[1:] for leaf in leaves_of([(0, "text", content)]) if leaf[2]]
    rule("P8", any(leaf[1:] in own and choice in (None, leaf[0]) for leaf in sealed.get("leaves", leaves) or []), detail="no such text")
    return claims, ""


CHECKS = {"body": check_body, "text": check_text}
def verify(kind, content, *, trust, now, token=None, request=None, salt=None, audience=None, nonce=None, choice=None, content_digest=None,
           leaves=None, pending=None):  # `trust`: issuer -> key set, or (history, key set that signs it, earlier one or None), in bytes
    try:
        claims, detail = CHECKS[kind](content, trust, now, token, content_digest, leaves, choice, pending)
        verdict, unmet = ("incomplete", "incomplete") if detail.startswith("C1") else ("valid", "unacceptable")  # of a checkpoint (C11)
        rule("T13", now <= claims.get("exp", now), unmet, "expired")
        rule("T14", claims.get("aud") == audience, unmet, "for another audience")
        rule("T15", nonce is None or claims.get("nonce") == nonce, unmet, "another nonce")
        mac = b64(hmac.digest(unb64(salt), request, "sha256")) if None not in (request, salt) else claims.get("req")
        rule("T16", mac == claims.get("req"), unmet, "for another request")
        return verdict, detail
    except Refused as refused:
        return refused.args

def main():
    parser, read = argparse.ArgumentParser(description="Verify an AI provenance token offline."), argparse.FileType("rb")
    for option, form in {"file": read, "--keys": read, "--request": read, "--now": int}.items():
        parser.add_argument(option, type=form, **({"required": True} if option == "--keys" else {}))
    for option in ("--issuer", "--token", "--salt", "--audience", "--nonce", "--pending", "--as"):
        parser.add_argument(option, required=option == "--issuer", choices=CHECKS if option == "--as" else None)
    args = vars(parser.parse_args())
    shown, asked, clock = args["file"].read(), args["request"] and args["request"].read(), args["now"] or int(time.time())
    sort = args["as"] or ("stream" if b"\ndata:" in b"\n" + shown else "text" if args["token"] and shown[:1] not in b"{[" else "body")
    found, why = verify(sort, shown.decode() if sort == "text" else shown, trust={args["issuer"]: args["keys"].read()}, now=clock,
                        request=asked, **{option: args[option] for option in ("token", "salt", "audience", "nonce", "pending")})
    print(found, why)
    raise SystemExit(EXIT[found])
if __name__ == "__main__":
    from infer_verifier import main
    main()
