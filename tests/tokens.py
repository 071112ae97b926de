"""API tokens for tests: one of each role, and those that have ended."""

from typing import Any

from service.core.api_token import Role
from service.operations import tokens
from service.operations.tokens import TokenRequest
from service.runtime.runtime import Runtime


async def created(rt: Runtime, name: str, role: Role = Role.READ, **more: Any) -> str:
    """A new token."""
    wanted = TokenRequest(name=name, role=role, **more)
    return (await tokens.create(rt, wanted, caller="tests")).token


async def of_each_role(rt: Runtime) -> dict[Role, str]:
    return {role: await created(rt, f"a-{role}-token", role) for role in Role}


async def ended(rt: Runtime) -> dict[str, str]:
    """An expired admin token and a revoked one, by the word that a refusal uses."""
    expired = await created(rt, "an-old-one", Role.ADMIN, lifetime=60.0)
    revoked = await created(rt, "a-leaked-one", Role.ADMIN)
    await tokens.revoke(rt, "a-leaked-one", caller="tests")
    rt.clock.advance(60)
    return {"expired": expired, "revoked": revoked}
