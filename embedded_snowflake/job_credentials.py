"""Passwords that the server makes for its jobs: one each, good while the job runs.

A job never sees the user's password, and what it leaves open, such as a transaction of a killed worker, ends with it.
"""

from __future__ import annotations

import secrets
import threading


class JobCredentials:
    """The passwords in force and the sessions that were opened with each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, list[str]] = {}
        self._jobs: dict[str, str] = {}

    def issue(self, job: str) -> str:
        """A new password for the job with this key."""
        password = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[password] = []
            self._jobs[password] = job
        return password

    def job_of(self, password: str) -> str | None:
        """The key of the job whose password it is, None where it is nobody's."""
        with self._lock:
            found = [
                job for known, job in self._jobs.items() if secrets.compare_digest(password.encode(), known.encode())
            ]
        return found[0] if found else None

    def opened(self, password: str, token: str) -> bool:
        """Remember the session that was opened with this password. False where it was revoked meanwhile."""
        with self._lock:
            if password not in self._tokens:
                return False
            self._tokens[password].append(token)
            return True

    def revoke(self, password: str) -> list[str]:
        """The password is good no more; the tokens of the sessions opened with it."""
        with self._lock:
            self._jobs.pop(password, None)
            return self._tokens.pop(password, [])
