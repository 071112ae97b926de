"""What keeps a spool in NATS from working: its library is not installed, or its servers or its stream will not do."""

from dataclasses import dataclass, field
from importlib.util import find_spec

from service.config import PREFIX, Settings
from service.errors import FieldError
from service.spool_url import SpoolUrl


@dataclass(slots=True)
class Survey:
    """What the servers say. Makes nothing. `stream` says what there is, or is empty if there is no such stream yet."""

    unreachable: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    weaknesses: list[str] = field(default_factory=list)
    stream: str = ""
    replies: int = 0


def errors(settings: Settings) -> list[FieldError]:
    """What is missing for the spool of these settings."""
    if settings.spool_url is None or find_spec("nats") is not None:
        return []
    return [FieldError(f"{PREFIX}SPOOL_URL", "needs the extra: pip install 'rollcall-fleet[nats]'")]


async def survey(settings: Settings, url: SpoolUrl) -> Survey:
    """Ask each server in turn, and one that answers for the stream."""
    from service.receiver.nats_session import NatsError  # noqa: PLC0415  an extra

    found = Survey()
    for server in url.servers:
        try:
            await _ask(settings, url, server, found)
        except NatsError as error:
            found.unreachable.append(str(error))
    return found


async def _ask(settings: Settings, url: SpoolUrl, server: str, found: Survey) -> None:
    from service.receiver.nats_session import NatsSession  # noqa: PLC0415  an extra
    from service.receiver.nats_stream import StreamState, refusals  # noqa: PLC0415  as above
    from service.receiver.spool_stream import longest  # noqa: PLC0415  as above

    session = await NatsSession.connect(url, server)
    try:
        info = await session.stream()
    finally:
        await session.close()
    found.replies += 1
    if info is None:
        return
    state = StreamState.of(info, url, settings.public_url)
    found.refusals = refusals(info.config, url.stream, room=session.most_bytes, longest=longest(settings))
    found.weaknesses = list(state.weaknesses)
    found.stream = f"{state.replicas}; {state.waiting} messages wait"
