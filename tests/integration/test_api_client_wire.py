"""The API client against servers on sockets that are not Rollcall, and against a problem as it comes over the wire."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from fake_api import PROBLEM

from service.client.errors import ApiError, ErrorKind
from service.client.exchange import NO_RETRIES
from service.client.sync import Rollcall


@contextmanager
def something_else(raw: bytes) -> Iterator[str]:
    """A server on a socket that answers every request with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(raw)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\x1b[31m\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_whatever_listens_on_a_wrong_port_is_an_error_of_the_client_and_no_traceback(raw: bytes) -> None:
    with something_else(raw) as url, pytest.raises(ApiError) as raised:
        Rollcall(url, "a-token-of-tests", retries=NO_RETRIES).vm(7)
    assert raised.value.kind is ErrorKind.UNREACHABLE
    assert raised.value.detail.isprintable()
    assert url in raised.value.detail


def test_a_host_that_cannot_be_is_unreachable() -> None:
    for host in ("127.0.0.1:9", "a..b", "x" * 70):
        with pytest.raises(ApiError) as raised:
            Rollcall(f"http://{host}", retries=NO_RETRIES).vm(7)
        assert raised.value.kind is ErrorKind.UNREACHABLE


def test_a_problem_from_the_wire_is_read() -> None:
    body = json.dumps({"type": "/problems/not-found", "title": "x", "status": 404, "detail": "there is no VM"}).encode()
    head = f"HTTP/1.1 404 Not Found\r\nContent-Type: {PROBLEM}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with something_else(head + body) as url, pytest.raises(ApiError, match="there is no VM") as raised:
        Rollcall(url).vm(7)
    assert raised.value.kind is ErrorKind.NOT_FOUND
