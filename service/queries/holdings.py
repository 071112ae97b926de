"""What API tokens hold: the VMs that they asked for and that have not ended, at what each costs while it runs.

A VM that is not made yet may become any alternative of its submission, and counts as the largest. Reads living VMs only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from service.core import money
from service.core.alternatives import resource_of
from service.core.create_body import VmSpec, spec_without_user_data
from service.core.limits import Usage
from service.core.money import ContractDiscount, ListPrice, Resource
from service.core.submission import Policy
from service.core.token_limits import Size, usage_of
from service.storage.arrays import is_any
from service.storage.prices import latest_discounts, latest_prices
from service.storage.tables import submissions

# LOST is no end, since such a VM may turn up, but it is not there.
_LIVING: Final = """
WITH living AS MATERIALIZED (
    SELECT submission_id, CASE WHEN provider_id IS NOT NULL THEN flavor END AS flavor, gpu_model, gpu_count,
           CASE assignment WHEN 'assigned' THEN observed_contract_id WHEN 'wanted' THEN contract_id END AS contract_id,
           count(*) AS vms
    FROM vms WHERE ended_at IS NULL AND state <> 'LOST' GROUP BY 1, 2, 3, 4, 5
)
SELECT s.requested_by AS name, CASE WHEN l.flavor IS NULL THEN l.submission_id END AS to_be_made, l.flavor, l.gpu_model,
       l.gpu_count, l.contract_id, sum(l.vms)::integer AS vms
FROM living l JOIN submissions s ON s.submission_id = l.submission_id
WHERE s.requested_by = ANY(CAST(:names AS text[])) AND s.origin = 'created' GROUP BY 1, 2, 3, 4, 5, 6"""


@dataclass(frozen=True, slots=True)
class Rates:
    """The prices that hold at a moment."""

    prices: Sequence[ListPrice]
    discounts: Sequence[ContractDiscount]
    at: datetime

    @property
    def currency(self) -> str:
        return money.currency_of(self.prices)

    def size_of(self, vm: Resource) -> Size:
        """What one such VM counts as."""
        found = money.quote(vm, self.prices, self.discounts, at=self.at, currency=self.currency)
        return Size(vm.gpu_count, found.per_hour)

    def sizes_of(self, spec: VmSpec, policy: Policy, hardware: Sequence[Sequence[Any]]) -> list[Size]:
        """What one VM of a submission counts as, for each of the choices that it may be made from."""
        return [
            self.size_of(resource_of(spec, policy.alternatives, hardware, number))
            for number in range(len(policy.alternatives) + 1)
        ]


async def rates(conn: AsyncConnection, *, now: datetime) -> Rates:
    return Rates(await latest_prices(conn), await latest_discounts(conn), now)


async def of_tokens(conn: AsyncConnection, names: Sequence[str], known: Rates) -> dict[str, Usage]:
    """What the tokens of each name hold together."""
    rows = list(await conn.execute(text(_LIVING), {"names": list(names)}))
    choices = await _choices(conn, {row.to_be_made for row in rows if row.to_be_made}, known)
    held = {name: Usage() for name in names}
    for row in rows:
        held[row.name] = held[row.name].plus(
            usage_of(row.vms, choices[row.to_be_made] if row.to_be_made else [known.size_of(_made(row))])
        )
    return held


async def _choices(conn: AsyncConnection, ids: set[UUID], known: Rates) -> dict[UUID, list[Size]]:
    c = submissions.c
    rows = await conn.execute(
        select(c.submission_id, c.spec, c.policy, c.hardware).where(is_any(c.submission_id, sorted(ids)))
    )
    return {
        row.submission_id: known.sizes_of(
            spec_without_user_data(row.spec), Policy.model_validate(row.policy), row.hardware
        )
        for row in rows
    }


def _made(row: Row[Any]) -> Resource:
    return Resource(row.flavor, row.gpu_model, row.gpu_count, row.contract_id)
