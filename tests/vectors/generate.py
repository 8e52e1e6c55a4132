"""Write the frozen vectors of the wire format, version 1: ``python tests/vectors/generate.py``.

The sealer in this file is written from ``docs/spec`` and shares no code with the package. Keys come from fixed seeds, times are fixed and
ES256 signatures deterministic (RFC 6979), so a second run writes the same bytes. The vectors are the memory of the format: once released, one is added
and none is changed; a changed one means a new version of the format.

Every bad vector is flawless but for the one rule it is filed under, and signed again after the change; ``also`` names the rules that would stop
it as well, and vectors with ``also`` do not count towards a rule's ten.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

OUT = Path(__file__).parent / "v1"
ISS, OTHER = "https://api.example.com", "https://other.example.net"
NOW = 1_795_000_000
IAT = NOW - 100
HELLO = "Hello, world."
REQUEST = '{"model":"small-1","messages":[{"role":"user","content":"Say hello."}]}'
P_ED = 2**255 - 19
P_256 = 2**256 - 2**224 + 2**192 + 2**96 - 1

Json = dict[str, Any]


# --- a sealer from the pages ---


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sha(data: bytes | str) -> str:
    return b64(hashlib.sha256(data.encode() if isinstance(data, str) else data).digest())


def compact(value: Any) -> str:
    """RFC 8785 for what tokens and leaves hold: ASCII names, strings and safe integers."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


SALT = hashlib.sha256(b"tos_guard vectors: salt").digest()
SALT_TEXT = b64(SALT)


def req_of(request: str, salt: bytes = SALT) -> str:
    return b64(hmac.digest(salt, request.encode(), "sha256"))


class Key:
    """A signing key from a name."""

    def __init__(self, name: str, kind: str = "Ed25519", purpose: str = "provenance") -> None:
        seed = hashlib.sha256(f"tos_guard vectors: {name}".encode()).digest()
        self.kind, self.purpose = kind, purpose
        if kind == "Ed25519":
            self.ed = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
            self.members = {"kty": "OKP", "crv": "Ed25519", "x": b64(self.ed.public_key().public_bytes_raw())}
            self.secret = b64(seed)
            self.alg = "Ed25519"
        else:
            self.ec = ec.derive_private_key(int.from_bytes(seed, "big"), ec.SECP256R1())
            numbers = self.ec.public_key().public_numbers()
            self.members = {"kty": "EC", "crv": "P-256", "x": b64(numbers.x.to_bytes(32, "big")), "y": b64(numbers.y.to_bytes(32, "big"))}
            self.secret = b64(seed)
            self.alg = "ES256"
        self.kid = sha(compact(self.members))

    def sign(self, data: bytes) -> bytes:
        if self.kind == "Ed25519":
            return self.ed.sign(data)
        r, s = utils.decode_dss_signature(self.ec.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def jwk(self, **more: Any) -> Json:
        """Its public JWK; a member given as None is left out."""
        members = {**self.members, "kid": self.kid, "use": "sig", "purpose": self.purpose, **more}
        return {name: value for name, value in members.items() if value is not None}


def raw_jwk(members: Json, **more: Any) -> Json:
    """A JWK over given key material, with the thumbprint that its members have."""
    return {**members, "kid": sha(compact(members)), "use": "sig", "purpose": "provenance", **more}


A = Key("provenance A")
NEXT = Key("provenance next")
OLD = Key("provenance retired")
EVIL = Key("nobody's key")
EC = Key("provenance on P-256", "P-256")
EC_EVIL = Key("nobody's key on P-256", "P-256")
HIST = Key("key history", purpose="key-history")
HIST_EC = Key("key history on P-256", "P-256", purpose="key-history")
THEIRS = Key("provenance of the other issuer")


def seal(claims: Json | bytes, key: Key = A, *, header: Json | bytes | None = None, **members: Any) -> str:
    """A compact JWS; `members` change the header, a member of None is left out."""
    if not isinstance(header, bytes):
        whole = {"alg": key.alg, "kid": key.kid, "typ": "ai-provenance+jwt", **(header or {}), **members}
        header = compact({name: value for name, value in whole.items() if value is not None}).encode()
    payload = claims if isinstance(claims, bytes) else compact(claims).encode()
    return sign_parts(b64(header), b64(payload), key)


def sign_parts(header: str, payload: str, key: Key = A) -> str:
    signed = f"{header}.{payload}"
    return f"{signed}.{b64(key.sign(signed.encode()))}"


def leaf(choice: int, name: str, value: str | bytes | None) -> list[Any]:
    return [choice, name, None if value is None else sha(value)]


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def tree(leaves: list[Any]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + compact(leaves[0]).encode()).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node(tree(leaves[:half]), tree(leaves[half:]))


def content(leaves: list[Any], /, proj: str = "chat-1", **over: Any) -> Json:
    made = {"proj": proj, "n": len(leaves), "root": b64(tree(leaves)), **({"leaves": leaves} if len(leaves) <= 4 else {}), **over}
    return {name: value for name, value in made.items() if value is not DROP}


DROP = object()
LEAVES = [leaf(0, "text", HELLO)]
TERMS = {"uri": f"{ISS}/.well-known/ai-provenance/terms/2026-11", "version": "2026-11", "sha256": sha("terms")}
USAGE = {"sha256": sha("usage"), "clauses": ["no-competing-model", "no-resale"], "content_usage": "train-ai=n"}


def claims(leaves: list[Any] | None = None, /, proj: str = "chat-1", **over: Any) -> Json:
    """The claims of a final token; a claim of DROP is left out."""
    made: Json = {
        "ver": 1, "iss": ISS, "iat": IAT, "jti": "tok-1", "rid": "req-1", "sub": "sub-1", "stage": "final", "model": "small-1",
        "dst": "trainedAlgorithmicMedia", "terms": TERMS, "usage": USAGE, "req": req_of(REQUEST),
        "content": content(LEAVES if leaves is None else leaves, proj), "completion": "complete", **over,
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not DROP}


def pending(**over: Any) -> Json:
    return claims(**{"jti": "tok-0", "stage": "pending", "content": DROP, "completion": DROP, **over})


def key_set(*keys: Json, **more: Any) -> str:
    return json.dumps({"issuer": ISS, "keys": list(keys), **more}, separators=(",", ":"))


def trust(*keys: Json) -> Json:
    return {ISS: {"keys": key_set(*(keys or (A.jwk(), HIST.jwk())))}}


# --- carriers ---


def choice(text: Any = HELLO, index: Any = 0, **message: Any) -> Json:
    return {"index": index, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop", "logprobs": None}


def tag(token: Any, leaves: list[Any] | None = None) -> Json:
    return {"token": token} if leaves is None else {"token": token, "leaves": leaves}


def body(token: Any, choices: Any = None, *, tagged: Any = None, **top: Any) -> str:
    members: Json = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": IAT, "model": "small-1", "choices": [choice()] if choices is None else choices,
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, **top,
    }  # fmt: skip
    members["ai_provenance"] = tag(token) if tagged is None else tagged
    return json.dumps({name: value for name, value in members.items() if value is not DROP}, separators=(",", ":"))


def chunk(delta: Any = None, index: Any = 0, finish: str | None = None, **top: Any) -> Json:
    made = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": IAT, "model": "small-1",
        "choices": [{"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}], **top,
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not DROP}


def last(token: Any, index: int = 0, finish: str = "stop", **top: Any) -> Json:
    return chunk(None, index, finish, ai_provenance=tag(token), **top)


UNTAGGED = json.dumps({name: value for name, value in json.loads(body(None)).items() if name != "ai_provenance"})
HELLO_EVENTS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hello, "}), chunk({"content": "world."})]
USAGE_EVENT = chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})


def sse(events: list[Json | str], *, end: str = "\n", done: bool = True) -> str:
    """A stream; a string is an event's raw lines."""
    made = [event if isinstance(event, str) else f"data: {json.dumps(event, separators=(',', ':'))}" for event in events]
    text = "".join(f"{event}\n\n" for event in [*made, *(["data: [DONE]"] if done else [])])
    return text.replace("\n", end)


def stream(token: Any, **how: Any) -> str:
    return sse([*HELLO_EVENTS, last(token)], **how)


# --- vectors ---

GOOD: list[Json] = []
BAD: dict[str, list[Json]] = {}


def vector(kind: str, data: str | bytes | list[bytes], verdict: str = "valid", /, *, rule: str = "", note: str, also: list[str] | None = None, **more: Any) -> None:
    """File one vector; `more` holds trust, now and the arguments of the verification."""
    closes_itself = isinstance(data, str) and ('"type":"response.' in data or '"type":"message_start"' in data)  # without [DONE]
    terminator = more.pop("terminator", "present" if kind == "stream" and verdict == "valid" and not closes_itself else None)
    proven = more.pop("proven", None)
    found = BAD.setdefault(rule, []) if rule else GOOD
    made: Json = {"id": f"{rule or 'good'}-{len(found) + 1:02}", "rule": rule or None, **({"also": also} if also else {}), "note": note, "kind": kind}
    if isinstance(data, bytes):
        made["content_b64"] = base64.b64encode(data).decode()
    elif isinstance(data, list):
        made["messages_b64"] = [base64.b64encode(message).decode() for message in data]
    else:
        made["content"] = data
    made |= {"trust": trust(), "now": NOW, **more, "expected": {"verdict": verdict, **({"terminator": terminator} if terminator else {}), **({"proven": proven} if proven else {})}}
    found.append(made)


TURN = itertools.cycle(["body", "stream", "text"])


def carried(token: str, verdict: str, rule: str, note: str, kind: str | None = None, **more: Any) -> None:
    """File a token over the greeting in the next of three carriers."""
    kind = kind or next(TURN)
    data = {"body": body, "stream": stream, "text": lambda _: HELLO}[kind](token)
    more |= {"token": token} if kind == "text" else {}
    vector(kind, data, verdict, rule=rule, note=note, **more)


Table = list[tuple[Any, ...]]


def token_form() -> None:
    """T1 to T4."""
    def filled(length: int, key: Key = A) -> str:
        size = 0
        while len(made := seal(claims(filler="x" * size), key)) < length:
            size += max(1, (length - len(made)) * 3 // 4 - 2)
        return made

    for length, key in ((8193, A), (8197, A), (8300, A), (9001, A), (12_000, A), (8193, EC), (16_385, A)):
        carried(filled(length, key), "invalid", "T1", f"at least {length} characters", trust=trust(A.jwk(), EC.jwk()))
    fine = seal(claims())
    for extra, note in (
        (".", "a dot after the signature"), (".AAAA", "a fourth part"), (f".{fine.split('.')[2]}", "the signature twice"), ("..", "two empty parts"),
        (".A.B", "five parts, as in a JWE"), (f".{fine}", "two tokens joined"),
    ):  # fmt: skip
        carried(fine + extra, "invalid", "T1", note)
    head, payload, signature = fine.split(".")
    for made, note in ((f"{head}.{payload}.", "empty signature"), (f"{head}.{payload}", "two parts"), (f"{head}..{signature}", "empty payload"), (f"\u00e9{fine}", "not ASCII")):
        carried(made, "invalid", "T1", note, also=["T2", "T3", "T7", "T4", "T5", "T6", "T8", "T9", "T10", "T11", "T12", "P9", "P7", "P8"])

    def spare(part: str) -> str:
        """Another spelling of the same bytes: the unused bits of the last character are not zero."""
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if len(part) % 4 not in (2, 3):
            raise ValueError("no unused bits")
        return part[:-1] + letters[letters.index(part[-1]) + 1]

    filler = next(size for size in range(3) if len(b64(compact(claims(filler="x" * size)).encode())) % 4 in (2, 3))
    payload = b64(compact(claims(filler="x" * filler)).encode())
    full = next(text for size in range(3) if len(text := b64(compact(claims(filler="x" * size)).encode())) % 4 == 0)
    plain = sign_parts(head, payload)
    signature = plain.split(".")[2]
    spaced = b64(b" " * next(n for n in range(1, 4) if (len(base64.urlsafe_b64decode(head + "==")) + n) % 3) + base64.urlsafe_b64decode(head + "=="))
    changes: Table = [
        (sign_parts(head, spare(payload)), "unused bits in the payload"), (sign_parts(spare(spaced), payload), "unused bits in the header"),
        (f"{head}.{payload}.{spare(signature)}", "unused bits in the signature"), (sign_parts(head, payload + "=="), "padding in the payload"),
        (f"{head}.{payload}.{signature}==", "padding in the signature"), (sign_parts(head + "=", payload), "padding in the header"),
        (sign_parts(head[:8] + "\n" + head[8:], payload), "a line break in the header"), (sign_parts(head, payload[:40] + " " + payload[40:]), "a blank in the payload"),
        (f"{head}.{payload}.{signature}\n", "a line break after the token"), (sign_parts(f" {head}", payload), "a blank before the token"),
        (f"{head}.{payload}.{signature[:10]}*{signature[10:]}", "a character of no alphabet in the signature"), (sign_parts(head, full + "A"), "a lone last character"),
        (sign_parts(head, payload[:20] + "\t" + payload[20:]), "a tab in the payload"),
    ]  # fmt: skip
    for made, note in changes:
        carried(made, "invalid", "T2", note)
    for size in itertools.count():
        odd = b64(compact(claims(filler="\u00ff\u00fe?>" * 3 + "x" * size)).encode())
        if "_" in odd or "-" in odd:
            carried(sign_parts(head, odd.replace("-", "+").replace("_", "/")), "invalid", "T2", "the alphabet of plain base64 in the payload")
            break

    text = compact(claims())
    deep = "[" * 8 + "]" * 8
    bom = b"\xef\xbb\xbf"
    raw: Table = [
        (bom + text.encode(), "a byte-order mark before the payload"), (text[:-1].encode() + b',"sub":"sub-1"}', "a name twice, with one value"),
        (b'{"rid":"req-9",' + text[1:].encode(), "a name twice, with two values"), (text.replace('"version":', '"version":"x","version":').encode(), "a name twice in an inner object"),
        (text.replace('"sub":"sub-1"', '"su\\u0062":"sub-2","sub":"sub-1"').encode(), "a name twice, once escaped"),
        (text[:-1].encode() + b',"x":"\\ud800"}', "a lone high surrogate"), (text[:-1].encode() + b',"x\\udc00":1}', "a lone low surrogate in a name"),
        (text[:-1].encode() + b',"x":NaN}', "NaN"), (text[:-1].encode() + b',"x":Infinity}', "Infinity"), (text[:-1].encode() + b',"x":[-Infinity]}', "-Infinity"),
        (text[:-1].encode() + f',"x":{deep}}}'.encode(), "depth 9"), (text[:-1].encode() + b',"x":' + b'{"a":' * 8 + b"1" + b"}" * 9, "objects to depth 9"),
        (text[:-1].encode() + b',"x":1.5}', "a fraction"), (text[:-1].encode() + b',"x":1.0}', "a fraction of nothing"), (text[:-1].encode() + b',"x":1e3}', "an exponent"),
        (text[:-1].encode() + b',"x":9007199254740992}', "2^53"), (text[:-1].encode() + b',"x":-9007199254740992}', "-2^53"),
        (text[:-1].encode() + b',"x":' + b"9" * 400 + b"}", "400 digits"), (text[:-1].encode() + b',"x":"\xff"}', "a byte that is not UTF-8"),
        (text[:-1].encode() + b',"x":"\xed\xa0\x80"}', "a surrogate encoded as UTF-8"), (text[:-1].encode() + b',"x":"\xc0\xaf"}', "an overlong encoding"),
        (text.encode() + b"{}", "a second object after the first"), (text.encode() + b"\0", "a zero byte after the object"), (text.encode() + b",", "a comma after the object"),
    ]  # fmt: skip
    for made, note in raw:
        carried(seal(made), "invalid", "T3", note)
    heading = compact({"alg": "Ed25519", "kid": A.kid, "typ": "ai-provenance+jwt"})
    for made, note in (
        (bom + heading.encode(), "a byte-order mark before the header"), (heading[:-1].encode() + b',"alg":"Ed25519"}', "a header member twice"),
        (b'{"kid":"x",' + heading[1:].encode(), "two kids"), (heading.encode() + b"]", "a bracket after the header"),
    ):  # fmt: skip
        carried(seal(claims(), header=made), "invalid", "T3", note)
    carried(seal(text.replace(f'"iat":{IAT}', f'"iat":{IAT}.0').encode()), "invalid", "T3", "iat with a fraction", also=["T9"])

    headers: Table = [
        ({"jku": f"{ISS}/keys"}, "jku"), ({"jwk": EVIL.jwk()}, "jwk"), ({"x5u": f"{ISS}/cert"}, "x5u"), ({"x5c": ["AA=="]}, "x5c"), ({"crit": ["exp"]}, "crit"),
        ({"b64": True}, "b64"), ({"crit": ["b64"], "b64": True}, "crit and b64"), ({"cty": "json"}, "cty"), ({"x5t": "AA"}, "x5t"), ({"exp": IAT}, "a claim in the header"),
        ({"typ": "JWT"}, "typ JWT"), ({"typ": "AI-Provenance+JWT"}, "typ in other case"), ({"typ": "application/ai-provenance+jwt"}, "typ with its prefix"),
        ({"typ": None}, "no typ"), ({"typ": "ai-key-history+jwt"}, "typ of a key history"), ({"typ": ["ai-provenance+jwt"]}, "typ in an array"), ({"": ""}, "a member without a name"),
    ]  # fmt: skip
    for members, note in headers:
        carried(seal(claims(), **members), "invalid", "T4", note)
    for members, note, also in (({"alg": None}, "no alg", ["T6"]), ({"kid": None}, "no kid", ["T5"]), ({"kid": [A.kid]}, "kid in an array", ["T5"]), ({"alg": None, "kid": None}, "typ alone", ["T5", "T6"])):
        carried(seal(claims(), **members), "invalid", "T4", note, also=also)


def token_keys() -> None:
    """T5 to T7."""
    both = {**trust(), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}}
    for iss, note in ((OTHER, "an issuer that nobody trusts"), ("https://api.example.com.evil.example", "the issuer as a prefix"), ("https://api.example.co", "the issuer cut"),
                      ("http://127.0.0.1:8000", "a loopback issuer"), ("https://api.example.com:444", "another port")):  # fmt: skip
        carried(seal(claims(iss=iss)), "undecidable", "T5", note)
    carried(seal(claims(iss=OTHER)), "undecidable", "T5", "relabelled: the other trusted issuer, our key", trust=both)
    carried(seal(claims(), THEIRS), "undecidable", "T5", "relabelled: our issuer, the other trusted issuer's key", trust=both)
    carried(seal(claims(iss=OTHER), THEIRS), "undecidable", "T5", "the other issuer's genuine token, not trusted here", trust={**trust(), "https://third.example": both[OTHER]})
    for kid, note in ((EVIL.kid, "the kid of an unknown key"), (A.kid.swapcase(), "the kid in other case"), (A.kid[:-1], "the kid cut"), ("", "an empty kid"), ("0", "kid 0"),
                      ("https://api.example.com/keys#1", "kid as an address"), ("../../keys/a", "kid as a path")):  # fmt: skip
        carried(seal(claims(), kid=kid), "undecidable", "T5", note)
    carried(seal(claims(), HIST), "undecidable", "T5", "signed by the key of purpose key-history")
    carried(seal(claims(), HIST_EC), "undecidable", "T5", "signed by a P-256 key of purpose key-history", trust=trust(A.jwk(), HIST_EC.jwk()))

    two = trust(A.jwk(), EC.jwk())
    for alg in ("ES256", "none", "HS256", "RS256", "ed25519", "eddsa", "Ed448", "", "ES384", "EdDSA ", "PS256"):
        carried(seal(claims(), alg=alg), "invalid", "T6", f"alg {alg!r} for an Ed25519 key", trust=two)
    for alg in ("Ed25519", "EdDSA", "ES384", "es256", "ES256K", "none", "HS256"):
        carried(seal(claims(), EC, alg=alg), "invalid", "T6", f"alg {alg!r} for a P-256 key", trust=two)

    def resigned(change: Callable[[bytes], bytes], key: Key = A) -> str:
        head, payload, signature = seal(claims(), key).split(".")
        return f"{head}.{payload}.{b64(change(base64.urlsafe_b64decode(signature + '==')))}"

    order = 2**252 + 27742317777372353535851937790883648493
    n_256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

    def der(signature: bytes) -> bytes:
        return utils.encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))

    signatures: Table = [
        (resigned(lambda s: s[:-1] + bytes([s[-1] ^ 1])), "a bit of S changed"), (resigned(lambda s: bytes([s[0] ^ 128]) + s[1:]), "a bit of R changed"),
        (resigned(lambda s: s[:-1]), "63 bytes"), (resigned(lambda s: s + b"\0"), "65 bytes"), (resigned(lambda _: bytes(64)), "zeros"), (resigned(lambda s: s[32:] + s[:32]), "halves swapped"),
        (resigned(lambda s: s[:32] + (int.from_bytes(s[32:], "little") + order).to_bytes(32, "little")), "S plus the group order"), (resigned(lambda s: s + s), "128 bytes"),
        (resigned(lambda s: s[:32]), "32 bytes"), (resigned(der, EC), "DER for ES256"), (resigned(lambda s: s[:-1] + bytes([s[-1] ^ 1]), EC), "a bit of s changed, ES256"),
        (resigned(lambda _: bytes(64), EC), "r and s zero"), (resigned(lambda s: s[:32] + n_256.to_bytes(32, "big"), EC), "s is the group order"), (resigned(lambda s: s + b"\0", EC), "65 bytes, ES256"),
        (seal(claims(), EVIL, kid=A.kid), "signed by another key"), (seal(claims(), EC_EVIL, kid=EC.kid), "signed by another P-256 key"),
        (".".join([*seal(claims(model="large-2")).split(".")[:2], seal(claims()).split(".")[2]]), "another model under the signature"),
        (".".join([seal(claims(), alg="EdDSA").split(".")[0], *seal(claims()).split(".")[1:]]), "alg changed to its other name after signing"),
    ]  # fmt: skip
    for made, note in signatures:
        carried(made, "invalid", "T7", note, trust=two)


def token_claims() -> None:
    """T8 to T12."""
    for ver, verdict in ((2, "undecidable"), (0, "undecidable"), (-1, "undecidable"), (3, "undecidable"), (10, "undecidable"), (2**53 - 1, "undecidable"), ("1", "invalid"), (None, "invalid"),
                         (True, "invalid"), ([1], "invalid"), ({}, "invalid"), (False, "invalid"), ("v1", "invalid"), (DROP, "invalid")):  # fmt: skip
        carried(seal(claims(ver=ver)), verdict, "T8", "no ver" if ver is DROP else f"ver {ver!r}")

    digest = sha("x")
    bent = digest[:-1] + chr(ord(digest[-1]) + 1)
    terms = lambda **over: {name: value for name, value in {**TERMS, **over}.items() if value is not DROP}  # noqa: E731 - a table's shorthand
    usage = lambda **over: {name: value for name, value in {**USAGE, **over}.items() if value is not DROP}  # noqa: E731 - a table's shorthand
    ledger = {"origin": "api.example.com/ledger", "size": 7, "root": digest}
    forms: Table = [
        ({"iat": DROP}, "no iat"), ({"iat": str(IAT)}, "iat as a string"), ({"iat": None}, "iat null"), ({"iat": True}, "iat true"), ({"jti": DROP}, "no jti"), ({"jti": ""}, "empty jti"),
        ({"jti": "a" * 65}, "65 characters of jti"), ({"jti": "a b"}, "a blank in jti"), ({"jti": 1}, "jti a number"), ({"rid": DROP}, "no rid"), ({"rid": "a/b"}, "a slash in rid"),
        ({"rid": "r\u00e9q"}, "a letter outside the set in rid"), ({"rid": "req-1\n"}, "a line break after rid"), ({"sub": DROP}, "no sub"), ({"sub": "x" * 65}, "65 characters of sub"),
        ({"sub": "a@b.example"}, "an address as sub"), ({"sub": None}, "sub null"), ({"stage": "done"}, "an unknown stage"), ({"stage": "Final"}, "stage in other case"), ({"stage": DROP}, "no stage"),
        ({"model": DROP}, "no model"), ({"model": ""}, "empty model"), ({"model": "m" * 97}, "97 characters of model"), ({"model": ["small-1"]}, "model an array"), ({"dst": DROP}, "no dst"),
        ({"dst": None}, "dst null"), ({"dst": 1}, "dst a number"), ({"terms": DROP}, "no terms"), ({"terms": "2026-11"}, "terms a string"), ({"terms": terms(uri=DROP)}, "terms without uri"),
        ({"terms": terms(version=1)}, "terms version a number"), ({"terms": terms(sha256=DROP)}, "terms without digest"), ({"terms": terms(sha256=digest[:-1])}, "42 characters of terms digest"),
        ({"terms": terms(sha256=digest + "=")}, "padded terms digest"), ({"terms": terms(sha256=hashlib.sha256(b"x").hexdigest())}, "terms digest in hexadecimal"),
        ({"terms": terms(receipt=7)}, "receipt a number"), ({"usage": DROP}, "no usage"), ({"usage": []}, "usage an array"), ({"usage": usage(sha256=None)}, "usage digest null"),
        ({"usage": usage(clauses=DROP)}, "usage without clauses"), ({"usage": usage(clauses=[f"c{i}" for i in range(9)])}, "nine clause ids"), ({"usage": usage(clauses="no-resale")}, "clauses a string"),
        ({"usage": usage(clauses=[1])}, "a clause id that is a number"), ({"usage": usage(content_usage=DROP)}, "usage without content_usage"), ({"usage": usage(content_usage={"train-ai": "n"})}, "content_usage an object"),
        ({"req": DROP}, "no req"), ({"req": None}, "req null"), ({"req": digest[:-1]}, "42 characters of req"), ({"req": digest + "A"}, "44 characters of req"), ({"req": digest[:-1] + "+"}, "req in another alphabet"),
        ({"req": bent}, "req in a spelling that is not canonical"), ({"completion": "done"}, "an unknown completion"), ({"completion": None}, "completion null"), ({"completion": "Complete"}, "completion in other case"),
        ({"nonce": ""}, "empty nonce"), ({"nonce": "n" * 129}, "129 characters of nonce"), ({"nonce": 5}, "nonce a number"), ({"grant": 5}, "grant a number"), ({"grant": None}, "grant null"),
        ({"status": "active"}, "status a string"), ({"status": []}, "status an array"), ({"ledger": "x"}, "ledger a string"), ({"ledger": {**ledger, "size": "7"}}, "ledger size a string"),
        ({"ledger": {**ledger, "root": "x"}}, "ledger root no digest"), ({"ledger": {"size": 7, "root": digest}}, "ledger without origin"), ({"ledger": {**ledger, "index": "1"}}, "ledger index a string"),
    ]  # fmt: skip
    for over, note in forms:
        carried(seal(claims(**over)), "invalid", "T9", note)
    carried(seal(claims(aud=["https://reader.example"])), "invalid", "T9", "aud an array", also=["T14"], audience="https://reader.example")
    carried(seal(claims(exp="never")), "invalid", "T9", "exp a string", also=["T13"])
    carried(seal(claims(iss=f"{ISS}/")), "invalid", "T9", "iss with a slash at its end, trusted under that name", trust={f"{ISS}/": {"keys": key_set(A.jwk(), issuer=f"{ISS}/")}})
    carried(seal(claims(iss="http://api.example.com")), "invalid", "T9", "iss over http, trusted under that name", trust={"http://api.example.com": {"keys": key_set(A.jwk(), issuer="http://api.example.com")}})

    for kind in ("body", "stream", "text"):
        carried(seal(claims(completion=DROP)), "invalid", "T10", "a final token without completion", kind)
    vector("body", "[1,2]", "invalid", rule="T10", note="a final token without completion, in the header alone", token=seal(claims([leaf(0, "body", "[1,2]")], "json-1", completion=DROP)))
    vector("body", b"\0\1", "invalid", rule="T10", note="a final token over bytes without completion", token=seal(claims([leaf(0, "body", b"\0\1")], "bytes-1", completion=DROP)))
    for kind in ("body", "text"):
        carried(seal(claims(stage="pending")), "invalid", "T10", "a pending token with content and completion", kind)
        carried(seal(claims(stage="pending", completion=DROP)), "invalid", "T10", "a pending token with content", kind)
        carried(seal(pending()), "incomplete", "T10", "a pending token", kind)
    vector("body", "[1,2]", "invalid", rule="T10", note="a pending token with content and completion, in the header alone", token=seal(claims([leaf(0, "body", "[1,2]")], "json-1", stage="pending")))
    vector("body", "[1,2]", "incomplete", rule="T10", note="a pending token in the header alone", token=seal(pending()))
    vector("body", b"\0\1", "incomplete", rule="T10", note="a pending token for bytes", token=seal(pending()))
    carried(seal(pending(), EC), "incomplete", "T10", "a pending token signed with ES256", "body", trust=trust(EC.jwk()))
    carried(seal(claims(content=DROP)), "invalid", "T10", "a final token without content", "body", also=["P9", "P7"])
    carried(seal(pending(completion="complete")), "invalid", "T10", "a pending token with completion", "body", also=["P9", "P7"])

    answers = ["One.", "Two.", "Three.", "Four.", "Five.", "Six.", "Seven."]
    many = [leaf(i, "text", text) for i, text in enumerate(answers)]
    choices = lambda n: [choice(text, i) for i, text in enumerate(answers[:n])]  # noqa: E731 - a table's shorthand
    deltas = lambda n: [chunk({"content": text}, i) for i, text in enumerate(answers[:n])]  # noqa: E731 - a table's shorthand
    for n in range(5):
        token = seal(claims(content=content(many[:n], leaves=DROP)))
        vector("body", body(token, choices(n)), note=f"n = {n} without leaves in the token")
        vector("stream", sse([*deltas(n), last(token)]), note=f"stream: n = {n} without leaves in the token")
        if n:
            vector("text", "One.", note=f"a text beside given leaves, n = {n}", token=token, leaves=many[:n])
    for n in (5, 6, 7):
        token = seal(claims(content=content(many[:n], leaves=many[:n])))
        vector("body", body(token, choices(n)), "invalid", rule="T11", note=f"n = {n} with leaves")
        vector("stream", sse([*deltas(n), last(token)]), "invalid", rule="T11", note=f"n = {n} with leaves, in a stream")
        vector("text", "Three.", "invalid", rule="T11", note=f"n = {n} with leaves, for a text", token=token)
    for odd in (None, {}, "x", 1, True):
        vector("body", body(seal(claims(content=content(LEAVES, leaves=odd)))), "invalid", rule="T11", note=f"leaves {odd!r}")
    vector("body", body(seal(claims(content=content(many[:5], leaves=None))), choices(5)), "invalid", rule="T11", note="n = 5 with leaves null")
    carried(seal(claims(content=content(LEAVES, n=True))), "invalid", "T11", "n is true", "body")
    for n, count in ((1, 2), (2, 1), (3, 4), (4, 3), (0, 1)):
        vector("text", "One.", "invalid", rule="T11", note=f"n = {n} beside {count} leaves", also=["P6"], token=seal(claims(content=content(many[:count], n=n))))
    for over, note, also in (({"n": "1"}, "n a string", ["P6", "P7"]), ({"n": -1}, "n negative", ["P6", "P7"]), ({"root": None}, "root null", ["P6", "P7"]), ({"proj": 1}, "proj a number", ["P9"]), ({"root": bent}, "root not canonical", ["P6", "P7"]),
                             ({"proj": DROP}, "no proj", ["P9"]), ({"n": 65_537, "leaves": DROP}, "n = 65,537", ["P7"])):  # fmt: skip
        carried(seal(claims(content=content(LEAVES, **over))), "invalid", "T11", note, "body", also=also)
    carried(seal(claims(content=[content(LEAVES)])), "invalid", "T11", "content an array", "body", also=["P9", "P7"])

    for ahead in (61, 62, 90, 120, 300, 3600, 86_400, 31_536_000, 10**12, 2**53 - 1 - NOW):
        carried(seal(claims(iat=NOW + ahead)), "invalid", "T12", f"signed {ahead} seconds ahead of the verifier's clock")
    carried(seal(claims()), "invalid", "T12", "the verifier's clock is an hour slow", now=IAT - 3600)
    carried(seal(claims(iat=NOW * 1000)), "invalid", "T12", "iat in milliseconds")


