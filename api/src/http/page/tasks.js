// Tasks: what the API has. The list is read once, and changed by what this page does and by the events that come, so
// that many pages do not read it again and again.

const PAGE_SIZE = 50;
// A search reads older and older tasks until it has found a page of them, or has looked at so many.
const MAX_SEARCHED = 10000;
// So many new tasks may come on top of the list before it is read again from the newest on.
const MAX_ADDED = 500;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

const tasks = { items: [], cursor: null, request: 0, searched: 0, added: 0 };
const taskList = byId("task-list");

const wantedStatus = () => document.querySelector("input[name=status]:checked").value;
const wantedText = () => byId("search").value.trim().toLowerCase();

function fits(task) {
  const text = wantedText();
  return (!wantedStatus() || task.status === wantedStatus())
    && (!text || task.title.toLowerCase().includes(text) || task.id.toLowerCase().startsWith(text));
}

function listPath(cursor, limit) {
  const query = new URLSearchParams({ limit, order: "created_desc" });
  if (wantedStatus()) query.set("status", wantedStatus());
  if (cursor) query.set("cursor", cursor);
  return "/tasks?" + query;
}

// Reads from the newest task on, or on from where the list ends.
async function readTasks(isMore) {
  const request = ++tasks.request;
  const isOld = () => request !== tasks.request;
  const note = byId("tasks-note");
  try {
    const found = isMore ? tasks.items.slice() : [];
    const wanted = found.length + PAGE_SIZE;
    let cursor = isMore ? tasks.cursor : null;
    let searched = isMore ? tasks.searched : 0;
    const text = wantedText();
    if (UUID.test(text)) {
      const task = await call("GET", "/tasks/" + text).catch(error => {
        if (error.status === 404) return { json: null };
        throw error;
      });
      if (isOld()) return;
      found.push(...[task.json].filter(each => each && fits(each)));
      cursor = null;
    } else {
      const limit = searched + MAX_SEARCHED;
      do {
        const page = (await call("GET", listPath(cursor, text ? 200 : PAGE_SIZE))).json;
        if (isOld()) return;
        found.push(...page.items.filter(fits));
        searched += page.items.length;
        cursor = page.next_cursor;
        if (text && cursor) setText(note, "Searched " + plural(searched, "task", "tasks") + " …");
      } while (text && cursor && found.length < wanted && searched < limit);
    }
    Object.assign(tasks, { items: found, cursor, searched, added: 0 });
    setText(note, text && cursor ? "Searched the newest " + number(searched) : "");
    showTasks();
    if (text) announce(plural(found.length, "task", "tasks") + " found");
  } catch (error) {
    if (!isOld()) setText(note, "The tasks cannot be read: " + error.message);
  }
}

function showTasks() {
  reconcile(taskList, tasks.items, task => task.id, taskRow, updateTaskRow);
  const empty = byId("task-empty");
  empty.hidden = tasks.items.length > 0;
  const isFiltered = wantedText() || wantedStatus();
  setText(empty, isFiltered ? "No task matches." : "There is no task yet. Add the first one above.");
  byId("task-more").hidden = !tasks.cursor;
}

function taskRow(task) {
  const id = task.id;
  const button = (text, action) => make("button", { type: "button", class: "small", onclick: action }, text);
  return make("li", null,
    make("div", null,
      make("div", { class: "task-title" }),
      make("div", { class: "meta" }, make("span", { class: "badge" }), make("span"), make("span", { class: "mono" }, shortId(id)), make("span"))),
    make("div", { class: "buttons" },
      button("", () => advance(id)),
      button("Edit", event => openEdit(id, event.currentTarget)),
      button("Trace", () => openTrace(id, taskOf(id)))));
}

const taskOf = id => tasks.items.find(task => task.id === id);

function updateTaskRow(row, task) {
  const [words, buttons] = row.children;
  const [title, meta] = words.children;
  const [badge, when, , owner] = meta.children;
  const [next, edit, trace] = buttons.children;
  setText(title, task.title);
  row.classList.toggle("is-done", task.status === "completed");
  setText(badge, statusWord(task.status));
  setLevel(badge, statusLevel(task.status));
  setText(when, task.created_at ? moment(task.created_at) : "");
  setText(owner, task.owner_id ? "owner " + shortId(task.owner_id) : "");
  next.hidden = task.status === "completed";
  setText(next, task.status === "pending" ? "Start" : "Complete");
  next.setAttribute("aria-label", next.textContent + " " + task.title);
  edit.setAttribute("aria-label", "Edit " + task.title);
  trace.setAttribute("aria-label", "Trace " + task.title);
}

// Puts a task as it is now into the list, or takes it out where the filter no longer lets it through.
function putTask(task) {
  const at = tasks.items.findIndex(known => known.id === task.id);
  if (!fits(task)) {
    if (at >= 0) tasks.items.splice(at, 1);
  } else if (at >= 0) {
    tasks.items[at] = { ...tasks.items[at], ...task };
  } else if (task.isNew) {
    // Ids sort by creation, newest first.
    const older = tasks.items.findIndex(known => known.id < task.id);
    tasks.items.splice(older < 0 ? tasks.items.length : older, 0, task);
    tasks.added += 1;
  }
}

