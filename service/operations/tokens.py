"""API tokens: create, change, rotate and revoke them. Each change is an action on record, in the same transaction."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from msgspec.structs import replace
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core.api_token import RANDOM, Role, digest_of, mint_api_token
from service.core.create_body import Part
from service.core.duration import Duration
from service.core.ids import FLEET
from service.core.submission import TEN_YEARS
from service.core.token_limits import TokenLimits
from service.errors import FieldError, Invalid, NotFound
from service.runtime.runtime import Runtime
from service.storage import actions, tokens
from service.storage.actions import Action
from service.storage.engine import transact
from service.storage.tokens import ApiToken

#: Valid tokens at a time: each daemon holds all of them in memory.
MOST_TOKENS: Final = 1000
#: Seconds that the old token stays valid after a rotation, unless said otherwise.
GRACE: Final = 86_400.0
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]*$"


class TokenRequest(TokenLimits):
    """The body of `POST /v1/tokens`."""

    name: str = Field(max_length=64, pattern=_NAME, description="who uses it; goes on record with all it does")
    role: Role = Field(strict=False, description="what it may do")
    lifetime: Duration | None = Field(default=None, gt=0, le=TEN_YEARS, description="when it expires; null for never")


class TokenChange(TokenLimits):
    """The body of `PATCH /v1/tokens/{name}`: what is left out stays as it is."""


class TokenRotation(Part):
    """The body of `POST /v1/tokens/{name}/rotate`."""

    grace: Duration = Field(default=GRACE, ge=0, le=TEN_YEARS, description="for how long the old token stays valid")
    lifetime: Duration | None = Field(
        default=None,
        gt=0,
        le=TEN_YEARS,
        description="when the new one expires; null for as long as the old one was to live",
    )


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token, shown this once, and what is stored of it."""

    token: str
    stored: ApiToken


async def create(rt: Runtime, wanted: TokenRequest, *, caller: str, taken: Sequence[str] = ()) -> NewToken:
    """Create a token. `taken` are names of the settings. Raises `Invalid` if a valid token has the name."""
    if wanted.name in taken:
        raise Invalid([FieldError("name", "is the name of a token in ROLLCALL_API_TOKENS")])
    return await transact(rt.engine, partial(_create, rt, wanted, caller, mint_api_token(secrets.token_bytes(RANDOM))))


async def rotate(rt: Runtime, name: str, wanted: TokenRotation, *, caller: str) -> NewToken:
    """Create a token with the same name, role and limit; the old one stays valid for the grace. Raises `NotFound`."""
    return await transact(
        rt.engine, partial(_rotate, rt, name, wanted, caller, mint_api_token(secrets.token_bytes(RANDOM)))
    )


async def change(rt: Runtime, name: str, wanted: TokenChange, *, caller: str) -> list[ApiToken]:
    """Change the limits of all valid tokens of a name. Returns them. Raises `NotFound` if there are none."""
    if not wanted.model_fields_set:
        raise Invalid([FieldError("body", f"must hold one of {', '.join(TokenLimits.model_fields)}")])
    return await transact(rt.engine, partial(_change, rt, name, wanted, caller))


async def revoke(rt: Runtime, name: str, *, caller: str) -> list[ApiToken]:
    """Revoke all valid tokens of a name. Returns them. Raises `NotFound` if there are none."""
    return await transact(rt.engine, partial(_revoke, rt, name, caller))


async def _create(rt: Runtime, wanted: TokenRequest, caller: str, token: str, conn: AsyncConnection) -> NewToken:
    await tokens.lock(conn)
    now = rt.clock.now()
    valid, former = await tokens.valid(conn, now=now), await tokens.of_name(conn, wanted.name)
    _check_room(valid)
    if any(one.name == wanted.name for one in valid):
        raise Invalid([FieldError("name", "a valid token has this name; rotate it, or revoke it first")])
    limits = wanted.model_dump(include=set(TokenLimits.model_fields))
    made = ApiToken(
        token_id=rt.uuid(),
        name=wanted.name,
        serial=_next_serial(former),
        digest=digest_of(token),
        role=wanted.role,
        created_at=now,
        created_by=caller,
        expires_at=_after(now, wanted.lifetime),
        **limits,
    )
    await tokens.insert(conn, made)
    given = _limits_text({field: value for field, value in limits.items() if value is not None})
    await _note(conn, rt, caller, f"created {made.name} with the role {made.role}{given and ', '}{given}")
    return NewToken(token, made)


async def _rotate(
    rt: Runtime, name: str, wanted: TokenRotation, caller: str, token: str, conn: AsyncConnection
) -> NewToken:
    await tokens.lock(conn)
    now = rt.clock.now()
    old = await _valid_of(conn, name, now)
    _check_room(await tokens.valid(conn, now=now))
    last = old[-1]
    as_long = last.expires_at - last.created_at if last.expires_at else None
    made = replace(
        last,
        token_id=rt.uuid(),
        serial=_next_serial(await tokens.of_name(conn, name)),
        digest=digest_of(token),
        created_at=now,
        created_by=caller,
        expires_at=_after(now, wanted.lifetime) or (now + as_long if as_long else None),
        last_used_at=None,
    )
    await tokens.end_at(conn, [one.token_id for one in old], now + timedelta(seconds=wanted.grace))
    await tokens.insert(conn, made)
    await _note(conn, rt, caller, f"rotated {name}; the old token stays valid for {wanted.grace:g} s")
    return NewToken(token, made)


async def _change(rt: Runtime, name: str, wanted: TokenChange, caller: str, conn: AsyncConnection) -> list[ApiToken]:
    await tokens.lock(conn)
    found = await _valid_of(conn, name, rt.clock.now())
    values = wanted.model_dump(exclude_unset=True)
    await tokens.change(conn, [one.token_id for one in found], values)
    await _note(conn, rt, caller, f"changed {name}: {_limits_text(values)}")
    return [replace(one, **values) for one in found]


async def _revoke(rt: Runtime, name: str, caller: str, conn: AsyncConnection) -> list[ApiToken]:
    await tokens.lock(conn)
    now = rt.clock.now()
    found = await _valid_of(conn, name, now)
    await tokens.revoke(conn, [one.token_id for one in found], now=now, by=caller)
    await _note(conn, rt, caller, f"revoked {name}")
    return [replace(one, revoked_at=now, revoked_by=caller) for one in found]


async def _valid_of(conn: AsyncConnection, name: str, now: datetime) -> list[ApiToken]:
    found = [one for one in await tokens.of_name(conn, name) if is_valid(one, now)]
    if not found:
        raise NotFound(f"no valid token has the name {name}; tokens in ROLLCALL_API_TOKENS are changed there")
    return found


def is_valid(token: ApiToken, now: datetime) -> bool:
    """Whether a token is neither revoked nor expired."""
    return (token.revoked_at is None or token.revoked_at > now) and (token.expires_at is None or token.expires_at > now)


def _limits_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{field} {'no limit' if value is None else value}" for field, value in values.items())


def _check_room(valid: Sequence[ApiToken]) -> None:
    if len(valid) >= MOST_TOKENS:
        raise Invalid(
            [FieldError("name", f"there are {len(valid)} valid tokens, and {MOST_TOKENS} at most; revoke some")]
        )


def _next_serial(former: Sequence[ApiToken]) -> int:
    return former[-1].serial + 1 if former else 1


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


async def _note(conn: AsyncConnection, rt: Runtime, caller: str, detail: str) -> None:
    await actions.insert(
        conn,
        Action(submission_id=FLEET, action_id=rt.uuid(), kind="token", caller=caller, at=rt.clock.now(), detail=detail),
    )
