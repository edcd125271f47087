"""Compares what the manifests tell the containers with what the binaries take."""

import hashlib
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# What a mounted Secret has, by the name of its file: a CA, of which nobody has the key, a password, and the hash of a token.
SECRETS = {
    "ca.crt": """-----BEGIN CERTIFICATE-----
MIIBeDCCAR+gAwIBAgIUIR/MuykqyNedoVR+X8V91SqS3H8wCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNjIxNTIwOVoYDzIxMjYxMTAyMjE1
MjA5WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQxNMsdrtWLB1KmlvDVA18OYSzKSEJO2YLUzmrvUPXyNwv1a1PdBaHiD+whOL9+
fhU/izZCKip3kShTjD1I5fvXo1MwUTAdBgNVHQ4EFgQU6n6zKZrAppiy128gQmEk
y0Uo4f8wHwYDVR0jBBgwFoAU6n6zKZrAppiy128gQmEky0Uo4f8wDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAtnvpoIoXNkmUZWDN4xZa2g6BLGLbA
GXQetefngotzTgIgURyL58BDfSnY8sClaSsUPucuo8LxYI4i0XKLmNNQAbI=
-----END CERTIFICATE-----
""",
    "password": "secret",
    "tokens": f"check read,write {hashlib.sha256(b'te_check').hexdigest()}\n",
}
# What a variable from a Secret has, by the key there, where it is no password.
STAND_INS = {"uri": "postgresql://task_api:secret@127.0.0.1:1/tasks"}
# One variable within another one's value.
REFERENCE = re.compile(r"\$\(([A-Z_]+)\)")
# Ends all processes of a check, however it ends.
TIME_LIMIT = 20


def environment(container: dict, objects: list[dict]) -> dict[str, str]:
    """The variables of a container; what comes from a Secret is a stand-in."""
    maps = {obj["metadata"]["name"]: obj["data"] for obj in objects if obj["kind"] == "ConfigMap"}
    env = {}
    for source in container.get("envFrom", []):
        env |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        if "configMapKeyRef" in source:
            env[entry["name"]] = maps[source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
        elif "secretKeyRef" in source:
            env[entry["name"]] = STAND_INS.get(source["secretKeyRef"]["key"], "secret")
        else:
            env[entry["name"]] = REFERENCE.sub(lambda found: env[found[1]], entry["value"])
    return env


def errors(container: dict, objects: list[dict], folder: Path) -> list[str]:
    """What the binary of this container does not know, or does not do."""
    name = container["name"]
    binary = folder / name
    env = environment(container, objects)
    asked = subprocess.run([binary, *container.get("args", []), "--help"], env={}, capture_output=True, text=True)
    if asked.returncode:
        return [f"{name}: the binary does not take {container['args']}: {asked.stderr.strip()}"]
    said = asked.stdout
    known = set(re.findall(r"\[env: ([A-Z_]+)", said))
    for_others = {key for entry in container.get("env", []) for key in REFERENCE.findall(entry.get("value", ""))}
    found = [f"{name}: the binary knows no variable {key}" for key in env if key not in known | for_others]
    if found or "livenessProbe" not in container:
        return found
    return probe_errors(container, env, binary)


def probe_errors(container: dict, env: dict[str, str], binary: Path) -> list[str]:
    """Starts the binary as the container would be, on a port of its own, and asks what the kubelet would."""
    name = container["name"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listens = int(env["HEALTH_ADDR"].rpartition(":")[2] if "HEALTH_ADDR" in env else env["PORT"])
    found = []
    with tempfile.TemporaryDirectory() as state, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for file, text in SECRETS.items():
            Path(state, file).write_text(text)
        here = {key: moved(value, mounts, state) for key, value in env.items()}
        # No Kafka: health answers all the same.
        here |= {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        here |= {"HEALTH_ADDR": f"127.0.0.1:{port}"} if "HEALTH_ADDR" in env else {"HOST": "127.0.0.1", "PORT": str(port)}
        for key, value in env.items():
            if value.startswith("/") and here[key] == value:
                found.append(f"{name}: {key}={value} is on no volume, and the root is read-only")
        if "DATABASE_URL" in here:
            # Without the database health answers, too; an address that cannot be used ends the process.
            for mount in mounts:
                here["DATABASE_URL"] = here["DATABASE_URL"].replace(f"={mount}/", f"={state}/")
        process = subprocess.Popen([binary], env=here, cwd=state, stdout=subprocess.DEVNULL)
        try:
            for probe in ("livenessProbe", "readinessProbe"):
                get = container[probe]["httpGet"]
                if ports.get(get["port"]) != listens:
                    found.append(f"{name}: {probe} asks port {get['port']}, the binary listens on {listens}")
                status = answer(f"http://127.0.0.1:{port}{get['path']}", process)
                if status not in (200, 503):
                    found.append(f"{name}: {probe} asks {get['path']}, which answers {status}")
            if "API_TOKENS_FILE" in env:
                # Who may call is told so by the database that is not there.
                known = 503 if "DATABASE_URL" in here else 200
                for token, wanted in ((None, 401), ("te_other", 401), ("te_check", known)):
                    status = answer(f"http://127.0.0.1:{port}/tasks", process, token)
                    if status != wanted:
                        found.append(f"{name}: who calls with the token {token} is answered {status}, not {wanted}")
        finally:
            process.terminate()
            process.wait(TIME_LIMIT)
    return found


def moved(value: str, mounts: list[str], to: str) -> str:
    for mount in mounts:
        if value == mount or value.startswith(f"{mount}/"):
            return to + value[len(mount):]
    return value


def answer(url: str, process: subprocess.Popen, token: str | None = None) -> int | str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    end = time.monotonic() + TIME_LIMIT
    while time.monotonic() < end:
        try:
            return opener.open(request, timeout=2).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if process.poll() is not None:
                return f"nothing: it ended with {process.returncode}"
            time.sleep(0.05)
    return "nothing"
