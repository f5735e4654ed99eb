// What does the lab's page do? It asks how the run stands every few seconds, until it is paused, and shows it.
// Everything is set as text, but for our own charts.

const token = location.hash.slice(1);
const byId = (id) => document.getElementById(id);
const EVERY_MS = 2000;
const STATES = {
  answered: "answered", asked: "asked, no answer yet", late: "late", refused: "refused", absent: "not connected", unseen: "no answer so far",
};

let state = null;
let paused = false;
let timer = null;

async function ask() {
  let response;
  try {
    response = await fetch("/api/state", { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
  } catch {
    throw new Error("The program behind this page has ended: start `bioface lab dashboard` again. What is shown is old.");
  }
  const content = await response.json().catch(() => ({ error: `The program failed (status ${response.status}).` }));
  if (!response.ok) throw new Error(content.error);
  return content;
}

async function look() {
  clearTimeout(timer);
  try {
    state = await ask();
    say("");
    show();
  } catch (error) {
    say(error.message);
  }
  document.body.dataset.ready = "";
  if (!paused) timer = setTimeout(look, EVERY_MS);
}

function say(text) {
  byId("alert").hidden = !text;
  if (byId("alert").textContent !== text) byId("alert").textContent = text;
}

// --- showing

function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const cell = (text, className = "") => node("td", { className, textContent: text ?? "–" });
const number = (text) => cell(text, "number");
// Short enough for a telephone: a run takes hours or days, so the year is no news.
const clock = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const moment = (iso) => (iso ? clock.format(new Date(iso)) : "–");

function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text; // else a screen reader would say it again
}

function show() {
  setText("study", `· ${state.study}`);
  document.title = `${state.headline} – ${state.study}`;
  setText("headline", state.headline);
  byId("track").style.setProperty("--share", Math.max(0, state.done) / state.planned);
  setText("fresh", fresh());
  showFigures();
  showHospitals();
  byId("budget").replaceChildren(...state.budget.map((text) => node("li", { textContent: text })));
  showRounds();
  showJournal();
}

function fresh() {
  return `${Math.max(0, state.done)} of ${state.planned} rounds done; ${state.heard}${paused ? "; this page is paused" : ""}.`;
}

function showFigures() {
  const facts = [
    ["Macro Top-1", state.top1], ["Macro Top-3", state.top3], ["Held-out patients", state.patients],
    ["Seconds, last round", state.seconds], ["Sent in all", state.down], ["Received in all", state.up],
  ];
  byId("figures").replaceChildren(...facts.map(([name, value]) => node("div", {}, node("dt", { textContent: name }), node("dd", { textContent: value ?? "–" }))));
  if (byId("curves").dataset.round === String(state.done)) return;
  byId("curves").dataset.round = state.done;
  const titles = ["Macro Top-1", "Macro Top-3", state.loss_title];
  byId("curves").replaceChildren(...state.curves.map((chart, place) => {
    const figure = node("figure", {}, node("figcaption", { textContent: titles[place] }));
    figure.insertAdjacentHTML("beforeend", chart); // ours, made of numbers
    return figure;
  }));
}

function showHospitals() {
  byId("hospitals").replaceChildren(...state.hospitals.map((one) => node("tr", {},
    node("th", { scope: "row", textContent: one.name }),
    cell(STATES[one.state] + (one.code && one.code !== one.state ? ` (${one.code})` : ""), `state ${one.state}`),
    number(one.rounds), number(one.left_out), cell(moment(one.last)))));
}

function showRounds() {
  byId("rounds").replaceChildren(...state.rounds.map((one) => node("tr", {},
    node("th", { scope: "row", className: "number", textContent: one.round }),
    number(one.top1), number(one.loss), number(one.answered),
    cell(Object.entries(one.refused).map(([name, code]) => `${name}: ${code}`).join(", ") || "nobody"),
    number(one.seconds), number(one.up))));
}

function showJournal() {
  const words = byId("words").value.trim().toLowerCase();
  const wanted = state.journal.filter((line) => (!byId("alarming").checked || line.alarming) && line.text.toLowerCase().includes(words));
  setText("shown", `${wanted.length} of ${state.journal_lines} lines, latest first${state.journal_lines > state.journal.length ? `; the last ${state.journal.length} are searched` : ""}.`);
  byId("journal").replaceChildren(...wanted.map((line) => node("tr", { className: line.alarming ? "alarming" : "" },
    node("td", { className: "when", textContent: moment(line.time) }), node("td", { textContent: line.text }))));
}

// --- the start

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) clearTimeout(timer);
  else look();
  if (state) setText("fresh", fresh());
});
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", () => { if (state) showJournal(); });
look();
