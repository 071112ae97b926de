"""From errors to responses: one table, and one format, RFC 9457's `application/problem+json`.

Every error has `type`, `title`, `status` and `detail`; an invalid request also has
`errors: [{"field": ..., "message": ...}]`, all of them at once.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service import errors
from service.api.context import MAX_BODY, answer
from service.runtime.logs import logger

CONTENT_TYPE: Final = "application/problem+json"


class ProblemType(NamedTuple):
    """A kind of error. Its type URI is `/problems/` and the slug; neither changes within /v1."""

    slug: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        return f"/problems/{self.slug}"


UNAUTHORIZED: Final = ProblemType("unauthorized", 401, "The API token is missing, or not valid")
FORBIDDEN: Final = ProblemType("forbidden", 403, "The role of the API token does not allow this")
NOT_FOUND: Final = ProblemType("not-found", 404, "There is no such resource")
METHOD_NOT_ALLOWED: Final = ProblemType("method-not-allowed", 405, "The resource does not support this method")
CONFLICT: Final = ProblemType("idempotency-conflict", 409, "The idempotency key was used for another request")
NOT_ALLOWED: Final = ProblemType("not-allowed", 409, "The VM's state does not allow this")
TOO_LARGE: Final = ProblemType("too-large", 413, "The request body is too large")
INVALID: Final = ProblemType("invalid-request", 422, "The request is invalid")
TOO_MANY: Final = ProblemType("too-many-requests", 429, "The API token has sent more requests than it may")
INTERNAL: Final = ProblemType("internal-error", 500, "Rollcall failed")
PROVIDER: Final = ProblemType("provider-error", 502, "The provider did not answer as expected")
UNAVAILABLE: Final = ProblemType("unavailable", 503, "Rollcall cannot do this now; try again")
#: For a request that the HTTP server itself refuses.
BAD_REQUEST: Final = ProblemType("bad-request", 400, "The request is not valid HTTP")

TYPES: Final = (
    BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, METHOD_NOT_ALLOWED, CONFLICT, NOT_ALLOWED, TOO_LARGE, INVALID,
    TOO_MANY, INTERNAL, PROVIDER, UNAVAILABLE,
)  # fmt: skip

#: The problem of each of our errors. The nearest class in an error's ancestry counts.
OF_ERROR: Final[Mapping[type[errors.ServiceError], ProblemType]] = {
    errors.Invalid: INVALID,
    errors.NotFound: NOT_FOUND,
    errors.Unauthorized: UNAUTHORIZED,
    errors.Forbidden: FORBIDDEN,
    errors.TooManyRequests: TOO_MANY,
    errors.KeyConflict: CONFLICT,
    errors.NotAllowed: NOT_ALLOWED,
    errors.StorageUnavailable: UNAVAILABLE,
    errors.Overloaded: UNAVAILABLE,
    errors.ProviderError: PROVIDER,
    errors.ServiceError: INTERNAL,
}
_OF_STATUS: Final[Mapping[int, ProblemType]] = {
    one.status: one for one in (BAD_REQUEST, NOT_FOUND, METHOD_NOT_ALLOWED, TOO_LARGE, INTERNAL, UNAVAILABLE)
}

_LOG: Final = logger(room="api")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error of a handler into a problem response."""
    try:
        return await handler(request)
    except errors.ServiceError as error:
        return _of_service(request, error)
    except web.HTTPException as error:
        return _of_aiohttp(error)
    except Exception:  # noqa: BLE001  the outermost edge: the caller gets a response and the log the cause
        return _internal(request)


def problem(kind: ProblemType, detail: str, **members: Any) -> web.Response:
    """A problem response."""
    body = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail, **members}
    return answer(body, status=kind.status, content_type=CONTENT_TYPE)


def of(error: errors.ServiceError) -> ProblemType:
    """The kind of problem that an error is."""
    return next(OF_ERROR[one] for one in type(error).__mro__ if one in OF_ERROR)


def _of_service(request: web.Request, error: errors.ServiceError) -> web.Response:
    kind = of(error)
    if kind is INTERNAL:
        return _internal(request)
    if isinstance(error, errors.Invalid):
        fields = [{"field": one.field, "message": one.message} for one in error.field_errors]
        return problem(kind, str(error), errors=fields)
    response = problem(kind, str(error))
    if isinstance(error, errors.Unauthorized):
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="rollcall"'
    if isinstance(error, errors.TooManyRequests):
        response.headers[hdrs.RETRY_AFTER] = str(math.ceil(error.retry_after))
    if kind is UNAVAILABLE:
        _LOG.warning("unavailable", action=_action(request), error=str(error))
        response.headers[hdrs.RETRY_AFTER] = "1"
    return response


def _of_aiohttp(error: web.HTTPException) -> web.Response:
    kind = _OF_STATUS.get(error.status) or ProblemType("http-error", error.status, error.reason)
    detail = f"the body is larger than {MAX_BODY} bytes" if kind is TOO_LARGE else error.reason
    if kind is NOT_FOUND:
        detail = "there is no such path; /openapi.json lists them"
    response = problem(kind, detail)
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response


def _internal(request: web.Request) -> web.Response:
    # The log redacts what looks like a secret; the caller sees none of it.
    _LOG.exception("failed", action=_action(request))
    return problem(INTERNAL, "Rollcall failed to answer this request; its log has the cause")


def _action(request: web.Request) -> str:
    # The route and not the path: callers choose what is in a path.
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'unknown path'}"
