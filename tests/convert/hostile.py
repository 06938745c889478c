"""A server of pictures that does everything wrong: slow, endless, cut short, no HTTP, pages for pictures."""

from __future__ import annotations

import io
import socketserver
import threading
from contextlib import contextmanager, suppress
from itertools import repeat

import numpy as np
from PIL import Image


def picture(value, size=(12, 20)):
    content = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def answer(content, *headers, status="200 OK", kind="image/png"):
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + content


def with_length(content, length=None, **options):
    return answer(content, f"Content-Length: {len(content) if length is None else length}", **options)


def redirect(to, content=b""):
    return answer(content, f"Location: {to}", status="302 Found")


GOOD = picture(7)
MANY = b"x" * 2**14
# What is sent, in pieces; a number is a pause in seconds.
ANSWERS = {
    "good": lambda _: [with_length(GOOD)],
    "chunked": lambda _: [answer(b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD), "Transfer-Encoding: chunked")],
    "drip": lambda stop: [answer(b""), *_drips(GOOD[:40], stop)],
    "drip of headers": lambda stop: _drips(answer(GOOD), stop),
    "drip without an end": lambda stop: [answer(b""), *_drips(repeat(120, 10**4), stop)],
    "silence": lambda stop: [stop],
    "endless": lambda _: [answer(b""), *repeat(MANY, 10**4)],
    "endless chunks": lambda _: [answer(b"", "Transfer-Encoding: chunked"), *repeat(b"4000\r\n%s\r\n" % MANY, 10**4)],
    "endless continuation": lambda _: repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 10**5),
    "endless redirect": lambda _: [redirect("/good", MANY), *repeat(MANY, 10**4)],
    "large": lambda _: [with_length(GOOD, 10**13)],
    "short": lambda _: [with_length(GOOD[:-20], len(GOOD))],
    "short chunks": lambda _: [answer(b"1000\r\n" + GOOD, "Transfer-Encoding: chunked")],
    "cut": lambda _: [answer(GOOD[:-20])],
    "page": lambda _: [with_length(b"<html>Please log in</html>", kind="text/html")],
    "page as a picture": lambda _: [with_length(b"<html>Please log in</html>")],
    "nothing": lambda _: [with_length(b"")],
    "no HTTP": lambda _: [b"\x16\x03\x01 go away\r\n\r\n"],
    "status": lambda _: [b"HTTP/1.1 x\r\n\r\n"],
    "many headers": lambda _: [answer(GOOD, *(f"X-{i}: 1" for i in range(200)))],
    "long header": lambda _: [answer(GOOD, "X: " + "x" * 10**5)],
    "closed": lambda _: [],
    "404": lambda _: [with_length(b"no", status="404 Not Found")],
    "500": lambda _: [with_length(GOOD, status="500 Oh\x1b[31m no")],
    "metadata": lambda _: [redirect("http://169.254.169.254/latest/meta-data/")],
    "private": lambda _: [redirect("http://10.0.0.1/")],
    "loopback": lambda port: [redirect("http://127.0.0.1:{port}/good")],
    "file": lambda _: [redirect("file:///etc/passwd")],
    "circle": lambda _: [redirect("/circle")],
    "redirect": lambda _: [redirect("/good")],
    **{f"p{value}": lambda _, value=value: [with_length(picture(value))] for value in range(60)},
}


def _drips(content, stop):
    for byte in content:
        yield bytes([byte])
        yield stop


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        if not (line := self.rfile.readline()):  # a connection that asks for nothing
            return
        path = line.split(b" ")[1].decode()
        headers = {}
        while (line := self.rfile.readline().strip()) and b":" in line:
            name, _, value = line.partition(b":")
            headers[name.decode().lower()] = value.strip().decode()
        self.server.asked.append((path, headers))
        name = self.server.answers.get(path, path[1:].replace("%20", " "))
        port = str(self.server.server_address[1]).encode()
        with suppress(OSError):
            for piece in ANSWERS[name](self.server.stop):
                if isinstance(piece, bytes):
                    self.wfile.write(piece.replace(b"{port}", port))
                elif piece.wait(0.02 if name.startswith("drip") else 60):
                    return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def serving():
    """A server on 127.0.0.1: ``url`` leads to it, ``answers`` names what each path gives, ``asked`` what was asked."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.stop, server.asked, server.answers = threading.Event(), [], {}
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server
        finally:
            server.stop.set()
            server.shutdown()
