"""What type checkers see of the dependencies for FastAPI. Checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import Annotated, assert_type

from fastapi import Depends, FastAPI

from tos_guard import Admission
from tos_guard_fastapi import Requires, admission, requires

app = FastAPI()

assert_type(requires("fine-tune"), Requires)
requires(7)  # type: ignore[arg-type]  # an action is a word


@app.post("/v1/fine-tunes", dependencies=[Depends(requires("fine-tune"))])
async def on_the_route(admitted: Annotated[Admission, Depends(admission)]) -> str:
    assert_type(admitted, Admission)
    return admitted.request_id


@app.post("/v1/batches")
def as_an_argument(admitted: Annotated[Admission, Depends(requires("batch"))]) -> str:
    return admitted.account.id
