// What does the clinic's page do? It holds one patient's faces and signs, asks for an answer when they change, and shows it.
// Everything that comes from outside is set as text, never as markup.

const token = location.hash.slice(1);
const byId = (id) => document.getElementById(id);
const SHOWN = 5; // syndromes, until more are asked for

let model = null;
let photos = []; // {id, name, look, problem}; look and problem are null while it is being looked at
let signs = []; // {hpo, label, present}
let answer = null;
let explained = null; // {syndrome, name, overlays, regions}
let all = false; // whether the whole ranking is shown
let asked = 0; // number of the latest question: what comes back to an older one is dropped
let nextId = 0;

// --- asking

async function ask(path, body) {
  const options = { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  if (body) options.headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The program behind this page has ended: start `bioface clinic` again.");
  }
  const content = await response.json().catch(() => ({ error: `The program failed (status ${response.status}).` }));
  if (!response.ok) throw new Error(content.error);
  return content;
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) {
    text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  }
  return btoa(text);
}

const facesOf = (list) => list.map((photo) => photo.look.face.split(",")[1]);
const usable = () => photos.filter((photo) => photo.look && !photo.look.reason);

// --- photos

async function addFiles(files) {
  say("");
  for (const file of files) {
    if (photos.length >= model.most_photos) {
      say(`At most ${model.most_photos} photos of a patient: ${file.name} is left out.`);
      break;
    }
    const photo = { id: nextId++, name: file.name || "pasted photo", look: null, problem: null };
    photos.push(photo);
    showPhotos();
    await lookAt(photo, file);
    if (!photos.includes(photo)) continue; // removed in the meantime
    showPhotos();
  }
  await update();
}

async function lookAt(photo, file) {
  const most = model.largest_photo;
  if (file.size > most) {
    photo.problem = `larger than ${Math.floor(most / 2 ** 20)} MiB: export it smaller`;
    return;
  }
  try {
    photo.look = await ask("/api/look", { photo: await base64(file) });
    const twin = usable().find((other) => other !== photo && other.look.face === photo.look.face);
    if (twin) photo.look.reason = "duplicate";
  } catch (error) {
    photo.problem = error.message;
  }
}

function removePhoto(photo) {
  photos = photos.filter((other) => other !== photo);
  showPhotos();
  byId("files").focus();
  update();
}

// --- the answer

async function update() {
  const mine = ++asked;
  explained = null;
  const list = usable();
  byId("working").textContent = list.length ? "Asking the model …" : "";
  try {
    const found = list.length ? await ask("/api/answer", { faces: facesOf(list), ...found_signs() }) : null;
    if (mine !== asked) return;
    answer = found;
  } catch (error) {
    if (mine !== asked) return;
    answer = null;
    say(error.message);
  }
  byId("working").textContent = "";
  showAnswer();
}

const found_signs = () => ({
  present: signs.filter((sign) => sign.present).map((sign) => sign.hpo),
  absent: signs.filter((sign) => !sign.present).map((sign) => sign.hpo),
});

async function explain(one) {
  if (explained && explained.syndrome === one.key) {
    explained = null;
    return showExplanation();
  }
  const mine = asked;
  const list = usable();
  byId("working").textContent = `Looking for what speaks for ${one.name} …`;
  try {
    const found = await ask("/api/explain", { faces: facesOf(list), syndrome: one.key });
    if (mine === asked) explained = { ...found, syndrome: one.key, name: one.name, faces: list.map((p) => p.look.face) };
  } catch (error) {
    say(error.message);
  }
  byId("working").textContent = "";
  showExplanation();
}

// --- signs

function addSign(text, present) {
  const typed = text.trim().toLowerCase();
  const hpo = typed.match(/hp:\d{7}/)?.[0];
  const term = model.terms.find((one) => one.hpo.toLowerCase() === (hpo ?? typed) || one.label.toLowerCase() === typed);
  if (!term) {
    byId("term-help").textContent = typed ? `No sign of that name is known: choose one from the list.` : "Type a sign first.";
    return;
  }
  signs = [...signs.filter((sign) => sign.hpo !== term.hpo), { ...term, present }];
  byId("term-help").textContent = `${term.label} ${present ? "is there" : "is not there"}.`;
  byId("term").value = "";
  showSigns();
  update();
}

function removeSign(sign) {
  signs = signs.filter((other) => other !== sign);
  byId("term-help").textContent = `${sign.label} is taken back.`;
  showSigns();
  byId("term").focus();
  update();
}

// --- showing

