"""Errors of the API client: what went wrong with a request, in terms that a caller can act on."""

from enum import StrEnum
from typing import NamedTuple

from service.client.results import SubmissionJson


class ErrorKind(StrEnum):
    """What kind of failure an `ApiError` is."""

    UNREACHABLE = "unreachable"  #: nothing answered, or what answered is not Rollcall's API
    UNAUTHORIZED = "unauthorized"  #: the token is missing, or not valid (401)
    FORBIDDEN = "forbidden"  #: the token's role does not allow this (403)
    NOT_FOUND = "not_found"  #: no such resource (404)
    REFUSED = "refused"  #: the request is wrong (any other 4xx)
    CONFLICT = "conflict"  #: the request contradicts an earlier one (409)
    UNAVAILABLE = "unavailable"  #: not now (503), or too many requests of this token (429); try again later
    UNEXPECTED = "unexpected"  #: the daemon failed (any other 5xx)


class InvalidField(NamedTuple):
    """One invalid field of a request: its path, and what to do about it."""

    field: str
    message: str


class ApiError(Exception):
    """A request to the API failed.

    `status` is the HTTP status, or None without a response. `type` is the URI of the problem (RFC 9457), such as
    `/problems/not-allowed`, and `title` its kind for people. `detail` says what is wrong with this request. `invalid_fields` lists
    every invalid field. `retry_after` is how many seconds the daemon asks to wait, if it does.
    """

    def __init__(
        self,
        kind: ErrorKind,
        detail: str,
        *,
        status: int | None = None,
        type_: str = "about:blank",
        title: str = "",
        invalid_fields: tuple[InvalidField, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.status = status
        self.type = type_
        self.title = title
        self.invalid_fields = invalid_fields
        self.retry_after = retry_after


class NotReady(Exception):  # noqa: N818  named after what is wrong
    """A submission that was waited for has ended, and is not ready. `submission` is how it ended."""

    def __init__(self, submission: SubmissionJson) -> None:
        reasons = "; ".join(submission["reasons"])
        super().__init__(
            f"submission {submission['submission_id']} is {submission['state']}{reasons and f': {reasons}'}"
        )
        self.submission = submission


class WaitTimeout(TimeoutError):  # noqa: N818  as above
    """A submission is not ready in time. It goes on: wait for it again, or cancel it."""


class InvalidClientOption(ValueError):  # noqa: N818  named after what is wrong, as the rest of the errors are
    """The URL, the token or a header cannot be sent. Nothing was sent, and the message holds no secret."""
