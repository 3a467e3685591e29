"""A TCP proxy that goes away, comes back, and holds the HTTP requests that a test names."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

_REQUEST_LINE = re.compile(rb"(?:GET|POST|PUT|DELETE|HEAD) \S+(?= HTTP/1)")
_Answer = TypeVar("_Answer")


@dataclass
class Hold:
    """What holds requests, or their answers, until it is released.

    Attributes:
        pattern: is searched in what comes from the client.
        answers: whether the request is carried out and only its answer is held.
        reached: is set when something is held.
        number: how many requests have been held.
        released: is set when nothing is held any more.
    """

    pattern: re.Pattern[bytes]
    answers: bool
    reached: threading.Event = field(default_factory=threading.Event)
    number: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    async def pause(self) -> None:
        """Wait until the hold is released."""
        self.number += 1
        self.reached.set()
        await asyncio.to_thread(self.released.wait, 300)


class GatedProxy:
    """A proxy between a port of its own and one of this machine.

    Args:
        port: the port of the server.
        tls: what encrypts the connections of clients; None = they are not encrypted.

    Attributes:
        requests: when each request came, in seconds since 1970, and its method and path.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[float, str]] = []
        self._upstream = port
        self._tls = tls
        self._port = 0
        self._hold: Hold | None = None
        self._demanded = b""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The URL of the server as clients of the proxy see it."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Take connections, again on the port that it had before."""
        self._run(self._open())

    def close(self) -> None:
        """Refuse connections, and end those that there are."""
        self._run(self._close())

    @contextlib.contextmanager
    def held(self, pattern: str, answers: bool = False) -> Iterator[Hold]:
        """Hold the requests in which `pattern` is found, or with `answers` what the server says to them."""
        self._hold = hold = Hold(re.compile(pattern.encode()), answers)
        try:
            yield hold
        finally:
            self._hold = None
            hold.released.set()

    @contextlib.contextmanager
    def demanding(self, text: str) -> Iterator[None]:
        """Refuse requests without this text, as those whose token is wrong."""
        self._demanded = text.encode()
        try:
            yield
        finally:
            self._demanded = b""

    def __enter__(self) -> GatedProxy:
        self._thread.start()
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._run(self._wait_for_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, wanted: Coroutine[Any, Any, _Answer]) -> _Answer:
        return asyncio.run_coroutine_threadsafe(wanted, self._loop).result(30)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    async def _wait_for_connections(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._connections |= {writer, up_writer}
            holds: list[Hold] = []
            try:
                both = (
                    self._pass_requests(reader, up_writer, writer, holds),
                    self._pass_answers(up_reader, writer, holds),
                )
                await asyncio.gather(*both)
            finally:
                self._connections -= {writer, up_writer}
                up_writer.close()
                writer.close()

    async def _pass_requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        holds: list[Hold],
    ) -> None:
        while data := await reader.read(1 << 16):
            if line := _REQUEST_LINE.match(data):
                self.requests.append((time.time(), line.group().decode()))
                if self._demanded not in data:
                    client.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    await client.drain()
                    break
            hold = self._hold
            if hold is not None and hold.pattern.search(data):
                holds.append(hold)
                if not hold.answers:
                    await hold.pause()
                    if reader.at_eof():  # the client has gone, so nobody asks for this any more
                        break
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, holds: list[Hold]
    ) -> None:
        while data := await reader.read(1 << 16):
            if holds and holds[-1].answers and not holds[-1].released.is_set():
                await holds[-1].pause()
            writer.write(data)
            await writer.drain()
        writer.close()
