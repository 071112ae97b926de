"""The command `export`: the record as files, with a manifest. What was broken off says so, and is continued."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api_client import api_client, submission_id
from service.cli.as_of import moment
from service.cli.exits import CliError, Exit
from service.cli.options import OfSubmission
from service.cli.output import as_json, say
from service.client.sync import Rollcall


class Format(StrEnum):
    """What files can be written as."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    CLOUDEVENTS = "cloudevents"


def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the directory to write; made if it is missing")],
    kind: Annotated[Format | None, typer.Option("--format", help="ndjson if left out; parquet needs an extra")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="only from then on")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="only before then")] = None,
    submission: OfSubmission = None,
    no_log: Annotated[
        bool, typer.Option("--no-log", help="without the log, so that it cannot be verified later")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="continue an export that was broken off")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """Write the record as files: a file for each table, and manifest.json with counts and SHA-256 digests.

    Secrets and callback tokens are struck out. If it breaks off, the manifest says so; --resume continues at the row.
    """
    from service.cli.export_files import Export  # noqa: PLC0415  slow to import
    from service.errors import ExportInvalid, Invalid  # noqa: PLC0415  as above

    client = api_client(ctx)
    given = {
        "--format": kind,
        "--since": since,
        "--until": until,
        "--submission": submission,
        "--no-log": no_log or None,
    }
    try:
        if resume:
            if wrong := [name for name, value in given.items() if value is not None]:
                raise CliError(Exit.USAGE, [f"{name} cannot go with --resume: the manifest says it" for name in wrong])
            found = Export.resume(folder)
        else:
            about = {
                "format": (kind or Format.NDJSON).value,
                "submission_id": submission_id(client, submission),
                "since": moment("--since", since),
                "until": moment("--until", until),
            }
            found = Export.begin(folder, _begun(client, about, with_log=not no_log))
        _run(client, found)
    except ExportInvalid as error:
        raise CliError(Exit.FAILED, str(error).splitlines()) from error
    except Invalid as error:
        raise CliError(Exit.USAGE, [f"--{one.field}: {one.message}" for one in error.field_errors]) from error
    if json_:
        as_json(found.manifest)
    else:
        _print(folder, found.manifest)


def _begun(client: Rollcall, about: dict[str, Any], *, with_log: bool) -> dict[str, Any]:
    """The beginning of a manifest. Without an end, it ends now: what VMs cost must not depend on when it is resumed."""
    if about["since"] and about["since"] >= (about["until"] or datetime.now(UTC).isoformat()):
        raise CliError(Exit.USAGE, "--since must be before --until, and not in the future")
    begun = client.begin_export()
    return {**about, **begun, "log": begun["log"] if with_log else None}


def _run(client: Rollcall, found: Any) -> None:
    from service.audit.export_tables import COSTS, LOG  # noqa: PLC0415  slow to import

    about = found.manifest
    query = {name: about[name] for name in ("submission_id", "since", "until", "snapshot")}
    log = {} if about["log"] is None else {"log_id": about["log"]["log_id"], "log_size": about["log"]["size"]}
    tables = [*about["tables"], *(LOG if about["log"] else ())]
    with found:
        for table in tables:
            of_it = query | (log if table in LOG else {})
            if table == COSTS:
                of_it["until"] = about["until"] or about["started_at"]
            found.write(
                table,
                lambda after, table=table, of_it=of_it: client.export(table=table, after=after, **of_it),
            )
        found.finish()


def _print(folder: Path, manifest: dict[str, Any]) -> None:
    for name, file in manifest["files"].items():
        print(f"{file['rows']:>12}  {name}")
    if manifest["log"] is None:
        say("there is no log in it, so it cannot be verified later")
    say(f"{folder}: {sum(file['rows'] for file in manifest['files'].values())} rows in {len(manifest['files'])} files")
