// The review page: what is selected, what the keys do, and what is shown of it.
import { carried, distance } from "./geometry.js";
import { Pane } from "./pane.js";
import { Recist } from "./recist.js";
import { Refused, pending, read, readState, send } from "./server.js";

const WORDS = { found: "found", low_confidence: "low confidence", not_found: "not found", outside_fov: "outside the view" };
const DECISIONS = { accepted: "✓ accepted", moved: "→ moved", rejected: "✕ rejected", lost: "∅ lost" };
const ENTRIES = { nodal: "node", finding: "RECIST entry", diameter: "diameter at baseline", new_lesion: "new lesion", day: "day" };
const FIELDS = [40, 800];
const POLL_MS = 4000;
const TYPED = "input:not([type=checkbox]):not([type=range]), select, textarea";
// Keys that go on while they are held down; a held Enter would decide on lesions that nobody saw.
const HELD = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", "+", "=", "-", "Tab"];

const $ = (id) => document.getElementById(id);
let state = null;
let windowsOfLesions = {};
let chosen = null;       // id of the lesion
let followup = 1;
let srProfile = null;    // as chosen on this page
let reader = localStorage.getItem("tlt-reader") || "";

/** What both panes share; a pane calls its on… functions. */
const page = {
  plane: "axial", field: 200, window: { name: "soft tissue", level: 40, width: 400 }, marksShown: true,
  linked: true, moving: false, drawing: null, ownWindow: true,
  onFocus(pane, point) {
    pane.focus = point;
    if (page.linked && lesion()) {
      const match = lesion().followups[followup - 1];
      if (pane === panes[0]) panes[1].focus = carried(match.link, point);
      else panes[0].focus = carried(match.back, point);
    }
    draw();
  },
  onWindow(level, width) {
    const w = page.window;
    setWindow({ name: "", level: w.level + level, width: Math.max(1, Math.min(w.width + width, 20000)) }, false);
  },
  onZoom(factor) { page.field = Math.min(Math.max(page.field * factor, FIELDS[0]), FIELDS[1]); $("fit").setAttribute("aria-pressed", "false"); draw(); },
  onClick(pane, point) {
    if (pane !== panes[1]) return;
    if (page.marking) { stopMoving(); recist.askNew(point.map((v) => Math.round(v * 1000) / 1000)); }
    else if (page.moving) placeAt(point);
    else if (page.drawing) addEnd(point);
  },
  onHover(pane, point) {
    const other = panes[pane === panes[0] ? 1 : 0];
    other.cursor = null;
    if (point && lesion() && other.sheet) {
      const match = lesion().followups[followup - 1];
      other.cursor = carried(pane === panes[0] ? match.link : match.back, point);
    }
    other.draw();
  },
  onTrouble(error) { $("saved").textContent = `picture: ${error.message}`; },
};
const recist = new Recist({
  get state() { return state; }, get lesion() { return lesion(); }, get followup() { return followup; },
  enter: (kind, id, value, at) => decide(kind, value, { of: { id, version: state.recist.versions[id] ?? 0 }, at }),
  choose(id, number) { setFollowup(number); select(id); },
  mark() { recist.toggle(false); startMarking(); },
});
const panes = [...document.querySelectorAll(".pane")].map((figure) => new Pane(figure, page));

const lesion = () => state?.lesions.find((one) => one.id === chosen);
const order = () => state.orders[followup - 1];
const ordered = () => order().map((id) => state.lesions.find((one) => one.id === id));
const draw = () => panes.forEach((pane) => pane.draw());
const isDecided = (one) => Boolean(one.followups[followup - 1].review);

// ---- what is shown -------------------------------------------------------------------------

/** Show a state, unless a newer one has come before it. */
function show(next) {
  if (state?.study === next.study && next.head < state.head) return;
  state = next;
  if (!state.lesions.some((one) => one.id === chosen)) chosen = null;
  showStudy(); showList(); showLesion(); showExports(); showWarnings(); recist.show();
}