def token_demands() -> None:
    """T13 to T16."""
    for late in (1, 2, 59, 60, 61, 3600, 86_400, NOW - IAT, NOW - 1, NOW, NOW + 1):
        carried(seal(claims(exp=NOW - late)), "unacceptable", "T13", f"expired {late} seconds ago")
    carried(seal(claims(exp=NOW)), "unacceptable", "T13", "read a year after its expiry", now=NOW + 31_536_000)
    reader = "https://reader.example"
    for aud, audience in ((DROP, reader), (reader, None), ("https://other.example", reader), (reader + "/", reader), (reader.upper(), reader), ("reader.example", reader), ("", reader), (reader[:-1], reader),
                          (reader, reader + "/x"), ("*", reader), ("", None), (ISS, None)):  # fmt: skip
        carried(seal(claims(aud=aud)), "unacceptable", "T14", f"{'no aud' if aud is DROP else f'aud {aud!r}'}, expected {audience!r}", **({"audience": audience} if audience is not None else {}))
    for nonce, expected in ((DROP, "n-1"), ("n-2", "n-1"), ("N-1", "n-1"), ("n-1 ", "n-1"), ("n-", "n-1"), ("n-11", "n-1"), ("0", "00"), ("\u00e9", "e\u0301"), ("a", "b"), ("*", "n-1"), ("n-1", "n-1\n"), ("null", "None")):
        carried(seal(claims(nonce=nonce)), "unacceptable", "T15", f"{'no nonce' if nonce is DROP else f'nonce {nonce!r}'}, expected {expected!r}", nonce=expected)
    for request, note in ((REQUEST + "\n", "a line break after the request"), (REQUEST[:-1], "the request cut"), (REQUEST.replace("hello", "Hello"), "a letter changed"), ("", "an empty request"),
                          (json.dumps(json.loads(REQUEST)), "the request spaced"), (json.dumps(json.loads(REQUEST), sort_keys=True, separators=(",", ":")), "members sorted"), ("\ufeff" + REQUEST, "a byte-order mark")):  # fmt: skip
        carried(seal(claims()), "unacceptable", "T16", note, request=request, salt=SALT_TEXT)
    for req, note in ((req_of(REQUEST, bytes(32)), "another salt"), (sha(REQUEST), "a plain digest"), (b64(hashlib.sha256(SALT + REQUEST.encode()).digest()), "digest of salt and request"), (req_of("x"), "another request"),
                      (b64(hmac.digest(REQUEST.encode(), SALT, "sha256")), "salt and request exchanged"), (b64(hmac.digest(SALT_TEXT.encode(), REQUEST.encode(), "sha256")), "the salt's letters as key")):  # fmt: skip
        carried(seal(claims(req=req)), "unacceptable", "T16", note, request=REQUEST, salt=SALT_TEXT)


