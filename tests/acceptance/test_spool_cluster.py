"""A spool in a cluster of three NATS servers: two machines are lost while Postgres is away, and nothing acknowledged is."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from ledger import complaints
from nats_servers import leader_of, nats_cluster, spool_url
from numbered import UNASKED, bound_vms, record, sending
from processes import HASTE, KEY, SECRET, TOKEN, Serve, blunders, until, until_none

from service.storage.embedded import EmbeddedPostgres


def test_what_was_acknowledged_survives_the_machine_of_the_receiver_and_one_of_the_spool(
    tmp_path: Path, own_postgres: EmbeddedPostgres
) -> None:
    settings = {
        **HASTE,
        **UNASKED,
        "DATABASE_URL": own_postgres.url,
        "INFRAHUB_API_KEY": KEY,
        "CALLBACK_SECRETS": SECRET,
        "API_TOKENS": f"tests={TOKEN}",
    }
    with ExitStack() as stack:
        nodes = stack.enter_context(nats_cluster(tmp_path))
        settings["SPOOL_URL"] = spool_url(nodes)
        first = Serve(tmp_path, "first", settings)
        second = Serve(tmp_path, "second", {**settings, "CALLBACK_LISTEN": first.settings["CALLBACK_LISTEN"]})
        for one in (first, second):
            stack.callback(one.kill)
        first.start()
        vms = bound_vms(own_postgres.url, 8, SECRET)
        until(lambda: "spool.stream" in first.log, "the stream is there")
        with sending(int(first.callbacks.rpartition(":")[2]), vms, every=0.02) as load:
            load.until_more(20)
            own_postgres.stop("immediate")
            load.until_more(200)
            assert load.refused == []
            # All that the stream's leader has is lost with it, and all that the receiver has.
            leader = leader_of(nodes)
            leader.kill()
            first.kill()
            shutil.rmtree(leader.store)
            shutil.rmtree(first.settings["DATA_DIR"], ignore_errors=True)  # it needed none at all
            own_postgres.start()
            second.start()
            load.until_more(20)

        def wrong() -> list[str]:
            # Between receivers there is no order, so a VM may be moved in another.
            found = complaints(load.ledger, record(own_postgres.url))
            return [one for one in found if not one.startswith("moved otherwise")]

        until_none(wrong)
        until(lambda: "spool" not in str(second.readiness()), "the spool is drained and well")
        assert blunders(first.log) + blunders(second.log) == []
