"""Checks compose.yaml and compose.scaled.yaml: python compose.py SCHEMA BINARIES

SCHEMA is the JSON schema of the compose specification, BINARIES a folder with the built binaries.
"""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml

HERE = Path(__file__).resolve().parent.parent
# What every service of ours is held to.
HELD = {
    "read_only": True,
    "user": "65532:65532",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}


def main() -> None:
    schema, binaries = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]).resolve()
    validator = jsonschema.Draft7Validator(schema)
    dockerfile = (HERE / "Dockerfile").read_text()

    def errors(compose: dict) -> list[str]:
        found = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(compose)]
        return found or inconsistencies(compose, dockerfile, binaries)

    failed = False
    for name, plants in PLANTS.items():
        compose = yaml.safe_load((HERE / name).read_text())
        found = errors(compose)
        for what, path, value in plants:
            planted = copy.deepcopy(compose)
            at = planted["services"]
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value
            if not errors(planted):
                found.append(f"a planted fault was not caught: {what}")
        print(*found, f"{name}: {len(compose['services'])} services, {len(found)} errors, "
              f"{len(plants)} faults planted", sep="\n")
        failed |= bool(found)
    sys.exit(failed)


def extended(service: dict) -> dict:
    """With what it takes from a service of another file, of which volumes are taken too."""
    if "extends" not in service:
        return service
    of = service["extends"]
    base = yaml.safe_load((HERE / of["file"]).read_text())["services"].get(of["service"], {})
    return base | service


def shared_state(name: str, service: dict) -> list[str]:
    """What replicas of one service must not have in common."""
    if service.get("deploy", {}).get("replicas", 1) == 1:
        return []
    found = [f"{name}: its replicas share {mount}" for mount in service.get("volumes", [])]
    return found + [f"{name}: its replicas share the port {port}" for port in service.get("ports", [])]


def inconsistencies(compose: dict, dockerfile: str, binaries: Path) -> list[str]:
    found, services = [], compose["services"]
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE))
    used, owners = set(), {}
    for name, service in services.items():
        service = extended(service)
        for other in service.get("depends_on", {}):
            if other not in services:
                found.append(f"{name}: depends on {other}, which is not there")
            elif services[other].get("profiles"):
                found.append(f"{name}: depends on {other}, which is not always started")
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if not mount.endswith(":ro") and owners.setdefault(source, name) != name:
                found.append(f"{name}: {source} is {owners[source]}'s")
            used.add(source)
            if source.startswith("."):
                if not (HERE / source).is_file():
                    found.append(f"{name}: no file {source}")
            elif source not in compose["volumes"]:
                found.append(f"{name}: no volume {mount}")
        found += shared_state(name, service)
        if "restart" not in service:
            found.append(f"{name}: nothing starts it again")
        if "build" not in service:
            continue
        found += [f"{name}: {key} is not {value}" for key, value in HELD.items() if service.get(key) != value]
        target = service["build"]["target"]
        if target not in stages:
            found.append(f"{name}: the Dockerfile has no target {target}")
            continue
        said = subprocess.run([binaries / target, "--help"], env={}, capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"\[env: ([A-Z_]+)", said))
        # Of taskctl, the commands name them.
        if target == "taskctl":
            continue
        found += [f"{name}: the binary knows no variable {key}" for key in service["environment"] if key not in known]
    found += [f"nobody uses the volume {volume}" for volume in compose["volumes"] if volume not in used]
    return found


PLANTS = {
    "compose.yaml": [
        ("a misspelt field", ("task-api", "read_onyl"), True),
        ("a condition that there is not", ("topics", "depends_on", "kafka", "condition"), "service_ready"),
        ("a service that may write its root", ("task-api", "read_only"), False),
        ("a target that there is not", ("dlq-processor", "build", "target"), "dlq"),
        ("a variable that no binary knows", ("task-api", "environment", "KAFKA_BOOTSTRAP_SERVER"), "kafka:9092"),
        ("a volume that there is not", ("audit-service", "volumes"), ["audit:/var/lib/task-events"]),
    ],
    "compose.scaled.yaml": [
        ("a service that is not there", ("kafka", "extends", "service"), "apache-kafka"),
        ("replicas with one state folder", ("task-api", "volumes"), ["postgres:/var/lib/task-events"]),
        ("replicas with one port", ("task-api", "ports"), ["8000:8000"]),
        ("a file that there is not", ("balancer", "volumes"), ["./haproxy.cfg:/etc/haproxy.cfg:ro"]),
        ("two instances with one state folder", ("audit-service-2", "volumes"), ["audit-service-1:/var/lib/task-events"]),
        ("a start that waits for a tool", ("dlq-processor", "depends_on"), {"audit-verify": {"condition": "service_started"}}),
    ],
}


if __name__ == "__main__":
    main()
