"""What type checkers see of the decorator and the proxy for Flask. Checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import assert_type

from flask import Flask

from tos_guard import Admission
from tos_guard_flask import TosGuard, current_admission, requires

app = Flask(__name__)
guard = TosGuard(app)

assert_type(current_admission, Admission)
requires(7)  # type: ignore[arg-type]  # an action is a word


@app.post("/v1/fine-tunes/<int:number>")
@requires("fine-tune")
def fine_tune(number: int) -> dict[str, int]:
    assert_type(current_admission.account.id, str)
    return {"number": number}


assert_type(fine_tune(3), dict[str, int])
fine_tune("3")  # type: ignore[arg-type]  # the decorator keeps the view's own types
