"""The operator as a process, with exactly the permissions the chart gives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from e2e.bare_api import BareApi, bare_api
from e2e.kube import TOP, run
from e2e.waiting import eventually
from support.proxy import Proxy

from everstep_operator.__main__ import crd_text

pytestmark = pytest.mark.e2e

APP = {
    "apiVersion": "everstep.dev/v1alpha1",
    "kind": "DurableApp",
    "metadata": {"name": "shop", "namespace": "default"},
    "spec": {
        "database": {"urlFrom": {"secretKeyRef": {"name": "shop-db", "key": "url"}}},
        "template": {"spec": {"containers": [{"name": "worker", "image": "shop:v1"}]}},
    },
}


@pytest.fixture(scope="module")
def api() -> Iterator[BareApi]:
    with bare_api() as running:
        running.kubectl("apply", "--server-side", "-f", "-", stdin=crd_text())
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        chart = run(
            str(running.tools / "helm"),
            *("template", "everstep", str(TOP / "charts/everstep"), "--namespace", "default"),
            *("--set", "crds.install=false", "--skip-tests"),
        )
        rights = [o for o in yaml.safe_load_all(chart) if o and o["kind"] != "Deployment"]
        running.apply(*rights)
        yield running


@pytest.fixture
def kubeconfig(api: BareApi, tmp_path: Path) -> Path:
    """A login as the operator's ServiceAccount and nobody else."""
    token = api.kubectl("create", "token", "everstep", "-n", "default").strip()
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass
class Operator:
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=30
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def said(self) -> str:
        return self.log.read_text()


@contextmanager
def operator(kubeconfig: Path, identity: str, **more: str) -> Iterator[Operator]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(TOP / "operator"),
        "EVERSTEP_OPERATOR_WATCH_NAMESPACES": "default",
        "EVERSTEP_OPERATOR_NAMESPACE": "default",
        "EVERSTEP_OPERATOR_IDENTITY": identity,
        "EVERSTEP_OPERATOR_PORT": str(port),
        **more,
    }
    log = kubeconfig.with_name(f"{identity}.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "everstep_operator"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield Operator(process, port, log)
    finally:
        process.kill()
        process.wait(30)


def holder(api: BareApi) -> str:
    lease = api.get("lease", "everstep-operator", "-n", "default")
    return str(lease["spec"].get("holderIdentity", ""))


def generation_seen(api: BareApi) -> int:
    return int(
        api.get("dapp", "shop", "-n", "default").get("status", {}).get("observedGeneration", 0)
    )


def test_check_finds_all_permissions_there(kubeconfig: Path) -> None:
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(TOP / "operator"),
        "EVERSTEP_OPERATOR_WATCH_NAMESPACES": "default",
    }
    said = run(sys.executable, "-m", "everstep_operator", "check", env=environment)
    assert "all that the operator needs is there" in said


def test_it_watches_answers_and_leaves_with_the_chart_s_rights(
    api: BareApi, kubeconfig: Path
) -> None:
    api.kubectl("delete", "dapp", "--all", "-n", "default")
    # Longer than anybody waits below: what wakes it is an event.
    with operator(kubeconfig, "first", EVERSTEP_OPERATOR_RESYNC_SECONDS="600") as running:
        eventually(lambda: running.ask("/readyz"), lambda a: a == (200, "acting"), what="acting")
        api.apply(APP)
        eventually(
            lambda: generation_seen(api), lambda g: g == 1, within=30, what="an event wakes it"
        )
        status = api.get("dapp", "shop", "-n", "default")["status"]
        reasons = {c["type"]: c["reason"] for c in status["conditions"]}
        assert reasons["DatabaseReachable"] == "SecretMissing"
        assert "create it in this namespace, with the connection string" in json.dumps(status)

        api.kubectl(
            "patch",
            "dapp",
            "shop",
            "-n",
            "default",
            "--type=merge",
            "-p",
            '{"spec": {"replicas": 3}}',
        )
        eventually(
            lambda: generation_seen(api), lambda g: g == 2, within=30, what="a change wakes it"
        )

        assert running.ask("/livez") == (200, "ok")
        code, metrics = running.ask("/metrics")
        assert code == 200
        assert 'everstep_operator_database_up{app="shop",namespace="default"} 0.0' in metrics
        assert "everstep_operator_leader 1.0" in metrics

        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0, running.said()
        assert holder(api) == ""
        assert "orbidden" not in running.said()
        assert "Traceback" not in running.said()


def watches(api: BareApi) -> int:
    """How many watches of DurableApps the operator has opened."""
    entries = map(json.loads, (api.folder / "audit.log").read_text().splitlines())
    return sum(e["verb"] == "watch" and "/durableapps" in e["requestURI"] for e in entries)


def test_a_watch_that_the_api_does_not_answer_any_more_is_no_life(
    api: BareApi, kubeconfig: Path
) -> None:
    """Without an object there is nothing to be told, so only the watches themselves can tell."""
    api.kubectl("delete", "dapp", "--all", "-n", "default")
    config = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    proxy = Proxy(int(cluster["server"].rsplit(":")[-1]))
    cluster["server"] = f"https://127.0.0.1:{proxy.port}"
    kubeconfig.write_text(yaml.safe_dump(config))
    more = {"RESYNC_SECONDS": "2", "LEADER_ELECTION": "false"}
    settings = {f"EVERSTEP_OPERATOR_{name}": value for name, value in more.items()}
    before = watches(api)
    with operator(kubeconfig, "deaf", **settings) as running:
        eventually(lambda: watches(api) - before, lambda n: n >= 4, what="watches are opened anew")
        # Not at once, where the machine stood still for longer than the API may be silent: four seconds here.
        eventually(lambda: running.ask("/livez"), lambda a: a == (200, "ok"), what="it lives")
        proxy.close()
        code, said = eventually(lambda: running.ask("/livez"), lambda a: a[0] == 503)
        assert "the API has not answered the" in said, (code, said)


def test_two_replicas_and_one_acts(api: BareApi, kubeconfig: Path) -> None:
    with operator(kubeconfig, "one") as one, operator(kubeconfig, "two") as two:
        pair = {"one": one, "two": two}
        eventually(
            lambda: sorted(o.ask("/readyz")[1] for o in pair.values()),
            lambda seen: seen == ["acting", "standby"],
            what="one acts and one waits",
        )
        first = holder(api)
        other = pair["two" if first == "one" else "one"]
        pair[first].process.kill()
        eventually(lambda: other.ask("/readyz"), lambda a: a == (200, "acting"))
        assert holder(api) != first
