// Groups, dead letters, traces and health: what an operator looks at.

const MARKS = {
  error: "M12 2a10 10 0 100 20 10 10 0 000-20zm-1.2 5h2.4l-.3 7h-1.8zM12 18.2a1.4 1.4 0 110-2.8 1.4 1.4 0 010 2.8z",
  warning: "M12 2.5L1.5 21h21zM11 9h2l-.3 6h-1.4zm1 9.6a1.3 1.3 0 110-2.6 1.3 1.3 0 010 2.6z",
};
let announced = new Set();

function mark(level) {
  const svg = shape("svg", { class: "mark", viewBox: "0 0 24 24", role: "img", "aria-label": level === "error" ? "Error" : "Warning" });
  svg.append(shape("path", { d: MARKS[level] || MARKS.warning, fill: "currentcolor", "fill-rule": "evenodd" }));
  return svg;
}

function showHealth(findings) {
  byId("health").hidden = findings.length === 0;
  // Numbers change each second: what is said once is not said again for them.
  const name = finding => finding.level + finding.what.replace(/[\d.,]+/g, "#");
  reconcile(byId("findings"), findings, name,
    finding => make("li", null, mark(finding.level), make("p", { class: "what" }), make("p", { class: "todo" })),
    (row, finding) => {
      setLevel(row, finding.level);
      setText(row.children[1], finding.what);
      setText(row.children[2], finding.action + (finding.code ? " More: taskctl explain " + finding.code : ""));
    });
  const names = new Set(findings.map(name));
  const fresh = findings.filter(finding => !announced.has(name(finding)));
  if (fresh.length) announce(fresh.map(finding => finding.what).join(" "));
  else if (announced.size && !names.size) announce("All is well again.");
  announced = names;
}

const LIFE = {
  active: ["Active", "ok"], released: ["Stopped", "warning"], unclaimed: ["Never run", "warning"],
  silent: ["Silent", "error"], unknown: ["Looking …", "unknown"],
};

function groupCard(group) {
  const fact = name => [make("dt", null, name), make("dd")];
  const facts = ["Lag", "Offset", "A second"].map(name => make("div", null, ...fact(name)));
  facts[0].lastElementChild.className = "lag";
  const title = "group-" + group.group;
  return make("article", { class: "group", "aria-labelledby": title },
    make("header", null,
      make("h3", { id: title }, group.group),
      make("p", { class: "pill" }, make("span", { class: "dot", "aria-hidden": "true" }), make("span"))),
    make("p", { class: "note" }),
    make("dl", { class: "numbers" }, ...facts),
    make("div", { class: "chart" }),
    make("div", { class: "axis", "aria-hidden": "true" }, make("span", null, "5 min ago"), make("span"), make("span", null, "now")),
    make("details", null,
      make("summary", null, "Partitions"),
      make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Partitions of " + group.group },
        make("table", null,
          make("thead", null, make("tr", null, ...["Partition", "Position", "End", "Lag", "Owner"].map(name => make("th", { scope: "col" }, name)))),
          make("tbody")))));
}

