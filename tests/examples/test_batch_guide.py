"""What docs/guides/batch.md shows is what the library does: its programs run, over files of a provider."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from provisioned import Provider, now
from tos_guard.config import parse_settings
from tos_guard.guard import MAX_BATCH_LINES, Guard
from tos_guard.guard._batch import MAX_ID_CHARS
from tos_guard.verify import verify_body

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "batch.md").read_text(encoding="utf-8")


def line(custom_id: str, model: str = "smollm2-135m") -> str:
    body = {"model": model, "messages": [{"role": "user", "content": custom_id}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    message = {"role": "assistant", "content": f"You said {body['messages'][0]['content']}"}
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def test_the_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of the input is answered once, each answer proves itself, and what is closed cannot be opened again."""
    first, again = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    provider = Provider(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("input.jsonl").write_text("\n".join([line("a"), line("b", "else"), "{", line("c")]))
    names: dict[str, Any] = {"answer": answer}
    exec(compile(first.replace('"acme"', '"good"'), "batch.md", "exec"), names)
    output = [json.loads(each) for each in Path("output.jsonl").read_bytes().splitlines()]
    assert sorted(str(each["custom_id"]) for each in output) == ["None", "a", "b", "c"]
    for each in output:
        if each["response"] is not None and each["response"]["status_code"] == 200:
            proven = verify_body(json.dumps(each["response"]["body"]).encode(), trust=provider.trust(), now=now())
            assert proven.claims.rid == each["response"]["request_id"]
    guard = Guard.from_file("tos-guard.toml")
    with pytest.raises(Exception, match="no open batch"):
        exec(compile(again.replace('"acme"', '"good"'), "batch.md", "exec"), {"guard": guard})
    opened = guard.run(guard.open_batch("good", "/v1/chat/completions", [line("d").encode()], batch_id="batch-8"))
    names = {"guard": guard}
    exec(compile(again.replace('"acme"', '"good"').replace("batch-7", "batch-8"), "batch.md", "exec"), names)
    assert [each.custom_id for each in names["batch"].lines] == [each.custom_id for each in opened.lines] == ["d"]
    guard.close_stores()


def test_the_bounds_are_those_of_the_guide() -> None:
    assert f"{MAX_BATCH_LINES:,}th" in GUIDE
    assert f"1 to {MAX_ID_CHARS} printable" in GUIDE


def test_the_settings_of_stored_responses_are_settings() -> None:
    """stored.md: the example is read without an error."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "stored.md"
    (shown,) = re.findall(r"```toml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    head = 'issuer = "https://a.example"\nterms = "t.toml"\nstore = "s.db"\nkeys = "k"\n'
    settings = parse_settings((head + shown).encode())
    assert [route.idempotent for route in settings.routes.values()] == [True, False, False, True, False]
    assert (settings.retention.kept_seal, settings.retention.idempotency) == (30, 1)
