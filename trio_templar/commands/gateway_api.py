"""The HTTP API of a running gateway, for the commands that call it. Knows httpx; import it once a command runs."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterable, Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import trio

from trio_templar.commands.command import CommandError, Status
from trio_templar.commands.places import Place

# What an answer means for the exit status; any other but 200 is a failure.
STATUSES = {401: Status.REFUSED, 403: Status.REFUSED, 503: Status.BUSY}


class Answer(NamedTuple):
    """What the gateway said, with status 200."""

    text: str
    content_type: str
    seconds: float

    @property
    def content(self) -> Any:
        """What was said: decoded, if it is JSON."""
        return json.loads(self.text) if self.content_type.startswith("application/json") else self.text


class GatewayApi:
    """One gateway's HTTP API, from `async with` to its end. All calls raise CommandError: if they do not succeed."""

    def __init__(self, place: Place, *, token: str = "", ca: str = "", timeout_seconds: float) -> None:
        self._place = place
        self._timeout_seconds = timeout_seconds
        headers = [(b"Authorization", b"Bearer " + token.encode())] if token else []
        transport = httpx.AsyncHTTPTransport(
            verify=tls_context(ca) if place.secure else False, uds=place.socket or None, trust_env=False
        )
        # Of a whole call there is a deadline here; a stream may take what it takes, once somebody is there.
        timeout = httpx.Timeout(None, connect=timeout_seconds)
        self._client = httpx.AsyncClient(base_url=place.url, headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> GatewayApi:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await self._client.aclose()

    async def get(self, path: str, **query: Any) -> Any:
        """Return the JSON at `path`."""
        asked = {name: value for name, value in query.items() if value is not None}
        with trio.move_on_after(self._timeout_seconds):
            response = await self._request("GET", path, params=asked)
            try:
                return response.json()
            except ValueError as error:
                raise CommandError(Status.FAILED, f"{self._place}{path}: the answer is not JSON: {error}") from error
        raise self._too_slow()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post `body` and return the answer."""
        with trio.move_on_after(self._timeout_seconds):
            return await self.post_stream(path, body, headers)
        raise self._too_slow()

    async def post_stream(self, path: str, body: bytes | AsyncIterable[bytes], headers: Mapping[str, str]) -> Answer:
        """Post what `body` yields, for as long as that takes, and return the answer."""
        start = trio.current_time()
        response = await self._request("POST", path, content=body, headers=headers)
        return Answer(response.text, response.headers.get("content-type", ""), trio.current_time() - start)

    async def _request(self, method: str, path: str, **how: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **how)
        except (httpx.LocalProtocolError, UnicodeError, httpx.InvalidURL) as error:
            raise CommandError(Status.USAGE, f"{self._place}: this cannot be sent: {error}") from error
        except httpx.HTTPError as error:
            raise CommandError(Status.UNREACHABLE, f"cannot reach {self._place}: {reason(error)}") from error
        if response.status_code != 200:
            raise self._refusal(path, response)
        return response

    def _refusal(self, path: str, response: httpx.Response) -> CommandError:
        status = STATUSES.get(response.status_code, Status.FAILED)
        said = " ".join(response.text.split())[:500] or response.reason_phrase
        hint = ""
        if response.status_code == 401:
            hint = " (--token, --token-file or the settings give it)"
        elif response.status_code == 404:
            hint = " (is it the trigger_bind of a trio_templar?)"
        return CommandError(status, f"{self._place}{path}: {response.status_code}: {said}{hint}")

    def _too_slow(self) -> CommandError:
        return CommandError(
            Status.UNREACHABLE, f"{self._place}: no answer within {self._timeout_seconds:g} s (--timeout)"
        )


def tls_context(ca: str) -> ssl.SSLContext:
    """Return whom to trust: the certificates in the file `ca`, or the machine's.

    Raises CommandError: if there are none.
    """
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise CommandError(Status.USAGE, f"--ca: {ca}: {error}") from error


def reason(error: BaseException) -> str:
    """Return why a connection failed, in the words of who knows best: the system or TLS, not those around them."""
    chain = list(_causes(error))
    for cause in reversed(chain):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
    for cause in reversed(chain):
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return next((str(cause) for cause in chain if str(cause)), type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _causes(error.exceptions[0])
        error = error.__cause__ or error.__context__
