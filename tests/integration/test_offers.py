"""What the provider offers, over HTTP and from the command line: read when asked, filtered by words."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from cloud_transport import CloudTransport, connected
from operator_api import TOKEN, Api, body, serving
from simulated import Caller
from structlog.testing import capture_logs

from service.cli.main import main
from service.runtime.runtime import Runtime

FLAVORS = [
    {"name": "n3-A100x1", "gpu": "A100-80G-PCIe", "gpu_count": 1, "stock": 3},
    {"name": "n3-H100x1", "gpu": "H100-80G-PCIe", "gpu_count": 1, "stock": 0, "region": "NORWAY-1"},
    {"name": "n1-cpu-small"},
]
ENVIRONMENTS = [{"name": "here", "region": "CANADA-1"}, {"name": "there", "region": "NORWAY-1"}]


@pytest.fixture
def provider() -> CloudTransport:
    return CloudTransport(
        Caller(flavors=FLAVORS, environments=ENVIRONMENTS, keypairs=["k1", {"name": "k2", "environment": "there"}])
    )


@pytest.fixture
async def api(runtime: Runtime, provider: CloudTransport, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    with capture_logs():
        async with serving(connected(runtime, provider)) as api:
            monkeypatch.setenv("ROLLCALL_API_URL", api.url)
            monkeypatch.setenv("ROLLCALL_API_TOKEN", TOKEN)
            yield api


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("flavors", ["n3-A100x1", "n3-H100x1", "n1-cpu-small"]),
        ("flavors?name=n3", ["n3-A100x1", "n3-H100x1"]),
        ("flavors?gpu=h100", ["n3-H100x1"]),
        ("flavors?region=norway-1", ["n3-H100x1"]),
        ("flavors?in_stock=true&gpu=80g", ["n3-A100x1"]),
        ("flavors?in_stock=false", ["n3-H100x1"]),
        ("images?region=CANADA-1&name=cuda%2024.04", ["Ubuntu Server 24.04 LTS R570 CUDA 12.8"]),
        ("environments?region=NORWAY-1", ["there"]),
        ("keys?environment=here", ["k1"]),
    ],
)
async def test_a_part_of_the_catalogue_is_listed_and_filtered(api: Api, path: str, names: list[str]) -> None:
    assert [one["name"] for one in (await api.get(f"/v1/catalogue/{path}"))["items"]] == names


async def test_stock_is_listed_by_region_and_model(api: Api) -> None:
    items = (await api.get("/v1/catalogue/stock"))["items"]
    assert {(one["region"], one["gpu_model"], one["gpus"], one["more"]) for one in items} == {
        ("CANADA-1", "A100-80G-PCIe", 3, False),
        ("NORWAY-1", "H100-80G-PCIe", 0, False),
    }


async def test_contracts_are_listed_with_what_is_left(api: Api, provider: CloudTransport) -> None:
    provider.caller.made(environment_name="here", contract_id=41, key_name="k1")
    (one,) = (await api.get("/v1/catalogue/contracts?gpu=A100"))["items"]
    assert (one["contract_id"], one["covers"]) == (41, [{"gpu_model": "A100-80G-PCIe", "gpus": 64, "left": 63}])
    assert (await api.get("/v1/catalogue/contracts?gpu=H100"))["items"] == []


async def test_the_catalogue_without_a_provider_is_an_error_and_no_empty_list(runtime: Runtime) -> None:
    async with serving(runtime) as api:
        for part in ("flavors", "images", "environments", "keys", "contracts", "stock"):
            answer = await api.request("GET", f"/v1/catalogue/{part}")
            assert (answer.status, answer.json["type"]) == (502, "/problems/provider-error")


async def test_parts_of_an_images_name_are_a_near_miss(api: Api) -> None:
    answer = await api.request(
        "POST", "/v1/submissions", body(environment_name="here", image_name="Ubuntu 22.04", key_name="k1")
    )
    assert answer.status == 422
    assert "did you mean Ubuntu Server 22.04 LTS R535 CUDA 12.2?" in str(answer.json["errors"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("flavors", "--gpu", "H100"), "n3-H100x1"),
        (("images", "ubuntu 24.04"), "Ubuntu Server 24.04"),
        (("environments",), "NORWAY-1"),
        (("keys", "--environment", "there"), "k2"),
        (("contracts",), "A100-80G-PCIe: 64 of 64 left"),
        (("stock", "--region", "CANADA-1"), "A100-80G-PCIe"),
        (("flavors", "no-such"), "no flavors like that"),
    ],
)
async def test_the_commands_print_the_catalogue(
    api: Api, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], shown: str
) -> None:
    def run(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *more])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert shown in await asyncio.to_thread(run)
    assert isinstance(json.loads(await asyncio.to_thread(run, "--json")), list)
