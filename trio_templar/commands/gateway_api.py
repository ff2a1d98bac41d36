"""The HTTP API of a running gateway, for the commands that call it. Knows httpx; import it once a command runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Mapping
from typing import Any, NamedTuple

import httpx
import trio

from trio_templar.commands.addresses import Address
from trio_templar.commands.command import CommandError, ExitStatus, UsageError
from trio_templar.commands.connecting import reason, tls_context

# What an answer means for the exit status; any other but 200 is a failure.
STATUSES = {401: ExitStatus.REFUSED, 403: ExitStatus.REFUSED, 503: ExitStatus.BUSY}


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

    def __init__(self, address: Address, *, token: str = "", ca: str = "", timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        headers = [(b"Authorization", b"Bearer " + token.encode())] if token else []
        transport = httpx.AsyncHTTPTransport(
            verify=tls_context(ca) if address.secure else False, uds=address.socket or None, trust_env=False
        )
        # Of a whole call there is a deadline here; a stream may take what it takes, once somebody is there.
        timeout = httpx.Timeout(None, connect=timeout_seconds)
        self._client = httpx.AsyncClient(base_url=address.url, headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> GatewayApi:
        return self

    async def __aexit__(self, *exc: object) -> None:
        # A connection with TLS says goodbye, which its peer may not read.
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
                raise CommandError(
                    ExitStatus.FAILED, f"{self._address}{path}: the answer is not JSON: {error}"
                ) from error
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
            raise UsageError(f"{self._address}: this cannot be sent: {error}") from error
        except httpx.HTTPError as error:
            raise CommandError(ExitStatus.UNREACHABLE, f"cannot reach {self._address}: {reason(error)}") from error
        if response.status_code != 200:
            raise self._refusal(path, response)
        return response

    def _refusal(self, path: str, response: httpx.Response) -> CommandError:
        status = STATUSES.get(response.status_code, ExitStatus.FAILED)
        said = " ".join(response.text.split())[:500] or response.reason_phrase
        hint = ""
        if response.status_code == 401:
            hint = " (give it with --token-file, --token or the settings)"
        elif response.status_code == 404:
            hint = " (is this the HTTP address of a gateway, trigger_bind?)"
        return CommandError(status, f"{self._address}{path}: {response.status_code}: {said}{hint}")

    def _too_slow(self) -> CommandError:
        return CommandError(
            ExitStatus.UNREACHABLE, f"{self._address}: no answer within {self._timeout_seconds:g} s (--timeout)"
        )
