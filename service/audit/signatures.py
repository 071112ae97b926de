"""Which checkpoints of a log are signed by a key that is trusted, or that such a key vouches for."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.audit.findings import Discrepancy, Report
from service.audit.note import Checkpoint, Note, VerifierKey
from service.audit.tree_check import LeafHashes
from service.errors import ProofInvalid

if TYPE_CHECKING:
    from service.audit.verify import SealedRecord


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint that was read, and where it was found."""

    where: str
    note: Note

    @property
    def checkpoint(self) -> Checkpoint:
        return self.note.checkpoint


async def read_checkpoints(
    record: "SealedRecord", published: Iterable[tuple[str, str]], report: Report
) -> list[Signed]:
    """The checkpoints of the log, from the record and from where they were published. No signature is verified yet."""
    stored = await record.checkpoints()
    found = []
    for one in stored:
        signed = _parse(f"the database for {one.size} leaves", one.note, report)
        if signed is None:
            continue
        if (signed.checkpoint.size, signed.checkpoint.origin) == (one.size, record.log.origin):
            found.append(signed)
        else:
            text = f"in the place of the checkpoint of {one.size} leaves is one of {signed.checkpoint.size} leaves of {signed.checkpoint.origin}"
            report.add(Discrepancy(one.size, "checkpoint", f"{text}: checkpoints were swapped"))
    notes = {one.note for one in stored}
    for where, note in published:
        signed = _parse(where, note, report)
        if signed is None or signed.checkpoint.origin != record.log.origin:
            continue
        found.append(signed)
        if note not in notes and signed.checkpoint.size <= record.log.size:
            text = (
                f"the checkpoint of {signed.checkpoint.size} leaves in {where} is not in the database as it was signed"
            )
            report.add(Discrepancy(signed.checkpoint.size, "checkpoint", text))
    return found


def _parse(where: str, note: str, report: Report) -> Signed | None:
    try:
        return Signed(where, Note.parse(note))
    except ProofInvalid as error:
        report.add(Discrepancy(report.size, "checkpoint", f"the checkpoint in {where}: {error}"))
        return None


async def trusted(
    record: "SealedRecord",
    keys: Sequence[VerifierKey],
    found: Sequence[Signed],
    roots: Mapping[int, bytes],
    hashes: LeafHashes,
    report: Report,
) -> list[Signed]:
    """Those checkpoints that a trusted key signed, or one that is sealed in a tree that a trusted key signed."""
    trust = {key for key in keys if key.name == record.log.origin}
    named = await _sealed_keys(record, hashes)
    while True:
        valid = [one for one in found if _is_signed(one, trust)]
        right = (one.checkpoint.size for one in valid if roots.get(one.checkpoint.size) == one.checkpoint.root)
        size = max(right, default=0)
        new = {key for key, leaf in named.items() if leaf < size} - trust
        if not new:
            break
        trust |= new
    _report(found, valid, record.log.size, report)
    return valid


def _report(found: Sequence[Signed], valid: Sequence[Signed], size: int, report: Report) -> None:
    for one in found:
        if one not in valid:
            text = (
                f"the checkpoint of {one.checkpoint.size} leaves in {one.where} is not signed by a key that is trusted"
            )
            report.add(Discrepancy(one.checkpoint.size, "key", text))
        elif one.checkpoint.size > size:
            text = f"the checkpoint in {one.where} is of {one.checkpoint.size} leaves, and the log ends at {size}"
            report.add(Discrepancy(size, "cut off", f"{text}: its end was cut off"))
    report.checkpoints = len({one.checkpoint for one in valid})
    report.signed_size = max((one.checkpoint.size for one in valid if one.checkpoint.size <= size), default=0)


def _is_signed(one: Signed, keys: Iterable[VerifierKey]) -> bool:
    try:
        return bool(one.note.signed_by(keys))
    except ProofInvalid:
        return False


async def _sealed_keys(record: "SealedRecord", hashes: LeafHashes) -> dict[VerifierKey, int]:
    """The keys that the log names as its own, each with its leaf, if that is the leaf of the row as it is."""
    rows = {row.key: row.hash async for page in record.rows("log_keys") for row in page}
    found = {}
    async for seal in record.seals_by_transaction("log_keys"):
        for leaf, key in enumerate(seal.key_lines, seal.first_leaf):
            if key in rows and await hashes.of(leaf, 1) == [rows[key]]:
                with suppress(ProofInvalid):
                    found[VerifierKey.parse(json.loads(key)[1])] = leaf
    return {key: leaf for key, leaf in found.items() if key.name == record.log.origin}
