"""The proxies of deploy/proxy, started for real: they let callbacks through unchanged and once, and nothing else."""

import http.client
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tls import Authority

from service.lab.demo.stage import free_ports

PROXY = Path(__file__).resolve().parents[2] / "deploy/proxy"
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin"
TOKEN = "0123456789abcdef" * 4


class Upstream(ThreadingHTTPServer):
    """Stands for the callback listener. Records requests; a path may ask for a 503, or for no answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, bytes, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append((self.path, body, self.headers.get("x-forwarded-for")))
        if self.path.endswith("cut"):
            self.close_connection = True
            return
        self.send_response(503 if self.path.endswith("busy") else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def nginx(folder: Path, port: int, upstream: int, authority: Authority) -> list[str]:
    certificate, key = authority.issue("proxy", "localhost")
    site = replaced(
        PROXY / "nginx.conf",
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "127.0.0.1:8080": f"127.0.0.1:{upstream}",
            "/var/log/nginx/rollcall.log": f"{folder}/errors",
            "/etc/ssl/rollcall.example.com/fullchain.pem": str(certificate),
            "/etc/ssl/rollcall.example.com/key.pem": str(key),
        },
    )
    paths = "\n".join(
        f"{one}_temp_path {folder}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\nevents {{}}\n"
        f"http {{ {paths}\naccess_log {folder}/access;\ninclude {folder}/site.conf; }}"
    )
    return ["nginx", "-e", f"{folder}/log", "-c", f"{folder}/nginx.conf"]


def caddy(folder: Path, _port: int, _upstream: int, _authority: Authority) -> list[str]:
    # For a name that is this machine, Caddy signs the certificate itself. See also the environment that it gets below.
    ours = (
        f"{{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tstorage file_system {folder}/caddy\n"
    )
    (folder / "Caddyfile").write_text(replaced(PROXY / "Caddyfile", {"{\n\tlog default {": f"{ours}\tlog default {{"}))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]


def haproxy(folder: Path, port: int, upstream: int, authority: Authority) -> list[str]:
    certificate, key = authority.issue("proxy", "localhost")
    (folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    config = replaced(
        PROXY / "haproxy.cfg",
        {
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/rollcall.example.com.pem": f"{folder}/both.pem",
            "127.0.0.1:8080": f"127.0.0.1:{upstream}",
        },
    )
    (folder / "haproxy.cfg").write_text(config)
    return ["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"]


def replaced(path: Path, replacements: dict[str, str]) -> str:
    text = path.read_text()
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def wanted(start: Callable[..., list[str]], package: str) -> object:
    return pytest.param(
        start,
        marks=pytest.mark.skipif(
            shutil.which(start.__name__, path=SEARCHED) is None,
            reason=f"{start.__name__} is not installed; to run these: apt-get install --no-install-recommends {package}",
        ),
        id=start.__name__,
    )


class Proxied:
    """A running proxy, and what is behind it."""

    def __init__(self, port: int, upstream: Upstream, folder: Path) -> None:
        self.port, self.upstream, self.folder = port, upstream, folder

    def send(self, method: str, path: str, body: bytes = b"") -> int:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        try:
            connection.request(method, path, body, {"x-forwarded-for": "6.6.6.6"})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(
    scope="module", params=[wanted(nginx, "nginx-light"), wanted(caddy, "caddy"), wanted(haproxy, "haproxy")]
)
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("proxy")
    (port,) = free_ports(1)
    with Upstream() as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        command = request.param(folder, port, upstream.server_address[1], Authority(folder))
        program = shutil.which(command[0], path=SEARCHED)
        of_caddy = {
            "HOME": str(folder),
            "ROLLCALL_PROXY_SITE": f"https://localhost:{port}",
            "ROLLCALL_PROXY_UPSTREAM": f"127.0.0.1:{upstream.server_address[1]}",
        }
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [str(program), *command[1:]], stdout=output, stderr=output, env={**os.environ, **of_caddy}
            )
        try:
            made = Proxied(port, upstream, folder)
            until_it_answers(made, process)
            yield made
        finally:
            process.kill()
            process.wait()
            upstream.shutdown()


def until_it_answers(made: Proxied, process: subprocess.Popen[bytes]) -> None:
    patience = time.monotonic() + 30
    while time.monotonic() < patience and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            if made.send("GET", "/livez") == 200:
                return
        time.sleep(0.02)
    pytest.fail((made.folder / "output").read_text())


def test_a_callback_arrives_unchanged_and_says_who_sent_it(proxied: Proxied):
    body = bytes(range(256)) * 900
    assert proxied.send("POST", f"/callbacks/{TOKEN}", body) == 200
    assert proxied.upstream.seen[-1] == (f"/callbacks/{TOKEN}", body, "127.0.0.1")


@pytest.mark.parametrize(("ending", "status"), [("busy", {503}), ("cut", {502, 504})])
def test_a_callback_without_a_good_answer_is_not_sent_twice(proxied: Proxied, ending: str, status: set[int]):
    assert proxied.send("POST", f"/callbacks/{TOKEN}{ending}", b"{}") in status
    assert [path for path, *_ in proxied.upstream.seen].count(f"/callbacks/{TOKEN}{ending}") == 1


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/readyz", "/v1/submissions", "/openapi.json", "/callbacks", "/livez/x"]
)
def test_nothing_else_passes(proxied: Proxied, path: str):
    assert proxied.send("GET", path) == 404


def test_a_body_that_is_too_large_is_refused_by_the_proxy(proxied: Proxied):
    before = len(proxied.upstream.seen)
    with suppress(OSError):  # it may answer before it has read everything
        assert proxied.send("POST", f"/callbacks/{TOKEN}", b"x" * 300_000) in {413, 502}
    assert [body for _, body, _ in proxied.upstream.seen[before:] if len(body) > 262_144] == []


def test_no_log_holds_the_token_of_a_callback(proxied: Proxied):
    for ending in ("", "busy", "cut"):
        proxied.send("POST", f"/callbacks/{TOKEN}{ending}", b"{}")
    for path in proxied.folder.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path.name
