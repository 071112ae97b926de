"""The simulator on a socket: what its caller and its receiver really see."""

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, web
from simulated import STEADY, body

from service.simulator.loading import parse_config
from service.simulator.server import running, serve

VMS = "/core/virtual-machines"


class Receiver:
    """Stores the bodies posted to it. It answers with `status`, once `gate` is set."""

    def __init__(self):
        self.received = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.came = asyncio.Event()
        self.url = ""

    async def receive(self, request):
        self.received.append(await request.json())
        self.came.set()
        await self.gate.wait()
        return web.Response(status=self.status)

    def statuses(self, vm_id=None):
        return [
            callback["data"]["status"]
            for callback in self.received
            if vm_id is None or int(callback["resource"]["id"]) == vm_id
        ]


@pytest.fixture
async def receiver():
    there = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", there.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there.url = f"http://127.0.0.1:{runner.addresses[0][1]}/callbacks/abc"
    yield there
    there.gate.set()
    await runner.cleanup()


@pytest.fixture
async def http():
    async with ClientSession(headers={"api_key": "k"}) as session:
        yield session


@asynccontextmanager
async def simulator(*, speed=0, **settings):
    config = parse_config({"timing": STEADY, "callback_variety": 0, **settings})
    async with running(config, speed=speed) as there:
        yield there


async def create(http, there, callback_url=None, **changes):
    async with http.post(there.url + VMS, json=body(callback_url=callback_url, **changes)) as answer:
        return answer.status, await answer.json()


async def calls(http, there):
    async with http.get(there.private_url + "/calls") as answer:
        return (await answer.json())["calls"]


async def deliveries(http, there):
    async with http.get(there.private_url + "/deliveries") as answer:
        return (await answer.json())["deliveries"]


async def test_time_stands_still_until_it_is_moved(http, receiver):
    async with simulator() as there:
        await create(http, there, callback_url=receiver.url)
        async with http.post(there.private_url + "/advance", json={"seconds": 60}) as answer:
            assert await answer.json() == {"status": True, "now": 60}
        assert receiver.statuses() == ["CREATING", "BUILD", "ACTIVE"]
        async with http.post(there.private_url + "/advance", json={"hours": 1}) as answer:
            assert answer.status == 400


async def test_time_passes_by_itself_as_fast_as_told(http, receiver):
    async with simulator(speed=2000) as there:
        await create(http, there, callback_url=receiver.url)
        while len(receiver.received) < 3:
            receiver.came.clear()
            await asyncio.wait_for(receiver.came.wait(), 10)
        assert receiver.statuses() == ["CREATING", "BUILD", "ACTIVE"]


@pytest.mark.parametrize(("fault", "made"), [("cut", []), ("lost", ["vm"])])
async def test_a_connection_is_really_cut(http, fault, made):
    async with simulator(faults={"create": {fault: [1]}}) as there:
        with pytest.raises(ClientConnectionError):
            await create(http, there)
        assert [vm["name"] for vm in there.cloud.truth()] == made
        assert (await create(http, there, name="another"))[0] == 200


async def test_a_hanging_answer_never_comes(http):
    async with simulator(faults={"create": {"hang_after": [1]}}) as there:
        with pytest.raises(TimeoutError):
            await http.post(there.url + VMS, json=body(callback_url=None), timeout=ClientTimeout(total=0.05))
        assert len(there.cloud.truth()) == 1


async def test_a_server_stops_while_an_answer_hangs(http):
    async with simulator(faults={"create": {"hang_before": 1}}) as there:
        pending = asyncio.create_task(http.post(there.url + VMS, json=body(callback_url=None)))
        while not await calls(http, there):
            assert not pending.done()
    with pytest.raises(ClientConnectionError):
        await pending


async def test_an_early_callback_is_answered_before_the_create(http, receiver):
    receiver.gate.clear()
    async with simulator(faults={"early": 1}) as there:
        pending = asyncio.create_task(create(http, there, callback_url=receiver.url))
        await asyncio.wait_for(receiver.came.wait(), 10)
        assert not pending.done()
        receiver.gate.set()
        assert (await pending)[0] == 200
        assert receiver.statuses() == ["CREATING"]


