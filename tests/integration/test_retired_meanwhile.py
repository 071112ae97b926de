"""A month that retention takes out or drops while somebody reads the record is no finding, and loses nothing from an export."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clock import NOON
from command_line import Run, running
from operator_api import TOKEN, serving
from sealing import SealedStage
from structlog.testing import capture_logs

from service.audit import export, keys, verify
from service.audit.live import LiveRecord
from service.errors import StorageUnavailable
from service.runtime.runtime import Runtime
from service.storage import events, partitions, seals
from service.storage.engine import begin, transact
from service.storage.partitions import Month
from service.storage.seals import DroppedMonth

#: Each disturbance retires one.
MONTHS = [Month.of(NOON).back(number) for number in range(24, 0, -1)]


async def take_out(stage: SealedStage, month: Month) -> None:
    await transact(stage.engine, lambda conn: partitions.take_out(conn, month))


async def drop(stage: SealedStage, month: Month) -> None:
    said = DroppedMonth(month.first, stage.rt.clock.now())
    await transact(stage.engine, lambda conn: partitions.drop(conn, month, holding=None, dropped=said))


async def take_out_and_drop(stage: SealedStage, month: Month) -> None:
    await take_out(stage, month)
    await drop(stage, month)


#: What is done with a month before anybody reads, and while somebody does.
RETIRED: tuple[tuple[Callable[..., Awaitable[None]] | None, Callable[..., Awaitable[None]]], ...] = (
    (None, take_out), (None, take_out_and_drop), (take_out, drop)
)  # fmt: skip


class Reading:
    """Counts the steps of one who reads the events, and lets retention do its work at one of them."""

    def __init__(self, at: int, retire: Callable[[], Awaitable[None]]) -> None:
        self.at, self.steps, self._retire = at, 0, retire

    async def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            with suppress(StorageUnavailable):  # somebody reads: it tries again later
                await self._retire()

    def around(self, asked: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def disturbed(*given: Any) -> Any:
            await self.step()
            answer = await asked(*given)
            await self.step()
            return answer

        return disturbed

    def between(self, pages: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def disturbed(*given: Any, **also: Any) -> AsyncIterator[Any]:
            if "events" not in given:
                async for one in pages(*given, **also):
                    yield one
                return
            await self.step()
            async for one in pages(*given, **also):
                yield one
                await self.step()
            await self.step()

        return disturbed


@pytest.fixture
async def stage(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SealedStage:
    """A sealed record with events in each month."""
    monkeypatch.setattr(partitions, "_PATIENCE", "SET LOCAL lock_timeout = '50ms'")
    stage = SealedStage(runtime, tmp_path)
    async with begin(stage.engine) as conn:
        await partitions.make_partitions(conn, now=MONTHS[0].first, months=len(MONTHS))
    for month in MONTHS:
        await stage.record(2, at=month.first.replace(day=9))
    async with begin(stage.engine) as conn:
        await events.remove_from_inbox(conn, await events.take_due(conn, now=NOON, limit=1000))
    await stage.seal()
    return stage


@pytest.mark.parametrize(("before", "meanwhile"), RETIRED)
async def test_no_verification_alarms_whenever_a_month_is_retired(
    stage: SealedStage, before: Any, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await transact(stage.engine, seals.newest)
    assert log is not None
    trusted = [one.key for one in keys.signers_of(stage.keys(), log.origin)]
    for at, month in enumerate(MONTHS, 1):
        if before:
            await before(stage, month)
        reading = Reading(at, partial(meanwhile, stage, month))
        record = await LiveRecord.read(stage.engine, log.log_id)
        with monkeypatch.context() as patch:
            patch.setattr(partitions, "apart", reading.around(partitions.apart))
            for name in ("dropped_months", "existing"):
                patch.setattr(record, name, reading.around(getattr(record, name)))
            for name in ("rows", "seals_by_transaction"):
                patch.setattr(record, name, reading.between(getattr(record, name)))
            report = await verify.verify(record, trusted)
        assert report.findings == [], (at, str(month))
        if reading.steps < at:
            break
    else:
        pytest.fail("there are more steps than months")


@pytest.mark.parametrize(("before", "meanwhile"), RETIRED)
async def test_no_export_lacks_or_alarms_of_what_is_retired_meanwhile(
    stage: SealedStage,
    before: Any,
    meanwhile: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run: Run = running(capsys)
    ((key,),) = await stage.sql("SELECT verifier_key FROM log_keys")
    with capture_logs():
        async with serving(stage.rt) as api:
            monkeypatch.setenv("ROLLCALL_API_URL", api.url)
            monkeypatch.setenv("ROLLCALL_API_TOKEN", TOKEN)
            for at, month in enumerate(MONTHS, 1):
                if before:
                    await before(stage, month)
                reading = Reading(at, partial(meanwhile, stage, month))
                with monkeypatch.context() as patch:
                    patch.setattr(partitions, "apart", reading.around(partitions.apart))
                    patch.setattr(export, "pages", reading.between(export.pages))
                    exported = await run("export", str(month))
                assert exported.code == 0, exported
                verified = await run("audit", "verify", "--export", str(month), "--key", key)
                assert verified.code == 0, (at, verified)
                if reading.steps < at:
                    break
            else:
                pytest.fail("there are more steps than months")
