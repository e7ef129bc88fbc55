// What the rater sees and types. The server alone knows which image comes next; this page shows it and sends answers.

const at = (id) => document.getElementById(id);
const session = crypto.randomUUID();
const SCORES = { local_score: at("local"), global_score: at("global") };
const CAPTIONS = { original: "the original", hole: "where the hole was" };
const ALIVE_MS = 10000, AGAIN_MS = 1000;

let who = null; // {rater, session, mode} once a name was given
let state = null; // the server's last word
let busy = false;
let calling = false;

// --- the server

// Until the server has an answer: what does not get through is sent again, and it takes nothing twice.
async function ask(what, more = {}) {
  for (let isLost = false; ; ) {
    let reply;
    try {
      reply = await fetch(`/api/${what}`, { method: "POST", body: JSON.stringify({ ...who, ...more }) });
    } catch {
      isLost = true;
      notice("The server does not answer. No answer is lost; trying again\u2026");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      continue;
    }
    const words = await reply.json().catch(() => ({ error: `The server failed (${reply.status}); see its terminal.` }));
    if (!reply.ok) throw new Error(words.error ?? `The server failed (${reply.status}).`);
    if (isLost || what !== "alive") notice("");
    return words;
  }
}

// One thing at a time: what is typed before the next image is seen counts for nothing.
async function go(what, more) {
  if (busy) return;
  busy = true;
  document.body.dataset.busy = "";
  try {
    await show(await ask(what, more));
  } catch (error) {
    notice(error.message);
  } finally {
    busy = false;
    delete document.body.dataset.busy;
  }
}

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

// --- what is shown

async function show(next) {
  state = next;
  at("progress").hidden = false;
  at("bar").max = state.num_all;
  at("bar").value = state.num_done;
  at("count").textContent = `${state.num_done} of ${state.num_all}`;
  at("done-count").textContent = state.num_done;
  for (const button of document.querySelectorAll(".undo")) button.disabled = state.num_done === 0;
  for (const id of ["start", "score", "photograph", "done"]) at(id).hidden = id !== section();
  at("again").textContent = who.mode === "score" ? "Which one is the photograph?" : "Score filled images";
  const images = { score: ["filled", "original", "hole"], photograph: ["left", "right"] }[section()] ?? [];
  if (section() === "score") {
    hold(null);
    for (const [name, slider] of Object.entries(SCORES)) score(slider, state[name]);
    SCORES.local_score.focus({ preventScroll: true });
  }
  try {
    await Promise.all(images.map(load));
  } catch {
    // The server went away, or came back with other images.
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    await show(await ask("enter"));
  }
}

function section() {
  return state === null ? "start" : state.trial === null ? "done" : who.mode;
}

function load(which) {
  const shown = at(which).querySelector("img") ?? at(which);
  shown.src = `/image/${who.mode}/${encodeURIComponent(state.rater)}/${state.trial}/${which}.png`;
  return shown.decode();
}

function score(slider, value) {
  const scale = slider.closest(".scale");
  scale.classList.toggle("unset", value === null);
  slider.value = value ?? 5;
  slider.setAttribute("aria-valuetext", value ?? "not rated yet");
  at(`${slider.id}-value`).textContent = value ?? "\u2013";
  at("next").disabled = given() === null;
}

// Both scores, or null while one is missing.
function given() {
  const sliders = Object.entries(SCORES);
  if (sliders.some(([, slider]) => slider.closest(".scale").classList.contains("unset"))) return null;
  return Object.fromEntries(sliders.map(([name, slider]) => [name, Number(slider.value)]));
}

function hold(which) {
  if (which) at("stage").dataset.show = which;
  else delete at("stage").dataset.show;
  at("caption").textContent = CAPTIONS[which] ?? "filled";
}

// --- what the rater does

function submit() {
  const scores = given();
  if (scores) go("answer", { trial: state.trial, ...scores });
}

function choose(side) {
  go("answer", { trial: state.trial, side });
}

// Sent again, it is told from one more by how many answers there were.
function undo() {
  go("undo", { num_done: state.num_done });
}

function enter(rater, mode) {
  who = { rater, session, mode };
  go("enter");
}

at("start").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  enter(form.get("name"), form.get("mode"));
});
at("again").addEventListener("click", () => enter(who.rater, who.mode === "score" ? "photograph" : "score"));
at("next").addEventListener("click", submit);
for (const button of document.querySelectorAll(".undo")) button.addEventListener("click", undo);
for (const side of ["left", "right"]) at(side).addEventListener("click", () => choose(side));
for (const slider of Object.values(SCORES)) {
  // A click where the thumb already is changes nothing, and is meant all the same.
  for (const kind of ["input", "click"]) slider.addEventListener(kind, () => score(slider, Number(slider.value)));
}
for (const button of document.querySelectorAll("[data-show]:is(button)")) {
  button.addEventListener("pointerdown", () => hold(button.dataset.show));
  for (const kind of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(kind, () => hold(null));
  button.addEventListener("contextmenu", (event) => event.preventDefault());
}

const HELD = { o: "original", h: "hole" };

addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isUndo = key === "u" && !event.ctrlKey && !event.metaKey || key === "z" && (event.ctrlKey || event.metaKey);
  if (section() === "start" || event.altKey || (event.ctrlKey || event.metaKey) && !isUndo) return;
  if (isUndo) {
    if (!event.repeat && state.num_done) undo();
  } else if (section() === "score") {
    if (!scoreKey(key, event)) return;
  } else if (section() === "photograph" && (key === "ArrowLeft" || key === "ArrowRight")) {
    if (!event.repeat) choose(key === "ArrowLeft" ? "left" : "right");
  } else return;
  event.preventDefault();
});

// Whether the key means anything where images are scored.
function scoreKey(key, event) {
  const { local_score: local, global_score: whole } = SCORES;
  const active = document.activeElement === whole ? whole : local;
  if (HELD[key]) hold(HELD[key]);
  else if (busy) return true;
  else if (/^[0-9]$/.test(key) && !event.repeat) {
    score(active, Number(key) || 10);
    whole.focus({ preventScroll: true });
  } else if (key === "ArrowUp" || key === "ArrowDown") (key === "ArrowUp" ? local : whole).focus({ preventScroll: true });
  else if (key === "ArrowLeft" || key === "ArrowRight") {
    active.focus({ preventScroll: true });
    const step = active.closest(".scale").classList.contains("unset") ? 0 : key === "ArrowLeft" ? -1 : 1;
    score(active, Math.min(10, Math.max(1, Number(active.value) + step)));
  } else if (key === "Enter" && event.target.tagName !== "BUTTON") {
    if (!event.repeat) submit();
  } else return false;
  return true;
}

addEventListener("keyup", (event) => HELD[event.key.toLowerCase()] && hold(null));
addEventListener("blur", () => hold(null));
// The name is free again once the page is closed; a page that cannot say so is forgotten after a while.
addEventListener("pagehide", () => who && navigator.sendBeacon("/api/leave", JSON.stringify(who)));
setInterval(async () => {
  if (state === null || busy || calling) return;
  calling = true;
  await ask("alive").catch((error) => notice(error.message));
  calling = false;
}, ALIVE_MS);
