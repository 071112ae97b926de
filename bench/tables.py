"""Write the measured figures from bench/results/*.json into a page of tables, the README, docs/explanation/scale.md and a picture.

    .venv/bin/python bench/tables.py [--check]     `--check` only says whether they are current

No figure on those pages is typed by hand.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import apply
import as_of
import audit
import growth
import ingest
import jobs
import latency
import pages

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = RESULTS / "README.md"
PICTURE = ROOT / "docs" / "images" / "measured.svg"
README = ROOT / "README.md"
SCALE = ROOT / "docs" / "explanation" / "scale.md"
BEGIN, END = "<!-- written by bench/tables.py -->", "<!-- end of what is written by bench/tables.py -->"

Result = Mapping[str, object]
Bar = tuple[str, float, str]  # what it is, how much, and as it is written

#: What the contenders are, in words.
CONTENDERS = {
    "nothing": "aiohttp that does nothing: the ceiling",
    "ours": "Rollcall",
    "daemon": "Rollcall, all parts in one process",
    "row": "asyncpg, a row and a commit for each",
    "first": "SQLAlchemy, a session for each",
    "fastapi_nothing": "FastAPI that does nothing",
    "fastapi_first": "FastAPI, a session for each",
    "pgqueuer": "pgqueuer",
    "pgqueuer, empty": "pgqueuer, jobs that do nothing",
    "procrastinate": "procrastinate",
    "procrastinate, as it comes": "procrastinate, default settings",
    "ceiling": "the SQL alone: the ceiling",
}


def main() -> None:
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    written = {
        PAGE: "\n".join(page(results)) + "\n",
        PICTURE: picture(results),
        README: _between(README.read_text(encoding="utf-8"), part(results)),
        SCALE: _between(SCALE.read_text(encoding="utf-8"), scale(results)),
    }
    if "--check" not in sys.argv[1:]:
        for path, content in written.items():
            path.write_text(content, encoding="utf-8")
        return
    stale = [path for path, content in written.items() if not path.exists() or path.read_text("utf-8") != content]
    if stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"{names}: not what bench/results says; run: python bench/tables.py")


def page(results: Mapping[str, Result]) -> Iterator[str]:
    """All tables, each with its machine."""
    yield "<!-- Written by bench/tables.py from the files beside it. Change those, not this one. -->\n"
    yield "# What was measured\n"
    yield "[bench/README.md](../README.md) says how, and what the names mean. Medians; in brackets, least and most.\n"
    for name, title, lines in (
        ("ingest", "Ingest: callbacks that became durable", ingest.table),
        ("apply", "Apply: callbacks that moved VMs", apply.table),
        ("latency", "Latency: milliseconds until a VM has moved", latency.table),
        ("growth", "Growth: rates by what is on record already", growth.table),
    ):
        yield f"## {title}\n"
        yield f"{_where(results[name])}\n"
        yield from (line.strip("\n") or "" for line in _spaced(lines(results[name]["summary"])))
        yield ""
    if failover := results.get("failover"):
        yield from _failover(failover)
    yield from ("## Jobs: what each costs with so many living VMs\n", f"{_where(results['jobs'])}\n")
    yield from (*jobs.table(results["jobs"]["jobs"]), "")
    if found := results.get("pages"):
        yield from ("## Pages of the dashboard on a large record\n", f"{_where(found)}\n")
        yield f"{found['vms']:,} living VMs and {found['events']:,} events. The first of its kind reads from the disk, or counts.\n"
        yield from (*pages.table(found["pages"]), "")
    if asked := results.get("audit"):
        yield from ("## An auditor's questions, beside one plain table of events\n", f"{_where(asked)}\n")
        yield from (*audit.table(asked), "")
    yield "## The others\n"
    yield "| what | result | where |\n|---|---|---|"
    yield from (f"| {what} | {found} | {_where(results[name])} |" for name, what, found in _others(results))


def _failover(result: Result) -> Iterator[str]:
    yield "## Failover: from the promotion to the first applied callback\n"
    versions, times = result["versions"], result["patroni_settings"]
    if note := result.get("note"):
        yield f"{note[0].upper()}{note[1:]}.\n"
    yield f"{_where(result)}; Patroni {versions['patroni']}, etcd {versions['etcd']}, Postgres {versions['postgres']}, {times}\n"
    yield "| primary | replication | daemons | rounds | Patroni's own time, p50 | max | applied after, p50 | max | caught up after, p50 | max |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for one in result["summary"]:
        spans = (one[f"{name}_seconds"] for name in ("promoted", "applied", "caught_up"))
        cells = " | ".join(f"{span['p50']:.1f} s | {span['max']:.1f} s" for span in spans)
        yield f"| {one['kind']} | {one['replication']} | {_daemons(one)} | {one['rounds']} | {cells} |"
    yield "\n| primary | replication | daemons | acknowledged | lost | most in a round | other complaints |\n|---|---|--:|--:|--:|--:|--:|"
    for one in result["summary"]:
        counts = (
            f"{one['acknowledged']:,} | {one['lost']:,} | {one['most_lost_in_a_round']:,} | {len(one['complaints'])}"
        )
        yield f"| {one['kind']} | {one['replication']} | {_daemons(one)} | {counts} |"
    yield ""


def _daemons(one: Mapping[str, object]) -> str:
    return "1" if one["daemons"] == 1 else f"{one['daemons']}, of which one is killed"


def _spaced(lines: Iterator[str] | list[str]) -> Iterator[str]:
    """The lines, with an empty one around each heading that begins or ends with one."""
    for line in lines:
        if line.startswith("\n"):
            yield from ("", line.strip("\n"), "")
        else:
            yield line


def _where(result: Result) -> str:
    about = result.get("machine", result)
    names = ("aiohttp", "uvloop", "asyncpg", "sqlalchemy", "fastapi", "uvicorn", "pgqueuer", "procrastinate")
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in names if about["versions"].get(name))
    postgres = result.get("postgres", {}).get("server_version")
    on = f"{about['cores']} cores ({about['model']}), Python {about['python']}" + (
        f", Postgres {postgres}" if postgres else ""
    )
    return f"{_day(result) or 'Undated'}, {on}, load {about['load_before']:.1f} before; {versions}"


def _day(result: Result) -> str:
    return result.get("machine", result).get("at", "")[:10]


def _others(results: Mapping[str, Result]) -> Iterator[tuple[str, str, str]]:
    if memory := results.get("memory"):
        told = f"{memory['most_mb']:.0f} MB at most, {memory['growth_mb']:+.1f} MB from the first half to the second"
        yield "memory", f"resident memory of the daemon, {memory['minutes']:.0f} minutes at {memory['rate']}/s", told
    crash, outage, flood = results["crash"], results["outage"], results["flood"]
    rounds = sum(crash["rounds"].values())
    told = f"{crash['acknowledged']:,} acknowledged, {crash['lost']} lost, {crash['moved_twice']} moved a VM twice"
    yield "crash", f"{rounds} rounds of load, then kill -9 or Postgres stopped at once", told
    told = f"{outage['acknowledged']:,} answered 200, recorded {outage['recorded_seconds_after_return']:.1f} s and applied "
    told += f"{outage['applied_seconds_after_return']:.1f} s after its return"
    yield "outage", f"Postgres away for {outage['seconds']:.0f} s at {outage['rate']:.0f}/s", told
    if nats := outage.get("nats"):
        told = (
            f"{nats['acknowledged']:,} answered 200, p99 {nats['p99_ms']:.0f} ms (on disk {outage['p99_ms']:.0f} ms), "
        )
        told += f"recorded {nats['recorded_seconds_after_return']:.1f} s after its return"
        yield "outage", "the same, with the spool in three NATS servers on the same machine", told
    if failover := results.get("failover"):
        yield "failover", *_failed_over(failover)
    told = f"{flood['good']:,} good callbacks answered, p99 {flood['good_p99_ms']:.0f} ms, memory {flood['memory_growth_mb']:+.1f} MB"
    yield "flood", f"{flood['hostile']:,} hostile requests", told


def _failed_over(result: Result) -> tuple[str, str]:
    safe = [one for one in result["summary"] if one["replication"] == "synchronous"]
    rounds, acknowledged, lost = (sum(one[name] for one in safe) for name in ("rounds", "acknowledged", "lost"))
    slowest = max(one["applied_seconds"]["max"] for one in safe)
    told = f"{acknowledged:,} acknowledged, {lost} lost; a callback was applied at most {slowest:.1f} s after the promotion"
    return (
        f"{rounds} failovers of Patroni with synchronous replication, at {result['rate']:.0f}/s and while fleets were made",
        told,
    )


def _between(text: str, lines: Iterator[str]) -> str:
    """A page with its part written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def scale(results: Mapping[str, Result]) -> Iterator[str]:
    """What one database carries: by its events, by its living VMs, and what looking at it costs."""
    grown = results["growth"]
    yield "| events on record | VMs | stored/s | applied/s | on disk, after the rounds |\n|--:|--:|--:|--:|--:|"
    for one in grown["summary"]:
        events, on_disk = one["events"], sum(grown["sizes"][str(one["events"])].values()) / 1e9
        vms = events // as_of.STATES // grown["times"]
        yield f"| {events:,} | {vms:,} | {_rate(one['ingest_per_second'])} | {_rate(one['apply_per_second'])} | {on_disk:.1f} GB |"
    stored, applied = (growth.share(grown["runs"], rate) for rate in growth.RATES)
    yield f"\nWith the most on record, callbacks are stored at {stored:.2f} and applied at {applied:.2f} of the rate with none."
    yield "\n| living VMs | idle: CPU of the daemon | of Postgres | memory | callbacks while all jobs run, p50 | p99 |\n|--:|--:|--:|--:|--:|--:|"
    for one in results["jobs"]["fleets"]:
        idle, busy = one["idle"], one["while_all_jobs_run"]
        cells = f"{idle['percent_of_a_core']:.1f} % | {idle['postgres_percent']:.1f} % | {one['resident_mb']:.0f} MB"
        yield f"| {one['vms']:,} | {cells} | {busy['p50_ms']:.0f} ms | {busy['p99_ms']:.0f} ms |"
    if found := results.get("pages"):
        slowest = max(one["seconds"] for one in found["pages"] if pages.is_page(one))
        opened = next(one["open"] for one in found["callbacks"] if one["open"])
        yield f"\nWith {found['vms']:,} living VMs and {found['events']:,} events, each page of the dashboard takes at most {slowest * 1000:.0f} ms,"
        yield f"and {opened} open pages make the p99 of callbacks {found['p99_times']:.2f} times what it is without."


