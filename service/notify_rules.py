"""What may be told, and the rules that say what of it goes where. Read from the settings once; no repr shows a secret."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

#: Each kind of event, and when it happens. Triggers write a notice of each (migrations/versions/r0001_initial.py).
KINDS: Final[Mapping[str, str]] = {
    "submission.ready": "all VMs of a submission were ready at once",
    "submission.failed": "some of its VMs can no longer become ready",
    "submission.deadline_passed": "its deadline passed before all VMs were ready",
    "submission.cancelled": "it was cancelled, by a caller or by a limit; its VMs are being deleted",
    "submission.expires_soon": "its lifetime is nearly over; its VMs will be deleted",
    "submission.expired": "its lifetime is over; its VMs are being deleted",
    "submission.repairs_stopped": "replacements of its VMs keep failing, and no more are made",
    "vm.ready": "a VM is ready for the first time",
    "vm.lost": "the provider no longer knows a VM that nobody deleted",
    "vm.error": "a VM is in ERROR",
    "vm.stuck": "a VM is not ready although it should be",
    "vm.refused": "the provider refused to create a VM",
    "vm.deleted_unasked": "a VM was deleted, and not by Rollcall",
    "vm.off_contract": "a VM runs on demand although a contract was requested, and Rollcall no longer retries",
    "vm.on_contract": "such a VM is on its contract after all",
    "vm.replaced": "a VM was replaced by another",
    "orphan.found": "a VM at the provider has our ownership tags, and no creation waits for it",
    "money.limit_near": "most of a limit of money of a submission is used",
    "money.limit_reached": "a limit of money of a submission is passed",
    "health.raised": "a daemon has a health issue",
    "health.resolved": "no daemon has that health issue any more",
}
#: A message that somebody asked for, to see whether messages arrive. No rule has to want it.
TEST: Final = "test"

_LOG: Final = "log"
_LONGEST_URL: Final = 2000
#: The sizes of a key that Standard Webhooks allows, in bytes.
_KEY_BYTES: Final = range(24, 65)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]


class NotifyTarget(BaseModel):
    """Somewhere to send messages, and which."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Name
    to: SecretStr = Field(description="log, the URL of a webhook, or a URL of Apprise")
    events: tuple[str, ...] = Field(default=("*",), description="kinds of events; vm.* is all of one sort")
    labels: tuple[str, ...] = Field(default=(), description="only of submissions with one of these labels")
    secrets: tuple[SecretStr, ...] = Field(
        default=(), description="keys that sign webhooks, whsec_ and base64; all sign"
    )

    @property
    def sort(self) -> Literal["log", "webhook", "apprise"]:
        url = self.to.get_secret_value()
        if url == _LOG:
            return "log"
        return "webhook" if urlsplit(url).scheme in {"http", "https"} else "apprise"

    @property
    def shown(self) -> str:
        """Where it leads, without what may be a secret."""
        return shown(self.to.get_secret_value())

    def wants(self, kind: str, labels: Iterable[str] = ()) -> bool:
        """Whether it is told of such an event, of a submission with these labels."""
        return any(fnmatchcase(kind, one) for one in self.events) and (
            not self.labels or not set(self.labels).isdisjoint(labels)
        )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        errors = [*_errors_of_url(self), *_errors_of_events(self.events), *_errors_of_secrets(self)]
        if errors:
            raise ValueError("; ".join(errors))
        return self


def with_built_in(given: Sequence[NotifyTarget]) -> tuple[NotifyTarget, ...]:
    """The targets of the settings, and the log unless they say themselves what it gets."""
    return tuple(given) if any(one.name == _LOG for one in given) else (BUILT_IN, *given)


def wanted_kinds(targets: Iterable[NotifyTarget]) -> list[str]:
    """The kinds that some target wants."""
    some = list(targets)
    return [kind for kind in KINDS if any(fnmatchcase(kind, one) for target in some for one in target.events)]


def shown(url: str) -> str:
    """A URL without what may be a secret: its scheme, and its host if it is a webhook's. Apprise puts secrets everywhere."""
    if url == _LOG:
        return url
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        return f"{parts.scheme}://…"
    rest = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{_host(url)}{rest}"


def webhook_errors(url: str) -> list[str]:
    """What is wrong with the URL of a webhook; none of the messages quotes it."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return ["is not a URL"]
    found = []
    if not (url.isascii() and url.isprintable()) or " " in url or len(url) > _LONGEST_URL:
        found.append(f"must be printable ASCII without spaces, at most {_LONGEST_URL} characters")
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        found.append("must be a URL like https://example.com/hook")
    if parts.username is not None or parts.password is not None:
        found.append("must hold no user name and no password: messages are signed")
    if parts.fragment:
        found.append("must have no fragment")
    return found


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"


def _errors_of_url(target: NotifyTarget) -> list[str]:
    url = target.to.get_secret_value()
    if (target.name == _LOG) != (url == _LOG):
        return ["the target named log is the log, and no other is"]
    if target.sort == "webhook":
        return [f"to {error}" for error in webhook_errors(url)]
    if target.sort == "apprise" and ("://" not in url or not url.isprintable()):
        return ["to must be log, a URL like https://example.com/hook, or one of Apprise such as slack://…"]
    return []


def _errors_of_events(events: Iterable[str]) -> list[str]:
    unknown = [one for one in events if not any(fnmatchcase(kind, one) for kind in KINDS)]
    return [f"events: {', '.join(unknown)[:200]} is no kind of event; such are {', '.join(KINDS)}"] if unknown else []


def _errors_of_secrets(target: NotifyTarget) -> list[str]:
    if target.sort != "webhook":
        return ["secrets are for webhooks only"] if target.secrets else []
    if not target.secrets:
        return ["secrets must hold a key to sign with, such as the output of `echo whsec_$(openssl rand -base64 32)`"]
    bad = [str(place) for place, one in enumerate(target.secrets, 1) if not is_key(one.get_secret_value())]
    size = f"{_KEY_BYTES.start} to {_KEY_BYTES.stop - 1}"
    return [f"secrets: number {', '.join(bad)} is not whsec_ and base64 of {size} bytes"] if bad else []


def is_key(secret: str) -> bool:
    """Whether a text is a key of Standard Webhooks."""
    try:
        return secret.startswith("whsec_") and len(base64.b64decode(secret[6:], validate=True)) in _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


#: One log line for whatever an operator would want to look into. Health issues are logged where they are raised, also while
#: the database is away.
BUILT_IN: Final = NotifyTarget(
    name=_LOG,
    to=SecretStr(_LOG),
    events=(
        "vm.lost", "vm.error", "vm.stuck", "vm.refused", "vm.deleted_unasked", "vm.off_contract", "orphan.found",
        "submission.failed", "submission.deadline_passed", "submission.repairs_stopped",
    ),
)  # fmt: skip
