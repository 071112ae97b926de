"""Handlers of notifications: messages and their delivery, targets, replay, and test messages. And their routes."""

from typing import Any, Final
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from service.api import query, refs, serializers
from service.api.context import answer, caller, decoded, first, page, runtime
from service.api.route import Route
from service.core.api_token import Role
from service.core.validation import validate
from service.errors import FieldError, Invalid
from service.notify import outbox
from service.notify_rules import with_built_in
from service.operations import notifications
from service.runtime.logs import logger
from service.runtime.runtime import Runtime
from service.storage import messages
from service.storage.engine import begin

_LOG = logger(room="api")


class TestRequest(BaseModel):
    """Which target gets a test message."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    __test__ = False  # for pytest, whose classes are called so

    target: str


async def index(request: web.Request) -> web.Response:
    """A page of messages, newest first."""
    wanted = query.read(query.NotificationQuery, request)
    which = wanted.model_dump(include={"submission_id", "target", "kind", "state"}, exclude_none=True)
    async with begin(runtime(request).engine) as conn:
        found = await messages.page(conn, which, before=wanted.cursor, limit=wanted.limit + 1)
    some, following = first(found, wanted.limit, lambda one: str(one.message_id))
    return page([serializers.message(one) for one in some], following)


async def show(request: web.Request) -> web.Response:
    """One message, with its body."""
    return answer(await _whole(runtime(request), refs.message_id(request.match_info["message_id"])))


async def replay(request: web.Request) -> web.Response:
    """Deliver a message again: 202 with the message, since that takes a moment."""
    rt, message_id = runtime(request), refs.message_id(request.match_info["message_id"])
    await notifications.replay(rt, message_id, caller=caller(request))
    _LOG.info("message replayed", action="replay", message_id=str(message_id), caller=caller(request))
    return answer(await _whole(rt, message_id), status=202)


async def targets(request: web.Request) -> web.Response:
    """The targets of this daemon's settings, and how they are doing."""
    rt = runtime(request)
    known = with_built_in(rt.settings.notify)
    async with begin(rt.engine) as conn:
        lanes = await messages.lanes(conn, [outbox.lane_of(one) for one in known])
    items = []
    for one in known:
        lane = lanes.get(outbox.lane_of(one))
        shown = {"name": one.name, "to": one.shown, "events": one.events, "labels": one.labels}
        items.append(
            {
                **shown,
                "failures": lane.failures if lane else 0,
                "error": lane and lane.error,
                "due_at": lane and lane.due_at,
            }
        )
    return page(items, None)


async def test(request: web.Request) -> web.Response:
    """Write a test message to a target: 202 with the message."""
    rt = runtime(request)
    wanted = validate(TestRequest, await decoded(request)).target
    target = next((one for one in with_built_in(rt.settings.notify) if one.name == wanted), None)
    if target is None:
        names = ", ".join(one.name for one in with_built_in(rt.settings.notify))
        raise Invalid([FieldError("target", f"is no target in ROLLCALL_NOTIFY; there are {names}")])
    message_id = await outbox.send_test(rt, target, caller=caller(request))
    return answer(await _whole(rt, message_id), status=202)


async def _whole(rt: Runtime, message_id: UUID) -> dict[str, Any]:
    async with begin(rt.engine) as conn:
        found = await notifications.find(conn, message_id)
    return {**serializers.message(found), "body": orjson.loads(found.body)}


NOTIFICATION_ROUTES: Final = (
    Route(
        method="GET",
        role=Role.READ,
        path="/v1/notifications",
        handler=index,
        summary="List messages to targets, newest first, and what became of them",
        query=query.NotificationQuery,
        answers={200: "Notification[]"},
        fails=(422,),
    ),
    Route(
        method="GET",
        role=Role.READ,
        path="/v1/notifications/targets",
        handler=targets,
        summary="List the targets of notifications, and how they are doing",
        answers={200: "NotifyTarget[]"},
    ),
    Route(
        method="POST",
        role=Role.ADMIN,
        path="/v1/notifications/test",
        handler=test,
        summary="Send a test message to a target",
        body="TestRequest",
        answers={202: "WholeNotification"},
        fails=(413, 422),
    ),
    Route(
        method="GET",
        role=Role.READ,
        path="/v1/notifications/{message_id}",
        handler=show,
        summary="Show a message as it is signed and sent",
        answers={200: "WholeNotification"},
        fails=(404,),
    ),
    Route(
        method="POST",
        role=Role.ADMIN,
        path="/v1/notifications/{message_id}/replay",
        handler=replay,
        summary="Deliver a message again; 409 if it still waits to be delivered. Who did it goes on record",
        answers={202: "WholeNotification"},
        fails=(404, 409),
    ),
)
