"""The operator's HTTP API: which path goes where. What is done there is in the handlers' modules."""

from collections.abc import Mapping

from aiohttp import web
from pydantic import SecretStr

from service.api import access, fleet, machines, problems, submissions
from service.api.context import CALLERS, MAX_BODY, RUNTIME
from service.runtime import Runtime


def make_app(rt: Runtime, callers: Mapping[str, SecretStr]) -> web.Application:
    """The app of the operator listener. `callers` are the API tokens by name; without any, nobody gets in."""
    app = web.Application(middlewares=[problems.answer_errors, access.require_token], client_max_size=MAX_BODY)
    app[RUNTIME] = rt
    app[CALLERS] = callers
    app.add_routes(
        [
            web.post("/v1/submissions", submissions.create),
            web.get("/v1/submissions", submissions.index),
            web.get("/v1/submissions/{id}", submissions.show),
            web.post("/v1/submissions/{id}/cancel", submissions.cancel),
            web.get("/v1/vms", machines.index),
            web.get("/v1/vms/{ref}", machines.show),
            web.delete("/v1/vms/{ref}", machines.delete),
            web.get("/v1/vms/{ref}/timeline", machines.story),
            web.get("/v1/orphans", machines.orphans),
            web.get("/v1/fleet", fleet.show),
            web.get("/metrics", fleet.metrics),
            web.get("/livez", fleet.livez),
            web.get("/readyz", fleet.readyz),
        ]
    )
    return app
