"""The errors of the service. Each is named after what its reader does next.

    ServiceError
    ├── ConfigError                do not start; every wrong setting is listed
    ├── NotAllowed                 the lifecycle forbids this operation now
    ├── Invalid                    the request is wrong; every error is listed
    ├── NotFound                   no such submission or VM
    ├── Unauthorized               send a valid token
    ├── Forbidden                  send a token with another role
    ├── TooManyRequests            .retry_after; a token has sent more than it may
    ├── KeyConflict                the idempotency key was used for another request
    ├── StorageError
    │   ├── StorageUnavailable     wait and run it again
    │   ├── Unstorable             never run it again with these values
    │   ├── LeaseLost              drop the result: another worker has the row
    │   ├── TooOld                 start with an empty database
    │   ├── TooNew                 run the release that migrated the database, or a later one
    │   ├── NotMigrated            migrate as the role that owns the tables
    │   └── AppendOnly             an append-only row was about to be edited
    ├── ProviderError
    │   ├── TryLater               certainly not done: call again later
    │   │   └── RateLimited          .retry_after
    │   ├── Unconfirmed            perhaps done: look it up before calling again
    │   └── Refused                certainly not done, and repeating will not help
    │       ├── VmNotFound           for a delete, success; for a refresh, evidence
    │       ├── NoCapacity           may help later: stock comes and goes
    │       ├── NoBalance            a person must pay first
    │       ├── NotYet               the VM is in a state that forbids this for now
    │       ├── AlreadyExists        the name is taken, perhaps by our own earlier attempt
    │       └── CredentialsRejected  stop creating, tell a person
    ├── Undecryptable              a person must restore the secret that encrypted it
    ├── ProofInvalid               believe nothing that the file says
    ├── ExportInvalid              believe nothing that the export says, or finish it first
    ├── SealingStopped             a person decides: another key, or a new log
    └── Overloaded                 the receiver is full: answer 503

`TryLater`, `Unconfirmed` and `Refused` answer a worker's question: may I call again?
"""

from collections.abc import Sequence
from typing import NamedTuple


class FieldError(NamedTuple):
    """One error in what a person gave us: which field, and what to do about it."""

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
    """The request is wrong; nothing was stored or sent."""


class NotAllowed(ServiceError):
    """The VM's state does not allow this operation."""


class NotFound(ServiceError):
    """There is no such submission or VM in the record."""


class Unauthorized(ServiceError):
    """Send a valid API token as Authorization: Bearer TOKEN."""


class Forbidden(ServiceError):
    """The API token's role does not allow this."""


class TooManyRequests(ServiceError):
    """The API token has sent more requests than it may. `retry_after` is in seconds."""

    def __init__(self, message: str | None = None, *, retry_after: float = 60.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeyConflict(ServiceError):
    """The idempotency key was used for another request."""


class Overloaded(ServiceError):
    """As much of this is running as may: the receiver is full, or enough exports stream."""


class Undecryptable(ServiceError):
    """No callback secret decrypts it."""


class ProofInvalid(ServiceError):
    """The file proves nothing: it is damaged, forged, or signed by another key."""


class ExportInvalid(ServiceError):
    """The files are no finished export. Otherwise the message has a line for each thing that is wrong."""


class SealingStopped(ServiceError):
    """Nothing more can be sealed until a person has decided what to do."""


class StorageError(ServiceError):
    """The database could not be read or written."""


class StorageUnavailable(StorageError):
    """The database cannot be reached, or aborted the transaction; run it again."""


class Unstorable(StorageError):
    """The database will never accept these values."""


class LeaseLost(StorageError):
    """The lease expired, and another worker has the row."""


class TooNew(StorageError):
    """The database was migrated by a later release, which this one does not understand."""


class TooOld(StorageError):
    """The database was made by a version before the first release."""


class NotMigrated(StorageError):
    """The database is behind, and our role may not migrate it."""


class AppendOnly(StorageError):
    """An append-only row was about to be edited or removed."""


class ProviderError(ServiceError):
    """A call to the provider failed.

    `status` is the HTTP status, or None if there was no answer; `reason` the provider's `error_reason`, or None;
    the message is the provider's own, cut to 500 characters.
    """

    def __init__(self, message: str | None = None, *, status: int | None = None, reason: str | None = None) -> None:
        super().__init__(message[:500] if message else None)
        self.status = status
        self.reason = reason


class TryLater(ProviderError):
    """Certainly not done: the request did not reach the provider, or it said to try again."""


class RateLimited(TryLater):
    """The provider's rate limit was reached. `retry_after` is in seconds."""

    def __init__(self, message: str | None = None, *, retry_after: float = 60.0, status: int | None = 429) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class Unconfirmed(ProviderError):
    """Perhaps done: the answer was lost, late, a 5xx or unreadable."""


class Refused(ProviderError):
    """Certainly not done, and repeating the request will not help."""


class VmNotFound(Refused):
    """The provider knows no such VM."""


class NoCapacity(Refused):
    """The provider has no stock of this flavor now."""


class NoBalance(Refused):
    """The account's balance is too low."""


class NotYet(Refused):
    """The VM's state does not allow this yet."""


class AlreadyExists(Refused):
    """The provider says that the name is taken."""


class CredentialsRejected(Refused):
    """The provider rejected the API key."""