function updateGroupCard(card, group) {
  const [header, note, facts, chart, axis, details] = card.children;
  const [word, level] = LIFE[group.state] || LIFE.unknown;
  const pill = header.children[1];
  setLevel(pill, level);
  setText(pill.children[1], word);
  const owners = group.owners.length ? "Owned by " + group.owners.slice(0, 3).join(", ") + (group.owners.length > 3 ? " and more" : "") : "No owner";
  const service = group.service && group.service !== group.group ? group.service + ". " : "";
  setText(note, service + owners);
  const history = live.samples.map(sample => sample.groups[group.group] ? sample.groups[group.group].lag : null);
  const newest = live.samples.length ? live.samples[live.samples.length - 1].groups[group.group] : null;
  const end = group.partitions.length === group.partition_count && group.partitions.every(each => each.log_end_offset !== null)
    ? group.partitions.reduce((sum, each) => sum + each.log_end_offset, 0) : null;
  setText(facts.children[0].lastElementChild, number(group.lag));
  setText(facts.children[1].lastElementChild, number(group.position) + (end === null ? "" : " of " + number(end)));
  setText(facts.children[2].lastElementChild, newest && newest.rate !== null ? number(newest.rate) : "–");
  const highest = drawChart(chart, history,
    "Lag of " + group.group + " over the last five minutes: now " + number(group.lag) + ", highest " + number(Math.max(0, ...history)));
  setText(axis.children[1], highest === null ? "" : "highest " + number(Math.max(0, ...history.filter(value => value !== null))));
  const rows = details.querySelector("tbody");
  reconcile(rows, details.open ? group.partitions : [], each => each.topic + "/" + each.partition,
    () => make("tr", null, ...[0, 1, 2, 3, 4].map(() => make("td"))),
    (row, each) => {
      const owner = each.owner ? each.owner.host + "/" + each.owner.instance_id.split("-")[0] : LIFE[each.state][0];
      const cells = [each.topic + "/" + each.partition, number(each.current_offset), number(each.log_end_offset), number(each.lag), owner];
      cells.forEach((cell, index) => setText(row.children[index], cell));
    });
  const more = group.partition_count - group.partitions.length;
  setText(details.firstElementChild, plural(group.partition_count, "partition", "partitions") + (more > 0 ? ", the first " + group.partitions.length : ""));
}

function showGroups(groups) {
  reconcile(byId("group-list"), groups, group => group.group, groupCard, updateGroupCard);
  const empty = byId("group-empty");
  empty.hidden = groups.length > 0;
  const isSettled = live.tick && (!live.tick.kafka.reachable || live.samples.length > 6);
  if (isSettled) setText(empty, live.tick.kafka.reachable ? "No consumer group has run yet: start the services." : "The groups are shown when Kafka answers.");
}

document.addEventListener("toggle", event => {
  if (event.target.closest && event.target.closest(".group") && live.tick) showGroups(live.tick.groups);
}, true);

// Dead letters.
function letterRow(letter) {
  const id = letter.id;
  const button = (text, action) => make("button", { type: "button", class: "small", onclick: action }, text);
  return make("li", null,
    make("div", null,
      make("div", { class: "error" }),
      make("div", { class: "meta" }, make("span", { class: "badge" }), make("span"), make("span"), make("span", { class: "mono" }), make("span"))),
    make("div", { class: "buttons" },
      button("Details", () => openLetter(id)),
      button("Trace", () => openTrace(row(id).event_id || row(id).task_id)),
      button("Redrive …", () => openRedrive([id]))));
}

const row = id => live.letters.rows.find(letter => letter.id === id) || {};

function updateLetterRow(element, letter) {
  const [words, buttons] = element.children;
  const [error, meta] = words.children;
  const [state, group, kind, source, when] = meta.children;
  const isOpen = letter.redriven_to === null;
  setText(error, letter.message || letter.kind);
  setText(state, isOpen ? "Open" : "Redriven");
  setLevel(state, isOpen ? "error" : "ok");
  setText(group, letter.group);
  setText(kind, letter.kind);
  setText(source, letter.source);
  setText(when, moment(letter.failed_at));
  const [details, trace, redrive] = buttons.children;
  trace.hidden = !UUID.test(letter.event_id || letter.task_id || "");
  details.setAttribute("aria-label", "Details of dead letter " + letter.id);
  trace.setAttribute("aria-label", "Trace the event of dead letter " + letter.id);
  redrive.setAttribute("aria-label", "Redrive dead letter " + letter.id);
  redrive.classList.toggle("primary", isOpen);
}

function showLetters() {
  const letters = live.letters;
  reconcile(byId("dead-list"), letters.rows, letter => letter.id, letterRow, updateLetterRow);
  byId("dead-empty").hidden = letters.rows.length > 0;
  const notes = [];
  if (letters.rows.length) notes.push(number(letters.open) + " open, " + number(letters.redriven) + " redriven");
  if (letters.open + letters.redriven > letters.rows.length) notes.push("the newest " + letters.rows.length + " are shown");
  if (letters.dropped) notes.push("older ones: taskctl dlq list");
  setText(byId("dead-note"), notes.join(" · "));
  byId("dead-all").hidden = letters.open < 2;
  setText(byId("tile-dead"), number(letters.open));
  setLevel(byId("tile-dead"), letters.open ? "warning" : "ok");
  setText(byId("tile-dead-note"), letters.redriven ? "open, " + number(letters.redriven) + " redriven" : "open");
}