def part(results: Mapping[str, Result]) -> Iterator[str]:
    """The README's table of rates."""
    yield "| what | result | command |\n|---|---|---|"
    yield _ingest_row(results["ingest"])
    yield _apply_row(results["apply"])
    yield from _latency_rows(results["latency"])
    yield _growth_row(results["growth"])
    for name, what, found in _others(results):
        yield f"| {what} | {found} | `python bench/{name}.py` |"
    days = sorted(day for one in results.values() if (day := _day(one)))
    undated = ", ".join(name for name, one in results.items() if not _day(one))
    before = f", and before that: {undated}" if undated else ""
    yield f"\nMeasured from {days[0]} to {days[-1]}{before}; [bench/results](bench/results/README.md) says when each was."


def _ingest_row(result: Result) -> str:
    found = {
        one["kind"]: one
        for one in result["summary"]
        if (one["connections"], one["size"], one["rate"]) == (64, 320, None)
    }
    ours, ceiling, first = found["ours"], found["nothing"], found["first"]
    rate = ours["per_second"]
    share = rate["median"] / ceiling["per_second"]["median"]
    p99 = ours["p99_ms"]["median"], ours["p99_ms"]["median"] / ceiling["p99_ms"]["median"]
    times = rate["median"] / first["per_second"]["median"]
    return (
        f"| callbacks made durable, 64 connections, 320 B | {_rate(rate)}/s: {share:.2f} of the rate of an aiohttp "
        f"handler that does nothing, {times:.0f} times a handler with a SQLAlchemy session for each callback; p99 {p99[0]:.1f} ms, "
        f"{p99[1]:.1f} times that of doing nothing | `python bench/ingest.py` |"
    )