function showStudy() {
  const [baseline, ...others] = state.images;
  const registration = others[followup - 1].registration;
  const likeness = registration.similarity === null ? "" : `, similarity ${registration.similarity.toFixed(2)}`;
  $("study").textContent = `${baseline.path} → ${others[followup - 1].path} · registration ${registration.ok ? "ok" : "doubtful"}${likeness} · tracker ${state.tracker}`;
  $("study").title = $("study").textContent;
  $("open-reader").textContent = reader || "Reader?";
  panes[0].corners.tl.textContent = `Baseline`;
  panes[1].corners.tl.textContent = others.length > 1 ? `Follow-up ${followup}` : "Follow-up";
  const group = $("followups");
  group.hidden = others.length < 2;
  group.replaceChildren(...others.map((image, place) =>
    button(`Follow-up ${place + 1}`, () => setFollowup(place + 1), { title: image.path, pressed: place + 1 === followup })));
  $("windows").replaceChildren(...state.windows.map((one, place) =>
    button(one.name[0].toUpperCase() + one.name.slice(1), () => setWindow(one, false),
      { title: `W ${one.width} L ${one.level} (${place + 1})`, pressed: one.name === page.window.name })));
}

function showList() {
  const lesions = ordered(), done = lesions.filter(isDecided).length;
  $("decided").textContent = `${done} of ${lesions.length} decided`;
  $("bar").max = lesions.length || 1; $("bar").value = done;
  const open = lesions.filter((one) => !isDecided(one) && one.followups[followup - 1].status !== "found").length;
  $("counts").textContent = open ? `${open} doubtful left` : "";
  const focused = document.activeElement?.dataset?.lesion;
  $("lesions").replaceChildren(...lesions.map(listItem));
  if (focused) itemOf(focused)?.focus({ preventScroll: true });
}

function listItem(one) {
  const match = one.followups[followup - 1], { review, tracked } = match;
  const share = tracked.status === "outside_fov" ? "–" : `${Math.round(100 * match.confidence)} %`;
  const item = document.createElement("li"), control = button("", () => select(one.id));
  control.dataset.lesion = one.id;
  control.setAttribute("aria-current", String(one.id === chosen));
  const name = span("name", "");
  const id = document.createElement("b");
  id.textContent = one.id;
  name.append(id, ` ${one.label}`);
  if (one.role !== "undecided") name.append(span("tag", one.role === "target" ? "target" : "non-target"));
  if (one.nodal) name.append(span("tag", "node"));
  const words = review ? `${review.by}${review.note ? " · " + review.note : ""}` : WORDS[match.status];
  const status = span(`status ${review ? "faint" : match.status}`, words);
  const mark = span(`mark ${review ? review.decision : ""}`, review ? DECISIONS[review.decision] : "");
  control.append(name, span(`share ${tracked.status}`, share), status, mark);
  const said = review ? `${review.decision} by ${review.by}` : "not decided";
  control.setAttribute("aria-label", `${one.id} ${one.label}, tracker: ${WORDS[tracked.status]}, confidence ${share}, ${said}`);
  item.append(control);
  return item;
}

function showLesion() {
  const one = lesion();
  for (const id of ["accept", "move", "reject", "lost", "measure"]) $(id).disabled = !one;
  if (!one) return;
  const match = one.followups[followup - 1], outside = match.tracked.center_mm === null;
  $("reject").disabled = outside;
  $("move").disabled = state.images[followup].status !== "ready";
  $("measure").disabled = $("move").disabled || !match.center_mm || ["rejected", "lost"].includes(match.review?.decision);
  $("name").textContent = `${one.id} ${one.label}`.trim();
  $("line").textContent = lineOf(match);
  $("line").className = match.review ? match.review.decision : match.status;
  $("size").textContent = sizeLine(one, match);
  for (const id of ["name", "line", "size"]) $(id).title = $(id).textContent;
  setField("role", one.role); setField("site", one.site); setField("note", match.review?.note ?? notes[noteKey()] ?? "");
  $("nodal").checked = one.nodal;
  $("note").disabled = !match.review;
  $("note").placeholder = match.review ? "" : "decide first";
  panes[0].marks = baselineMarks(one);
  panes[1].marks = page.drawing ? drawingMarks() : followupMarks(one, match);
  draw();
}

function lineOf(match) {
  const parts = [`tracker: ${WORDS[match.tracked.status]}`];
  if (match.tracked.status !== "outside_fov") parts[0] += `, ${Math.round(100 * match.confidence)} %`;
  if (match.review) {
    const at = new Date(match.review.at);
    parts.unshift(`${DECISIONS[match.review.decision]} by ${match.review.by}, ${at.toLocaleString([], { dateStyle: "short", timeStyle: "short" })}`);
    if (match.review.decision === "moved" && match.tracked.center_mm) {
      parts.push(`moved by ${distance(match.center_mm, match.tracked.center_mm).toFixed(1)} mm`);
    }
  } else if (match.prior_distance_mm !== null) {
    parts.push(`${match.prior_distance_mm.toFixed(1)} mm from where registration puts it`);
  }
  return parts.join(" · ");
}

