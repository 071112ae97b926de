"""The target `log`: a line for each VM or orphan that a message is about."""

from typing import Final

import orjson

from service.notify.result import DELIVERED, DeliveryResult
from service.runtime.logs import logger
from service.storage.messages import Message

#: Lines of one message; the last says how many more there are.
_LINES: Final = 20
_ERRORS: Final = frozenset(
    {"vm.lost", "vm.error", "vm.off_contract", "orphan.found", "submission.failed", "money.limit_reached"}
)


def write(message: Message) -> DeliveryResult:
    """Write the lines of a message."""
    data = orjson.loads(message.body)["data"]
    log = logger().error if message.kind in _ERRORS else logger().warning
    given = {
        "action": "notify",
        "kind": message.kind,
        "submission_id": data["submission_id"],
        "name": data["submission_name"],
    }
    members = data["members"][:_LINES]
    for one in members:
        log(
            message.kind.replace(".", " ").replace("_", " "),
            **given,
            vm=one.get("ref"),
            provider_id=one.get("provider_id") or one.get("subject"),
            reason=one["reason"],
            at=one["at"],
        )
    if data["count"] > len(members):
        log(f"{data['count'] - len(members)} more", **given, text=message.text)
    return DELIVERED