def projection_form() -> None:
    """P1 to P3."""
    def chat(rule: str, note: str, leaves: list[Any], choices: Any, **more: Any) -> None:
        vector("body", body(seal(claims(leaves)), choices), "invalid", rule=rule, note=note, **more)

    def streamed(rule: str, note: str, leaves: list[Any], events: list[Any], **more: Any) -> None:
        vector("stream", sse([*events, last(seal(claims(leaves)))]), "invalid", rule=rule, note=note, **more)

    for index in ("0", None, -1, 65_536, True, 1.5, [0], DROP):
        entry = {name: value for name, value in choice(index=index).items() if value is not DROP}
        chat("P1", "no index" if index is DROP else f"index {index!r}", LEAVES, [entry])
    for index in ("0", -1, 65_536, None):
        streamed("P1", f"index {index!r} in a stream", LEAVES, [chunk({"content": HELLO}, index)])
    chat("P1", "two choices of one index", [leaf(0, "refusal", "No."), leaf(0, "text", HELLO)], [choice(), choice(None, refusal="No.")])
    for odd in (5, "x", [], None, True):
        chat("P1", f"a choice that is {odd!r}", LEAVES, [choice(), odd])
    for odd in ("x", [], 5, False):
        chat("P1", f"a message that is {odd!r}", LEAVES, [choice(), {"index": 1, "message": odd}])
    for name, odd in (("tool_calls", {}), ("tool_calls", "x"), ("tool_calls", ["x"]), ("tool_calls", [{"function": "f"}]), ("tool_calls", [{"custom": []}]), ("function_call", "f"), ("function_call", [])):
        chat("P1", f"{name} {odd!r}", LEAVES, [choice(**{name: odd})])
    chat("P1", "choices an object", [], {"0": choice()})
    chat("P1", "choices a string", [], "none")
    chat("P1", "257 tool calls", LEAVES, [choice(tool_calls=[{"id": f"c{i}", "type": "function", "function": {}} for i in range(257)])])
    for at, odd in (("0", "'0'"), (None, "null"), (1.5, "1.5")):
        streamed("P1", f"a tool call of index {odd} in a stream", [leaf(0, "tool_calls.0.name", "f")], [chunk({"tool_calls": [{"index": at, "function": {"name": "f"}}]})])
    streamed("P1", "a tool call of index 256 in a stream", [leaf(0, "tool_calls.256.name", "f")], [chunk({"tool_calls": [{"index": 256, "function": {"name": "f"}}]})])
    streamed("P1", "delta an array", LEAVES, [*HELLO_EVENTS, chunk(["x"])])
    streamed("P1", "choices of an event an object", LEAVES, [*HELLO_EVENTS, chunk(choices={})])

    text = "A caf\u00e9 for two."
    changes: Table = [
        ("A cafe\u0301 for two.", text, "the sealed text decomposed"), ("A caf\u00e9  for two.", text, "two blanks inside"), ("A caf\u00e9\u00a0for two.", text, "a no-break space inside"),
        ("A caf\u00e9\tfor two.", text, "a tab inside"), ("A caf\u00e9\r\nfor two.", text, "a line break inside"), ("\u00a0" + text, text, "a no-break space before"), (text + "\u000b", text, "U+000B after"),
        (text + "\u0085", text, "U+0085 after"), (text + "\u2028", text, "U+2028 after"), ("\u3000" + text, text, "U+3000 before"), (text + "\u000c", text, "U+000C after"), (text + "\u001f", text, "U+001F after"),
        ("The \ufb01rst.", "The first.", "a ligature"), ("\uff21 letter.", "A letter.", "a full-width letter"), ("\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m", "the angstrom sign for its letter"), ("x\u00b2", "x2", "a superscript"),
    ]  # fmt: skip
    for shown, sealed, note in changes:
        chat("P2", note, [leaf(0, "text", sealed)], [choice(shown)])
    arguments = '{"a": 1}'
    for shown, note in ((arguments + "\n", "a line break after"), (" " + arguments, "a blank before"), ('{"a":\r\n1}', "a line break inside"), ('{"a":\t1}', "a tab inside"), (arguments + "\r", "a carriage return after")):
        chat("P2", f"an exact value is not normalised: {note}", [leaf(0, "tool_calls.0.arguments", arguments)], [choice(None, tool_calls=[{"function": {"arguments": shown}}])])
    streamed("P2", "blanks around a joined text are removed only at its ends", [leaf(0, "text", "Hello, world.")], [chunk({"content": "Hello, "}), chunk({"content": " world."})])

    odd_values: Table = [(5, "5"), (0, "0"), (1.5, "1.5"), (True, "true"), (False, "false"), (["a", "b"], '["a","b"]'), ({"a": 1}, '{"a":1}'), ([], "[]"), ({}, "{}")]
    for value, spelt in odd_values:
        chat("P3", f"content {spelt} sealed as its JSON text", [leaf(0, "text", spelt)], [choice(value)])
    for value, spelt in ((5, "5"), ([1, 2], "[1,2]"), (True, "true")):
        chat("P3", f"arguments {spelt} sealed as its JSON text", [leaf(0, "tool_calls.0.arguments", spelt)], [choice(None, tool_calls=[{"function": {"arguments": value}}])])
    chat("P3", "the name of a tool an object", [leaf(0, "tool_calls.0.name", '{"a":1}')], [choice(None, tool_calls=[{"function": {"name": {"a": 1}}}])])
    chat("P3", "refusal a number", [leaf(0, "refusal", "7"), leaf(0, "text", HELLO)], [choice(refusal=7)])
    for shown in ("a\ud800", "\udc00a", "a\udc00\ud800b", "\ud83d \ude00"):
        chat("P3", "a lone surrogate sealed as U+FFFD", [leaf(0, "text", "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in shown))], [choice(shown)])
    streamed("P3", "halves that another delta keeps apart", [leaf(0, "text", "\ufffd-\ufffd")], [chunk({"content": "\ud83d"}), chunk({"content": "-"}), chunk({"content": "\ude00"})])
    streamed("P3", "a number among the deltas", [leaf(0, "text", "Hello5")], [chunk({"content": "Hello"}), chunk({"content": 5})])
    chat("P3", "arguments that are no I-JSON: a lone surrogate", [leaf(0, "tool_calls.0.arguments", '{"a":"\ufffd"}')], [choice(None, tool_calls=[{"function": {"arguments": {"a": "\ud800"}}}])])
    chat("P3", "arguments that are no I-JSON: 2^53", [leaf(0, "tool_calls.0.arguments", '{"a":9007199254740992}')], [choice(None, tool_calls=[{"function": {"arguments": {"a": 2**53}}}])])


def projection_leaves() -> None:
    """P4 to P9."""
    good = [0, "text", sha(HELLO)]
    def inline(rule: str, note: str, leaves: list[Any], **more: Any) -> None:
        over = more.pop("over", {})
        vector("text", HELLO, "invalid", rule=rule, note=note, token=seal(claims(content=content(leaves, **over))), **more)

    digest = sha("x")
    bad_leaves: Table = [
        ([1, "text", digest, 0], "a fourth element"), ([1, "text", digest[:-1]], "42 characters of digest"), ([1, "text", hashlib.sha256(b"x").hexdigest()], "a digest in hexadecimal"), ([1, "text", digest + "="], "a padded digest"),
        ([1, "text", digest[:-1] + chr(ord(digest[-1]) + 1)], "a digest that is not canonical"), ([1, "Text", digest], "a capital in the name"), ([1, "", digest], "an empty name"), ([1, "a" * 65, digest], "65 characters of name"),
        ([1, "te xt", digest], "a blank in the name"), ([65_536, "text", digest], "choice 65,536"), ([1, "text", ""], "an empty digest"), ([1, "text", False], "false for a digest"), ([1, "text", 0], "0 for a digest"),
        ([1, "text", [digest]], "a digest in an array"), ([1, "te-xt", digest], "a hyphen in the name"),
    ]  # fmt: skip
    for odd, note in bad_leaves:
        inline("P4", note, [good, odd])
    inline("P4", "choice -1", [[-1, "text", digest], good])
    five = [good, *([i, "text", sha(str(i))] for i in range(1, 5))]
    for odd, note in bad_leaves[1:5]:
        leaves = [*five[:4], [4, *odd[1:]]]
        vector("text", HELLO, "invalid", rule="P4", note=f"{note}, among given leaves", token=seal(claims(leaves)), leaves=leaves)

    a, b, c = [0, "text", sha("a")], [1, "text", sha(HELLO)], [2, "text", sha("c")]
    orders: Table = [
        ([b, a], "choices exchanged"), ([a, c, b], "the last two choices exchanged"), ([[0, "text", sha(HELLO)], [0, "refusal", sha("r")]], "names exchanged"), ([b, b], "a leaf twice"),
        ([b, [1, "text", sha("x")]], "two digests of one part"), ([[1, "text", None], b], "null and digest of one part"), ([c, b, a], "backwards"),
        ([b, [10, "text", digest], [2, "text", digest]], "choices ordered as strings"), ([good, [0, "tool_calls.2.name", digest], [0, "tool_calls.10.name", digest]], "numbers in names ordered as numbers"),
        ([[0, "tool_calls.0.name", digest], good], "tool calls before the text"), ([[0, "text", digest], [1, "refusal", digest], [0, "tool_calls.0.name", digest], [1, "text", sha(HELLO)]], "ordered by name first"),
    ]  # fmt: skip
    for leaves, note in orders:
        inline("P5", note, leaves)
    for leaves, note in (([*five[1:], five[0]], "the first leaf last"), ([five[1], five[0], *five[2:]], "two exchanged"), ([five[0], *five[:4]], "a leaf twice"), (list(reversed(five)), "backwards")):
        vector("text", HELLO, "invalid", rule="P5", note=f"{note}, among given leaves", token=seal(claims(leaves)), leaves=leaves)

    def leaf_hash(item: Any, spell: Callable[[Any], str] = compact, prefix: bytes = b"\0") -> bytes:
        return hashlib.sha256(prefix + spell(item).encode()).digest()

    one, three = [good], [a, b, c]
    plain = lambda x, y: hashlib.sha256(x + y).digest()  # noqa: E731 - a table's shorthand
    h = [leaf_hash(item) for item in three]
    roots: Table = [
        (one, hashlib.sha256(compact(one).encode()).digest(), "the digest of the array of leaves"), (one, leaf_hash(good, prefix=b""), "a leaf hashed without its prefix"), (one, leaf_hash(good, json.dumps), "leaves spelt with blanks"),
        (one, leaf_hash(good, prefix=b"\1"), "a leaf with the prefix of a node"), (one, hashlib.sha256(b"").digest(), "the root of nothing"), (one, tree([[0, "text", sha("x")]]), "the root of another leaf"), (one, bytes(32), "zeros"),
        (three, node(h[0], node(h[1], h[2])), "a tree split before the middle"), (three, node(node(h[0], h[1]), node(h[2], h[2])), "the odd leaf doubled"), (three, plain(plain(h[0], h[1]), h[2]), "nodes without their prefix"),
        (three, node(node(h[1], h[0]), h[2]), "left and right exchanged"), (three, hashlib.sha256(b"".join(h)).digest(), "a flat list of hashes"), (three, tree(three[:2]), "the last leaf left out"), (three, node(h[2], node(h[0], h[1])), "the large half on the right"),
    ]  # fmt: skip
    for leaves, wrong, note in roots:
        vector("text", HELLO, "invalid", rule="P6", note=note, token=seal(claims(content=content(leaves, root=b64(wrong)))))
    for token_leaves, given, note in ((five, [*five[:4], [4, "text", digest]], "a given leaf is another"), (five, [*five, [5, "text", digest]], "one leaf more is given"), (five, five[:4], "one leaf less is given"), (five, [good], "only the text's own leaf is given")):
        vector("text", HELLO, "invalid", rule="P6", note=note, token=seal(claims(token_leaves)), leaves=given)
    vector("text", HELLO, "invalid", rule="P6", note="n is one more than the leaves given", token=seal(claims(content=content(five, n=6))), leaves=five)
    vector("text", HELLO, "invalid", rule="P6", note="n is one less than the leaves given", token=seal(claims(content=content([*five, [5, "text", digest]], n=5))), leaves=[*five, [5, "text", digest]])

    fine = seal(claims())
    shown: Table = [
        ([choice("Hello, world!")], "a character changed"), ([choice("hello, world.")], "a letter's case changed"), ([choice("Hello, world.\u200b")], "a zero-width space added"), ([choice(HELLO + " More.")], "a sentence added"),
        ([choice("Hello, w\u043erld.")], "a Cyrillic letter"), ([], "the choice removed"), ([choice(None)], "the text removed"), ([choice(), choice("Hi.", 1)], "a choice added"), ([choice(index=1)], "the choice renumbered"),
        ([choice(refusal="No.")], "a refusal added"), ([choice(None, refusal=HELLO)], "the text moved to the refusal"), ([choice(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])], "a tool call added"),
        ([choice(reasoning="Hm.")], "reasoning added"), ([choice(function_call={"name": "f", "arguments": ""})], "a function call added"),
    ]  # fmt: skip
    for choices, note in shown:
        vector("body", body(fine, choices), "invalid", rule="P7", note=note)
    called = seal(claims([leaf(0, "tool_calls.0.name", "get_weather_now")]))
    halves = [{"function": {"name": "get_weather"}, "custom": {"name": "_now"}}]
    vector("body", body(called, [choice(None, tool_calls=halves)]), "invalid", rule="P7", note="half of a function's name moved to a custom tool beside it")
    for events, note in (([*HELLO_EVENTS[:2]], "a delta lost"), ([HELLO_EVENTS[2], HELLO_EVENTS[1]], "deltas exchanged"), ([*HELLO_EVENTS, HELLO_EVENTS[2]], "a delta twice"), ([], "no deltas")):
        vector("stream", sse([*events, last(fine)]), "invalid", rule="P7", note=f"{note}, in a stream")
    listing = seal(claims([leaf(0, "body", '{"a":1}')], "json-1"))
    vector("body", json.dumps({"a": 2, "ai_provenance": tag(listing)}), "invalid", rule="P7", note="a number changed in plain JSON")
    vector("body", json.dumps({"a": 1, "b": None, "ai_provenance": tag(listing)}), "invalid", rule="P7", note="a member of null added to plain JSON")
    vector("body", '{"a":"1"}', "invalid", rule="P7", note="a number turned to a string, token in the header", token=listing)
    vector("body", b"\0\1\2", "invalid", rule="P7", note="a byte more", token=seal(claims([leaf(0, "body", b"\0\1")], "bytes-1")))
    vector("body", b"", "invalid", rule="P7", note="all bytes lost", token=seal(claims([leaf(0, "body", b"\0\1")], "bytes-1")))
    for others, note in (([leaf(0, "text", "Hi.")], "other leaves"), ([], "no leaves"), ([*LEAVES, leaf(1, "text", "Hi.")], "a leaf more")):
        beside = {"token": fine, "leaves": others}
        vector("body", body(None, tagged=beside), "invalid", rule="P7", note=f"{note} beside the token")
        vector("stream", sse([*HELLO_EVENTS, chunk(None, 0, "stop", ai_provenance=beside)]), "invalid", rule="P7", note=f"{note} beside the token, in a stream")

    def text_of(shown: str, leaves: list[Any], note: str, /, verdict: str = "invalid", **more: Any) -> None:
        vector("text", shown, verdict, rule="P8", note=note, token=seal(claims(leaves)), **more)

    for shown, note in (("Hello, world", "cut"), ("Hello, World.", "a letter changed"), ("", "empty"), ("Hello,  world.", "a blank more inside"), (HELLO * 2, "twice"), ('"Hello, world."', "in quotation marks")):
        text_of(shown, LEAVES, f"a text {note}")
    text_of(HELLO, [leaf(0, "refusal", HELLO)], "the text of a refusal")
    text_of(HELLO, [leaf(0, "reasoning", HELLO), leaf(0, "text", "Hi.")], "the text of the reasoning")
    text_of(HELLO, [leaf(0, "tool_calls.0.arguments", HELLO)], "the text of tool arguments")
    text_of(HELLO, [leaf(0, "body", HELLO)], "the text of a part named body")
    text_of(HELLO, [], "nothing was sealed")
    text_of(HELLO, [[0, "text", None]], "the part was uncoverable")
    text_of(HELLO, [leaf(0, "text", HELLO), leaf(1, "text", "Hi.")], "the text of another choice", choice=1)
    text_of(HELLO, [leaf(0, "text", HELLO)], "a choice that was not sealed", choice=1)
    text_of(HELLO, five, "without the leaves", "undecidable")
    vector("text", HELLO, "undecidable", rule="P8", note="one leaf, and neither in the token nor given", token=seal(claims(content=content(LEAVES, leaves=DROP))))
    text_of("Hi.", five, "not among the given leaves", leaves=five)
    text_of(HELLO, five, "of another choice among the given leaves", leaves=five, choice=3)

    for proj in ("chat-2", "", "CHAT-1", "chat", "chat-1 ", "json-2", "text-1", "openai", "bytes", "*"):
        carried(seal(claims(content=content(LEAVES, proj))), "undecidable", "P9", f"proj {proj!r}")
    for members, note in (({}, "an empty object"), ({"id": "x"}, "an object without choices"), ({"choices": None}, "choices null")):
        vector("body", json.dumps({**members, "ai_provenance": tag(seal(claims([])))}), "invalid", rule="P9", note=f"chat-1 over {note}")
    vector("body", '{"id":"x"}', "invalid", rule="P9", note="chat-1 over an object without choices, token in the header", token=seal(claims([])))
    vector("body", "[]", "invalid", rule="P9", note="chat-1 over an array, token in the header", token=seal(claims([])))
    vector("stream", stream(seal(claims(LEAVES, "json-1"))), "invalid", rule="P9", note="json-1 over a stream")
    vector("stream", stream(seal(claims(LEAVES, "bytes-1"))), "invalid", rule="P9", note="bytes-1 over a stream that carries the token")
    vector("body", body(seal(claims([leaf(0, "body", "x")], "bytes-1"))), "invalid", rule="P9", note="bytes-1 over a JSON body that carries the token", also=["P7"])


def carriers() -> None:
    """C1 to C10."""
    fine = seal(claims())
    others = [leaf(0, "text", HELLO)]
    tags: Table = [
        (fine, "the token itself"), ([tag(fine)], "an array"), ({"token": [fine]}, "the token in an array"), ({"token": fine, "leaves": {}}, "leaves an object"), ({"token": fine, "leaves": "x"}, "leaves a string"),
        ({"token": fine, "leaves": 1}, "leaves a number"), ({"token": fine, "leaves": [5]}, "a leaf that is a number"), ({"token": fine, "leaves": [[0, "text"]]}, "a leaf of two"), ({"token": fine, "leaves": [["0", "text", sha("x")]]}, "a choice that is a string"),
        ({"token": fine, "leaves": others[0]}, "a leaf for the array"), ({"token": fine, "leaves": [[0, "text", "x"]]}, "a digest too short"),
    ]  # fmt: skip
    for made, note in tags:
        if next(TURN) == "stream":
            vector("stream", sse([*HELLO_EVENTS, chunk(None, finish="stop", ai_provenance=made)]), "invalid", rule="C1", note=note)
        else:
            vector("body", body(None, tagged=made), "invalid", rule="C1", note=note)
    for made, note in (({"tokens": [fine]}, "no token"), ({"token": None}, "token null"), (5, "a number"), ({}, "empty")):
        vector("body", body(None, tagged=made), "invalid", rule="C1", note=note, also=["T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "P9", "P7"])

    twin = seal(claims(jti="tok-2"))
    for header, note in ((twin, "another genuine token of the same content"), (seal(pending()), "a pending token"), (fine[:-1], "the token cut"), (fine + " ", "a blank after it"), ("x", "no token at all"), (fine.swapcase(), "the token in other case"),
                         (seal(claims(sub="sub-2")), "another account"), (seal(claims(), EC), "the same claims under another key"), (f'"{fine}"', "the token in quotation marks"), (f"{fine}, {fine}", "the token twice")):  # fmt: skip
        vector("body", body(fine), "invalid", rule="C2", note=f"header and member differ: {note}", token=header)
    for shown, note in ((UNTAGGED, "a chat completion"), ("{}", "an empty object"), ("[]", "an array"), ('"x"', "a string"), ('{"choices":[]}', "no choices"), ('{"data":{"ai_provenance":{"token":"' + fine + '"}}}', "a tag further inside")):
        vector("body", shown, "absent", rule="C2", note=f"neither header nor member: {note}")

    text = json.dumps(USAGE_EVENT, separators=(",", ":"))
    raw: Table = [
        ('data: {"id":"x","id":"x"}', "a name twice"), ("data: {" + '"a":1,' + text[1:-1] + ',"a":2}', "a name twice with two values"), ('data: {"x":NaN}', "NaN"), ('data: {"x":[Infinity]}', "Infinity"), ("data: []", "an array"), ('data: "x"', "a string"),
        ("data: 5", "a number"), ("data: null", "null"), ("data: \ufeff{}", "a byte-order mark in an event"), ('data: {"x":' + "[" * 64 + "]" * 64 + "}", "depth 65"), ("data: {}{}", "two objects"), ("data: [DONE] ", "a blank after [DONE]"), ("data: [done]", "[done] in small letters"),
        ("data: ping", "a word"), ('data: {"x":1', "an object cut"), ("data: {'x':1}", "single quotation marks"), ('data: {"x":1,}', "a comma too many"), ('data: {"x":01}', "a leading zero"), ("data: [DONE]\ndata: ", "a line after [DONE] in its event"),
    ]  # fmt: skip
    for event, note in raw:
        vector("stream", sse([*HELLO_EVENTS, event, last(fine)]), "invalid", rule="C3", note=note)
    vector("stream", sse([*HELLO_EVENTS, last(fine)]).encode().replace(b'"object"', b'"\xff":0,"object"', 1), "invalid", rule="C3", note="a byte that is not UTF-8")
    vector("stream", sse([*HELLO_EVENTS, last(fine), "data: {}{}"]), "invalid", rule="C3", note="two objects after the token")

    first = seal(pending())
    for extra, note in (([last(fine)], "the token twice"), ([last(twin)], "two genuine tokens"), ([chunk(None, finish="stop", ai_provenance=tag(seal(pending(jti="tok-9"))))], "a pending token besides"), ([{"ai_provenance": tag(fine)}], "an event of its own besides")):
        vector("stream", sse([*HELLO_EVENTS, last(fine), *extra]), "invalid", rule="C4", note=note)
    vector("stream", sse([{"ai_provenance": tag(twin)}, *HELLO_EVENTS, last(fine)]), "invalid", rule="C4", note="another genuine token first", also=["C5"])
    vector("stream", sse([chunk({"content": HELLO}, ai_provenance=tag(twin)), last(fine)]), "invalid", rule="C4", note="another genuine token with the content")
    vector("stream", stream(first), "invalid", rule="C4", note="a pending token in the last event")
    vector("stream", stream(first), "invalid", rule="C4", note="a pending token in the last event, and in the header", token=first)
    vector("stream", sse([chunk({"content": HELLO}, ai_provenance=tag(first))]), "invalid", rule="C4", note="a pending token alone")
    vector("stream", stream(seal(pending(), EC)), "invalid", rule="C4", note="a pending ES256 token in the last event", trust=trust(EC.jwk()))
    plain = sse([*HELLO_EVENTS, chunk(None, finish="stop")])
    vector("stream", plain, "absent", rule="C4", note="no token")
    vector("stream", plain, "incomplete", rule="C4", note="no token, but a pending one in the header", token=first)
    vector("stream", "", "absent", rule="C4", note="an empty stream")
    vector("stream", "", "incomplete", rule="C4", note="an empty stream after a pending token", token=first)
    vector("stream", ": ping\n\n", "absent", rule="C4", note="comments alone")
    vector("stream", "data: [DONE]\n\n", "absent", rule="C4", note="[DONE] alone")

    whole = "Hello, world. And more."
    longer = seal(claims([leaf(0, "text", whole)]))
    with_tool = seal(claims([leaf(0, "text", HELLO), leaf(0, "tool_calls.0.name", "f")]))
    late: Table = [
        (longer, chunk({"content": " And more."}), "text"), (longer, chunk({"content": " And more."}, finish="stop"), "text with a finish_reason"), (with_tool, chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}), "a tool call"),
        (seal(claims([leaf(0, "refusal", "No."), leaf(0, "text", HELLO)])), chunk({"refusal": "No."}), "a refusal"), (seal(claims([leaf(0, "reasoning", "Hm."), leaf(0, "text", HELLO)])), chunk({"reasoning": "Hm."}), "reasoning"),
        (seal(claims([leaf(0, "text", HELLO), leaf(1, "text", "Hi.")])), chunk({"content": "Hi."}, 1), "another choice"), (seal(claims([[0, "text", None]])), chunk({"content": 5}), "an uncoverable value"),
        (seal(claims([leaf(0, "function_call.name", "f"), leaf(0, "text", HELLO)])), chunk({"function_call": {"name": "f"}}), "a function call"), (fine, {"error": {"message": "x"}}, "an error"), (fine, {"error": "x"}, "an error as a string"),
        (fine, chunk({"content": "\n"}), "white space"), (fine, {**USAGE_EVENT, "error": {"code": 500}}, "an error beside the usage"),
    ]  # fmt: skip
    for token, event, note in late:
        vector("stream", sse([*HELLO_EVENTS, last(token), event]), "invalid", rule="C5", note=f"{note} after the token")
    vector("stream", sse([*HELLO_EVENTS, last(longer), "data: [DONE]", chunk({"content": " And more."})], done=False), "invalid", rule="C5", note="text after [DONE]")

    two = [leaf(0, "text", HELLO), leaf(1, "text", "Hi.")]
    ends: Table = [
        (stream(fine, done=False)[:-1], "cut before the blank line"), (stream(fine, done=False)[:-2], "cut before the line's end"), (stream(fine, done=False, end="\r\n")[:-2], "cut before the blank line, CR LF"),
        (stream(fine, done=False, end="\r\n")[:-4], "cut before the line's end, CR LF"), (stream(fine, done=False, end="\r")[:-1], "cut before the blank line, CR"), (sse([*HELLO_EVENTS, chunk({"content": "Hi."}, 1), last(seal(claims(two)))], done=False)[:-1], "two choices"),
        (stream(fine, done=False)[:-1] + "data: ", "an empty data line more"), (stream(fine, done=False)[:-1] + ": ping\n", "a comment instead of the blank line"), (stream(fine, done=False)[:-1] + "event: x\n", "an event line instead of the blank line"),
        (sse([*HELLO_EVENTS, "event: message\ndata: " + json.dumps(last(fine))], done=False)[:-1], "an event line before the data"), (stream(fine, done=False)[:-1] + "\u00a0", "a no-break space for the blank line"), (stream(fine, done=False)[:-1] + "x", "a letter for the blank line"),
    ]  # fmt: skip
    for shown, note in ends:
        vector("stream", shown, "absent", rule="C6", note=note)
        if len(BAD["C6"]) in (2, 4, 6):
            vector("stream", shown, "incomplete", rule="C6", note=f"{note}, after a pending token", token=first)

    both = {**trust(A.jwk(), EC.jwk()), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}}
    firsts: Table = [
        (seal(pending(rid="req-2")), "invalid", "another rid"), (seal(pending(sub="sub-2")), "invalid", "another sub"), (seal(pending(req=sha("x"))), "invalid", "another req"), (seal(pending(iss=OTHER), THEIRS), "invalid", "another trusted issuer"), (fine, "invalid", "the final token itself"),
        (seal(claims(jti="tok-2")), "invalid", "a final token"), (seal(pending(), EVIL, kid=A.kid), "invalid", "a wrong signature"), (seal(pending(), EVIL), "undecidable", "an unknown key"), (seal(pending(iss="https://third.example")), "undecidable", "an unknown issuer"),
        (seal(pending(), typ="JWT"), "invalid", "another typ"), (seal(pending(), alg="none"), "invalid", "alg none"), (seal(pending(iat=NOW + 61)), "invalid", "signed in the future"), (seal(pending(ver=2)), "undecidable", "another version"), (first[:-2], "invalid", "a cut token"),
        (seal(pending(completion="complete")), "invalid", "a pending token with completion"), (seal(pending(content=content(LEAVES))), "invalid", "a pending token with content"), (seal(pending(model="")), "invalid", "a claim out of form"), (seal(pending(), EC, alg="Ed25519"), "invalid", "the alg of another key"),
        ("x", "invalid", "no token at all"), (first + "=", "invalid", "padding"), (seal(pending(rid="req-1x"), EC), "invalid", "another rid, under another key"),
    ]  # fmt: skip
    for token, verdict, note in firsts:
        vector("stream", stream(fine), verdict, rule="C7", note=f"a pending token was given: {note}", token=token, trust=both)

    three = [leaf(i, "text", t) for i, t in enumerate(("One.", "Two."))]
    twos = [chunk({"content": "One."}), chunk({"content": "Two."}, 1)]
    for shown, terminator, note in (
        (stream(fine, done=False), "missing", "no [DONE]"), (stream(fine, done=False, end="\r\n"), "missing", "no [DONE], CR LF"), (sse([*HELLO_EVENTS, last(fine), USAGE_EVENT], done=False), "missing", "no [DONE] after the usage"),
        (stream(fine)[:-1], "missing", "[DONE] without its blank line"), (stream(fine)[:-8], "missing", "[DONE] cut"), (stream(fine, done=False) + ": done\n\n", "missing", "a comment for [DONE]"), (sse([*twos, last(seal(claims(three)), 1)], done=False), "missing", "no [DONE] after two choices"),
        (stream(fine, done=False) + "event: done\n\n", "missing", "an event of the name done"), (sse([*HELLO_EVENTS, last(fine), USAGE_EVENT], done=False) + "data: [DONE]\n", "missing", "[DONE] not ended after the usage"), (stream(fine, done=False) + ": data: [DONE]\n\n", "missing", "[DONE] in a comment"),
        (stream(fine) + sse([USAGE_EVENT], done=False), "followed", "the usage after [DONE]"), (stream(fine) + sse([]), "followed", "[DONE] twice"), (stream(fine) + sse([chunk()], done=False), "followed", "an empty event after [DONE]"), (stream(fine) + "data: {}\n\n", "followed", "an empty object after [DONE]"),
        (stream(fine, end="\r\n") + sse([USAGE_EVENT], end="\r\n"), "followed", "the usage and [DONE] once more, CR LF"),
    ):  # fmt: skip
        vector("stream", shown, "valid", rule="C8", note=note, terminator=terminator)

    flawless = body(fine)
    raw_bodies: Table = [
        (flawless.replace('"object"', '"id":"chatcmpl-1","object"').encode(), "a name twice"), (flawless.replace('"prompt_tokens"', '"prompt_tokens":4,"prompt_tokens"').encode(), "a name twice inside"), (flawless[:-1].encode() + b',"x":NaN}', "NaN"), (flawless[:-1].encode() + b',"x":Infinity}', "Infinity"),
        (flawless[:-1].encode() + b',"x":-Infinity}', "-Infinity"), (b"\xef\xbb\xbf" + flawless.encode(), "a byte-order mark"), (flawless[:-1].encode() + b',"x":' + b"[" * 64 + b"]" * 64 + b"}", "depth 65"), (flawless[:-1].encode() + b',"x":"\xff"}', "a byte that is not UTF-8"),
        (flawless.encode() + b"{}", "a second object"), (flawless.encode() + b"x", "a letter after the object"), (flawless[:-1].encode() + b',"x":' + b'{"a":' * 70 + b"1" + b"}" * 71, "depth 71"), (flawless[:-1].encode() + b',"x":"\xed\xb0\x80"}', "a surrogate encoded as UTF-8"),
        (flawless.replace('"ai_provenance"', '"ai_provenance":{"token":"x"},"ai_provenance"').encode(), "the tag twice"), (flawless.replace('"content"', '"content":"Other.","content"').encode(), "the text twice"),
    ]  # fmt: skip
    for shown, note in raw_bodies:
        vector("body", shown, "invalid", rule="C9", note=note)
    vector("body", flawless[:-1] + ',"x":NaN}', "invalid", rule="C9", note="NaN, with the token in the header too", token=fine)
    vector("body", flawless, "invalid", rule="C9", note="over 16 MiB with the blanks after it", pad=16 * 2**20 - len(flawless) + 1)

    exact = body(fine).encode()
    d256, d512 = (base64.b64encode(hashlib.new(name, exact).digest()).decode() for name in ("sha256", "sha512"))
    w256, w512 = (base64.b64encode(hashlib.new(name, exact + b" ").digest()).decode() for name in ("sha256", "sha512"))
    for field, note in (
        (f"sha-256=:{w256}:", "another digest"), (f"sha-512=:{w512}:", "another sha-512 digest"), (f"sha-256=:{d256}:, sha-512=:{w512}:", "one of two right"), (f"sha-512=:{w512}:, sha-256=:{d256}:", "the other of two right"), (f"sha-256={d256}", "no colons"), (f"sha-256=:{d256}", "one colon"),
        (f"sha-256=:{d512}:", "the sha-512 digest as sha-256"), (f"sha-256=:{d256}:,", "a comma at the end"), ("sha-256", "no value"), ('sha-256="' + d256 + '"', "a string for a byte sequence"), (f"sha-256=:{d256[:-4]}:", "a shorter digest"), ("sha-256=::", "an empty digest"),
        (f"sha-256=:{d256}: sha-512=:{d512}:", "no comma between two"), (f"SHA-256=:{d256}:", "a capital in the name"), (f"sha-256=:{d256.replace('=', '*')}:", "no base64"),
    ):  # fmt: skip
        vector("body", exact.decode(), "invalid", rule="C10", note=note, content_digest=field)


def key_sets() -> None:
    """K1 to K9."""
    fine = seal(claims())
    def keys(rule: str, note: str, text: str, verdict: str = "undecidable", token: str = fine, **more: Any) -> None:
        carried(token, verdict, rule, note, trust={ISS: {"keys": text}}, **more)

    def beside(rule: str, note: str, *others: Json, **more: Any) -> None:
        keys(rule, note, key_set(A.jwk(), *others), **more)

    plain = key_set(A.jwk())
    keys("K1", "65,537 bytes", plain + " " * (65_537 - len(plain)))
    beside("K1", "65 keys", *(Key(f"one of many {i}").jwk() for i in range(64)))
    for odd in (5, "x", None, [], True):
        keys("K1", f"a key that is {odd!r}", json.dumps({"issuer": ISS, "keys": [A.jwk(), odd]}))
    for odd in (5, None, [ISS], {}):
        keys("K1", f"issuer {odd!r}", json.dumps({"issuer": odd, "keys": [A.jwk()]}))
    for text, note in ((plain[:-1] + ',"x":1.5}', "a fraction"), (plain[:-1] + ',"x":NaN}', "NaN"), (plain[:-1] + ',"issuer":"' + ISS + '"}', "a name twice"), ("\ufeff" + plain, "a byte-order mark"), (plain[:-1] + ',"x":' + "[" * 8 + "]" * 8 + "}", "depth 9"),
                       (plain + "x", "a letter after it"), (plain[:-1] + ',"x":"\\ud800"}', "a lone surrogate")):  # fmt: skip
        keys("K1", note, text)
    for text, note in (('{"keys":[]}', "no keys"), ("[]", "an array"), ('{"issuer":"x"}', "no member keys"), ("x", "not JSON")):
        keys("K1", note, text, also=["T5", "T6", "T7"])

    ed, p256 = NEXT.members, EC.members
    raw = base64.urlsafe_b64decode(ed["x"] + "=")
    y256 = base64.urlsafe_b64decode(p256["y"] + "=")
    tail = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    bent = lambda text: text[:-1] + tail[tail.index(text[-1]) + 1]  # noqa: E731 - a table's shorthand
    for members, note in (
        ({**ed, "crv": "Ed448"}, "Ed448"), ({**ed, "crv": "X25519"}, "X25519"), ({**ed, "crv": "ed25519"}, "the curve in small letters"), ({**ed, "kty": "okp"}, "kty in small letters"), ({**p256, "crv": "P-384"}, "P-384"), ({**p256, "crv": "secp256k1"}, "secp256k1"),
        ({**ed, "crv": "P-256"}, "OKP with P-256"), ({**p256, "crv": "Ed25519"}, "EC with Ed25519"), ({**ed, "x": b64(raw[:31])}, "31 bytes"), ({**ed, "x": b64(raw + b"\0")}, "33 bytes"), ({**ed, "x": ed["x"] + "="}, "padding"), ({**ed, "x": bent(ed["x"])}, "unused bits"), ({**ed, "x": ""}, "no bytes"),
        ({**p256, "y": b64(y256[1:])}, "31 bytes of y"), ({**p256, "x": bent(p256["x"])}, "unused bits, P-256"), ({**p256, "y": p256["y"] + "\n"}, "a line break in y"), ({**ed, "x": ed["x"][:20] + " " + ed["x"][20:]}, "a blank in x"),
    ):  # fmt: skip
        beside("K2", note, raw_jwk(members))

    def ed_key(y: int, odd: int = 0) -> Json:
        return raw_jwk({"kty": "OKP", "crv": "Ed25519", "x": b64((y | odd << 255).to_bytes(32, "little"))})

    def on_curve(y: int) -> bool:
        d = -121665 * pow(121666, -1, P_ED)
        return pow((y * y - 1) * pow(d * y * y + 1, -1, P_ED), (P_ED - 1) // 2, P_ED) == 1

    y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
    for y, odd, note in ((1, 0, "the neutral element"), (1, 1, "the neutral element with a sign"), (P_ED - 1, 0, "order 2"), (0, 0, "order 4"), (0, 1, "order 4, other sign"), (y8, 0, "order 8"), (y8, 1, "order 8, other sign"), (P_ED - y8, 0, "order 8, other y"),
                         (P_ED, 0, "order 4, not reduced"), (P_ED + 1, 0, "the neutral element, not reduced")):  # fmt: skip
        beside("K3", f"a point of low order: {note}", ed_key(y, odd))
    for small in [k for k in range(2, 19) if on_curve(k)][:3]:
        beside("K3", f"y = p + {small}, not reduced", ed_key(P_ED + small))
    for y in [k for k in range(2, 40) if not on_curve(k)][:3]:
        beside("K3", f"y = {y} is on no point of the curve", ed_key(y))
    x, y = (int.from_bytes(base64.urlsafe_b64decode(p256[name] + "="), "big") for name in ("x", "y"))
    five_y = pow((125 - 15 + 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B) % P_256, (P_256 + 1) // 4, P_256)
    for a, b, note in ((x, y ^ 1, "y changed"), (0, 0, "zeros"), (1, 1, "ones"), (y, x, "x and y exchanged"), (P_256 + 5, five_y, "x not reduced")):
        beside("K3", f"P-256: {note}", raw_jwk({"kty": "EC", "crv": "P-256", "x": b64(a.to_bytes(32, "big")), "y": b64(b.to_bytes(32, "big"))}))

    for name in ("d", "p", "q", "dp", "dq", "qi", "oth", "k"):
        keys("K4", f"member {name}", key_set(A.jwk(**{name: A.secret})))
    for key, note in ((NEXT, "another key with d"), (EC, "a P-256 key with d"), (HIST, "a history key with d")):
        beside("K4", note, key.jwk(d=key.secret))
    keys("K4", "d empty", key_set(A.jwk(d="")))
    keys("K4", "oth an array", key_set(A.jwk(oth=[])))

    for more in ({"use": "enc"}, {"use": 5}, {"use": "SIG"}, {"use": ""}, {"key_ops": ["sign"]}, {"key_ops": ["verify", "verify"]}, {"key_ops": "verify"}, {"key_ops": []}, {"key_ops": ["verify", 1]}, {"key_ops": {"verify": True}}, {"alg": "ES256"}, {"alg": "none"},
                 {"alg": "RS256"}, {"alg": "ed25519"}, {"alg": 5}):  # fmt: skip
        keys("K5", json.dumps(more)[1:-1], key_set(A.jwk(**more)))
    beside("K5", "a P-256 key with alg Ed25519", EC.jwk(alg="Ed25519"))

    for kid, note in (("key-1", "a name"), (A.kid[:-1], "a thumbprint cut"), (A.kid + "=", "a padded thumbprint"), (hashlib.sha256(compact(A.members).encode()).hexdigest(), "hexadecimal"), (f"urn:ietf:params:oauth:jwk-thumbprint:sha-256:{A.kid}", "a thumbprint URI"), (NEXT.kid, "the thumbprint of another key"),
                      (sha(compact(A.jwk())), "a digest of all members"), (sha(json.dumps(A.members)), "a digest of spaced JSON"), ("", "empty"), (b64(hashlib.sha1(compact(A.members).encode()).digest()), "SHA-1"), (A.members["x"], "the key itself")):  # fmt: skip
        keys("K6", f"kid: {note}", key_set(A.jwk(kid=kid)), token=seal(claims(), kid=kid))
    beside("K6", "one key twice", A.jwk())
    beside("K6", "one key twice, for two purposes", A.jwk(purpose="key-history"))
    beside("K6", "another key twice", NEXT.jwk(), NEXT.jwk())

    for purpose in ("signing", "", "Provenance", "provenance ", "key_history", "sig", None, 5, ["provenance"], "ledger", {"a": 1}):
        beside("K7", "no purpose" if purpose is None else f"purpose {purpose!r}", NEXT.jwk(purpose=purpose))
    for more in ({"nbf": "0"}, {"exp": True}, {"revoked": "now"}, {"reason": "lost"}, {"reason": 5}, {"nbf": [1]}):
        beside("K7", json.dumps(more)[1:-1], NEXT.jwk(**more))

    for more in ({"nbf": IAT + 1}, {"nbf": NOW}, {"nbf": NOW + 10**9}, {"exp": IAT - 1}, {"exp": 0}, {"exp": IAT - 10**6}, {"nbf": IAT + 1, "exp": NOW}, {"nbf": 0, "exp": IAT - 1}, {"nbf": IAT - 50, "exp": IAT - 40}, {"nbf": IAT + 1, "exp": IAT - 1}):
        keys("K8", json.dumps(more), key_set(A.jwk(**more)), "unacceptable")
    keys("K8", "a P-256 key that had expired", key_set(EC.jwk(exp=IAT - 1)), "unacceptable", seal(claims(), EC))

    for more in ({"revoked": NOW}, {"revoked": IAT + 1}, {"revoked": IAT - 1}, {"revoked": 0}, {"revoked": NOW + 10**6}, {"revoked": NOW, "reason": "compromised"}, {"revoked": IAT + 1, "reason": "compromised"}, {"revoked": IAT - 1, "reason": "compromised"}, {"revoked": IAT, "reason": "superseded"},
                 {"revoked": IAT - 1, "reason": "superseded"}, {"revoked": 0, "reason": "superseded"}, {"revoked": IAT - 10**6, "reason": "superseded"}):  # fmt: skip
        keys("K9", json.dumps(more), key_set(A.jwk(**more)))
    keys("K9", "a revoked P-256 key", key_set(EC.jwk(revoked=NOW)), token=seal(claims(), EC))


def histories() -> None:
    """H1 to H3."""
    fine = seal(claims())
    start = IAT - 10**6
    usual = [A.jwk(nbf=start), OLD.jwk(nbf=start - 10, exp=start), HIST.jwk(nbf=start)]

    def history(keys: Any = None, key: Key = HIST, seq: Any = 5, typ: Any = "ai-key-history+jwt", **over: Any) -> str:
        made = {"ver": 1, "iss": ISS, "iat": IAT, "seq": seq, "keys": usual if keys is None else keys, **over}
        return seal({name: value for name, value in made.items() if value is not DROP}, key, typ=typ)

    def given(rule: str, note: str, made: str, anchors: list[Json] | None = None, earlier: str | None = None, verdict: str = "undecidable", token: str = fine, **more: Any) -> None:
        entry = {"history": made, "history_keys": key_set(*(anchors or [HIST.jwk()])), **({"earlier": earlier} if earlier else {})}
        carried(token, verdict, rule, note, trust={ISS: entry}, **more)

    given("", "a key history as trust", history(), verdict="valid")
    given("", "a retired key is proved by the history", history(), verdict="valid", token=seal(claims(iat=start - 5), OLD))
    given("", "a history signed with ES256", history([*usual, HIST_EC.jwk(nbf=start)], HIST_EC), [HIST_EC.jwk()], verdict="valid")
    given("", "a history with a later seq and one key more", history([*usual, NEXT.jwk(nbf=NOW)], seq=6), earlier=history(), verdict="valid")
    given("", "the history that was kept, once more", history(), earlier=history(), verdict="valid")
    given("", "a key superseded after the token was signed", history([A.jwk(nbf=start, revoked=NOW, reason="superseded"), *usual[1:]]), verdict="valid")

    for typ in ("ai-provenance+jwt", "JWT", "", "AI-Key-History+JWT", "ai-key-history", "application/ai-key-history+jwt"):
        given("H1", f"typ {typ!r}", history(typ=typ))
    for over in ({"ver": 2}, {"ver": "1"}, {"ver": DROP}, {"ver": True}, {"iat": DROP}, {"iat": str(IAT)}, {"iat": None}, {"seq": DROP}, {"seq": -1}, {"seq": "5"}, {"seq": None}):
        given("H1", next(f"no {name}" if value is DROP else f"{name} {value!r}" for name, value in over.items()), history(**over))
    for key, note in ((NEXT.jwk(nbf=NOW, d=NEXT.secret), "a private key (K4)"), (NEXT.jwk(nbf=NOW, kid="key-2"), "a kid of its own (K6)"), (NEXT.jwk(nbf=NOW, purpose="signing"), "an unknown purpose (K7)"), (NEXT.jwk(nbf=NOW, use="enc"), "use enc (K5)"),
                      (raw_jwk({"kty": "OKP", "crv": "Ed448", "x": NEXT.members["x"]}, nbf=NOW), "Ed448 (K2)"), (raw_jwk({"kty": "OKP", "crv": "Ed25519", "x": b64(b"\1" + bytes(31))}, nbf=NOW), "a point of low order (K3)"), (NEXT.jwk(), "a key without nbf"), (5, "a key that is a number"), (A.jwk(nbf=start), "a key twice (K6)")):  # fmt: skip
        given("H1", note, history([*usual, key]), **({"also": [note[-3:-1]]} if note.endswith(")") else {}))

    rogue = Key("a history key of nobody", purpose="key-history")
    for key, anchors, keys, note in (
        (rogue, [HIST.jwk()], [*usual, rogue.jwk(nbf=start)], "a key that nobody trusts, listed in the history itself"), (rogue, [HIST_EC.jwk()], [*usual, rogue.jwk(nbf=start)], "a key that nobody trusts; another is trusted"), (HIST, [HIST_EC.jwk()], usual, "a key of the history that is not the trusted one"),
        (A, [HIST.jwk(), A.jwk()], usual, "a trusted provenance key"), (A, [HIST.jwk()], usual, "a provenance key listed in the history"), (EC, [EC.jwk()], [*usual, EC.jwk(nbf=start)], "a trusted P-256 provenance key"),
        (HIST, [HIST.jwk()], usual[:2], "a trusted key that the history does not list"), (HIST_EC, [HIST_EC.jwk()], usual, "a trusted P-256 key that the history does not list"), (HIST, [HIST.jwk()], [*usual[:2], HIST.jwk(nbf=start, revoked=IAT)], "a revoked key, no reason"),
        (HIST, [HIST.jwk()], [*usual[:2], HIST.jwk(nbf=start, revoked=IAT, reason="compromised")], "a compromised key"), (HIST, [HIST.jwk()], [*usual[:2], HIST.jwk(nbf=start, revoked=NOW, reason="superseded")], "a superseded key"),
    ):  # fmt: skip
        given("H2", f"signed by {note}", history(keys, key), anchors)
    for iss in (OTHER, f"{ISS}/", "https://api.example.com.evil.example"):
        given("H2", f"a history of {iss}", history(iss=iss))

    before = [*usual, NEXT.jwk(nbf=start, exp=NOW), EC.jwk(nbf=start, revoked=start + 5, reason="superseded"), HIST_EC.jwk(nbf=start)]
    earlier = history(before)
    without = lambda *keys: [key for key in before if key["kid"] not in {gone.kid for gone in keys}]  # noqa: E731 - a table's shorthand
    swapped = lambda key: [key if key["kid"] == old["kid"] else old for old in before]  # noqa: E731 - a table's shorthand
    for seq in (4, 1, 0):
        given("H3", f"seq {seq} after 5", history(before, seq=seq), earlier=earlier)
    for gone in (OLD, NEXT, EC, HIST_EC):
        given("H3", f"a lost key: {gone.kid[:6]}", history(without(gone), seq=6), earlier=earlier)
    given("H3", "two lost keys", history(without(OLD, EC), seq=6), earlier=earlier)
    for key, note in ((OLD.jwk(nbf=start - 10, exp=start + 1), "a retired key signs a second longer"), (OLD.jwk(nbf=start - 10, exp=NOW), "a retired key is in use again"), (OLD.jwk(nbf=start - 10), "a retired key without an end"), (NEXT.jwk(nbf=start), "a key without its end"), (EC.jwk(nbf=start), "a key no longer revoked"),
                      (EC.jwk(nbf=start, reason="superseded"), "a reason without revocation")):  # fmt: skip
        given("H3", note, history(swapped(key), seq=6), earlier=earlier)
    given("H3", "a key revoked later", history(swapped(EC.jwk(nbf=start, revoked=start + 50, reason="superseded")), seq=6), earlier=earlier)
    for reason in ({"reason": "compromised"}, {}):
        worse = history([*usual, EC.jwk(nbf=start, revoked=start + 5, **reason)])
        better = history([*usual, EC.jwk(nbf=start, revoked=start + 5, reason="superseded")], seq=6)
        given("H3", f"a key {reason.get('reason', 'revoked for no reason')} and then superseded", better, earlier=worse)
    given("H3", "a kid with other key material", history(swapped({**EVIL.jwk(nbf=start - 10, exp=start), "kid": OLD.kid}), seq=6), earlier=earlier, also=["K6"])


def good_bodies() -> None:
    """What passes: JSON bodies, bytes and texts."""
    def chat(note: str, leaves: list[Any], choices: Any, **more: Any) -> None:
        top = more.pop("top", {})
        token = seal(claims(leaves))
        vector("body", body(token, choices, tagged=tag(token, leaves if len(leaves) > 4 else None), **top), note=note, **more)

    chat("one choice", LEAVES, [choice()])
    three = [leaf(i, "text", f"Answer {i}.") for i in range(3)]
    chat("n = 3", three, [choice(f"Answer {i}.", i) for i in range(3)])
    chat("n = 3, choices in another order", three, [choice(f"Answer {i}.", i) for i in (2, 0, 1)])
    many = [leaf(i, "text", f"Answer {i}.") for i in range(128)]
    chat("n = 128", many, [choice(f"Answer {i}.", i) for i in range(128)])
    call = lambda name, arguments: {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}  # noqa: E731 - a table's shorthand
    chat("tool calls", [leaf(0, "tool_calls.0.arguments", '{"city": "Paris"}\n'), leaf(0, "tool_calls.0.name", "weather"), leaf(0, "tool_calls.1.arguments", "{}"), leaf(0, "tool_calls.1.name", "time")],
         [choice(None, tool_calls=[call("weather", '{"city": "Paris"}\n'), call("time", "{}")])])
    names = [f"tool_calls.{i}.name" for i in range(12)]
    chat("twelve tool calls: names are ordered by code point", [leaf(0, name, name) for name in sorted(names)], [choice(None, tool_calls=[call(name, None) for name in names])])
    chat("a custom tool", [leaf(0, "tool_calls.0.custom_name", "sql"), leaf(0, "tool_calls.0.input", " SELECT 1\r\n")], [choice(None, tool_calls=[{"id": "c", "type": "custom", "custom": {"name": "sql", "input": " SELECT 1\r\n"}}])])
    chat("a function call of the old form", [leaf(0, "function_call.arguments", "{}"), leaf(0, "function_call.name", "f")], [choice(None, function_call={"name": "f", "arguments": "{}"})])
    chat("a refusal", [leaf(0, "refusal", "I cannot help with that.")], [choice(None, refusal="I cannot help with that.")])
    chat("reasoning of both names", [leaf(0, "reasoning", "Hm."), leaf(0, "reasoning_content", "Hm, hm."), leaf(0, "text", HELLO)], [choice(reasoning="Hm.", reasoning_content="\nHm, hm.\n")])
    chat("arguments as an object", [leaf(0, "tool_calls.0.arguments", '{"a":1.5,"b":["x",null,true],"c":1e+21,"\u00e9":"\u20ac"}'), leaf(0, "tool_calls.0.name", "f")], [choice(None, tool_calls=[call("f", {"\u00e9": "\u20ac", "c": 1e21, "b": ["x", None, True], "a": 1.50})])])
    chat("an empty object as arguments", [leaf(0, "tool_calls.0.arguments", "{}")], [choice(None, tool_calls=[call(None, {})])])
    chat("a lone surrogate gives a leaf of null", [[0, "text", None]], [choice("a\ud800b")])
    chat("a pair of surrogates is a character", [leaf(0, "text", "\U0001f600")], [choice("\U0001f600")])
    chat("content in parts gives a leaf of null", [[0, "text", None]], [choice([{"type": "text", "text": "Hi."}])])
    chat("arguments that are no I-JSON give a leaf of null", [[0, "tool_calls.0.arguments", None], leaf(0, "tool_calls.0.name", "f")], [choice(None, tool_calls=[call("f", {"n": 2**53})])])
    chat("arguments as an array give a leaf of null", [[0, "tool_calls.0.arguments", None]], [choice(None, tool_calls=[call(None, [1])])])
    chat("outer white space and line ends are normalised", [leaf(0, "text", "One\nTwo\nThree")], [choice(" \t\r\nOne\r\nTwo\rThree\n ")])
    chat("white space alone is no part", [], [choice(" \r\n\t")])
    chat("no content at all", [], [choice(None)])
    chat("null for an array of tool calls, and null among them", [leaf(0, "text", HELLO), leaf(0, "tool_calls.1.name", "f")], [choice(tool_calls=[None, call("f", None)]), {"index": 1, "message": {"content": None, "tool_calls": None, "function_call": None}}])
    chat("a choice without a message", LEAVES, [choice(), {"index": 7}])
    chat("the largest choice", [leaf(65_535, "text", HELLO)], [choice(index=65_535)])
    chat("members that are not covered changed", LEAVES, [{**choice(), "finish_reason": "length"}], top={"id": "changed", "model": "another", "usage": None})
    chat("depth 64, large and fractional numbers, and a lone surrogate outside the projection", LEAVES, [choice()], top={"x": json.loads("[" * 63 + "]" * 63), "y": 10**30, "z": 1e-7, "s": "\ud800"})
    token = seal(claims())
    vector("body", json.dumps(json.loads(body(token)), indent=2, sort_keys=True) + "\n", note="re-serialised: spaced and sorted")
    vector("body", body(token), note="header and member", token=token)
    vector("body", body(None, tagged={"token": token, "more": 1}), note="a tag with a member more")
    vector("body", UNTAGGED, note="the token in the header alone", token=token)

    def plain(note: str, shown: str, canonical: str | None, **more: Any) -> None:
        leaves = [[0, "body", None]] if canonical is None else [leaf(0, "body", canonical)]
        made = seal(claims(leaves, "json-1"))
        if shown.startswith("{") and "header" not in more:
            vector("body", shown[:-1] + (", " if shown != "{}" else "") + f'"ai_provenance": {{"token": "{made}"}}}}', note=f"plain JSON: {note}", **more)
        else:
            more.pop("header", None)
            vector("body", shown, note=f"plain JSON, header only: {note}", token=made, **more)

    plain("members are sorted", '{"b": [1, 2, {"d": null, "c": true}], "a": "x"}', '{"a":"x","b":[1,2,{"c":true,"d":null}]}')
    plain("an empty object", "{}", "{}")
    plain("numbers", '{"n": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001, -0.0, 1e21, 1e20, 0.000001, 1e-7, 100, 123456789012345680000.0, 5e-324, 1.7976931348623157e308, 0.1, -1.5, 9007199254740991, 9007199254740993.0]}',
          '{"n":[333333333.3333333,1e+30,4.5,0.002,1e-27,0,1e+21,100000000000000000000,0.000001,1e-7,100,123456789012345680000,5e-324,1.7976931348623157e+308,0.1,-1.5,9007199254740991,9007199254740992]}')
    plain("strings", r'{"s": "\u20ac$\u000f\u000aA\u0027\u0042\u0022\u005c\\\"\/\u007f"}', '{"s":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/\u007f"}')
    plain("names are ordered by UTF-16", '{"\\u20ac": 1, "\\r": 2, "\\ufb33": 3, "1": 4, "\\ud83d\\ude00": 5, "\\u0080": 6, "\\u00f6": 7}', '{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}')
    plain("nested deep", '{"x": ' + "[" * 62 + "1" + "]" * 62 + "}", '{"x":' + "[" * 62 + "1" + "]" * 62 + "}")
    plain("a lone surrogate makes it uncoverable", '{"x": "\\ud800"}', None)
    plain("an integer beyond 2^53 makes it uncoverable", '{"x": 9007199254740993}', None)
    plain("a number that overflows makes it uncoverable", '{"x": 1e400}', None)
    plain("an array", "[ 1, 2.50 ]", "[1,2.5]")
    plain("a string", ' "x" ', '"x"')
    plain("null", "null", "null")
    plain("an object", '{"b": 1, "a": 2}', '{"a":2,"b":1}', header=True)

    for data, note in ((b"\x89PNG\r\n\x1a\n\0\xff", "bytes"), (b"", "no bytes"), (b"plain text\n", "a text file"), (b'{"a":1}\n{"b":2}\n', "lines of JSON")):
        made = seal(claims([leaf(0, "body", data)] if data else [], "bytes-1"))
        vector("body", data, note=f"bytes-1: {note}", token=made)

    exact = body(token)
    d256, d512 = (base64.b64encode(hashlib.new(name, exact.encode()).digest()).decode() for name in ("sha256", "sha512"))
    for field, note in ((f"sha-256=:{d256}:", "sha-256"), (f"sha-512=:{d512}:", "sha-512"), (f"sha-256=:{d256}:,  sha-512=:{d512}:", "both"), ("md5=:AAAA:", "an algorithm that nobody checks"), (f"md5=:AAAA:, sha-256=:{d256}:", "with an algorithm that nobody checks")):
        vector("body", exact, note=f"Content-Digest: {note}", content_digest=field)

    carried(token, "valid", "", "a text with its token", "text")
    vector("text", "\r\n Hello, world.\t", note="a text with white space around it", token=token)
    vector("text", "Answer 1.", note="the text of any choice", token=seal(claims(three)))
    vector("text", "Answer 1.", note="the text of the named choice", token=seal(claims(three)), choice=1)
    vector("text", "Answer 77.", note="a text among 128 given leaves", token=seal(claims(many)), leaves=many)
    vector("text", "Answer 77.", note="a text among 128 given leaves, of the named choice", token=seal(claims(many)), leaves=many, choice=77)
    vector("text", HELLO, note="a text beside an uncoverable one", token=seal(claims([[0, "text", None], leaf(1, "text", HELLO)])))


def good_tokens() -> None:
    """What passes: tokens and keys."""
    carried(seal(claims(), EC), "valid", "", "ES256", "body", trust=trust(EC.jwk()))
    carried(seal(claims(), alg="EdDSA"), "valid", "", "alg EdDSA", "body")
    r_s = base64.urlsafe_b64decode(seal(claims(), EC).split(".")[2] + "==")
    high = (0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - int.from_bytes(r_s[32:], "big")).to_bytes(32, "big")
    carried(".".join([*seal(claims(), EC).split(".")[:2], b64(r_s[:32] + high)]), "valid", "", "ES256 with the other s", "text", trust=trust(EC.jwk()))
    carried(seal(json.dumps(claims(), indent=1).encode(), header=json.dumps({"typ": "ai-provenance+jwt", "alg": "Ed25519", "kid": A.kid}).encode()), "valid", "", "header and payload spaced and in another order", "body")
    carried(seal(claims(more={"a": [1, None, True, "x"]}, wide="\u00e9\u20ac\U0001f600")), "valid", "", "claims that the table does not list", "stream")
    carried(seal(claims(x=json.loads("[" * 7 + "]" * 7), low=-(2**53) + 1, high=2**53 - 1)), "valid", "", "depth 8, and the largest integers", "text")
    size = 8192 - len(seal(claims(filler="")))
    while len(long := seal(claims(filler="x" * size))) > 8192:
        size -= 1
    carried(long, "valid", "", f"{len(long)} characters", "body")
    reader = "https://reader.example"
    carried(seal(claims(aud=reader)), "valid", "", "the expected audience", audience=reader)
    carried(seal(claims(nonce="n-1")), "valid", "", "the expected nonce", nonce="n-1")
    carried(seal(claims(nonce="n-1")), "valid", "", "a nonce that nobody expects")
    carried(seal(claims(nonce="\u00e9" * 128)), "valid", "", "the longest nonce", nonce="\u00e9" * 128)
    carried(seal(claims(exp=NOW)), "valid", "", "the last second before its expiry")
    carried(seal(claims(iat=NOW + 60)), "valid", "", "signed 60 seconds ahead")
    carried(seal(claims()), "valid", "", "with the request and the salt", request=REQUEST, salt=SALT_TEXT)
    carried(seal(claims(req=req_of(""))), "valid", "", "with an empty request", request="", salt=SALT_TEXT)
    carried(seal(claims(aud=reader, nonce="n-1", exp=NOW + 1, grant="g-1", status={"status_list": {"idx": 3, "uri": f"{ISS}/status"}}, ledger={"origin": "api.example.com/ledger", "size": 7, "root": sha("x"), "index": 6}, terms={**TERMS, "receipt": "r-1"})),
            "valid", "", "every optional claim", audience=reader, nonce="n-1", request=REQUEST, salt=SALT_TEXT)
    carried(seal(claims(iss="http://127.0.0.1:8000")), "valid", "", "a loopback issuer", trust={"http://127.0.0.1:8000": {"keys": key_set(A.jwk(), issuer="http://127.0.0.1:8000")}})
    carried(seal(claims(iss=OTHER), THEIRS), "valid", "", "the second of two trusted issuers", trust={**trust(), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}})
    for completion in ("policy", "aborted", "error"):
        carried(seal(claims(completion=completion)), "valid", "", f"completion {completion}")
    carried(seal(claims(usage={**USAGE, "clauses": []}, model="m" * 96)), "valid", "", "no clauses, the longest model name")
    carried(seal(claims(usage={**USAGE, "clauses": [f"c{i}" for i in range(8)]}, jti="A.z_-0" + "9" * 58)), "valid", "", "eight clauses, the longest jti")
    for keys, note in (
        ([A.jwk(key_ops=["verify"], alg="EdDSA"), EC.jwk(alg="ES256", key_ops=["sign", "verify"])], "key_ops and alg"), ([NEXT.jwk(), A.jwk(), EC.jwk(), HIST.jwk()], "four keys"), ([A.jwk(use=None)], "no use"), ([A.jwk(nbf=IAT, exp=IAT)], "the one second of a key"), ([A.jwk(more=1)], "a member more"),
        ([A.jwk(revoked=IAT + 1, reason="superseded")], "a key superseded one second later"), ([NEXT.jwk(revoked=1), A.jwk()], "another key is revoked"), ([A.jwk(reason="superseded")], "a reason without revocation"),
    ):  # fmt: skip
        carried(seal(claims()), "valid", "", f"key set: {note}", trust=trust(*keys))
    carried(seal(claims()), "valid", "", "key set without issuer", trust={ISS: {"keys": json.dumps({"keys": [A.jwk()]})}})
    full = key_set(A.jwk())
    carried(seal(claims()), "valid", "", "key set of 65,536 bytes", trust={ISS: {"keys": full + " " * (65_536 - len(full))}})
    carried(seal(claims()), "valid", "", "64 keys", trust=trust(*(Key(f"one of many {i}").jwk() for i in range(63)), A.jwk()))


def good_streams() -> None:
    """What passes: streams."""
    token, first = seal(claims()), seal(pending())
    hello = [*HELLO_EVENTS, last(token)]

    def streamed(note: str, shown: str | bytes, **more: Any) -> None:
        vector("stream", shown, note=f"stream: {note}", **more)

    def sealed(note: str, leaves: list[Any], events: list[Any], *, at: int = 0, **more: Any) -> None:
        made = seal(claims(leaves, **more.pop("over", {})))
        ending = chunk(None, at, "stop", ai_provenance=tag(made, leaves if len(leaves) > 4 else None))
        streamed(note, sse([*events, ending, *more.pop("after", [])]), **more)

    streamed("one choice", sse(hello))
    streamed("with a pending token in the header", sse(hello), token=first)
    streamed("with a pending token of another key of the issuer", sse(hello), token=seal(pending(), EC), trust=trust(A.jwk(), EC.jwk()))
    streamed("a usage chunk after the token", sse([*hello, USAGE_EVENT]), token=first)
    for end, note in (("\r\n", "CR LF"), ("\r", "CR")):
        streamed(note, sse([*hello, USAGE_EVENT], end=end))
    streamed("comments and keep-alives", sse([": ping", ":", HELLO_EVENTS[0], ": ping\n\n: ping", *hello[1:], ": bye", "data: [DONE]", ": really"], done=False))
    streamed("event, id and retry lines", sse(["retry: 100", *(f"event: message\nid: {i}\ndata: {json.dumps(event)}" for i, event in enumerate(hello))]))
    streamed("no blank after the colon", sse(["data:" + json.dumps(event) for event in hello]))
    streamed("an event over several data lines", sse(["\n".join("data: " + line for line in json.dumps(event, indent=1).split("\n")) for event in hello]))
    streamed("fields without a meaning", sse([*hello[:2], "x: y\ndata: " + json.dumps(hello[2]) + "\nnothing", hello[3]]))
    streamed("a byte-order mark before the stream", b"\xef\xbb\xbf" + sse(hello).encode())
    streamed("an event with empty data", sse([*hello[:2], "data", "data:", "data: ", *hello[2:]]))
    streamed("several events of several choices in one", sse([chunk(choices=[{"index": 0, "delta": {"content": HELLO}}, {"index": 1, "delta": {"content": "Hi."}}]), chunk(None, 0, "stop"), last(seal(claims([leaf(0, "text", HELLO), leaf(1, "text", "Hi.")])), 1)]))
    streamed("the token with the last content", sse([*HELLO_EVENTS[:2], chunk({"content": "world."}, finish="stop", ai_provenance=tag(token))]))
    streamed("no [DONE]", sse(hello, done=False), terminator="missing")
    streamed("a tail that no blank line ends", sse(hello) + "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"more\"}}]\n")
    streamed("a tail that no blank line ends, before [DONE]", sse(hello, done=False) + 'data: {"error":', terminator="missing")
    streamed("members that are not covered", sse([{**event, "system_fingerprint": "fp", "obfuscation": "abc", "y": 1.5, "z": 10**30} for event in hello]))
    streamed("null and empty deltas after the token", sse([*hello, chunk({"content": None, "refusal": ""}), chunk(None), {}]))
    three = [leaf(i, "text", f"Answer {i}.") for i in range(3)]
    mixed = [chunk({"content": part}, i) for part in ("Answer", " ") for i in (1, 0, 2)] + [chunk({"content": f"{i}."}, i, "stop") for i in range(3)]
    sealed("n = 3, interleaved", three, mixed, at=2)
    sealed("fewer choices than were asked for", three[:2], [chunk({"content": f"Answer {i}."}, i) for i in range(2)], at=1)
    sealed("a choice without text", [three[0], three[2]], [chunk({"content": "Answer 0."}), chunk({"role": "assistant"}, 1, "stop"), chunk({"content": "Answer 2."}, 2)], at=2)
    calls = [chunk({"tool_calls": [{"index": i, "id": "c", "type": "function", "function": {"name": name, "arguments": ""}}]}) for i, name in enumerate(("weather", "time"))]
    calls += [chunk({"tool_calls": [{"index": i, "function": {"arguments": part}}]}) for i, part in ((0, '{"city":'), (1, "{"), (0, ' "Paris"}'), (1, "}\n"))]
    sealed("tool calls, interleaved", [leaf(0, "tool_calls.0.arguments", '{"city": "Paris"}'), leaf(0, "tool_calls.0.name", "weather"), leaf(0, "tool_calls.1.arguments", "{}\n"), leaf(0, "tool_calls.1.name", "time")], calls)
    sealed("a custom tool", [leaf(0, "tool_calls.255.custom_name", "sql"), leaf(0, "tool_calls.255.input", "SELECT 1")], [chunk({"tool_calls": [{"index": 255, "custom": {"name": "sql", "input": "SELECT"}}]}), chunk({"tool_calls": [{"index": 255, "custom": {"input": " 1"}}]})])
    sealed("a function call of the old form", [leaf(0, "function_call.arguments", "{}"), leaf(0, "function_call.name", "f")], [chunk({"function_call": {"name": "f", "arguments": "{"}}), chunk({"function_call": {"arguments": "}"}})])
    sealed("reasoning, then text", [leaf(0, "reasoning_content", "Hm."), leaf(0, "text", HELLO)], [chunk({"reasoning_content": "H"}), chunk({"reasoning_content": "m."}), *HELLO_EVENTS])
    sealed("a refusal", [leaf(0, "refusal", "I cannot.")], [chunk({"refusal": "I can"}), chunk({"refusal": "not."})])
    sealed("halves of a character in two deltas", [leaf(0, "text", "\U0001f600")], [chunk({"content": "\ud83d"}), chunk({"content": "\ude00"})])
    sealed("halves that never meet", [[0, "text", None]], [chunk({"content": "\ud83d"}), chunk({"content": "x"}), chunk({"content": "\ude00"})])
    sealed("CR and LF in two deltas", [leaf(0, "text", "One\nTwo")], [chunk({"content": "One\r"}), chunk({"content": "\nTwo"})])
    sealed("one uncoverable value among the deltas", [[0, "text", None]], [chunk({"content": "Hello"}), chunk({"content": 5})])
    sealed("white space at the ends of deltas", [leaf(0, "text", HELLO)], [chunk({"content": " \n"}), chunk({"content": "Hello,"}), chunk({"content": " "}), chunk({"content": "world."}), chunk({"content": "\n"})])
    sealed("seven choices", [leaf(i, "text", f"Answer {i}.") for i in range(7)], [chunk({"content": f"Answer {i}."}, i) for i in range(7)], at=6)
    sealed("no content", [], [chunk({"role": "assistant", "content": ""})])
    for completion, note in (("error", "an error event"), ("policy", "a stop by policy in an error event")):
        made = seal(claims([leaf(0, "text", "Hello,")], completion=completion))
        streamed(note, sse([*HELLO_EVENTS[:2], {"error": {"message": "stopped", "type": "server_error", "code": "x"}, "ai_provenance": tag(made)}], done=False), token=first, terminator="missing")
    made = seal(claims([leaf(0, "text", "Hello,")], completion="error"))
    streamed("an error event, then [DONE]", sse([*HELLO_EVENTS[:2], {"error": {"message": "stopped"}, "ai_provenance": tag(made)}]))


def cut_stream() -> Json:
    """A recorded stream to cut at every byte: n = 2, a tool call, comments, a usage chunk."""
    leaves = [leaf(0, "text", "Bonjour \U0001f600 monde."), leaf(1, "tool_calls.0.arguments", "{}"), leaf(1, "tool_calls.0.name", "f")]
    before = [
        ": ping", chunk({"role": "assistant", "content": ""}), chunk({"content": "Bonjour \ud83d"}), chunk({"content": "\ude00 monde."}), chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}, 1),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}, 1), chunk(None, 0, "stop"), last(seal(claims(leaves)), 1, "tool_calls"),
    ]  # fmt: skip
    made: Json = {"trust": trust(), "now": NOW, "token": seal(pending()), "streams": []}
    for end, name in (("\n", "LF"), ("\r\n", "CR LF")):
        whole = sse([*before, ": ping", USAGE_EVENT], end=end)
        marker = len(sse(before, end=end, done=False).encode()) - (len(end) - 1)
        made["streams"].append({"line_ends": name, "content": whole, "token_event_ends_at": marker})
    return made


