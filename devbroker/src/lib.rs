//! A small durable Kafka broker for demos and tests. Never for production.
