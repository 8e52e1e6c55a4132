"""The examples of providers and of programs downstream of them run as their READMEs show, in processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from provider_fastapi.app import create_app
from provider_fastapi.replay import ReplayModel
from provider_grpc.text_pb2 import Prompt
from provider_grpc.text_pb2_grpc import TextStub
from provisioned import Provider
from serving import serve_app
from tos_guard.verify import Trust, parse_key_set
from tos_guard_fastapi import TosGuard
from tos_guard_grpc import ChannelChecks, verified, verified_channel

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GRPC_ISSUER = "https://api.example.com"


def run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command with the examples on the path, and what it said."""
    paths = os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


def tos_guard(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "tos_guard.cli", *arguments, cwd=cwd)


def absolute_paths() -> None:
    """What tests were given as relative paths holds in other folders too."""
    if found := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(path).resolve()) for path in found.split(os.pathsep) if path)


@dataclass
class Served:
    """A gRPC provider as its README sets it up, listening."""

    target: str
    folder: Path
    key: str

    @property
    def credential(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    @property
    def trust(self) -> Trust:
        return Trust.of(parse_key_set((self.folder / "keys.json").read_bytes()))


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The commands of examples/provider_grpc/README.md, one after another, on a copy of its folder."""
    absolute_paths()
    base = tmp_path_factory.mktemp("grpc")
    folder = base / "provider_grpc"
    shutil.copytree(EXAMPLES / "provider_grpc", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(EXAMPLES / "terms", base / "terms")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (tos-guard .*)$", readme, re.MULTILINE)
    assert len(commands) == 4
    said: dict[str, str] = {}
    for command in commands:
        words, _, file = command.partition(" > ")
        done = tos_guard(*shlex.split(words)[1:], cwd=folder)
        assert done.returncode == 0, done.stderr
        said[words] = done.stdout
        if file:
            (folder / file).write_text(done.stdout, encoding="utf-8")
    key = said["tos-guard accounts key reader"].strip()
    server = re.findall(r"^    PYTHONPATH=\.\. python (-m .*)$", readme, re.MULTILINE)
    assert len(server) == 1
    paths = os.pathsep.join([str(base), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, *shlex.split(server[0]), "--address", "127.0.0.1:0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield Served(line.removeprefix("listening on ").strip(), folder, key)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def downstream_grpc(served: Served, *, key: str | None = None, issuer: str = GRPC_ISSUER) -> subprocess.CompletedProcess[str]:
    options = ["--key", key or served.key, "--issuer", issuer, "--keys", str(served.folder / "keys.json")]
    return run(sys.executable, "-m", "downstream_grpc", served.target, *options, "Once upon a time")


def test_the_grpc_client_uses_what_is_proven(provider: Served) -> None:
    asked = downstream_grpc(provider)
    assert asked.returncode == 0, asked.stderr
    answer, completion, streamed, stream = asked.stdout.splitlines()
    assert answer == streamed.strip()
    for line, what in ((completion, "completion"), (stream, "stream")):
        assert line == f"  {what}: sealed by {GRPC_ISSUER} under terms 2026-11, model storyteller, train-ai=n, ai-use=y"


def test_the_grpc_client_says_why_it_was_refused(provider: Served) -> None:
    asked = downstream_grpc(provider, key="tg-nobody")
    assert (asked.returncode, asked.stdout) == (6, "")
    assert asked.stderr.startswith("refused: UNAUTHENTICATED: ")


@pytest.mark.parametrize("kind", ["Complete", "Stream", "Collect", "Chat"])
def test_each_kind_of_method_of_the_guarded_provider_is_proven(provider: Served, kind: str) -> None:
    proven = []
    checks = ChannelChecks(on_verified=lambda found, _: proven.append(found))
    prompts = [Prompt(text="Once upon a time", max_words=4), Prompt(text="and then")]
    with verified_channel(grpc.insecure_channel(provider.target), provider.trust, issuer=GRPC_ISSUER, checks=checks) as channel:
        ask = getattr(TextStub(channel), kind)
        request = iter(prompts) if kind in ("Collect", "Chat") else prompts[0]
        if kind in ("Stream", "Chat"):
            call = ask(request, metadata=provider.credential)
            assert [piece.text for piece in call if piece.text]
        else:
            _, call = ask.with_call(request, metadata=provider.credential)
        assert verified(call).request_checked
    assert [one.claims.model for one in proven] == ["storyteller"]


def test_what_the_grpc_provider_refuses_reaches_its_client_as_a_status(provider: Served) -> None:
    with verified_channel(grpc.insecure_channel(provider.target), provider.trust, issuer=GRPC_ISSUER) as channel:
        for request in (Prompt(), Prompt(text="x", max_words=9_999)):
            with pytest.raises(grpc.RpcError) as refused:
                TextStub(channel).Complete(request, metadata=provider.credential)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        unknown = channel.unary_unary("/text.v1.Text/Unknown")
        with pytest.raises(grpc.RpcError) as refused:
            unknown(b"", metadata=provider.credential)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The official openai client


class Late:
    """An application that is made once its address is known: the issuer is its own origin."""

    inner: object = None

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        await self.inner(scope, receive, send)  # type: ignore[operator]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """`provider_fastapi`, guarded, at its issuer's origin."""
    absolute_paths()
    late = Late()
    with serve_app(late, lifespan="off") as base:
        provided = Provider(tmp_path_factory.mktemp("chat"), issuer=base)
        app = create_app(ReplayModel())
        guard = TosGuard.from_file(provided.settings)
        guard.install(app)
        late.inner = app
        yield provided
        guard.guard.close_stores()


def downstream_openai(chat: Provider, evidence: Path, *options: str, key: str = "good") -> subprocess.CompletedProcess[str]:
    given = [f"{chat.issuer}/v1", "--key", chat.keys[key], "--evidence", str(evidence), *options]
    return run(sys.executable, "-m", "downstream_openai", *given, "Why do leaves turn yellow?")


def test_the_openai_program_uses_what_is_proven_and_its_evidence_proves_itself_later(chat: Provider, tmp_path: Path) -> None:
    asked = downstream_openai(chat, tmp_path)
    assert asked.returncode == 0, asked.stderr
    sealed = f"  sealed by {chat.issuer} under terms 2026-11: train-ai=n, ai-use=y"
    assert asked.stdout.splitlines().count(sealed) == 2
    (tmp_path / "keys.json").write_bytes(chat.key_set().to_bytes())
    readme = (EXAMPLES / "downstream_openai" / "README.md").read_text(encoding="utf-8")
    later = re.findall(r"tos-guard (verify) evidence/(\S+) --keys (\S+)", readme)
    assert [file for _, file, _ in later] == ["answer-1.json", "answer-2.sse"]
    for command, file, keys in later:
        judged = tos_guard(command, file, "--keys", keys, cwd=tmp_path)
        assert judged.returncode == 0, judged.stdout + judged.stderr
    first = tmp_path / "answer-1.json"
    first.write_bytes(first.read_bytes().replace(b'"content":"', b'"content":"Not ', 1))
    assert tos_guard("verify", "answer-1.json", "--keys", "keys.json", cwd=tmp_path).returncode == 1


def test_the_openai_program_uses_nothing_whose_tag_was_stripped(chat: Provider, tmp_path: Path) -> None:
    asked = downstream_openai(chat, tmp_path, "--through-gateway")
    assert (asked.returncode, asked.stdout) == (5, ""), asked.stderr
    assert asked.stderr.startswith("not used: body: carries no token")


def test_the_openai_program_says_why_it_was_refused(chat: Provider, tmp_path: Path) -> None:
    asked = downstream_openai(chat, tmp_path, key="suspended")
    assert asked.returncode == 6
    assert "suspended" in asked.stderr