# --- receipts ---

REC = Key("receipt", purpose="receipt")
REC_EC = Key("receipt on P-256", "P-256", purpose="receipt")
REC_OLD = Key("receipt retired", purpose="receipt")
REC_EVIL = Key("nobody's receipt key", purpose="receipt")
TEXT = "# Terms of service\n\nOutput may not be used to train competing models. Disputes within 30 days.\n"


def terms_document(text: str = TEXT, **over: Any) -> str:
    """Published terms: RFC 8785 JSON with the digest of their text."""
    header = {"version": "2026-11", "title": "Terms", "uri": TERMS["uri"], "text": "terms.md", "effective": "2026-11-01", **over}
    clause = {"id": "no-competing-model", "effect": "prohibit", "action": ["train-competing-model"]}
    return compact({"terms": {name: value for name, value in header.items() if value is not DROP}, "clause": [clause], "text_sha256": sha(text)})


def accepted(document: str = terms_document(), text: str = TEXT, **over: Any) -> Json:
    """The claims of a receipt of acceptance; a claim of DROP is left out. A dict for `terms`, `subject` or `person` changes members."""
    made: Json = {
        "ver": 1, "iss": ISS, "iat": IAT, "jti": "acc_9Jt0mUvXQ2u0s4rN3cYb7A", "event": "acceptance", "at": IAT - 5,
        "terms": {"series": "general", "version": "2026-11", "uri": TERMS["uri"], "locale": "en", "sha256": sha(document), "text_sha256": sha(text)},
        "subject": {"kind": "account", "id": "acme"}, "person": {"id": "jane@acme.example"}, "method": "account-route", "identified_by": "host",
    }  # fmt: skip
    for name, value in over.items():
        whole = {**made[name], **value} if name in ("terms", "subject", "person") and isinstance(value, dict) else value
        made[name] = {inner: kept for inner, kept in whole.items() if kept is not DROP} if isinstance(whole, dict) else whole
    return {name: value for name, value in made.items() if value is not DROP}


ORGANIZATION: Json = {"subject": {"kind": "organization", "id": "acme-corp"}, "person": {"authority": "general counsel"}}
WITHDRAWN: Json = {"event": "withdrawal", "jti": "wdr_T5mK2b8Qx0y1aZc3VnWp4g", "acceptance": "acc_9Jt0mUvXQ2u0s4rN3cYb7A"}


def receipt_seal(claims: Json | bytes, key: Key = REC, **members: Any) -> str:
    return seal(claims, key, **{"typ": "ai-terms-receipt+jwt", **members})


def receipt_trust(*keys: Json) -> Json:
    return trust(*(keys or (REC.jwk(), A.jwk(), REC_EC.jwk(), HIST.jwk())))


def receipt(made: Json | bytes | str, verdict: str, rule: str, note: str, key: Key = REC, **more: Any) -> None:
    """File one receipt; `made` are its claims, or the JWS itself."""
    vector("receipt", made if isinstance(made, str) else receipt_seal(made, key), verdict, rule=rule, note=f"receipt: {note}", **{"trust": receipt_trust(), **more})


def shown(over: Json) -> str:
    return ", ".join(f"no {name}" if value is DROP else f"{name} {json.dumps(value, default=lambda _: 'absent')[:60]}" for name, value in over.items())


def receipts() -> None:
    """R1 to R10, and what receipts share with tokens."""
    document, whole = terms_document(), {"terms_document": terms_document(), "terms_text": TEXT}
    good_receipts(document, whole)
    for typ in ("ai-provenance+jwt", "ai-key-history+jwt", "JWT", "AI-Terms-Receipt+JWT", "application/ai-terms-receipt+jwt", "", "ai-terms-receipt", "ai-terms-receipt+jwt ", "ai-terms-receipt+cwt", "at+jwt", "ai-terms-receipts+jwt"):
        receipt(receipt_seal(accepted(), typ=typ), "invalid", "R1", f"typ {typ!r}")
    receipt(receipt_seal(accepted(), REC_EC, typ="JWT"), "invalid", "R1", "typ 'JWT', ES256")

    theirs = Key("receipt of the other issuer", purpose="receipt")
    both = {**receipt_trust(), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [theirs.jwk()]})}}
    for iss, note in ((OTHER, "an issuer that nobody trusts"), ("https://api.example.com.evil.example", "the issuer as a prefix"), ("https://api.example.com:444", "another port")):
        receipt(accepted(iss=iss), "undecidable", "R2", note)
    receipt(accepted(iss=OTHER), "undecidable", "R2", "relabelled: the other trusted issuer, our key", trust=both)
    receipt(accepted(), "undecidable", "R2", "relabelled: our issuer, the other trusted issuer's key", theirs, trust=both)
    for kid, note in ((REC_EVIL.kid, "the kid of an unknown key"), (REC.kid.swapcase(), "the kid in other case"), (REC.kid[:-1], "the kid cut"), ("", "an empty kid"), ("../../keys/a", "kid as a path")):
        receipt(receipt_seal(accepted(), kid=kid), "undecidable", "R2", note)
    receipt(accepted(), "undecidable", "R2", "signed by the provenance key", A)
    receipt(accepted(), "undecidable", "R2", "signed by the key of the history", HIST)
    receipt(accepted(), "undecidable", "R2", "signed by a P-256 provenance key", EC, trust=receipt_trust(EC.jwk(), REC.jwk()))

    for ver in (2, 0, -1, 10, 2**53 - 1):
        receipt(accepted(ver=ver), "undecidable", "R3", f"ver {ver}")
    for ver in ("1", True, None, DROP, [1], {"v": 1}, ""):
        receipt(accepted(ver=ver), "invalid", "R3", shown({"ver": ver}))

    bad_receipt_claims()
    bad_receipt_terms(document)

    for ago in (1, 2, 10, 59, 60, 61, 99, 100, 104, 105):
        receipt(accepted(exp=NOW - ago), "unacceptable", "R9", f"expired {ago} seconds ago")
    receipt(accepted(exp=NOW - 1, **ORGANIZATION), "unacceptable", "R9", "expired, of an organization", **whole)
    receipt(accepted(exp=NOW - 1), "unacceptable", "R9", "expired, ES256", REC_EC)
    receipt(accepted(exp=NOW), "unacceptable", "R9", "expired by a later clock", now=NOW + 1)

    for expect in ({"event": "withdrawal"}, {"at": IAT - 6}, {"at": IAT}, {"version": "2026-12"}, {"version": ""}, {"person": "john@acme.example"}, {"person": "Jane@acme.example"}, {"subject_kind": "organization"}, {"subject_id": "acme-2"}, {"subject_id": "Acme"}, {"subject_id": "acme", "person": "jane"}):
        receipt(accepted(), "unacceptable", "R10", f"expected {shown(expect)}", expect=expect)
    receipt(accepted(**WITHDRAWN), "unacceptable", "R10", "a withdrawal where an acceptance is expected", expect={"event": "acceptance"})
    receipt(accepted(**ORGANIZATION), "unacceptable", "R10", "an organization where an account is expected", expect={"subject_kind": "account"})
    shared_with_tokens()


def good_receipts(document: str, whole: Json) -> None:
    """What passes: receipts."""
    said = {"event": "acceptance", "at": IAT - 5, "version": "2026-11", "person": "jane@acme.example", "subject_kind": "account", "subject_id": "acme"}
    receipt(accepted(), "valid", "", "of an account")
    receipt(accepted(), "valid", "", "with document, text and everything expected", expect=said, **whole)
    receipt(accepted(**ORGANIZATION), "valid", "", "of an organization", **whole)
    receipt(accepted(), "valid", "", "ES256", REC_EC, **whole)
    receipt(receipt_seal(accepted(), alg="EdDSA"), "valid", "", "alg EdDSA")
    receipt(accepted(exp=NOW), "valid", "", "in its last second")
    receipt(accepted(exp=IAT - 5, at=IAT - 5), "valid", "", "of one second, judged in it", now=IAT - 5)
    receipt(accepted(iat=NOW + 60), "valid", "", "signed 60 seconds ahead")
    receipt(accepted(at=0), "valid", "", "imported: accepted long before it was signed")
    receipt(accepted(**WITHDRAWN), "valid", "", "of a withdrawal", **whole)
    receipt(accepted(**WITHDRAWN, **ORGANIZATION, reason="The contract ended."), "valid", "", "of a withdrawal by an organization, with a reason")
    receipt(accepted(method="fax", identified_by="notary"), "valid", "", "words that this version does not know")
    receipt(accepted(more={"a": [1]}, person={"id": "\u00e9" * 128, "authority": "\u20ac" * 200, "more": None}, subject={"id": "\U0001f600" * 128}), "valid", "", "the longest names, and members that the table does not list")
    contract = terms_document(series="contract-7", locale="de-CH", version="contract-7-1", organization="acme-corp")
    receipt(accepted(contract, terms={"series": "contract-7", "locale": "de-CH", "version": "contract-7-1"}, **ORGANIZATION), "valid", "", "of a contract in German", terms_document=contract, terms_text=TEXT)
    named = terms_document(series="general", locale="en")
    receipt(accepted(named), "valid", "", "of a document that names the series general and English", terms_document=named)
    receipt(accepted(), "valid", "", "the text alone", terms_text=TEXT)
    receipt(accepted(), "valid", "", "an empty expectation", expect={})
    receipt(accepted(iat=IAT - 10**6, at=IAT - 10**6), "valid", "", "by a key that has been retired since", REC_OLD, trust=receipt_trust(REC.jwk(), REC_OLD.jwk(exp=IAT - 10**6)))
    receipt(accepted(), "valid", "", "by a key superseded since", trust=receipt_trust(REC.jwk(revoked=IAT + 1, reason="superseded")))
    start = IAT - 10**6
    entry = {"history": seal({"ver": 1, "iss": ISS, "iat": IAT, "seq": 5, "keys": [REC.jwk(nbf=start), HIST.jwk(nbf=start)]}, HIST, typ="ai-key-history+jwt"), "history_keys": key_set(HIST.jwk())}
    receipt(accepted(), "valid", "", "a key history as trust", trust={ISS: entry}, **whole)


def bad_receipt_claims() -> None:
    """R4 to R6."""
    forms: list[Json] = [{name: DROP} for name in ("iss", "iat", "jti", "event", "at", "terms", "subject", "person", "method", "identified_by") if name != "iss"]
    forms += [{"iat": str(IAT)}, {"iat": True}, {"iat": None}, {"jti": ""}, {"jti": "x" * 65}, {"jti": "a b"}, {"jti": 5}, {"event": "accepted"}, {"event": ""}, {"event": None}, {"at": "now"}, {"at": None}, {"at": False}]
    forms += [{"terms": value} for value in (None, [], "2026-11", {"series": DROP}, {"version": DROP}, {"uri": DROP}, {"locale": DROP}, {"sha256": DROP}, {"text_sha256": DROP}, {"sha256": "x"}, {"text_sha256": None}, {"sha256": sha("x") + "="}, {"sha256": sha("x")[:-1] + "_"}, {"version": 5})]
    forms += [{"subject": value} for value in (None, "acme", {"kind": DROP}, {"id": DROP}, {"kind": "person"}, {"kind": "Account"}, {"kind": None}, {"id": ""}, {"id": "x" * 129}, {"id": 5})]
    forms += [{"person": value} for value in (None, "jane", {"id": DROP}, {"id": ""}, {"id": "x" * 129}, {"id": None}, {"authority": ""}, {"authority": "x" * 201}, {"authority": None}, {"authority": 5})]
    forms += [{"method": value} for value in ("", "x" * 33, None, 5)] + [{"identified_by": value} for value in ("", "x" * 33, None, ["host"])]
    forms += [{"exp": value} for value in (None, str(NOW), True)]
    for over in forms:
        receipt(accepted(**over), "invalid", "R4", shown(over))
    for over in ({"acceptance": ""}, {"acceptance": None}, {"acceptance": "a/b"}, {"reason": ""}, {"reason": "x" * 501}, {"reason": None}):
        receipt(accepted(**{**WITHDRAWN, **over}), "invalid", "R4", f"a withdrawal with {shown(over)}")
    for iss in ("http://api.example.com", "https://api.example.com/", "api.example.com", "https://user@api.example.com"):
        receipt(accepted(iss=iss), "invalid", "R4", f"iss {iss}", trust={iss: {"keys": json.dumps({"issuer": iss, "keys": [REC.jwk()]})}})

    other = {"acceptance": "acc_AAAAAAAAAAAAAAAAAAAAAA"}
    misfits: Table = [
        (other, "an acceptance that names an acceptance"), ({"acceptance": "acc_9Jt0mUvXQ2u0s4rN3cYb7A"}, "an acceptance that names itself"), ({"reason": "Why not."}, "an acceptance with a reason"),
        ({**other, "reason": "Why not."}, "an acceptance with both"), ({**other, "exp": NOW}, "an acceptance that names one and expires"), ({**WITHDRAWN, "acceptance": DROP}, "a withdrawal of nothing"),
        ({**WITHDRAWN, "acceptance": DROP, "reason": "Why not."}, "a withdrawal of nothing, with a reason"), ({**WITHDRAWN, "exp": NOW}, "a withdrawal that expires"), ({**WITHDRAWN, "exp": NOW, "reason": "Why not."}, "a withdrawal that expires, with a reason"),
        ({"subject": {"kind": "organization", "id": "acme-corp"}}, "an organization without authority"), ({**WITHDRAWN, "subject": {"kind": "organization"}}, "a withdrawal by an organization without authority"),
        ({"subject": {"kind": "organization"}, "exp": NOW}, "an organization without authority, for a time"), ({"event": "withdrawal"}, "an acceptance called a withdrawal"), ({**WITHDRAWN, "event": "acceptance"}, "a withdrawal called an acceptance"),
    ]  # fmt: skip
    for over, note in misfits:
        receipt(accepted(**over), "invalid", "R5", note)

    for ahead in (61, 3600, 10**6, 10**9):
        receipt(accepted(iat=NOW + ahead), "invalid", "R6", f"signed {ahead} seconds ahead")
    for later in (1, 60, 3600, 10**9):
        receipt(accepted(at=IAT + later), "invalid", "R6", f"accepted {later} seconds after it was signed")
    receipt(accepted(at=IAT + 1, **WITHDRAWN), "invalid", "R6", "withdrawn a second after it was signed")
    receipt(accepted(at=IAT + 1), "invalid", "R6", "accepted a second after it was signed, ES256", REC_EC)
    for before in (1, 60, 10**6):
        receipt(accepted(exp=IAT - 5 - before), "invalid", "R6", f"expired {before} seconds before it was accepted", now=IAT - 5 - before, also=["R9"] if before > 60 else None)


def bad_receipt_terms(document: str) -> None:
    """R7 and R8."""
    changes: Table = [
        (document + "\n", "a line break after it"), (" " + document, "a blank before it"), (json.dumps(json.loads(document)), "spaced"), (json.dumps(json.loads(document), indent=1), "indented"),
        (terms_document(title="Other terms"), "another title"), (terms_document(effective="2026-11-02"), "another day"), (terms_document(TEXT + "\n"), "of another text"), (document.replace("prohibit", "permit"), "a clause turned round"),
        (terms_document(version="2026-12"), "another version"), (document.replace("train-competing-model", "resell"), "another action"), ("", "empty"), ("\ufeff" + document, "a byte-order mark before it"),
    ]  # fmt: skip
    for made, note in changes:
        receipt(accepted(document), "invalid", "R7", f"another document: {note}", terms_document=made)
    for over in ({"series": "contract-7"}, {"version": "2026-12"}, {"uri": f"{ISS}/terms"}, {"locale": "de"}, {"text_sha256": sha("another text")}):
        receipt(accepted(document, terms=over), "invalid", "R7", f"the receipt says {shown(over)}, the document something else", terms_document=document)
    for over in ({"series": "contract-7"}, {"locale": "fr"}):
        receipt(accepted(terms_document(**over)), "invalid", "R7", f"the document says {shown(over)}, the receipt nothing of it", terms_document=terms_document(**over))
    for made, note in ((document[:-1], "cut"), (document + "{}", "two objects"), (f"[{document}]", "in an array"), ("[terms]\nversion = '2026-11'\n", "TOML"), (document.replace('"terms":', '"terms":{},"terms":'), "a name twice"), (document.replace('"terms":', '"terns":'), "without terms"), ('{"terms":5}', "terms that are a number")):
        receipt(accepted(made), "invalid", "R7", f"the digest is of a document that is none: {note}", terms_document=made)

    for made, note in ((TEXT + "\n", "a line break more"), (TEXT[:-1], "a line break less"), (TEXT.replace("\n", "\r\n"), "CR LF"), ("", "empty"), (TEXT.replace("30", "60"), "another number"), (TEXT.replace("not ", ""), "without its 'not'"), (TEXT.lower(), "in lower case"), ("\ufeff" + TEXT, "a byte-order mark before it"),
                       (TEXT.replace(" ", "\u00a0"), "other blanks"), (TEXT.replace("o", "\u043e"), "letters that look alike"), (TEXT.replace("Terms", "T\u0435rms"), "one letter that looks alike"), (TEXT * 2, "twice"), (sha(TEXT), "its digest")):  # fmt: skip
        receipt(accepted(document), "invalid", "R8", f"another text: {note}", terms_text=made)


def shared_with_tokens() -> None:
    """What receipts and tokens share, at the end of the rules of tokens."""
    fine = receipt_seal(accepted(**ORGANIZATION))
    head, payload, signature = fine.split(".")
    receipt(fine + ".", "invalid", "T1", "a dot after the signature")
    receipt(f"{head}.{payload}.{signature}==", "invalid", "T2", "padding in the signature")
    text = compact(accepted())
    receipt(receipt_seal(text[:-1].encode() + b',"person":{"id":"john@acme.example"}}'), "invalid", "T3", "a second person")
    receipt(receipt_seal(text.replace(f'"at":{IAT - 5}', f'"at":{IAT - 5}.0').encode()), "invalid", "T3", "at with a fraction", also=["R4"])
    receipt(receipt_seal(accepted(), jku=f"{ISS}/keys"), "invalid", "T4", "jku")
    receipt(receipt_seal(accepted(), crit=["exp"]), "invalid", "T4", "crit")
    receipt(receipt_seal(accepted(), alg="ES256"), "invalid", "T6", "alg ES256 for an Ed25519 key")
    receipt(receipt_seal(accepted(), alg="none"), "invalid", "T6", "alg none")
    for over, note in (({"person": {"id": "john@acme.example"}}, "the person"), ({"person": {"authority": "intern"}}, "the authority"), ({"subject": {"id": "acme-2"}}, "the subject"), ({"at": IAT - 6}, "the date"), ({"terms": {"version": "2026-10"}}, "the version"),
                       ({"terms": {"sha256": sha("other terms")}}, "the digest of the terms"), ({"terms": {"text_sha256": sha("another text")}}, "the digest of the text"), ({"method": "cli"}, "the method")):  # fmt: skip
        changed = accepted(**{**ORGANIZATION, **{name: {**ORGANIZATION.get(name, {}), **value} if isinstance(value, dict) else value for name, value in over.items()}})
        receipt(f"{head}.{b64(compact(changed).encode())}.{signature}", "invalid", "T7", f"{note} changed after it was signed")
    receipt(receipt_seal(accepted(), REC_EVIL, kid=REC.kid), "invalid", "T7", "signed by another key")
    receipt(accepted(), "unacceptable", "K8", "signed before its key was in use", trust=receipt_trust(REC.jwk(nbf=IAT + 1)))
    receipt(accepted(), "unacceptable", "K8", "signed after its key was retired", trust=receipt_trust(REC.jwk(exp=IAT - 1)))
    receipt(accepted(), "undecidable", "K9", "by a compromised key", trust=receipt_trust(REC.jwk(revoked=NOW, reason="compromised")))
    receipt(accepted(), "undecidable", "K9", "by a key superseded before", trust=receipt_trust(REC.jwk(revoked=IAT, reason="superseded")))


# --- other dialects ---


def carrying(document: Json, token: Any, leaves: list[Any] | None = None) -> str:
    """A JSON body with the tag member."""
    return json.dumps({**document, "ai_provenance": tag(token, leaves)}, separators=(",", ":"))


def over(leaves: list[Any], proj: str, **more: Any) -> Json:
    """Claims over these leaves, which the token holds only where they keep P4."""
    held = len(leaves) <= 4 and all(0 <= choice <= 65_535 for choice, _, _ in leaves)
    return claims(**{"content": content(leaves, proj, **({} if held else {"leaves": DROP})), **more})


def point(leaves: list[Any], proj: str = "chat-1", **more: Any) -> Json:
    """The claims of a checkpoint."""
    return over(leaves, proj, **{"stage": "checkpoint", "completion": DROP, "jti": "tok-c", **more})


def response_of(output: Any, **more: Any) -> Json:
    return {"id": "resp_1", "object": "response", "created_at": IAT, "model": "small-1", "status": "completed", "output": output, **more}


def message_item(*contents: Any, **more: Any) -> Json:
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": one, "annotations": []} if isinstance(one, str) else one for one in contents], **more}


def refused(words: Any) -> Json:
    return {"type": "refusal", "refusal": words}


def call_item(name: Any = "weather", arguments: Any = '{"city": "Paris"}', **more: Any) -> Json:
    return {"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed", "name": name, "arguments": arguments, **more}


def reasoning_item(summary: list[Any] | None = None, contents: list[Any] | None = None, **more: Any) -> Json:
    texts = [{"type": "summary_text", "text": one} if isinstance(one, str) else one for one in summary or []]
    found = [{"type": "reasoning_text", "text": one} if isinstance(one, str) else one for one in contents or []]
    return {"type": "reasoning", "id": "rs_1", "summary": texts, **({"content": found} if contents is not None else {}), **more}


SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "caf\u00e9"}}
SEARCH_LEAF = '{"action":{"query":"caf\u00e9","type":"search"},"type":"web_search_call"}'


def said(kind: str, **members: Any) -> Json:
    """An event of a Responses stream; a member of DROP is left out."""
    return {name: value for name, value in {"type": f"response.{kind}", "sequence_number": 0, **members}.items() if value is not DROP}


def ended(token: Any, output: Any, kind: str = "completed", leaves: list[Any] | None = None, **more: Any) -> Json:
    """The terminal event with the tag in its response; with a token of None there is none."""
    return said(kind, response=response_of(output, status=kind, **({} if token is None else {"ai_provenance": tag(token, leaves)})), **more)


def typed(events: list[Any], **how: Any) -> str:
    """A stream with `event` lines and without [DONE]."""
    lines = [event if isinstance(event, str) else f"event: {event.get('type')}\ndata: {json.dumps(event, separators=(',', ':'))}" for event in events]
    return sse(lines, done=False, **how)


def text_events(text: str = HELLO, /, at: int = 0, place: int = 0, **repeated: Any) -> list[Json]:
    """A message item as a server streams it; `repeated` changes what an event repeats, a value of DROP leaves the event out."""
    where = {"output_index": at, "content_index": place, "item_id": "msg_1"}
    half = len(text) // 2
    events = [said("output_item.added", output_index=at, item=message_item(status="in_progress")), said("content_part.added", **where, part={"type": "output_text", "text": "", "annotations": []})]
    events += [said("output_text.delta", **where, delta=part) for part in (text[:half], text[half:])]
    ends = {"text": said("output_text.done", **where, text=repeated.get("text", text)), "part": said("content_part.done", **where, part={"type": "output_text", "text": repeated.get("part", text)})}
    ends["item"] = said("output_item.done", output_index=at, item=repeated.get("item", message_item(text)))
    return events + [event for name, event in ends.items() if repeated.get(name) is not DROP]


CREATED = said("created", response=response_of([], status="in_progress"))


def responses(leaves: list[Any], events: list[Any], output: Any, *, key: Key = A, proj: str = "responses-1", **how: Any) -> str:
    """A sealed Responses stream."""
    token = seal(over(leaves, proj, **how.pop("claims", {})), key)
    return typed([CREATED, *events, ended(token, output, how.pop("kind", "completed"), leaves if len(leaves) > 4 else None)], **how)


def message_of(blocks: Any, **more: Any) -> Json:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "small-1", "content": blocks, "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 4}, **more}


def begin(block: Any, at: Any = 0) -> Json:
    return {name: value for name, value in {"type": "content_block_start", "index": at, "content_block": block}.items() if value is not DROP}


def delta(kind: Any, at: Any = 0, **members: Any) -> Json:
    return {name: value for name, value in {"type": "content_block_delta", "index": at, "delta": {"type": kind, **members}}.items() if value is not DROP}


def started(first: Any = None, blocks: Any = (), **more: Any) -> Json:
    """`message_start`, with a pending token where one is given."""
    return {"type": "message_start", "message": message_of(list(blocks), stop_reason=None, **({} if first is None else {"ai_provenance": tag(first)}), **more)}


def stopped(token: Any, leaves: list[Any] | None = None) -> list[Json]:
    return [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}, {"type": "message_stop", **({} if token is None else {"ai_provenance": tag(token, leaves)})}]


TEXT_BLOCK = [begin({"type": "text", "text": ""}), {"type": "ping"}, delta("text_delta", text="Hello, "), delta("text_delta", text="world."), {"type": "content_block_stop", "index": 0}]


def spoken(leaves: list[Any], events: list[Any], *, first: Any = None, key: Key = A, proj: str = "messages-1", **how: Any) -> str:
    """A sealed Messages stream."""
    token = seal(over(leaves, proj, **how.pop("claims", {})), key)
    return typed([started(first), *events, *stopped(token, leaves if len(leaves) > 4 else None)], **how)


def legacy(text: Any, index: Any = 0, **top: Any) -> Json:
    """A chunk, or a body, of the older completions."""
    made = {"id": "cmpl-1", "object": "text_completion", "created": IAT, "model": "small-1", "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": None}], **top}
    return {name: value for name, value in made.items() if value is not DROP}


# protobuf


def number(value: int) -> bytes:
    """A varint."""
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def field(at: int, value: bytes | str | int, wire: int | None = None) -> bytes:
    """A field: of an integer a varint, else as long as it is; of wire type 1 or 5 the bytes as they are."""
    if isinstance(value, int):
        return number(at << 3 | (wire or 0)) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(at << 3 | (2 if wire is None else wire)) + (number(len(data)) if wire is None else b"") + data


def output(name: str = "OUT", datatype: str = "BYTES", shape: bytes | list[int] = b"", contents: bytes | None = None, more: bytes = b"") -> bytes:
    """An output tensor; `shape` is packed where it is a list."""
    sizes = field(3, b"".join(map(number, shape))) if isinstance(shape, list) else shape
    return field(5, field(1, name) + field(2, datatype) + sizes + more + (b"" if contents is None else field(5, contents)))


def parameter(token: str, name: str = "ai_provenance") -> bytes:
    return field(4, field(1, name) + field(2, field(3, token)))


def reply(*outputs: bytes, raw: tuple[bytes, ...] = (), token: str | None = None, more: bytes = b"") -> bytes:
    """A ModelInferResponse."""
    head = field(1, "small-1") + field(2, "1") + field(3, "id-1")
    return head + (b"" if token is None else parameter(token)) + b"".join(outputs) + b"".join(field(6, one) for one in raw) + more