function dropTask(id) {
  tasks.items = tasks.items.filter(task => task.id !== id);
}

// Events tell what others changed. Of a topic that is far behind they are old: then a task is not put back.
function tasksFromEvents(events) {
  for (const event of events) {
    if (!event.task_id || event.only_for) continue;
    if (event.type === "task.deleted") {
      dropTask(event.task_id);
    } else if (event.title !== null && ["task.created", "task.updated", "task.completed"].includes(event.type)) {
      const known = taskOf(event.task_id);
      if (known && known.changed && event.at < known.changed) continue;
      const isNew = event.type === "task.created" && !known;
      putTask({ id: event.task_id, title: event.title, status: event.status, owner_id: event.owner_id, isNew, ...(isNew && { created_at: event.at }) });
    }
  }
  if (tasks.added > MAX_ADDED) {
    Object.assign(tasks, { items: tasks.items.slice(0, PAGE_SIZE), added: 0 });
    readTasks(false);
  }
  showTasks();
}

function took(task, words) {
  putTask({ ...task, changed: task.updated_at });
  showTasks();
  announce(words);
}

async function advance(id) {
  const task = taskOf(id);
  if (!task) return;
  const isPending = task.status === "pending";
  try {
    const { json } = isPending
      ? await call("PATCH", "/tasks/" + id, { status: "in_progress" })
      : await call("POST", "/tasks/" + id + "/complete");
    took(json, json.title + ": " + statusWord(json.status));
  } catch (error) {
    fail(error, byId("tasks-note"));
  }
}

byId("create").addEventListener("submit", async event => {
  event.preventDefault();
  const input = byId("new-title");
  const button = event.submitter;
  const title = input.value;
  button.disabled = true;
  try {
    // The same key for a repeat: a click after a lost answer makes no second task.
    const { json } = await call("POST", "/tasks", { title }, { "idempotency-key": createKey(title) });
    create.key = null;
    input.value = "";
    setText(byId("tasks-note"), "");
    took({ ...json, isNew: true }, "Added: " + json.title);
  } catch (error) {
    if (error.status) create.key = null;
    fail(error, byId("tasks-note"));
  } finally {
    button.disabled = false;
    input.focus();
  }
});

const create = { key: null, title: null };
function createKey(title) {
  if (!create.key || create.title !== title) {
    const random = crypto.getRandomValues(new Uint8Array(16));
    create.key = [...random].map(byte => byte.toString(16).padStart(2, "0")).join("");
    create.title = title;
  }
  return '"' + create.key + '"';
}

let typing = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(readTasks, 250, false);
});
for (const radio of document.querySelectorAll("input[name=status]")) {
  radio.addEventListener("change", () => readTasks(false));
}
byId("task-more").addEventListener("click", async () => {
  const last = taskList.lastElementChild;
  await readTasks(true);
  const next = last && last.nextElementSibling;
  if (next) next.querySelector("button:not([hidden])").focus();
});

// Editing: the version that was read is the one that is changed.
const edit = { id: null, etag: null, task: null, confirmed: false };

async function openEdit(id) {
  try {
    const { json, etag } = await call("GET", "/tasks/" + id);
    Object.assign(edit, { id, etag, task: json, confirmed: false });
    byId("edit-name").value = json.title;
    byId("edit-status").value = json.status;
    byId("edit-owner").value = json.owner_id || "";
    byId("edit-problem").textContent = "";
    setText(byId("edit-delete"), "Delete …");
    byId("edit").showModal();
    byId("edit-name").focus();
  } catch (error) {
    if (error.status === 404) {
      dropTask(id);
      showTasks();
    }
    fail(error, byId("tasks-note"));
  }
}

byId("edit-form").addEventListener("submit", async event => {
  event.preventDefault();
  const change = {};
  const wanted = { title: byId("edit-name").value, status: byId("edit-status").value, owner_id: byId("edit-owner").value.trim() || null };
  for (const [field, value] of Object.entries(wanted)) {
    if (value !== edit.task[field]) change[field] = value;
  }
  try {
    const { json } = await call("PATCH", "/tasks/" + edit.id, change, { "if-match": edit.etag });
    byId("edit").close();
    took(json, "Saved: " + json.title);
  } catch (error) {
    if (error.status === 412) error = new Error("Somebody else changed this task meanwhile: close this, and edit it again.");
    fail(error, byId("edit-problem"));
  }
});

byId("edit-delete").addEventListener("click", async () => {
  if (!edit.confirmed) {
    edit.confirmed = true;
    setText(byId("edit-delete"), "Really delete it");
    return;
  }
  try {
    await call("DELETE", "/tasks/" + edit.id, undefined, { "if-match": edit.etag });
    byId("edit").close();
    dropTask(edit.id);
    showTasks();
    announce("Deleted: " + edit.task.title);
  } catch (error) {
    fail(error, byId("edit-problem"));
  }
});
