"""The statements of `queries/cost.py`: intervals of states, contracts and prices, joined and added up in exact numbers."""

from typing import Final

_ALIVE: Final = """
    v.created_at < :until AND (v.ended_at IS NULL OR v.ended_at > :since)
    AND (CAST(:submission_id AS uuid) IS NULL OR v.submission_id = CAST(:submission_id AS uuid))
    AND (CAST(:vm_no AS integer) IS NULL OR v.vm_no = CAST(:vm_no AS integer))"""

#: The kinds of VMs that were alive in a period.
KINDS: Final = f"SELECT DISTINCT v.flavor, v.gpu_model, v.gpu_count FROM vms v WHERE {_ALIVE}"  # noqa: S608  a constant

#: The VMs that are charged now, by what their price depends on.
NOW: Final = """
SELECT flavor, gpu_model, gpu_count, CASE WHEN assignment = 'assigned' THEN observed_contract_id END AS contract_id,
       state = ANY(:unpriced) AS unpriced, on_demand_since IS NOT NULL AS off_contract,
       count(*) AS vms
FROM vms WHERE ended_at IS NULL AND state = ANY(:billed)
    AND (CAST(:submission_id AS uuid) IS NULL OR submission_id = CAST(:submission_id AS uuid)) GROUP BY 1, 2, 3, 4, 5, 6"""

# A turn of a contract holds until the next; before the first a VM is on demand, and not against anyone's request.
_PRICED: Final = """
moves AS (
    SELECT s.*, t.to_state, t.at AS lower_at,
           lead(t.at, 1, :until) OVER (PARTITION BY s.submission_id, s.vm_no ORDER BY t.seq) AS upper_at
    FROM scope s JOIN transitions t ON t.submission_id = s.submission_id AND t.vm_no = s.vm_no
    WHERE t.verdict = 'moved' AND t.at < :until {of_t}
), running AS (
    SELECT submission_id, vm_no, flavor, gpu_model, gpu_count, to_state = ANY(:unpriced) AS unpriced,
           greatest(lower_at, :since) AS lower_at, upper_at
    FROM moves WHERE to_state = ANY(:billed) AND upper_at > greatest(lower_at, :since)
), turns AS (
    SELECT submission_id, vm_no, contract_id, off_contract, at AS lower_at,
           lead(at, 1, :until) OVER (PARTITION BY submission_id, vm_no ORDER BY at, attempt) AS upper_at
    FROM (
        SELECT submission_id, vm_no, NULL::integer AS contract_id, false AS off_contract,
               '-infinity'::timestamptz AS at, -1 AS attempt
        FROM scope
        UNION ALL
        SELECT a.submission_id, a.vm_no, CASE WHEN a.outcome = 'assigned' THEN a.contract_id END,
               a.outcome = 'on_demand', a.at, a.attempt
        FROM scope s JOIN assignments a ON a.submission_id = s.submission_id AND a.vm_no = s.vm_no
        WHERE a.outcome IN ('assigned', 'on_demand') AND a.at < :until {of_a}
    ) AS every_turn
), rates AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rates AS jsonb)) AS r(
        flavor text, gpu_model text, gpu_count integer, contract_id integer,
        lower_at timestamptz, upper_at timestamptz, per_hour numeric)
), pieces AS (
    SELECT r.submission_id, r.vm_no, r.flavor, r.gpu_model, r.gpu_count, t.contract_id, t.off_contract, r.unpriced,
           greatest(r.lower_at, t.lower_at) AS lower_at, least(r.upper_at, t.upper_at) AS upper_at
    FROM running r
    JOIN turns t ON t.submission_id = r.submission_id AND t.vm_no = r.vm_no
        AND t.lower_at < r.upper_at AND t.upper_at > r.lower_at
), priced AS (
    SELECT p.submission_id, p.vm_no, p.contract_id, p.off_contract,
           CASE WHEN NOT p.unpriced THEN x.per_hour END AS per_hour,
           greatest(p.lower_at, x.lower_at) AS lower_at, least(p.upper_at, x.upper_at) AS upper_at
    FROM pieces p LEFT JOIN rates x ON x.flavor = p.flavor AND coalesce(x.gpu_model, '') = coalesce(p.gpu_model, '')
        AND coalesce(x.gpu_count, -1) = coalesce(p.gpu_count, -1)
        AND coalesce(x.contract_id, -1) = coalesce(p.contract_id, -1)
        AND x.lower_at < p.upper_at AND x.upper_at > p.lower_at
)"""

_SUMS: Final = """
    count(DISTINCT (s.submission_id, s.vm_no)) AS vms,
    sum(seconds) FILTER (WHERE per_hour IS NOT NULL) AS billed_seconds,
    sum(seconds) FILTER (WHERE per_hour IS NULL) AS unknown_seconds,
    sum(seconds * per_hour) AS hour_seconds,
    sum(seconds) FILTER (WHERE off_contract AND per_hour IS NOT NULL) AS off_contract_seconds,
    sum(seconds) FILTER (WHERE off_contract AND per_hour IS NULL) AS off_contract_unknown_seconds,
    sum(seconds * per_hour) FILTER (WHERE off_contract) AS off_contract_hour_seconds"""

