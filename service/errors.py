"""The errors of the service, and nothing else.

An error is named after what its reader does next:

    ServiceError
    ├── ConfigError                do not start; every wrong setting is listed
    ├── NotAllowed                 we asked for an operation the lifecycle forbids
    ├── Invalid                    the user's request is wrong; every mistake is listed
    ├── NotFound                   no such submission or VM of ours
    ├── KeyConflict                the idempotency key was used for another request
    ├── StorageError
    │   ├── StorageUnavailable     wait and run the pass again
    │   ├── Unstorable             the values' own fault: never run it again with them
    │   ├── LeaseLost              drop the result, someone else has the row
    │   ├── TooOld                 start with an empty database
    │   ├── TooNew                 run the release that migrated the database, or a later one
    │   └── AppendOnly             a kept row was about to be edited
    ├── ProviderError
    │   ├── TryLater               certainly not done: call again later
    │   │   └── RateLimited          .retry_after
    │   ├── Unconfirmed            perhaps done: look before calling again
    │   └── Refused                certainly not done, and repeating will not help
    │       ├── VmNotFound           for a delete, success; for a reading, evidence
    │       ├── NoCapacity           may help later: stock comes and goes
    │       ├── NoBalance            a person must pay first
    │       ├── NotYet               the VM is in a state that forbids this for now
    │       ├── AlreadyExists        the name is taken: perhaps by an earlier attempt of ours
    │       └── CredentialsRejected  stop submitting, tell a person
    ├── Undecryptable              put the secret back that encrypted it
    ├── ProofInvalid               believe nothing that the file says
    ├── SealingStopped             a person decides: another key, or a new log
    └── Overloaded                 the receiver's bounds are reached: answer 503

`TryLater`, `Unconfirmed` and `Refused` answer the one question a worker has: may I call again?
"""

from collections.abc import Sequence
from typing import NamedTuple


class FieldError(NamedTuple):
    """One thing wrong with what a person gave us: where it is, and what to do about it."""

    field: str
    message: str


class ServiceError(Exception):
    """Something went wrong in Rollcall."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or type(self).__name__).strip().split("\n", 1)[0])


class _Listing(ServiceError):
    def __init__(self, field_errors: Sequence[FieldError]) -> None:
        self.field_errors = tuple(field_errors)
        super().__init__("; ".join(f"{m.field}: {m.message}" for m in field_errors))


class ConfigError(_Listing):
    """The settings are wrong; nothing was started."""


class Invalid(_Listing):
    """The request is wrong; nothing was kept and nothing was sent."""


class NotAllowed(ServiceError):
    """The lifecycle does not allow this operation in the VM's present state."""


class NotFound(ServiceError):
    """There is no such submission or VM in the record."""


class KeyConflict(ServiceError):
    """This idempotency key was used before, for a different request."""


class Overloaded(ServiceError):
    """More callbacks are waiting than the receiver may hold."""


class Undecryptable(ServiceError):
    """No secret of ours decrypts it."""


class ProofInvalid(ServiceError):
    """The file proves nothing: it is damaged, forged, or signed by another key."""


class SealingStopped(ServiceError):
    """Nothing more can be sealed until a person has decided what to do."""


class StorageError(ServiceError):
    """The record could not be read or written."""


class StorageUnavailable(StorageError):
    """The database cannot be reached, or broke off the transaction; it can be run again."""


class Unstorable(StorageError):
    """The database is well, and will never take these values."""


class LeaseLost(StorageError):
    """The lease ran out and someone else has the row."""


class TooNew(StorageError):
    """The database was migrated by a later release, which this one does not understand."""


class TooOld(StorageError):
    """The database was made by a version before the first release."""


class AppendOnly(StorageError):
    """A row of the kept record was about to be edited or removed."""


class ProviderError(ServiceError):
    """A call to the provider did not work.

    `status` is the HTTP status or None where there was no answer; `reason` the provider's
    `error_reason` slug or None; the message is the provider's own, cut to 500 characters.
    """

    def __init__(self, message: str | None = None, *, status: int | None = None, reason: str | None = None) -> None:
        super().__init__(message[:500] if message else None)
        self.status = status
        self.reason = reason


class TryLater(ProviderError):
    """Certainly not done: the request never reached the provider, or it said to come back."""


class RateLimited(TryLater):
    """The provider's rate limit was reached. `retry_after` is in seconds."""

    def __init__(self, message: str | None = None, *, retry_after: float = 60.0, status: int | None = 429) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class Unconfirmed(ProviderError):
    """Perhaps done: the answer was lost, late, a 5xx or unreadable."""


class Refused(ProviderError):
    """Certainly not done, and the same request will not work by being repeated."""


class VmNotFound(Refused):
    """The provider knows no such VM."""


class NoCapacity(Refused):
    """The provider has not enough stock for this flavor at the moment."""


class NoBalance(Refused):
    """The account's balance does not allow it."""


class NotYet(Refused):
    """The VM's present state forbids this; it may be allowed later."""


class AlreadyExists(Refused):
    """The provider says that the name is taken."""


class CredentialsRejected(Refused):
    """The provider rejected the API key."""