def _apply_row(result: Result) -> str:
    found = {one["kind"]: one for one in result["summary"]}
    ours = found["ours"]
    times = {kind: one["ours_is"]["median"] for kind, one in found.items()}
    return (
        f"| {ours['events']:,} callbacks applied to {result['vms']:,} VMs | {_rate(ours['events_per_second'])}/s: "
        f"{times['ceiling']:.2f} of the rate of the SQL alone, {times['pgqueuer']:.1f} times pgqueuer and "
        f"{times['procrastinate']:.0f} times procrastinate at their fastest, {times['procrastinate, as it comes']:.0f} times "
        f"procrastinate with its default settings | `python bench/apply.py` |"
    )


def _latency_rows(result: Result) -> Iterator[str]:
    for one in result["summary"]:
        whole, applied = ((one[f"{name}_p50"]["median"], one[f"{name}_p99"]["median"]) for name in ("whole", "applied"))
        yield (
            f"| latency until a VM has moved, at {one['rate']:,} callbacks/s | {whole[0]:.1f} ms after the first byte (p99 {whole[1]:.0f}), "
            f"{applied[0]:.1f} ms after its event was committed (p99 {applied[1]:.0f}) | `python bench/latency.py` |"
        )


def _growth_row(result: Result) -> str:
    most = max(one["events"] for one in result["summary"])
    kept, applied = (growth.share(result["runs"], rate) for rate in growth.RATES)
    return (
        f"| with {most:,} events on record, compared with none | {kept:.2f} of the rate of storing, {applied:.2f} of the "
        f"rate of applying | `python bench/growth.py` |"
    )


