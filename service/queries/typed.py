"""Statements in text, with the types of their parameters, which the driver cannot tell from their values."""

import re
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Integer, LargeBinary, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

_MOMENT: Final = TIMESTAMP(timezone=True)
_TYPES: Final[dict[str, Any]] = {
    "since": _MOMENT,
    "until": _MOMENT,
    "submission_id": Uuid(),
    "vm_no": Integer(),
    "rates": Text(),
    "billed": ARRAY(Text()),
    "unpriced": ARRAY(Text()),
    "after": Text(),
    "after_id": Uuid(),
    "after_vm_no": Integer(),
    "ids": ARRAY(Uuid()),
    "states": ARRAY(Text()),
    "numbers": ARRAY(Integer()),
    "provider_ids": ARRAY(BigInteger()),
    "moments": ARRAY(_MOMENT),
    "ends": ARRAY(_MOMENT),
    "digits": LargeBinary(),
    "all_digits": ARRAY(LargeBinary()),
    "provider_id": BigInteger(),
    "history": Text(),
    "at": _MOMENT,
    "created_at": _MOMENT,
    "after_submission": Uuid(),
    "creation_no": Integer(),
    "source": Text(),
    "text": Text(),
    "limit": Integer(),
}


@lru_cache(maxsize=256)
def typed(sql: str) -> TextClause:
    """The statement, with the types of those parameters that it has."""
    used = {name: kind for name, kind in _TYPES.items() if re.search(rf"(?<!:):{name}\b", sql)}
    return text(sql).bindparams(*(bindparam(name, type_=kind) for name, kind in used.items()))
