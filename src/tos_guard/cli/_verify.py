"""`tos-guard verify`: offline, against keys the caller pinned. Its exit code is the verdict's (`tos_guard.errors.EXIT_CODES`)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tos_guard.cli._arguments import JSONOption, now, parse_moment, read_input
from tos_guard.cli._output import show, show_json
from tos_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from tos_guard.cli._outcome import Outcome
    from tos_guard.cli._receipts import ReceiptOutcome

__all__ = ["verify"]

_MAX_TOKEN_FILE_BYTES: Final = 65_536  # far beyond any token, so that a wrong file is refused for its form and not echoed


class As(StrEnum):
    """What the input is."""

    AUTO = "auto"
    BODY = "body"
    STREAM = "stream"
    LINES = "lines"
    TEXT = "text"
    RECEIPT = "receipt"


def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Saved response body, stream, lines or text, or a receipt; - for stdin.")],
    keys: Annotated[
        list[str] | None,
        typer.Option("--keys", metavar="FILE", help="Keys you trust: a key set, or a key history; repeat it for more."),
    ] = None,
    history_key: Annotated[
        str | None, typer.Option("--history-key", metavar="FILE", help="Key set with the key that signs the key history.")
    ] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="ORIGIN", help="The issuer you trust these keys for.")] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="Value of the header AI-Provenance, or the token fetched by request id; @FILE reads it from a file.",
        ),
    ] = None,
    headers: Annotated[
        str | None,
        typer.Option("--headers", metavar="FILE", help="Saved response headers (curl -D), which hold token, salt and digest."),
    ] = None,
    leaves: Annotated[
        str | None, typer.Option("--leaves", metavar="FILE", help="Leaves that stood beside the token (JSON); for a text alone.")
    ] = None,
    form: Annotated[
        As, typer.Option("--as", help="What FILE is; a JSON object is a body, several are lines, server-sent events a stream.")
    ] = As.AUTO,
    choice: Annotated[int | None, typer.Option("--choice", metavar="N", min=0, help="The choice that a text must be.")] = None,
    request: Annotated[str | None, typer.Option("--request", metavar="FILE", help="Request body as sent; needs the salt.")] = None,
    salt: Annotated[str | None, typer.Option("--salt", metavar="SALT", help="Value of the header AI-Provenance-Salt.")] = None,
    audience: Annotated[str | None, typer.Option("--audience", metavar="NAME", help="The audience it must be made for.")] = None,
    nonce: Annotated[str | None, typer.Option("--nonce", metavar="NONCE", help="The nonce you sent.")] = None,
    content_digest: Annotated[
        str | None, typer.Option("--content-digest", metavar="VALUE", help="Value of the header Content-Digest; for an unchanged body.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Judge as of this moment; otherwise the present.")] = None,
    accept_policy: Annotated[
        list[str] | None, typer.Option("--accept-policy", metavar="SHA256", help="Usage policy you accept; repeat it for more.")
    ] = None,
    terms: Annotated[
        str | None,
        typer.Option("--terms", metavar="FILE", help="Terms that a receipt must be of: as published (JSON), or their TOML file."),
    ] = None,
    terms_text: Annotated[
        str | None, typer.Option("--terms-text", metavar="FILE", help="Text of the terms that a receipt must be of.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="KIND:ID", help="For whom a receipt must be: account:ID or organization:ID.")
    ] = None,
    person: Annotated[str | None, typer.Option("--person", metavar="ID", help="By whom a receipt must be.")] = None,
    as_json: JSONOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write nothing; the exit code says it all.")] = False,
) -> int:
    """Verify a saved response or a receipt offline, against keys you pinned.

    Exits 0 if it is valid, 1 if it was altered or cut, 2 if this command cannot be carried out, 3 if nothing can be decided (no trusted
    key, say), 4 if it is genuine but not what you demanded, 5 if it carries no tag.
    """
    from tos_guard.cli._judgement import Question, judge, read_trust
    from tos_guard.cli._receipts import ReceiptQuestion, expected_receipt, is_receipt, judge_receipt, read_terms

    data = read_input(file)
    moment = now() if at is None else parse_moment(at, where="--at")
    trust = read_trust(
        [(f"--keys {name}", read_input(name, what="--keys")) for name in keys or ()],
        history_key=None if history_key is None else read_input(history_key, what="--history-key"),
        issuer=issuer,
    )
    if form is As.RECEIPT or (form is As.AUTO and is_receipt(data)):
        of_responses = [
            *(("--token", token), ("--headers", headers), ("--leaves", leaves), ("--choice", choice), ("--request", request)),
            *(("--salt", salt), ("--audience", audience), ("--nonce", nonce), ("--content-digest", content_digest)),
            ("--accept-policy", accept_policy or None),
        ]
        _refuse(of_responses, "a receipt")
        document, words = read_terms(terms, terms_text)
        expected = expected_receipt(subject, person)
        asked = ReceiptQuestion(name=file, data=data, terms=document, text=words, expected=expected, at=moment)
        return _told(judge_receipt(asked, trust), as_json=as_json, quiet=quiet)
    _refuse([("--terms", terms), ("--terms-text", terms_text), ("--subject", subject), ("--person", person)], "a response")
    question = Question(
        name=file,
        data=data,
        form=form.value,
        headers=None if headers is None else read_input(headers, what="--headers"),
        token=_token(token),
        salt=salt,
        content_digest=content_digest,
        leaves=None if leaves is None else read_input(leaves, what="--leaves"),
        choice=choice,
        request=None if request is None else read_input(request, what="--request"),
        audience=audience,
        nonce=nonce,
        policies=tuple(accept_policy) if accept_policy else None,
        at=moment,
    )
    return _told(judge(question, trust), as_json=as_json, quiet=quiet)


def _refuse(options: Iterable[tuple[str, object]], what: str) -> None:
    """Refuse options that say nothing of what was given: to pass over one would look like a check."""
    for option, value in options:
        if value is not None:
            raise ConfigurationError(f"does not fit {what}", where=option, cure="Leave it out, or say with --as what the input is.")


def _told(outcome: Outcome | ReceiptOutcome, *, as_json: bool, quiet: bool) -> int:
    if as_json and not quiet:
        show_json(outcome.to_document())
    elif not quiet:
        show(*outcome.to_lines())
    return outcome.exit_code


def _token(given: str | None) -> str | None:
    """The token of the option: itself, or the content of a file."""
    if given is None or not given.startswith("@"):
        return given
    return read_input(given[1:], what="--token")[:_MAX_TOKEN_FILE_BYTES].decode("utf-8", "replace").strip()
