"""Checks what manifests/monitoring says of the rest: the pods that are scraped, the metrics that are asked for, the
sections of the runbook that alerts lead to."""

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
METRIC = re.compile(r"\b(?:kafka|task_events|task_api|messaging|http_server|process|log_lines)_[a-z_]+\b")
ANNOTATIONS = {"summary", "description", "runbook_url"}
SEVERITIES = {"critical", "warning"}


def errors(objects: list[dict], pods: list[dict]) -> list[str]:
    found = [error for obj in objects if obj["kind"] == "PodMonitor" for error in monitor(obj, pods)]
    monitored = [obj for obj in objects if obj["kind"] == "PodMonitor"]
    for pod in pods:
        name, ports = pod["metadata"]["labels"]["app.kubernetes.io/name"], port_names(pod)
        if ports & {"http", "health"} and not any(selects(obj, pod) for obj in monitored):
            found.append(f"{name}: no PodMonitor selects it")
    for obj in objects:
        if obj["kind"] == "PrometheusRule":
            found += [error for group in obj["spec"]["groups"] for rule in group["rules"] for error in alert(rule)]
        if obj["kind"] == "ConfigMap":
            found += dashboard(json.loads(obj["data"]["dashboard.json"]))
    return found


def port_names(pod: dict) -> set[str]:
    return {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}


def selects(obj: dict, pod: dict) -> bool:
    selector, labels = obj["spec"]["selector"], pod["metadata"]["labels"]
    in_values = all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))
    return in_values and selector.get("matchLabels", {}).items() <= labels.items()


def monitor(obj: dict, pods: list[dict]) -> list[str]:
    name, selected = f"PodMonitor/{obj['metadata']['name']}", [pod for pod in pods if selects(obj, pod)]
    found = [] if selected else [f"{name}: selects no pod"]
    for endpoint in obj["spec"]["podMetricsEndpoints"]:
        found += [f"{name}: no port {endpoint['port']}" for pod in selected if endpoint["port"] not in port_names(pod)]
    return found


def alert(rule: dict) -> list[str]:
    name, notes = rule["alert"], rule.get("annotations", {})
    found = [f"{name}: no {missing}" for missing in sorted(ANNOTATIONS - {key for key, text in notes.items() if text})]
    if rule.get("labels", {}).get("severity") not in SEVERITIES:
        found.append(f"{name}: its severity is none of {sorted(SEVERITIES)}")
    anchor = notes.get("runbook_url", "").partition("docs/runbook.md#")[2]
    if anchor not in anchors() or anchor != name.lower():
        found.append(f"{name}: docs/runbook.md has no section {name}")
    return found + unknown_metrics(name, rule["expr"])


def anchors() -> set[str]:
    headings = re.findall(r"^#+ (.*)$", (DOCS / "runbook.md").read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dashboard(board: dict) -> list[str]:
    found, panels = [], board["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        found.append("the dashboard has two panels of one id")
    for panel in panels:
        found += [error for target in panel.get("targets", []) for error in unknown_metrics(panel["title"], target["expr"])]
    places = [panel["gridPos"] for panel in panels]
    for number, one in enumerate(places):
        found += [f"panels {panels[number]['title']} and {panels[other]['title']} overlap"
                  for other in range(number) if overlap(one, places[other])]
    return found


def overlap(one: dict, other: dict) -> bool:
    apart = lambda start, size: one[start] + one[size] <= other[start] or other[start] + other[size] <= one[start]
    return not (apart("x", "w") or apart("y", "h"))


def unknown_metrics(where: str, query: str) -> list[str]:
    documented = set(re.findall(r"^\| `(\w+)`", (DOCS / "metrics.md").read_text(), re.M))
    # Labels and functions are lower case, too; what is before a brace, an operator or a range is a metric.
    bare = re.sub(r'"[^"]*"', '""', query)
    asked = {name for name in METRIC.findall(re.sub(r"\b(?:by|on|group_left) \([^)]*\)|[{,]\s*\w+(?==)", "", bare))}
    known = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} - {""}
    return [f"{where}: docs/metrics.md has no {name}" for name in sorted(known - documented)
            if name not in {re.sub(r"_(bucket|count|sum)$", "", one) for one in documented}]
