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


def vector(kind: str, data: str | bytes, verdict: str = "valid", /, *, rule: str = "", note: str, also: list[str] | None = None, **more: Any) -> None:
    """File one vector; `more` holds trust, now and the arguments of the verification."""
    terminator = more.pop("terminator", "present" if kind == "stream" and verdict == "valid" else None)
    found = BAD.setdefault(rule, []) if rule else GOOD
    made: Json = {"id": f"{rule or 'good'}-{len(found) + 1:02}", "rule": rule or None, **({"also": also} if also else {}), "note": note, "kind": kind}
    if isinstance(data, bytes):
        made["content_b64"] = base64.b64encode(data).decode()
    else:
        made["content"] = data
    made |= {"trust": trust(), "now": NOW, **more, "expected": {"verdict": verdict, **({"terminator": terminator} if terminator else {})}}
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
    streamed("a tail that no blank line ends", sse(hello) + "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"more\"}}]}\n")
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


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


def make() -> dict[str, Any]:
    """Every file of the vectors, by its name under ``v1``."""
    for part in (token_form, token_keys, token_claims, token_demands, projection_form, projection_leaves, carriers, key_sets, good_bodies, good_tokens, good_streams, histories, receipts):
        part()
    files: dict[str, Any] = {"good.json": {"format": 1, "vectors": GOOD}, "cut_stream.json": {"format": 1, **cut_stream()}}
    return files | {f"bad/{rule}.json": {"format": 1, "rule": rule, "vectors": vectors} for rule, vectors in BAD.items()}


if __name__ == "__main__":
    for name, value in make().items():
        write(OUT / name, value)
