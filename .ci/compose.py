"""Checks compose.yaml: python compose.py SCHEMA BINARIES

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
    compose = yaml.safe_load((HERE / "compose.yaml").read_text())

    def errors(compose: dict) -> list[str]:
        found = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(compose)]
        return found or inconsistencies(compose, dockerfile, binaries)

    found = errors(compose)
    for what, path, value in PLANTS:
        planted = copy.deepcopy(compose)
        at = planted["services"]
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        if not errors(planted):
            found.append(f"a planted fault was not caught: {what}")
    print(*found, f"compose.yaml: {len(compose['services'])} services, {len(found)} errors, "
          f"{len(PLANTS)} faults planted", sep="\n")
    sys.exit(bool(found))


def inconsistencies(compose: dict, dockerfile: str, binaries: Path) -> list[str]:
    found, services = [], compose["services"]
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE))
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            if other not in services:
                found.append(f"{name}: depends on {other}, which is not there")
        for mount in service.get("volumes", []):
            if mount.partition(":")[0] not in compose["volumes"]:
                found.append(f"{name}: no volume {mount}")
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
    return found


PLANTS = [
    ("a misspelt field", ("task-api", "read_onyl"), True),
    ("a condition that there is not", ("topics", "depends_on", "kafka", "condition"), "service_ready"),
    ("a service that may write its root", ("task-api", "read_only"), False),
    ("a target that there is not", ("dlq-processor", "build", "target"), "dlq"),
    ("a variable that no binary knows", ("task-api", "environment", "KAFKA_BOOTSTRAP_SERVER"), "kafka:9092"),
    ("a volume that there is not", ("audit-service", "volumes"), ["audit:/var/lib/task-events"]),
]


if __name__ == "__main__":
    main()
