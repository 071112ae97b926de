"""Handlers of VMs that others made: import and release them."""

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from service.api import query, refs, serializers
from service.api.context import answer, caller, decoded, runtime
from service.core.importing import ImportRequest, ImportSelection, Skipped
from service.core.validation import validate
from service.operations import importing, releasing
from service.operations.importing import Imported
from service.runtime.logs import logger
from service.storage.engine import begin

_LOG = logger(room="api")


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took and what it left. `submission_id` is null for a dry run."""

    dry_run: bool
    submission_id: str | None
    vms: list[Imported]
    skipped: list[Skipped]


async def create(request: web.Request) -> web.Response:
    """Import VMs: 201. With `dry_run` nothing is kept or called but the list, and 200 shows what would be done."""
    rt, wanted = runtime(request), query.read(query.ImportQuery, request)
    asked = validate(ImportRequest, await decoded(request))
    if wanted.dry_run:
        found, _ = await importing.look(rt, asked)
        would = [
            Imported(one.provider_id, one.name, one.status, importing.callback_of(one, asked)) for one in found.chosen
        ]
        return answer(_report(None, would, found))
    submission_id, done, found = await importing.import_vms(rt, asked, caller=caller(request))
    _LOG.info("VMs imported", action="import", submission_id=str(submission_id), vms=len(done), caller=caller(request))
    return answer(_report(str(submission_id), done, found), status=201)


def _report(submission_id: str | None, done: list[Imported], found: ImportSelection) -> ImportReport:
    return ImportReport(submission_id is None, submission_id, done, found.skipped)


async def release_submission(request: web.Request) -> web.Response:
    """Release all VMs of an imported submission."""
    async with begin(runtime(request).engine) as conn:
        submission_id = await refs.submission_id(conn, request.match_info["id"])
    released = await releasing.release(runtime(request), submission_id, caller=caller(request))
    return answer({"items": [_released(request, one) for one in released], "next": None})


async def release_vm(request: web.Request) -> web.Response:
    """Release an imported VM."""
    async with begin(runtime(request).engine) as conn:
        vm = await refs.find(conn, request.match_info["ref"])
    (released,) = await releasing.release(runtime(request), vm.submission_id, vm_no=vm.vm_no, caller=caller(request))
    return answer(_released(request, released))


def _released(request: web.Request, vm: Any) -> dict[str, Any]:
    _LOG.info("VM released", action="release", vm=serializers.ref(vm), caller=caller(request))
    return serializers.vm(vm, runtime(request).clock.now())
