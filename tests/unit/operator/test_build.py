"""Objects as they are sent: the user's words on top, safe defaults and the contract below."""

from typing import Any

from unit.operator.worlds import app

from everstep_operator import names
from everstep_operator.build.deployment import applied_hash, deployment
from everstep_operator.build.job import job, job_name
from everstep_operator.resource import DurableApp


def worker(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in template["spec"]["containers"] if c["name"] == "worker")
    return found


def pods(of: DurableApp) -> dict[str, Any]:
    made: dict[str, Any] = deployment(of, of.version, of.spec.template, 3)["spec"]["template"]
    return made


def with_template(**spec: Any) -> DurableApp:
    container = {"name": "worker", "image": "localhost/orders:v2", **spec.pop("worker", {})}
    extra = spec.pop("containers", [])
    metadata = spec.pop("metadata", {})
    template = {"metadata": metadata, "spec": {"containers": [container, *extra], **spec}}
    return app(template=template)


def test_a_pod_is_restricted_unless_the_user_says_otherwise() -> None:
    spec = pods(app())["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert worker({"spec": spec})["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_every_container_of_the_pod_is_restricted() -> None:
    of = with_template(
        containers=[{"name": "proxy", "image": "p"}],
        initContainers=[{"name": "first", "image": "i"}],
    )
    spec = pods(of)["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_what_the_user_wrote_stays() -> None:
    of = with_template(
        securityContext={"runAsUser": 1000},
        worker={
            "securityContext": {"readOnlyRootFilesystem": False},
            "livenessProbe": {"exec": {"command": ["true"]}},
            "volumeMounts": [{"name": "mine", "mountPath": "/tmp/"}],
        },
        metadata={"labels": {"team": "a"}, "annotations": {"note": "b"}},
    )
    made = pods(of)
    assert made["spec"]["securityContext"]["runAsUser"] == 1000
    assert made["spec"]["securityContext"]["runAsNonRoot"]
    assert worker(made)["securityContext"]["readOnlyRootFilesystem"] is False
    assert worker(made)["livenessProbe"] == {"exec": {"command": ["true"]}}
    assert len(worker(made)["volumeMounts"]) == 1
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["annotations"]["note"] == "b"


def test_the_environment_of_the_contract_wins_and_comes_first() -> None:
    mine = [{"name": "EVERSTEP_VERSION", "value": "x"}, {"name": "COLOUR", "value": "blue"}]
    environment = worker(pods(with_template(worker={"env": mine})))["env"]
    assert [v["name"] for v in environment] == [
        "EVERSTEP_DATABASE_URL",
        "EVERSTEP_SCHEMA",
        "EVERSTEP_APP",
        "EVERSTEP_VERSION",
        "EVERSTEP_POD",
        "COLOUR",
    ]
    assert environment[0]["valueFrom"] == {"secretKeyRef": {"name": "orders-db", "key": "url"}}
    assert environment[3]["value"] == "v2"


def test_kubernetes_waits_longer_than_the_worker_does() -> None:
    assert pods(app())["spec"]["terminationGracePeriodSeconds"] == 40
    long = with_template(worker={"env": [{"name": "EVERSTEP_GRACE_SECONDS", "value": "120"}]})
    assert pods(long)["spec"]["terminationGracePeriodSeconds"] == 130
    longer = with_template(terminationGracePeriodSeconds=600)
    assert pods(longer)["spec"]["terminationGracePeriodSeconds"] == 600


def test_the_port_follows_the_variable() -> None:
    of = with_template(worker={"env": [{"name": "EVERSTEP_PORT", "value": "9000"}]})
    assert worker(pods(of))["ports"] == [
        {"name": "everstep", "containerPort": 9000, "protocol": "TCP"}
    ]


def test_a_rollout_takes_no_pod_away_before_another_is_ready() -> None:
    made = deployment(app(), "v2", app().spec.template, 3)
    assert made["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert made["spec"]["selector"]["matchLabels"].items() <= (
        made["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_applied_hash_changes_with_every_word_and_only_then() -> None:
    def digest(of: DurableApp, replicas: int = 3) -> str:
        return applied_hash(deployment(of, "v2", of.spec.template, replicas))

    assert digest(app()) == digest(app())
    assert digest(app()) != digest(app(), 4)
    assert digest(app()) != digest(with_template(worker={"env": [{"name": "A", "value": "1"}]}))


def test_the_builder_leaves_the_template_it_was_given_alone() -> None:
    of = app()
    before = names.fingerprint(of.spec.template)
    pods(of)
    job(of)
    assert names.fingerprint(of.spec.template) == before


def test_the_job_runs_the_image_s_own_migrate_with_the_admin_secret() -> None:
    of = app(
        migrations={
            "path": "/app/migrations",
            "urlFrom": {"secretKeyRef": {"name": "orders-admin", "key": "dsn"}},
        }
    )
    template = job(of)["spec"]["template"]
    container = worker(template)
    assert container["args"] == ["migrate", "--files", "/app/migrations"]
    assert "command" not in container
    assert "livenessProbe" not in container
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {
        "name": "orders-admin",
        "key": "dsn",
    }
    assert template["spec"]["restartPolicy"] == "Never"
    assert template["spec"]["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert [v["name"] for v in template["spec"]["volumes"]] == ["everstep-tmp"]


def test_a_template_with_a_command_of_its_own_keeps_the_program() -> None:
    of = with_template(worker={"command": ["/venv/bin/everstep", "worker", "a:b"]})
    assert worker(job(of)["spec"]["template"])["command"] == ["/venv/bin/everstep"]
    of = with_template(worker={"command": ["python", "-m", "x"]})
    assert worker(job(of)["spec"]["template"])["command"] == ["everstep"]


def test_hopeless_exit_codes_fail_the_job_at_once_and_evictions_do_not_count() -> None:
    rules = job(app())["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore"
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["action"] == "FailJob"
    assert rules[1]["onExitCodes"]["values"] == [2, 4, 5]


def test_the_job_s_name_changes_with_what_it_runs_and_not_with_its_size() -> None:
    assert job_name(app()) == job_name(app(replicas=9))
    others = [
        app("localhost/orders:v3"),
        app(migrations={"path": "/sql"}),
        with_template(worker={"command": ["/bin/everstep"]}),
    ]
    assert len({job_name(app()), *map(job_name, others)}) == 4


def test_sidecars_do_not_run_in_the_job() -> None:
    of = with_template(containers=[{"name": "proxy", "image": "p"}])
    assert len(job(of)["spec"]["template"]["spec"]["containers"]) == 1