function sizeLine(one, match) {
  const before = one.baseline.size ? `${axes(one.baseline.size)} mm` : `radius ${one.baseline.radius_mm.toFixed(1)} mm`;
  if (match.size) {
    const change = one.baseline.size ? 100 * (match.size.long_mm / one.baseline.size.long_mm - 1) : null;
    const who = match.size.by_reader ? ", drawn by the reader" : "";
    const percent = change === null ? "" : ` (${change > 0 ? "+" : ""}${change.toFixed(0)} %)`;
    const doubt = match.size.doubtful ? ` · look at it: ${match.size.note || "doubtful"}` : "";
    return `size: ${before} → ${axes(match.size)} mm${percent}${who}${doubt}`;
  }
  return `size: ${before} → ${match.size_note || (match.center_mm ? "not measured; d measures it" : "not measured")}`;
}

const axes = (size) => size.long_mm.toFixed(1) + (size.short_mm === null ? "" : ` × ${size.short_mm.toFixed(1)}`);

function baselineMarks(one) {
  return [{ kind: "sphere", center: one.baseline.center_mm, radius: one.baseline.radius_mm, tone: "baseline" },
    ...sizeMarks(one.baseline.size)];
}

function followupMarks(one, match) {
  const marks = [{ kind: "diamond", center: match.prior_center_mm, tone: "prior" }];
  const radius = match.radius_mm ?? one.baseline.radius_mm;
  const { tracked } = match;
  if (match.center_mm) {
    marks.push({ kind: "sphere", center: match.center_mm, radius, tone: match.status, dashed: match.radius_mm === null });
  }
  if (tracked.center_mm && match.center_mm && distance(tracked.center_mm, match.center_mm) > 0.01) {
    marks.push({ kind: "sphere", center: tracked.center_mm, radius: 1.5, tone: "tracked", dashed: true });
  }
  return [...marks, ...sizeMarks(match.size), ...recist.marks(followup)];
}

function sizeMarks(size) {
  if (!size) return [];
  const lines = [{ kind: "line", from: size.long_axis[0], to: size.long_axis[1], tone: "axis", text: `${axes(size)} mm` }];
  if (size.short_axis) lines.push({ kind: "line", from: size.short_axis[0], to: size.short_axis[1], tone: "axis" });
  return lines;
}

function showExports() {
  const { formats, stale, files } = state.exports;
  $("open-export").classList.toggle("stale", stale.length > 0);
  $("open-export").title = stale.length ? `older than the last decision: ${stale.join(", ")}` : "";
  $("export-state").textContent = stale.length
    ? `result.json has every decision; ${stale.length === 1 ? "one file is" : stale.length + " files are"} older than the last one.`
    : "result.json has every decision; the other files are up to date.";
  $("export-all").hidden = !stale.length;
  $("formats").replaceChildren(...formats.map((format) => {
    const item = document.createElement("li");
    const control = button(format.title, () => exportFormats([format.name], control));
    control.setAttribute("aria-label", `Export ${format.title}: ${format.content}`);
    item.append(control, span("faint", format.content));
    if (format.name === "dicom-sr") item.append(...undecidedNote(), profileChoice());
    return item;
  }));
  $("files").replaceChildren(...files.map((name) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = `/api/files/${encodeURIComponent(name)}`;
    link.download = name; link.textContent = name;
    item.append(link, span("faint", stale.includes(name) ? " (older)" : ""));
    return item;
  }));
}

/** A report gets its reader's name, and so counts as read, only when nothing is left open. */
function undecidedNote() {
  const matches = state.lesions.flatMap((one) => one.followups), open = matches.filter((one) => !one.review).length;
  return open && open < matches.length ? [span("low_confidence", `${open} not decided: no reader's name in the SR yet`)] : [];
}

/** Which form the DICOM SR has; the next export of any format writes it so. */
function profileChoice() {
  const { sr_profile, sr_profiles } = state.exports, words = { plain: "exact points", ohif: "for OHIF" };
  const made = document.createElement("select");
  made.id = "sr-profile";
  made.setAttribute("aria-label", "Profile of the DICOM SR");
  made.append(...sr_profiles.map((name) => new Option(words[name] ?? name, name, false, name === (srProfile ?? sr_profile))));
  made.addEventListener("change", () => { srProfile = made.value; });
  return made;
}