def _rate(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:,.0f} ({spread['min']:,.0f}-{spread['max']:,.0f})"


WIDTH, LINE, LABEL, NUMBER = 860, 26, 300, 130


def picture(results: Mapping[str, Result]) -> str:
    """Two bar charts as an SVG that needs nothing but itself."""
    kept = [
        one for one in results["ingest"]["summary"] if (one["connections"], one["size"], one["rate"]) == (64, 320, None)
    ]
    charts = (
        ("Callbacks durable each second, 64 connections, 320 B", _bars(kept, "per_second")),
        ("Callbacks applied each second", _bars(results["apply"]["summary"], "events_per_second")),
    )
    lines, y = list[str](), 10
    for title, bars in charts:
        lines.append(f'<text x="14" y="{y + 18}" class="title">{escape(title)}</text>')
        y += LINE + 6
        most = max(value for _, value, _ in bars)
        for name, value, written in bars:
            lines += _bar(name, value / most, written, y)
            y += LINE
        y += 14
    style = "text{font:14px sans-serif;fill:#24292f}.title{font-weight:bold}.ours{font-weight:bold}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img"><style>{style}</style>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>', *lines, "</svg>\n"])


def _bars(rows: Sequence[Mapping[str, object]], figure: str) -> list[Bar]:
    found = [(one["kind"], one[figure]["median"]) for one in rows]
    return [(CONTENDERS.get(kind, kind), rate, f"{rate:,.0f}") for kind, rate in sorted(found, key=lambda one: -one[1])]


def _bar(name: str, share: float, written: str, y: int) -> list[str]:
    ours = name == CONTENDERS["ours"]
    long = max(1.0, share * (WIDTH - LABEL - NUMBER))
    weight = ' class="ours"' if ours else ""
    return [
        f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end"{weight}>{escape(name)}</text>',
        f'<rect x="{LABEL}" y="{y + 3}" width="{long:.1f}" height="{LINE - 8}" fill="{"#1f6feb" if ours else "#afb8c1"}"/>',
        f'<text x="{LABEL + long + 8:.1f}" y="{y + 16}"{weight}>{written}</text>',
    ]


if __name__ == "__main__":
    main()
