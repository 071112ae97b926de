"""Daemons on one database compare what they must share: one that differs does not start, one that runs says so."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from service.app.shared_settings import Membership
from service.errors import ConfigError
from service.notify_rules import NotifyTarget
from service.runtime.runtime import Runtime

OLD, NEW = b"the old secret of thirty-two characters", b"the new secret of thirty-two characters"


def daemon(runtime: Runtime, *secrets: bytes, tells: bool = False, **settings: Any) -> Membership:
    changed = runtime.settings.model_copy(update=settings)
    return Membership(replace(runtime, callback_secrets=secrets, settings=changed), tells=tells)


async def refused(one: Membership) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        await one.join(accept=False)
    return [error.field for error in caught.value.field_errors]


async def restarted(one: Membership, runtime: Runtime, secrets: list[bytes]) -> Membership:
    await one.leave()
    runtime.clock.advance(1)
    again = daemon(runtime, *secrets)
    await again.join(accept=False)
    return again


async def test_a_daemon_with_other_secrets_or_urls_is_refused_with_all_that_differs(runtime: Runtime):
    await daemon(runtime, OLD).join(accept=False)
    await daemon(runtime, OLD).join(accept=False)
    other = daemon(runtime, NEW, public_url="https://b.example", infrahub_url="https://staging.example/v1")
    assert await refused(other) == ["ROLLCALL_CALLBACK_SECRETS", "ROLLCALL_PUBLIC_URL", "ROLLCALL_INFRAHUB_URL"]
    await daemon(runtime, OLD).join(accept=False)


async def test_a_secret_is_rotated_in_rounds_and_in_no_shorter_way(runtime: Runtime):
    first, second = daemon(runtime, OLD), daemon(runtime, OLD)
    await first.join(accept=False)
    await second.join(accept=False)
    assert await refused(daemon(runtime, NEW)) == await refused(daemon(runtime, NEW, OLD))
    for secrets in ([OLD, NEW], [NEW, OLD], [NEW]):
        first = await restarted(first, runtime, secrets)
        second = await restarted(second, runtime, secrets)


async def test_a_new_secret_is_not_put_first_while_a_running_daemon_does_not_know_it(runtime: Runtime, clock):
    killed = daemon(runtime, OLD)
    await killed.join(accept=False)
    assert await refused(daemon(runtime, NEW, OLD)) == ["ROLLCALL_CALLBACK_SECRETS"]
    clock.advance(61)
    await daemon(runtime, NEW, OLD).join(accept=False)


async def test_the_secret_of_the_last_daemon_is_not_forgotten_after_any_time(runtime: Runtime, clock):
    last = daemon(runtime, OLD)
    await last.join(accept=False)
    await last.leave()
    clock.advance(400 * 86_400)
    assert await refused(daemon(runtime, NEW)) == ["ROLLCALL_CALLBACK_SECRETS"]
    await daemon(runtime, NEW).join(accept=True)
    await daemon(runtime, NEW).join(accept=False)


async def test_a_daemon_that_runs_says_so_while_another_differs(runtime: Runtime):
    ours, other = daemon(runtime, OLD), daemon(runtime, NEW)
    await ours.join(accept=False)
    await ours.look()
    assert runtime.health.ready
    await other.join(accept=True)
    await ours.look()
    assert "ROLLCALL_CALLBACK_SECRETS" in runtime.health.issues["shared settings"]
    assert not runtime.health.ready
    await other.leave()
    await ours.look()
    assert runtime.health.ready


def rules(*events: str, secret: str = "one") -> tuple[NotifyTarget, ...]:
    return (NotifyTarget(name="ops", to=SecretStr(f"slack://{secret}"), events=events),)


async def test_other_rules_of_notifications_are_a_health_issue_and_no_reason_not_to_start(runtime: Runtime) -> None:
    ours = daemon(runtime, OLD, tells=True, notify=rules("vm.lost"))
    await ours.join(accept=False)
    for same in (
        daemon(runtime, OLD, tells=True, notify=rules("vm.lost", secret="another")),  # a secret in it is no rule
        daemon(runtime, OLD, notify=rules("vm.*")),  # a receiver tells nobody
    ):
        await same.join(accept=False)
        await ours.look()
        assert "notification rules" not in runtime.health.issues
    other = daemon(runtime, OLD, tells=True, notify=rules("vm.*"))
    await other.join(accept=False)
    await ours.look()
    issue = runtime.health.issues["notification rules"]
    assert "in ops:" in issue
    assert "slack" not in issue
    assert runtime.health.ready
    await other.leave()
    await ours.look()
    assert "notification rules" not in runtime.health.issues
