"""Who is behind a token: the tokens of the settings, and those of the database, held in memory for a few seconds."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from service.core.api_token import Role, digest_of, is_api_token
from service.errors import StorageError, StorageUnavailable
from service.runtime.runtime import Runtime
from service.storage import tokens
from service.storage.engine import begin
from service.storage.tokens import ApiToken

#: How long a revoked token may still be accepted. A new one is found at once.
MAX_AGE: Final = timedelta(seconds=5)
#: For how long nobody asks a database that has just not answered.
_PAUSE: Final = timedelta(seconds=1)
_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. A token that was rotated has the same `name` as the one before, and another `key`."""

    key: str
    name: str
    role: Role
    digest: bytes
    token_id: UUID | None = None  #: None for a token of the settings
    requests_per_minute: int | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def ended(self, now: datetime) -> str | None:
        """Why the token is no longer valid, for people; None if it is."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return f"was revoked at {self.revoked_at:%Y-%m-%d %H:%M:%SZ}"
        if self.expires_at is not None and self.expires_at <= now:
            return f"expired at {self.expires_at:%Y-%m-%d %H:%M:%SZ}"
        return None


class Callers:
    """The known tokens of one process. `given` are those of the settings by name, which are admin tokens."""

    def __init__(self, rt: Runtime, given: Mapping[str, SecretStr]) -> None:
        self._rt = rt
        self.given = tuple(
            Caller(key=f"settings:{name}", name=name, role=Role.ADMIN, digest=digest_of(token.get_secret_value()))
            for name, token in given.items()
            if token.get_secret_value()
        )
        self._of_settings = _indexed(self.given)
        self._of_database: dict[str | bytes, Caller] = {}
        self._lock = asyncio.Lock()
        self._loads = 0
        self._loaded_at: datetime | None = None
        self._failed_at: datetime | None = None

    async def find(self, token: str, *, without_database: bool = False) -> Caller | None:
        """The holder of a token, which may have ended; None if it is nobody's.

        Raises `StorageUnavailable` if the database does not answer; with `without_database`, what was known last counts.
        """
        digest = digest_of(token)
        if digest in self._of_settings or not is_api_token(token):  # no token of the database looks otherwise
            return self._of_settings.get(digest)
        loads = self._loads
        await self._refresh(without_database=without_database)
        if digest not in self._of_database:  # it may have been created just now
            await self._load(loads, without_database=without_database)
        return self._of_database.get(digest)

    async def by_key(self, key: str) -> Caller | None:
        """The holder of the token with this key, while it is valid; what goes on for long asks again. Raises as `find`."""
        if key in self._of_settings:
            return self._of_settings[key]
        await self._refresh(without_database=False)
        found = self._of_database.get(key)
        return None if found is None or found.ended(self._rt.clock.now()) else found

    def forget(self) -> None:
        """Load the tokens of the database again before the next request: they have changed."""
        self._loaded_at = None

    async def _refresh(self, *, without_database: bool) -> None:
        now = self._rt.clock.now()
        if self._loaded_at is None or not timedelta() <= now - self._loaded_at < MAX_AGE:
            await self._load(self._loads, without_database=without_database)

    async def _load(self, loads: int, *, without_database: bool) -> None:
        """Load the tokens, unless another request has done so since `loads`."""
        async with self._lock:
            if self._loads == loads:
                try:
                    await self._load_now()
                except StorageError:
                    if not without_database:
                        raise

    async def _load_now(self) -> None:
        now = self._rt.clock.now()
        if self._failed_at is not None and timedelta() <= now - self._failed_at < _PAUSE:
            raise StorageUnavailable("the API tokens cannot be read: the database does not answer")
        try:
            async with asyncio.timeout(_TIMEOUT), begin(self._rt.engine) as conn:
                found = await tokens.current(conn, now=now)
        except (TimeoutError, StorageError) as error:
            self._failed_at = now
            raise StorageUnavailable(f"the API tokens cannot be read: {str(error) or 'the database is busy'}") from None
        self._of_database = _indexed(map(_caller, found))
        self._failed_at, self._loaded_at = None, now
        self._loads += 1


def _indexed(callers: Iterable[Caller]) -> dict[str | bytes, Caller]:
    """Callers by the digests and by the keys of their tokens."""
    return {name: one for one in callers for name in (one.digest, one.key)}


def _caller(one: ApiToken) -> Caller:
    return Caller(
        key=str(one.token_id),
        name=one.name,
        role=one.role,
        digest=one.digest,
        token_id=one.token_id,
        requests_per_minute=one.requests_per_minute,
        expires_at=one.expires_at,
        revoked_at=one.revoked_at,
        last_used_at=one.last_used_at,
    )