_SAME_VM: Final = "p.submission_id = s.submission_id AND p.vm_no = s.vm_no"
_SECONDS: Final = "CROSS JOIN LATERAL (SELECT extract(epoch FROM p.upper_at - p.lower_at) AS seconds) AS length"
_EVERY_VM: Final = f"FROM scope s LEFT JOIN (priced p {_SECONDS}) ON {_SAME_VM}"
_CHARGED: Final = f"FROM scope s JOIN priced p ON {_SAME_VM} {_SECONDS}"

# A VM that runs over midnight is divided at it. Days are those of UTC: 24 hours, also in a database whose time zone has others.
_DAYS: Final = f"""FROM scope s JOIN priced p ON {_SAME_VM}
    CROSS JOIN LATERAL generate_series(
        date_trunc('day', p.lower_at, 'UTC'), p.upper_at - interval '1 microsecond', interval '24 hours') AS day
    CROSS JOIN LATERAL (SELECT extract(epoch FROM least(p.upper_at, day + interval '24 hours')
        - greatest(p.lower_at, day)) AS seconds) AS length"""  # noqa: S608  parts of constants

# A VM with several labels counts under each of them.
_LABELS: Final = f"""{_EVERY_VM}
    LEFT JOIN LATERAL (SELECT DISTINCT label FROM jsonb_array_elements_text(
        CASE WHEN jsonb_typeof(s.labels) = 'array' THEN s.labels ELSE '[]'::jsonb END) AS label) AS labelled ON true"""  # noqa: S608  parts of constants

#: The key of each kind of report, and where its rows come from.
_KEYS: Final = {
    "total": ("'total'", _EVERY_VM),
    "vm": ("s.submission_id || '.' || s.vm_no", _EVERY_VM),
    "submission": ("s.submission_id::text", _EVERY_VM),
    "contract": ("coalesce(p.contract_id::text, 'none')", _CHARGED),
    "label": ("coalesce(label, 'none')", _LABELS),
    "caller": ("s.requested_by", _EVERY_VM),
    "flavor": ("s.flavor", _EVERY_VM),
    "region": ("coalesce(s.region, 'none')", _EVERY_VM),
    "day": ("to_char(day AT TIME ZONE 'UTC', 'YYYY-MM-DD')", _DAYS),
}

# Reports with a row for each VM or submission compute no more of them than a page holds.
_NARROWED: Final = {
    "vm": "ORDER BY v.submission_id, v.vm_no LIMIT :limit",
    "submission": "",
}


def statement(by: str, *, after: bool = False, paged: bool = False, of_submission: bool = False) -> str:
    """The statement of a report by a key, or of its total. `after` and `paged` say that it is a page, and which.

    `of_submission`: of one submission, whose rows alone are read then.
    """
    key, source = _KEYS[by]
    having = f'HAVING ({key}) COLLATE "C" > :after' if after and by not in _NARROWED else ""
    order = "min(s.submission_id::text), min(s.vm_no)" if by == "vm" else f'({key}) COLLATE "C"'
    return f"""WITH scope AS (
    SELECT v.submission_id, v.vm_no, v.flavor, v.gpu_model, v.gpu_count, v.region,
           o.requested_by, o.spec -> 'labels' AS labels
    FROM vms v JOIN submissions o ON o.submission_id = v.submission_id
    WHERE {_ALIVE} {_narrow(by, after=after) if paged else ""}
), {_priced(of_submission=of_submission)}
SELECT {key} AS key, {_SUMS}
{source}
{"" if by == "total" else f"GROUP BY {key}"} {having}
{f"ORDER BY {order} LIMIT :limit" if paged else ""}"""  # noqa: S608  parts of constants, chosen by a name


def _priced(*, of_submission: bool) -> str:
    # The planner does not see through `scope` that only the rows of one submission are wanted, and would read them all.
    mine = {f"of_{table}": f"AND {table}.submission_id = :submission_id" if of_submission else "" for table in "ta"}
    return _PRICED.format(**mine)


def _narrow(by: str, *, after: bool) -> str:
    if by == "vm":
        further = "AND (v.submission_id, v.vm_no) > (CAST(:after AS uuid), CAST(:after_vm_no AS integer))"
        return f"{further if after else ''} {_NARROWED['vm']}"
    if by == "submission":
        further = "AND v.submission_id > CAST(:after AS uuid)" if after else ""
        return f"""AND v.submission_id IN (SELECT DISTINCT v.submission_id FROM vms v WHERE {_ALIVE} {further}
            ORDER BY v.submission_id LIMIT :limit)"""  # noqa: S608  as above
    return ""
