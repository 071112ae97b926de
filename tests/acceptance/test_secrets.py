"""What must not be seen is looked for everywhere: logs, answers, output, the record, the disk."""

import contextlib
import json
import re
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import nats_servers
from processes import BODY, KEY, SECRET, TOKEN, Stage, post, rollcall, rows, staged, until

from service.api.routes import ROUTES
from service.storage.embedded import EmbeddedPostgres

_PASSWORD = "the-password-of-the-database"
_USER_DATA = "#cloud-config\n# the-secret-in-the-user-data"
_SECRETS = {
    "API key": KEY,
    "callback secret": SECRET,
    "API token": TOKEN,
    "database password": _PASSWORD,
    "spool password": nats_servers.PASSWORD,
}
_FAULTS = {
    "create": {"error_after": 0.2, "lost": 0.2, "error_before": 0.2, "unreadable": 0.1},
    "read": {"error_before": 0.1, "unreadable": 0.1, "cut": 0.1},
    "callbacks": {"garbage": 0.2, "unmatched": 0.2, "lost": 0.2},
}


def test_no_secret_is_in_any_log_line_answer_output_or_table(tmp_path: Path, own_postgres: EmbeddedPostgres) -> None:
    url = own_postgres.url.replace("postgres@", f"postgres:{_PASSWORD}@")
    with (
        nats_servers.nats_server(tmp_path) as nats,
        staged(
            tmp_path,
            url,
            cloud={"faults": _FAULTS},
            LOG_LEVEL="debug",
            SPOOL_URL=nats_servers.spool_url([nats], query="?replicas=1"),
        ) as stage,
    ):
        seen = _a_whole_run(stage, tmp_path, own_postgres)
        macs = {one["callback_url"][-32:] for one in stage.simulator.vms()}
        assert len(macs) >= 3
        seen |= {"the record": _tables(own_postgres.url), "log of the daemon": stage.daemon.log}
        assert stage.daemon.stop() == 0
        seen["log to its end"] = stage.daemon.log
    # The daemon keeps no file that holds one either; the simulator's are none of ours.
    for file in (tmp_path / "daemon-1").rglob("*"):
        if file.is_file():
            seen[str(file.relative_to(tmp_path))] = file.read_bytes().decode("latin-1")
    everything = {**_SECRETS, **{f"callback token {n}": mac for n, mac in enumerate(sorted(macs))}}
    found = {(what, where) for where, text in seen.items() for what, secret in everything.items() if secret in text}
    # The user data has to be in the record, since it is sent; and nowhere else.
    found |= {
        ("user data", where) for where, text in seen.items() if _USER_DATA[-20:] in text and where != "the record"
    }
    assert found == set()


def _a_whole_run(stage: Stage, folder: Path, server: EmbeddedPostgres) -> dict[str, str]:
    """Everything that a run lets anybody see, by where it was seen."""
    seen: dict[str, str] = {}

    def run(*arguments: str) -> None:
        done = rollcall(folder, *arguments, settings=stage.daemon.settings)
        seen["rollcall " + " ".join(arguments)] = done.stdout + done.stderr

    (folder / "spec.json").write_text(json.dumps({**BODY, "count": 45, "user_data": _USER_DATA}))
    run("submit", "-f", "spec.json", "--wait")
    run("submit", "-f", "spec.json", "--name", "")
    _provoke(stage, server)
    vms, (submission, *_) = stage.daemon.vms(), stage.daemon.api.submissions()
    for arguments in (
        ("submissions",),
        ("vms",),
        ("vm", vms[0]["ref"]),
        ("fleet",),
        ("orphans",),
        ("events", "--all"),
        ("calls", "--all"),
        ("check",),
        ("migrate", "--check"),
    ):
        run(*arguments)
    heard = next(stage.daemon.api.events(dead_letter="any"))
    run("event", heard["event_id"])
    run("delete", vms[1]["ref"])
    stage.daemon.settings["API_TOKEN"] = "a-wrong-token-of-somebody"
    run("vms")
    del stage.daemon.settings["API_TOKEN"]
    for one in ROUTES:
        if one.method == "GET":
            path = one.path.replace("{id}", submission["submission_id"]).replace("{ref}", vms[0]["ref"])
            path = path.replace("{event_id}", heard["event_id"])
            endless = "text/event-stream" in one.streams
            seen[f"GET {one.path}"] = _raw(stage.daemon.api.url + path, endless=endless)
    assert len(seen) > 20
    return seen


def _provoke(stage: Stage, server: EmbeddedPostgres) -> None:
    """Make the daemon complain of all that it can complain of."""
    url = stage.simulator.vms()[0]["callback_url"]
    assert post(url, b"{") == 200
    assert post(url + "0", b"{}") == 404
    server.stop("immediate")
    until(lambda: not stage.daemon.readiness()["ready"], "the daemon says that Postgres is away")
    assert post(url, b"in the spool") == 200
    server.start()
    until(lambda: stage.daemon.readiness()["ready"], "Postgres is back")
    stage.simulator.query("faults", {"unauthorized": 1})
    stage.daemon.submit(1)
    until(lambda: '"credentials_rejected"' in _outcomes(stage), "a call is refused for the key")
    # At last, since nothing is asked of the provider for a while afterwards.
    stage.simulator.query("faults", {"read": {"limited": 1}, "create": {"limited": 1}})
    until(lambda: '"rate_limited"' in _outcomes(stage), "a call is refused for the limit")
    stage.simulator.query("faults", {})
    with contextlib.suppress(OSError):
        _raw(stage.daemon.callbacks + "/callbacks/" + url.rsplit("/", 1)[1])


def _outcomes(stage: Stage) -> str:
    return json.dumps([row["outcome"] for row in rows(stage.database_url, "SELECT DISTINCT outcome FROM call_ends")])


def _raw(url: str, *, endless: bool = False) -> str:
    """Head and body of an answer; of an endless one the beginning."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        return f"{answer.getheaders()} {(answer.read1() if endless else answer.read()).decode()}"
    finally:
        connection.close()


def _tables(url: str) -> str:
    """Every row of every table of ours, as text; bytes as text too."""
    names = [
        row["name"]
        for row in rows(url, "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
                             "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
    ]  # fmt: skip
    assert len(names) > 12
    texts = [row["line"] for name in names for row in rows(url, f"SELECT t::text AS line FROM {name} t")]
    unhexed = [
        bytes.fromhex(found).decode("latin-1") for text in texts for found in re.findall(r"\\x((?:[0-9a-f]{2})+)", text)
    ]
    return "\n".join([*texts, *unhexed])
