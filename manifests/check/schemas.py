"""Validates objects against Kubernetes' schemas and folders of custom resource definitions."""

from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

# A definition has an operator "=" among its values, which YAML 1.1 takes for a type of its own.
yaml.SafeLoader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_yaml_str)

# The oldest Kubernetes that the manifests are for.
KUBERNETES = "1.33"


class Schemas:
    def __init__(self, *folders: Path):
        self.custom = {}
        for folder in folders:
            self.read(folder)

    def read(self, crds: Path) -> None:
        before = len(self.custom)
        for file in sorted(crds.glob("*.yaml")):
            for crd in yaml.safe_load_all(file.read_text()):
                spec = crd["spec"]
                for version in spec["versions"]:
                    schema = closed(version["schema"]["openAPIV3Schema"])
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    self.custom[key] = jsonschema.Draft202012Validator(schema)
        if len(self.custom) == before:
            raise SystemExit(f"error: {crds} holds no custom resource definitions; set STRIMZI_CRDS, PROMETHEUS_CRDS and POSTGRES_CRDS")

    def errors(self, obj: dict) -> list[str]:
        """What is wrong with an object. A kind without a schema is an error: nothing is skipped."""
        key = (obj["apiVersion"], obj["kind"])
        name = f"{obj['kind']}/{obj['metadata']['name']}"
        if key in self.custom:
            return [f"{name}: {at(error)}: {error.message}" for error in self.custom[key].iter_errors(obj)]
        try:
            kubernetes_validate.validate(obj, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [f"{name}: {at(error)}: {error.message}"]
        except kubernetes_validate.SchemaNotFoundError:
            return [f"{name}: no schema for {obj['apiVersion']} {obj['kind']}"]
        return []


def at(error) -> str:
    return ".".join(str(step) for step in error.absolute_path) or "the object"


def closed(schema):
    """The schema with unknown fields refused, where the API server would drop them silently."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: closed(part) for name, part in value.items()}
        elif key in ("items", "additionalProperties"):
            made[key] = closed(value)
        elif key == "type" and schema.get("x-kubernetes-int-or-string"):
            continue
        else:
            made[key] = value
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made
