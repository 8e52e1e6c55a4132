"""Forms name their model as plainly as JSON does, or are refused; what we read, werkzeug reads alike."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.formparser import parse_form_data

from tos_guard.dialects import FileDialect, PlainDialect, RequestFacts, RequestHead
from tos_guard.dialects._forms import MAX_FIELDS, MAX_VALUE_BYTES, Form, parse_form
from tos_guard.errors import MalformedRequestError

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
PLAIN = PlainDialect(model="default", action="transcribe")


def head(content_type: str) -> RequestHead:
    return RequestHead("POST", "/x", content_type.split(";")[0].strip().lower(), [(b"content-type", content_type.encode())])


def part(name: str, value: bytes, *, extra: str = "", headers: str = "") -> bytes:
    return b"--b\r\nContent-Disposition: form-data; name=" + f'"{name}"{extra}\r\n{headers}\r\n'.encode() + value + b"\r\n"


def facts(body: bytes, content_type: str = MULTIPART) -> RequestFacts:
    return PLAIN.read_request(body, head(content_type))


FILE = part("file", b"RIFF\0\0--x\r\n\r\nWAVE", extra='; filename="a \xe9;.wav"', headers="Content-Type: audio/wav\r\n")


@pytest.mark.parametrize("dialect", [PLAIN, FileDialect(model="default")])
def test_a_form_names_its_model_and_its_counts(dialect: PlainDialect) -> None:
    body = FILE + part("model", b"big-1") + part("n", b"3") + part("max_tokens", b"70") + part("user", b"u") + b"--b--\r\n"
    found = dialect.read_request(body, head(MULTIPART))
    assert (found.model, found.choices, found.max_output_tokens, found.media_parts, found.end_user) == ("big-1", 3, 70, 1, "u")
    found = dialect.read_request(b"model=big%2D1&n=3&prompt=a+b&&max_tokens=70&user=u", head(URLENCODED + "; charset=UTF-8"))
    assert (found.model, found.choices, found.max_output_tokens, found.media_parts, found.end_user) == ("big-1", 3, 70, 0, "u")


def test_a_form_that_names_no_model_asks_for_that_of_the_route() -> None:
    assert facts(FILE + b"--b--").model == "default"
    assert facts(b"prompt=model", URLENCODED).model == "default"
    assert facts(b"", URLENCODED).model == "default"


def test_any_other_body_asks_for_it_too() -> None:
    for body in (b"", b"\0\0\0\x18ftypmp42", b"RIFF", b"\xff\xfb\x90"):
        assert facts(body, "video/mp4").model == "default"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_json_in_another_encoding_names_no_model_unseen(encoding: str) -> None:
    for text in ('{"model": "big"}', ' \n{"model": "big"}', '["a"]'):
        with pytest.raises(MalformedRequestError):
            facts(text.encode(encoding), "application/octet-stream")


def test_a_content_type_that_is_given_twice_is_refused() -> None:
    twice = RequestHead("POST", "/x", "", [(b"content-type", b"text/plain"), (b"content-type", MULTIPART.encode())])
    with pytest.raises(MalformedRequestError):
        PLAIN.read_request(part("model", b"big") + b"--b--", twice)


@pytest.mark.parametrize("name", ["prompt", "text", "input"])
def test_a_form_has_one_prompt(name: str) -> None:
    """Some servers make a list of fields of one name, and answer each; a long one is no matter."""
    assert facts(f"{name}=".encode() + b"x" * (MAX_VALUE_BYTES + 1), URLENCODED).choices == 1
    with pytest.raises(MalformedRequestError):
        facts(f"{name}=one&{name}=two".encode(), URLENCODED)


@pytest.mark.parametrize("name", ["model", "n", "best_of", "num_return_sequences", "candidateCount", "max_tokens", "n_predict", "user"])
def test_what_decides_or_counts_is_given_once_as_short_text(name: str) -> None:
    pair = f"{name}=1".encode()
    for body, content_type in (
        (pair + b"&" + pair, URLENCODED),
        (pair + b"&%" + b"%02x" % ord(name[0]) + pair[1:], URLENCODED),
        (f"{name}=".encode() + b"1" * (MAX_VALUE_BYTES + 1), URLENCODED),
        (part(name, b"1") * 2 + b"--b--", MULTIPART),
        (part(name, b"1") + part(name, b"1", extra='; filename="x"') + b"--b--", MULTIPART),
        (part(name, b"1", extra='; filename=""') + b"--b--", MULTIPART),
    ):
        with pytest.raises(MalformedRequestError, match="twice"):
            facts(body, content_type)


def test_other_fields_may_be_many_and_long() -> None:
    body = part("image[]", b"1", extra='; filename="1"') * 2 + part("prompt", b"x" * 100_000) + part("tag", b"") * 2 + b"--b--"
    assert facts(body).media_parts == 2


GOOD = part("model", b"small")
HIDDEN = b'Content-Disposition: form-data; name="model"\r\n\r\nbig'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        GOOD,  # cut
        GOOD + b"--b",
        GOOD + b"--b-",
        GOOD + b"--b--x",
        b"preamble\r\n" + GOOD + b"--b--",
        b"\r\n" + GOOD + b"--b--",
        part("a", b"x\n--b\r\n" + HIDDEN) + b"--b--",  # a boundary behind a bare line feed
        part("a", b"x\r--b\r\n" + HIDDEN) + b"--b--",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n--b\r\n' + HIDDEN + b"\r\n--b--",  # directly behind the headers
        b"--b \r\n" + HIDDEN + b"\r\n--b--",
        b"--b\r\n" + HIDDEN.replace(b"\r\n\r\n", b"\n\n") + b"\r\n--b--",
        b'--b\r\nContent-Disposition: form-data;\r\n name="model"\r\n\r\nbig\r\n--b--',  # folded
        b"--b\r\nContent-Disposition: form-data\r\n\r\nbig\r\n--b--",
        b'--b\r\nContent-Disposition: attachment; name="model"\r\n\r\nbig\r\n--b--',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="model"\r\n\r\nbig\r\n--b--',
        b"--b\r\n\r\nbig\r\n--b--",
        part("mo\\del", b"big") + b"--b--",
        part("a", b"big", extra='; name="model"') + b"--b--",
        part("a", b"big", extra="; name*=utf-8''model") + b"--b--",
        part("a", b"big", extra='; name*0="model"') + b"--b--",  # continued, as RFC 2231 has it: a form's reader takes it for the name
        part("a", b"big", extra="; name*0*=utf-8''model") + b"--b--",
        part("model", b"small", extra='; filename*0="a"') + b"--b--",
        part("a", b"big", extra='; filename="\\"; name="model"') + b"--b--",
        part("a", b"big", extra="; x") + b"--b--",
        part("model", b"Ymln", headers="Content-Transfer-Encoding: base64\r\n") + b"--b--",
        part("a", b"big", headers="Content-Type: multipart/mixed; boundary=c\r\n") + b"--b--",
        part("model", b"\xff") + b"--b--",
        part("a" * 9_000, b"") + b"--b--",
        part("a", b"") * (MAX_FIELDS + 1) + b"--b--",
        part("model", b"") + b"--b--",
        part("model", b"x" * 97) + b"--b--",
    ],
)
def test_a_form_that_servers_could_read_in_different_ways_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        facts(body)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b; boundary=c",
        'multipart/form-data; boundary=b; boundary*0="c"',
        "multipart/form-data; boundary=b; boundary*=utf-8''c",
        "multipart/form-data; boundary=b; charset=utf-7",
        "multipart/form-data; boundary=" + "b" * 71,
        'multipart/form-data; boundary="b',
        "multipart/form-data; boundary=b" + " " * 600,
    ],
)
def test_a_content_type_that_bounds_nothing_plainly_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedRequestError):
        facts(GOOD + b"--b--", content_type)


@pytest.mark.parametrize("body", [b"a=1;model=big", b"model=%ff", b"%ff=1", b"a&" * (MAX_FIELDS + 1)])
def test_fields_that_servers_could_part_or_decode_in_different_ways_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        facts(body, URLENCODED)
    with pytest.raises(MalformedRequestError):
        facts(b"model=a", URLENCODED + "; charset=utf-16")


def _werkzeug(body: bytes, content_type: str) -> list[tuple[str, str]]:
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    return list(parse_form_data(environ)[1].items(multi=True))


PIECES = st.sampled_from(
    [
        b"--b",
        b"--b--",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b'Content-Disposition: form-data; name="model"',
        b'Content-Disposition: form-data; name="a"; filename="f"',
        b"content-disposition:form-data;name=model",
        b'; name*0="model"',
        b"Content-Type: text/plain",
        b"; ",
        b"big",
        b"",
        b"model=big",
        b"&",
        b"=",
        b"+",
        b"%6d",
        part("model", b"big"),
        part("a", b"1"),
        FILE,
    ]
)


@given(st.lists(PIECES, max_size=8).map(b"".join), st.sampled_from([URLENCODED, MULTIPART]))
@example(part("model", b"big") + part("a", b"") + b"--b--", MULTIPART)
@example(b"mod%65l=b+g&a=%C3%A9", URLENCODED)
def test_what_we_read_in_a_form_werkzeug_reads_alike(body: bytes, content_type: str) -> None:
    try:
        form: Form = parse_form(body, content_type)
    except MalformedRequestError:
        return
    read = _werkzeug(body, content_type)
    names = [name for name, _ in read]
    for name in ("model", "n"):
        if names.count(name) > 1:
            assert name in form.repeated
        elif name in names:
            assert form.fields[name] == dict(read)[name]
