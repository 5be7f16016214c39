"""Sessions in the database, as Django keeps them. What the playground opened in one ends with it, however it ends."""

from __future__ import annotations

from django.contrib.sessions.backends import db
from django.db import transaction

from accounts.models import AccessToken
from accounts.playground import session_digest


class SessionStore(db.SessionStore):
    def delete(self, session_key: str | None = None) -> None:
        """Signing out, changing the password and signing in anew all come here."""
        ended = session_key or self.session_key
        with transaction.atomic():
            super().delete(session_key)
            if ended is not None:
                AccessToken.objects.close_playground(playground__session=session_digest(ended))