function showWarnings() {
  const key = JSON.stringify(state.warnings);
  if (!state.warnings.length || sessionStorage.getItem("tlt-read") === key || !$("alert").hidden) return;
  const list = document.createElement("ul");
  list.append(...state.warnings.map((text) => { const item = document.createElement("li"); item.textContent = text; return item; }));
  alertWith([list, button("Understood", () => { sessionStorage.setItem("tlt-read", key); $("alert").hidden = true; })]);
}

function alertWith(parts) {
  $("alert").replaceChildren(...parts);
  $("alert").hidden = false;
}

function say(text, pendingNow = false) {
  $("saved").textContent = text;
  $("saved").classList.toggle("pending", pendingNow);
}

// ---- what the reader does ------------------------------------------------------------------

/** Whether something is being typed or picked outside of dialogs. */
function typing() {
  const at = document.activeElement;
  return Boolean(at?.matches(TYPED) && at.checkVisibility() && !at.closest("dialog"));
}

/** Let go of what is being typed while it still belongs to the lesion and follow-up shown. */
function leaveField() {
  if (typing()) document.activeElement.blur();
}

function select(id) {
  if (id !== chosen) leaveField();
  stopMoving();
  chosen = id;
  const one = lesion();
  document.querySelectorAll("#lesions button").forEach((item) => item.setAttribute("aria-current", String(item.dataset.lesion === id)));
  itemOf(id)?.scrollIntoView({ block: "nearest" });
  if (page.ownWindow) ownWindow();
  center(one);
  showLesion();
  recist.show();
}

function itemOf(id) {
  return [...document.querySelectorAll("#lesions button")].find((item) => item.dataset.lesion === id);
}

function center(one) {
  panes[0].focus = [...one.baseline.center_mm];
  panes[1].focus = carried(one.followups[followup - 1].link, one.baseline.center_mm);
  draw();
}

function step(by, undecidedOnly = false) {
  const ids = order(), at = ids.indexOf(chosen);
  for (let k = 1; k <= ids.length; k += 1) {
    const id = ids[(at + by * k + ids.length * k) % ids.length];
    if (!undecidedOnly || !isDecided(state.lesions.find((one) => one.id === id))) { select(id); return; }
  }
  if (undecidedOnly) say("all lesions are decided");
}

async function decide(kind, value = null, { of = lesion(), at = followup } = {}) {
  if (!of) return false;
  if (!reader && !(await askReader())) return false;
  return change("/api/events", { kind, lesion_id: of.id, followup: at, value, by: reader, version: of.version });
}

/** Accept the match, or the place that another reader has moved it to; one's own move stands. */
async function accept() {
  const one = lesion(), review = one?.followups[followup - 1].review;
  if (review?.decision !== "moved" || review.by !== reader) return decide("accepted");
  say(`${one.id} stays where you moved it; u takes the move back`);
  return true;
}

async function change(path, content) {
  try {
    const answer = await send(path, content);
    show(answer.state);
    const { event, warning } = answer;
    const what = event.kind === "undone" ? "decision undone" : ENTRIES[event.kind] || event.kind;
    say(`${event.lesion_id || "study:"} ${what}, saved ${new Date(event.at).toLocaleTimeString()}`);
    if (warning) alertWith([span("", warning), button("Close", () => { $("alert").hidden = true; })]);
    return answer;
  } catch (error) {
    say("not saved", true);
    if (error instanceof Refused && error.code === 409) await conflict(error.content.event, path, content);
    else {
      alertWith([span("", `not saved: ${error.message}`), button("Close", () => { $("alert").hidden = true; })]);
      recist.show();
    }
    return false;
  }
}

async function conflict(event, path, content) {
  show(await readState());
  const id = content.lesion_id;
  if (state.lesions.some((one) => one.id === id) && !typing()) select(id);
  const when = new Date(event.at).toLocaleTimeString();
  const words = `${event.by} changed ${id || "the days"} at ${when} (${ENTRIES[event.kind] || event.kind}) while you looked at it. Yours (${ENTRIES[content.kind] || content.kind}) is not saved.`;
  const close = () => { $("alert").hidden = true; };
  // Two readers may name two lesions alike.
  const other = content.kind === "new_lesion" && content.version === 0 ? recist.freeName() : "";
  const again = other ? { ...content, lesion_id: other } : { ...content, version: state.recist.versions[id] ?? 0 };
  alertWith([span("", words),
    button("Keep theirs", close),
    button(other ? `Save mine as ${other}` : "Save mine after theirs", () => { close(); change(path, again); })]);
}

