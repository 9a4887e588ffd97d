"""An API server with nothing behind it but etcd: what the operator itself does, exactly counted.

No controllers and no kubelet run, so a test plays them: it says when a Job or Deployment is done.
Both processes listen on loopback only and end with the fixture.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from e2e.kube import localkube, run
from e2e.waiting import eventually

_TOKEN = "admin-token"
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
_WRITES = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True, slots=True)
class BareApi:
    folder: Path
    tools: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        path = f"{self.tools}:{os.environ['PATH']}"
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}
        return run("kubectl", *args, stdin=stdin, env=env)

    def get(self, *args: str) -> Any:
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, *objects: Mapping[str, Any]) -> str:
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def status(self, what: str, name: str, status: Mapping[str, Any]) -> None:
        """Say what a controller would say."""
        patch = json.dumps({"status": status})
        args = ("--subresource=status", "--type=merge", "-p", patch)
        self.kubectl("patch", what, name, "-n", "default", *args)

    def writes(self, agent: str) -> list[str]:
        """Write requests of a client, from the audit log: verb and path."""
        seen = [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines()]
        return [
            f"{entry['verb']} {entry['requestURI'].split('?')[0]}"
            for entry in seen
            if entry["verb"] in _WRITES and agent in entry.get("userAgent", "")
        ]


@contextmanager
def bare_api() -> Iterator[BareApi]:
    tools = Path(localkube("bin"))
    folder = Path(tempfile.mkdtemp(prefix="everstep-bare-api-"))
    api = BareApi(folder, tools)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        etcd, port = _free_port(), _free_port()
        processes.append(_start(folder, "etcd", _etcd(folder, etcd)))
        _credentials(folder, port)
        processes.append(_start(folder, "kube-apiserver", _apiserver(folder, tools, etcd, port)))
        eventually(lambda: _ready(api), within=180, what=f"the API server answers ({folder})")
        yield api
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("w") as log:
        # A bounded life, should the test process be killed without a chance to clean up.
        return subprocess.Popen(["timeout", "1800", *command], stdout=log, stderr=log)


def _etcd(folder: Path, port: int) -> list[str]:
    client = f"http://127.0.0.1:{port}"
    return [
        "etcd",
        "--data-dir",
        str(folder / "etcd"),
        "--unsafe-no-fsync",
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", f"http://127.0.0.1:{_free_port()}"),
    ]


def _apiserver(folder: Path, tools: Path, etcd: int, port: int) -> list[str]:
    options = {
        "etcd-servers": f"http://127.0.0.1:{etcd}",
        "secure-port": str(port),
        "bind-address": "127.0.0.1",
        "advertise-address": "127.0.0.1",
        "external-hostname": "localhost",
        "cert-dir": str(folder / "certs"),
        "token-auth-file": str(folder / "tokens.csv"),
        "service-account-key-file": str(folder / "sa.key"),
        "service-account-signing-key-file": str(folder / "sa.key"),
        "service-account-issuer": "https://kubernetes.default.svc",
        "authorization-mode": "RBAC",
        "service-cluster-ip-range": "198.19.0.0/16",
        "disable-admission-plugins": "ServiceAccount",
        "audit-policy-file": str(folder / "audit.yaml"),
        "audit-log-path": str(folder / "audit.log"),
        "audit-log-mode": "blocking",
    }
    return [
        str(tools / "kube-apiserver"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def _credentials(folder: Path, port: int) -> None:
    run("openssl", "genrsa", "-out", str(folder / "sa.key"), "2048")
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,admin,system:masters\n")
    (folder / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))
    server = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": str(folder / "certs/apiserver.crt"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bare", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "bare", "context": {"cluster": "bare", "user": "admin"}}],
        "current-context": "bare",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))


def _ready(api: BareApi) -> bool:
    if not (api.folder / "certs/apiserver.crt").exists():
        return False
    try:
        api.kubectl("get", "--raw", "/readyz")
        api.kubectl("get", "namespace", "default")
    except AssertionError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
