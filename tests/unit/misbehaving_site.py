"""A real HTTP server on this machine that serves files well, or badly on demand."""

import contextlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    data: bytes
    etag: str = '"one"'
    modified: str = ""


@dataclass
class Site:
    """`moods` are used up one a request; after them every request is answered well.

    status: an answer of this code, with `headers`   cut: close after so many bytes of the body
    length: what Content-Length claims               stall: stop after so many bytes, keep the line
    ranges: False ignores Range                      if_range: False ignores If-Range
    sized: False sends no Content-Length             cap: longest range it gives
    change: files that are there from this request on
    """

    url: str
    files: dict = field(default_factory=dict)
    moods: list = field(default_factory=list)
    always: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self):
        """Return the Range of every request so far."""
        return [headers.get("Range") for headers in self.asked]


@contextlib.contextmanager
def running_site():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            with site.lock:
                site.asked.append(self.headers)
                mood = site.always | (site.moods.pop(0) if site.moods else {})
                site.files |= mood.get("change", {})
            with contextlib.suppress(ConnectionError):
                _answer(self, site, mood)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(request, site, mood):
    file = site.files.get(request.path.lstrip("/"))
    status = mood.get("status", 200 if file else 404)
    if status != 200:
        request.send_response(status)
        for name, value in mood.get("headers", {"Content-Length": "0"}).items():
            request.send_header(name, value)
        request.end_headers()
        request.close_connection = True
        return
    data, headers, total = file.data, {"ETag": file.etag, "Last-Modified": file.modified}, None
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    condition = request.headers.get("If-Range") if mood.get("if_range", True) else None
    if asked and mood.get("ranges", True) and condition in (None, file.etag, file.modified):
        total, first = len(data), int(asked[1])
        last = min(int(asked[2] or total), total - 1, first + mood.get("cap", total) - 1)
        status = 206 if first < total else 416
        span = f"{first}-{last}" if status == 206 else "*"
        headers["Content-Range"] = f"bytes {span}/{total}"
        data = data[first : last + 1] if status == 206 else b""
    request.send_response(status)
    if mood.get("sized", True):
        headers["Content-Length"] = str(mood.get("length", len(data)))
    else:
        headers["Connection"] = "close"
    for name, value in headers.items():
        if value:
            request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data[: mood.get("cut", mood.get("stall", len(data)))])
    request.wfile.flush()
    if "stall" in mood:
        site.released.wait(10)
    if {"cut", "stall", "length"} & set(mood) or not mood.get("sized", True):
        request.close_connection = True