function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`);

function bar(share, kind) {
  const made = node("span", { className: `bar ${kind}` });
  made.setAttribute("aria-hidden", "true");
  made.style.setProperty("--share", share ?? 0);
  return made;
}

function say(text) {
  byId("alert").textContent = text;
  byId("alert").hidden = !text;
}

function showPhotos() {
  byId("photos").replaceChildren(...photos.map(photoItem));
}

function photoItem(photo) {
  const { look, problem, name } = photo;
  const waiting = !look && !problem;
  const picture = look?.face
    ? node("img", { src: look.face, alt: "The face that was found, aligned", width: 112, height: 112 })
    : node("span", { className: "blank" });
  const verdict = waiting ? "looking …" : problem ?? (look.reason ? `Not usable: ${look.reason}` : "Usable");
  const facts = node("div", {}, node("p", { className: "name", textContent: name }), node("p", { className: "verdict", textContent: verdict }));
  if (look?.reason) facts.append(node("p", { className: "how", textContent: [look.detail, model.advice[look.reason]].filter(Boolean).join(". ") }));
  else if (look?.quality) facts.append(node("p", { className: "how", textContent: qualityWords(look.quality) }));
  const remove = node("button", { type: "button", className: "plain screen-only", textContent: "Remove", onclick: () => removePhoto(photo) });
  remove.setAttribute("aria-label", `Remove ${name}`);
  return node("li", { className: waiting ? "waiting" : problem || look.reason ? "refused" : "usable" }, picture, facts, remove);
}

function qualityWords({ eye_distance_px, yaw_deg, blur }) {
  const gate = model.gate;
  const size = eye_distance_px < 1.5 * gate.eye_distance_px ? "small" : "large enough";
  const turn = Math.abs(yaw_deg) > 0.6 * gate.yaw_deg ? "turned aside" : "from the front";
  const sharp = blur > 0.85 * gate.blur ? "a little blurred" : "sharp";
  return `${size} (${Math.round(eye_distance_px)} pixels between the eyes), ${turn} (${Math.round(Math.abs(yaw_deg))}°), ${sharp}`;
}

function showSigns() {
  byId("chosen").replaceChildren(
    ...signs.map((sign) => {
      const remove = node("button", { type: "button", className: "plain", textContent: "Remove", onclick: () => removeSign(sign) });
      remove.setAttribute("aria-label", `Remove ${sign.label}`);
      const words = node("span", {}, node("span", { className: sign.present ? "present" : "absent", textContent: sign.label }), ` – ${sign.present ? "is there" : "is not there"} `, node("span", { className: "ids", textContent: sign.hpo }));
      return node("li", {}, words, remove);
    }),
  );
}

function ordered() {
  if (!answer.updated.length) return answer.ranking.map((one) => ({ ...one, after: null }));
  const known = new Map(answer.ranking.map((one) => [one.key, one]));
  return answer.updated.map((one) => ({ ...known.get(one.key), after: one.after, moved: one.moved }));
}

function headline() {
  if (!photos.length) return ["No photo yet", "Choose a photo that shows the whole face from the front."];
  if (photos.some((photo) => !photo.look && !photo.problem)) return ["Looking at the photos …", ""];
  if (!answer) return ["No photo can be used", "Beside each photo stands why, and what helps."];
  const rests = `Rests on ${answer.photos} ${answer.photos === 1 ? "photo" : "photos"}${answer.updated.length ? ` and ${signs.length} ${signs.length === 1 ? "sign" : "signs"}` : ""}.`;
  if (answer.answer !== "ranked") {
    return ["No syndrome recognised", `The face is farther from every syndrome than nearly all patients are. That does not mean that the patient is healthy. Below is what would have come first. ${rests}`];
  }
  const first = ordered()[0];
  const chance = first.after ?? first.probability;
  const sure = chance === null ? "" : `: ${percent(chance)}, if it is one of those below`;
  return [`${chance !== null && chance < 0.5 ? "Perhaps" : "Most likely"} ${first.name}${sure}`, rests];
}

function showAnswer() {
  const [title, under] = headline();
  byId("headline").textContent = title;
  byId("under").textContent = under;
  byId("ranked").hidden = !answer;
  byId("ranked").classList.toggle("unsure", answer?.answer !== "ranked");
  byId("print").disabled = !answer;
  byId("printed").textContent = `Printed ${new Date().toLocaleString()}. Model ${model.study}. ${model.caveats[0]}`;
  if (answer) showRanking();
  showMoves();
  showNeighbours();
  showExplanation();
}

function showRanking() {
  const list = ordered();
  const withTerms = answer.updated.length > 0;
  for (const heading of document.querySelectorAll(".terms-only")) heading.hidden = !withTerms;
  const rows = (all ? list : list.slice(0, SHOWN)).map((one) => {
    const ids = [one.omim && `OMIM\u00a0${one.omim}`, one.orpha && `ORPHA\u00a0${one.orpha}`, one.entries && `gallery, ${one.entries} ${one.entries === 1 ? "photo" : "photos"}`].filter(Boolean).join(" · ");
    const name = node("th", { scope: "row" }, one.name, node("span", { className: "ids", textContent: ids }));
    const cells = [node("td", { className: "chance" }, node("span", { className: "value", textContent: percent(one.probability) }), bar(one.probability, "by-photo"))];
    if (withTerms) {
      const way = one.after > one.probability * 1.02 ? "up" : one.after < one.probability / 1.02 ? "down" : "";
      cells.push(node("td", { className: "chance" }, node("span", { className: `value ${way}`, textContent: percent(one.after) }), bar(one.after, "with-terms")));
    }
    const button = node("button", { type: "button", className: "second", textContent: "Show", onclick: () => explain(one) });
    button.dataset.key = one.key;
    button.setAttribute("aria-label", `Heat map for ${one.name}`);
    return node("tr", {}, name, ...cells, node("td", { className: "shown" }, button));
  });
  byId("ranking").replaceChildren(...rows);
  byId("more").hidden = list.length <= SHOWN;
  byId("more").textContent = all ? `Show the first ${SHOWN}` : `Show all ${list.length}`;
  byId("more").setAttribute("aria-expanded", String(all));
  markExplained();
}

function markExplained() {
  for (const button of document.querySelectorAll(".shown button")) {
    button.setAttribute("aria-pressed", String(explained?.syndrome === button.dataset.key));
  }
}

function showMoves() {
  const first = answer?.updated.length ? ordered().slice(0, 3) : [];
  byId("moved").hidden = !first.length;
  const lines = first.flatMap((one) => one.moved.map((move) => {
    const known = move.frequency === null ? "nobody knows how often it has that" : `${percent(move.frequency)} have that`;
    const word = move.factor > 1.02 ? "for" : move.factor < 0.98 ? "against" : "neither for nor against";
    return node("li", { textContent: `${move.label} ${move.present ? "is there" : "is not there"}: speaks ${word} ${one.name} (odds × ${move.factor.toFixed(2)}; ${known})` });
  }));
  byId("moves").replaceChildren(...lines);
}

function showNeighbours() {
  const near = answer?.neighbours ?? [];
  byId("near").hidden = !near.length;
  byId("neighbours").replaceChildren(...near.map((one) => node("li", { textContent: `${one.name}, cosine ${one.cosine.toFixed(2)}${one.local ? " – must stay in this hospital" : ""}` })));
}

function showExplanation() {
  byId("why").hidden = !explained;
  markExplained();
  if (!explained) return;
  byId("why-title").textContent = `What speaks for ${explained.name}`;
  byId("overlays").replaceChildren(
    ...explained.overlays.map((overlay, number) => node("figure", {}, node("div", { className: "pair" },
      node("img", { src: explained.faces[number], alt: "The aligned face" }),
      node("img", { src: overlay, alt: `Heat map on the face; strongest: ${explained.regions[0]?.name ?? "nowhere"}` })))),
  );
  const fall = (one) => -Math.log(one.factor);
  const most = Math.max(...explained.regions.map((one) => Math.abs(fall(one))), 1e-9);
  byId("regions").replaceChildren(
    ...explained.regions.map((one) => node("tr", {}, node("th", { scope: "row", textContent: one.name }),
      node("td", { textContent: `${one.term} (${one.hpo})` }),
      node("td", { className: "chance" }, node("span", { className: "value", textContent: `× ${one.factor.toFixed(2)}` }), bar(Math.max(0, fall(one)) / most, "by-photo")))),
  );
}

// --- the start

function listen() {
  const files = byId("files");
  files.addEventListener("change", async () => {
    const chosen = [...files.files];
    files.value = ""; // so that the same file may be chosen again
    await addFiles(chosen);
  });
  const drop = byId("drop");
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over-it"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over-it"));
  document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over-it"); addFiles(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) addFiles(event.clipboardData.files); });
  byId("term-form").addEventListener("submit", (event) => { event.preventDefault(); addSign(byId("term").value, event.submitter?.value !== "absent"); });
  byId("more").addEventListener("click", () => { all = !all; showRanking(); });
  byId("print").addEventListener("click", () => window.print());
  byId("clear").addEventListener("click", () => { photos = []; signs = []; answer = null; all = false; say(""); byId("term-help").textContent = ""; showPhotos(); showSigns(); update(); byId("files").focus(); });
}

async function start() {
  try {
    model = await ask("/api/model");
  } catch (error) {
    byId("files").disabled = byId("term").disabled = true;
    return say(error.message);
  }
  byId("model").textContent = `· model ${model.study} · ${model.syndromes} syndromes${model.gallery ? ` and ${model.gallery} of the gallery` : ""}`;
  byId("terms").append(...model.terms.map((term) => node("option", { value: term.label, textContent: term.hpo })));
  byId("caveats").append(...model.caveats.map((line) => node("li", { textContent: line })));
  listen();
  document.body.dataset.ready = "yes";
}

start();
