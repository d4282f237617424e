"""Transports for the clients of official SDKs that keep what came over the wire, unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from tests.openai_schemas import Heard, faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Ear:
    """
    Keeps every answer that its transports bring.

    They speak cleartext, and load no certificates, which takes longer than most tests.
    """

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    @property
    def faults(self) -> list[str]:
        """Where the answers are not as OpenAI has published."""
        return [fault for heard in self.heard for fault in faults(heard)]

    def client(self, *, http2: bool = False) -> httpx2.Client:
        """Return a client for a synchronous SDK; cleartext HTTP/2 must be spoken from the start."""
        transport = httpx2.HTTPTransport(http1=not http2, http2=http2, verify=False)
        return httpx2.Client(transport=_Transport(transport, self), timeout=60)

    def async_client(self, *, http2: bool = False) -> httpx2.AsyncClient:
        """Return a client for an asynchronous SDK."""
        limits = httpx2.Limits(max_connections=1000)
        transport = httpx2.AsyncHTTPTransport(http1=not http2, http2=http2, verify=False, limits=limits)
        return httpx2.AsyncClient(transport=_AsyncTransport(transport, self), timeout=60)

    def hear(self, request: httpx2.Request, response: httpx2.Response) -> Heard:
        """Keep an answer, whose body is still to come."""
        heard = Heard(
            method=request.method,
            path=request.url.path,
            status=response.status_code,
            headers=dict(response.headers),
        )
        self.heard.append(heard)
        return heard


class _Transport(httpx2.BaseTransport):
    def __init__(self, inner: httpx2.BaseTransport, ear: Ear) -> None:
        self._inner, self._ear = inner, ear

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Stream(response.stream, self._ear.hear(request, response))
        return response

    def close(self) -> None:
        self._inner.close()


class _Stream(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream, heard: Heard) -> None:
        self._inner, self._heard = inner, heard

    def __iter__(self) -> Iterator[bytes]:
        for part in self._inner:
            self._heard.body += part
            yield part

    def close(self) -> None:
        self._inner.close()


class _AsyncTransport(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncBaseTransport, ear: Ear) -> None:
        self._inner, self._ear = inner, ear

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _AsyncStream(response.stream, self._ear.hear(request, response))
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, heard: Heard) -> None:
        self._inner, self._heard = inner, heard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._heard.body += part
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
