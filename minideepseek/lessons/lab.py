"""JupyterLab, opened on a lesson, with nothing between the reader and the first cell."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from minideepseek.errors import UserError
from minideepseek.lessons.source import find, home

START_SECONDS = 180  # a cold disk and a busy machine


def open_lab(number: str = "00", *, host: str = "127.0.0.1", port: int = 8888) -> None:
    """Start JupyterLab on a lesson and stay until it ends (Ctrl-C).

    Opens a browser where there is a display, and prints the address in any case. Takes the next free port if ``port``
    is in use. In a container, ``host="0.0.0.0"`` makes the lab reachable through a forwarded port.
    Raises ``UserError`` if JupyterLab or the lessons are not there, or if it does not start.
    """
    lesson = find(number)[0]
    if not lesson.notebook.exists():
        raise UserError(f"lesson {number} has no notebook yet; make it with: minideepseek lessons build {number}")
    show(lesson.notebook, f"lesson {lesson.number}, {lesson.title}", root=home().parent, host=host, port=port)


def show(notebook: Path, title: str, *, root: Path, host: str = "127.0.0.1", port: int = 8888) -> None:
    """Start JupyterLab in ``root``, on a notebook somewhere in it, and stay until it ends; as ``open_lab`` does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `docker stop` too ends the server before us
    with lab(root=root, host=host, port=port) as (process, base, token):
        page = f"{base}/lab/tree/{quote(notebook.relative_to(root).as_posix())}?token={token}"
        print(f"\nJupyterLab is open on {title}:\n\n    {page}\n\nCtrl-C here ends it.\n")
        if _display():
            webbrowser.open(page)
        try:
            process.wait()
        except KeyboardInterrupt:
            print("\nJupyterLab ended; your notebooks are saved as you left them.")


@contextmanager
def lab(*, root: Path, host: str = "127.0.0.1", port: int = 8888) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """A JupyterLab serving ``root``: yields its process, its address and its token; ends it on leaving."""
    if find_spec("jupyterlab") is None:
        raise UserError('JupyterLab is not installed; install it with: pip install "minideepseek[course]"')
    token = secrets.token_hex(16)
    options = [
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.ip={host}",
        f"--ServerApp.port={port}",  # or one after it, if that is taken
        "--ServerApp.open_browser=False",
        "--ServerApp.answer_yes=True",  # Ctrl-C ends it, and does not ask
        "--Application.log_level=ERROR",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container's usual user
        options.append("--ServerApp.allow_root=True")
    with tempfile.TemporaryDirectory() as settings:
        # The offer to subscribe to Jupyter's news would be the first thing a newcomer sees.
        page_config = Path(settings) / "labconfig" / "page_config.json"
        page_config.parent.mkdir()
        page_config.write_text(
            json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
        )
        path = os.pathsep.join(filter(None, [settings, os.environ.get("JUPYTER_CONFIG_PATH")]))
        # The token travels in the environment: arguments can be read by every user of the machine.
        env = {**os.environ, "JUPYTER_CONFIG_PATH": path, "JUPYTER_TOKEN": token}
        log = (
            Path(settings) / "jupyter.log"
        )  # the terminal is for the address; what the server says matters if it fails
        with log.open("wb") as output:
            command = [sys.executable, "-m", "jupyterlab", *options]
            process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            port = _await(process, log)
            base = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
            yield process, base, token
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the server listens; the port it took."""
    from jupyter_server.serverapp import list_running_servers

    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        for server in list_running_servers():
            if server["pid"] == process.pid:
                return int(server["port"])
        if time.monotonic() > deadline:
            raise UserError(f"JupyterLab did not answer within {START_SECONDS} s; try again when the machine is idle")
        time.sleep(0.2)
    last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    raise UserError(f"JupyterLab did not start; its last words: {last}")


def _display() -> bool:
    """Whether a browser opened here would be seen by the person who asked for it."""
    if "SSH_CONNECTION" in os.environ:
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
