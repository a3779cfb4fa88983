"""What `openvlt view` does: serves the pages of all runs on this machine, and follows those that run."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from openvlt.errors import UserError
from openvlt.report.collect.pictures import FILES
from openvlt.report.collect.runs import last_write
from openvlt.report.index import INDEX, write_index
from openvlt.report.records import read_json
from openvlt.report.write import REPORT, write_report
from openvlt.runs.state import RUN_STATE

HOST, PORT = "127.0.0.1", 8642
RUNNING_S = 20.0  # a running run's page is written again when it is older, for its clock and its end
SERVED = {".html": "text/html; charset=utf-8", ".png": "image/png", ".jpeg": "image/jpeg"}


def view(arguments: list[str]) -> int:
    """Serves a runs folder until Ctrl-C; exit status 0, or 2 after one sentence on what is wrong."""
    parser = argparse.ArgumentParser(prog="openvlt view", description=__doc__)
    default = os.environ.get("OPENVLT_RUNS", "runs")
    parser.add_argument("runs", nargs="?", type=Path, default=Path(default), help="the folder of all runs")
    parser.add_argument("--port", type=int, default=PORT, help=f"on {HOST} (0: any free one)")
    options = parser.parse_args(arguments)
    try:
        server = make_server(options.runs, options.port)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with server:
        print(f"http://{HOST}:{server.server_address[1]}/ shows {options.runs}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def make_server(runs: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a runs folder on 127.0.0.1. Raises UserError without the folder or the port."""
    if not runs.is_dir():
        raise UserError(f"{runs}: no such folder; give the folder of all runs: openvlt view RUNS")
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}; give a port from 1 to 65535, or 0 for any free one")
    handler = type("RunsHandler", (_Handler,), {"root": runs.resolve(), "writing": threading.Lock()})
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise UserError(f"port {port} can't be opened ({error.strerror}); give another --port") from error
    server.daemon_threads = True
    return server


def find_file(root: Path, path: str) -> Path | None:
    """The file below `root` that a request's path means; None for what isn't served.

    Served are the index, the runs' pages and their pictures. A path that leaves `root`, by `..` or by a
    symbolic link, means nothing, and neither does a hidden file.
    """
    parts = [part for part in unquote(urlsplit(path).path).split("/") if part] or [INDEX]
    if any(part.startswith(".") or "\0" in part or "\\" in part for part in parts):
        return None
    name = parts[-1]
    picture = len(parts) > 1 and parts[-2] == FILES and Path(name).suffix in SERVED
    if parts != [INDEX] and (name != REPORT or len(parts) < 2) and not picture:
        return None
    file = root.joinpath(*parts)
    return file if file.resolve() == file and file.is_relative_to(root) else None


def refresh_page(root: Path, file: Path) -> None:
    """Writes the index, or a run's page, where the run has written something since. Raises UserError."""
    if file == root / INDEX:
        write_index(root)
    elif file.name == REPORT and file.parent.is_dir():
        written = file.stat().st_mtime if file.is_file() else 0.0
        running = read_json(file.parent / RUN_STATE).get("state") == "running"
        if written < last_write(file.parent) or (running and time.time() - written > RUNNING_S):
            write_report(file.parent)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files that `find_file` allows, to this machine's own browser."""

    root: Path
    writing: threading.Lock

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""

    def _answer(self, *, body: bool) -> None:
        if not self._is_for_us():
            self._send(HTTPStatus.FORBIDDEN, f"ask for http://{HOST}\n".encode(), body=body)
            return
        file = find_file(self.root, self.path)
        if file is None:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n", body=body)
            return
        try:
            with self.writing:
                refresh_page(self.root, file)
            content = file.read_bytes()
        except UserError as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode(), body=body)
        except OSError:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n", body=body)
        else:
            self._send(HTTPStatus.OK, content, SERVED[file.suffix], body=body)

    def _is_for_us(self) -> bool:
        """Whether the request names this server; another name that leads here may be a foreign page's."""
        name = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        return name in (HOST, "localhost")

    def _send(
        self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8", *, body: bool
    ) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


if __name__ == "__main__":
    sys.exit(view(sys.argv[1:]))
