"""Checks the manifests: python check.py BINARIES, with STRIMZI_CRDS, PROMETHEUS_CRDS, POSTGRES_CRDS and KUSTOMIZE set.

BINARIES is a folder with the built binaries, STRIMZI_CRDS, PROMETHEUS_CRDS and POSTGRES_CRDS those with the custom
resource definitions of Strimzi, of the Prometheus operator and of CloudNativePG, KUSTOMIZE the command that renders a
folder (`kubectl kustomize`).
"""

import copy
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

import binaries
import monitoring
from schemas import Schemas

MANIFESTS = Path(__file__).resolve().parent.parent
# It says which Secrets are made by hand.
DOCS = MANIFESTS.parent / "docs" / "deploy" / "kubernetes.md"
OVERLAYS = ("dev", "production", "scaled")
WORKLOADS = ("Deployment", "StatefulSet")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    schemas = Schemas(*(Path(os.environ[f"{name}_CRDS"]) for name in ("STRIMZI", "PROMETHEUS", "POSTGRES")))
    failed = passed = 0

    def report(what: str, errors: list[str]) -> None:
        nonlocal failed, passed
        failed, passed = failed + bool(errors), passed + (not errors)
        print(f"{what}: {'ok' if not errors else 'FAILED'}", *errors, sep="\n  ")

    for overlay in OVERLAYS:
        objects = render(f"overlays/{overlay}")
        found = [error for obj in objects for error in schemas.errors(obj)]
        report(f"{overlay}: {len(objects)} objects of {len({obj['kind'] for obj in objects})} kinds, none skipped", found)
        report(f"{overlay}: what is referred to exists", references(objects))
        if overlay != "dev":
            report(f"{overlay}: callers of the API have tokens", without_tokens(objects))
        report(f"{overlay}: Pod Security restricted", [error for pod in pods(objects) for error in unrestricted(pod)])
        for name, container in containers(objects):
            report(f"{overlay}: variables, ports and probes of {name}", binaries.errors(container, objects, folder))

    watched, scraped = render("monitoring"), list(pods(render("overlays/production")))
    report(f"monitoring: {len(watched)} objects", [error for obj in watched for error in schemas.errors(obj)])
    report("monitoring: what is scraped, asked for and led to exists", monitoring.errors(watched, scraped))
    for what, kind, plant in MONITORING:
        planted = copy.deepcopy(watched)
        plant(next(obj for obj in planted if obj["kind"] == kind))
        caught = any(schemas.errors(obj) for obj in planted) or monitoring.errors(planted, scraped)
        report(f"a planted fault is caught: {what}", [] if caught else ["it passed"])

    objects = render("overlays/production")
    for what, kind, plant in PLANTS:
        caught = False
        for obj in copy.deepcopy(objects):
            if obj["kind"] == kind:
                plant(obj)
                caught = caught or bool(schemas.errors(obj))
        report(f"a planted fault is caught: {what}", [] if caught else ["it passed"])
    for what, kind, plant in MISMATCHES:
        planted = copy.deepcopy(objects)
        plant(next(obj for obj in planted if obj["kind"] == kind))
        report(f"a planted fault is caught: {what}", [] if references(planted) else ["it passed"])
    report("a planted fault is caught: an API for everybody", [] if without_tokens(render("overlays/dev")) else ["it passed"])
    scaled = render("overlays/scaled")
    for what, kind, plant in SCALED:
        planted = copy.deepcopy(scaled)
        plant(next(obj for obj in planted if obj["kind"] == kind))
        caught = any(schemas.errors(obj) for obj in planted) or references(planted)
        report(f"a planted fault is caught: {what}", [] if caught else ["it passed"])
    name, container = copy.deepcopy(next(iter(containers(objects))))
    container["env"].append({"name": "KAFKA_BOOTSTRAP_SERVER", "value": "x:1"})
    caught = binaries.errors(container, objects, folder)
    report(f"a planted fault is caught: an unknown variable of {name}", [] if caught else ["it passed"])

    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


def render(folder: str) -> list[dict]:
    command = [*shlex.split(os.environ["KUSTOMIZE"]), str(MANIFESTS / folder)]
    text = subprocess.run(command, capture_output=True, text=True)
    if text.returncode:
        raise SystemExit(f"error: {shlex.join(command)}: {text.stderr.strip()}")
    return [obj for obj in yaml.safe_load_all(text.stdout) if obj]


