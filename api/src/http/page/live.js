// The stream: a snapshot, and then what changes. It is closed while nobody looks.

// Without a message for this long the API is called unreachable: one comes each second.
const SILENCE_MS = 5000;
// A page in the background gives its stream up after this long.
const HIDDEN_MS = 10000;
const RETRY_MS = 3000;
const MAX_SHOWN = 60;
// What the page says where its stream is refused.
const REFUSALS = {
  401: "A token is needed",
  403: "The token may not read",
  429: "Too many requests, trying again",
  503: "Too many watchers, trying again",
};

const live = {
  source: null, heard: 0, tick: null, samples: [], events: [], letters: { rows: [], open: 0, redriven: 0, dropped: 0, by: [] },
  paused: false, hiddenTimer: 0, retryTimer: 0, refusal: null, wasLost: false,
};

const TAKE = {
  snapshot: takeSnapshot,
  tick: takeTick,
  events: takeEvents,
  letters: letters => {
    live.letters = letters;
    showLetters();
  },
};

// A stream that has ended is tried again; how long the API has been silent goes on meanwhile.
async function connect(isRetry = false) {
  disconnect();
  if (!isRetry) live.heard = Date.now();
  const source = new AbortController();
  live.source = source;
  let refusal = null;
  try {
    const headers = withToken({ accept: "text/event-stream" });
    const answer = await fetch("/live/stream", { headers, signal: source.signal, cache: "no-store" });
    if (answer.ok) {
      await readEvents(answer.body, (name, data) => {
        live.heard = Date.now();
        live.refusal = null;
        if (TAKE[name]) TAKE[name](data);
      });
    } else {
      refusal = REFUSALS[answer.status] || null;
      if (answer.status === 401) askForToken("The token is not known, or is not valid any longer.");
    }
  } catch (error) {
    // It ended in the middle, or there is no answer: the silence is shown.
  }
  // Unless it was closed, or another one took its place.
  if (live.source !== source) return;
  disconnect();
  live.refusal = refusal;
  // A token that is not good does not become so.
  if (refusal !== REFUSALS[401]) live.retryTimer = setTimeout(() => connect(true), RETRY_MS);
  showOverall();
}

function disconnect() {
  clearTimeout(live.retryTimer);
  if (live.source) live.source.abort();
  live.source = null;
}

token.changed = () => connect();

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
  if (live.refusal) return ["warning", live.refusal];
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
