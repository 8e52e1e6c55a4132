"""A provider whose terms are to be accepted, as a folder: what tests of the routes for people start from on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from provisioned import Provider
from tos_guard.rights import AuthorizedPerson, Organization

CHAT: Final = "/v1/chat/completions"
QUESTION: Final = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello?"}]}
JANE: Final = "jane@acme.example"
EXAMPLES: Final = Path(__file__).parents[1] / "examples" / "terms"


def provided(folder: Path, *settings: str) -> Provider:
    """A provider whose terms are to be accepted, with an organization and its contract."""
    document = (EXAMPLES / "sample-2026-11.toml").read_text().replace('text = "', 'acceptance = "required"\ntext = "', 1)
    (folder / "terms.toml").write_text(document)
    (folder / "sample-2026-11.md").write_text((EXAMPLES / "sample-2026-11.md").read_text())
    provider = Provider(folder, terms=folder / "terms.toml")
    lines = "\n".join(('account_routes = "/account"', *settings))
    provider.settings.write_text(provider.settings.read_text().replace("[sources]", f"{lines}\n\n[sources]", 1))
    with provider.store() as store:
        store.add_organization(
            Organization(id="acme-corp", name="Acme", authorized=(AuthorizedPerson(id=JANE, authority="general counsel"),))
        )
        good = store.by_id("good")
        assert good is not None
        store.add_account(good.model_copy(update={"id": "acme", "organization": "acme-corp"}))
    return provider
