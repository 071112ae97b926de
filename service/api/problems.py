"""From errors to answers: one table, one shape of JSON for all of them, and no error page of anybody else's.

The shape is `{"error": slug, "message": text}`, and for a request that is wrong also
`"mistakes": [{"field": ..., "message": ...}]`, all of them at once.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service import errors
from service.api.context import MAX_BODY, answer
from service.runtime.logs import logger

#: The status of each of our errors. The nearest class in an error's ancestry counts.
STATUS: Final[Mapping[type[errors.ServiceError], int]] = {
    errors.Invalid: 422,
    errors.NotFound: 404,
    errors.KeyConflict: 409,
    errors.NotAllowed: 409,
    errors.StorageUnavailable: 503,
    errors.Overloaded: 503,
    errors.ProviderError: 502,
    errors.ServiceError: 500,
}

_LOG: Final = logger(room="api")
_WORDS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error of a handler into a JSON answer."""
    try:
        return await handler(request)
    except errors.ServiceError as error:
        return _ours(request, error)
    except web.HTTPException as error:
        return _of_aiohttp(error)
    except Exception:  # noqa: BLE001  the outermost place: whatever it is, the caller gets an answer and the log the cause
        return _unknown(request)


def problem(status: int, slug: str, message: str, **more: Any) -> web.Response:
    """An answer that says what is wrong."""
    return answer({"error": slug, "message": message, **more}, status=status)


def _ours(request: web.Request, error: errors.ServiceError) -> web.Response:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status == 500:
        return _unknown(request)
    more: dict[str, Any] = {}
    if isinstance(error, errors.Invalid):
        more["mistakes"] = [{"field": one.field, "message": one.message} for one in error.field_errors]
    shown = problem(status, _slug(type(error)), str(error), **more)
    if status == 503:
        _LOG.warning("unavailable", action=_action(request), error=str(error))
        shown.headers[hdrs.RETRY_AFTER] = "1"
    return shown


def _of_aiohttp(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(413, "too_large", f"the body is larger than {MAX_BODY} bytes")
    shown = problem(error.status, _slug(type(error)), error.reason)
    if hdrs.ALLOW in error.headers:
        shown.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return shown


def _unknown(request: web.Request) -> web.Response:
    # The log strikes out what looks like a secret; the caller gets nothing of it.
    _LOG.exception("failed", action=_action(request))
    return problem(500, "internal", "Rollcall failed at this; its log says why")


def _action(request: web.Request) -> str:
    # The route and not the path: paths hold what callers write into them.
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'unknown path'}"


def _slug(kind: type[Exception]) -> str:
    return _WORDS.sub("_", kind.__name__.removeprefix("HTTP")).lower()