def streamed_reply(message: bytes, error: str | None = None) -> bytes:
    """A ModelStreamInferResponse."""
    return (b"" if error is None else field(1, error)) + field(2, message)


def strings(*texts: str | bytes) -> bytes:
    """BYTES tensor data."""
    return b"".join(len(data).to_bytes(4, "little") + data for data in (text.encode() if isinstance(text, str) else text for text in texts))


def tensor_leaves(datatype: str, shape: str, data: bytes | None, *, at: int = 0, name: str = "OUT", choice: int = 0) -> list[Any]:
    """The leaves of an output, in their order; `data` of nothing is no part."""
    found = [] if data == b"" else [leaf(choice, f"outputs.{at}.data", data)]
    return [*found, leaf(choice, f"outputs.{at}.datatype", datatype), leaf(choice, f"outputs.{at}.name", name), leaf(choice, f"outputs.{at}.shape", shape)]


GREETING = strings(HELLO)
GREETING_LEAVES = tensor_leaves("BYTES", "[1]", GREETING)
GREETING_JSON = {"model_name": "small-1", "model_version": "1", "id": "id-1", "outputs": [{"name": "OUT", "datatype": "BYTES", "shape": [1], "data": [HELLO]}]}


def greeting(token: str | None = None, more: bytes = b"") -> bytes:
    return reply(output(shape=[1], contents=field(8, HELLO)), token=token, more=more)


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


def lines_of(*lines: str, token: str | None = None) -> str:
    return "".join(f"{line}\n" for line in (*lines, *([json.dumps({"ai_provenance": tag(token)})] if token else [])))


def good_dialects() -> None:
    """What passes: the other dialects, in bodies, streams, lines and messages."""
    good_completions()
    good_responses()
    good_messages()
    good_infer()
    good_calls()
    good_lines()
    good_untold()
    good_checkpoints()
    good_names()
    good_left_open()
    good_tails()


def good_completions() -> None:
    def whole(note: str, leaves: list[Any], *choices: Any, **more: Any) -> None:
        vector("body", carrying(legacy(None, choices=list(choices)), seal(over(leaves, "completions-1")), leaves if len(leaves) > 4 else None), note=f"completions: {note}", **more)

    def streamed(note: str, leaves: list[Any], *events: Json, **more: Any) -> None:
        token = seal(over(leaves, "completions-1"))
        vector("stream", sse([*events, legacy("", ai_provenance=tag(token))], done=more.pop("done", True)), note=f"completions, stream: {note}", **more)

    whole("one choice", LEAVES, {"index": 0, "text": HELLO, "finish_reason": "stop"})
    whole("n = 6, in another order", [leaf(i, "text", f"Answer {i}.") for i in range(6)], *({"index": i, "text": f"Answer {i}."} for i in (5, 0, 3, 1, 2, 4)))
    whole("white space at the ends", LEAVES, {"index": 0, "text": f"\r\n {HELLO}\n"})
    whole("no text", [], {"index": 0, "text": ""}, {"index": 1, "text": None}, {"index": 2})
    whole("a number for a text", [[0, "text", None]], {"index": 0, "text": 5})
    whole("members of chat completions are not covered", LEAVES, {"index": 0, "text": HELLO, "message": {"content": "Hi."}})
    streamed("one choice", LEAVES, legacy("Hello, "), legacy("world."))
    streamed("a pending token in the header", LEAVES, legacy("Hello, "), legacy("world."), token=seal(pending()))
    streamed("two choices, and a usage chunk first", [leaf(0, "text", HELLO), leaf(1, "text", "Hi.")], legacy(None, choices=[], usage={"total_tokens": 1}), legacy("H"), legacy("Hi.", 1), legacy(HELLO[1:]))
    streamed("known by `text` alone", LEAVES, legacy(HELLO, object=DROP))
    streamed("no [DONE]", LEAVES, legacy(HELLO), done=False, terminator="missing")
    streamed("halves of a character in two chunks", [leaf(0, "text", "\U0001f600")], legacy("\ud83d"), legacy("\ude00"))
    vector("text", HELLO, note="completions: a text with its token", token=seal(over(LEAVES, "completions-1")))


def good_responses() -> None:
    def whole(note: str, leaves: list[Any], *items: Any, **more: Any) -> None:
        token = seal(over(leaves, "responses-1"))
        vector("body", carrying(response_of(list(items), **more.pop("top", {})), token, leaves if len(leaves) > 4 else None), note=f"responses: {note}", **more)

    def streamed(note: str, leaves: list[Any], events: list[Any], output: Any, **more: Any) -> None:
        how = {name: more.pop(name) for name in ("kind", "end", "claims", "key") if name in more}
        vector("stream", responses(leaves, events, output, **how), note=f"responses, stream: {note}", **more)

    call_leaves = [leaf(0, "arguments", '{"city": "Paris"}'), leaf(0, "name", "weather")]
    whole("a message", LEAVES, message_item(HELLO))
    whole("two texts in one message", [leaf(0, "text", "One."), leaf(0, "text.1", "Two.")], message_item("One.", "Two."))
    whole("a refusal after a text", [leaf(0, "refusal.1", "No."), leaf(0, "text", HELLO)], message_item(HELLO, refused("No.")))
    whole("a refusal", [leaf(0, "refusal", "I cannot.")], message_item(refused(" I cannot.\r\n")))
    whole("a function call", call_leaves, call_item())
    whole("arguments as an object", [leaf(0, "arguments", '{"a":1,"b":"x"}'), leaf(0, "name", "f")], call_item("f", {"b": "x", "a": 1}))
    whole("a custom tool", [leaf(0, "custom_name", "sql"), leaf(0, "input", " SELECT 1\n")], {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "sql", "input": " SELECT 1\n"})
    whole("reasoning: text and summaries, and what is encrypted is not covered", [leaf(0, "reasoning", "Hm."), leaf(0, "reasoning_summary", "One."), leaf(0, "reasoning_summary.1", "Two.")],
          reasoning_item([" One.", "Two.\n"], ["Hm."], encrypted_content="gAAA=\n"))
    whole("an item of another type", [leaf(0, "item", SEARCH_LEAF), leaf(1, "text", HELLO)], SEARCH, message_item(HELLO))
    whole("an item of a type that nobody knows", [leaf(0, "item", '{"more":{"a":[1.5]},"type":"x"}')], {"type": "x", "more": {"a": [1.50]}, "id": "i", "status": "failed"})
    whole("an item without a type", [leaf(0, "item", '{"a":1}')], {"a": 1})
    whole("an item that has no RFC 8785 bytes", [[0, "item", None], leaf(1, "text", HELLO)], {"type": "x", "n": 2**53}, message_item(HELLO))
    whole("an entry of another type in a message", [leaf(0, "content.1", '{"audio":"AAAA","type":"output_audio"}'), leaf(0, "text", HELLO)], message_item(HELLO, {"type": "output_audio", "audio": "AAAA"}))
    whole("an entry of another type, the first", [leaf(0, "content", '{"type":"output_audio"}')], message_item({"type": "output_audio"}))
    whole("an entry is taken by its own type, whatever item it is in", [leaf(0, "reasoning", "Hm."), leaf(1, "text", HELLO), leaf(1, "text.1", "Hi.")], message_item({"type": "reasoning_text", "text": "Hm."}), reasoning_item() | {"content": [{"type": "output_text", "text": HELLO}, {"type": "output_text", "text": "Hi."}]})
    whole("an entry of another type in content and in summary", [leaf(0, "content", '{"type":"x"}'), leaf(0, "summary", '{"type":"y"}')], reasoning_item([{"type": "y"}], [{"type": "x"}]))
    whole("no items", [])
    whole("empty members", [], message_item(""), message_item(contents=None), reasoning_item([""], []), call_item("", None), {"type": "message", "content": None})
    whole("annotations, ids and status are not covered", LEAVES, {**message_item({"type": "output_text", "text": HELLO, "annotations": [{"url": "x"}], "logprobs": [1.5]}), "id": "other", "status": "incomplete"}, top={"status": "incomplete", "usage": None})
    whole("a text that is a number", [[0, "text", None]], message_item({"type": "output_text", "text": 5}))
    whole("a lone surrogate", [[0, "text", None]], message_item("a\ud800"))
    whole("eight items", [leaf(i, "text", f"Answer {i}.") for i in range(8)], *(message_item(f"Answer {i}.") for i in range(8)))
    whole("the header carries the token too", LEAVES, message_item(HELLO), token=seal(over(LEAVES, "responses-1")))
    line = json.dumps({"id": "batch_1", "custom_id": "r-1", "response": {"status_code": 200, "body": json.loads(carrying(response_of([message_item(HELLO)]), seal(over(LEAVES, "responses-1"))))}})
    vector("body", json.dumps(json.loads(line)["response"]["body"]), note="responses: the body of a line of a batch")
    for text in ("Two.", "One."):
        vector("text", text, "valid" if text == "One." else "invalid", **({} if text == "One." else {"rule": "P8"}), note=f"responses: the {'first' if text == 'One.' else 'second'} of two texts in a message", token=seal(over([leaf(0, "text", "One."), leaf(0, "text.1", "Two.")], "responses-1")))

    call_events = [said("output_item.added", output_index=0, item=call_item(arguments="", status="in_progress")), *(said("function_call_arguments.delta", output_index=0, item_id="fc_1", delta=part) for part in ('{"city":', ' "Paris"}')),
                   said("function_call_arguments.done", output_index=0, item_id="fc_1", arguments='{"city": "Paris"}'), said("output_item.done", output_index=0, item=call_item())]
    streamed("a message", LEAVES, text_events(), [message_item(HELLO)])
    streamed("a pending token in the header", LEAVES, text_events(), [message_item(HELLO)], token=seal(pending()))
    for end, name in (("\r\n", "CR LF"), ("\r", "CR")):
        streamed(name, LEAVES, text_events(), [message_item(HELLO)], end=end)
    streamed("a function call", call_leaves, call_events, [call_item()])
    streamed("a function call whose name comes at its end", call_leaves, [call_events[1], call_events[2], call_events[4]], [call_item()])
    custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "sql", "input": "SELECT 1"}
    streamed("a custom tool", [leaf(0, "custom_name", "sql"), leaf(0, "input", "SELECT 1")], [said("output_item.added", output_index=0, item={**custom, "input": ""}), said("custom_tool_call_input.delta", output_index=0, delta="SELECT 1"), said("custom_tool_call_input.done", output_index=0, input="SELECT 1"), said("output_item.done", output_index=0, item=custom)], [custom])
    thought = reasoning_item(["Sum."], ["Hm."], encrypted_content="gAAA")
    thinking = [said("output_item.added", output_index=0, item=reasoning_item(encrypted_content="gA")), said("reasoning_summary_part.added", output_index=0, summary_index=0, part={"type": "summary_text", "text": ""}), said("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="Sum."),
                said("reasoning_summary_text.done", output_index=0, summary_index=0, text="Sum."), said("reasoning_summary_part.done", output_index=0, summary_index=0, part={"type": "summary_text", "text": "Sum."}), said("content_part.added", output_index=0, content_index=0, part={"type": "reasoning_text", "text": ""}),
                said("reasoning_text.delta", output_index=0, content_index=0, delta="Hm."), said("reasoning_text.done", output_index=0, content_index=0, text="Hm."), said("output_item.done", output_index=0, item=thought)]
    thought_leaves = [leaf(0, "reasoning", "Hm."), leaf(0, "reasoning_summary", "Sum.")]
    streamed("reasoning, then a message: what is encrypted is another thing in each event", [*thought_leaves, leaf(1, "text", HELLO)], [*thinking, *text_events(at=1)], [{**thought, "encrypted_content": "gBBB"}, message_item(HELLO)])
    compacted = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}
    streamed("an item of another type that is encrypted anew", [leaf(0, "item", '{"type":"compaction"}'), leaf(1, "text", HELLO)], [said("output_item.done", output_index=0, item=compacted), *text_events(at=1)], [{**compacted, "encrypted_content": "gBBB"}, message_item(HELLO)])
    no = {"output_index": 0, "content_index": 0}
    streamed("a refusal", [leaf(0, "refusal", "I cannot.")], [said("content_part.added", **no, part=refused("")), said("refusal.delta", **no, delta="I can"), said("refusal.delta", **no, delta="not."), said("refusal.done", **no, refusal="I cannot."), said("content_part.done", **no, part=refused("I cannot."))], [message_item(refused("I cannot."))])
    streamed("an item of another type", [leaf(0, "item", SEARCH_LEAF), leaf(1, "text", HELLO)], [said("output_item.added", output_index=0, item={"type": "web_search_call", "id": "ws_1", "status": "in_progress"}), said("web_search_call.searching", output_index=0), said("output_item.done", output_index=0, item=SEARCH), *text_events(at=1)], [SEARCH, message_item(HELLO)])
    audio = {"type": "output_audio", "audio": "AAAA"}
    streamed("an entry of another type", [leaf(0, "content.1", '{"audio":"AAAA","type":"output_audio"}'), leaf(0, "text", HELLO)], [*text_events(item=DROP), said("content_part.added", output_index=0, content_index=1, part={"type": "output_audio", "audio": ""}), said("content_part.done", output_index=0, content_index=1, part=audio)], [message_item(HELLO, audio)])
    streamed("two texts in one message", [leaf(0, "text", "One."), leaf(0, "text.1", "Two.")], [*text_events("One.", item=DROP), *text_events("Two.", place=1, item=message_item("One.", "Two."))], [message_item("One.", "Two.")])
    streamed("only deltas", LEAVES, text_events(text=DROP, part=DROP, item=DROP), [])
    streamed("only what repeats", LEAVES, [said("output_text.done", **no, text=HELLO), said("output_item.done", output_index=0, item=message_item(HELLO))], [message_item(HELLO)])
    streamed("all in the terminal event", LEAVES, [], [message_item(HELLO)])
    streamed("all in the first event", LEAVES, [said("in_progress", response=response_of([message_item(HELLO)]))], [message_item(HELLO)])
    streamed("the item begins with text, and deltas follow", LEAVES, [said("output_item.added", output_index=0, item=message_item("Hello, ")), said("output_text.delta", **no, delta="world.")], [message_item(HELLO)])
    streamed("empty deltas and members of null", LEAVES, [*text_events(), said("output_text.delta", output_index=1, content_index=0, delta=""), said("refusal.delta", **no, delta=None), said("output_item.added", output_index=2, item={"type": "message", "content": None})], [message_item(HELLO)])
    streamed("white space around the text", LEAVES, [said("output_text.delta", **no, delta=f"\n{HELLO} "), said("output_text.done", **no, text=f"\n{HELLO} ")], [message_item(f"\n{HELLO} ")])
    streamed("halves of a character in two deltas", [leaf(0, "text", "\U0001f600")], [said("output_text.delta", **no, delta="\ud83d"), said("output_text.delta", **no, delta="\ude00"), said("output_text.done", **no, text="\U0001f600")], [message_item("\U0001f600")])
    streamed("a number among the deltas", [[0, "text", None]], [said("output_text.delta", **no, delta="Hello"), said("output_text.delta", **no, delta=5)], [])
    streamed("items, parts and responses of null", LEAVES, [said("in_progress", response=None), said("output_item.added", output_index=0, item=None), *text_events(), said("content_part.done", **no, part=None)], [message_item(HELLO)])
    streamed("an empty delta after the text was repeated, and the text once more", LEAVES, [*text_events(), said("output_text.delta", **no, delta=""), said("output_text.done", **no, text=f"{HELLO}\n")], [message_item(f" {HELLO}")])
    streamed("uncoverable in other ways where it repeats", [[0, "text", None]], [said("output_text.delta", **no, delta=5), said("output_text.done", **no, text=["x"])], [message_item({"type": "output_text", "text": "\ud800"})])
    streamed("events that are not covered", LEAVES, [*text_events(), said("output_text.annotation.added", **no, annotation={"url": "x"}), said("something.new", delta="x"), {"type": "keepalive"}, {"type": "x", "delta": "x"}], [message_item(HELLO)])
    streamed("cut short by the model", [leaf(0, "text", "Hello,")], text_events("Hello,"), [message_item("Hello,")], kind="incomplete")
    streamed("failed", [leaf(0, "text", "Hello,")], text_events("Hello,"), [message_item("Hello,")], kind="failed", claims={"completion": "error"})
    streamed("eight items", [leaf(i, "text", f"Answer {i}.") for i in range(8)], [event for i in range(8) for event in text_events(f"Answer {i}.", i)], [message_item(f"Answer {i}.") for i in range(8)])
    error = {"type": "error", "code": "tos_policy", "message": "stopped", "param": None, "sequence_number": 9}
    made = seal(over([leaf(0, "text", "Hello,")], "responses-1", completion="policy"))
    vector("stream", typed([CREATED, *text_events("Hello,", text=DROP, part=DROP, item=DROP), {**error, "ai_provenance": tag(made)}]), note="responses, stream: a stop by policy in an error event", token=seal(pending()))
    vector("stream", typed([": ping", {"type": "ping"}, CREATED, *text_events(), ended(seal(over(LEAVES, "responses-1")), [message_item(HELLO)]), ": bye"]), note="responses, stream: comments, and a ping first")
    vector("stream", typed([CREATED, *text_events(), ended(seal(over(LEAVES, "responses-1")), [message_item(HELLO)]), "data: [DONE]"]), note="responses, stream: [DONE] after the terminal event")


def good_messages() -> None:
    def whole(note: str, leaves: list[Any], *blocks: Any, **more: Any) -> None:
        token = seal(over(leaves, "messages-1"))
        vector("body", carrying(message_of(list(blocks), **more.pop("top", {})), token, leaves if len(leaves) > 4 else None), note=f"messages: {note}", **more)

    def streamed(note: str, leaves: list[Any], events: list[Any], **more: Any) -> None:
        how = {name: more.pop(name) for name in ("first", "end", "claims", "key") if name in more}
        vector("stream", spoken(leaves, events, **how), note=f"messages, stream: {note}", **more)

    text = {"type": "text", "text": HELLO}
    tool = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris", "at": 1.50}}
    tool_leaves = [leaf(0, "input", '{"at":1.5,"city":"Paris"}'), leaf(0, "name", "weather")]
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result", "url": "https://example.com", "title": "caf\u00e9"}]}
    found_leaf = '{"content":[{"title":"caf\u00e9","type":"web_search_result","url":"https://example.com"}],"tool_use_id":"srvtoolu_1","type":"web_search_tool_result"}'
    whole("a text", LEAVES, text)
    whole("thinking, then a text", [leaf(0, "signature", "EqQB+/=="), leaf(0, "thinking", "Hm."), leaf(1, "text", HELLO)], {"type": "thinking", "thinking": "Hm.\r\n", "signature": "EqQB+/=="}, text)
    whole("redacted thinking", [leaf(0, "redacted_thinking", "EmwK \n"), leaf(1, "text", HELLO)], {"type": "redacted_thinking", "data": "EmwK \n"}, text)
    whole("a tool", tool_leaves, tool)
    for kind in ("server_tool_use", "mcp_tool_use"):
        whole(f"a tool of type {kind}", tool_leaves, {**tool, "type": kind})
    whole("a tool without input", [leaf(0, "input", "{}"), leaf(0, "name", "now")], {**tool, "name": "now", "input": {}})
    whole("input that has no RFC 8785 bytes", [[0, "input", None], leaf(0, "name", "f")], {**tool, "name": "f", "input": {"n": 2**53}})
    whole("a block of another type", [leaf(0, "block", found_leaf), leaf(1, "text", HELLO)], found, text)
    whole("a block of a type that nobody knows", [leaf(0, "block", '{"a":1,"type":"x"}')], {"type": "x", "a": 1})
    whole("a block without a type, and one that has no RFC 8785 bytes", [leaf(0, "block", '{"text":"x"}'), [1, "block", None]], {"text": "x"}, {"type": "x", "n": 2**60})
    whole("a compaction", [leaf(0, "compaction", "So far."), leaf(0, "encrypted_content", "EqQB"), leaf(1, "text", HELLO)], {"type": "compaction", "content": " So far.", "encrypted_content": "EqQB"}, text)
    whole("input that is a string", [leaf(0, "input", " x"), leaf(0, "name", "f")], {**tool, "name": "f", "input": " x"})
    whole("input that is an array", [[0, "input", None], leaf(0, "name", "f")], {**tool, "name": "f", "input": [1]})
    whole("no blocks", [])
    whole("empty members", [], {"type": "text", "text": ""}, {"type": "text", "text": None}, {"type": "thinking"}, {"type": "redacted_thinking", "data": ""})
    whole("citations, ids and usage are not covered", LEAVES, {**text, "citations": [{"cited_text": "x"}]}, top={"id": "msg_2", "usage": None, "stop_reason": "max_tokens"})
    whole("seven blocks", [leaf(i, "text", f"Answer {i}.") for i in range(7)], *({"type": "text", "text": f"Answer {i}."} for i in range(7)))
    whole("a text that is a number", [[0, "text", None]], {"type": "text", "text": 5})
    whole("in header and member", LEAVES, text, token=seal(over(LEAVES, "messages-1")))
    vector("text", HELLO, note="messages: a text with its token", token=seal(over([leaf(0, "thinking", "Hm."), leaf(1, "text", HELLO)], "messages-1")), choice=1)

    first = seal(pending())
    tool_events = [begin({**tool, "input": {}}), delta("input_json_delta", partial_json=""), delta("input_json_delta", partial_json='{"city": "Pa'), delta("input_json_delta", partial_json='ris", "at": 1.50}'), {"type": "content_block_stop", "index": 0}]
    streamed("a text", LEAVES, TEXT_BLOCK)
    streamed("a pending token in message_start", LEAVES, TEXT_BLOCK, first=first)
    streamed("a pending token in message_start and in the header", LEAVES, TEXT_BLOCK, first=first, token=first)
    streamed("a pending token in the header alone", LEAVES, TEXT_BLOCK, token=first)
    streamed("a pending token of another key of the issuer", LEAVES, TEXT_BLOCK, first=seal(pending(), EC), trust=trust(A.jwk(), EC.jwk()))
    for end, name in (("\r\n", "CR LF"), ("\r", "CR")):
        streamed(name, LEAVES, TEXT_BLOCK, first=first, end=end)
    thinking = [begin({"type": "thinking", "thinking": "", "signature": ""}), delta("thinking_delta", thinking="H"), delta("thinking_delta", thinking="m."), delta("signature_delta", signature="EqQB"), delta("signature_delta", signature="+/==")]
    streamed("thinking, then a text", [leaf(0, "signature", "EqQB+/=="), leaf(0, "thinking", "Hm."), leaf(1, "text", HELLO)], [*thinking, begin({"type": "text", "text": ""}, 1), delta("text_delta", 1, text=HELLO)])
    streamed("redacted thinking", [leaf(0, "redacted_thinking", "EmwK"), leaf(1, "text", HELLO)], [begin({"type": "redacted_thinking", "data": "EmwK"}), begin({"type": "text", "text": HELLO}, 1)])
    streamed("a tool", tool_leaves, tool_events)
    streamed("a tool without deltas", [leaf(0, "input", "{}"), leaf(0, "name", "now")], [begin({**tool, "name": "now", "input": {}})])
    streamed("a tool with empty deltas", [leaf(0, "input", '{"a":1}'), leaf(0, "name", "now")], [begin({**tool, "name": "now", "input": {"a": 1}}), delta("input_json_delta", partial_json=""), delta("input_json_delta", partial_json=None)])
    streamed("two tools, interleaved", [leaf(0, "input", '{"a":1}'), leaf(0, "name", "f"), leaf(1, "input", '{"b":"\u20ac"}'), leaf(1, "name", "g")],
             [begin({**tool, "name": "f", "input": {}}), begin({**tool, "type": "server_tool_use", "name": "g", "input": {}}, 1), delta("input_json_delta", 1, partial_json='{"b":'), delta("input_json_delta", partial_json='{"a":1'), delta("input_json_delta", 1, partial_json='"\\u20ac"} '), delta("input_json_delta", partial_json="}")])
    for joined, note in (('{"a":', "cut"), ("[1]", "an array"), ('{"a":1,"a":2}', "a name twice"), ('{"n":9007199254740993}', "without RFC 8785 bytes"), ('{"a":NaN}', "NaN"), ("{}{}", "two objects"), ('{"a":"\ud800"}', "a lone surrogate"), ("5", "a number"), ('{"a":' + "[" * 64 + "]" * 64 + "}", "depth 65")):
        streamed(f"partial JSON that is no object to cover: {note}", [[0, "input", None], leaf(0, "name", "f")], [begin({**tool, "name": "f", "input": {}}), delta("input_json_delta", partial_json=joined[:3]), delta("input_json_delta", partial_json=joined[3:])])
    streamed("partial JSON that is no string", [[0, "input", None], leaf(0, "name", "f")], [begin({**tool, "name": "f", "input": {}}), delta("input_json_delta", partial_json="{}"), delta("input_json_delta", partial_json={})])
    streamed("halves of a character in partial JSON", [leaf(0, "input", '{"a":"\U0001f600"}'), leaf(0, "name", "f")], [begin({**tool, "name": "f", "input": {}}), delta("input_json_delta", partial_json='{"a":"\ud83d'), delta("input_json_delta", partial_json='\ude00"}')])
    streamed("a block of another type", [leaf(0, "block", found_leaf), leaf(1, "text", HELLO)], [begin(found), begin({"type": "text", "text": ""}, 1), delta("text_delta", 1, text=HELLO)])
    streamed("deltas of other types, citations among them", LEAVES, [*TEXT_BLOCK, delta("citations_delta", citation={"cited_text": "x"}), delta("new_delta", text="x")])
    compaction = {"type": "compaction", "content": "So far: ", "encrypted_content": "Eq"}
    streamed("a compaction", [leaf(0, "compaction", "So far: much."), leaf(0, "encrypted_content", "EqQB"), leaf(1, "text", HELLO)], [begin(compaction), delta("compaction_delta", content="much."), delta("compaction_delta", content=None, encrypted_content="QB"), begin({"type": "text", "text": HELLO}, 1)])
    streamed("the block begins with text", LEAVES, [begin({"type": "text", "text": "Hello, "}), delta("text_delta", text="world.")])
    streamed("a number among the deltas", [[0, "text", None]], [begin({"type": "text", "text": ""}), delta("text_delta", text="Hello"), delta("text_delta", text=5)])
    streamed("the largest index", [leaf(65_535, "text", HELLO)], [begin({"type": "text", "text": HELLO}, 65_535)])
    streamed("six blocks", [leaf(i, "text", f"Answer {i}.") for i in range(6)], [begin({"type": "text", "text": f"Answer {i}."}, i) for i in range(6)])
    streamed("no blocks", [], [], first=first)
    made = seal(over(LEAVES, "messages-1"))
    vector("stream", typed([started(first, [text]), *stopped(made)]), note="messages, stream: all in message_start")
    vector("stream", typed([{"type": "ping"}, ": hi", started(first), *TEXT_BLOCK, *stopped(made), {"type": "ping"}]), note="messages, stream: a ping first and last")
    vector("stream", typed([started(first), *TEXT_BLOCK, {**stopped(None)[0], "ai_provenance": tag(made)}]), note="messages, stream: the token in message_delta, and no message_stop")
    for completion in ("error", "policy"):
        made = seal(over([leaf(0, "text", "Hello, ".strip())], "messages-1", completion=completion))
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "stopped"}, "ai_provenance": tag(made)}
        vector("stream", typed([started(first), *TEXT_BLOCK[:3], error]), note=f"messages, stream: an error event, completion {completion}", token=first)


