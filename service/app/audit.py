"""What `rollcall audit` does with the database itself: an auditor need not trust a daemon that runs."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from service.api import refs
from service.app.database import located, opened
from service.audit import keys, prove, publish, seal, verify
from service.audit.bundle import Bundle
from service.audit.export_record import open_export
from service.audit.findings import Discrepancy, Report
from service.audit.live import LiveRecord
from service.audit.note import VerifierKey
from service.config import Settings
from service.errors import NotFound
from service.runtime.runtime import open_runtime
from service.runtime.secrets import callback_secrets
from service.storage import seals
from service.storage.engine import begin
from service.storage.seals import Log


async def verify_record(
    settings: Settings, trusted: Sequence[VerifierKey], folders: Sequence[Path], *, log_id: UUID | None = None
) -> Report:
    """Verify the newest log, or another. Without `trusted`, this machine's own keys are. Raises `NotFound` without a log."""
    async with opened(settings) as engine:
        places = [*publish.latest(settings), *(one for folder in folders for one in publish.everything(folder))]
        published = [(str(one.path), one.note) for one in places]
        record = await LiveRecord.read(engine, (await _log(engine, log_id)).log_id)
        trusted = trusted or [
            one.key for one in keys.signers_of(keys.own_keys(settings, callback_secrets(settings)), record.log.origin)
        ]
        return await verify.verify(record, trusted, published)


async def verify_export(folder: Path, trusted: Sequence[VerifierKey], folders: Sequence[Path]) -> Report:
    """Verify an export, without a database. Raises `ExportInvalid` if its files are not those of a finished export."""
    record = open_export(folder)
    published = [(str(one.path), one.note) for place in folders for one in publish.everything(place)]
    report = await verify.verify(record, trusted, published)
    report.struck_out = record.struck_out
    report.findings[:0] = [Discrepancy(0, "file", one) for one in record.wrong]
    # A row that was changed may seem misplaced too, so these come last.
    for one in record.misplaced:
        report.add(Discrepancy(report.size, "reordered", one))
    return report


async def prove_vm(settings: Settings, ref: str) -> Bundle:
    """The proof of what is on record of a VM. Raises `NotFound`, or `Invalid` if `ref` is ambiguous."""
    async with opened(settings) as engine, begin(engine) as conn:
        return await prove.prove(conn, await refs.find(conn, ref))


async def new_log(settings: Settings, reason: str) -> Log:
    """Begin a log on purpose; everything is sealed into it anew."""
    async with located(settings) as (url, _):
        rt = open_runtime(settings, url)
        try:
            return await seal.begin_log(rt, reason=reason)
        finally:
            await rt.close()


async def known_keys(settings: Settings) -> tuple[Log, list[str]]:
    """The newest log and the keys that it names. Raises `NotFound`."""
    async with opened(settings) as engine:
        log = await _log(engine, None)
        async with begin(engine) as conn:
            return log, await seals.keys_of(conn, log.log_id)


async def _log(engine: AsyncEngine, log_id: UUID | None) -> Log:
    async with begin(engine) as conn:
        logs = await seals.all_logs(conn)
    found = [one for one in logs if log_id in {None, one.log_id}]
    if not found:
        raise NotFound("nothing is sealed: there is no such log")
    return found[-1]
