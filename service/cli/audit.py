"""`rollcall audit`: prove that nobody edited the record. These commands read the database themselves, or only files."""

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from service.cli.api_client import settings
from service.cli.exits import CliError, Exit, as_cli_errors
from service.cli.options import Json
from service.cli.output import as_json, say

if TYPE_CHECKING:
    from service.audit.findings import Examples, Report
    from service.audit.note import VerifierKey

app = typer.Typer(
    name="audit", help="Prove that nobody edited the record.", no_args_is_help=True, rich_markup_mode=None
)

Value = TypeVar("Value")
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="KEY", help="a verifier key, or a file with one a line; may be repeated"),
]


@app.command(epilog="Example: rollcall audit verify --key auditor.key --published /mnt/checkpoints")
def verify(
    key: Keys = None,
    published: Annotated[
        list[Path] | None,
        typer.Option(
            help="directory with checkpoints that were published; may be repeated", exists=True, file_okay=False
        ),
    ] = None,
    log: Annotated[UUID | None, typer.Option(help="verify this log, and not the newest")] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="verify what `rollcall export` wrote, without a database", exists=True, file_okay=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Verify the whole record against its log, and the log against its signed checkpoints.

    Exits 0 if the record is as it was sealed, 1 if not, 4 if nothing is sealed yet. Rows that are not sealed yet are no error.
    """
    report = _verified(key, published or (), log) if export is None else _verified_export(export, key, published or ())
    if json_:
        as_json(_report(report))
    else:
        _print(report, trusted=bool(key))
    if report.findings:
        raise typer.Exit(Exit.FAILED)
    if not report.checkpoints:
        raise typer.Exit(Exit.NOT_FOUND)


def _verified(key: Keys, published: Sequence[Path], log: UUID | None) -> "Report":
    from service.app.audit import verify_record  # noqa: PLC0415  slow to import

    found = settings()
    folders = [*published, *([found.seal_publish_dir] if found.seal_publish_dir else [])]
    return _run(verify_record(found, _keys(key), folders, log_id=log))


def _verified_export(folder: Path, key: Keys, published: Sequence[Path]) -> "Report":
    from service.app.audit import verify_export  # noqa: PLC0415  slow to import
    from service.errors import ExportInvalid  # noqa: PLC0415  as above

    trusted = _keys(key)
    if not trusted:
        raise CliError(Exit.USAGE, "--key: name the verifier key that you trust, or a file that holds it")
    try:
        return _run(verify_export(folder, trusted, published))
    except ExportInvalid as error:
        raise CliError(Exit.FAILED, str(error).splitlines()) from error


@app.command(epilog="Example: rollcall audit prove 507279 --out vm.proof.json")
def prove(
    ref: Annotated[str, typer.Argument(metavar="REF", help="the VM: the provider's id, SUBMISSION.N, or its name")],
    out: Annotated[Path | None, typer.Option(help="the file to write; by default standard output")] = None,
) -> None:
    """Write a file that proves what is on record of a VM. `rollcall audit check` verifies it without a database."""
    from service.app.audit import prove_vm  # noqa: PLC0415  slow to import

    bundle = _run(prove_vm(settings(), ref))
    if out is None:
        sys.stdout.write(str(bundle))
    else:
        out.write_text(str(bundle), encoding="utf-8")
    say(f"{len(bundle.entries)} rows proved; {bundle.unsealed} are newer than the last checkpoint")
    if not bundle.entries:
        raise typer.Exit(Exit.NOT_FOUND)


@app.command(epilog="Example: rollcall audit check vm.proof.json --key auditor.key")
def check(
    file: Annotated[Path, typer.Argument(help="what `rollcall audit prove` wrote", exists=True, dir_okay=False)],
    key: Keys = None,
    json_: Json = False,
) -> None:
    """Verify a proof, without a database and without a network. Exits 0 if it is valid and 1 if not."""
    from service.audit.bundle import check as check_bundle  # noqa: PLC0415  slow to import
    from service.errors import ProofInvalid  # noqa: PLC0415  as above

    trusted = _keys(key)
    if not trusted:
        raise CliError(Exit.USAGE, "--key: name the verifier key that you trust, or a file that holds it")
    try:
        proved = check_bundle(file.read_text(encoding="utf-8"), trusted)
    except (ProofInvalid, UnicodeDecodeError) as error:
        raise CliError(Exit.FAILED, f"{file} proves nothing: {error}") from error
    if json_:
        as_json([{"index": one.index, "table": one.table, "row": one.row} for one in proved.rows])
        return
    for one in proved.rows:
        print(f"{one.index:>10}  {one.table:<12} {_brief(one.row)}")
    say(f"valid: {len(proved.rows)} rows, in a log of {proved.size} leaves signed by {proved.key}")


@app.command(epilog="Example: rollcall audit key > auditor.key")
def key() -> None:
    """Print the log's verifier keys, for an auditor to keep. Give them away before you need to be believed."""
    from service.app.audit import known_keys  # noqa: PLC0415  slow to import

    log, keys = _run(known_keys(settings()))
    say(f"log {log.log_id}, begun {log.begun_at:%Y-%m-%d %H:%M:%SZ}: {log.reason}")
    for one in keys:
        print(one)


@app.command("new-key")
def new_key() -> None:
    """Print a new signing key for ROLLCALL_SEAL_KEYS. It is stored nowhere."""
    import secrets  # noqa: PLC0415  needed only here

    print(secrets.token_hex(32))


@app.command("new-log", epilog='Example: rollcall audit new-log --reason "restored from the backup of 1 March"')
def new_log(
    reason: Annotated[str, typer.Option(help="why the old log ends; it is sealed as the first leaf of the new one")],
) -> None:
    """Begin a new log, such as after a restore. The whole record is sealed into it anew; the old log stays."""
    from service.app.audit import new_log as begin  # noqa: PLC0415  slow to import

    log = _run(begin(settings(), reason))
    say(f"the log {log.log_id} was begun; give auditors its key: rollcall audit key")


def _run(work: "Coroutine[Any, Any, Value]") -> Value:
    with as_cli_errors():
        return asyncio.run(work)


def _keys(given: Sequence[str] | None) -> "list[VerifierKey]":
    from service.audit.keys import parse_keys  # noqa: PLC0415  slow to import
    from service.errors import ProofInvalid  # noqa: PLC0415  as above

    try:
        return parse_keys(one if "+" in one else Path(one).read_text(encoding="utf-8") for one in given or ())
    except (ProofInvalid, OSError, UnicodeDecodeError) as error:
        raise CliError(Exit.USAGE, f"--key: {error}") from error


def _print(report: "Report", *, trusted: bool) -> None:
    say(
        f"log {report.origin}: {report.size} leaves, {report.signed_size} of them signed, {report.checkpoints} checkpoints"
    )
    if not trusted:
        say("verified with this machine's own key; an auditor names one that was given out before, with --key")
    for one in report.findings:
        print(f"leaf {one.leaf}: {one.kind}: {one.text}")
    if report.more_findings:
        print(f"and {report.more_findings} more")
    if report.outside:
        print(f"notice: {report.outside} rows of the log are not of this export, as its period or submission says")
    for month, count in report.dropped.items():
        print(f"notice: {count} events of {month} were dropped by retention; their hashes are in the log")
    _print_tally("not sealed yet", report.unsealed)
    _print_tally("sealed late", report.late)
    _print_tally("had something struck out, so that only their being sealed is proved", report.struck_out)
    print(f"{report.rows} rows are as they were sealed" if report.sound else "the record is NOT as it was sealed")


def _print_tally(what: str, tally: "Examples") -> None:
    if tally.count:
        print(f"notice: {tally.count} rows {what}, such as {'; '.join(tally.named)}")


def _report(report: "Report") -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415  needed only here

    return {"sound": report.sound, **asdict(report)}


def _brief(row: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value}" for name, value in row.items() if name not in {"submission_id", "headers", "digest"}
    )