async function openLetter(id) {
  const facts = byId("letter-facts");
  setText(byId("letter-title"), "Dead letter " + id);
  facts.replaceChildren();
  setText(byId("letter-value"), "Reading …");
  byId("letter").showModal();
  try {
    const { json } = await call("GET", "/live/dead-letters/" + id);
    const known = [["Error", json.error.message], ["Kind", json.error.kind], ["Group", json.group], ["Tried again", plural(json.retry_count, "time", "times")],
      ["Source", json.source], ["Failed", moment(json.failed_at)], ["Redriven", row(id).redriven_to ? "to " + row(id).redriven_to : "not yet"]];
    for (const header of json.headers) known.push(["Header " + header.name, header.value ?? header.value_base64 ?? "null"]);
    for (const [name, value] of known) facts.append(make("dt", null, name), make("dd", null, String(value)));
    let text = json.value.none || json.value.text || "";
    if (json.value.bytes) text += "\n\n" + number(json.value.bytes) + " bytes, not JSON";
    if (json.value.json) {
      try {
        text = JSON.stringify(JSON.parse(json.value.json), null, 2);
      } catch (error) {
        text = json.value.json + " …";
      }
    }
    setText(byId("letter-value"), text);
  } catch (error) {
    setText(byId("letter-value"), error.message);
    announce(error.message);
  }
}

// Redriving: a dry run first, always.
const plan = { ids: [], request: 0 };

async function openRedrive(ids) {
  plan.ids = ids;
  byId("redrive-again").checked = false;
  byId("redrive-again-label").hidden = true;
  byId("redrive").showModal();
  await dryRun();
}

async function dryRun() {
  const request = ++plan.request;
  const execute = byId("redrive-execute");
  execute.hidden = false;
  execute.disabled = true;
  setText(byId("redrive-close"), "Cancel");
  setText(byId("redrive-title"), plan.ids.length === 1 ? "Redrive dead letter " + plan.ids[0] : "Redrive " + plan.ids.length + " dead letters");
  setText(byId("redrive-text"), "Looking at what would happen …");
  byId("redrive-problem").textContent = "";
  byId("redrive-plan").replaceChildren();
  try {
    const { json } = await call("POST", "/live/redrive", { ids: plan.ids, again: byId("redrive-again").checked });
    if (request !== plan.request) return;
    const count = json.letters.filter(letter => letter.outcome.what === "planned").length;
    const isSkipped = json.letters.some(letter => letter.outcome.what === "skipped");
    setText(byId("redrive-text"), "Nothing was changed yet: this is a dry run. A copy of each event goes to its topic, for the group that failed it alone, which handles it once.");
    if (isSkipped) byId("redrive-again-label").hidden = false;
    showPlan(json.letters);
    setText(execute, "Redrive " + (count === 1 ? "it" : number(count)));
    execute.disabled = count === 0;
    if (count) execute.focus();
    announce(count + " would be redriven");
  } catch (error) {
    if (request === plan.request) fail(error, byId("redrive-problem"));
    setText(byId("redrive-text"), "");
  }
}

const OUTCOMES = {
  planned: ["Would be redriven", "info"], redriven: ["Redriven", "ok"], skipped: ["Skipped: redriven before", "unknown"], failed: ["Not redriven", "error"],
};

function showPlan(letters) {
  byId("redrive-plan").replaceChildren(...letters.map(letter => {
    const [word, level] = OUTCOMES[letter.outcome.what];
    const detail = letter.outcome.detail ? " " + letter.outcome.detail : "";
    return make("li", null,
      make("div", { class: "meta" }, make("span", { class: "badge", "data-level": level }, word), make("span", null, letter.group), make("span", null, letter.kind), make("span", { class: "mono" }, letter.source + detail)),
      ...letter.notes.map(note => make("p", { class: "remark" }, "Note: " + note)));
  }));
}

