"""The keys that checkpoints are signed with. A log's keys sign in the name of its origin."""

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection

from service.audit.note import Signer, VerifierKey
from service.config import Settings
from service.errors import SealingStopped
from service.runtime.runtime import Runtime
from service.runtime.secrets import derived_seal_keys, seal_keys
from service.storage import seals
from service.storage.seals import Log, LogKey


def signers_of(keys: Iterable[bytes], origin: str) -> list[Signer]:
    return [Signer(origin, Ed25519PrivateKey.from_private_bytes(key)) for key in keys]


def own_keys(settings: Settings, secrets: Iterable[bytes]) -> list[bytes]:
    """The keys of this machine: those of the settings, and those that are derived from its callback secrets."""
    return [*seal_keys(settings), *derived_seal_keys(secrets)]


async def admit(conn: AsyncConnection, rt: Runtime, log: Log) -> list[Signer]:
    """The signers of this daemon, for this log; those that are new are put on record.

    Raises `SealingStopped` if the log knows none of them: a key joins a log only beside one that is known already.
    """
    given = signers_of(seal_keys(rt.settings), log.origin)
    derived = signers_of(derived_seal_keys(rt.callback_secrets), log.origin)
    known = set(await seals.keys_of(conn, log.log_id))
    ours = given or derived
    if known and known <= {str(one.key) for one in derived}:
        ours = [*given, *derived]  # ROLLCALL_SEAL_KEYS was not set until now
    if known and not known.intersection(str(one.key) for one in ours):
        raise SealingStopped(
            f"this daemon's key ({ours[0].key}) is none of the log's ({', '.join(sorted(known))}): put a key of the log back beside it "
            "(ROLLCALL_SEAL_KEYS, or ROLLCALL_CALLBACK_SECRETS), or run `rollcall audit new-log`"
        )
    for one in ours:
        if str(one.key) not in known:
            await seals.add_key(conn, LogKey(log.log_id, str(one.key), rt.clock.now()))
    return ours


def parse_keys(texts: Iterable[str]) -> list[VerifierKey]:
    """Verifier keys, from one a line; empty lines and comments (#) are passed over. Raises `ProofInvalid`."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [VerifierKey.parse(line) for line in lines if line and not line.startswith("#")]