async def test_callbacks_of_one_vm_wait_for_each_other_and_not_for_those_of_others(http, receiver):
    async with simulator() as there:
        _, content = await create(http, there, callback_url=receiver.url, count=20)
        await there.advance(60)
        assert len(receiver.received) == 60
        for vm in content["instances"]:
            assert receiver.statuses(vm["id"]) == ["CREATING", "BUILD", "ACTIVE"]


async def test_a_callback_is_posted_once_whatever_the_answer_and_that_is_on_record(http, receiver):
    receiver.status = 503
    async with simulator() as there:
        await create(http, there, callback_url=receiver.url)
        await there.advance(5)
        receiver.status = 200
        await there.advance(5)
        assert len(receiver.received) == 2
        first, second = await deliveries(http, there)
        assert (first["fate"], first["status"]) == ("refused", 503)
        assert (second["fate"], second["status"], second["url"]) == ("delivered", 200, receiver.url)
        assert json.loads(second["body"]) == receiver.received[1]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/nobody", "http://[not an address", "http://\ud800/"])
async def test_a_receiver_that_cannot_be_reached_is_a_failed_delivery(http, url):
    async with simulator() as there:
        await create(http, there, callback_url=url)
        await there.advance(0)
        (only,) = await deliveries(http, there)
        assert (only["fate"], only["status"]) == ("failed", None)


async def test_repeats_and_strangers_reach_the_receiver(http, receiver):
    async with simulator(faults={"callbacks": {"repeated": 1, "repeats": [1, 1], "unmatched": [1]}}) as there:
        await create(http, there, callback_url=receiver.url)
        await there.advance(60)
        assert len(receiver.received) == 7
        assert len({int(callback["resource"]["id"]) for callback in receiver.received}) == 2


async def test_an_outage_is_felt_and_private_paths_still_answer(http):
    async with simulator() as there:
        async with http.post(there.private_url + "/outage", json={"seconds": 30}) as answer:
            assert answer.status == 200
        with pytest.raises(ClientConnectionError):
            await create(http, there)
        assert [call["fate"] for call in await calls(http, there)] == ["cut"]
        await there.advance(30)
        assert (await create(http, there))[0] == 200


async def test_the_limits_minute_is_a_real_one_whatever_the_speed(http):
    async with simulator(speed=10_000, rate_limit=5) as there:
        statuses = [(await create(http, there, name=f"vm{number}"))[0] for number in range(7)]
        assert statuses.count(429) >= 1
        assert there.cloud.config.rate_window == 600_000


async def test_a_private_post_is_dispatched_to_the_console(http, receiver):
    async with simulator() as there:
        _, content = await create(http, there, callback_url=receiver.url)
        vm_id = content["instances"][0]["id"]
        async with http.post(f"{there.private_url}/vms/{vm_id}/error") as answer:
            assert (await answer.json())["vm"]["status"] == "ERROR"
        await there.advance(1)
        assert receiver.statuses() == ["CREATING", "ERROR"]


async def test_serving_says_its_port_and_ends_when_cancelled(http):
    port = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(parse_config({}), on_ready=port.set_result))
    async with http.get(f"http://127.0.0.1:{await port}/_sim/healthz") as answer:
        assert (await answer.json())["status"] == "ok"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_the_process_writes_its_port_and_ends_on_a_signal(http, tmp_path):
    port_file, config = tmp_path / "port", tmp_path / "config.json"
    config.write_text(json.dumps({"images": ["only-this"]}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.simulator", "--port-file", str(port_file), "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(30):
            while not port_file.exists():
                assert process.returncode is None
                await asyncio.sleep(0.01)
        async with http.get(f"http://127.0.0.1:{port_file.read_text()}/v1/core/images") as answer:
            assert [image["name"] for image in (await answer.json())["images"][0]["images"]] == ["only-this"]
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"")
