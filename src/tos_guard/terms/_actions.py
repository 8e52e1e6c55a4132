"""The actions that clauses speak of. Terms may declare further ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["ACTIONS", "Action", "Scope"]


class Scope(StrEnum):
    """When an action happens: with the request, or later with its output."""

    REQUEST = "request"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Action:
    """Something that may be permitted, prohibited or required.

    Attributes:
        id: Its name in clauses and routes.
        scope: Clauses on the request are evaluated for each; clauses on later use are carried by the token.
        text: What it means, in a sentence.
    """

    id: str
    scope: Scope
    text: str


ACTIONS: Final = {
    action.id: action
    for action in (
        Action("generate", Scope.REQUEST, "Ask a model for text, tool calls or structured output."),
        Action("embed", Scope.REQUEST, "Ask a model for embeddings."),
        Action("classify", Scope.REQUEST, "Ask a model for scores or labels."),
        Action("fine-tune", Scope.REQUEST, "Train a model of the provider on own data."),
        Action("batch", Scope.REQUEST, "Hand in many requests as one file."),
        Action("train-model", Scope.OUTPUT, "Use output to change the parameters of any model."),
        Action("train-competing-model", Scope.OUTPUT, "Use output to train a model that competes with the provider."),
        Action("distil", Scope.OUTPUT, "Train a model to imitate the provider's model."),
        Action("evaluate", Scope.OUTPUT, "Measure a model by its output, and publish the result."),
        Action("extract-automatically", Scope.OUTPUT, "Collect output by automated means outside the API."),
        Action("resell", Scope.OUTPUT, "Sell access or output without adding to it."),
        Action("remove-provenance", Scope.OUTPUT, "Strip or alter provenance tags or marks."),
        Action("mislead-about-origin", Scope.OUTPUT, "Present output as made by a person."),
        Action("use-as-input", Scope.OUTPUT, "Feed output to a model as input: retrieval, grounding, agents."),
        Action("publish", Scope.OUTPUT, "Show output to others."),
    )
}
"""The vocabulary of every terms document."""