def good_infer() -> None:
    def whole(note: str, leaves: list[Any], *outputs: Any, **more: Any) -> None:
        body = {**GREETING_JSON, "outputs": list(outputs)}
        vector("body", carrying(body, seal(over(leaves, "infer-1")), leaves if len(leaves) > 4 else None), note=f"infer: {note}", **more)

    def tensor(note: str, datatype: str, shape: str, data: bytes | None, spelt: str, **more: Any) -> None:
        """One tensor as JSON text, which Python would spell otherwise."""
        made = carrying({"model_name": "m", "outputs": []}, seal(over(tensor_leaves(datatype, shape, data), "infer-1")))
        vector("body", made.replace('"outputs":[]', f'"outputs":[{{"name":"OUT","datatype":"{datatype}","shape":{shape},"data":{spelt}}}]'), note=f"infer: {note}", **more)

    def packed(form: str, *values: Any) -> bytes:
        return struct.pack(f"<{form}", *values)

    whole("a string", GREETING_LEAVES, GREETING_JSON["outputs"][0])
    tensor("three strings, nested", "BYTES", "[3,1]", strings("One", "", "\u20ac"), '[["One"],[""],["\\u20ac"]]')
    tensor("a string that holds a lone surrogate", "BYTES", "[1]", None, '["\\ud800"]')
    tensor("FP32, flat", "FP32", "[2,2]", packed("4f", 0.1, -1.5, 3e-10, 16_777_217.0), "[0.1,-1.5,3e-10,16777217]")
    tensor("FP32, nested", "FP32", "[2,2]", packed("4f", 0.1, -1.5, 2.0, 0.0), "[[0.1,-1.5],[2,0]]")
    tensor("FP32 out of its range", "FP32", "[1]", None, "[3.5e38]")
    tensor("FP32 with a number that overflows a double", "FP32", "[1]", None, "[1e400]")
    tensor("FP16", "FP16", "[3]", packed("3e", 0.1, 65_504.0, -2.0), "[0.1,65504,-2]")
    tensor("FP16 out of its range", "FP16", "[1]", None, "[65520]")
    tensor("FP64", "FP64", "[2]", packed("2d", 0.1, 1e300), "[0.1,1e300]")
    tensor("INT64 beyond 2^53", "INT64", "[3]", packed("3q", 2**53 + 1, -(2**63), 2**63 - 1), "[9007199254740993,-9223372036854775808,9223372036854775807]")
    tensor("UINT64, the largest", "UINT64", "[1]", packed("Q", 2**64 - 1), "[18446744073709551615]")
    tensor("UINT64 out of its range", "UINT64", "[1]", None, "[18446744073709551616]")
    tensor("INT8", "INT8", "[2]", packed("2b", -128, 127), "[-128,127]")
    tensor("INT8 out of its range", "INT8", "[1]", None, "[128]")
    tensor("UINT8 negative", "UINT8", "[1]", None, "[-1]")
    for name, form in (("INT16", "h"), ("INT32", "i"), ("UINT16", "H"), ("UINT32", "I")):
        tensor(name, name, "[2]", packed(f"2{form}", 1, 300), "[1,300]")
    tensor("BOOL", "BOOL", "[2,2]", b"\1\0\0\1", "[[true,false],[false,true]]")
    tensor("a number among BYTES", "BYTES", "[2]", None, '["x",5]')
    tensor("a string among INT32", "INT32", "[2]", None, '[1,"2"]')
    tensor("true among INT32", "INT32", "[1]", None, "[true]")
    tensor("null among FP32", "FP32", "[1]", None, "[null]")
    tensor("an unknown datatype", "FP8", "[1]", None, "[1]")
    tensor("fewer elements than the shape", "INT32", "[3]", None, "[1,2]")
    tensor("more elements than the shape", "INT32", "[1]", None, "[1,2]")
    tensor("no elements", "FP32", "[0,4]", b"", "[]")
    tensor("no elements, and data null", "FP32", "[0]", b"", "null")
    tensor("elements, and data null", "FP32", "[1]", None, "null")
    tensor("data that is no array", "FP32", "[1]", None, "1.5")
    tensor("BF16 in JSON", "BF16", "[1]", None, "[1.5]")
    tensor("INT32 written with a fraction", "INT32", "[1]", None, "[1.0]")
    tensor("a negative size", "INT32", "[-1,-1]", None, "[7]")
    tensor("0 and 1 for BOOL", "BOOL", "[2]", None, "[0,1]")
    tensor("zero, negative", "FP32", "[2]", packed("2f", -0.0, -0.0), "[-0.0,-0e0]")
    tensor("nested unevenly", "INT32", "[3]", packed("3i", 1, 2, 3), "[[1,[2]],3]")
    tensor("a scalar", "FP32", "[]", packed("f", 1.5), "[1.5]")
    whole("an output whose data is elsewhere", [[0, "outputs.0.data", None], *tensor_leaves("FP32", "[2]", b"")], {"name": "OUT", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}})
    whole("binary data of no elements", tensor_leaves("FP32", "[0]", None), {"name": "OUT", "datatype": "FP32", "shape": [0], "parameters": {"binary_data_size": 0}})
    whole("a shape that is no array of integers", [[0, "outputs.0.data", None], leaf(0, "outputs.0.datatype", "FP32"), leaf(0, "outputs.0.name", "OUT"), [0, "outputs.0.shape", None]], {"name": "OUT", "datatype": "FP32", "shape": [1.0], "data": [1]})
    whole("no shape", [[0, "outputs.0.data", None], leaf(0, "outputs.0.datatype", "FP32"), leaf(0, "outputs.0.name", "OUT")], {"name": "OUT", "datatype": "FP32", "data": [1]})
    whole("a name that is a number", [leaf(0, "outputs.0.data", strings("x")), leaf(0, "outputs.0.datatype", "BYTES"), [0, "outputs.0.name", None], leaf(0, "outputs.0.shape", "[1]")], {"name": 5, "datatype": "BYTES", "shape": [1], "data": ["x"]})
    whole("two outputs", [*GREETING_LEAVES, *tensor_leaves("INT32", "[1]", packed("i", 7), at=1, name="LENGTH")], GREETING_JSON["outputs"][0], {"name": "LENGTH", "datatype": "INT32", "shape": [1], "data": [7]})
    whole("eleven outputs: names are ordered by code point", sorted([leaf for i in range(11) for leaf in tensor_leaves("BOOL", "[1]", b"\1", at=i, name=f"O{i}")], key=lambda one: one[1]), *({"name": f"O{i}", "datatype": "BOOL", "shape": [1], "data": [True]} for i in range(11)))
    whole("no outputs", [])
    whole("parameters are not covered", GREETING_LEAVES, {**GREETING_JSON["outputs"][0], "parameters": {"a": 1}})
    whole("in header and member", GREETING_LEAVES, GREETING_JSON["outputs"][0], token=seal(over(GREETING_LEAVES, "infer-1")))

    def unary(note: str, leaves: list[Any], *outputs: bytes, raw: tuple[bytes, ...] = (), **more: Any) -> None:
        vector("infer", [reply(*outputs, raw=raw, token=seal(over(leaves, "infer-1")))], note=f"infer, protobuf: {note}", **more)

    def contents(note: str, datatype: str, shape: list[int], data: bytes | None, held: bytes, **more: Any) -> None:
        unary(f"{datatype}, {note}", tensor_leaves(datatype, compact(shape), data), output("OUT", datatype, shape, held), **more)

    contents("in its contents", "BYTES", [1], GREETING, field(8, HELLO))
    contents("with bytes that are no UTF-8", "BYTES", [2], strings(b"\xff\0", b""), field(8, b"\xff\0") + field(8, b""))
    contents("packed", "FP32", [2], packed("2f", 0.1, -1.5), field(6, packed("2f", 0.1, -1.5)))
    contents("not packed", "FP32", [2], packed("2f", 0.1, -1.5), field(6, packed("f", 0.1), 5) + field(6, packed("f", -1.5), 5))
    contents("packed", "FP64", [1], packed("d", 0.1), field(7, packed("d", 0.1)))
    contents("not a number", "FP32", [1], packed("f", float("nan")), field(6, packed("f", float("nan"))))
    contents("negative", "INT32", [2], packed("2i", -1, 7), field(2, number(-1) + number(7)))
    contents("not packed", "INT64", [2], packed("2q", -(2**63), 2**53 + 1), field(3, -(2**63)) + field(3, 2**53 + 1))
    contents("the largest", "UINT64", [1], packed("Q", 2**64 - 1), field(5, number(2**64 - 1)))
    contents("in range", "INT8", [2], b"\x80\x7f", field(2, number(-128) + number(127)))
    contents("out of its range", "INT8", [1], None, field(2, number(128)))
    contents("in range", "UINT16", [1], packed("H", 65_535), field(4, number(65_535)))
    contents("out of its range", "UINT8", [1], None, field(4, number(256)))
    contents("packed", "BOOL", [3], b"\1\0\1", field(1, b"\1\0\1"))
    contents("fewer than the shape", "INT32", [3], None, field(2, number(1)))
    contents("in the contents of another datatype", "INT64", [1], None, field(2, number(1)))
    contents("nowhere", "FP16", [1], None, b"")
    contents("no elements", "INT32", [0], b"", b"")
    contents("a scalar", "INT32", [], packed("i", 7), field(2, number(7)))
    unary("raw", tensor_leaves("FP32", "[2]", packed("2f", 0.1, 2.0)), output("OUT", "FP32", [2]), raw=(packed("2f", 0.1, 2.0),))
    unary("FP16, raw", tensor_leaves("FP16", "[1]", packed("e", 0.5)), output("OUT", "FP16", [1]), raw=(packed("e", 0.5),))
    unary("BYTES, raw", tensor_leaves("BYTES", "[2]", strings("One", "Two")), output("OUT", "BYTES", [2]), raw=(strings("One", "Two"),))
    unary("BYTES, raw, cut", tensor_leaves("BYTES", "[1]", None), output("OUT", "BYTES", [1]), raw=(GREETING[:-1],))
    unary("BYTES, raw, of another count", tensor_leaves("BYTES", "[1]", None), output("OUT", "BYTES", [1]), raw=(strings("One", "Two"),))
    unary("raw of another size", tensor_leaves("FP32", "[2]", None), output("OUT", "FP32", [2]), raw=(packed("f", 1.0),))
    unary("data that is raw and in contents", tensor_leaves("INT32", "[1]", None), output("OUT", "INT32", [1], field(2, number(7))), raw=(packed("i", 7),))
    unary("contents of two kinds", tensor_leaves("INT32", "[1]", None), output("OUT", "INT32", [1], field(2, number(7)) + field(3, number(7))))
    unary("contents of two kinds, one of them of no number", tensor_leaves("INT32", "[1]", packed("i", 7)), output("OUT", "INT32", [1], field(2, number(7)) + field(3, b"")))
    unary("BF16, raw", tensor_leaves("BF16", "[2]", b"\x80\x3f\0\0"), output("OUT", "BF16", [2]), raw=(b"\x80\x3f\0\0",))
    unary("FP16 of no elements", tensor_leaves("FP16", "[0]", b""), output("OUT", "FP16", [0]))
    unary("a negative size", tensor_leaves("INT32", "[-1,-1]", None), output("OUT", "INT32", [-1, -1], field(2, number(7))))
    unary("data in shared memory", tensor_leaves("FP32", "[0]", None), output("OUT", "FP32", [0], more=field(4, field(1, "shared_memory_region") + field(2, field(3, "r")))))
    unary("an integer beyond 32 bits", tensor_leaves("INT32", "[1]", None), output("OUT", "INT32", [1], field(2, number(2**32 + 7))))
    unary("one output raw and one in its contents", [*tensor_leaves("INT32", "[1]", packed("i", 7)), *tensor_leaves("BYTES", "[1]", GREETING, at=1, name="TEXT")], output("OUT", "INT32", [1]), output("TEXT", "BYTES", [1], field(8, HELLO)), raw=(packed("i", 7),))
    unary("shape not packed", tensor_leaves("INT32", "[1,2]", packed("2i", 1, 2)), output("OUT", "INT32", field(3, 1) + field(3, 2), field(2, b"\1\2")))
    unary("a field that nobody knows", GREETING_LEAVES, output(shape=[1], contents=field(8, HELLO), more=field(15, "x") + field(16, 7) + field(17, b"12345678", 1)))
    unary("no outputs", [])
    token = seal(over(GREETING_LEAVES, "infer-1"))
    vector("infer", [greeting()], note="infer, protobuf: the token in trailing metadata", token=token)
    vector("infer", [greeting(token)], note="infer, protobuf: in trailing metadata and parameter, with a pending token", token=token, pending=seal(pending()))
    vector("infer", [reply(output(shape=[1], contents=field(8, HELLO)), more=parameter("x", "other") + parameter(token))], note="infer, protobuf: a parameter beside the token's, and the token's last")
    vector("infer", [greeting()], note="infer, protobuf: grpc-1 over its bytes", token=seal(over([leaf(0, "messages", framed(greeting()))], "grpc-1")))

    def stream(note: str, texts: list[str], errors: dict[int, str] | None = None, **more: Any) -> None:
        leaves = [one for k, text in enumerate(texts) for one in [*([leaf(k, "error_message", (errors or {})[k])] if k in (errors or {}) else []), *tensor_leaves("BYTES", "[1]", strings(text), choice=k)]]
        upto = [[one for one in leaves if one[0] <= k] for k in range(len(texts))]
        points = [seal(point(upto[k], "infer-1", jti=f"tok-c{k}")) if more.get("points", True) else None for k in range(len(texts))]
        messages = [streamed_reply(reply(output(shape=[1], contents=field(8, text)), token=points[k]), (errors or {}).get(k)) for k, text in enumerate(texts)]
        vector("infer-stream", messages, note=f"infer, stream of messages: {note}", token=seal(over(leaves, "infer-1")), **{name: value for name, value in more.items() if name != "points"})

    stream("one", [HELLO])
    stream("three, each with a checkpoint, and a pending token", ["Hello", ", ", "world."], pending=seal(pending()))
    stream("without checkpoints", ["Hello", ", ", "world."], points=False)
    stream("an error in one", ["Hello", "x"], {1: "overloaded"})
    vector("infer-stream", [field(1, "overloaded")], note="infer, stream of messages: an error alone", token=seal(over([leaf(0, "error_message", "overloaded")], "infer-1", completion="error")))
    vector("infer-stream", [], note="infer, stream of messages: none", token=seal(over([], "infer-1")))
    vector("infer-stream", [streamed_reply(reply(output(shape=[1], contents=field(8, HELLO)), token=seal(point(GREETING_LEAVES, "infer-1"))))], "incomplete", rule="C11", note="infer, stream of messages: a checkpoint and no final token", proven="1 messages")


def good_calls() -> None:
    def call(note: str, *messages: bytes, **more: Any) -> None:
        leaves = [leaf(0, "messages", framed(*messages))] if messages else []
        vector("messages", list(messages), note=f"grpc: {note}", token=seal(over(leaves, "grpc-1")), **more)

    call("one message", b"\x0a\x05Hello")
    call("three messages, one of them empty", b"\x0a\x05Hello", b"", b"\xff\0")
    call("no messages")
    call("one empty message", b"")
    call("with a pending token", b"\x0a\x05Hello", pending=seal(pending()))
    call("with the request and the salt", b"\x0a\x05Hello", request=REQUEST, salt=SALT_TEXT)
    call("ES256", b"\x0a\x05Hello", pending=seal(pending(), EC), trust=trust(A.jwk(), EC.jwk()))
    call("a message that is no protobuf", b"\x07\x07")


def good_lines() -> None:
    def lined(note: str, shown: str, covered: str | None, *, carried: bool = True, **more: Any) -> None:
        leaves = [] if covered == "" else [leaf(0, "lines", covered)]
        token = seal(over(leaves, "ndjson-1"))
        vector("lines", shown + (lines_of(token=token) if carried else ""), note=f"lines: {note}", **({} if carried else {"token": token}), **more)

    two = '{"b": 1, "a": "x"}\n[1, 2.50]\n'
    covered = '{"a":"x","b":1}\n[1,2.5]\n'
    for carried in (True, False):
        which = "a line with the tag" if carried else "the token beside them"
        lined(f"two, {which}", two, covered, carried=carried)
        lined(f"CR LF, blank lines and blanks, {which}", '\r\n{"b": 1, "a": "x"}\r\n \t\r\n\n[1, 2.50] \r\n', covered, carried=carried)
        lined(f"a string, null and a number, {which}", '"x"\nnull\n1e2\n', '"x"\nnull\n100\n', carried=carried)
        lined(f"none, {which}", "\n" if carried else "", "", carried=carried)
        lined(f"one without RFC 8785 bytes, {which}", two + '{"n": 9007199254740993}\n', None, carried=carried)
        lined(f"a lone surrogate, {which}", two + '"\\ud800"\n', None, carried=carried)
    lined("the last one not ended", two[:-1], covered, carried=False)
    lined("depth 64", "[" * 64 + "]" * 64 + "\n", "[" * 64 + "]" * 64 + "\n")
    lined("a line with a tag and a member more is a line", f'{two}{{"ai_provenance": {{"token": "x"}}, "a": 1}}\n', covered + '{"a":1,"ai_provenance":{"token":"x"}}\n', carried=False)
    token = seal(over([leaf(0, "lines", covered)], "ndjson-1"))
    vector("lines", two + lines_of(token=token), note="lines: a line with the tag, and the token beside them", token=token)
    vector("lines", (two + lines_of(token=token))[:-1] + "\n \n", note="lines: a blank line after the tag")
    vector("lines", (two + lines_of(token=token))[:-1], note="lines: the tag's line not ended")
    vector("lines", two + json.dumps({"ai_provenance": tag(token, [leaf(0, "lines", covered)])}), note="lines: leaves beside the token")
    vector("lines", two, note="lines: as bytes, with a token given beside them", token=seal(over([leaf(0, "body", two)], "bytes-1")))


def good_untold() -> None:
    """Streams of which no event tells the form: their token does."""
    for form in ("chat-1", "completions-1", "responses-1", "messages-1"):
        token, how = seal(over([], form, completion="error")), {"terminator": "missing" if form[0] == "c" else None}
        error = {"type": "error", "error": {"message": "overloaded"}, "ai_provenance": tag(token)}
        if form == "messages-1":  # where each event has its type for a name
            vector("stream", typed([{"type": "ping"}, error]), note=f"stream: an error alone, whose token says {form}", **how)
            vector("stream", typed([{"type": "ping", "id": "x", "choices": []}, error]), note=f"stream: no choices and an error, whose token says {form}", **how)
            continue
        vector("stream", sse([{"type": "ping"}, error], done=False), note=f"stream: an error alone, whose token says {form}", **how)
        vector("stream", sse([{"id": "x", "choices": []}, {"error": {"message": "overloaded"}, "ai_provenance": tag(token)}], done=False), note=f"stream: no choices and an error, whose token says {form}", **how)
    vector("stream", sse([{"error": {"message": "overloaded"}, "ai_provenance": tag(seal(over([], "json-1", completion="error")))}]), "invalid", rule="P9", note="json-1 over a stream that tells no form")
    vector("stream", sse([{"type": "thread.created"}, *HELLO_EVENTS, last(seal(claims()))]), note="stream: another type of event, then chat completions")


def good_checkpoints() -> None:
    def sealed(note: str, shown: str, **more: Any) -> None:
        vector("stream", shown, note=f"checkpoints: {note}", **more)

    half = [leaf(0, "text", "Hello,")]
    first, token = seal(pending()), seal(claims())
    middle = chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half))))
    sealed("chat", sse([HELLO_EVENTS[0], middle, HELLO_EVENTS[2], last(token)]))
    sealed("chat, with a pending token", sse([HELLO_EVENTS[0], middle, HELLO_EVENTS[2], last(token)]), token=first)
    sealed("chat, one that covers all", sse([*HELLO_EVENTS[:2], chunk({"content": "world."}, ai_provenance=tag(seal(point(LEAVES)))), last(token)]))
    sealed("chat, on an event without content", sse([HELLO_EVENTS[0], HELLO_EVENTS[1], {"id": "x", "ai_provenance": tag(seal(point(half)))}, HELLO_EVENTS[2], last(token)]))
    sealed("chat, before any content", sse([chunk({"role": "assistant"}, ai_provenance=tag(seal(point([])))), *HELLO_EVENTS, last(token)]))
    sealed("chat, one with each event, under two keys", sse([chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half), EC))), chunk({"content": "world."}, ai_provenance=tag(seal(point(LEAVES)))), last(token)]), trust=trust(A.jwk(), EC.jwk()))
    many = [leaf(i, "text", f"Answer {i}.") for i in range(6)]
    sealed("chat, its leaves beside it", sse([*(chunk({"content": f"Answer {i}."}, i) for i in range(5)), chunk({"content": "Answer 5."}, 5, ai_provenance=tag(seal(point(many)), many)), chunk(None, 0, "stop", ai_provenance=tag(seal(claims(many)), many))]))
    sealed("completions", sse([{**legacy("Hello, "), "ai_provenance": tag(seal(point(half, "completions-1")))}, legacy("world."), legacy("", ai_provenance=tag(seal(over(LEAVES, "completions-1"))))]))
    events = text_events()
    events[2]["ai_provenance"] = tag(seal(point([leaf(0, "text", HELLO[:6])], "responses-1")))
    sealed("responses", responses(LEAVES, events, [message_item(HELLO)]), token=first)
    call = [said("output_item.added", output_index=0, item=call_item(arguments="")), said("function_call_arguments.delta", output_index=0, delta='{"city": ', ai_provenance=tag(seal(point([leaf(0, "arguments", '{"city": '), leaf(0, "name", "weather")], "responses-1"))))]
    sealed("responses, within a call", responses([leaf(0, "arguments", '{"city": "Paris"}'), leaf(0, "name", "weather")], [*call, said("function_call_arguments.delta", output_index=0, delta='"Paris"}')], [call_item()]))
    block = [TEXT_BLOCK[0], {**TEXT_BLOCK[2], "ai_provenance": tag(seal(point(half, "messages-1")))}, TEXT_BLOCK[3]]
    sealed("messages", spoken(LEAVES, block, first=first), token=first)
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    parts = [begin(tool), {**delta("input_json_delta", partial_json='{"a":'), "ai_provenance": tag(seal(point([[0, "input", None], leaf(0, "name", "f")], "messages-1")))}, delta("input_json_delta", partial_json="1}")]
    sealed("messages, within the input of a tool", spoken([leaf(0, "input", '{"a":1}'), leaf(0, "name", "f")], parts))
    for kind, shown in (("LF", sse([HELLO_EVENTS[0], middle], done=False)), ("CR LF", sse([HELLO_EVENTS[0], middle], done=False, end="\r\n"))):
        for rest, given in (("", {}), (": ping", {}), ('data: {"choices":[{"index":0,"delta":{"content":"wor', {}), ("data: [DONE]\n\n", {}), ("", {"token": first})):
            vector("stream", shown + rest, "incomplete", rule="C11", note=f"a checkpoint and no final token, {kind}{', then ' + repr(rest[:12]) if rest else ''}{', a pending token given' if given else ''}", proven=f"{len(shown)} bytes", **given)
    vector("stream", sse([middle, chunk({"content": "world."}, ai_provenance=tag(seal(point(LEAVES)))), chunk({"content": " More"})], done=False), "incomplete", rule="C11", note="two checkpoints and no final token", proven=f"{len(sse([middle, chunk({'content': 'world.'}, ai_provenance=tag(seal(point(LEAVES))))], done=False))} bytes")
    vector("stream", typed([started(first), *block]), "incomplete", rule="C11", note="messages: a checkpoint and no final token", proven=f"{len(typed([started(first), *block[:2]]))} bytes")
    vector("stream", typed([CREATED, *events]), "incomplete", rule="C11", note="responses: a checkpoint and no final token", proven=f"{len(typed([CREATED, *events[:3]]))} bytes")


def bad_dialects() -> None:
    """P7 to P12 and C1 to C18 in the other dialects, and what a checkpoint adds to T10."""
    bad_responses_form()
    bad_messages_form()
    bad_infer_form()
    bad_checkpoints()
    bad_first_tokens()
    bad_forms()
    bad_lines()
    bad_calls()
    bad_content()
    bad_projections()
    bad_names()
    bad_ends()
    bad_left_open()
    bad_tails()


def bad_responses_form() -> None:
    def body_of(note: str, leaves: list[Any], output: Any) -> None:
        vector("body", carrying(response_of(output), seal(over(leaves, "responses-1"))), "invalid", rule="P10", note=note)

    def streamed(note: str, leaves: list[Any], *events: Json, output: Any = (), **more: Any) -> None:
        vector("stream", responses(leaves, list(events), list(output), **more), "invalid", rule="P10", note=note)

    words = lambda **where: said("output_text.delta", **{"output_index": 0, "content_index": 0, "delta": HELLO, **where})  # noqa: E731 - a table's shorthand
    for odd in ("0", None, True, 0.5, DROP, [0]):
        streamed(f"output_index {'absent' if odd is DROP else repr(odd)}", LEAVES, words(output_index=odd))
    for odd in ("0", None, DROP, {}):
        streamed(f"content_index {'absent' if odd is DROP else repr(odd)}", LEAVES, words(content_index=odd))
    streamed("output_index -1", [leaf(-1, "text", HELLO)], words(output_index=-1))
    streamed("output_index 65,536", [leaf(65_536, "text", HELLO)], words(output_index=65_536))
    streamed("content_index 65,536", [leaf(0, "text.65536", HELLO)], words(content_index=65_536))
    streamed("summary_index '0'", [leaf(0, "reasoning_summary", "Hm.")], said("reasoning_summary_text.delta", output_index=0, summary_index="0", delta="Hm."))
    streamed("an index that only repeats", LEAVES, words(), said("output_text.done", output_index="0", content_index=0, text=HELLO))
    for odd in ("x", [], 5, True):
        streamed(f"an item that is {odd!r}", LEAVES, words(), said("output_item.added", output_index=1, item=odd))
    for odd in ("x", [], 5):
        streamed(f"a part that is {odd!r}", LEAVES, words(), said("content_part.added", output_index=0, content_index=1, part=odd))
        streamed(f"a response that is {odd!r}", LEAVES, words(), said("in_progress", response=odd))
    for odd in (None, DROP, "x"):
        end = said("completed", response=odd, ai_provenance=tag(seal(over(LEAVES, "responses-1"))))
        vector("stream", typed([CREATED, words(), end]), "invalid", rule="P10", note=f"the response of the terminal event {'absent' if odd is DROP else repr(odd)}")
    streamed("output of an event an object", LEAVES, words(), said("in_progress", response=response_of({})))
    body_of("an item that is a number", [leaf(0, "text", HELLO), leaf(1, "item", "{}")], [message_item(HELLO), 5])
    body_of("an entry of content that is a string", [leaf(0, "content.1", "{}"), leaf(0, "text", HELLO)], [{**message_item(HELLO), "content": [{"type": "output_text", "text": HELLO}, "x"]}])
    body_of("a summary that is a string", [leaf(0, "reasoning", "Hm.")], [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}], "summary": "x"}])
    body_of("content that is an object", [], [{"type": "message", "content": {"type": "output_text", "text": HELLO}}])

    other = "Hello, World."
    for name in ("text", "part", "item"):
        changed = {"text": other, "part": other, "item": message_item(other)}[name]
        vector("stream", responses(LEAVES, text_events(**{name: changed}), [message_item(HELLO)]), "invalid", rule="P10", note=f"the deltas say one thing and the event with the whole {name} another")
    vector("stream", responses(LEAVES, text_events(), [message_item(other)]), "invalid", rule="P10", note="the terminal event says another thing than the deltas")
    vector("stream", responses(LEAVES, text_events(text=DROP, part=DROP, item=DROP), [message_item(HELLO[:5])]), "invalid", rule="P10", note="the terminal event says only the beginning")
    streamed("two events repeat a part differently, and nothing was added", LEAVES, said("output_text.done", output_index=0, content_index=0, text=HELLO), said("output_item.done", output_index=0, item=message_item(other)))
    streamed("more deltas after the text was repeated", [leaf(0, "text", "Hello, world. Hi.")], words(), said("output_text.done", output_index=0, content_index=0, text=HELLO), words(delta=" Hi."))
    streamed("a text repeated that no text can be", LEAVES, words(), said("output_text.done", output_index=0, content_index=0, text=5))
    streamed("a name that changes", [leaf(0, "arguments", "{}"), leaf(0, "name", "f")], said("output_item.added", output_index=0, item=call_item("f", "{}")), output=[call_item("g", "{}")])
    streamed("arguments that change", [leaf(0, "arguments", "{}"), leaf(0, "name", "f")], said("output_item.added", output_index=0, item=call_item("f", "{}")), said("function_call_arguments.done", output_index=0, arguments="{ }"))
    streamed("an item of another type that changes", [leaf(0, "item", SEARCH_LEAF)], said("output_item.done", output_index=0, item=SEARCH), output=[{**SEARCH, "action": {"type": "open"}}])


def bad_messages_form() -> None:
    def streamed(note: str, leaves: list[Any], *events: Json, **more: Any) -> None:
        vector("stream", spoken(leaves, list(events), **more), "invalid", rule="P11", note=note)

    text = begin({"type": "text", "text": ""})
    words = lambda at=0: delta("text_delta", at, text=HELLO)  # noqa: E731 - a table's shorthand
    for odd in ("0", None, True, 0.5, DROP, [0]):
        streamed(f"index {'absent' if odd is DROP else repr(odd)} of a delta", LEAVES, text, words(odd))
        streamed(f"index {'absent' if odd is DROP else repr(odd)} of a block", LEAVES, begin({"type": "text", "text": ""}, odd), words())
    for odd in (-1, 65_536):
        streamed(f"index {odd}", [leaf(odd, "text", HELLO)], begin({"type": "text", "text": ""}, odd), words(odd))
    for odd in (None, "x", [], 5):
        streamed(f"a block that is {odd!r}", [leaf(0, "text", HELLO), leaf(1, "block", "{}")], text, words(), begin(odd, 1))
        streamed(f"a delta that is {odd!r}", LEAVES, text, words(), {"type": "content_block_delta", "index": 0, "delta": odd})
    streamed("a delta of a block that has not begun", [leaf(0, "text", HELLO), leaf(1, "text", HELLO)], text, words(), words(1))
    streamed("a delta before its block begins", LEAVES, words(), text)
    streamed("a delta of another type, of a block that has not begun", LEAVES, text, words(), delta("citations_delta", 1, citation={}))
    block = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
    thought = [leaf(0, "signature", "EqQB"), leaf(0, "thinking", "Hm.")]
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    called = [leaf(0, "input", "{}"), leaf(0, "name", "f")]
    streamed("text for a block of thinking", sorted([*thought, leaf(0, "text", HELLO)], key=lambda one: one[1]), begin(block), words())
    streamed("text for a tool", [*called, leaf(0, "text", HELLO)], begin(tool), words())
    streamed("thinking for a block of text", [leaf(0, "text", HELLO), leaf(0, "thinking", "Hm.")], text, words(), delta("thinking_delta", thinking="Hm."))
    streamed("a signature for a block of text", [leaf(0, "signature", "EqQB"), leaf(0, "text", HELLO)], text, words(), delta("signature_delta", signature="EqQB"))
    streamed("partial JSON for a block of text", [leaf(0, "input", "{}"), leaf(0, "text", HELLO)], text, words(), delta("input_json_delta", partial_json="{}"))
    streamed("an empty text for a block of thinking", thought, begin(block), delta("text_delta", text=""))
    streamed("text for redacted thinking", [leaf(0, "redacted_thinking", "EmwK"), leaf(0, "text", HELLO)], begin({"type": "redacted_thinking", "data": "EmwK"}), words())
    streamed("text for a block of another type", [leaf(0, "block", '{"type":"x"}'), leaf(0, "text", HELLO)], begin({"type": "x"}), words())
    streamed("a block begins twice", LEAVES, begin({"type": "text", "text": "Hello, "}), begin({"type": "text", "text": "world."}))
    streamed("a block begins again as another", [leaf(0, "text", HELLO), leaf(0, "thinking", "Hm.")], begin({"type": "text", "text": HELLO}), begin({"type": "thinking", "thinking": "Hm."}))
    token = seal(over(LEAVES, "messages-1"))
    vector("stream", typed([started(None, [{"type": "text", "text": "Hello, "}]), begin({"type": "text", "text": "world."}), *stopped(token)]), "invalid", rule="P11", note="a block begins in message_start and again")
    for odd in (5, None, "x", DROP):
        begins = {name: value for name, value in {"type": "message_start", "message": odd}.items() if value is not DROP}
        vector("stream", typed([begins, *TEXT_BLOCK, *stopped(token)]), "invalid", rule="P11", note=f"the message of message_start {'absent' if odd is DROP else repr(odd)}")
    for odd in (5, None, "x"):
        vector("body", carrying(message_of([{"type": "text", "text": HELLO}, odd]), seal(over([*LEAVES, leaf(1, "block", "{}")], "messages-1"))), "invalid", rule="P11", note=f"a block of a body that is {odd!r}")


def bad_infer_form() -> None:
    def malformed(note: str, message: bytes, leaves: list[Any] | None = None, kind: str = "infer") -> None:
        vector(kind, [message], "invalid", rule="P12", note=note, token=seal(over(GREETING_LEAVES if leaves is None else leaves, "infer-1")))

    vector("body", carrying({"outputs": [{}] * 4097}, seal(over([[0, f"outputs.{name}.data", None] for name in sorted(map(str, range(4097)), key=lambda name: f"{name}.")], "infer-1"))), "invalid", rule="P12", note="4,097 outputs in JSON")
    many = sorted([[0, f"outputs.{i}.{part}", value] for i in range(4097) for part, value in (("shape", sha("[]")), ("data", None))], key=lambda one: one[1])
    malformed("4,097 outputs", field(5, b"") * 4097, many)
    vector("infer-stream", [b""], "invalid", rule="P12", note="65,537 messages", times=65_537, token=seal(over([], "infer-1")))
    for extra, note in (
        (b"\x2a\x05\x01", "a length beyond the end"), (b"\x2a", "a field without its length"), (b"\x28\x01", "outputs as an integer"), (b"\x0d\1\2\3\4", "the model's name of four bytes"), (b"\x7b", "the start of a group"), (b"\x7c", "the end of a group"), (b"\x7e\1", "wire type 6"), (b"\x7f\1", "wire type 7"),
        (b"\x00\x01", "field 0"), (b"\x02\x00", "field 0 with a length"), (b"\x78\x80", "an integer cut"), (b"\x78" + b"\x80" * 10 + b"\x01", "an integer of eleven bytes"), (b"\x78" + b"\xff" * 9 + b"\x02", "an integer beyond 64 bits"), (b"\x79\1\2\3", "eight bytes cut"), (b"\x7d\1\2", "four bytes cut"), (b"\x80", "a key cut"),
        (number(1 << 29 << 3) + b"\x01", "field 2^29"), (field(6, 7), "raw contents as an integer"), (field(4, 7), "a parameter as an integer"),
    ):  # fmt: skip
        malformed(note, greeting(more=extra))
    malformed("a length beyond the end, inside an output", reply(field(5, field(1, "OUT") + field(2, "BYTES") + field(3, b"\1") + field(5, field(8, HELLO)) + b"\x0a\x7f")))
    malformed("a length beyond the end, inside contents", reply(output(shape=[1], contents=field(8, HELLO) + b"\x42\x7f")))
    malformed("contents of BYTES as an integer", reply(output(shape=[1], contents=field(8, HELLO) + field(8, 7))))
    malformed("contents of FP32 as an integer", reply(output("OUT", "FP32", [1], field(6, struct.pack("<f", 1.0)) + field(6, 7))), tensor_leaves("FP32", "[1]", struct.pack("<f", 1.0)))
    malformed("packed FP32 of another length", reply(output("OUT", "FP32", [0], field(6, b"\0\0\0"))), tensor_leaves("FP32", "[0]", b""))
    malformed("a packed shape cut", reply(output("OUT", "BYTES", field(3, b"\1") + field(3, b"\x80"), field(8, HELLO))))
    malformed("a shape of four bytes", reply(field(5, field(1, "OUT") + field(2, "BYTES") + field(3, b"\1") + field(5, field(8, HELLO)) + field(3, b"\1\0\0\0", 5))))
    malformed("contents twice", reply(field(5, field(1, "OUT") + field(2, "BYTES") + field(3, b"\1") + field(5, field(8, HELLO)) + field(5, field(8, "Hi.")))))
    malformed("a datatype twice", reply(field(5, field(1, "OUT") + field(2, "BYTES") + field(3, b"\1") + field(5, field(8, HELLO)) + field(2, "FP32"))))
    malformed("a model's name twice", greeting(more=field(1, "small-2")))
    malformed("more raw contents than outputs", reply(output("OUT", "INT32", [1]), raw=(b"\7\0\0\0", b"\7\0\0\0")), tensor_leaves("INT32", "[1]", b"\7\0\0\0"))
    malformed("a stream's response twice", streamed_reply(greeting()) + field(2, greeting()), kind="infer-stream")
    malformed("a stream's error message twice", field(1, "x") + field(1, "y"), [leaf(0, "error_message", "x")], kind="infer-stream")
    malformed("a name that is not UTF-8", field(5, field(1, b"O\xff") + field(2, "BYTES") + field(3, b"\1") + field(5, field(8, HELLO))), tensor_leaves("BYTES", "[1]", GREETING, name="O\ufffd"))
    malformed("a stream's response as an integer", streamed_reply(greeting()) + field(2, 7), kind="infer-stream")
    malformed("a stream's response cut", streamed_reply(greeting()) + b"\x12\x7f", kind="infer-stream")
    malformed("an error message that is not UTF-8", field(1, b"\xff"), [leaf(0, "error_message", "\ufffd")], kind="infer-stream")


