"""Makes the golden files: see README.md."""

import datetime
import io
import json
import pathlib
import uuid

import fastavro

here = pathlib.Path(__file__).parent
schemas = {
    1: here / "../../../schemas/task-event-1.avsc",
    2: here / "../../../schemas/task-event.avsc",
    "v2": here / "../../schemas/task-event-v2.avsc",
}
TASK = "01900000-0000-7000-8000-0000000000aa"
OWNER = "3f2b6c1e-0d4e-4c3a-9b1f-6f2a7f9d1c55"
CORRELATION = "7a4b6f2e-3a3b-4f4c-9d52-0d4d5f0f9d10"


def event(number, happened, title, status, owner, **more):
    return {
        "event_id": f"01900000-0000-7000-8000-00000000000{number}",
        "event_type": happened,
        "occurred_at": f"2026-01-15T10:30:0{number}.123456Z",
        "data": {"task_id": TASK, "title": title, "status": status, "owner_id": owner, **more},
        "metadata": {"correlation_id": CORRELATION, "source": "task-api"},
    }


def by(actor, json_event):
    json_event["metadata"]["actor"] = actor
    return json_event


EVENTS = {
    "created": (1, event(1, "task.created", "Water the plants", "pending", None)),
    "updated": (1, event(2, "task.updated", 'Größe: "zwölf"\n\U0001f331', "in_progress", OWNER)),
    "completed": (1, event(3, "task.completed", "x" * 500, "completed", OWNER)),
    "deleted": (1, event(4, "task.deleted", "t", "completed", None)),
    "by-nobody": (2, event(6, "task.created", "Of revision 2", "pending", OWNER)),
    "by-an-actor": (2, by("jwt:zoë|7", event(7, "task.updated", "Of revision 2", "pending", None))),
    "v2": ("v2", event(5, "task.created", "Later", "pending", OWNER, priority="high")),
}

for name, (version, json_event) in EVENTS.items():
    text = json.dumps(json_event, indent=2, ensure_ascii=False)
    (here / f"{name}.json").write_text(text + "\n")
    schema = fastavro.parse_schema(json.loads(schemas[version].read_text()))
    occurred_at = datetime.datetime.fromisoformat(json_event["occurred_at"].replace("Z", "+00:00"))
    record = json.loads(text)
    record["event_id"] = uuid.UUID(record["event_id"])
    record["event_type"] = record["event_type"].replace(".", "_")
    record["occurred_at"] = occurred_at
    record["data"]["task_id"] = uuid.UUID(TASK)
    owner = record["data"]["owner_id"]
    record["data"]["owner_id"] = owner and uuid.UUID(owner)
    record["metadata"]["correlation_id"] = uuid.UUID(CORRELATION)
    out = io.BytesIO(b"\x00" + (7).to_bytes(4, "big"))
    out.seek(5)
    fastavro.schemaless_writer(out, schema, record)
    (here / f"{name}.avro").write_bytes(out.getvalue())
