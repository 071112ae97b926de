"""The ownership tags that show that a VM at the provider is ours: callback URL, label and name.

One of them is enough, since the provider may empty labels, lowercase URLs and number names (infrahub-api.md
sections 1.1, 3.2 and 6).
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from service.core.create_body import MAX_NAME
from service.core.observation import Observation
from service.core.token import CreationRef, claimed, mint, verify

#: Characters left for the number that the provider adds to a name, most likely "-1" to "-20".
_NUMBERING: Final = 3
_LABEL: Final = re.compile(r"rollcall-([0-9a-f]{32})-(\d{1,8})", re.IGNORECASE)
#: How much the provider's clock may differ from ours.
_SKEW: Final = timedelta(minutes=2)
_NUMBER: Final = re.compile(r"^\d{1,2}[-_ .]?")
_NAME: Final = re.compile(r".*-[0-9a-f]{10}-\d{1,8}x", re.IGNORECASE | re.DOTALL)


def creation_name(base: str, ref: CreationRef) -> str:
    """The unique name of a creation's VMs, short enough to be numbered. A long `base` is cut.

    It ends in a letter, so that numbering never turns the name of one creation into that of another.
    """
    tag = f"-{ref.submission_id.hex[-10:]}-{ref.creation_no}x"
    return base[: MAX_NAME - _NUMBERING - len(tag)] + tag


def creation_label(ref: CreationRef) -> str:
    """The label that names the creation of a VM."""
    return f"rollcall-{ref.submission_id.hex}-{ref.creation_no}"


def callback_url(public_url: str, ref: CreationRef, secret: bytes) -> str:
    """The callback URL of a creation."""
    return f"{public_url.rstrip('/')}/callbacks/{mint(ref, secret)}"


def ref_of(seen: Observation, secrets: Sequence[bytes], *, by_label: bool = True) -> CreationRef | None:
    """The creation that an observed VM's callback URL or label names, or None. The URL's MAC is verified."""
    if ref := ref_of_url(seen.callback_url, secrets):
        return ref
    if not by_label:
        return None
    return next((ref for ref in map(_ref_of_label, seen.labels) if ref), None)


class Tags:
    """An index of VMs by their ownership tags. A VM's callback token is verified at most once, and only when needed."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets
        # By numbers and not by ref: a UUID is one more object that the garbage collector goes through.
        self._by_ref: dict[tuple[int, int], list[Observation]] = {}  # named by a URL, genuine or not, or by a label
        self._by_ending: dict[str, list[Observation]] = {}
        self._verified: dict[int, CreationRef | None] = {}

    def add(self, seen: Observation) -> None:
        """Index a VM, or index it again: its tags may have changed."""
        self._verified.pop(seen.provider_id, None)
        for ref in {claimed_ref(seen.callback_url), *map(_ref_of_label, seen.labels)}:
            if ref is not None:
                self._by_ref.setdefault(_key(ref), []).append(seen)
        if ending := _ending(seen.name):
            self._by_ending.setdefault(ending, []).append(seen)

    def clear(self) -> None:
        """Forget all VMs."""
        self._by_ref.clear()
        self._by_ending.clear()
        self._verified.clear()

    def ref_of(self, seen: Observation) -> CreationRef | None:
        """The same as the function `ref_of`, cached."""
        if seen.provider_id not in self._verified:
            self._verified[seen.provider_id] = ref_of(seen, self._secrets)
        return self._verified[seen.provider_id]

    def of(self, *, ref: CreationRef, name: str) -> list[Observation]:
        """The VMs that carry a tag of the creation `ref`, whose name is `name`: those for which `has_tag_of` is true."""
        tagged = [one for one in self._by_ref.get(_key(ref), []) if self.ref_of(one) == ref]
        named = self._by_ending.get(_ending(name) or "", [])
        return tagged + [one for one in named if self.ref_of(one) is None and _is_named(one, name)]


def _key(ref: CreationRef) -> tuple[int, int]:
    return ref.submission_id.int, ref.creation_no


def has_tag_of(seen: Observation, *, ref: CreationRef, name: str, secrets: Sequence[bytes]) -> bool:
    """Whether an observed VM carries an ownership tag of the creation `ref`, whose name is `name`.

    The name counts only if no other tag names a creation: somebody may name a fleet after a VM of another.
    """
    own = ref_of(seen, secrets)
    return own == ref if own is not None else _is_named(seen, name)


def _is_named(seen: Observation, name: str) -> bool:
    return any(one.endswith(name.lower()) for one in names_of(seen))


def _ending(name: str | None) -> str | None:
    """The part of a name that tells creations apart, in lower case; None if it does not have our form."""
    found = _NAME.match(name or "")
    return "-".join(found.group().lower().rsplit("-", 2)[1:]) if found else None


def may_belong_to(seen: Observation, *, since: datetime | None, secrets: Sequence[bytes]) -> bool:
    """Whether a VM without any tag may belong to a creation first sent at `since`, as a callback claims.

    Only for a report to people; nothing is done to such a VM.
    """
    untagged = seen.callback_url is None and not names_of(seen) and ref_of(seen, secrets) is None
    return untagged and since is not None and seen.created_at is not None and seen.created_at >= since - _SKEW


def names_of(seen: Observation) -> tuple[str, ...]:
    """The names of creations that a VM's name may hold, in lower case; empty if it does not have our form.

    The provider may put a number before or after a name, so digits in front may be part of it or not.
    """
    found = _NAME.match(seen.name or "")
    if found is None:
        return ()
    name = found.group().lower()
    return tuple(dict.fromkeys((name, _NUMBER.sub("", name))))


def claimed_ref(url: str | None) -> CreationRef | None:
    """The creation that a callback URL names, genuine or not."""
    return claimed(_token_of(url)) if url else None


def ref_of_url(url: str | None, secrets: Sequence[bytes]) -> CreationRef | None:
    """The creation that a callback URL of ours names; its MAC is verified."""
    return verify(_token_of(url), secrets) if url else None


def _token_of(url: str) -> str:
    try:
        path = urlsplit(url.lower()).path
    except ValueError:
        return ""
    return path.rstrip("/").rpartition("/")[2]


def _ref_of_label(label: str) -> CreationRef | None:
    found = _LABEL.fullmatch(label.strip())
    return CreationRef(UUID(hex=found.group(1)), int(found.group(2))) if found else None