def bad_checkpoints() -> None:
    half, whole, token = [leaf(0, "text", "Hello,")], LEAVES, seal(claims())

    def chat(note: str, checkpoint: str, verdict: str = "invalid", leaves: Any = None, final: str = token, **more: Any) -> None:
        middle = chunk({"content": "Hello, "}, ai_provenance=tag(checkpoint, leaves))
        vector("stream", sse([HELLO_EVENTS[0], middle, HELLO_EVENTS[2], last(final)]), verdict, rule="C11", note=note, **more)

    both = {**trust(A.jwk(), EC.jwk()), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}}
    table: Table = [
        (seal(point(half, rid="req-2")), "invalid", "another rid"), (seal(point(half, sub="sub-2")), "invalid", "another sub"), (seal(point(half, req=sha("x"))), "invalid", "another req"), (seal(point(half, iss=OTHER), THEIRS), "invalid", "another trusted issuer"),
        (seal(point(half), EVIL, kid=A.kid), "invalid", "a wrong signature"), (seal(point(half), EVIL), "undecidable", "an unknown key"), (seal(point(half, iss="https://third.example")), "undecidable", "an unknown issuer"), (seal(point(half), typ="JWT"), "invalid", "another typ"),
        (seal(point(half), alg="none"), "invalid", "alg none"), (seal(point(half, iat=NOW + 61)), "invalid", "signed in the future"), (seal(point(half, ver=2)), "undecidable", "another version"), (seal(point(half, model="")), "invalid", "a claim out of form"), (seal(point(half), EC, alg="Ed25519"), "invalid", "the alg of another key"),
        (seal(point(whole)), "invalid", "one that covers what comes later"), (seal(point([])), "invalid", "one that covers what came before its event"), (seal(point([leaf(0, "text", "Hello")])), "invalid", "one of another text"), (seal(point([leaf(1, "text", "Hello,")])), "invalid", "one of another choice"),
        (seal(point(half, content=content(half, n=2, leaves=DROP))), "invalid", "one of another number of leaves"), (seal(point(half, content=content(half, root=sha("x"), leaves=DROP))), "invalid", "one of another root"),
    ]  # fmt: skip
    for checkpoint, verdict, note in table:
        chat(f"a checkpoint with {note}" if not note.startswith("one ") else f"a checkpoint: {note}", checkpoint, verdict, trust=both)
    for others, note in (([leaf(0, "text", "Hi.")], "other leaves"), ([], "no leaves"), (whole, "the leaves of the whole")):
        chat(f"{note} beside a checkpoint", seal(point(half)), leaves=others)
    good = seal(point(half))
    vector("stream", sse([*HELLO_EVENTS, last(token), {**USAGE_EVENT, "ai_provenance": tag(seal(point(whole)))}]), "invalid", rule="C11", note="a checkpoint after the final token")
    vector("stream", sse([*HELLO_EVENTS, last(token), "data: [DONE]", {"ai_provenance": tag(seal(point(whole)))}], done=False), "invalid", rule="C11", note="a checkpoint after [DONE]")
    vector("stream", sse([HELLO_EVENTS[0], chunk({"content": "Hello, "}, ai_provenance=tag(good)), chunk({"content": "world."}, ai_provenance=tag(good)), last(token)]), "invalid", rule="C11", note="one checkpoint twice")
    vector("stream", sse([chunk({"content": "Hello, "}, ai_provenance=tag(good)), chunk({"content": "world."}, ai_provenance=tag(seal(point(whole, rid="req-2"))))], done=False), "invalid", rule="C11", note="two checkpoints of different exchanges, and no final token")
    vector("stream", sse([chunk({"content": "Hello! "}, ai_provenance=tag(good))], done=False), "invalid", rule="C11", note="a text changed before a checkpoint, and no final token")
    vector("stream", sse([chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half), EVIL)))], done=False), "undecidable", rule="C11", note="a checkpoint by an unknown key, and no final token")
    vector("stream", sse([chunk({"content": "Hello, "}, ai_provenance=tag(good))], done=False), "invalid", rule="C11", note="a checkpoint of another exchange than the pending token", token=seal(pending(rid="req-2")), also=["C7"])
    events = text_events()
    events[2]["ai_provenance"] = tag(seal(point(LEAVES, "responses-1")))
    vector("stream", responses(LEAVES, events, [message_item(HELLO)]), "invalid", rule="C11", note="responses: a checkpoint that covers more than came")
    block = [TEXT_BLOCK[0], {**TEXT_BLOCK[2], "ai_provenance": tag(seal(point(LEAVES, "messages-1")))}, TEXT_BLOCK[3]]
    vector("stream", spoken(LEAVES, block), "invalid", rule="C11", note="messages: a checkpoint that covers more than came")
    texts = ["Hello", " world."]
    leaves = [one for k, text in enumerate(texts) for one in tensor_leaves("BYTES", "[1]", strings(text), choice=k)]
    for own, note in ((point(leaves, "infer-1"), "covers more than came"), (point(leaves[:4], "infer-1", rid="req-2"), "is of another exchange"), (point([], "infer-1"), "covers nothing"), (over(leaves[:4], "infer-1"), "is a final token"), (pending(), "is a pending token")):
        messages = [streamed_reply(reply(output(shape=[1], contents=field(8, text)), token=seal(own) if not k else None)) for k, text in enumerate(texts)]
        vector("infer-stream", messages, "invalid", rule="C11", note=f"infer: a checkpoint that {note}", token=seal(over(leaves, "infer-1")))

    for made, note in ((point(half, completion="complete"), "a checkpoint with completion"), (point(half, completion="aborted"), "a checkpoint with another completion")):
        middle = chunk({"content": "Hello, "}, ai_provenance=tag(seal(made)))
        vector("stream", sse([HELLO_EVENTS[0], middle, HELLO_EVENTS[2], last(token)]), "invalid", rule="T10", note=f"{note}, in a stream")
        vector("body", body(seal({**made, "content": content(LEAVES)})), "invalid", rule="T10", note=f"{note}, in a body")
    vector("stream", sse([HELLO_EVENTS[0], chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half, content=DROP)))), HELLO_EVENTS[2], last(token)]), "invalid", rule="T10", note="a checkpoint without content, in a stream", also=["C11", "P9"])
    vector("body", body(seal(point(LEAVES))), "incomplete", rule="T10", note="a checkpoint for a body")
    vector("text", HELLO, "incomplete", rule="T10", note="a checkpoint for a text", token=seal(point(LEAVES)))
    vector("body", body(None, tagged=tag(seal(point(LEAVES), EC))), "incomplete", rule="T10", note="a checkpoint for a body, ES256", trust=trust(EC.jwk()))
    vector("body", carrying(message_of([{"type": "text", "text": HELLO}]), seal(point(LEAVES, "messages-1"))), "incomplete", rule="T10", note="a checkpoint for a message")
    vector("body", carrying(response_of([message_item(HELLO)], status="in_progress"), seal(pending())), "incomplete", rule="T10", note="a pending token for a response that goes on in the background")
    vector("lines", '{"a":1}\n', "incomplete", rule="T10", note="a checkpoint beside lines", token=seal(point([leaf(0, "lines", '{"a":1}\n')], "ndjson-1")))
    vector("lines", '{"a":1}\n', "incomplete", rule="T10", note="a pending token beside lines", token=seal(pending()))
    vector("messages", [b"\x0a\x01x"], "incomplete", rule="T10", note="a checkpoint for gRPC messages", token=seal(point([leaf(0, "messages", framed(b"\x0a\x01x"))], "grpc-1")))
    vector("messages", [b"\x0a\x01x"], "incomplete", rule="T10", note="a pending token in trailing metadata", token=seal(pending()))


def bad_first_tokens() -> None:
    """C12, and C7 where the stream is none of chat completions."""
    both = {**trust(A.jwk(), EC.jwk()), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}}
    first, final = seal(pending()), seal(over(LEAVES, "messages-1"))
    firsts: Table = [
        (seal(pending(rid="req-2")), "invalid", "another rid"), (seal(pending(sub="sub-2")), "invalid", "another sub"), (seal(pending(req=sha("x"))), "invalid", "another req"), (seal(pending(iss=OTHER), THEIRS), "invalid", "another trusted issuer"), (final, "invalid", "the final token itself"),
        (seal(over([], "messages-1", jti="tok-2")), "invalid", "a final token of nothing"), (seal(point([], "messages-1")), "invalid", "a checkpoint"), (seal(pending(), EVIL, kid=A.kid), "invalid", "a wrong signature"), (seal(pending(), EVIL), "undecidable", "an unknown key"),
        (seal(pending(iss="https://third.example")), "undecidable", "an unknown issuer"), (seal(pending(), typ="JWT"), "invalid", "another typ"), (seal(pending(), alg="none"), "invalid", "alg none"), (seal(pending(iat=NOW + 61)), "invalid", "signed in the future"), (seal(pending(ver=2)), "undecidable", "another version"),
        (first[:-2], "invalid", "a cut token"), (seal(pending(completion="complete")), "invalid", "a pending token with completion"), (seal(pending(model="")), "invalid", "a claim out of form"), ("x", "invalid", "no token at all"), (first + "=", "invalid", "padding"),
    ]  # fmt: skip
    for token, verdict, note in firsts:
        vector("stream", spoken(LEAVES, TEXT_BLOCK, first=token), verdict, rule="C12", note=f"in message_start: {note}", trust=both)
    vector("stream", spoken(LEAVES, TEXT_BLOCK, first=first), "invalid", rule="C12", note="another genuine pending token in the header", token=seal(pending(jti="tok-9")))
    vector("stream", spoken(LEAVES, TEXT_BLOCK, first=first), "invalid", rule="C12", note="the same claims under another key in the header", token=seal(pending(), EC), trust=both)
    for token, verdict, note in (firsts[0], firsts[4], firsts[7], firsts[8], firsts[12]):
        vector("stream", spoken(LEAVES, TEXT_BLOCK), verdict, rule="C7", note=f"messages: a pending token was given: {note}", token=token, trust=both)
        vector("stream", responses(LEAVES, text_events(), [message_item(HELLO)]), verdict, rule="C7", note=f"responses: a pending token was given: {note}", token=token, trust=both)
    vector("stream", stream(seal(claims())), "invalid", rule="C7", note="a pending token was given: a checkpoint", token=seal(point([])))


def bad_forms() -> None:
    """C13: what a stream is read as is not for its token to say."""
    tagged = {
        "chat": lambda token: sse([*HELLO_EVENTS, last(token)]),
        "completions": lambda token: sse([legacy(HELLO), legacy("", ai_provenance=tag(token))]),
        "responses": lambda token: typed([CREATED, *text_events(), {**ended(None, [message_item(HELLO)]), "ai_provenance": tag(token)}]),
        "messages": lambda token: typed([started(), *TEXT_BLOCK, *stopped(token)]),
    }
    for form, made in tagged.items():
        for claimed in tagged:
            if claimed != form:
                other = (claimed == "messages" and form != "responses") or (claimed in ("chat", "completions") and form in ("responses", "messages"))
                vector("stream", made(seal(over([], f"{claimed}-1"))), "invalid", rule="C13", note=f"a stream of {form}-1 whose token says {claimed}-1, as which it has no content", also=["C16"] if other else None)  # whose events have other names
    hello = seal(over(LEAVES, "chat-1"))
    for begins, note in (([CREATED], "Responses"), ([{"type": "ping"}, started()], "Messages, after a ping"), ([{"type": "error"}, CREATED], "Responses, after an error"), ([said("x")], "some Responses event"), ([{"choices": []}, started()], "Messages, after an event with choices")):
        vector("stream", sse([*begins, *HELLO_EVENTS, last(hello)]), "invalid", rule="C13", note=f"chat completions in a stream that begins as {note}")
    vector("stream", sse([legacy(None, choices=[{"index": 0}]), *HELLO_EVENTS, last(hello)]), "invalid", rule="C13", note="chat completions in a stream whose first choices are of the object text_completion")
    vector("stream", sse([chunk(choices=[{"index": 0, "text": ""}]), *HELLO_EVENTS, last(hello)]), "invalid", rule="C13", note="chat completions in a stream whose first choices have text")
    vector("stream", sse([HELLO_EVENTS[0], legacy(HELLO), {"ai_provenance": tag(seal(over(LEAVES, "completions-1")))}]), "invalid", rule="C13", note="completions in a stream whose first choices are chat's")
    vector("stream", sse([{"type": "x"}, CREATED, *text_events(), {"ai_provenance": tag(seal(over(LEAVES, "responses-1")))}]), "invalid", rule="C13", note="Responses in a stream that begins as something else")


def bad_lines() -> None:
    two = covered = '{"a":1}\n{"b":2}\n'

    def lined(note: str, shown: str | bytes, covered: str = covered, **more: Any) -> None:
        token = seal(over([leaf(0, "lines", covered)], "ndjson-1"))
        made = shown if isinstance(shown, bytes) else shown.encode()
        vector("lines", made, "invalid", rule="C14", note=note, token=token, **more)

    for line, spelt, note in (
        (b'{"a":1,"a":2}', '{"a":2}', "a name twice"), (b'\xef\xbb\xbf{"a":1}', '{"a":1}', "a byte-order mark"), (b'{"a":1}{"b":2}', '{"a":1}', "two objects"), (b'{"a":NaN}', '{"a":null}', "NaN"), (b"[Infinity]", "[null]", "Infinity"), (b'"\xff"', '"\ufffd"', "a byte that is not UTF-8"),
        (b"[" * 65 + b"]" * 65, "[" * 65 + "]" * 65, "depth 65"), (b"1 2", "1", "two numbers"), (b'"x",', '"x"', "a comma after a string"), (b"{}x", "{}", "a letter after an object"), (b"hello", "null", "a word"), (b"{'a':1}", "null", "single quotation marks"), (b'{"a":1', "null", "an object cut"), (b"data: {}", "null", "an event"),
    ):  # fmt: skip
        lined(f"a line with {note}", two.encode() + line + b"\n", f"{covered}{spelt}\n")
    token = seal(over([leaf(0, "lines", covered)], "ndjson-1"))
    twin = seal(over([leaf(0, "lines", covered)], "ndjson-1", jti="tok-2"))
    vector("lines", lines_of('{"a":1}', token=token) + '{"b":2}\n', "invalid", rule="C14", note="a line after the tag's")
    vector("lines", lines_of(token=token) + two, "invalid", rule="C14", note="the tag first")
    vector("lines", two + lines_of(token=token) * 2, "invalid", rule="C14", note="the tag's line twice")
    vector("lines", two + lines_of(token=twin) + lines_of(token=token), "invalid", rule="C14", note="two lines with genuine tags")
    for other, note in ((twin, "another genuine token"), (seal(pending()), "a pending token"), (token[:-1], "the token cut"), ("x", "no token at all"), (token + " ", "a blank after it")):
        vector("lines", two + lines_of(token=token), "invalid", rule="C14", note=f"beside the line and in it differ: {note}", token=other)
    for shown, note in ((two, "two lines"), ("", "no lines"), ("[]\n", "an array"), ('{"data":{"ai_provenance":{"token":"' + token + '"}}}\n', "a tag further inside"), ('{"ai_provenance":{"token":"' + token + '"},"a":1}\n', "a tag with a member beside it")):
        vector("lines", shown, "absent", rule="C14", note=f"neither beside nor in a line: {note}")


def bad_calls() -> None:
    message = b"\x0a\x05Hello"
    leaves = [leaf(0, "messages", framed(message))]
    both = {**trust(A.jwk(), EC.jwk()), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}}
    final, first = seal(over(leaves, "grpc-1")), seal(pending())
    for token, verdict, note in (
        (seal(pending(rid="req-2")), "invalid", "another rid"), (seal(pending(sub="sub-2")), "invalid", "another sub"), (seal(pending(req=sha("x"))), "invalid", "another req"), (seal(pending(iss=OTHER), THEIRS), "invalid", "another trusted issuer"), (final, "invalid", "the final token itself"), (seal(point([], "grpc-1")), "invalid", "a checkpoint"),
        (seal(pending(), EVIL, kid=A.kid), "invalid", "a wrong signature"), (seal(pending(), EVIL), "undecidable", "an unknown key"), (seal(pending(iat=NOW + 61)), "invalid", "signed in the future"), (seal(pending(ver=2)), "undecidable", "another version"), ("x", "invalid", "no token at all"),
    ):  # fmt: skip
        vector("messages", [message], verdict, rule="C15", note=f"in initial metadata: {note}", token=final, pending=token, trust=both)
    own, twin = seal(over(GREETING_LEAVES, "infer-1")), seal(over(GREETING_LEAVES, "infer-1", jti="tok-2"))
    for token, note in ((twin, "another genuine token"), (seal(over(GREETING_LEAVES, "infer-1"), EC), "the same claims under another key"), (first, "a pending token"), (own[:-1], "the token cut"), ("x", "no token at all"), (seal(over([leaf(0, "messages", framed(greeting(own)))], "grpc-1")), "one of grpc-1 over the same message")):
        vector("infer", [greeting(own)], "invalid", rule="C15", note=f"parameter and trailing metadata differ: {note}", token=token, trust=both)
    vector("infer", [greeting(own, parameter("x"))], "invalid", rule="C15", note="infer: the parameter twice")
    vector("infer", [greeting(more=field(4, field(1, "ai_provenance") + field(2, field(3, own) + field(2, 7))))], "invalid", rule="C15", note="infer: the parameter a string and a number")
    vector("infer", [greeting(more=field(4, field(1, "ai_provenance") + field(2, field(1, 1))))], "invalid", rule="C15", note="infer: the parameter a truth value", token=own)
    vector("infer", [greeting(own)], "invalid", rule="C15", note="infer: another rid in initial metadata", pending=seal(pending(rid="req-2")))
    for messages, note in (([message], "one message"), ([], "no messages"), ([b""], "an empty message")):
        vector("messages", messages, "absent", rule="C15", note=f"neither token: {note}")
        vector("messages", messages, "incomplete", rule="C15", note=f"a pending token and no final one: {note}", pending=first)
    vector("infer", [greeting()], "absent", rule="C15", note="infer: neither token")
    vector("infer", [greeting()], "incomplete", rule="C15", note="infer: a pending token and no final one", pending=first)
    vector("infer", [reply(output(shape=[1], contents=field(8, HELLO)), more=parameter(own, "provenance"))], "absent", rule="C15", note="infer: a parameter of another name")
    vector("infer", [greeting(own)] * 2, "absent", rule="C15", note="infer: parameters of two messages, and no trailing metadata")
    vector("infer-stream", [streamed_reply(greeting())], "absent", rule="C15", note="infer: a stream without any token")


def bad_content() -> None:
    """P7, and what cuts, doubles or follows a token in the other dialects."""
    response, message, reply_token = seal(over(LEAVES, "responses-1")), seal(over(LEAVES, "messages-1")), seal(over(GREETING_LEAVES, "infer-1"))
    first = seal(pending())
    other = "Hello, World."
    text = {"type": "text", "text": HELLO}
    bodies: Table = [
        (carrying(response_of([message_item(other)]), response), "responses: a letter changed"), (carrying(response_of([message_item(HELLO, refused("No."))]), response), "responses: a refusal added"), (carrying(response_of([message_item(HELLO), SEARCH]), response), "responses: an item added"),
        (carrying(response_of([SEARCH, message_item(HELLO)]), response), "responses: an item put first"), (carrying(response_of([{**message_item(HELLO), "type": "x"}]), response), "responses: the type of the item changed"), (carrying(response_of([]), response), "responses: the item removed"),
        (carrying(message_of([{**text, "text": other}]), message), "messages: a letter changed"), (carrying(message_of([text, text]), message), "messages: a block added"), (carrying(message_of([{"type": "thinking", "thinking": HELLO}]), message), "messages: the text turned to thinking"), (carrying(message_of([]), message), "messages: the block removed"),
        (carrying({**GREETING_JSON, "outputs": [{**GREETING_JSON["outputs"][0], "data": [other]}]}, reply_token), "infer: a letter changed"), (carrying({**GREETING_JSON, "outputs": [{**GREETING_JSON["outputs"][0], "name": "X"}]}, reply_token), "infer: the name changed"),
        (carrying({**GREETING_JSON, "outputs": [{**GREETING_JSON["outputs"][0], "shape": [1, 1]}]}, reply_token), "infer: the shape changed"), (carrying(legacy(other), seal(over(LEAVES, "completions-1"))), "completions: a letter changed"),
    ]  # fmt: skip
    for shown, note in bodies:
        vector("body", shown, "invalid", rule="P7", note=note)
    vector("stream", typed([CREATED, *text_events(other), ended(response, [message_item(other)])]), "invalid", rule="P7", note="responses: a letter changed, in a stream")
    vector("stream", typed([CREATED, *text_events(), said("output_item.done", output_index=1, item=SEARCH), ended(response, [message_item(HELLO)])]), "invalid", rule="P7", note="responses: an item of another type added, in a stream")
    vector("stream", typed([started(), *TEXT_BLOCK[:3], *stopped(message)]), "invalid", rule="P7", note="messages: a delta lost")
    vector("stream", typed([started(), *TEXT_BLOCK, begin({"type": "x"}, 1), *stopped(message)]), "invalid", rule="P7", note="messages: a block of another type added")
    called = seal(over([leaf(0, "input", '{"a":1}'), leaf(0, "name", "f")], "messages-1"))
    tool = begin({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}})
    vector("stream", typed([started(), tool, delta("input_json_delta", partial_json='{"a":2}'), *stopped(called)]), "invalid", rule="P7", note="messages: partial JSON goes before the input that the block began with")
    vector("stream", typed([started(), tool, delta("input_json_delta", partial_json='{"a":1'), *stopped(called)]), "invalid", rule="P7", note="messages: partial JSON that is cut leaves nothing of the input that the block began with")
    spelt = seal(over([leaf(0, "input", "[1]"), leaf(0, "name", "f")], "messages-1"))
    vector("stream", typed([started(), tool, delta("input_json_delta", partial_json="[1]"), *stopped(spelt)]), "invalid", rule="P7", note="messages: partial JSON that is no object sealed as its text")
    for messages, note in (([greeting() + field(5, b"")], "an output added"), ([greeting().replace(b"world", b"World")], "a letter changed"), ([greeting(), greeting()], "a message twice"), ([], "no message")):
        vector("infer", messages, "invalid", rule="P7", note=f"infer: {note}", token=reply_token)
    made = seal(over([leaf(0, "messages", framed(b"ab", b"c"))], "grpc-1"))
    for messages, note in (([b"ab", b"d"], "a byte changed"), ([b"a", b"bc"], "a byte moved to the next message"), ([b"c", b"ab"], "messages exchanged"), ([b"ab"], "a message lost"), ([b"ab", b"c", b""], "an empty message added"), ([b"abc"], "messages joined")):
        vector("messages", messages, "invalid", rule="P7", note=f"grpc: {note}", token=made)
    made = seal(over([leaf(0, "lines", '{"a":1}\n{"b":2}\n')], "ndjson-1"))
    for shown, note in (('{"a":1}\n{"b":3}\n', "a number changed"), ('{"b":2}\n{"a":1}\n', "exchanged"), ('{"a":1}\n', "one lost"), ('{"a":1}\n{"b":2}\n{}\n', "one added"), ('[{"a":1},{"b":2}]\n', "in an array")):
        vector("lines", shown, "invalid", rule="P7", note=f"lines: {note}", token=made)
    vector("text", "Hm.", "invalid", rule="P8", note="messages: the text of thinking", token=seal(over([leaf(0, "thinking", "Hm."), leaf(1, "text", HELLO)], "messages-1")))
    vector("text", "Hm.", "invalid", rule="P8", note="responses: the text of a summary", token=seal(over([leaf(0, "reasoning_summary", "Hm.")], "responses-1")))

    end = said("completed", response={**response_of([message_item(HELLO)]), "ai_provenance": tag(response)})
    vector("stream", typed([said("created", response={**response_of([]), "ai_provenance": tag(first)}), *text_events(), end]), "invalid", rule="C4", note="responses: a pending token in the first event besides")
    vector("stream", typed([{**started(), "type": "message_x"}, *TEXT_BLOCK, *stopped(None)]), "absent", rule="C4", note="messages: no token, and a first event of another type")
    vector("stream", typed([started(), *TEXT_BLOCK, {"type": "x", "message": {"ai_provenance": tag(message)}}, *stopped(message)]), "invalid", rule="C4", note="messages: a token in the message of another event besides")
    vector("stream", typed([CREATED, *text_events(), end, {"type": "error", "message": "x"}]), "invalid", rule="C5", note="responses: an error after the token")
    vector("stream", typed([CREATED, *text_events(), end, said("failed", response=response_of(None))]), "invalid", rule="C5", note="responses: failed after the token")
    vector("stream", typed([CREATED, *text_events(), ended(seal(over([*LEAVES, leaf(1, "item", SEARCH_LEAF)], "responses-1")), [message_item(HELLO)]), said("output_item.done", output_index=1, item=SEARCH)]), "invalid", rule="C5", note="responses: an item after the token")
    for odd, note in ((response, "the token itself"), ([tag(response)], "an array"), ({"token": response, "leaves": "x"}, "leaves a string")):
        end = said("completed", response={**response_of([message_item(HELLO)]), "ai_provenance": odd})
        vector("stream", typed([CREATED, *text_events(), end]), "invalid", rule="C1", note=f"in the response of the terminal event: {note}")
    vector("stream", typed([{"type": "message_start", "message": {**message_of([]), "ai_provenance": first}}, *TEXT_BLOCK, *stopped(message)]), "invalid", rule="C1", note="in message_start: the token itself")
    end = ended(response, [message_item(HELLO)])
    vector("stream", typed([CREATED, *text_events(), {**end, "ai_provenance": tag(response)}]), "invalid", rule="C4", note="responses: the token in the terminal event and in its response")
    vector("stream", typed([CREATED, *text_events(), end, end]), "invalid", rule="C4", note="responses: the terminal event twice")
    vector("stream", typed([started(), *TEXT_BLOCK, *stopped(message), stopped(message)[1]]), "invalid", rule="C4", note="messages: message_stop twice")
    vector("stream", typed([CREATED, *text_events(), ended(first, [message_item(HELLO)])]), "invalid", rule="C4", note="responses: a pending token in the terminal event")
    vector("stream", typed([started(), *TEXT_BLOCK, *stopped(first)]), "invalid", rule="C4", note="messages: a pending token in message_stop")
    vector("stream", typed([CREATED, *text_events(), ended(None, [message_item(HELLO)])]), "absent", rule="C4", note="responses: no token")
    vector("stream", typed([CREATED, *text_events()]), "incomplete", rule="C4", note="responses: cut, after a pending token", token=first)
    vector("stream", typed([started(), *TEXT_BLOCK, *stopped(None)]), "absent", rule="C4", note="messages: no token")
    vector("stream", typed([started(first), *TEXT_BLOCK]), "incomplete", rule="C4", note="messages: cut, after a pending token in message_start")
    longer = [leaf(0, "text", f"{HELLO} Hi.")]
    vector("stream", typed([started(), *TEXT_BLOCK, *stopped(seal(over(longer, "messages-1"))), delta("text_delta", text=" Hi.")]), "invalid", rule="C5", note="messages: text after the token")
    vector("stream", typed([started(), *TEXT_BLOCK, *stopped(seal(over([*LEAVES, leaf(1, "text", "Hi.")], "messages-1"))), begin({"type": "text", "text": "Hi."}, 1)]), "invalid", rule="C5", note="messages: a block after the token")
    vector("stream", typed([started(), *TEXT_BLOCK, *stopped(message), {"type": "error", "error": {"type": "api_error"}}]), "invalid", rule="C5", note="messages: an error after the token")
    late = said("output_text.delta", output_index=1, content_index=0, delta="Hi.")
    vector("stream", typed([CREATED, *text_events(), ended(seal(over([*LEAVES, leaf(1, "text", "Hi.")], "responses-1")), [message_item(HELLO)]), late]), "invalid", rule="C5", note="responses: text after the token")
    vector("stream", sse([legacy("Hello, "), legacy("", ai_provenance=tag(seal(over(LEAVES, "completions-1")))), legacy("world.")]), "invalid", rule="C5", note="completions: text after the token")
    for shown, note in ((responses(LEAVES, text_events(), [message_item(HELLO)]), "responses"), (spoken(LEAVES, TEXT_BLOCK), "messages")):
        vector("stream", shown[:-1], "absent", rule="C6", note=f"{note}: cut before the blank line")
        vector("stream", shown[:-1], "incomplete", rule="C6", note=f"{note}: cut before the blank line, after a pending token", token=first)
    made = carrying(GREETING_JSON, reply_token)
    for shown, note in ((made[:-1] + ',"x":NaN}', "infer: NaN"), (carrying(message_of([text]), message)[:-1] + ',"id":"msg_1"}', "messages: a name twice"), (carrying(response_of([message_item(HELLO)]), response) + "{}", "responses: a second object")):
        vector("body", shown, "invalid", rule="C9", note=note)


def bad_projections() -> None:
    """P9: bodies, streams, lines and messages under what does not fit them."""
    for proj in ("responses-2", "messages", "infer-2", "ndjson-2", "grpc"):
        carried(seal(claims(content=content(LEAVES, proj))), "undecidable", "P9", f"proj {proj!r}")
    for proj in ("ndjson-1", "grpc-1"):
        vector("body", body(seal(claims(LEAVES, proj))), "invalid", rule="P9", note=f"{proj} over a body")
    for proj, member in (("completions-1", "choices"), ("responses-1", "output"), ("messages-1", "content")):
        vector("body", carrying({"id": "x"}, seal(over([], proj))), "invalid", rule="P9", note=f"{proj} over an object without {member}")
        vector("body", carrying({"id": "x", member: None}, seal(over([], proj))), "invalid", rule="P9", note=f"{proj} over an object with {member} null")
    vector("body", carrying({"id": "x"}, seal(over([], "infer-1"))), "invalid", rule="P9", note="infer-1 over an object without outputs")
    vector("body", carrying({"outputs": None}, seal(over([], "infer-1"))), "invalid", rule="P9", note="infer-1 over an object with outputs null")
    vector("body", carrying({"outputs": [5]}, seal(over([[0, "outputs.0.data", None]], "infer-1"))), "invalid", rule="P9", note="infer-1 over outputs that are no objects")
    vector("body", "[]", "invalid", rule="P9", note="messages-1 over an array, token in the header", token=seal(over([], "messages-1")))
    for proj in ("messages-1", "json-1", "bytes-1", "infer-1"):
        vector("stream", responses(LEAVES, text_events(), [message_item(HELLO)], proj=proj), "invalid", rule="P9", note=f"{proj} over a stream of Responses")
        vector("stream", spoken(LEAVES, TEXT_BLOCK, proj=proj if proj != "messages-1" else "responses-1"), "invalid", rule="P9", note=f"{proj if proj != 'messages-1' else 'responses-1'} over a stream of Messages")
    line = '{"a":1}\n'
    for proj in ("json-1", "grpc-1", "chat-1", "infer-1"):
        vector("lines", line, "invalid", rule="P9", note=f"{proj} over lines", token=seal(over([leaf(0, "lines", line)], proj)))
    vector("lines", line + lines_of(token=seal(over([leaf(0, "body", line)], "bytes-1"))), "invalid", rule="P9", note="bytes-1 over lines that carry the token", also=["P7"])
    for proj in ("ndjson-1", "bytes-1", "json-1"):
        vector("messages", [b"x"], "invalid", rule="P9", note=f"{proj} over gRPC messages", token=seal(over([leaf(0, "messages", framed(b"x"))], proj)), also=["P7"])


def named(name: str | None, event: Json | str, *, colon: str = ": ", after: bool = False) -> str:
    """An event's lines with an `event` field, before its data or `after` it; a name of None is a field without a colon."""
    lines = ["event" if name is None else f"event{colon}{name}", f"data: {event if isinstance(event, str) else json.dumps(event, separators=(',', ':'))}"]
    return "\n".join(lines[::-1] if after else lines)


def renamed(events: list[Json], at: int, *lines: str) -> list[Json | str]:
    """A Responses or Messages stream for `typed`, in which these lines stand for the `event` line of one event."""
    data = f"data: {json.dumps(events[at], separators=(',', ':'))}"
    return [*events[:at], "\n".join([*lines, data]), *events[at + 1 :]]


def name_streams() -> tuple[list[Json], list[Json], list[Json], list[Json]]:
    """Sealed events of each form: chat, completions, Responses, Messages."""
    chat = [*HELLO_EVENTS, last(seal(claims()))]
    older = [legacy("Hello, "), legacy("world."), legacy("", ai_provenance=tag(seal(over(LEAVES, "completions-1"))))]
    response = [CREATED, *text_events(), ended(seal(over(LEAVES, "responses-1")), [message_item(HELLO)])]
    message = [started(), *TEXT_BLOCK, *stopped(seal(over(LEAVES, "messages-1")))]
    return chat, older, response, message


def good_names() -> None:
    """C16 and C17: names that clients take for what an event is, and a [DONE] where it ends a stream."""
    chat, older, response, message = name_streams()

    def streamed(note: str, shown: str | bytes, **more: Any) -> None:
        vector("stream", shown, note=f"names: {note}", **more)

    streamed("chat, message", sse([named("message", event) for event in chat]))
    streamed("chat, message without a blank after the colon", sse([named("message", event, colon=":") for event in chat]))
    streamed("chat, empty", sse([named("", event) for event in chat]))
    streamed("chat, without a colon", sse([named(None, event) for event in chat]))
    streamed("chat, message, CR LF", sse([named("message", event) for event in chat], end="\r\n"))
    streamed("chat, message after the data", sse([named("message", event, after=True) for event in chat]))
    streamed("chat, of two the last is message", sse([chat[0], "event: x\n" + named("message", chat[1]), *chat[2:]]))
    streamed("chat, of two the last is empty", sse([chat[0], "event: x\n" + named("", chat[1]), *chat[2:]]))
    streamed("chat, of two the last is without a colon", sse([chat[0], "event: x\n" + named(None, chat[1]), *chat[2:]]))
    streamed("chat, a name in a comment, and in fields of other names", sse([chat[0], ": event: x\nEvent: x\n event: x\nevents: x\nevent : x\n" + named("message", chat[1]), *chat[2:]]))
    streamed("chat, events of another name without data", sse(["event: x", chat[0], "event: ping\ndata:", *chat[1:], "event: x\nid: 1"]))
    streamed("chat, a name on [DONE]", sse([*chat, named("done", "[DONE]")], done=False))
    made = seal(claims([leaf(0, "text", "Hello,")], completion="error"))
    for name in ("error", "message", ""):
        streamed(f"chat, an error event of the name {name!r}", sse([*HELLO_EVENTS[:2], named(name, {"error": {"message": "stopped"}, "ai_provenance": tag(made)})]))
    streamed("chat, an error event of the name error and of type error", sse([*HELLO_EVENTS[:2], named("error", {"type": "error", "error": "stopped", "ai_provenance": tag(made)})], done=False), terminator="missing")
    streamed("chat, an error event before the last one", sse([*HELLO_EVENTS, named("error", {"error": {"message": "x"}}), chat[-1]]))
    streamed("completions, message", sse([named("message", event) for event in older]))
    streamed("chat, a name on the tail that no blank line ends", sse(chat) + named("x", HELLO_EVENTS[0]) + "\n")
    for note, lines in (("none", ()), ("empty", ("event:",)), ("without a colon", ("event",)), ("of two the last", ("event: x", f"event: {response[3]['type']}")), ("of two the last, which is empty", ("event: x", "event:")), ("without a blank after the colon", (f"event:{response[3]['type']}",))):
        streamed(f"Responses, a delta: {note}", typed(renamed(response, 3, *lines)))
    streamed("Responses, none at all", sse(list(response), done=False))
    streamed("Responses, an event without a type and a name", typed([response[0], "data: {}", *response[1:]]))
    streamed("Responses, a name on [DONE]", typed([*response, named("done", "[DONE]")]))
    for note, lines in (("without a blank after the colon", (f"event:{message[3]['type']}",)), ("of two the last", ("event: x", f"event: {message[3]['type']}"))):
        streamed(f"Messages, a delta: {note}", typed(renamed(message, 3, *lines)))
    streamed("Messages, an event of a type that nobody knows", typed([message[0], {"type": "x \u20ac"}, *message[1:]]))
    streamed("Messages, events of another name without data", typed(["event: x", *message[:2], "event\ndata", *message[2:]]))
    streamed("Messages, [DONE] after the end", typed([*message, "data: [DONE]"]))
    for note, line in (("a comment", ": data: [DONE]"), ("a field of another name", "id: [DONE]"), ("the name of an event without data", "event: [DONE]")):
        streamed(f"[DONE] before the final token in {note}", sse([*HELLO_EVENTS, line, chat[-1]]))
    done = seal(claims([leaf(0, "text", "[DONE]")]))
    streamed("[DONE] as the text", sse([chunk({"content": "[DONE]"}), last(done)]))


