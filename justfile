# Names for the commands of this repository; each is one line of cargo, to be used without `just` as well.

# List the recipes
default:
    @just --list

# Run the whole system: dev broker, topics, API, consumers, tour
run-all *args:
    cargo run-all {{args}}

# Run every test; needs Rust alone
test:
    cargo test --workspace

# Run the end-to-end tests against Apache Kafka; needs Maven and Java 17
e2e-kafka: kafka
    E2E_BROKER=kafka KAFKA_LIBS="$PWD/target/kafka" cargo test -p e2e -p harness
    E2E_BROKER=kafka KAFKA_LIBS="$PWD/target/kafka" cargo test -p task-events --test library --test read_path --test read_path_cluster

# Fetch Apache Kafka into target/kafka
kafka:
    tests/e2e/kafka/fetch

# Drive the live page in a real Chromium; needs node, npm and the built binaries
browser:
    cargo build --workspace --bins
    tests/browser/run

# Measure the whole system (post, keyed, rate, audit, notification, history, watchers, replicas, instances); see docs/measurements.md
bench *args="post keyed rate audit notification history":
    cargo run --release -p bench -- {{args}}

# Make the documentation of all crates, with private items, in target/doc
doc *args:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items {{args}}

# Fuzz every parser, or those named, a minute each; needs a nightly toolchain, cargo-fuzz and a C++ compiler
fuzz *targets:
    tests/fuzz/run {{targets}}

# Fail if a document names a file, test or command that does not exist
docs:
    cargo xtask docs

# Check licences, bans, sources and advisories of all dependencies, as deny.toml says
deny:
    bash .ci/deny

# Format
fmt:
    cargo fmt --all

# Check format and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Fail if anything that is shipped compiles or links C
no-c:
    cargo xtask no-c

# Fail if source files import each other, or if one that is shipped is too long
layers:
    cargo xtask layers

# Build what is shipped into dist/: static binaries, checksums, a bill of materials
dist:
    cargo xtask dist

# Build the static binaries and run each in an empty chroot
static:
    cargo xtask static

# Build the images of the services from dist/; needs Docker with compose
images: dist
    docker compose build

# Apache Kafka and all services in containers, API on localhost:8000; needs Docker with compose
up: dist
    docker compose up --build

# The same past one process: API replicas on PostgreSQL behind a load balancer, instances that share six partitions
up-scaled: dist
    docker compose --file compose.scaled.yaml up --build

# Stop what `up` started; its volumes stay
down:
    docker compose down

# Put the whole system under load and faults and check what it leaves
verify *args:
    cargo run --release -p verify -- run {{args}}

# Check the compose files, the systemd units and the manifests; installs what that needs
check-deploy: dist
    bash .ci/compose
    bash .ci/systemd
    bash .ci/manifests

# Check alert rules and dashboard, also against a running system; fetches Debian's Prometheus
check-monitoring:
    bash .ci/monitoring

# Everything that CI checks
ci:
    bash .ci/run
