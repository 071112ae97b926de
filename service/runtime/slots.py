"""How many calls each job may make at the same time. The HTTP client has a connection for each."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from service.config import Settings
from service.runtime.tasks import gather_all

#: Simultaneous calls in each slot of the job `contract`, which handles the VMs of one contract.
CALLS_IN_CONTRACT_SLOT = 4
#: Calls of a job in all, those that hang included, for each of its slots (`tasks.Slots`).
MOST_PER_SLOT = 3
#: Connections for calls outside the jobs: the API's catalogue, lists and lookups.
_SPARE = 8


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a job claimed: the number of rows, and the calls to make, each in a slot of its own."""

    count: int
    calls: Sequence[Callable[[], Awaitable[object]]] = ()

    async def make_calls(self) -> int:
        """Make all calls at the same time and wait for them. Returns how many rows were claimed."""
        await gather_all(call() for call in self.calls)
        return self.count


def slots(settings: Settings) -> Mapping[str, int]:
    """The slots of each job that makes calls, by the job's name. `deliver` calls the targets of notifications."""
    return {**_of_provider(settings), "deliver": 16}


def _of_provider(settings: Settings) -> Mapping[str, int]:
    return {
        "create": settings.create_concurrency,
        "delete": 16,
        "contract": 4,
        "refresh": 16,
        "orphan": 8,
        "history": 8,
    }


def most_creates_of_one(settings: Settings) -> int:
    """How many creates of one submission may be under way. Fewer than all that may hang, so that others get theirs."""
    return (MOST_PER_SLOT - 1) * settings.create_concurrency


def connections(settings: Settings) -> int:
    """How many connections the HTTP client needs, so that no call waits for one after it was counted."""
    per_job = _of_provider(settings)
    return MOST_PER_SLOT * sum(per_job.values()) + per_job["contract"] * (CALLS_IN_CONTRACT_SLOT - 1) + _SPARE