def good_tails() -> None:
    """C18: what may follow the last blank line."""
    chat, older, response, message = name_streams()
    more = chunk({"content": " more"})
    for note, tail in (
        ("a comment", f": data: {json.dumps(more)}\n"), ("a field of another name", f"Data: {json.dumps(more)}\n data: {json.dumps(more)}\ndata : x\n"), ("a name and an id", "event: x\nid: 1\n"), ("an empty data line", "data:\n"), ("two empty data lines", "data\ndata: \n"), ("a blank data line", "data:  \t\n"),
        ("a brace", "data: {"), ("content but for its last brace", f"data: {json.dumps(more)[:-1]}\n"), ("content but for its last brace, and braces in a string", 'data: {"choices":[{"index":0,"delta":{"content":"}}}"}}]\n'), ("content but for its last brace, and a quote in a string", 'data: {"choices":[{"index":0,"delta":{"content":"\\"}}}"}}]\n'),
        ("a string that does not end", 'data: {"x":"}\n'), ("an event without content", f"data: {json.dumps(USAGE_EVENT)}\n"), ("an event without content, in two lines", 'data: {"choices":\ndata: []}\n'), ("an event without content, and blanks", "data:  {} \n"), ("an error that is null", 'data: {"error":null}\n'), ("empty content", f"data: {json.dumps(chunk({'content': ''}))}"),
    ):
        vector("stream", sse(chat) + tail, note=f"tails: chat, {note}")
    for size in range(1, len("data: [DONE]") + 2):
        vector("stream", sse(chat, done=False) + "data: [DONE]\n"[:size], note=f"tails: chat, [DONE] cut behind {size} bytes", terminator="missing")
    for end, note in (("\r\n", "CR LF"), ("\r", "CR")):
        vector("stream", sse(chat, end=end) + f"data: {{}}{end}", note=f"tails: chat, an event without content, {note}")
    vector("stream", sse(older) + 'data: {"choices":[{"index":0,"text":""}]}', note="tails: completions, empty text")
    for note, data in (("an event in lines, as a person would write it", json.dumps(USAGE_EVENT, indent=1)), ("braces in a line's string", '{"x":\n"{}"}'), ("an object that ends in another line", '{"x":\n{"y":\n5}}'), ("an object between blank lines", " \n{}\n\t"), ("an object behind a comma", '{"x":[5\n,{}]}')):
        vector("stream", sse([*chat[:1], "data: " + data.replace("\n", "\ndata: "), *chat[1:]]) + "data: " + data.replace("\n", "\ndata: "), note=f"lines: chat, {note}")
    vector("stream", typed(response) + 'data: {"type":"keepalive"}\n', note="tails: Responses, an event without content")
    vector("stream", typed(response) + f"data: {json.dumps(response[4])[:-1]}\n", note="tails: Responses, a delta but for its last brace")
    vector("stream", typed(message) + 'event: ping\ndata: {"type":"ping"}\n', note="tails: Messages, a ping")
    vector("stream", typed(message) + f"event: content_block_delta\ndata: {json.dumps(message[3])[:-1]}\n", note="tails: Messages, a delta but for its last brace")


def good_left_open() -> None:
    """Checkpoints whose form is told later, and a pending token beside lines."""
    first, empty = seal(pending()), {"id": "x", "ai_provenance": tag(seal(point([])))}
    _, _, response, message = name_streams()
    vector("stream", typed([f"data: {json.dumps(empty)}", *response]), note="checkpoints: of nothing as chat, before an event tells that the stream is none")
    for form, events in (("responses-1", response), ("messages-1", message)):
        untold = {"type": "ping", "ai_provenance": tag(seal(point([], form)))}
        vector("stream", typed([untold, *events]), note=f"checkpoints: of nothing as {form}, before an event tells")
    two = '{"b": 1, "a": "x"}\n[1, 2.50]\n'
    token = seal(over([leaf(0, "lines", '{"a":"x","b":1}\n[1,2.5]\n')], "ndjson-1"))
    vector("lines", two + lines_of(token=token), note="lines: a pending token beside them, the final one in a line", pending=first)
    vector("lines", two, note="lines: a pending and a final token beside them", token=token, pending=first)
    vector("lines", two, note="lines: as bytes, with a pending and a final token beside them", token=seal(over([leaf(0, "body", two)], "bytes-1")), pending=first)
    vector("infer", [b"\xff"], note="infer: a message that is not well-formed, as grpc-1", token=seal(over([leaf(0, "messages", framed(b"\xff"))], "grpc-1")))


def bad_names() -> None:
    """C16: an event of a name by which clients take it for something else, or for nothing."""
    chat, older, response, message = name_streams()

    def streamed(note: str, shown: str | bytes, **more: Any) -> None:
        vector("stream", shown, "invalid", rule="C16", note=note, **more)

    for name, note in (("x", "x"), ("ping", "ping"), ("error", "error"), ("Message", "Message, in another case"), (" message", "message after two blanks"), ("message ", "message and a blank"), ("message\t", "message and a tab"), ("chat.completion.chunk", "its object"), ("messages", "messages"), ("\u00a0", "a no-break space"), ("\ufeff", "a byte-order mark"), ("[DONE]", "[DONE]"), ("\0", "NUL")):
        streamed(f"chat, a delta of the name {note}", sse([*chat[:2], named(name, chat[2]), chat[3]]))
    streamed("chat, the event with the token of the name x", sse([*HELLO_EVENTS, named("x", chat[-1])]))
    streamed("chat, every event of the name x", sse([named("x", event) for event in chat]))
    streamed("chat, x, CR LF", sse([*chat[:2], named("x", chat[2]), chat[3]], end="\r\n"))
    streamed("chat, x, CR", sse([*chat[:2], named("x", chat[2]), chat[3]], end="\r"))
    streamed("chat, x without a blank after the colon", sse([*chat[:2], named("x", chat[2], colon=":"), chat[3]]))
    streamed("chat, x after the data", sse([*chat[:2], named("x", chat[2], after=True), chat[3]]))
    streamed("chat, of two the last is x", sse([*chat[:2], "event: message\n" + named("x", chat[2]), chat[3]]))
    streamed("chat, of two the first is empty and the last x", sse([*chat[:2], "event:\n" + named("x", chat[2]), chat[3]]))
    streamed("chat, x in the first event, after a byte-order mark", b"\xef\xbb\xbf" + sse([named("x", chat[0]), *chat[1:]]).encode())
    streamed("chat, a name that is not UTF-8", sse([*chat[:2], named("?", chat[2]), chat[3]]).encode().replace(b"event: ?", b"event: \xff"))
    streamed("chat, x before an event tells the form", sse([named("x", {"id": "x"}), *chat]))
    streamed("chat, ping before an event tells the form", sse([named("ping", {"type": "ping"}), *chat]))
    streamed("chat, the type of an event of another kind", sse([named("thread.created", {"type": "thread.created"}), *chat]))
    streamed("chat, x on the usage after the token", sse([*chat, named("x", USAGE_EVENT)]))
    streamed("chat, x after [DONE]", sse([*chat, "data: [DONE]", named("x", USAGE_EVENT)], done=False))
    streamed("chat, x on an event of no members", sse([*chat[:2], named("x", "{}"), *chat[2:]]))
    made = seal(claims([leaf(0, "text", "Hello,")], completion="error"))
    error = {"error": {"message": "stopped"}, "ai_provenance": tag(made)}
    for name in ("x", "Error", "response.error"):
        streamed(f"chat, an error event of the name {name}", sse([*HELLO_EVENTS[:2], named(name, error)]))
    streamed("chat, error on an event whose error is null", sse([*chat[:2], named("error", {**chat[2], "error": None}), chat[3]]))
    streamed("chat, error on an event of type error without an error", sse([*chat[:2], named("error", {"type": "error"}), *chat[2:]]))
    streamed("completions, a delta of the name completion", sse([older[0], named("completion", older[1]), older[2]]))
    streamed("completions, the event with the token of the name error", sse([*older[:2], named("error", older[2])]))
    half = [leaf(0, "text", "Hello,")]
    middle = chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half))))
    streamed("chat, x on the event of a checkpoint", sse([HELLO_EVENTS[0], named("x", middle), HELLO_EVENTS[2], chat[-1]]))
    streamed("chat, x on the event of a checkpoint, and no final token", sse([HELLO_EVENTS[0], named("x", middle)], done=False))
    streamed("chat, x before a checkpoint, and no final token", sse([named("x", HELLO_EVENTS[0]), middle], done=False))
    streamed("chat, x after a checkpoint, and no final token", sse([HELLO_EVENTS[0], middle, named("x", HELLO_EVENTS[2])], done=False))

    for name, note in (("message", "message"), ("x", "x"), (response[4]["type"].upper(), "its type in capitals"), ("response.refusal.delta", "another type"), ("output_text.delta", "its type without what stands before it"), (" " + response[4]["type"], "its type after two blanks")):
        streamed(f"Responses, a delta of the name {note}", typed(renamed(response, 4, f"event: {name}")))
    streamed("Responses, the terminal event of the name response.failed", typed(renamed(response, len(response) - 1, "event: response.failed")))
    streamed("Responses, the first event of another name", typed(renamed(response, 0, "event: response.queued")))
    streamed("Responses, of two the last is another", typed(renamed(response, 4, f"event: {response[4]['type']}", "event: x")))
    streamed("Responses, a ping of the name message", typed([named("message", {"type": "ping"}), *response]))
    streamed("Responses, a name on an event without a type", typed([*response[:2], named("x", "{}"), *response[2:]]))
    streamed("Responses, a name that is its type as text, where that is a number", typed([*response[:2], named("5", {"type": 5}), *response[2:]]))
    streamed("Responses, an event of another name after the token", typed([*response, named("x", {"type": "keepalive"})]))
    made = seal(over([leaf(0, "text", "Hello,")], "responses-1", completion="policy"))
    streamed("Responses, an error event of the name response.failed", typed([CREATED, *text_events("Hello,", text=DROP, part=DROP, item=DROP), named("response.failed", {"type": "error", "message": "stopped", "ai_provenance": tag(made)})]))

    for at, note in ((0, "the first event"), (1, "a block's beginning"), (2, "a ping"), (3, "a delta"), (len(message) - 1, "the event with the token")):
        streamed(f"Messages, {note} without a name", typed(renamed(message, at)))
    for line, note in (("event:", "an empty name"), ("event", "a name without a colon"), ("event: message", "the name message"), ("event: content_block_start", "the name of another type"), ("event:  content_block_delta", "its type after two blanks"), ("event: content_block_delta ", "its type and a blank"), ("event: Content_block_delta", "its type in another case")):
        streamed(f"Messages, a delta with {note}", typed(renamed(message, 3, line)))
    streamed("Messages, of two names the last is empty", typed(renamed(message, 3, "event: content_block_delta", "event:")))
    streamed("Messages, no names at all", sse(list(message), done=False))
    streamed("Messages, a ping without a name before an event tells the form", typed(['data: {"type":"ping"}', *message]))
    streamed("Messages, an event without type and name", typed([*message[:2], "data: {}", *message[2:]]))
    streamed("Messages, an event without type, of the name ping", typed([*message[:2], named("ping", "{}"), *message[2:]]))
    streamed("Messages, a type that is a number, and its text for a name", typed([*message[:2], named("5", {"type": 5}), *message[2:]]))
    streamed("Messages, a type of null and no name", typed([*message[:2], 'data: {"type":null}', *message[2:]]))
    streamed("Messages, a ping without a name after the token", typed([*message, 'data: {"type":"ping"}']))
    streamed("Messages, a delta without a name, CR LF", typed(renamed(message, 3), end="\r\n"))
    made = seal(over([leaf(0, "text", "Hello,")], "messages-1", completion="error"))
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "stopped"}, "ai_provenance": tag(made)}
    streamed("Messages, an error event without a name", typed([started(), *TEXT_BLOCK[:3], f"data: {json.dumps(error)}"]))
    untold = {**error, "ai_provenance": tag(seal(over([], "messages-1", completion="error")))}
    streamed("an error alone without a name, whose token says messages-1", sse([untold], done=False))
    streamed("an error alone of the name error and without a type, whose token says messages-1", sse([named("error", {name: value for name, value in untold.items() if name != "type"})], done=False))


def bad_ends() -> None:
    """C17: [DONE] before the final token."""
    chat, older, response, message = name_streams()

    def streamed(note: str, shown: str | bytes, verdict: str = "invalid", **more: Any) -> None:
        vector("stream", shown, verdict, rule="C17", note=note, **more)

    for at in range(4):
        streamed(f"chat, [DONE] before event {at + 1} of 4", sse([*chat[:at], "data: [DONE]", *chat[at:]]))
        streamed(f"chat, [DONE] before event {at + 1} of 4 alone", sse([*chat[:at], "data: [DONE]", *chat[at:]], done=False))
    for line, note in (("data:[DONE]", "without a blank after the colon"), ("event: done\ndata: [DONE]", "with a name"), ("id: 1\nretry: 5\ndata: [DONE]", "with other fields"), (": bye\ndata: [DONE]", "after a comment"), ("data: [DONE]\n\ndata: [DONE]", "twice")):
        streamed(f"chat, [DONE] before the token, {note}", sse([*HELLO_EVENTS, line, chat[-1]]))
    for end, note in (("\r\n", "CR LF"), ("\r", "CR")):
        streamed(f"chat, [DONE] before the token, {note}", sse([*HELLO_EVENTS, "data: [DONE]", chat[-1]], end=end))
    streamed("chat, [DONE] first, after a byte-order mark", b"\xef\xbb\xbf" + sse(["data: [DONE]", *chat]).encode())
    streamed("chat, [DONE] before the token, a pending token given", sse([*HELLO_EVENTS, "data: [DONE]", chat[-1]]), token=seal(pending()))
    streamed("completions, [DONE] before the token", sse([*older[:2], "data: [DONE]", older[2]]))
    streamed("Responses, [DONE] before the terminal event", typed([*response[:-1], "data: [DONE]", response[-1]]))
    streamed("Responses, [DONE] first", typed(["data: [DONE]", *response]))
    streamed("Messages, [DONE] before message_stop", typed([*message[:-1], "data: [DONE]", message[-1]]))
    streamed("Messages, [DONE] within a block", typed([*message[:4], "data: [DONE]", *message[4:]]))
    made = seal(claims([leaf(0, "text", "Hello,")], completion="error"))
    streamed("chat, [DONE] before the error event with the token", sse([*HELLO_EVENTS[:2], "data: [DONE]", {"error": {"message": "stopped"}, "ai_provenance": tag(made)}], done=False))

    half = [leaf(0, "text", "Hello,")]
    middle, whole = chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half)))), chunk({"content": "world."}, ai_provenance=tag(seal(point(LEAVES))))
    streamed("chat, [DONE] between a checkpoint and the final token", sse([HELLO_EVENTS[0], middle, "data: [DONE]", HELLO_EVENTS[2], chat[-1]]))
    streamed("chat, [DONE] between two checkpoints, and no final token", sse([middle, "data: [DONE]", whole], done=False), "incomplete", proven=f"{len(sse([middle], done=False))} bytes")
    streamed("chat, [DONE] before the only checkpoint, and no final token", sse(["data: [DONE]", middle], done=False), "incomplete")
    streamed("chat, [DONE] before two checkpoints, and no final token, a pending one given", sse(["data: [DONE]", middle, whole], done=False), "incomplete", token=seal(pending()))


def bad_tails() -> None:
    """C18: what follows the last blank line, and readers of lines take for more."""
    chat, older, response, message = name_streams()
    more = json.dumps(chunk({"content": " more"}))

    def streamed(note: str, shown: str | bytes, **more: Any) -> None:
        vector("stream", shown, "invalid", rule="C18", note=note, **more)

    for tail, note in ((f"data: {more}\n", "content"), (f"data: {more}", "content without a line's end"), (f"data:{more}\n", "content without a blank after the colon"), (f"data:  {more}  \n", "content between blanks"), (f": x\nid: 1\ndata: {more}\n", "content after other fields"), (f"data: {more}\nevent: x\n: y\n", "content before other fields"),
                       (f"event: x\ndata: {more}\n", "content of another name"), (f"data:\ndata: {more}\n", "content after an empty data line"), (f"data: {more}\ndata\n", "content before an empty data line"), (more.join(("data: ", "\n")).replace('"choices"', '\ndata: "choices"'), "content in two lines"), ('data: {"x": "}", "choices": [{"index": 0, "delta": {"content": "{"}}]}\n', "content and braces in strings"),
                       (f"data: {{}}\ndata: {more}\n", "content after an object without any"), (f"data: {more}\ndata: {more}\n", "content twice"), (f"data: [DONE]\ndata: {more}\n", "content after [DONE]"), (f"data: {more}\ndata: [DONE]\n", "content before [DONE]"), (f"data: {more} x\n", "content and a letter"), (f"data: {more[:-1]}, \"x\": NaN}}\n", "content and NaN"), (f"data: {more[:-1]}, \"choices\": []}}\n", "content and a name twice"), ("data: {]}\n", "braces that are no JSON"),
                       ('data: {"error": {"message": "x"}}\n', "an error"), ('data: {"type": "error"}\n', "an event of type error"), ("data: x\n", "a letter"), ('data: "text"\n', "a string"), ("data: 5\n", "a number"), (f"data: [{more}]\n", "an array"), ("data: [DONE]x\n", "[DONE] and a letter"), ("data:  [DONE]\n", "a blank and [DONE]"), (f"data: \u00a0{more}\n", "a no-break space and content"), (f"data: \u000c{more}\n", "a form feed and content")):  # fmt: skip
        streamed(f"chat, {note}", sse(chat) + tail)
    streamed("chat, content in place of [DONE]", sse(chat, done=False) + f"data: {more}\n")
    streamed("chat, a beginning of another end", sse(chat, done=False) + "data: [END\n")
    for head, behind, note in (('{"x":[', "]}", "an array"), ('{"x":', "}", "an object"), ('{"x":[5,', ",6]}", "an array of more"), ('{"x":[', ",{}]}", "an array, before another in its line")):
        last_line = behind if behind.startswith(",{") else "\ndata: " + behind
        lines = f"data: {head}\ndata: {more}{last_line}"
        streamed(f"chat, content in a line by itself, in {note}, before the token", sse([*chat[:1], lines, *chat[1:]]))
        streamed(f"chat, content in a line by itself, in {note}, after the token", sse([*chat, lines]))
        streamed(f"chat, content in a line by itself, in {note}, after the last blank line", sse(chat) + lines + "\n")
        if not behind.startswith(",{"):
            streamed(f"chat, content in a line by itself, in {note} that does not end", sse(chat) + f"data: {head}\ndata: {more}\n")
    streamed("chat, an object in a line by itself, without content", sse([*chat[:1], 'data: {"x":\ndata: {}\ndata: }', *chat[1:]]))
    streamed("chat, an object in a line by itself, between blanks", sse([*chat[:1], 'data: {"x":\ndata: \t {} \ndata: }', *chat[1:]]))
    streamed("chat, content in a line by itself, before a checkpoint, and no final token", sse([f'data: {{"x":\ndata: {more}\ndata: }}', chunk({"content": "Hello, "}, ai_provenance=tag(seal(point([leaf(0, "text", "Hello,")]))))], done=False))
    streamed("Responses, a delta in a line by itself", typed([*response[:2], f'data: {{"x":\ndata: {json.dumps(response[4])}\ndata: }}', *response[2:]]))
    streamed("Messages, a delta in a line by itself", typed([*message[:2], f'event: ping\ndata: {{"type":"ping","x":\ndata: {json.dumps(message[3])}\ndata: }}', *message[2:]]))
    for end, note in (("\r\n", "CR LF"), ("\r", "CR")):
        streamed(f"chat, content, {note}", sse(chat, end=end) + f"data: {more}{end}")
    streamed("chat, content that is not UTF-8", sse(chat).encode() + f"data: {more}\n".encode().replace(b" more", b"\xff"))
    streamed("chat, an object of 65 levels", sse(chat) + 'data: {"x":' + "[" * 64 + "]" * 64 + "}\n")
    streamed("completions, text", sse(older) + 'data: {"choices":[{"index":0,"text":" more"}]}\n')
    for kind in ("response.output_text.delta", "response.failed", "error"):
        sent = said(kind.removeprefix("response."), output_index=0, content_index=0, delta=" more") if kind.endswith("delta") else {"type": kind, "response": {}}
        streamed(f"Responses, an event of type {kind}", typed(response) + f"data: {json.dumps(sent)}\n")
    for at, note in ((1, "a block that begins twice"), (3, "a delta")):
        streamed(f"Messages, {note}", typed(message) + f"event: {message[at]['type']}\ndata: {json.dumps(message[at])}\n")
    streamed("Messages, a delta without a name", typed(message) + f"data: {json.dumps(message[3])}\n")
    streamed("Messages, an error", typed(message) + 'event: error\ndata: {"type":"error","error":{"message":"x"}}\n')


def bad_left_open() -> None:
    """What a pending token must be without a final one, and beside lines; and the form of a checkpoint."""
    both = {**trust(A.jwk(), EC.jwk()), OTHER: {"keys": json.dumps({"issuer": OTHER, "keys": [THEIRS.jwk()]})}}
    first, final = seal(pending()), seal(claims())
    alone: Table = [("x", "invalid", "no token at all"), (seal(pending(), EVIL), "undecidable", "an unknown key"), (seal(pending(), EVIL, kid=A.kid), "invalid", "a wrong signature"), (final, "invalid", "a final token"), (seal(pending(ver=2)), "undecidable", "another version")]
    for token, verdict, note in alone:
        vector("stream", sse(HELLO_EVENTS, done=False), verdict, rule="C7", note=f"no final token, and for a pending one {note}", token=token)
        vector("stream", typed([started(token), *TEXT_BLOCK]), verdict, rule="C12", note=f"no final token, and in message_start {note}")
        if verdict == "undecidable":  # without C14 and C15 the token that is not there would be `invalid` too
            vector("lines", '{"a":1}\n', verdict, rule="C14", note=f"no final token, and for a pending one {note}", pending=token)
            vector("messages", [b"\x0a\x01x"], verdict, rule="C15", note=f"no final token, and in initial metadata {note}", pending=token)
    vector("stream", typed([started(first), *TEXT_BLOCK]), "invalid", rule="C12", note="no final token, and another pending token in the header", token=seal(pending(jti="tok-9")))
    two = '{"a":1}\n{"b":2}\n'
    sealed = seal(over([leaf(0, "lines", two)], "ndjson-1"))
    beside: Table = [(seal(pending(rid="req-2")), "invalid", "another rid"), (seal(pending(sub="sub-2")), "invalid", "another sub"), (seal(pending(req=sha("x"))), "invalid", "another req"), (seal(pending(iss=OTHER), THEIRS), "invalid", "another trusted issuer"), (sealed, "invalid", "the final token itself"), (seal(point([], "ndjson-1")), "invalid", "a checkpoint"),
                     (seal(pending(), EVIL, kid=A.kid), "invalid", "a wrong signature"), (seal(pending(), EVIL), "undecidable", "an unknown key"), ("x", "invalid", "no token at all"), (seal(pending(ver=2)), "undecidable", "another version"), (first + "=", "invalid", "padding")]  # fmt: skip
    for token, verdict, note in beside:
        vector("lines", two + lines_of(token=sealed), verdict, rule="C14", note=f"a pending token was given beside a line with the tag: {note}", pending=token, trust=both)
        vector("lines", two, verdict, rule="C14", note=f"a pending token was given and the final one: {note}", token=sealed, pending=token, trust=both)
    for shown, note in ((two, "two lines"), ("", "no lines")):
        vector("lines", shown, "incomplete", rule="C14", note=f"a pending token and no final one: {note}", pending=first)
    vector("lines", two + '{"ai_provenance":{"token":"x"},"ai_provenance":{"token":"' + sealed + '"}}\n', "absent", rule="C14", note="neither beside nor in a line: the tag twice in one")

    half = [leaf(0, "text", "Hello,")]
    for proj in ("completions-1", "responses-1", "json-1", "grpc-1"):
        middle = chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half, proj))))
        vector("stream", sse([HELLO_EVENTS[0], middle, HELLO_EVENTS[2], last(final)]), "invalid", rule="C11", note=f"a checkpoint of {proj} in a stream of chat-1")
        vector("stream", sse([HELLO_EVENTS[0], middle], done=False), "invalid", rule="C11", note=f"a checkpoint of {proj} in a stream of chat-1, and no final token")
    for proj in ("json-1", "ndjson-1"):
        vector("stream", sse([{"id": "x", "ai_provenance": tag(seal(point([], proj)))}, *HELLO_EVENTS, last(final)]), "invalid", rule="C11", note=f"a checkpoint of {proj} before an event tells the form")
    good, late = chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half)))), chunk({"content": "world."}, ai_provenance=tag(seal(point(half))))
    vector("stream", sse([good, "data: [DONE]", late], done=False), "invalid", rule="C11", note="one checkpoint twice, the second time after [DONE], and no final token")
    leaves = [one for k, text in enumerate(("Hello", " world.")) for one in tensor_leaves("BYTES", "[1]", strings(text), choice=k)]
    messages = [streamed_reply(reply(output(shape=[1], contents=field(8, text)), token=seal(point(leaves[:4], "grpc-1")) if not k else None)) for k, text in enumerate(("Hello", " world."))]
    vector("infer-stream", messages, "invalid", rule="C11", note="infer: a checkpoint of grpc-1", token=seal(over(leaves, "infer-1")))
    for inner, note in ((CREATED, "the first event"), (said("in_progress", response=response_of([])), "another event")):
        nested = {**inner, "response": {**inner["response"], "ai_provenance": tag(seal(point([], "responses-1")))}}
        vector("stream", typed([nested, *text_events(), ended(seal(over(LEAVES, "responses-1")), [message_item(HELLO)])]), "invalid", rule="C4", note=f"responses: a checkpoint in the response of {note}")
        vector("stream", typed([nested, *text_events()]), "invalid", rule="C4", note=f"responses: a checkpoint in the response of {note}, and no final token")
    vector("stream", typed([started(), *TEXT_BLOCK, {"type": "x", "message": {"ai_provenance": tag(seal(point(LEAVES, "messages-1")))}}, *stopped(seal(over(LEAVES, "messages-1")))]), "invalid", rule="C4", note="messages: a checkpoint in the message of an event")
    checkpoint = sse([HELLO_EVENTS[0], good], done=False)
    how: Table = [("T13", {"exp": NOW - 1}, {}, "that expired"), ("T14", {"aud": "https://app.example"}, {}, "for an audience that nobody expects"), ("T14", {}, {"audience": "https://app.example"}, "for no audience where one is expected"), ("T15", {}, {"nonce": "n-1"}, "without the nonce"), ("T16", {}, {"request": REQUEST + " ", "salt": SALT_TEXT}, "for another request")]
    for rule, claimed, more, note in how:
        middle = chunk({"content": "Hello, "}, ai_provenance=tag(seal(point(half, **claimed))))
        vector("stream", sse([HELLO_EVENTS[0], middle], done=False), "incomplete", rule=rule, note=f"a checkpoint {note} proves nothing", **more)
    _, older, _, message = name_streams()
    for kind in ("error", "response.failed"):
        vector("stream", sse([*HELLO_EVENTS, last(final), {"type": kind}]), "invalid", rule="C5", note=f"an event of type {kind} without an error after the token")
        vector("stream", sse([*older, {"type": kind}]), "invalid", rule="C5", note=f"completions: an event of type {kind} after the token")
        vector("stream", typed([*message, {"type": kind}]), "invalid", rule="C5", note=f"messages: an event of type {kind} without an error after the token")
    vector("stream", checkpoint, "incomplete", rule="C11", note="a checkpoint for the request, and no final token", request=REQUEST, salt=SALT_TEXT, proven=f"{len(checkpoint)} bytes")


def cut_dialects() -> Json:
    """Recorded streams of every form, with checkpoints: where each of their events with a token ends, and what a cut behind it proves."""
    first = seal(pending())
    half = [leaf(0, "text", "Bonjour \U0001f600")]
    whole = [leaf(0, "text", "Bonjour \U0001f600 monde.")]
    texts = ("Bonjour \ud83d", "\ude00 ", "monde.")
    mark = lambda proj, leaves=None: {"ai_provenance": tag(seal(point(half if leaves is None else leaves, proj)))}  # noqa: E731 - a table's shorthand
    chat = [": ping", chunk({"content": texts[0]}), chunk({"content": texts[1]}, **mark("chat-1")), ": ping", chunk({"content": texts[2]}, **mark("chat-1", whole)), last(seal(claims(whole))), USAGE_EVENT, "data: [DONE]"]
    older = [legacy(texts[0]), {**legacy(texts[1]), **mark("completions-1")}, legacy(texts[2]), legacy("", ai_provenance=tag(seal(over(whole, "completions-1")))), "data: [DONE]"]
    where = {"output_index": 0, "content_index": 0}
    text = "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    called = sorted([leaf(1, "arguments", "{}"), leaf(1, "name", "f")])
    response = [
        CREATED, said("output_item.added", output_index=0, item=message_item(status="in_progress")), said("output_text.delta", **where, delta=texts[0]), {**said("output_text.delta", **where, delta=texts[1]), **mark("responses-1")},
        said("output_text.delta", **where, delta=texts[2]), said("output_text.done", **where, text=text), said("output_item.done", output_index=0, item=message_item(text)),
        {**said("output_item.added", output_index=1, item=call_item("f", "")), **mark("responses-1", [*whole, leaf(1, "name", "f")])}, said("function_call_arguments.delta", output_index=1, delta="{}"),
        ended(seal(over([*whole, *called], "responses-1")), [message_item(text), call_item("f", "{}")]),
    ]  # fmt: skip
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    message = [
        started(first), begin({"type": "text", "text": ""}), {"type": "ping"}, delta("text_delta", text=texts[0]), {**delta("text_delta", text=texts[1]), **mark("messages-1")}, delta("text_delta", text=texts[2]), begin(tool, 1),
        {**delta("input_json_delta", 1, partial_json='{"a":'), **mark("messages-1", [*whole, [1, "input", None], leaf(1, "name", "f")])}, delta("input_json_delta", 1, partial_json="1}"),
        *stopped(seal(over([*whole, leaf(1, "input", '{"a":1}'), leaf(1, "name", "f")], "messages-1"))), {"type": "ping"},
    ]  # fmt: skip
    made: Json = {"trust": trust(), "now": NOW, "token": first, "streams": []}
    for name, write_events, events in (("chat-1", sse, chat), ("completions-1", sse, older), ("responses-1", typed, response), ("messages-1", typed, message)):
        for end, ends in (("\n", "LF"), ("\r\n", "CR LF")):
            how = {"end": end, **({"done": False} if write_events is sse else {})}
            upto = [len(write_events(events[: at + 1], **how).encode()) for at in range(len(events))]
            marks = [at for at, event in enumerate(events) if isinstance(event, dict) and ("ai_provenance" in event or "ai_provenance" in (event.get("response") or {}))]
            places = [{"event_ends_at": upto[at] - (len(end) - 1), "proven_bytes": upto[at]} for at in marks]
            stream = {"form": name, "line_ends": ends, "content": write_events(events, **how), "checkpoints": places[:-1], "token_event_ends_at": places[-1]["event_ends_at"]}
            made["streams"].append({**stream, **({"pending_event_ends_at": upto[0] - (len(end) - 1)} if name == "messages-1" else {})})
    return made


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


def make() -> dict[str, Any]:
    """Every file of the vectors, by its name under ``v1``."""
    for part in (token_form, token_keys, token_claims, token_demands, projection_form, projection_leaves, carriers, key_sets, good_bodies, good_tokens, good_streams, histories, receipts, good_dialects, bad_dialects):
        part()
    files: dict[str, Any] = {"good.json": {"format": 1, "vectors": GOOD}, "cut_stream.json": {"format": 1, **cut_stream()}, "cut_dialects.json": {"format": 1, **cut_dialects()}}
    return files | {f"bad/{rule}.json": {"format": 1, "rule": rule, "vectors": vectors} for rule, vectors in BAD.items()}


if __name__ == "__main__":
    for name, value in make().items():
        write(OUT / name, value)
