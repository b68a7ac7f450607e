"""A JupyterLab that is started as `make lab` starts it, for tests that ask it or look at it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def lab_server(checkout: Path, home: Path, token: str = "", **more: str):
    """get(path, method) of a running server and its port. checkout: whose chapters it serves. home: an empty user's folder.

    more: environment variables. The server is stopped in the end, with its kernels.
    """
    port = free_port()
    outer = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    options = ["--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command = [sys.executable, "-m", "utils.course.lab", *options, f"--IdentityProvider.token={token}"]
    environment = {**outer, "HOME": str(home), "USERPROFILE": str(home), **more}
    log = home / "log"
    with log.open("w") as written:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=written, stderr=subprocess.STDOUT)

    def get(path: str, method: str = "GET") -> tuple[str, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        request.add_header("Authorization", f"token {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.url, answer.read().decode("utf-8")

    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                get("/api/status")
                break
            time.sleep(0.5)
        else:
            pytest.fail(f"the server did not come up:\n{log.read_text()}")
        yield get, port
        with contextlib.suppress(OSError):  # without a token it wants a cookie of the page, and is stopped below
            get("/api/shutdown", "POST")
            process.wait(timeout=60)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
