"""The file that proves what is on record of a VM: each row as its leaf, with a C2SP tlog-proof. Needs no database.

docs/verify_proof.py reads the same file with no code of ours.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from service.audit.merkle import leaf_hash, root_from_path
from service.audit.note import Note, Proof, VerifierKey
from service.core.ids import FLEET
from service.errors import ProofInvalid
from service.storage.leaf_sql import FORMAT

BUNDLE: Final = "rollcall-proof/1"
#: Calls for the whole fleet that tell something of the VM carry this submission.
_FLEET: Final = str(FLEET)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as it was sealed, and the proof that it was."""

    leaf: str
    proof: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is on record of a VM, with proofs. `unsealed` rows were recorded after the last checkpoint."""

    vm: dict[str, Any]
    keys: Sequence[str]  #: what the log says; not to be trusted for that
    entries: Sequence[Entry]
    unsealed: int = 0
    format: str = field(default=BUNDLE)

    def __str__(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ProofInvalid`."""
        try:
            read = json.loads(text)
            if read["format"] != BUNDLE:
                raise ProofInvalid(f"it is no {BUNDLE} but {str(read['format'])[:40]!r}")
            entries = [Entry(str(one["leaf"]), str(one["proof"])) for one in read["entries"]]
            return cls(dict(read["vm"]), list(read["keys"]), entries, int(read["unsealed"]))
        except (ValueError, TypeError, KeyError):
            raise ProofInvalid(f"it is no {BUNDLE}, or is cut off") from None


@dataclass(frozen=True, slots=True)
class ProvedRow:
    """A row of the record that was proved: where it is in the log, its table, and its columns."""

    index: int
    table: str
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proved:
    """What a bundle proves, in the order of the log; by which key it was signed, and how large the tree was."""

    rows: Sequence[ProvedRow]
    key: VerifierKey
    size: int


def check(text: str, keys: Sequence[VerifierKey]) -> Proved:
    """Verify a bundle with keys that are trusted. Raises `ProofInvalid` with the first thing that is wrong."""
    bundle = Bundle.parse(text)
    if not bundle.entries:
        raise ProofInvalid("it proves nothing: it has no entries")
    rows: list[ProvedRow] = []
    signed: dict[str, VerifierKey] = {}
    for number, entry in enumerate(bundle.entries, 1):
        try:
            proof = Proof.parse(entry.proof)
            signed[proof.note] = signed.get(proof.note) or _signature(proof.note, keys)
            rows.append(_proved(entry.leaf, proof, bundle))
        except ProofInvalid as error:
            raise ProofInvalid(f"entry {number}: {error}") from None
    _no_gaps(rows)
    note = max(signed, key=lambda one: Note.parse(one).checkpoint.size)
    return Proved(sorted(rows, key=lambda one: one.index), signed[note], Note.parse(note).checkpoint.size)


def _signature(note: str, keys: Sequence[VerifierKey]) -> VerifierKey:
    parsed = Note.parse(note)
    by = parsed.signed_by([key for key in keys if key.name == parsed.checkpoint.origin])
    if not by:
        raise ProofInvalid(f"the checkpoint of {parsed.checkpoint.origin} is not signed by a key that is trusted")
    return by[0]


def _proved(leaf: str, proof: Proof, bundle: Bundle) -> ProvedRow:
    checkpoint = Note.parse(proof.note).checkpoint
    root = root_from_path(proof.index, checkpoint.size, leaf_hash(leaf.encode()), proof.path)
    if root != checkpoint.root:
        raise ProofInvalid("the row is not what was sealed: the proof does not lead to the signed root")
    head, _, row = leaf.partition("\n")
    values = json.loads(row)
    if values.get("submission_id") not in {bundle.vm.get("submission_id"), _FLEET}:
        raise ProofInvalid("the row is of another submission")
    return ProvedRow(proof.index, head.removeprefix(f"{FORMAT} "), values)


def _no_gaps(rows: Sequence[ProvedRow]) -> None:
    """A VM's transitions are numbered, so one that was left out shows."""
    numbers = sorted(one.row["seq"] for one in rows if one.table == "transitions")
    if numbers != list(range(1, len(numbers) + 1)):
        missing = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        raise ProofInvalid(f"transition {missing} of the VM is left out")
