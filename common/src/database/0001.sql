CREATE TABLE task_events.tasks (
    id uuid PRIMARY KEY,
    title text NOT NULL,
    status smallint NOT NULL,
    owner_id uuid,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX tasks_by_status ON task_events.tasks (status, id);
CREATE INDEX tasks_by_owner ON task_events.tasks (owner_id, id) WHERE owner_id IS NOT NULL;
CREATE INDEX tasks_by_owner_and_status ON task_events.tasks (owner_id, status, id) WHERE owner_id IS NOT NULL;

-- A queue: rows are read by seq, published and deleted. So it is small and changes fast: vacuumed often.
CREATE TABLE task_events.outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    event_id uuid NOT NULL,
    task_id uuid NOT NULL,
    -- Of the record's key: its partition is the remainder by the number of partitions.
    hash integer NOT NULL,
    encoding smallint NOT NULL,
    payload bytea NOT NULL,
    traceparent text
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0
);

-- What was answered under idempotency keys, for 24 hours.
CREATE TABLE task_events.answers (
    key bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    task bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX answers_by_expiry ON task_events.answers (expires_at);

-- A row for each group of changes, for some minutes: whether a commit without an answer has happened.
CREATE TABLE task_events.groups (
    id uuid PRIMARY KEY,
    -- Written in place of a group that was not committed: it cannot be any more.
    is_fence boolean NOT NULL DEFAULT false,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX groups_by_time ON task_events.groups (at);

-- Which replica publishes. One row.
CREATE TABLE task_events.relay (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    term uuid,
    holder uuid,
    host text,
    turn bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    topic_id uuid,
    partitions integer
);
INSERT INTO task_events.relay DEFAULT VALUES;

-- For each partition: the offset behind the last event that is known to be in it.
CREATE TABLE task_events.positions (
    partition integer PRIMARY KEY,
    position bigint NOT NULL
);
