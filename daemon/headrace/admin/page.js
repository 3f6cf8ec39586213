// The live part of the page: what the server makes anew takes the place of what is there, and keys and acts work.
// Nothing is made of text here: the server's HTML is already escaped, and all that is said of acts goes in as text.
"use strict";

const view = document.getElementById("view");
const said = document.getElementById("said");
const dialog = document.querySelector("dialog");
const form = dialog.querySelector("form");

// Only what differs is touched, so that focus, selection and what is being typed stay.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || key(old) !== key(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeName === "FORM" && old.contains(document.activeElement)) return;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
}

function key(node) { return node.dataset?.key ?? ""; }

function children(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) if (key(child)) keyed.set(key(child), child);
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const same = key(next) ? keyed.get(key(next)) : undefined;
    if (same && same !== at && same.parentNode === old) { old.insertBefore(same, at); at = same; }
    if (!at || (key(next) && !same)) { old.insertBefore(next, at); continue; }
    const after = at.nextSibling;
    morph(at, next);
    at = after;
  }
  while (at) { const after = at.nextSibling; at.remove(); at = after; }
}

function show(html) {
  const fresh = document.createElement("main");
  fresh.innerHTML = html;
  children(view, fresh);
}

function watch() {
  const events = new EventSource(view.dataset.source);
  events.onmessage = (event) => { document.body.classList.remove("stale"); show(JSON.parse(event.data).html); };
  events.onerror = () => {
    document.body.classList.add("stale");
    if (events.readyState === EventSource.CLOSED) setTimeout(watch, 2000);
  };
  addEventListener("pagehide", () => events.close(), { once: true });
}

// Acts: asked for twice, sent as JSON, and what came of it is said.

function tell(text) {
  said.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { said.textContent = ""; }, 8000);
}

async function act(path, reason) {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(reason) });
    const reply = await answer.json();
    tell(answer.ok ? reply.done : `Refused: ${reply.error?.message ?? answer.status}`);
  } catch (error) {
    tell("The daemon cannot be reached.");
  }
}

view.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (!button) return;
  document.getElementById("what").textContent = `${button.getAttribute("aria-label")}?`;
  dialog.dataset.path = button.dataset.path;
  dialog.classList.toggle("holds", button.dataset.act === "hold");
  form.reset();
  dialog.showModal();
});

document.getElementById("leave").addEventListener("click", () => dialog.close(""));

dialog.addEventListener("close", () => {
  if (dialog.returnValue !== "do") return;
  const asked = { reason: form.elements.reason.value };
  if (dialog.classList.contains("holds")) {
    if (form.elements.for_s.value) asked.for_s = Number(form.elements.for_s.value);
    asked.refuse = form.elements.refuse.checked;
  }
  act(dialog.dataset.path, asked);
  dialog.returnValue = "";
});

// Keys.

function step(by) {
  const rows = [...view.querySelectorAll("tbody tr")];
  const at = rows.indexOf(document.activeElement?.closest("tr"));
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") view.focus();
    return;
  }
  const link = document.querySelector(`nav a[data-hotkey="${CSS.escape(event.key)}"]`);
  if (link) { link.click(); return; }
  if (event.key === "j" || event.key === "ArrowDown" && event.target.closest("tr")) { event.preventDefault(); step(1); }
  if (event.key === "k" || event.key === "ArrowUp" && event.target.closest("tr")) { event.preventDefault(); step(-1); }
  if (event.key === "Enter" && event.target.matches("tr")) event.target.querySelector("a, button")?.click();
  if (event.key === "/") { event.preventDefault(); document.getElementById("filter")?.focus(); }
});

watch();
