// What all parts share: elements, words, calls of the API, dialogs, announcements.
//
// Text is only ever set as text: nothing that was stored, published or answered is taken for markup.

const byId = id => document.getElementById(id);

// An element with properties and children; what is null is left out.
function make(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else if (key in made && !key.startsWith("aria") && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// Sets a text only where it differs, so that a selection and a screen reader's place are kept.
function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

function setLevel(element, level) {
  if (element.dataset.level !== level) element.dataset.level = level;
}

// Makes the children of a list those of `items`: elements of known keys are kept, and so is their focus.
function reconcile(list, items, key, create, update) {
  const known = new Map([...list.children].map(child => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = known.get(name);
    if (element) {
      known.delete(name);
    } else {
      element = create(item);
      element.dataset.key = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else list.insertBefore(element, place);
  }
  for (const gone of known.values()) gone.remove();
}

const numbers = new Intl.NumberFormat("en");
const number = value => value === null || value === undefined ? "–" : numbers.format(value);
const plural = (count, one, many) => number(count) + " " + (count === 1 ? one : many);
const STATUS = { pending: "Pending", in_progress: "In progress", completed: "Completed" };
const statusWord = status => STATUS[status] || status;
const statusLevel = status => ({ pending: "unknown", in_progress: "info", completed: "ok" })[status] || "unknown";
const shortId = id => id ? id.slice(0, 8) + "…" + id.slice(-4) : "";

function clock(text) {
  const time = new Date(text);
  return isNaN(time) ? text : time.toLocaleTimeString("en-GB");
}

function moment(text) {
  const time = new Date(text);
  if (isNaN(time)) return text;
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? time.toLocaleTimeString("en-GB") : time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

function exact(text) {
  const time = new Date(text);
  if (isNaN(time)) return text;
  const isToday = time.toDateString() === new Date().toDateString();
  const at = time.toLocaleTimeString("en-GB") + "." + String(time.getMilliseconds()).padStart(3, "0");
  return isToday ? at : time.toLocaleDateString("en-GB") + " " + at;
}

// Says something to who cannot see it.
function announce(text) {
  byId("announcer").textContent = text;
}

// Calls the API. An error has the words of the answer.
async function call(method, path, body, headers) {
  const options = { method, headers: withToken({ accept: "application/json", ...headers }), signal: AbortSignal.timeout(70000) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw new Error("The API does not answer. What you entered is still here: try again.");
  }
  const text = await answer.text();
  let json = null;
  try {
    json = text ? JSON.parse(text) : null;
  } catch (error) {
    // Not an answer of the API: a proxy's page.
  }
  if (!answer.ok) {
    const fields = ((json && json.errors) || []).map(each => each.field + " " + each.message).join("; ");
    const failure = new Error(fields || (json && json.detail) || "The API answered " + answer.status);
    failure.status = answer.status;
    if (answer.status === 401) askForToken(failure.message);
    throw failure;
  }
  return { json, etag: answer.headers.get("etag") };
}

// Tells of a failure at the place of the action, or where there is none, at the top of the page's notes.
function fail(error, place) {
  if (place) place.textContent = error.message;
  announce(error.message);
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", event => {
    if (event.target.hasAttribute("data-close")) dialog.close();
  });
  dialog.addEventListener("pointerdown", event => {
    // What is pressed on the backdrop is pressed on the dialog, outside of it.
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const isInside = event.clientX >= left && event.clientX <= right && event.clientY >= top && event.clientY <= bottom;
    if (event.target === dialog && !isInside) dialog.close();
  });
}

const theme = byId("theme");
function applyTheme(value) {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  theme.value = value;
}
let storedTheme = "";
try {
  storedTheme = localStorage.getItem("theme") || "";
} catch (error) {
  // Storage may be forbidden: the system's colours are used.
}
applyTheme(["light", "dark"].includes(storedTheme) ? storedTheme : "");
theme.addEventListener("change", () => {
  applyTheme(theme.value);
  try {
    localStorage.setItem("theme", theme.value);
  } catch (error) {
    // The choice holds until the page is closed.
  }
});
