"""A real Prometheus that scrapes workers of this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.server import free_port
from support.waiting import eventually_now

CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: workers
    static_configs:
{targets}
"""
TARGET = "      - {{targets: ['127.0.0.1:{port}'], labels: {{pod: 'pod-{port}', namespace: shop}}}}"


@dataclass(frozen=True)
class Prometheus:
    """A running server, asked over its HTTP interface."""

    url: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series of an instant query: labels and value. Raises ValueError with the server's message."""
        question = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{question}", timeout=30) as reply:
                result = json.load(reply)["data"]["result"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{expression}: {json.load(error)['error']}") from None
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, expression: str) -> float | None:
        """The value of an expression that gives one series, None while it gives none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression} gives {len(found)} series"
        return found[0][1] if found else None


def installed() -> bool:
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


def lint(exposition: str) -> str:
    """What promtool has to say about an exposition: nothing, if it is good."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@contextmanager
def running_prometheus(ports: Sequence[int]) -> Iterator[Prometheus]:
    """A server that scrapes these ports of loopback, four times a second."""
    with tempfile.TemporaryDirectory(prefix="everstep-prometheus-") as name:
        folder, port = Path(name), free_port()
        targets = "\n".join(TARGET.format(port=scraped) for scraped in ports)
        (folder / "prometheus.yml").write_text(CONFIGURATION.format(targets=targets))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            eventually_now(lambda: _ready(server, process, folder / "log"), within=30)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"prometheus ended: {log.read_text()[-2000:]}")
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=30) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
