// Makes the picture of the README, docs/live-page.png: the page after a minute of work. `tests/browser/run portrait`.

import { randomUUID } from "node:crypto";
import puppeteer from "puppeteer-core";
import { System, eventually } from "./system.js";

const SECONDS = 60;
const TITLES = [
  "Book the flight to Lisbon", "Renew the passport", "Send the invoice to Ada", "Order parts for the press", "Call the landlord",
  "Review the release notes", "Back up the laptop", "Water the plants", "Pay the rent of May", "Plan the team meeting",
];

const sleep = ms => new Promise(done => setTimeout(done, ms));
const system = await System.start();
const call = (method, path, body) =>
  fetch(system.url + path, { method, body: body && JSON.stringify(body), headers: { "content-type": "application/json" } });
const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox", "--hide-scrollbars"] });
const page = await browser.newPage();
await page.setViewport({ width: 1440, height: 1560 });
await page.goto(system.url + "/");
for (let second = 0; second < SECONDS; second += 1) {
  if (second === 25) await system["audit-service"].stop();
  if (second === 40) system["audit-service"] = system.run("audit-service", []);
  const count = 3 + Math.round(6 * Math.abs(Math.sin(second / 7)));
  await Promise.all(Array.from({ length: count }, (_, index) => call("POST", "/tasks", { title: TITLES[(second + index) % TITLES.length] })));
  await sleep(900);
}
const { items } = await (await call("GET", "/tasks?limit=20&order=created_desc")).json();
for (const task of items.slice(2, 5)) await call("PATCH", "/tasks/" + task.id, { status: "in_progress" });
for (const task of items.slice(3, 4)) await call("POST", "/tasks/" + task.id + "/complete");
const event = {
  event_id: randomUUID(), event_type: "task.created", occurred_at: new Date().toISOString(),
  data: { task_id: items[0].id, title: items[0].title, status: "pending", owner_id: null }, metadata: { correlation_id: randomUUID(), source: "task-api" },
};
await system.produce("task-events-dlq", {
  key: items[0].id,
  value: JSON.stringify({
    original_event: event, error: { kind: "audit_log", message: "cannot append to audit.log: No space left on device (os error 28)" }, retry_count: 4,
    group: "audit-service", failed_at: new Date().toISOString(), source: { topic: "task-events", partition: 0, offset: 12, timestamp: new Date().toISOString() },
  }),
});
await eventually("the dead letter", () => page.$("#dead-list > li"));
await sleep(2500);
await page.screenshot({ path: new URL("../../docs/live-page.png", import.meta.url).pathname });
await browser.close();
await system.stop();
