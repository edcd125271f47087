// What a person does on the live page, in a real Chromium, against a running system: each step fails if the page does
// not show what has to be shown. Pictures of it are left in pictures/.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Parser } from "@asyncapi/parser";
import puppeteer from "puppeteer-core";
import { System, eventually } from "./system.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PICTURES = new URL("pictures", import.meta.url).pathname;
const DESKTOP = { width: 1440, height: 900, deviceScaleFactor: 1 };
const PHONE = { width: 360, height: 740, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const LARGE = { width: 3840, height: 2160, deviceScaleFactor: 1 };

mkdirSync(PICTURES, { recursive: true });
const system = await System.start();
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"],
});

// A page that notes whatever goes wrong in it, and each address that it asks for.
async function open(url, viewport = DESKTOP, colours = "light") {
  const page = await browser.newPage();
  page.wrong = [];
  page.on("pageerror", error => page.wrong.push(String(error)));
  page.on("console", message => {
    // A call that is refused, or not answered, is written there by the browser itself.
    if (["error", "warn"].includes(message.type()) && !/Failed to load resource|net::ERR_/.test(message.text())) page.wrong.push(message.text());
  });
  page.on("request", request => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) page.wrong.push("asked for " + request.url());
  });
  page.on("dialog", dialog => page.wrong.push("a dialog: " + dialog.message()));
  await page.setViewport(viewport);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: colours }]);
  await page.goto(url + "/", { waitUntil: "domcontentloaded" });
  return page;
}

const text = (page, selector) => page.$eval(selector, element => element.innerText).catch(() => "");
const shows = (page, selector, wanted, limit) =>
  eventually(selector + " shows " + wanted, async () => {
    const shown = await text(page, selector);
    return wanted instanceof RegExp ? wanted.test(shown) : shown.includes(wanted);
  }, limit).catch(async error => {
    throw new Error(error.message + "\nbut: " + await text(page, selector));
  });
const picture = (page, name, options) => page.screenshot({ path: join(PICTURES, name + ".png"), ...options });
const press = async (page, ...keys) => {
  for (const key of keys) await page.keyboard.press(key);
};
const focused = page => page.evaluate(() => document.activeElement.getAttribute("aria-label") || document.activeElement.id || document.activeElement.textContent);

// Goes on with the Tab key until the focus is where it should be.
async function tabTo(page, wanted) {
  for (let tabs = 0; tabs < 150; tabs += 1) {
    await press(page, "Tab");
    if ((await focused(page)).startsWith(wanted)) return;
  }
  throw new Error("the Tab key does not get to " + wanted);
}

async function accessible(page, where) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  const found = violations.map(each => each.id + ": " + each.help + "\n  " + each.nodes.slice(0, 3).map(node => node.html + " " + node.failureSummary).join("\n  "));
  assert.deepEqual(found, [], "axe, " + where);
}

async function fits(page, where) {
  const [inner, wide] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
  assert.ok(wide <= inner, where + ": " + wide + " px are shown in " + inner);
}

async function add(page, title) {
  await page.type("#new-title", title);
  await press(page, "Enter");
  await shows(page, "#task-list", title);
}

const rowButton = (page, title, action) => page.locator(`::-p-aria([name="${action} ${title}"][role="button"])`);

