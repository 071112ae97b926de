"""What the provider's catalogue says of a request before it is kept: what can never fit, with near misses."""

from service.api.submitting import Advice
from service.core.submission import SubmissionRequest
from service.runtime import Runtime


async def advise(_rt: Runtime, _request: SubmissionRequest) -> Advice:
    return Advice()
