-- The moves of embedded stores into this database that are finished: a folder that was moved names one of them.
CREATE TABLE task_events.moves (
    id uuid PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now()
);
