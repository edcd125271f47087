// The stream: a snapshot, and then what changes. It is closed while nobody looks.

// Without a message for this long the API is called unreachable: one comes each second.
const SILENCE_MS = 5000;
// A page in the background gives its stream up after this long.
const HIDDEN_MS = 10000;
const RETRY_MS = 3000;
const MAX_SHOWN = 60;

const live = {
  source: null, heard: 0, tick: null, samples: [], events: [], letters: { rows: [], open: 0, redriven: 0, dropped: 0, by: [] },
  paused: false, hiddenTimer: 0, retryTimer: 0, refused: false, wasLost: false,
};

function connect() {
  clearTimeout(live.retryTimer);
  if (live.source) live.source.close();
  live.heard = Date.now();
  const source = new EventSource("/live/stream");
  live.source = source;
  const on = (name, take) => source.addEventListener(name, event => {
    live.heard = Date.now();
    live.refused = false;
    take(JSON.parse(event.data));
  });
  on("snapshot", takeSnapshot);
  on("tick", takeTick);
  on("events", takeEvents);
  on("letters", letters => {
    live.letters = letters;
    showLetters();
  });
  source.addEventListener("error", () => {
    // Refused, with too many watchers: the browser does not try again, so this does.
    if (source.readyState === EventSource.CLOSED) {
      live.refused = true;
      disconnect();
      live.retryTimer = setTimeout(connect, RETRY_MS);
    }
    showOverall();
  });
}

function disconnect() {
  if (live.source) live.source.close();
  live.source = null;
}

function takeSnapshot(snapshot) {
  live.samples = snapshot.history.samples;
  live.letters = snapshot.letters;
  showLetters();
  live.events = [];
  byId("event-list").replaceChildren();
  addEvents(snapshot.events, false);
  if (snapshot.tick) takeTick({ ...snapshot.tick, sample: null });
  // Others may have changed tasks while this page did not listen.
  readTasks(false);
}

function takeTick(tick) {
  live.tick = tick;
  if (tick.sample) {
    live.samples.push(tick.sample);
    if (live.samples.length > SAMPLES) live.samples.shift();
  }
  showTiles(tick);
  showGroups(tick.groups);
  showHealth(tick.health);
  showOverall();
}

function takeEvents({ events, left_out }) {
  addEvents(events, true);
  tasksFromEvents(events);
  setText(byId("events-note"), left_out ? plural(left_out, "more came", "more came") + " than are shown" : "");
}

const TYPES = { "task.created": "info", "task.updated": "unknown", "task.completed": "ok", "task.deleted": "warning" };

function addEvents(events, isNew) {
  live.events.unshift(...events.slice().reverse());
  live.events.length = Math.min(live.events.length, MAX_SHOWN);
  if (!live.paused) showEvents(isNew);
}

function showEvents(isNew) {
  byId("event-empty").hidden = live.events.length > 0;
  reconcile(byId("event-list"), live.events, event => event.partition + "/" + event.offset, event => {
    const word = event.error ? "not an event" : event.type;
    const title = event.error || event.title || event.event_id;
    const remark = event.only_for ? " · redriven for " + event.only_for + " alone" : "";
    const id = event.task_id || event.event_id;
    const [kind, properties] = id
      ? ["button", { type: "button", onclick: () => openTrace(id, event.title ? event : null) }]
      : ["div", {}];
    return make("li", { class: isNew ? "is-new" : "" }, make(kind, { ...properties, class: "event" },
    make("span", null, make("span", { class: "badge", "data-level": event.error ? "error" : TYPES[event.type] || "unknown" }, word)),
    make("span", { class: "title" }, title || ""),
    make("time", { dateTime: event.at }, clock(event.at)),
    make("span", { class: "at" }, "offset " + event.partition + "/" + event.offset + remark)));
  }, () => {});
}

byId("events-pause").addEventListener("click", event => {
  live.paused = !live.paused;
  event.currentTarget.setAttribute("aria-pressed", String(live.paused));
  setText(event.currentTarget, live.paused ? "Go on" : "Pause");
  if (!live.paused) showEvents(false);
});

function showTiles(tick) {
  const rates = live.samples.map(sample => sample.rate);
  const rate = rates.length ? rates[rates.length - 1] : null;
  setText(byId("tile-rate"), number(rate));
  drawChart(byId("tile-chart"), rates, "Events a second over the last five minutes: now " + number(rate) + ", highest " + number(Math.max(0, ...rates)));
  setText(byId("tile-outbox"), number(tick.api.outbox));
  setLevel(byId("tile-outbox"), tick.api.oldest_seconds >= 10 ? "error" : "ok");
  setText(byId("tile-outbox-note"), tick.api.oldest_seconds >= 1 ? "waiting, the oldest for " + tick.api.oldest_seconds + " s" : "waiting for Kafka");
  const worst = tick.groups.reduce((worst, group) => group.lag !== null && (!worst || group.lag > worst.lag) ? group : worst, null);
  setText(byId("tile-lag"), worst ? number(worst.lag) : "–");
  setText(byId("tile-lag-note"), worst && worst.lag > 0 ? worst.group : "events behind");
  const isReachable = tick.kafka.reachable;
  setText(byId("tile-kafka"), isReachable ? "Reachable" : "Unreachable");
  setLevel(byId("tile-kafka"), isReachable ? "ok" : "error");
  const topic = tick.topics[0];
  setText(byId("tile-kafka-note"), isReachable
    ? (topic ? plural(topic.end_offset, "event", "events") + " in " + topic.topic : tick.kafka.bootstrap)
    : "for " + plural(tick.kafka.silent_seconds, "second", "seconds"));
}

function showOverall() {
  const [level, text] = overall();
  const pill = byId("overall");
  setLevel(pill, level);
  setText(byId("overall-text"), text);
}

function overall() {
  if (live.refused) return ["warning", "Too many watchers, trying again"];
  if (Date.now() - live.heard > SILENCE_MS) return ["error", "The API does not answer"];
  if (!live.tick) return ["unknown", "Connecting"];
  const findings = live.tick.health;
  const errors = findings.filter(finding => finding.level === "error").length;
  if (errors) return ["error", plural(errors, "problem", "problems")];
  if (findings.length) return ["warning", plural(findings.length, "warning", "warnings")];
  return ["ok", "All is well"];
}

setInterval(() => {
  showOverall();
  const isLost = Date.now() - live.heard > SILENCE_MS && !document.hidden;
  if (isLost && !live.wasLost) announce("The API does not answer.");
  if (!isLost && live.wasLost) announce("The API answers again.");
  live.wasLost = isLost;
  // A connection that is open and silent is not trusted for ever.
  if (isLost && live.source && Date.now() - live.heard > 3 * SILENCE_MS) connect();
}, 1000);

document.addEventListener("visibilitychange", () => {
  clearTimeout(live.hiddenTimer);
  if (document.hidden) {
    live.hiddenTimer = setTimeout(disconnect, HIDDEN_MS);
  } else if (!live.source) {
    connect();
  }
});

connect();