const steps = {
  async "a task is created, notified, audited and traced"(page) {
    await shows(page, "#overall", "All is well");
    await add(page, "Water the plants");
    await shows(page, "#event-list", "Water the plants");
    await rowButton(page, "Water the plants", "Trace").click();
    await shows(page, "#trace-note", "Nothing is missing");
    for (const step of ["Stored", "Published", "Notified", "Audited"]) await shows(page, "#trace-steps", new RegExp(step + "\\s+[\\d:.]+"));
    await shows(page, "#trace-rows", "audited; committed at offset");
    await accessible(page, "a trace");
    await picture(page, "trace");
    await press(page, "Escape");
    assert.match(system["notification-service"].output, /NOTIFICATION: New task created - 'Water the plants'/);
    assert.equal(system.auditLines().filter(line => line.data.title === "Water the plants").length, 1);
  },

  async "tasks are edited, completed, found and filtered"(page) {
    for (const title of ["Pay the rent", "Call Ada", "Book the flight to Lisbon"]) await add(page, title);
    await rowButton(page, "Call Ada", "Start").click();
    await rowButton(page, "Call Ada", "Complete").click();
    await rowButton(page, "Pay the rent", "Edit").click();
    await page.waitForSelector("#edit[open]");
    await page.$eval("#edit-name", input => { input.value = "Pay the rent of May"; });
    await page.select("#edit-status", "in_progress");
    await accessible(page, "editing");
    await page.click("#edit-form button[type=submit]");
    await shows(page, "#task-list", "Pay the rent of May");
    await page.locator("::-p-text(Completed)").click();
    await shows(page, "#task-list", /^Call Ada/);
    assert.doesNotMatch(await text(page, "#task-list"), /Lisbon/);
    await page.click("input[name=status][value='']");
    await page.type("#search", "lisb");
    await eventually("one is found", async () => (await page.$$("#task-list > li")).length === 1);
    await page.$eval("#search", input => { input.value = ""; input.dispatchEvent(new Event("input")); });
    await shows(page, "#task-list", "Call Ada");
  },

  async "a task is deleted, once it was said twice"(page) {
    await add(page, "To be deleted");
    await rowButton(page, "To be deleted", "Edit").click();
    await page.waitForSelector("#edit[open]");
    await page.click("#edit-delete");
    await page.click("#edit-delete");
    await eventually("it is gone", async () => !(await text(page, "#task-list")).includes("To be deleted"));
    await shows(page, "#event-list", "task.deleted");
  },

  async "markup in a title is text"(page) {
    const title = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    await add(page, title);
    await shows(page, "#event-list", title);
    assert.equal(await page.$("#task-list img, #event-list img, main script"), null);
  },

  async "a dead letter is found, redriven after a dry run, and audited"(page) {
    const event = id => ({
      event_id: id, event_type: "task.created", occurred_at: "2026-01-15T10:30:00.000000Z",
      data: { task_id: randomUUID(), title: "Redriven by a click", status: "pending", owner_id: null },
      metadata: { correlation_id: randomUUID(), source: "task-api" },
    });
    const letter = id => ({
      original_event: event(id), error: { kind: "audit_log", message: "cannot append to audit.log: No space left on device (os error 28)" },
      retry_count: 4, group: "audit-service", failed_at: new Date().toISOString(),
      source: { topic: "task-events", partition: 0, offset: 0, timestamp: "2026-01-15T10:30:00Z" },
    });
    // What is no event, and what one group could not handle.
    await system.produce("task-events", { value: "{\"event_id\": <b>" });
    const id = randomUUID();
    await system.produce("task-events-dlq", { key: letter(id).original_event.data.task_id, value: JSON.stringify(letter(id)) });
    await shows(page, "#dead-list", "No space left on device");
    await shows(page, "#dead-list", "invalid_json");
    await shows(page, "#findings", "3 dead letters are open");
    const letterId = await page.$$eval("#dead-list > li", rows => rows.find(row => row.innerText.includes("No space left")).dataset.key);
    await page.locator(`::-p-aria([name="Details of dead letter ${letterId}"])`).click();
    await shows(page, "#letter-value", "Redriven by a click");
    await accessible(page, "a dead letter");
    await press(page, "Escape");
    await page.locator(`::-p-aria([name="Redrive dead letter ${letterId}"])`).click();
    await shows(page, "#redrive-plan", "Would be redriven");
    assert.equal(system.auditLines().filter(line => line.event_id === id).length, 0, "a dry run changes nothing");
    await accessible(page, "a dry run");
    await picture(page, "redrive");
    await page.click("#redrive-execute");
    await shows(page, "#redrive-text", "1 dead letter was redriven");
    await press(page, "Enter");
    await eventually("the dialog is closed", async () => !(await page.$("dialog[open]")));
    await shows(page, "#dead-list", "Redriven");
    await eventually("it is audited", () => system.auditLines().some(line => line.event_id === id));
    assert.equal(system.auditLines().filter(line => line.event_id === id).length, 1);
  },

  async "a group without an instance is named, with what to do"(page) {
    await system["audit-service"].stop();
    await add(page, "Not audited yet");
    await shows(page, "#findings", /audit-service: no instance runs: 1 event waits/);
    await shows(page, "#findings", "Start an instance of audit-service.");
    await shows(page, "#group-list", /audit-service\s+Stopped/);
    system["audit-service"] = system.run("audit-service", []);
    await eventually("it is well again", async () => !(await text(page, "#findings")).includes("audit-service"));
  },

  async "all of it is done with the keyboard alone"(page) {
    await page.reload({ waitUntil: "domcontentloaded" });
    await shows(page, "#dead-list", "invalid_json");
    await tabTo(page, "Skip to the tasks");
    await press(page, "Enter");
    await tabTo(page, "new-title");
    await page.keyboard.type("Typed by hand");
    await press(page, "Enter");
    await shows(page, "#task-list", "Typed by hand");
    assert.equal(await focused(page), "new-title", "the next one can be typed");
    await tabTo(page, "Trace Typed by hand");
    await press(page, "Enter");
    await shows(page, "#trace-note", "Nothing is missing");
    await press(page, "Escape");
    assert.match(await focused(page), /^Trace Typed by hand/, "the focus comes back");
    await tabTo(page, "Redrive dead letter");
    await press(page, "Enter");
    await shows(page, "#redrive-plan", "malformed: only another version of the service can handle it");
    await eventually("the focus is on what to do", async () => (await focused(page)) === "redrive-execute");
    await press(page, "Enter");
    await shows(page, "#redrive-text", "1 dead letter was redriven");
    await press(page, "Enter");
    await shows(page, "#dead-note", /redriven/);
    assert.equal(await page.$("dialog[open]"), null);
  },

  async "the lagging group and a poison event are found, the event is redriven and its audit proved, with the keyboard alone"(page) {
    const event = {
      event_id: randomUUID(), event_type: "task.created", occurred_at: new Date().toISOString(),
      data: { task_id: randomUUID(), title: "Redriven by hand", status: "pending", owner_id: null },
      metadata: { correlation_id: randomUUID(), source: "task-api" },
    };
    const letter = {
      original_event: event, error: { kind: "audit_log", message: "a quota was exceeded (os error 122)" }, retry_count: 4, group: "audit-service",
      failed_at: new Date().toISOString(), source: { topic: "task-events", partition: 0, offset: 0, timestamp: event.occurred_at },
    };
    await system["audit-service"].stop();
    await system.produce("task-events-dlq", { key: event.data.task_id, value: JSON.stringify(letter) });
    await page.reload({ waitUntil: "domcontentloaded" });
    await shows(page, "#dead-list", "os error 122");
    await tabTo(page, "new-title");
    await page.keyboard.type("Waits for the auditor");
    await press(page, "Enter");

    // The group that lags: by the link to the groups.
    await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
    await tabTo(page, "Groups");
    await press(page, "Enter");
    assert.equal(await focused(page), "groups");
    await eventually("the groups are in view", () => page.$eval("#group-list", list => list.getBoundingClientRect().top < innerHeight));
    await shows(page, "#group-list", /audit-service\s+Stopped/);
    await shows(page, "#tile-lag", /^[1-9]/);
    system["audit-service"] = system.run("audit-service", []);
    await eventually("it is well again", async () => !(await text(page, "#findings")).includes("audit-service:"));

    // The poison event: its error, a dry run, the redrive, the trace.
    const id = await page.$$eval("#dead-list > li", rows => rows.find(row => row.innerText.includes("os error 122")).dataset.key);
    await tabTo(page, "Details of dead letter " + id);
    await press(page, "Enter");
    await shows(page, "#letter-facts", "a quota was exceeded");
    await press(page, "Escape");
    await tabTo(page, "Redrive dead letter " + id);
    await press(page, "Enter");
    await shows(page, "#redrive-plan", "Would be redriven");
    await eventually("the focus is on what to do", async () => (await focused(page)) === "redrive-execute");
    await press(page, "Enter");
    await shows(page, "#redrive-text", "1 dead letter was redriven");
    await press(page, "Enter");
    await eventually("the dialog is closed", async () => !(await page.$("dialog[open]")));
    await eventually("it is audited", () => system.auditLines().some(line => line.event_id === event.event_id));
    await page.evaluate(() => { document.activeElement.blur(); });
    await tabTo(page, "Trace the event of dead letter " + id);
    await press(page, "Enter");
    await shows(page, "#trace-rows", "redriven for audit-service alone");
    await shows(page, "#trace-rows", "audited; committed at offset");
    await press(page, "Escape");
  },

  async "it is accessible, and fits, in light and dark on each screen"(page) {
    for (const colours of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: colours }]);
      for (const [name, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE, large: LARGE })) {
        await page.setViewport(viewport);
        await page.evaluate(() => {
          scrollTo(0, 0);
          document.getElementById("event-list").scrollTop = 0;
        });
        await accessible(page, colours + ", " + name);
        await fits(page, name);
        await picture(page, colours + "-" + name, { fullPage: name === "phone" });
      }
    }
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
    await page.setViewport(DESKTOP);
  },

  async "Kafka that does not answer is named within seconds, and nothing is lost"(page) {
    system.broker.signal("SIGSTOP");
    const paused = Date.now();
    await shows(page, "#findings", /Kafka at .* has not answered for/, 30000);
    console.log("     named after " + (Date.now() - paused) / 1000 + " s");
    await add(page, "Created without Kafka");
    await shows(page, "#findings", /1 event waits in the outbox/);
    await shows(page, "#tile-outbox", /^1$/);
    await accessible(page, "Kafka is away");
    await picture(page, "kafka-away");
    system.broker.signal("SIGCONT");
    await eventually("it says that Kafka is back", async () => (await text(page, "#tile-kafka")) === "Reachable");
    await shows(page, "#event-list", "Created without Kafka", 60000);
    await eventually("it is audited", () => system.auditLines().some(line => line.data.title === "Created without Kafka"), 60000);
  },

  async "an API that is restarted is found again"(page) {
    // A stop that the machine held up is tried again; one that an open stream holds up is each time.
    for (let tries = 1; ; tries += 1) {
      const began = Date.now();
      await system.api.stop();
      const seconds = (Date.now() - began) / 1000;
      assert.equal(system.api.code, 0);
      if (seconds < 4) break;
      assert.ok(tries < 5, "an open stream held up the stop for " + seconds + " s");
      await system.startApi();
      // Once the page's stream is open again, which the next stop is to meet.
      await add(page, "Between stops " + tries);
      await shows(page, "#event-list", "Between stops " + tries);
    }
    await shows(page, "#overall", "The API does not answer");
    await system.startApi();
    await shows(page, "#overall", /All is well|warning/);
    await add(page, "After the restart");
    await shows(page, "#event-list", "After the restart");
  },

  async "a page whose API asks for a token asks the person, and keeps it for the tab"() {
    const file = join(system.folder, "tokens");
    const made = system.run("taskctl", ["token", "create", "alice", "--scope", "read,write", "--file", file]);
    assert.equal(await made.ended, 0, made.output);
    const token = made.output.split("\n").find(line => line.startsWith("te_"));
    const page = await open(await system.startAnotherApi({ API_TOKENS_FILE: file }));
    const isAsked = () => page.$("#token-dialog[open]");
    await eventually("it asks for a token", isAsked);
    await shows(page, "#overall", "A token is needed");
    await accessible(page, "asks for a token");
    await page.type("#token-value", "te_wrong");
    await press(page, "Enter");
    await shows(page, "#token-problem", "not known");
    await page.type("#token-value", token);
    await press(page, "Enter");
    await eventually("the dialog is closed", async () => !(await isAsked()));
    await shows(page, "#overall", /All is well|warning|problem/);
    await add(page, "With a token");
    await page.reload({ waitUntil: "domcontentloaded" });
    await shows(page, "#task-list", "With a token");
    assert.ok(!(await isAsked()), "it is kept for the tab");
    await page.click("#token-forget");
    await eventually("it is forgotten", isAsked);
    assert.ok(!(await text(page, "#task-list")).includes("With a token"), "and so is what it showed");
    await press(page, "Escape");
    await page.click("#token-ask");
    await eventually("it asks again", isAsked);
    assert.deepEqual(page.wrong, []);
    await page.close();
  },

  async "ten thousand tasks cost the page no more than a hundred"(page) {
    // Which broker it is makes no difference to that.
    if (process.env.E2E_BROKER === "kafka") return;
    const add = async first => {
      for (let at = first; at < 10000; at += 32) {
        const answer = await fetch(system.url + "/tasks", { method: "POST", body: JSON.stringify({ title: "Many " + at }) });
        assert.equal(answer.status, 201);
      }
    };
    await Promise.all(Array.from({ length: 32 }, (_, at) => add(at)));
    await eventually("the newest are shown", async () => /Many 99/.test(await text(page, "#task-list")), 60000);
    await shows(page, "#tile-outbox", /^0$/, 60000);
    const rows = selector => page.$$eval(selector + " > li", list => list.length);
    assert.ok(await rows("#task-list") <= 700 && await rows("#event-list") <= 700, "a page that watched has " + await rows("#task-list") + " tasks");
    const began = Date.now();
    await page.reload({ waitUntil: "domcontentloaded" });
    await shows(page, "#task-list", "Many");
    const opened = Date.now() - began;
    console.log("     opened after " + opened + " ms");
    assert.ok(opened < 30000, "it took " + opened + " ms to open");
    assert.ok(await rows("#task-list") <= 100);
    await page.click("#task-more");
    await eventually("more are shown", async () => await rows("#task-list") > 50);
    // One that is far down is found, and one that is new is on top of what is shown.
    await page.type("#search", "Many 1234");
    await eventually("it is found", async () => /^Many 1234\b/.test(await text(page, "#task-list")) && await rows("#task-list") === 1);
    await page.$eval("#search", input => { input.value = ""; input.dispatchEvent(new Event("input")); });
    await add(page, "After ten thousand");
  },

  async "a line separator in a title hides nothing"(page) {
    const title = "Line\u2028separator\u2029";
    await system.produce("task-events", { key: "k", value: JSON.stringify({
      event_id: randomUUID(), event_type: "task.created", occurred_at: "2026-01-15T10:30:00.000000Z",
      data: { task_id: randomUUID(), title, status: "pending", owner_id: null },
      metadata: { correlation_id: randomUUID(), source: "another" },
    }) });
    await shows(page, "#event-list", "separator");
    await page.reload({ waitUntil: "domcontentloaded" });
    await shows(page, "#event-list", "separator");
  },

  async "markup in each field of events and dead letters is text"(page) {
    const markup = name => "<img src=x onerror=alert('" + name + "')><b>" + name + "</b>";
    const event = {
      event_id: randomUUID(), event_type: markup("type"), occurred_at: new Date().toISOString(),
      data: { task_id: markup("task"), title: markup("title"), status: markup("status"), owner_id: null }, metadata: { correlation_id: randomUUID(), source: markup("source") },
    };
    const letter = {
      original_event: event, error: { kind: markup("kind"), message: markup("message") }, retry_count: 4, group: markup("group"), failed_at: new Date().toISOString(),
      source: { topic: markup("topic"), partition: 0, offset: 0, timestamp: event.occurred_at }, original_headers: [{ name: markup("name"), value: markup("value") }],
    };
    await system.produce("task-events", { key: markup("key"), value: JSON.stringify(event) });
    await system.produce("task-events-dlq", { key: markup("key"), value: JSON.stringify(letter) });
    await shows(page, "#event-list", markup("type"));
    for (const field of ["kind", "message", "group"]) await shows(page, "#dead-list", markup(field));
    const id = await page.$$eval("#dead-list > li", rows => rows.find(row => row.innerText.includes("<b>kind</b>")).dataset.key);
    await page.locator(`::-p-aria([name="Details of dead letter ${id}"])`).click();
    await shows(page, "#letter-value", "<b>title</b>");
    assert.equal(await page.$("main img, main b, dialog img, dialog b"), null);
    await press(page, "Escape");
    await page.locator(`::-p-aria([name="Redrive dead letter ${id}"])`).click();
    await page.waitForSelector("#redrive[open]");
    assert.equal(await page.$("main img, main b, dialog img, dialog b"), null);
    await press(page, "Escape");
  },

  async "what is not there is named: a topic"() {
    for (const [name, topic] of [["DLQ_TOPIC", "no-dlq"], ["OFFSETS_TOPIC", "no-offsets"], ["TASK_EVENTS_TOPIC", "no-events"]]) {
      const url = await system.startAnotherApi({ [name]: topic });
      const page = await open(url);
      await shows(page, "#findings", "topic " + topic + " does not exist");
      await shows(page, "#findings", "taskctl topics create");
      await add(page, "Without " + topic);
      assert.deepEqual(page.wrong, []);
      await page.close();
    }
  },

  async "the documentation's links lead somewhere, and it is tried"() {
    const page = await open(system.url);
    await page.goto(system.url + "/docs", { waitUntil: "domcontentloaded" });
    await shows(page, "#calls", "DELETE");
    const dangling = await page.$$eval("a[href^='#']", links => links.map(link => link.getAttribute("href")).filter(href => !document.getElementById(decodeURIComponent(href.slice(1)))));
    assert.deepEqual(dangling, [], "links to nowhere");
    const anchors = await page.$$eval("a.anchor", links => links.length);
    assert.ok(anchors > 30, anchors + " anchors");
    await page.goto(system.url + "/docs#error-unavailable", { waitUntil: "domcontentloaded" });
    await page.reload({ waitUntil: "domcontentloaded" });
    await eventually("the section of the address is in view", () => page.evaluate(() => {
      const target = document.getElementById("error-unavailable");
      return target !== null && target.getBoundingClientRect().top >= 0 && target.getBoundingClientRect().top < innerHeight;
    }));
    // Sends the form of a call, and waits for an answer that starts so.
    const send = async (id, starts) => {
      await page.evaluate(id => {
        const section = document.getElementById(id).closest("section");
        const form = section.querySelector("form");
        form.closest("details").open = true;
        form.querySelector("button:not(.quiet)").click();
      }, id);
      await eventually(id + " is answered " + starts, () => page.evaluate((id, starts) => {
        const answers = document.getElementById(id).closest("section").querySelectorAll("[role=status] code");
        return [...answers].some(answer => answer.textContent.startsWith(starts));
      }, id, starts));
    };
    const operations = await (await fetch(system.url + "/openapi.json")).json();
    const idOf = (path, method) => operations.paths[path][method].operationId;
    await send(idOf("/tasks", "post"), "201 ");
    const newest = (await (await fetch(system.url + "/tasks?limit=1&order=created_desc")).json()).items[0].id;
    const remembered = () => page.$$eval("input[data-task]", inputs => [...new Set(inputs.map(input => input.value))]);
    assert.deepEqual(await remembered(), [newest], "the last task is in each field");
    await send(idOf("/tasks/{id}", "get"), "200 ");
    await page.reload({ waitUntil: "domcontentloaded" });
    await eventually("it is remembered", async () => (await remembered())[0] === newest);
    await send(idOf("/tasks/{id}", "delete"), "204 ");
    await send(idOf("/tasks/{id}", "get"), "404 ");
    for (const colours of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: colours }]);
      await accessible(page, "the documentation, " + colours);
      await picture(page, "docs-" + colours);
    }
    assert.deepEqual(page.wrong, []);
    await page.close();
  },

  async "the description of the events is valid AsyncAPI"() {
    const source = system.url + "/asyncapi.json";
    const described = await (await fetch(source)).text();
    const { document, diagnostics } = await new Parser().parse(described, { source });
    const wrong = diagnostics.filter(each => each.severity <= 1).map(each => each.path.join("/") + ": " + each.message);
    assert.deepEqual(wrong, []);
    assert.deepEqual(document.operations().all().map(operation => operation.action()), ["send"]);
    const { diagnostics: broken } = await new Parser().parse(described.replace('"send"', '"shout"'), { source });
    assert.ok(broken.some(each => each.severity === 0), "the parser finds what is wrong");
  },

  async "a page that is opened without Kafka says so"() {
    const url = await system.startAnotherApi({ KAFKA_BOOTSTRAP_SERVERS: "127.0.0.1:1" });
    const page = await open(url, DESKTOP, "dark");
    await shows(page, "#findings", /Kafka at 127.0.0.1:1 has not answered/, 30000);
    await add(page, "Stored all the same");
    assert.deepEqual(page.wrong, []);
    await page.close();
  },
};

let failed = 0;
const page = await open(system.url);
for (const [name, step] of Object.entries(steps)) {
  const start = Date.now();
  try {
    await step(page);
    assert.deepEqual(page.wrong, [], "errors in the page");
    console.log("ok   " + name + " (" + ((Date.now() - start) / 1000).toFixed(1) + " s)");
  } catch (error) {
    failed += 1;
    console.log("FAIL " + name + "\n" + (error.stack || error));
    await picture(page, "failed").catch(() => {});
    break;
  }
}
await browser.close();
if (failed) for (const program of system.programs.filter(program => ["task-api", "devbroker"].includes(program.name))) console.log(program.name + ":\n" + program.output.split("\n").slice(-15).join("\n"));
await system.stop();
process.exit(failed ? 1 : 0);
