-- Where the tasks went that were moved into an embedded store: while it has a row, no API serves this database.
CREATE TABLE task_events.departures (
    id uuid PRIMARY KEY,
    folder text NOT NULL,
    host text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
