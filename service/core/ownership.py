"""The marks by which a VM at the provider is recognised as ours: callback URL, label and name.

Each alone is enough, since the provider may empty labels, lowercase URLs and number names
(infrahub-api.md sections 1.1, 3.2 and 6). Making and recognising them are here side by side.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from service.core.create_body import MAX_NAME
from service.core.observation import Observation
from service.core.token import CreationRef, mint, verify

#: The provider numbers the VMs of one call off the name ("-1" to "-20" is the natural guess): room for that.
_NUMBERING: Final = 3
_LABEL: Final = re.compile(r"rollcall-([0-9a-f]{32})-(\d{1,8})", re.IGNORECASE)
#: How far the clock of the provider and that of the record may be apart.
_SKEW: Final = timedelta(minutes=2)
_NUMBER: Final = re.compile(r"^\d{1,2}[-_ .]?")
_NAME: Final = re.compile(r".*-[0-9a-f]{10}-\d{1,8}x", re.IGNORECASE | re.DOTALL)


def creation_name(base: str, ref: CreationRef) -> str:
    """The name to give the VMs of a creation: unique to it, and short enough to be numbered.

    It ends in a letter, so that no numbering can turn the name of one creation into that of another. A long
    `base` is cut.
    """
    tag = f"-{ref.submission_id.hex[-10:]}-{ref.creation_no}x"
    return base[: MAX_NAME - _NUMBERING - len(tag)] + tag


def creation_label(ref: CreationRef) -> str:
    """The label that says which creation a VM belongs to."""
    return f"rollcall-{ref.submission_id.hex}-{ref.creation_no}"


def callback_url(public_url: str, ref: CreationRef, secret: bytes) -> str:
    """The URL to give the provider for a creation's events."""
    return f"{public_url.rstrip('/')}/callbacks/{mint(ref, secret)}"


def ref_of(seen: Observation, secrets: Sequence[bytes]) -> CreationRef | None:
    """The creation that an observed VM's callback URL or label names, or None. The URL's MAC is verified."""
    if seen.callback_url and (ref := _ref_of_url(seen.callback_url, secrets)):
        return ref
    return next((ref for ref in map(_ref_of_label, seen.labels) if ref), None)


def has_tag_of(seen: Observation, *, ref: CreationRef, name: str, secrets: Sequence[bytes]) -> bool:
    """Whether an observed VM carries a mark of the creation `ref`, whose name is `name`.

    A name counts where no other mark says whose it is: somebody may name a fleet after a VM of another.
    """
    own = ref_of(seen, secrets)
    return own == ref if own is not None else any(one.endswith(name.lower()) for one in names_of(seen))


def may_belong_to(seen: Observation, *, since: datetime | None, secrets: Sequence[bytes]) -> bool:
    """Whether a VM that lost every mark may be of a creation that was first sent at `since`, as a callback says.

    It carries nobody else's mark, and is not older. That is worth a person's look, and no reason to touch it.
    """
    unmarked = seen.callback_url is None and not names_of(seen) and ref_of(seen, secrets) is None
    return unmarked and since is not None and seen.created_at is not None and seen.created_at >= since - _SKEW


def names_of(seen: Observation) -> tuple[str, ...]:
    """What may be the creation's name within an observed VM's name, in lower case; empty where it has not our form.

    The provider may number names behind or in front, so what is in front may be part of the name or not.
    """
    found = _NAME.match(seen.name or "")
    if found is None:
        return ()
    name = found.group().lower()
    return tuple(dict.fromkeys((name, _NUMBER.sub("", name))))


def _ref_of_url(url: str, secrets: Sequence[bytes]) -> CreationRef | None:
    try:
        path = urlsplit(url.lower()).path
    except ValueError:
        return None
    return verify(path.rstrip("/").rpartition("/")[2], secrets)


def _ref_of_label(label: str) -> CreationRef | None:
    found = _LABEL.fullmatch(label.strip())
    return CreationRef(UUID(hex=found.group(1)), int(found.group(2))) if found else None
