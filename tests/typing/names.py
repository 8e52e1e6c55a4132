"""What type checkers see of the package's lazy names. Checked by mypy and pyright, never run.

An error that a user must get is written as a `type: ignore` with its code: mypy complains when it is not needed.
"""

from __future__ import annotations

from typing import assert_type

import tos_guard
from tos_guard import TosGuardError, Verdict, VerificationError

assert_type(tos_guard.__version__, str)


def verdicts_are_words_and_not_booleans(error: VerificationError) -> Verdict:
    assert_type(error.verdict, Verdict)
    if error.verdict == "valid!":  # type: ignore[comparison-overlap]
        return "incomplete"
    return error.verdict


def errors_carry_what_where_and_cure(error: TosGuardError) -> tuple[str, str, str]:
    return error.what, error.where, error.cure


def a_name_that_does_not_exist_is_an_error() -> None:
    tos_guard.nothing  # type: ignore[attr-defined]  # noqa: B018 (the access is what is checked)
