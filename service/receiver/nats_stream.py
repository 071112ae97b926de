"""The stream of the spool and its consumer: how they are made, which are used, and what is in them.

All messages are on the subject STREAM.events. Those that nobody can read are moved to STREAM.damaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from nats.js import api

from service.spool_url import SpoolUrl

#: The durable consumer that all receivers share.
CONSUMER: Final = "rollcall"
#: Of `max_payload`, what the headers of a message take.
MESSAGE_HEADERS: Final = 1024
#: Seconds for Postgres to take what was pulled. Then another receiver gets it: the pulling one is dead, or may be.
_ACK_WAIT: Final = 30.0
#: A message that is published again within so many seconds is stored once.
_DUPLICATE_SECONDS: Final = 120.0
#: The stream's metadata: the public URL of the daemons that made it.
_MADE_FOR: Final = "rollcall-public-url"
#: Up to which part of its size the stream counts as having room again, once it was full.
_ROOM: Final = 0.9


@dataclass(frozen=True, slots=True)
class StreamState:
    """What is in the stream, in messages and bytes, and how much its replicas can be relied on.

    `weaknesses` are for people: why acknowledged callbacks may not survive what they should.
    """

    waiting: int
    damaged: int
    bytes: int
    last_sequence: int
    is_full: bool
    weaknesses: Sequence[str]
    replicas: str

    @classmethod
    def of(cls, info: api.StreamInfo, url: SpoolUrl, public_url: str | None) -> Self:
        subjects = info.state.subjects or {}
        waiting = subjects.get(f"{url.stream}.events", 0)
        most = info.config.max_bytes or -1
        return cls(
            waiting=waiting,
            damaged=subjects.get(f"{url.stream}.damaged", 0),
            bytes=info.state.bytes if waiting else 0,
            last_sequence=info.state.last_seq,
            is_full=0 < most * _ROOM <= info.state.bytes,
            weaknesses=[*_weaknesses(info.config, url.replicas), *_other_owner(info.config, public_url)],
            replicas=_replicas(info),
        )


def refusals(config: api.StreamConfig, name: str, *, room: int, longest: int) -> list[str]:
    """Why a stream cannot be used: it may lose what it acknowledges, or never become empty.

    `room`: the bytes of a message that the server takes. `longest`: those that an event may need.
    """
    if config.max_msg_size is not None and config.max_msg_size > 0:
        room = min(room, config.max_msg_size - MESSAGE_HEADERS)
    rules = {
        f"it must take the subjects {name}.>": f"{name}.>" not in (config.subjects or ()),
        "its retention must be workqueue, or it never becomes empty": config.retention != "workqueue",
        "it must discard new messages when it is full, not old ones": config.discard != "new",
        "it must have no limit of age or of messages for a subject": (config.max_age or 0) > 0
        or config.max_msgs_per_subject > 0,
        "it must acknowledge": config.no_ack,
        "it must be neither sealed nor a mirror": config.sealed or config.mirror is not None,
        f"a callback may need {longest} bytes, and a message has room for {room}: raise max_payload": room < longest,
    }
    return [text for text, is_broken in rules.items() if is_broken]


def new_stream(url: SpoolUrl, most_bytes: int, public_url: str | None) -> api.StreamConfig:
    return api.StreamConfig(
        name=url.stream,
        description="callbacks that wait for Postgres, of Rollcall",
        subjects=[f"{url.stream}.>"],
        retention=api.RetentionPolicy.WORK_QUEUE,
        discard=api.DiscardPolicy.NEW,
        max_bytes=most_bytes,
        storage=api.StorageType.FILE,
        num_replicas=url.replicas,
        duplicate_window=_DUPLICATE_SECONDS,
        metadata={_MADE_FOR: public_url} if public_url else None,
    )


def new_consumer(stream: str) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        name=CONSUMER,
        durable_name=CONSUMER,
        filter_subject=f"{stream}.events",
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=_ACK_WAIT,
        max_deliver=-1,
    )


def _weaknesses(config: api.StreamConfig, wanted: int) -> list[str]:
    has, found = config.num_replicas or 1, []
    if has < wanted:
        found.append(f"it has {has} replica{'s' if has > 1 else ''}, and {wanted} are wanted")
    if config.storage != "file":
        found.append("it is in memory, not in files")
    if config.persist_mode == "async":
        found.append("it acknowledges before it writes")
    return found


def _other_owner(config: api.StreamConfig, public_url: str | None) -> list[str]:
    """Daemons on one database share the public URL, and a stream that two databases share mixes up their callbacks."""
    made_for = (config.metadata or {}).get(_MADE_FOR)
    if not made_for or not public_url or made_for == public_url:
        return []
    return [f"it was made for {made_for}, not {public_url}: does another database use it?"]


def _replicas(info: api.StreamInfo) -> str:
    has, cluster = info.config.num_replicas or 1, info.cluster
    others = (cluster.replicas if cluster else None) or []
    behind = [one.name for one in others if one.offline or not one.current]
    text = f"{has} replica{'s' if has > 1 else ''}"
    return f"{text} (behind or offline: {', '.join(str(name) for name in behind)})" if behind else text