byId("redrive-again").addEventListener("change", dryRun);
byId("redrive-execute").addEventListener("click", async () => {
  const execute = byId("redrive-execute");
  execute.disabled = true;
  try {
    const { json } = await call("POST", "/live/redrive", { ids: plan.ids, again: byId("redrive-again").checked, execute: true });
    showPlan(json.letters);
    execute.hidden = true;
    byId("redrive-again-label").hidden = true;
    setText(byId("redrive-close"), "Close");
    byId("redrive-close").focus();
    const words = plural(json.redriven, "dead letter was redriven", "dead letters were redriven") + (json.failed ? ", " + number(json.failed) + " could not be" : "") + ".";
    setText(byId("redrive-text"), words);
    announce(words);
  } catch (error) {
    execute.disabled = false;
    fail(error, byId("redrive-problem"));
  }
});
byId("dead-all").addEventListener("click", () => {
  openRedrive(live.letters.rows.filter(letter => letter.redriven_to === null).map(letter => letter.id).slice(0, 100));
});

// Traces. One that is not complete yet is read again as long as it is looked at, less and less often.
const traced = { id: null, timer: 0, round: 0 };
const STAGES = [
  ["Stored", (entry, task) => task || entry.stage.startsWith("task.")],
  ["Published", entry => entry.stage === "topic"],
  ["Notified", entry => entry.detail.startsWith("notified")],
  ["Audited", entry => entry.detail.startsWith("audited") || entry.stage === "audit log"],
];

async function openTrace(id, task) {
  if (!id) return;
  clearTimeout(traced.timer);
  Object.assign(traced, { id, round: 0 });
  setText(byId("trace-title"), task ? "Trace of “" + task.title + "”" : "Trace");
  setText(byId("trace-id"), id);
  for (const part of ["trace-steps", "trace-rows", "trace-missing"]) byId(part).replaceChildren();
  setText(byId("trace-note"), "Reading the topics …");
  const dialog = byId("trace");
  if (!dialog.open) dialog.showModal();
  await readTrace();
}

async function readTrace() {
  const id = traced.id;
  try {
    const { json } = await call("GET", "/live/trace/" + id);
    if (id !== traced.id) return;
    showTrace(json);
    setText(byId("trace-note"), json.missing.length ? "Looking again while this is open." : "Nothing is missing.");
    if (json.missing.length) again();
  } catch (error) {
    if (id !== traced.id) return;
    setText(byId("trace-note"), error.message);
    if (error.status === 503 || !error.status) again();
  }
}

function again() {
  traced.round += 1;
  clearTimeout(traced.timer);
  traced.timer = setTimeout(() => byId("trace").open && readTrace(), Math.min(1000 * traced.round, 10000));
}

function showTrace(report) {
  const entries = report.timeline;
  reconcile(byId("trace-steps"), STAGES, ([name]) => name,
    ([name]) => make("li", null, make("b", null, name), make("span")),
    (step, [name, isIt]) => {
      const done = entries.filter(entry => isIt(entry, entry.stage === "task"));
      const failed = entries.some(entry => entry.detail.startsWith("sent to the DLQ"));
      setLevel(step, done.length ? "ok" : failed && name !== "Stored" ? "error" : "unknown");
      setText(step.children[1], done.length ? exact(done[0].time) : failed && ["Notified", "Audited"].includes(name) ? "See the DLQ below" : "Not yet");
    });
  byId("trace-rows").replaceChildren(...entries.map(entry => make("tr", null,
    make("td", null, exact(entry.time)), make("td", null, entry.stage), make("td", { class: "mono" }, entry.place), make("td", null, entry.detail))));
  byId("trace-missing").replaceChildren(...report.missing.map(missing => make("li", null, missing)));
}

byId("trace").addEventListener("close", () => {
  clearTimeout(traced.timer);
  traced.id = null;
});
