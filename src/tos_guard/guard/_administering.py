"""Who administers: the host's word, or a key of an administrator in the store."""

from __future__ import annotations

from typing import Final

from tos_guard.guard._admitting import Admitting, credential_of
from tos_guard.guard._needs import Ask, AskHost, RequestView, Steps
from tos_guard.guard._refusals import unauthenticated
from tos_guard.rights import hash_secret, parse_admin_key

__all__ = ["Administering"]

MAX_NAME_CHARS: Final = 200  # a name stands beside each change in histories


class Administering(Admitting):
    """The step before anything is administered."""

    def authenticate_admin(self, view: RequestView) -> Steps[str]:
        """The name of the administrator who asks.

        Raises:
            AuthenticationError: It is nobody who may administer; one text for all.
            StoreError: The store did not answer, or the host's own code failed.
        """
        self.keep_up()
        if (authorize := self._authorize_admin) is not None:
            name = yield AskHost("authorize_admin=", lambda: authorize(view))
        else:
            name = yield from self._admin_of_key(view)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
            raise unauthenticated()
        return name

    def _admin_of_key(self, view: RequestView) -> Steps[str | None]:
        credential, store = credential_of(view), self.store
        if credential is None or credential.is_dpop or store is None:
            return None
        public_id, secret = parse_admin_key(credential.text)
        hashed = hash_secret(secret, self._pepper)
        name: str | None = yield Ask(lambda: store.admin_by_key(public_id, hashed))
        return name
