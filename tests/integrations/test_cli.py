"""The installed command as a process: pipes, terminals, files no one should name, and a missing extra."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tos_guard.cli import main

COMMAND = [sys.executable, "-m", "tos_guard.cli"]
VECTORS = Path(__file__).parents[1] / "vectors" / "v1" / "good.json"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command in a folder with a good body and its keys."""
    vector = next(v for v in json.loads(VECTORS.read_bytes())["vectors"] if v["kind"] == "body" and "token" not in v)
    (tmp_path / "body").write_text(vector["content"])
    (tmp_path / "keys").write_text(next(iter(vector["trust"].values()))["keys"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOS_GUARD")}

    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        env = environment | options.pop("env", {})
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=env,
            capture_output="stdout" not in options,
            text=True,
            timeout=60,
            check=False,
            **options,
        )
        assert "Traceback" not in (done.stdout or "") + (done.stderr or "")
        return done

    return call


GOOD = ("verify", "body", "--keys", "keys", "--at", "1795000000")


def test_the_exit_code_reaches_the_shell(run: Run) -> None:
    assert run(*GOOD).returncode == 0
    assert run("verify", "body").returncode == 3
    assert run("verify", "missing").returncode == 2
    assert run("verify", "keys").returncode == 5


def test_the_script_is_the_module(run: Run, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("tos-guard")
    done = subprocess.run([script, *GOOD, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, run(*GOOD, "--json").stdout)


def test_data_goes_to_stdout_and_the_rest_to_stderr(run: Run) -> None:
    made = run("init", "p", "--issuer", "https://api.example.com")
    assert made.stdout.splitlines()[-1] == "guard.install(app)"
    assert "Made" in made.stderr
    key = run("accounts", "add", "acme", "--config", "p/tos-guard.toml") and run("accounts", "key", "acme", "--config", "p/tos-guard.toml")
    assert (len(key.stdout.split()), key.stdout[:3]) == (1, "tg-")


@pytest.mark.parametrize("env", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb"}, {"COLUMNS": "20"}])
def test_what_is_piped_is_plain(run: Run, env: dict[str, str]) -> None:
    done = run(*GOOD, env=env)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "passed  signature" in done.stdout


@pytest.mark.parametrize(("env", "coloured"), [({"NO_COLOR": "", "TERM": "xterm"}, True), ({"NO_COLOR": "1", "TERM": "xterm"}, False)])
def test_a_terminal_gets_colour_unless_it_asks_for_none(tmp_path: Path, run: Run, env: dict[str, str], coloured: bool) -> None:
    assert run  # made the files
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *GOOD], cwd=tmp_path, env=os.environ | env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
    os.close(ours)
    assert (b"\x1b[3" in shown or b"\x1b[1;3" in shown) is coloured
    assert "✓ passed".encode() in shown


def test_a_reader_that_leaves_changes_no_verdict(tmp_path: Path, run: Run) -> None:
    assert run
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([*COMMAND, "verify", "body"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (3, "")


def test_a_full_disk_under_stdout_is_one_line(run: Run) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("verify", "body", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_change_no_verdict(tmp_path: Path, run: Run, closed: str) -> None:
    assert run
    command = f"{sys.executable} -m tos_guard.cli verify body {closed}"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False).returncode == 3


HOSTILE = {
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nothing"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "broken": lambda path: path.symlink_to("/proc/self/mem"),
    "huge": lambda path: path.touch() or os.truncate(path, 1 << 40),
    "binary": lambda path: path.write_bytes(os.urandom(10_000)),
    "empty": lambda path: path.touch(),
}


COMMANDS = (
    ("verify", "hostile"),
    ("verify", "body", "--keys", "hostile"),
    ("verify", "body", "--headers", "hostile"),
    ("verify", "body", "--token", "@hostile"),
    ("inspect", "hostile"),
    ("terms", "check", "hostile"),
    ("terms", "show", "hostile"),
    ("keys", "list", "--config", "hostile"),
    ("accounts", "list", "--config", "hostile"),
)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_no_one_should_name_ends_in_one_line(
    run: Run, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run  # made the files
    monkeypatch.chdir(tmp_path)
    HOSTILE[kind](tmp_path / "hostile")
    for command in COMMANDS:
        code = main(command)
        out, err = capsys.readouterr()
        assert code in {0, 1, 2, 3, 5}, (command, err)
        assert "Traceback" not in out + err
        assert len(err.splitlines()) <= 2, command  # the note that there is no table, and the error
        if kind not in {"binary", "empty"}:
            assert (code, out) == (2, ""), (command, out)
    assert run("verify", "hostile").returncode in {2, 5}


@pytest.mark.parametrize("damage", [b"", b"\x00" * 5000, b'{"iss":1,"seq":"x","keys":{}}', b"[" * 100_000], ids=range(4))
def test_hostile_stores_and_keys_end_in_one_line(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--issuer", "https://api.example.com"]) == 0
    capsys.readouterr()
    for name, commands in (
        ("keys/registry.json", ("keys list", "keys rotate", "keys jwks")),
        ("tos-guard.db", ("accounts list", "records purge", "accounts add acme")),
    ):
        (tmp_path / name).write_bytes(damage)
        for command in commands:
            code = main(command.split())
            out, err = capsys.readouterr()
            assert code in ({2} if "key" in command else {0, 2}), (name, command, err)
            assert "Traceback" not in out + err
            assert len(err.splitlines()) <= 1 or code == 0


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['typer'] = None; from tos_guard.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "tos-guard[cli]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_verifying_loads_no_store_framework_or_network_client(tmp_path: Path, run: Run) -> None:
    assert run
    unwanted = {"httpx", "sqlite3", "tos_guard.stores", "tos_guard.guard", "fastapi", "rich.table"}
    code = (
        "import sys; from tos_guard.cli import main; code = main(sys.argv[1:]);"
        f"loaded = {unwanted} & set(sys.modules); sys.exit(str(loaded) if loaded else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *GOOD], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