async function undo() {
  if (!reader && !(await askReader())) return;
  const answer = await change("/api/undo", { by: reader });
  if (answer && !state.lesions.some((one) => one.id === answer.event.lesion_id)) return;
  if (answer && answer.event.lesion_id !== chosen) {
    if (answer.event.followup && answer.event.followup !== followup) setFollowup(answer.event.followup);
    select(answer.event.lesion_id);
  } else if (answer) center(lesion());
}

function startMoving() {
  if (!lesion() || $("move").disabled) return;
  stopMoving();
  page.moving = panes[1].moving = true;
  panes[1].figure.classList.add("moving");
  panes[1].hint.textContent = "Click the lesion's centre · Esc leaves it";
  panes[1].hint.hidden = false;
  $("move").setAttribute("aria-pressed", "true");
  say("move: click the centre in the follow-up, or shift it with the arrows and press Enter; Escape leaves it");
  draw();
}

/** Wait for a click on a lesion that was not there at baseline. */
function startMarking() {
  if (state.images[followup].status !== "ready") { recist.askNew(); return; }
  stopMoving();
  page.marking = true;
  panes[1].figure.classList.add("moving");
  panes[1].hint.textContent = "Click the new lesion · Enter leaves its place out · Esc leaves it";
  panes[1].hint.hidden = false;
  say("new lesion: click it in the follow-up; Enter leaves its place out; Escape leaves it");
}

function startDrawing() {
  if (!lesion() || $("measure").disabled) return;
  stopMoving();
  setPlane("axial");
  page.drawing = [];
  panes[1].figure.classList.add("moving");
  $("measure").setAttribute("aria-pressed", "true");
  hintDrawing();
}

function hintDrawing() {
  const ends = page.drawing.length;
  const text = ends < 2 ? `Long axis: click its ${ends ? "other" : "first"} end · Esc leaves it`
    : `Short axis: click its ${ends === 3 ? "other" : "first"} end · Enter leaves it out`;
  panes[1].hint.textContent = text;
  panes[1].hint.hidden = false;
  say(text);
  showLesion();
}

function addEnd(point) {
  if (page.drawing.length && Math.abs(point[2] - page.drawing[0][2]) > 0.01) {
    say("both axes lie in one slice: go back to it, or press Esc and begin anew");
    return;
  }
  page.drawing.push(point.map((v) => Math.round(v * 1000) / 1000));
  if (page.drawing.length === 4) saveDrawing();
  else hintDrawing();
}

function saveDrawing() {
  const [a, b, c, d] = page.drawing;
  if (!b) return;
  const pair = d ? [[a, b], [c, d]] : [[a, b], null];
  // The longer one is the long axis, in whatever order they were drawn.
  if (d && distance(c, d) > distance(a, b)) pair.reverse();
  stopMoving();
  decide("size", { long_axis: pair[0], short_axis: pair[1] });
}

function drawingMarks() {
  const [a, b, c, d] = page.drawing, marks = [];
  if (b) marks.push({ kind: "line", from: a, to: b, tone: "axis", text: `${distance(a, b).toFixed(1)} mm` });
  else if (a) marks.push({ kind: "diamond", center: a, tone: "axis" });
  if (c && !d) marks.push({ kind: "diamond", center: c, tone: "axis" });
  return marks;
}

function stopMoving() {
  if (page.marking) {
    page.marking = false;
    panes[1].figure.classList.remove("moving");
    panes[1].hint.hidden = true;
    say("");
  }
  if (page.drawing) {
    page.drawing = null;
    $("measure").setAttribute("aria-pressed", "false");
    panes[1].figure.classList.remove("moving");
    panes[1].hint.hidden = true;
    say("");
    showLesion();
  }
  if (!page.moving) return;
  page.moving = panes[1].moving = false;
  panes[1].figure.classList.remove("moving");
  panes[1].hint.hidden = true;
  $("move").setAttribute("aria-pressed", "false");
  say("");
  draw();
}