def pods(objects: list[dict]) -> list[dict]:
    return [obj["spec"]["template"] for obj in objects if obj["kind"] in WORKLOADS]


def containers(objects: list[dict]):
    for pod in pods(objects):
        for container in pod["spec"]["containers"]:
            yield container["name"], container


def unrestricted(pod: dict) -> list[str]:
    """What the restricted profile asks for beyond what these pods leave out anyway (host namespaces, …)."""
    found, spec = [], pod["spec"]
    whole = spec["securityContext"]
    for container in spec["containers"]:
        own = container["securityContext"]
        wanted = {
            "runAsNonRoot": whole.get("runAsNonRoot") is True,
            "seccompProfile": whole.get("seccompProfile") == {"type": "RuntimeDefault"},
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        }
        found += [f"{container['name']}: {what}" for what, holds in wanted.items() if not holds]
    return found


def references(objects: list[dict]) -> list[str]:
    """Names that one object uses of another: Secrets of users, selected pods, ports, the Kafka cluster."""
    found = []
    users = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "KafkaUser"}
    databases = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Cluster"}
    workloads = {(obj["kind"], obj["metadata"]["name"]) for obj in objects if obj["kind"] in WORKLOADS}
    clusters = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Kafka"}
    labels = [pod["metadata"]["labels"] for pod in pods(objects)]
    # Those of CloudNativePG's pods.
    labels += [{"cnpg.io/cluster": database} for database in databases]
    ports = {port["name"] for _, container in containers(objects) for port in container.get("ports", [])}
    for name, container in containers(objects):
        for entry in container["env"]:
            secret = entry.get("valueFrom", {}).get("secretKeyRef")
            if secret and secret["name"] not in users | {f"{database}-app" for database in databases}:
                found.append(f"{name}: no KafkaUser {secret['name']}, so no Secret of its name, and no database's")
    # Strimzi makes these: a user's password, and the certificates of a cluster's CA; CloudNativePG that of its own.
    secrets = users | {f"{cluster}-cluster-ca-cert" for cluster in clusters} | {f"{name}-ca" for name in databases}
    secrets |= made_by_hand()
    for pod in pods(objects):
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume and volume["secret"]["secretName"] not in secrets:
                found.append(f"nobody makes the Secret {volume['secret']['secretName']}")
    topics = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "KafkaTopic"}
    services = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Service"}
    for obj in objects:
        name, spec = f"{obj['kind']}/{obj['metadata']['name']}", obj.get("spec", {})
        if obj["kind"] in WORKLOADS:
            found += [f"{name}: {error}" for error in inconsistent(spec, services)]
        if obj["kind"] == "HorizontalPodAutoscaler":
            target = (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
            found += [] if target in workloads else [f"{name}: scales {'/'.join(target)}, which is not there"]
        if obj["kind"] == "KafkaUser":
            asked = {acl["resource"]["name"] for acl in spec["authorization"]["acls"] if acl["resource"]["type"] == "topic"}
            found += [f"{name}: no KafkaTopic {topic}" for topic in sorted(asked - topics)]
        if obj["apiVersion"].startswith("kafka.strimzi.io") and obj["kind"] != "Kafka":
            if obj["metadata"]["labels"]["strimzi.io/cluster"] not in clusters:
                found.append(f"{name}: its cluster is not among {sorted(clusters)}")
        selector = {
            "Service": spec.get("selector"),
            "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
        }.get(obj["kind"])
        if selector and not any(selector.items() <= pod.items() for pod in labels):
            found.append(f"{name}: selects no pod")
        if obj["kind"] == "Service":
            found += [f"{name}: no port {port['targetPort']}" for port in spec["ports"] if port["targetPort"] not in ports]
    return found


def made_by_hand() -> set[str]:
    """The Secrets that the page about Kubernetes has its reader make before anything is applied."""
    install = DOCS.read_text().partition("\n## Install\n")[2].partition("\n## ")[0]
    return set(re.findall(r"create secret generic ([a-z-]+)", install))


def without_tokens(objects: list[dict]) -> list[str]:
    """The API outside of the dev overlay is for callers with tokens."""
    named = [name for name, container in containers(objects) for entry in container["env"] if entry["name"] == "API_TOKENS_FILE"]
    return [] if named == ["task-api"] else [f"API_TOKENS_FILE is set for {named}, not for task-api alone"]


def inconsistent(spec: dict, services: set[str]) -> list[str]:
    """What the API server refuses, or waits for, though each field alone is right."""
    found, pod = [], spec["template"]
    if not spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items():
        found.append("its selector does not select its own pods")
    if spec.get("serviceName", next(iter(services))) not in services:
        found.append(f"no Service {spec['serviceName']}")
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    for container in pod["spec"]["containers"]:
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        found += [f"{container['name']}: no volume {mount}" for mount in sorted(mounts - volumes)]
    return found


def set_field(*path):
    *steps, last, value = path

    def plant(obj):
        for step in steps:
            obj = obj[step]
        obj[last] = value

    return plant


def misspell(obj):
    obj["data"]["dashboard.json"] = obj["data"]["dashboard.json"].replace("task_api_outbox_events", "task_api_outbox")


PLANTS = [
    ("a misspelt field of a KafkaTopic", "KafkaTopic", set_field("spec", "partition", 3)),
    ("a KafkaTopic with partitions as text", "KafkaTopic", set_field("spec", "partitions", "three")),
    ("an operation that no ACL has", "KafkaUser", set_field("spec", "authorization", "acls", 0, "operations", ["Reed"])),
    ("a misspelt field of a StatefulSet", "StatefulSet", set_field("spec", "replica", 2)),
    ("a misspelt field of a container", "StatefulSet", set_field("spec", "template", "spec", "containers", 0, "imag", "x")),
    ("a StatefulSet with replicas as text", "StatefulSet", set_field("spec", "replicas", "two")),
    ("an API version that is gone", "Kafka", set_field("apiVersion", "kafka.strimzi.io/v1beta2")),
]
RULE = ("spec", "groups", 0, "rules", 0)
MONITORING = [
    ("a misspelt field of a rule", "PrometheusRule", set_field(*RULE, "exp", "up")),
    ("a rule for a metric that is not there", "PrometheusRule", set_field(*RULE, "expr", "task_api_outbox_event > 1")),
    ("a rule without a section in the runbook", "PrometheusRule", set_field(*RULE, "alert", "TaskEventsGroupUp")),
    ("a rule without a severity", "PrometheusRule", set_field(*RULE, "labels", {})),
    ("a PodMonitor of a port that no pod has", "PodMonitor", set_field("spec", "podMetricsEndpoints", 0, "port", "metrics")),
    ("a PodMonitor that selects no pod", "PodMonitor", set_field("spec", "selector", "matchLabels", {"app": "x"})),
    ("a PodMonitor with an interval as a number", "PodMonitor", set_field("spec", "podMetricsEndpoints", 0, "interval", 15)),
    ("a dashboard that asks for what is not there", "ConfigMap", misspell),
]
SCALED = [
    ("a misspelt field of a database", "Cluster", set_field("spec", "instance", 3)),
    ("a database of another name than its Secrets'", "Cluster", set_field("metadata", "name", "db")),
    ("a network policy for no database", "NetworkPolicy", set_field("spec", "podSelector", "matchLabels", {"cnpg.io/cluster": "db"})),
    ("an autoscaler of nothing", "HorizontalPodAutoscaler", set_field("spec", "scaleTargetRef", "kind", "StatefulSet")),
    ("a misspelt field of an autoscaler", "HorizontalPodAutoscaler", set_field("spec", "minReplica", 2)),
]
MISMATCHES = [
    ("a Service that selects no pod", "Service", set_field("spec", "selector", "app.kubernetes.io/name", "task-apis")),
    ("a StatefulSet that does not select its pods", "StatefulSet", set_field("spec", "selector", "matchLabels", "a", "b")),
    ("a StatefulSet without its Service", "StatefulSet", set_field("spec", "serviceName", "nobody")),
    ("a claim of another name than the mount's", "StatefulSet", set_field("spec", "volumeClaimTemplates", 0, "metadata", "name", "x")),
    ("a Secret that nobody makes", "StatefulSet", set_field("spec", "template", "spec", "volumes", 0, "secret", "secretName", "x")),
    ("an ACL of a topic that is not there", "KafkaUser", set_field("spec", "authorization", "acls", 0, "resource", "name", "tasks")),
]


if __name__ == "__main__":
    main()
