"""Requests over HTTP, with the standard library only, so that commands start at once."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

from service.client import exchange
from service.client.exchange import Api, RawResponse
from service.client.operation import Prepared


class ApiClient:
    """The API at `url`, called with `token`, by methods and paths.

    `token_source` says where the token came from (or where one was looked for); only error messages use it. `timeout` is in
    seconds. Raises `InvalidClientOption` if the URL or the token cannot be sent.
    """

    def __init__(
        self, url: str, token: str | None = None, *, token_source: str = "", timeout: float | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._parts = exchange.parse_url(self.url)
        self._token = token
        self._timeout = timeout
        self._api = Api(self.url, token is not None, token_source)
        if token is not None:
            exchange.check_header(f"the API token{token_source and f' from {token_source}'}", token)

    def send(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        """One request, and the response whatever its status is.

        Raises `ApiError` only if there is no response, and `InvalidClientOption` for a header that cannot be sent.
        """
        request = Prepared(method=method, path=target, body=body, headers=headers or {})
        usual = exchange.READ_TIMEOUT if method == "GET" else exchange.WRITE_TIMEOUT
        with self._exchange(request, timeout=usual, failure=f"no daemon answers at {self.url}") as answer:
            return _read(answer)

    def _pieces(self, request: Prepared) -> Iterator[bytes]:
        broken = f"the stream from {self.url} broke off"
        with self._exchange(request, timeout=exchange.WRITE_TIMEOUT, failure=broken) as answer:
            if answer.status != 200:
                raise exchange.error_of(_read(answer), self._api)
            while piece := answer.read1(exchange.PIECE):
                yield piece

    @contextmanager
    def _exchange(self, request: Prepared, *, timeout: float, failure: str) -> Iterator[HTTPResponse]:
        """The response to a request, on a connection of its own. Raises `ApiError`, which begins with `failure`."""
        headers = exchange.headers_of(request, self._token)
        target = self._parts.path.rstrip("/") + request.target
        try:
            with closing(self._connect(self._timeout or timeout)) as connection:
                connection.request(request.method, target, exchange.payload_of(request), headers)
                yield connection.getresponse()
        except (OSError, HTTPException, UnicodeError) as error:
            raise exchange.no_answer(failure, error) from error

    def _connect(self, timeout: float) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=timeout)


def _read(answer: HTTPResponse) -> RawResponse:
    headers = answer.headers
    return exchange.raw_response(answer.status, headers.get_content_type(), answer.read(), headers.get("Retry-After"))
