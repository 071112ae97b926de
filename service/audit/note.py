"""Signed notes, checkpoints and proofs, as C2SP publishes them: signed-note, tlog-checkpoint and tlog-proof. No I/O.

Others read these formats too, among them Go's `sumdb/note`. docs/reference/proof.md has the addresses of the pages.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.errors import ProofInvalid

_ED25519: Final = b"\x01"
_SIGNATURE: Final = "— "
_PROOF: Final = "c2sp.org/tlog-proof@v1"
#: More than a note of ours ever has.
_MOST_SIGNATURES: Final = 64


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key by the name that it signs with. As text: name+id+key, as Go's `sumdb/note` writes it."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """A key from its text. Raises `ProofInvalid`."""
        name, _, rest = text.strip().partition("+")
        id_, _, encoded = rest.partition("+")
        data = unbase64(encoded)
        key = cls(name, data[1:])
        if data[:1] != _ED25519 or len(data) != 33 or key.id.hex() != id_:
            raise ProofInvalid("the key is not an Ed25519 verifier key, such as name+1234abcd+AX...")
        return key

    def verifies(self, text: str, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and the name that it signs with. The key is in no repr."""

    name: str
    private: Ed25519PrivateKey

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    def line(self, text: str) -> str:
        """The signature of a text, as the line of a note."""
        signature = self.key.id + self.private.sign(text.encode())
        return f"{_SIGNATURE}{self.name} {base64.b64encode(signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log signs: its origin, how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def signed(self, signers: Iterable[Signer]) -> str:
        """The note that says so, with a signature by each."""
        return self.text + "\n" + "".join(signer.line(self.text) for signer in signers)


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint as it was read, and its signatures: name, key id and signature. Nothing is verified yet."""

    checkpoint: Checkpoint
    signatures: tuple[tuple[str, bytes, bytes], ...]

    @classmethod
    def parse(cls, note: str) -> Self:
        """Raises `ProofInvalid` if it is no checkpoint."""
        text, blank, rest = note.rpartition("\n\n")
        lines = rest.splitlines()
        if not blank or not rest.endswith("\n") or not 0 < len(lines) <= _MOST_SIGNATURES:
            raise ProofInvalid("the checkpoint is cut off, or is none: it has no signatures")
        return cls(_checkpoint(text + "\n"), tuple(map(_signature, lines)))

    def signed_by(self, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Those of `keys` that signed it. Raises `ProofInvalid` if a signature in the name of one of them is wrong."""
        found = []
        for key in keys:
            for name, id_, signature in self.signatures:
                if (name, id_) == (key.name, key.id):
                    if not key.verifies(self.checkpoint.text, signature):
                        raise ProofInvalid(f"the signature by {key.name}+{key.id.hex()} is wrong")
                    found.append(key)
        return found


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf is in a tree: its index, the hashes that lead to the root, and the checkpoint as it was signed."""

    index: int
    path: tuple[bytes, ...]
    note: str

    def __str__(self) -> str:
        hashes = "".join(f"{base64.b64encode(one).decode()}\n" for one in self.path)
        return f"{_PROOF}\nindex {self.index}\n{hashes}\n{self.note}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ProofInvalid`."""
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        if lines[0] != _PROOF or not blank:
            raise ProofInvalid(f"it does not begin with {_PROOF!r}, or is cut off")
        rest = lines[2:] if lines[1:2] and lines[1].startswith("extra ") else lines[1:]
        if not rest or not rest[0].startswith("index "):
            raise ProofInvalid("the proof has no index")
        return cls(_number(rest[0].removeprefix("index ")), tuple(map(unbase64, rest[1:])), note)


def unbase64(text: str) -> bytes:
    """Raises `ProofInvalid`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:  # one text for one value: a change always shows
        raise ProofInvalid("holds something that is not base64")
    return data


def _checkpoint(text: str) -> Checkpoint:
    lines: Sequence[str] = text.split("\n")
    if len(lines) != 4 or not lines[0].isprintable() or not lines[0]:
        raise ProofInvalid("a checkpoint has three lines: origin, size and root")
    root = unbase64(lines[2])
    if len(root) != sha256().digest_size:
        raise ProofInvalid("the root of a checkpoint is a SHA-256")
    return Checkpoint(lines[0], _number(lines[1]), root)


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, _, encoded = line.removeprefix(_SIGNATURE).partition(" ")
    data = unbase64(encoded)
    if not line.startswith(_SIGNATURE) or not name or len(data) <= 4:
        raise ProofInvalid("a signature is cut off, or is none")
    return name, data[:4], data[4:]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0") or len(text) > 18:
        raise ProofInvalid("holds something that is not a number")
    return int(text)
