"""The keys that checkpoints are signed with. A log's keys sign in the name of its origin."""

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit.note import Signer, VerifierKey
from service.errors import SealingStopped
from service.runtime.runtime import Runtime
from service.runtime.secrets import seal_keys
from service.storage import seals
from service.storage.seals import Log, LogKey


def signers_of(keys: Iterable[bytes], origin: str) -> list[Signer]:
    return [Signer(origin, Ed25519PrivateKey.from_private_bytes(key)) for key in keys]


def signers(rt: Runtime, origin: str) -> list[Signer]:
    """Those of this daemon. Raises `ConfigError` if the stored key cannot be used."""
    return signers_of(seal_keys(rt.settings), origin)


async def admit(conn: AsyncConnection, rt: Runtime, log: Log) -> list[Signer]:
    """The signers of this daemon, for this log; those that are new are put on record.

    Raises `SealingStopped` if the log knows none of them: a key joins a log only beside one that is known already.
    """
    ours = signers(rt, log.origin)
    known = await seals.keys_of(conn, log.log_id)
    if known and not {str(one.key) for one in ours}.intersection(known):
        raise SealingStopped(
            f"this daemon's key ({ours[0].key}) is none of the log's ({', '.join(known)}): "
            "set ROLLCALL_SEAL_KEYS to the same keys on every daemon, or run `rollcall audit new-log`"
        )
    for one in ours:
        if str(one.key) not in known:
            await seals.add_key(conn, LogKey(log.log_id, str(one.key), rt.clock.now()))
    return ours


def parse_keys(texts: Iterable[str]) -> list[VerifierKey]:
    """Verifier keys, from one a line; empty lines and comments (#) are passed over. Raises `ProofInvalid`."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [VerifierKey.parse(line) for line in lines if line and not line.startswith("#")]