async function placeAt(point) {
  stopMoving();
  if (await decide("moved", point.map((v) => Math.round(v * 1000) / 1000))) center(lesion());
}

function setWindow(one, own) {
  page.window = { name: one.name, level: one.level, width: one.width };
  page.ownWindow = own;
  [...$("windows").children].forEach((item, place) => item.setAttribute("aria-pressed", String(state.windows[place].name === one.name)));
  draw();
}

function ownWindow() {
  const one = state.windows.find((w) => w.name === windowsOfLesions[chosen]);
  if (one) setWindow(one, true);
}

function setPlane(name) {
  page.plane = name;
  const whole = $("fit").getAttribute("aria-pressed") === "true";
  document.querySelectorAll("#planes button").forEach((item) => item.setAttribute("aria-pressed", String(item.dataset.plane === name)));
  if (whole) { $("fit").setAttribute("aria-pressed", "false"); fit(); }
  draw();
}

function setFollowup(number) {
  if (number < 1 || number > state.orders.length || number === followup) return;
  leaveField();
  stopMoving();
  followup = number;
  panes[1].show(number, state.images[number]);
  loadImage(1);
  show(state);
  select(chosen ?? order()[0]);
}

function fit() {
  const whole = $("fit").getAttribute("aria-pressed") !== "true";
  $("fit").setAttribute("aria-pressed", String(whole));
  const sheet = panes[0].sheet || panes[1].sheet;
  page.field = whole && sheet ? Math.max(sheet.width, sheet.height) * sheet.pixel_mm : 200;
  if (whole && sheet) {
    const pane = panes[0].sheet ? panes[0] : panes[1], middle = [...pane.focus], p = sheet.plane;
    middle[p.right_axis] = sheet.left_mm + sheet.width * sheet.pixel_mm / 2;
    middle[p.down_axis] = (p.flip ? -1 : 1) * (sheet.top_mm + sheet.height * sheet.pixel_mm / 2);
    page.onFocus(pane, middle);
  } else if (lesion()) center(lesion());
}

function toggle(id, key) {
  page[key] = !page[key];
  $(id).setAttribute("aria-pressed", String(page[key]));
  if (id === "linked" && page.linked) page.onFocus(panes[1], panes[1].focus);
  draw();
}

const notes = {};
const noteKey = () => `${chosen}/${followup}`;

function setField(id, value) {
  // What is being typed is not taken away by news from another reader.
  if (document.activeElement !== $(id)) $(id).value = value;
}

async function exportFormats(formats, control, told = $("export-state")) {
  control.disabled = true;
  told.textContent = "writing …";
  try {
    const answer = await send("/api/export", { formats, sr_profile: srProfile });
    show(await readState());
    say(`written: ${answer.files.length} files in ${answer.folder}`);
    told.textContent = `Written: ${answer.files.length} files in the folder ${answer.folder}.`;
  } catch (error) {
    told.textContent = `not written: ${error.message}`;
    say("not written", true);
  }
  control.disabled = false;
}

