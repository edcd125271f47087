"""Another party of the topic: Confluent's own client. Reads events of task-events, or writes them.

read  BOOTSTRAP REGISTRY TOPIC COUNT            prints each event as a line of JSON
write BOOTSTRAP REGISTRY TOPIC SCHEMA           writes the events on stdin, one JSON a line, by the schema of that file
"""

import datetime
import json
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

LIMIT_SECONDS = 60


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(type(value))


def read(bootstrap, registry, topic, count):
    client = SchemaRegistryClient({"url": registry})
    decode = AvroDeserializer(client)
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": str(uuid.uuid4()),
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    })
    consumer.subscribe([topic])
    left, end = int(count), time.time() + LIMIT_SECONDS
    while left > 0 and time.time() < end:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        left -= 1
        value = message.value()
        if value[:1] == b"\0":
            event = decode(value, SerializationContext(topic, MessageField.VALUE))
        else:
            event = json.loads(value)
        headers = {name: value.decode() for name, value in message.headers() or []}
        print(json.dumps({"key": message.key().decode(), "event": event, "headers": headers}, default=plain))
    consumer.close()
    return left == 0


def write(bootstrap, registry, topic, schema):
    client = SchemaRegistryClient({"url": registry})
    with open(schema, encoding="utf-8") as file:
        encode = AvroSerializer(client, file.read())
    producer = Producer({"bootstrap.servers": bootstrap})
    for line in sys.stdin:
        event = json.loads(line)
        event["event_id"] = uuid.UUID(event["event_id"])
        event["occurred_at"] = datetime.datetime.fromisoformat(event["occurred_at"].replace("Z", "+00:00"))
        key = event["data"]["task_id"]
        event["data"]["task_id"] = uuid.UUID(key)
        if event["data"]["owner_id"] is not None:
            event["data"]["owner_id"] = uuid.UUID(event["data"]["owner_id"])
        event["metadata"]["correlation_id"] = uuid.UUID(event["metadata"]["correlation_id"])
        value = encode(event, SerializationContext(topic, MessageField.VALUE))
        producer.produce(topic, key=key.encode(), value=value)
    return producer.flush(LIMIT_SECONDS) == 0


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    sys.exit(0 if {"read": read, "write": write}[action](*arguments) else 1)
