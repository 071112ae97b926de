"""Verify a file that `rollcall audit prove` wrote, with none of Rollcall's code: Python 3.11 and `cryptography` only.

    python verify_proof.py FILE KEY...       prints the rows that are proved; exits 1 if anything is wrong

KEY is a verifier key as `rollcall audit key` prints it, or a file with one a line. Get it before you need it, and not from
whoever gives you the file. docs/reference/proof.md describes the formats.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FLEET = "00000000-0000-0000-0000-000000000000"


def main(file: str, *keys: str) -> None:
    bundle = json.loads(Path(file).read_text(encoding="utf-8"))
    if bundle["format"] != "rollcall-proof/1" or not bundle["entries"]:
        sys.exit("this is no rollcall-proof/1, or it has no entries")
    trusted = read_keys(keys)
    transitions = []
    for entry in bundle["entries"]:
        index, path, note = read_proof(entry["proof"])
        size, root = read_checkpoint(note, trusted)
        leaf = entry["leaf"].encode()
        if root_from_path(hashlib.sha256(b"\x00" + leaf).digest(), index, size, path) != root:
            sys.exit(f"leaf {index}: the row is not what was sealed")
        head, _, row = entry["leaf"].partition("\n")
        values = json.loads(row)
        if values["submission_id"] not in (bundle["vm"]["submission_id"], FLEET):
            sys.exit(f"leaf {index}: the row is of another submission")
        if head == "rollcall/1 transitions":
            transitions.append(values["seq"])
        print(f"{index:>10}  {head.removeprefix('rollcall/1 '):<12} {row}")
    if sorted(transitions) != list(range(1, len(transitions) + 1)):
        sys.exit("a transition of the VM is left out")
    print(f"valid: {len(bundle['entries'])} rows", file=sys.stderr)


def read_keys(given: tuple[str, ...]) -> dict[tuple[str, bytes], Ed25519PublicKey]:
    """Public keys by name and id. A verifier key is NAME+ID+BASE64, where the data is a byte 1 and the Ed25519 key."""
    keys = {}
    for text in given:
        for line in [text] if "+" in text else Path(text).read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            name, id_, encoded = line.strip().split("+", 2)
            data = unbase64(encoded)
            found = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
            if data[0] != 1 or found.hex() != id_:
                sys.exit(f"this is no Ed25519 verifier key: {line}")
            keys[name, found] = Ed25519PublicKey.from_public_bytes(data[1:])
    return keys


def read_proof(text: str) -> tuple[int, list[bytes], str]:
    """A C2SP tlog-proof: the leaf's index, the hashes from its sibling up, and the checkpoint."""
    head, _, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    if first != "c2sp.org/tlog-proof@v1":
        sys.exit("this is no tlog-proof")
    if lines[0].startswith("extra "):
        lines = lines[1:]
    return int(lines[0].removeprefix("index ")), [unbase64(one) for one in lines[1:]], note


def read_checkpoint(note: str, keys: dict[tuple[str, bytes], Ed25519PublicKey]) -> tuple[int, bytes]:
    """A C2SP tlog-checkpoint that a trusted key signed in the name of its origin: how many leaves, and the root."""
    text, _, signatures = note.rpartition("\n\n")
    origin, size, root = text.split("\n")
    signed = False
    for line in signatures.splitlines():
        dash, name, encoded = line.split(" ")
        data = unbase64(encoded)
        key = keys.get((name, data[:4]))
        if dash == "\u2014" and name == origin and key is not None:
            key.verify(data[4:], (text + "\n").encode())  # raises InvalidSignature
            signed = True
    if not signed:
        sys.exit(f"the checkpoint of {origin} is signed by no key that you trust")
    return int(size), unbase64(root)


def root_from_path(hash_: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a leaf's hash and its path lead to (RFC 9162, 2.1.3.2)."""
    if index >= size:
        sys.exit(f"leaf {index} is not in a tree of {size}")
    last = size - 1
    for one in path:
        if last == 0:
            sys.exit("the path is too long")
        if index % 2 or index == last:
            hash_ = hashlib.sha256(b"\x01" + one + hash_).digest()
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            hash_ = hashlib.sha256(b"\x01" + hash_ + one).digest()
        index, last = index // 2, last // 2
    if last:
        sys.exit("the path is too short")
    return hash_


def unbase64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        sys.exit("this is not base64 as it is written")
    return data


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
