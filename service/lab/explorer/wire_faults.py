"""Bad data that the explorer itself puts on the wire: fields of callbacks, and a foreign VM with an unusual name.

Bad fields of other answers are faults of the simulator.
"""

import random
from dataclasses import dataclass, field

from service.simulator import bad_fields
from service.simulator.faults import CallFaults
from service.simulator.http import HttpReply

#: The name of the VMs that others create in the same account.
FOREIGN = "by-hand"
_FOREIGN_NAME = f'"{FOREIGN}"'.encode()

#: JSON texts that are no id of a VM and may stand in any field; "" removes the field.
ANY_FIELD = (
    *(value for value in bad_fields.DEFAULT_VALUES if value != '"7"'),
    "9223372036854775808",
    "-2147483649",
    '"9999-12-31T23:59:59-14:00"',
    '"0001-01-01T00:00:00+14:00"',
    r'"\udc00"',
    "[[[[[[]]]]]]",
)
#: JSON texts that could be ids, and so may stand only where no id is.
NO_ID = ("7", '"7"', "2147483648", "9223372036854775807", "1e300", "1.5e-300", "false")
#: The fields of answers that hold no id of a VM.
NO_ID_FIELDS = ("contract_id", "count", "page_size", "status", "name", "floating_ip", "fixed_ip", "created_at", "labels",
                "flavor.name", "gpu_count", "callback_url", "message", "power_state", "ram", "resource_count")  # fmt: skip


@dataclass
class WireFaults:
    """How bytes change between the cloud and us. `callbacks` is the probability of bad fields in a callback."""

    callbacks: float = 0.0
    callbacks_until: float = 0.0
    #: The JSON text that every answer has in place of the name of a foreign VM.
    foreign_name: str | None = None
    rng: random.Random = field(default_factory=random.Random)

    def callback(self, body: bytes, elapsed: float) -> bytes:
        """A callback's body as it arrives at so many simulated seconds."""
        if not self.callbacks or elapsed >= self.callbacks_until or self.rng.random() >= self.callbacks:
            return body
        faults = CallFaults(bad_field_count=self.rng.randint(1, 3), bad_field_values=ANY_FIELD)
        try:
            return bad_fields.corrupt(HttpReply(status=200, body=body), faults, self.rng).body
        except ValueError:  # the simulator made its JSON unreadable already
            return body

    def answer(self, body: bytes) -> bytes:
        """An answer's body as it arrives."""
        return body.replace(_FOREIGN_NAME, self.foreign_name.encode()) if self.foreign_name else body