async function showHistory() {
  const events = await read("/api/history");
  const undone = new Set(events.filter((e) => e.kind === "undone").map((e) => e.value));
  $("events").replaceChildren(...events.reverse().map((event) => {
    const row = document.createElement("tr");
    const value = event.value?.long_axis ? `of ${distance(...event.value.long_axis).toFixed(1)} mm` : event.value?.center_mm && event.kind === "moved" ? `to ${event.value.center_mm.join(", ")} mm` : entryWords(event);
    const what = event.kind === "undone" ? `undo of entry ${event.value}` : `${ENTRIES[event.kind] || event.kind} ${value}`;
    const where = [event.lesion_id, event.followup && state.orders.length > 1 ? `follow-up ${event.followup}` : ""].filter(Boolean).join(", ");
    for (const text of [new Date(event.at).toLocaleString(), event.by, where, what]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    row.classList.toggle("undone", undone.has(event.seq));
    return row;
  }));
  $("history").showModal();
}

/** The value of an entry in words. */
function entryWords({ kind, value }) {
  if (value === null) return ["finding", "diameter", "new_lesion", "day"].includes(kind) ? "taken back" : "";
  if (typeof value !== "object") return String(value);
  const mm = value.parts_mm ? `${value.parts_mm.join(" + ")} mm` : value.diameter_mm === undefined ? "" : `${value.diameter_mm} mm`;
  return [value.certainty, value.status?.replaceAll("_", " "), mm, value.site, value.note].filter(Boolean).join(", ");
}

function askReader() {
  $("reader-name").value = reader;
  $("ask-reader").showModal();
  return new Promise((done) => {
    $("ask-reader").addEventListener("close", () => {
      const name = $("reader-name").value.trim();
      if ($("ask-reader").returnValue === "ok" && name) {
        reader = name;
        localStorage.setItem("tlt-reader", name);
        $("open-reader").textContent = name;
      }
      done(Boolean(reader));
    }, { once: true });
  });
}

// ---- small parts ---------------------------------------------------------------------------

function button(text, action, { title = "", pressed = null } = {}) {
  const made = document.createElement("button");
  made.type = "button"; made.textContent = text; made.title = title;
  if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
  made.addEventListener("click", action);
  return made;
}

function span(name, text) {
  const made = document.createElement("span");
  made.className = name; made.textContent = text;
  return made;
}

/** Offer the three planes where WebGL is there; in software it may come up only after a while. */
function offer3d(again = 5) {
  const context = document.createElement("canvas").getContext("webgl2");
  if (context) {
    $("open-3d").hidden = false;
    context.getExtension("WEBGL_lose_context")?.loseContext();
  } else if (again) setTimeout(() => offer3d(again - 1), 3000);
}

const KEYS = {
  t: () => { stopMoving(); recist.toggle(); }, w: () => (page.marking ? stopMoving() : startMarking()),
  n: () => step(1), p: () => step(-1), a: accept, r: () => { if (!$("reject").disabled) decide("rejected"); },
  l: () => decide("lost"), m: () => (page.moving ? stopMoving() : startMoving()), d: () => (page.drawing ? stopMoving() : startDrawing()), u: undo, "?": () => $("help").showModal(),
  f: fit, h: () => toggle("marks", "marksShown"), k: () => toggle("linked", "linked"), c: () => lesion() && center(lesion()),
  v: () => { const names = ["axial", "coronal", "sagittal"]; setPlane(names[(names.indexOf(page.plane) + 1) % 3]); },
  "[": () => setFollowup(followup - 1), "]": () => setFollowup(followup + 1), "0": ownWindow,
  "+": () => page.onZoom(1 / 1.15), "=": () => page.onZoom(1 / 1.15), "-": () => page.onZoom(1.15),
  ArrowUp: () => panes[0].sheet ? panes[0].leaf(1) : panes[1].leaf(1),
  ArrowDown: () => panes[0].sheet ? panes[0].leaf(-1) : panes[1].leaf(-1),
  Enter: async () => {
    const at = noteKey();  // the reader may have gone on before the answer comes
    if (await accept() && at === noteKey() && !typing()) step(1, true);
  },
  Escape: stopMoving,
};

function whileMoving(event) {
  const pane = panes[1], far = event.shiftKey ? 5 : 1;
  const shift = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
  if (shift) {
    const axes_ = pane.sheet.plane, point = [...pane.middle];
    point[axes_.right_axis] += shift[0];
    point[axes_.down_axis] += axes_.flip ? -shift[1] : shift[1];
    page.onFocus(pane, point);
  } else if (event.key === "PageUp" || event.key === "PageDown") pane.leaf(event.key === "PageUp" ? 1 : -1);
  else if (event.key === "Enter") placeAt(pane.middle);
  else return false;
  return true;
}

function onKey(event) {
  const at = event.target;
  if ((at.checkVisibility() && at.matches(TYPED)) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.repeat && !HELD.includes(event.key)) { event.preventDefault(); return; }
  // Without the images there is nothing to decide on.
  if (recist.shown && !"nput?[]".includes(event.key)) { if (event.key === "Escape") recist.toggle(false); return; }
  if (page.marking && event.key === "Enter") { stopMoving(); recist.askNew(); event.preventDefault(); return; }
  if (page.moving && whileMoving(event)) { event.preventDefault(); return; }
  if (page.drawing && event.key === "Enter") { saveDrawing(); event.preventDefault(); return; }
  if (at.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.key === "Enter" && at.matches("button, a")) return;
  if (/^[1-9]$/.test(event.key) && state?.windows[event.key - 1]) setWindow(state.windows[event.key - 1], false);
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
}

function wire() {
  document.addEventListener("keydown", onKey);
  const clicks = {
    accept: KEYS.a, reject: KEYS.r, lost: KEYS.l, move: KEYS.m, measure: KEYS.d, undo, next: KEYS.n, previous: KEYS.p, fit,
    linked: KEYS.k, marks: KEYS.h, "open-recist": KEYS.t, "recist-close": KEYS.t, "new-here": KEYS.w,
    "recist-export": () => exportFormats(["recist"], $("recist-export"), $("recist-written")), "open-reader": askReader, "open-history": showHistory,
    "export-all": () => exportFormats(["json"], $("export-all")),
    "open-export": () => { showExports(); $("export").showModal(); }, "open-help": KEYS["?"], "open-3d": open3d, theme: nextTheme,
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  document.querySelectorAll("#planes button").forEach((item) => item.addEventListener("click", () => setPlane(item.dataset.plane)));
  $("facts").addEventListener("submit", (event) => event.preventDefault());
  const whole = (kind, value) => decide(kind, value, { at: null });
  // A list that keeps the focus takes the next key for its own.
  $("role").addEventListener("change", () => { $("role").blur(); whole("role", $("role").value); });
  $("site").addEventListener("change", () => whole("site", $("site").value));
  $("nodal").addEventListener("change", () => whole("nodal", $("nodal").checked));
  $("note").addEventListener("change", () => { notes[noteKey()] = $("note").value; decide("note", $("note").value); });
  pending.onChange = (count, text) => { if (text || count) say(text || "saving …", true); };
  addEventListener("beforeunload", (event) => { if (pending.count) event.preventDefault(); });
}

function nextTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
}

function setTheme(name) {
  if (!name) return;
  document.documentElement.dataset.theme = name;
  localStorage.setItem("tlt-theme", name);
}

async function open3d() {
  const one = lesion();
  if (!one) return;
  $("view3d").showModal();
  const match = one.followups[followup - 1];
  const say3d = (text) => { $("view3d-state").textContent = text; };
  try {
    const view = await import("/static/niivue/view3d.js");
    await view.show({
      canvases: [$("gl-baseline"), $("gl-followup")], images: [0, followup], window: page.window,
      points: [one.baseline.center_mm, carried(match.link, one.baseline.center_mm)],
      across: [(point) => carried(match.link, point), (point) => carried(match.back, point)],
      say: say3d,
    });
  } catch (error) {
    say3d(`the three planes cannot be shown here (${error.message}); the slices show everything`);
  }
}

async function loadImage(side) {
  const number = side ? followup : 0;
  panes[side].show(number, state.images[number]);
  if (state.images[number].status === "ready") return;
  try {
    state.images[number] = await read(`/api/images/${number}/sheet`);
  } catch (error) {
    state.images[number] = { ...state.images[number], status: "failed", message: error.message };
  }
  panes[side].show(number, state.images[number]);
  showLesion();
}

async function poll() {
  try {
    const next = await readState();
    if (next.study !== state.study) { location.reload(); return; }
    const news = (key) => JSON.stringify(next[key]) !== JSON.stringify(state[key]);
    if (next.head !== state.head || news("exports") || news("recist")) {
      next.images.forEach((image, place) => { if (image.status !== "ready") next.images[place] = state.images[place]; });
      show(next);
    }
    if (page.away) { page.away = false; say("tlt review answers again"); }
  } catch (error) {
    page.away = true;
    if (!pending.count) say(error instanceof Refused ? error.message : "tlt review does not answer; what you decided is saved", true);
  }
  setTimeout(poll, POLL_MS);
}

async function begin() {
  setTheme(localStorage.getItem("tlt-theme"));
  wire();
  state = await readState();
  reader = state.reader || reader;
  show(state);
  const first = ordered().find((one) => !isDecided(one)) ?? ordered()[0];
  const windows = read("/api/windows").then((told) => { windowsOfLesions = told; ownWindow(); }).catch(() => null);
  if (!first) { say("this study has no lesions"); return; }
  // The window is known as soon as the baseline is; asked first, so that no slice is drawn twice.
  await Promise.race([windows, new Promise((done) => setTimeout(done, 50))]);
  select(first.id);
  loadImage(0); loadImage(1);
  if (!reader) askReader();
  if (state.has_3d) setTimeout(offer3d, 300);
  setTimeout(poll, POLL_MS);
}

begin().catch((error) => alertWith([span("", `the review cannot be shown: ${error.message}`)]));
