"""Runs Apache Kafka as the manifests describe it: their topics, their users, their ACLs, enforced.

    python kafka.py OVERLAY FOLDER PORT COMMAND…

FOLDER takes its data, KAFKA_LIBS is the folder of its jars. While COMMAND runs, Kafka listens on 127.0.0.1:
at PORT for anybody, who may do everything, as the dev overlay has it; at the port after it for the users,
whose passwords are their names; and at PORT + 3 for the users over TLS, who have to show a certificate as well:
ca.crt, user.crt and user.key in FOLDER/certificates. Ends with COMMAND's exit code.
"""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check import render

START_LIMIT = 120
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=OUTSIDE://127.0.0.1:{outside},INTERNAL://127.0.0.1:{internal},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=OUTSIDE://127.0.0.1:{outside},INTERNAL://127.0.0.1:{internal},TLS://127.0.0.1:{tls}
listener.security.protocol.map=OUTSIDE:PLAINTEXT,INTERNAL:SASL_PLAINTEXT,TLS:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=OUTSIDE
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.internal.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tls.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={certificates}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={certificates}/ca.crt
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
"""


def main() -> None:
    overlay, folder, outside, *command = sys.argv[1:]
    folder, outside, objects = Path(folder).resolve(), int(outside), render(f"overlays/{overlay}")
    users = [obj for obj in objects if obj["kind"] == "KafkaUser"]
    settings = folder / "server.properties"
    ports = {"outside": outside, "internal": outside + 1, "controller": outside + 2, "tls": outside + 3}
    certificates(folder / "certificates")
    settings.write_text(PROPERTIES.format(data=folder / "kafka", certificates=folder / "certificates", **ports))

    scram = [f"SCRAM-SHA-512=[name={name(user)},password={name(user)}]" for user in users]
    run("kafka.tools.StorageTool", "format", "-t", "dGFzay1ldmVudHMtZTJlLQ", "-c", str(settings),
        *(word for user in scram for word in ("--add-scram", user)))
    with (folder / "kafka.log").open("w") as log:
        kafka = subprocess.Popen([*java("512m"), "kafka.Kafka", str(settings)], stdout=log, stderr=log)
    try:
        wait_for(kafka, ports["internal"], log.name)
        wait_for(kafka, ports["tls"], log.name)
        calls = [*topics(objects), *acls(users)]
        server = ("--bootstrap-server", f"127.0.0.1:{outside}")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda call: run(call[0], *server, *call[1:]), calls))
        print(f"Kafka as in {overlay}: {len(calls)} topics and ACLs, {len(users)} users", flush=True)
        sys.exit(subprocess.run(command).returncode)
    finally:
        kafka.terminate()
        try:
            kafka.wait(30)
        except subprocess.TimeoutExpired:
            kafka.kill()


def certificates(folder: Path) -> None:
    """A CA, and what it signs: the broker's certificate, and one for all services."""
    folder.mkdir()

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, stderr=subprocess.DEVNULL)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=ca")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for owner in ("broker", "user"):
        openssl("req", *key, "-keyout", f"{owner}.key", "-out", f"{owner}.csr", "-subj", f"/CN={owner}")
        openssl("x509", "-req", "-in", f"{owner}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
                "-extfile", "names", "-out", f"{owner}.crt")
        # The container's user is another one.
        (folder / f"{owner}.key").chmod(0o644)
    (folder / "broker.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.crt").read_text())


def topics(objects: list[dict]):
    for topic in (obj for obj in objects if obj["kind"] == "KafkaTopic"):
        spec = topic["spec"]
        configs = [word for key, value in spec["config"].items() for word in ("--config", f"{key}={value}")]
        yield ("org.apache.kafka.tools.TopicCommand", "--create", "--topic", name(topic),
               "--partitions", str(spec["partitions"]), *configs)


def acls(users: list[dict]):
    for user in users:
        for rule in user["spec"]["authorization"]["acls"]:
            operations = [word for operation in rule["operations"] for word in ("--operation", operation)]
            yield ("org.apache.kafka.tools.AclCommand", "--add", "--force", "--allow-principal", f"User:{name(user)}",
                   f"--{rule['resource']['type']}", rule["resource"]["name"], *operations)


def name(obj: dict) -> str:
    return obj["metadata"]["name"]


def java(heap: str) -> list[str]:
    libs = os.environ["KAFKA_LIBS"]
    return ["java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=WARN", "-cp", f"{libs}/*"]


def run(tool: str, *args: str) -> None:
    done = subprocess.run([*java("128m"), tool, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"error: {tool} {' '.join(args)}: {done.stdout.strip().splitlines()[0]}")


def wait_for(kafka: subprocess.Popen, port: int, log: str) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if kafka.poll() is not None:
            raise SystemExit(f"error: Kafka ended with {kafka.returncode}: {Path(log).read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"error: Kafka does not listen on port {port} within {START_LIMIT} s")


if __name__ == "__main__":
    main()
