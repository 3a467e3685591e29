"""A minimal S3 server in memory, whose own time per call is short compared with the delay that it adds.

`python -m benchmarks.support.s3_server DELAY_S [NAME=FOLDER ...]` prints its URL. It has one bucket, accepts all
credentials, and implements what a run folder needs: get, head, delete, put (also with `If-None-Match`), and listings
in pages.
"""

from __future__ import annotations

import bisect
import re
import sys
import threading
import time
from collections.abc import Iterable
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bench"
_DATE = "2026-01-01T00:00:00.000Z"
_PAGE = 1000


class Objects:
    """The objects of the bucket, with their keys in order."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._keys: list[str] = []
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        return self._contents.get(key)

    def put(self, key: str, content: bytes, unless_exists: bool = False) -> bool:
        with self._lock:
            exists = key in self._contents
            if not exists:
                bisect.insort(self._keys, key)
            if not (exists and unless_exists):
                self._contents[key] = content
            return not (exists and unless_exists)

    def delete(self, key: str) -> None:
        with self._lock:
            if self._contents.pop(key, None) is not None:
                del self._keys[bisect.bisect_left(self._keys, key)]

    def load(self, name: str, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self._contents[f"{name}/{path.relative_to(folder)}"] = path.read_bytes()
        self._keys = sorted(self._contents)

    def page(self, prefix: str, delimiter: str, after: str, size: int) -> tuple[list[str], list[str], str]:
        """Return the keys and common prefixes of a page, and its last key unless it is the last page."""
        with self._lock:
            return self._page(prefix, delimiter, after, size)

    def _page(self, prefix: str, delimiter: str, after: str, size: int) -> tuple[list[str], list[str], str]:
        at = max(bisect.bisect_left(self._keys, prefix), bisect.bisect_right(self._keys, after))
        keys: list[str] = []
        folders: list[str] = []
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            if len(keys) + len(folders) == size:
                return keys, folders, self._keys[at - 1]
            cut = self._keys[at].find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                keys.append(self._keys[at])
                at += 1
            else:
                folders.append(self._keys[at][: cut + 1])
                at = bisect.bisect_left(self._keys, folders[-1][:-1] + chr(ord(delimiter) + 1), at)
        return keys, folders, ""

    def listing(self, query: dict[str, str]) -> bytes:
        """Return a page as XML."""
        after = query.get("continuation-token", query.get("start-after", ""))
        size = min(int(query.get("max-keys", _PAGE)), _PAGE)
        keys, folders, last = self.page(query.get("prefix", ""), query.get("delimiter", ""), after, size)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_DATE}</LastModified><ETag>x</ETag>"
            f"<Size>{len(self._contents.get(key, b''))}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if last else ""
        text = (
            f"<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(keys) + len(folders)}</KeyCount>"
            f"<IsTruncated>{'true' if last else 'false'}</IsTruncated>{token}{contents}{prefixes}</ListBucketResult>"
        )
        return text.encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as S3 does
    wbufsize = -1  # buffers an answer, so that it is sent at once
    disable_nagle_algorithm = True
    objects = Objects()
    delay_s = 0.0

    def handle_one_request(self) -> None:
        self.key, self.query = "", dict[str, str]()
        super().handle_one_request()

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _receive(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        self.key = unquote(url.path).partition(f"/{BUCKET}")[2].lstrip("/")
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        time.sleep(self.delay_s)
        return body

    def do_GET(self) -> None:
        self._receive()
        if not self.key:
            self._answer(200, self.objects.listing(self.query))
            return
        content = self.objects.get(self.key)
        if content is None:
            self._refuse(404, "NoSuchKey")
        elif asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            part = content[first : last + 1]
            self._answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"})
        else:
            self._answer(200, content)

    def do_HEAD(self) -> None:
        self._receive()
        content = self.objects.get(self.key) if self.key else b""
        self._answer(404 if content is None else 200, content or b"", {"ETag": '"x"'})

    def do_PUT(self) -> None:
        body = self._receive()
        if source := self.headers.get("x-amz-copy-source"):
            content = self.objects.get(unquote(source).partition(f"{BUCKET}/")[2])
            self.objects.put(self.key, content or b"")
            self._answer(200, f"<CopyObjectResult><LastModified>{_DATE}</LastModified></CopyObjectResult>".encode())
        elif self.objects.put(self.key, body, unless_exists=self.headers.get("If-None-Match") == "*"):
            self._answer(200, b"", {"ETag": f'"{md5(body).hexdigest()}"'})
        else:
            self._refuse(412, "PreconditionFailed")

    def do_DELETE(self) -> None:
        self._receive()
        self.objects.delete(self.key)
        self._answer(204, b"")

    def do_POST(self) -> None:
        """Delete several objects."""
        for key in re.findall(r"<Key>(.*?)</Key>", self._receive().decode()):
            self.objects.delete(key)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, content: bytes, headers: dict[str, Any] | None = None) -> None:
        lines = {"Content-Type": "application/xml", "Content-Length": len(content), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        date = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        body = b"" if self.command == "HEAD" else content
        self.wfile.write(f"HTTP/1.1 {status} -\r\n{date}{head}\r\n".encode() + body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def serve(delay_s: float, loaded: Iterable[str]) -> None:
    Handler.delay_s = delay_s
    for pair in loaded:
        name, _, folder = pair.partition("=")
        Handler.objects.load(name, Path(folder))
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(float(sys.argv[1]), sys.argv[2:])
