// The system that the page shows: a dev broker or, with E2E_BROKER=kafka, Apache Kafka (in KAFKA_LIBS), the API and the consumers, each on a free port of loopback, and a
// client of Kafka for what only others than this system write.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Kafka, logLevel } from "kafkajs";

const BINARIES = resolve(process.env.BINARIES || new URL("../debug", import.meta.url).pathname);

// As for the end-to-end tests.
const KAFKA = process.env.E2E_BROKER === "kafka";

function freePort() {
  return new Promise((found, failed) => {
    const server = createServer();
    server.once("error", failed);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => found(port));
    });
  });
}

const sleep = ms => new Promise(done => setTimeout(done, ms));

// Asks until there is an answer.
export async function eventually(what, ask, limit = 30000) {
  const until = Date.now() + limit;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > until) throw new Error("not within " + limit / 1000 + " s: " + what);
    await sleep(50);
  }
}

class Program {
  constructor(name, args, env) {
    this.name = name;
    this.output = "";
    this.child = spawn(name === "java" ? name : join(BINARIES, name), args, { env: { PATH: process.env.PATH, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    for (const pipe of [this.child.stdout, this.child.stderr]) pipe.on("data", text => { this.output += text; });
    this.ended = new Promise(ended => this.child.once("close", code => { this.code = code; ended(code); }));
  }

  signal(signal) {
    if (this.code === undefined) this.child.kill(signal);
  }

  async stop() {
    this.signal("SIGTERM");
    await this.ended;
  }
}

export class System {
  static async start() {
    const system = new System();
    system.folder = mkdtempSync(join(tmpdir(), "browser."));
    system.brokerPort = await freePort();
    system.apiPort = await freePort();
    system.programs = [];
    system.env = {
      KAFKA_BOOTSTRAP_SERVERS: "127.0.0.1:" + system.brokerPort,
      STATE_DIR: join(system.folder, "state"),
      AUDIT_LOG_PATH: join(system.folder, "audit.log"),
      LEASE_MS: "3000",
    };
    system.broker = KAFKA ? await system.startKafka() : system.run("devbroker", ["--addr", system.env.KAFKA_BOOTSTRAP_SERVERS, "--dir", join(system.folder, "broker")]);
    await eventually("topics", async () => {
      const made = system.run("taskctl", ["topics", "create"]);
      return await made.ended === 0;
    }, 60000);
    await system.startApi();
    for (const name of ["notification-service", "audit-service", "dlq-processor"]) system[name] = system.run(name, []);
    return system;
  }

  // An Apache Kafka, broker and controller, in a folder of its own.
  async startKafka() {
    const folder = join(this.folder, "kafka");
    const controller = await freePort();
    const properties = {
      "process.roles": "broker,controller", "node.id": 1, "controller.quorum.voters": "1@127.0.0.1:" + controller, "controller.listener.names": "CONTROLLER",
      listeners: "PLAINTEXT://127.0.0.1:" + this.brokerPort + ",CONTROLLER://127.0.0.1:" + controller,
      "advertised.listeners": "PLAINTEXT://127.0.0.1:" + this.brokerPort, "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
      "log.dirs": join(folder, "data"), "default.replication.factor": 1, "min.insync.replicas": 1, "offsets.topic.replication.factor": 1,
      "offsets.topic.num.partitions": 1, "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1,
    };
    mkdirSync(folder, { recursive: true });
    const file = join(folder, "server.properties");
    writeFileSync(file, Object.entries(properties).map(([name, value]) => name + "=" + value + "\n").join(""));
    const java = (...args) => this.run("java", ["-Xmx512m", "-cp", join(process.env.KAFKA_LIBS, "*"), "-Dorg.apache.logging.log4j.level=WARN", ...args]);
    const formatted = java("kafka.tools.StorageTool", "format", "-t", "dGFzay1ldmVudHMtZTJlLQ", "-c", file);
    if (await formatted.ended !== 0) throw new Error("Kafka's storage is not formatted: " + formatted.output);
    return java("kafka.Kafka", file);
  }

  run(name, args, env) {
    const program = new Program(name, args, { ...this.env, ...env });
    this.programs.push(program);
    return program;
  }

  async startApi() {
    this.api = this.run("task-api", [], { PORT: String(this.apiPort) });
    await this.ready(this.url);
  }

  // Another API, in another environment.
  async startAnotherApi(env) {
    const port = await freePort();
    this.run("task-api", [], { PORT: String(port), STATE_DIR: join(this.folder, "another." + port), ...env });
    const url = "http://127.0.0.1:" + port;
    await this.ready(url);
    return url;
  }

  async ready(url) {
    await eventually("the API", async () => (await fetch(url + "/healthz").catch(() => ({}))).ok);
  }

  get url() {
    return "http://127.0.0.1:" + this.apiPort;
  }

  auditLines() {
    try {
      return readFileSync(this.env.AUDIT_LOG_PATH, "utf8").split("\n").filter(line => line).map(line => JSON.parse(line));
    } catch (error) {
      return [];
    }
  }

  // Writes records as another producer would.
  async produce(topic, ...messages) {
    const kafka = new Kafka({ brokers: [this.env.KAFKA_BOOTSTRAP_SERVERS], clientId: "browser", logLevel: logLevel.NOTHING });
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic, messages });
    await producer.disconnect();
  }

  async stop() {
    for (const program of this.programs) program.signal("SIGCONT");
    for (const program of this.programs) program.signal("SIGKILL");
    await Promise.all(this.programs.map(program => program.ended));
    rmSync(this.folder, { recursive: true, force: true });
  }
}
