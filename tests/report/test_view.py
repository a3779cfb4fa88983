"""`openvlt view`: this machine's pages, and nothing else."""

from __future__ import annotations

import http.client
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openvlt.report.view import find_file, make_server, view
from tests.helpers.report_runs import write_big_run

SECRET = "the secret"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder with one run, and a secret beside it."""
    runs = tmp_path / "runs"
    write_big_run(runs, rows=5)
    (tmp_path / "secret.html").write_text(SECRET)
    (tmp_path / "report.html").write_text(SECRET)
    return runs


@pytest.fixture
def port(runs: Path) -> Iterator[int]:
    with make_server(runs) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        assert server.server_address[0] == "127.0.0.1"
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(
    port: int, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    reply = connection.getresponse()
    return reply.status, reply.read().decode(), dict(reply.getheaders())


def test_the_index_and_the_pages_are_written_when_they_are_asked_for(runs, port):
    status, text, headers = ask(port, "/")
    assert (
        status == 200
        and "Content-Security-Policy" in text
        and headers["Content-Type"].startswith("text/html")
    )
    run = next((runs / "iter1").iterdir())
    place = f"/iter1/{run.name}/report.html"
    status, text, _ = ask(port, place)
    assert status == 200 and "stage 2 said 1" in text
    assert ask(port, place, "HEAD")[:2] == (200, "")


def test_a_running_run_is_followed(runs, port):
    folder = write_big_run(
        runs, name="now", rows=5, state={"state": "running", "pid": os.getpid(), "host": platform.node()}
    )
    place = f"/now/{folder.name}/report.html"
    assert '"step":12,' in ask(port, place)[1]
    with (folder / "02-grpo1" / "metrics.csv").open("a") as file:
        file.write("13" + ",1" * 18 + "\n")
    os.utime(folder / "02-grpo1" / "metrics.csv", (4e9, 4e9))
    assert '"step":13,' in ask(port, place)[1]


@pytest.mark.parametrize(
    "path",
    ["/../secret.html", "/../report.html", "/iter1/../../report.html", "/%2e%2e/report.html", "/iter1/%2e%2e/%2e%2e/report.html", "//etc/passwd",
     "/..%2freport.html", "/iter1/x/..%5c..%5creport.html", "/x/%00/report.html", "/.index.json", "/iter1/.hidden/report.html", "/out/report.html",
     "/out/1/report.html", "/linked/report.html", "/iter1/RUN/manifest.json", "/iter1/RUN/config.yaml", "/iter1/RUN/00-base/images/one.png",
     "/iter1/RUN/report_files/leak.png", "/iter1/RUN/report_files/../config.yaml", "/report.html", "/iter1/", "/iter1/absent/report.html"],
)  # fmt: skip
def test_nothing_else_is_served(runs, port, path):
    run = next(folder for folder in (runs / "iter1").iterdir() if not folder.name.startswith("."))
    (runs.parent / "out" / "1").mkdir(parents=True)
    for folder in (
        runs.parent / "out",
        runs.parent / "out" / "1",
        runs / "linked",
        runs / "iter1" / ".hidden",
        run / "report_files",
    ):
        folder.mkdir(parents=True, exist_ok=True)
    (runs.parent / "out" / "report.html").write_text(SECRET)
    (runs.parent / "out" / "1" / "report.html").write_text(SECRET)
    (runs / "iter1" / ".hidden" / "report.html").write_text(SECRET)
    (runs / "out").symlink_to(runs.parent / "out")
    (runs / "linked" / "report.html").symlink_to(runs.parent / "secret.html")
    (run / "report_files" / "leak.png").symlink_to(runs.parent / "secret.html")
    status, text, _ = ask(port, path.replace("RUN", run.name))
    assert status in (404, 500) and SECRET not in text and "torch" not in text


def test_pictures_beside_a_page_are_served(runs, port):
    run = next((runs / "iter1").iterdir())
    (run / "report_files").mkdir()
    (run / "report_files" / "a.png").write_bytes(b"png")
    status, text, headers = ask(port, f"/iter1/{run.name}/report_files/a.png")
    assert (status, text, headers["Content-Type"]) == (200, "png", "image/png")


def test_other_names_and_methods_are_refused(port):
    assert (
        ask(port, "/", host="evil.example:80")[0] == 403
        and ask(port, "/", host=f"localhost:{port}")[0] == 200
    )
    assert ask(port, "/", "POST")[0] == 501


def test_a_damaged_run_is_one_sentence(runs, port):
    run = next((runs / "iter1").iterdir())
    (run / "results.json").write_text("{half")
    status, text, _ = ask(port, f"/iter1/{run.name}/report.html")
    assert status == 500 and "is not valid JSON" in text and text.count("\n") == 1


def test_what_is_wrong_is_one_sentence(runs, capsys, port):
    assert view([str(runs / "absent")]) == 2 and "no such folder" in capsys.readouterr().err
    assert view([str(runs), "--port", "99999"]) == 2 and "give a port" in capsys.readouterr().err
    assert view([str(runs), "--port", str(port)]) == 2 and "give another --port" in capsys.readouterr().err
    assert find_file(runs.resolve(), "/index.html") == runs.resolve() / "index.html"
