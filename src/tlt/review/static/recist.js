// RECIST 1.1 beside the images: the table as it stands now, and what the reader enters for it.
import { read } from "./server.js";

const $ = (id) => document.getElementById(id);
const CERTAINTIES = { unequivocal: "unequivocal", equivocal: "equivocal", absent: "not there (any more)" };

/**
 * The tab and its fields. `page` gives state, lesion and followup as they are now, and takes what
 * the reader does: enter(kind, id, value, at), choose(id, followup), mark().
 */
export class Recist {
  constructor(page) {
    this.page = page; this.head = null; this.told = null; this.center = null;
    this._wire();
  }

  get shown() { return !$("recist").hidden; }

  toggle(on = !this.shown) {
    $("recist").hidden = !on;
    document.querySelector("main").classList.toggle("assessing", on);
    $("open-recist").setAttribute("aria-pressed", String(on));
    if (on) this.show();
  }

  /** Show what the page's state says; the assessment is asked for where it is older. */
  show() {
    if (this.head !== this.page.state.head) this._ask();
    this._fields(); this._days(); this._new(); this._highlight();
  }

  /** New lesions of a follow-up that were marked, for the image. */
  marks(followup) {
    const marked = Object.entries(this.page.state.recist.new_lesions[followup - 1]);
    return marked.filter(([, one]) => one.center_mm && one.certainty !== "absent").map(([id, one]) =>
      ({ kind: "sphere", center: one.center_mm, radius: 4, tone: "new", text: `new: ${id}` }));
  }

  /** Ask for the particulars of a new lesion, with its place (LPS) or without. */
  askNew(center = null) {
    this.center = center;
    $("new-id").value = this.freeName();
    $("new-site").value = ""; $("new-note").value = "";
    $("new-place").textContent = center
      ? `In follow-up ${this.page.followup}, marked at ${center.map((v) => v.toFixed(0)).join(", ")} mm.`
      : `In follow-up ${this.page.followup}; its place is not marked.`;
    $("new-mark").hidden = Boolean(center);
    $("new-lesion").showModal();
    $("new-site").focus();
  }

  /** A name that no lesion has. */
  freeName() {
    const { lesions, recist } = this.page.state;
    const taken = new Set([...lesions.map((one) => one.id), ...Object.keys(recist.versions)]);
    for (let k = 1; ; k += 1) if (!taken.has(`X${k}`)) return `X${k}`;
  }

  async _ask() {
    const wanted = this.page.state.head;
    if (this.asked === wanted) return;
    this.asked = wanted;
    try {
      this.told = await read("/api/recist");
      this.head = this.told.head;
      this._table(); this._fields();
    } catch (error) {
      this._error(`the assessment cannot be shown: ${error.message}`);
    }
    this.asked = null;
    if (this.page.state.head > this.head) this._ask();
  }

  _error(text) {
    $("recist-error").textContent = text;
    $("recist-error").hidden = !text;
  }

  _table() {
    const { told } = this;
    this._error(told.error);
    $("recist-found").hidden = Boolean(told.error);
    if (told.error) { this._badge(); return; }
    // Made by the server, which escapes what readers typed.
    $("recist-table").innerHTML = told.table;
    for (const row of document.querySelectorAll("#recist-table tr[data-lesion]")) {
      row.title = "Click: choose it";
      row.addEventListener("click", (event) => {
        const column = event.target.closest("td, th").cellIndex;
        this.page.choose(row.dataset.lesion, Math.max(column - 1, 1) === column - 1 ? column - 1 : this.page.followup);
      });
    }
    this._highlight();
  }

  _badge() {
    const point = this.told && !this.told.error ? this.told.points[this.page.followup - 1] : null;
    const { response, words } = point?.overall ?? { response: "", words: "" };
    $("recist-now").textContent = response ? ` ${response}${point.preliminary ? " ?" : ""}` : "";
    $("recist-now").className = response;
    $("open-recist").title = response
      ? `Follow-up ${this.page.followup}: ${words}${point.preliminary ? ", preliminary" : ""} (t)` : "RECIST 1.1 (t)";
  }

  _highlight() {
    this._badge();
    const { lesion, followup } = this.page;
    for (const row of document.querySelectorAll("#recist-table tr")) {
      const here = row.dataset.lesion !== undefined && row.dataset.lesion === lesion?.id;
      row.classList.toggle("chosen", here);
      [...row.cells].forEach((cell, column) => cell.classList.toggle("here", here && column === followup + 1));
    }
    if (!this.told || this.told.error) return;
    const { points, best, confirmed, confirmed_note, progression, preliminary, notices } = this.told;
    const point = points[followup - 1];
    $("recist-chips").replaceChildren(
      chip(`Follow-up ${followup}`, point.overall, point.preliminary),
      chip("From baseline", { response: point.from_baseline ?? "–", words: "sum of targets" }),
      chip("Best response", best, preliminary),
      chip("Confirmed", confirmed ?? { response: "–", words: "needs the days", title: confirmed_note }),
      chip("Progression", { response: progression ? `follow-up ${progression}` : "none", words: progression ? "first seen" : "up to now" }));
    const parts = [["Targets", point.target], ["Non-targets", point.non_target], ["Overall", point.overall]];
    $("recist-why").replaceChildren(...parts.filter(([, d]) => d.response !== "NA").flatMap(([name, decided]) =>
      [text("dt", `${name}: ${decided.response}`), why(decided)]));
    list("recist-needs", point.needs_review);
    $("recist-needs-title").hidden = !point.needs_review.length;
    $("recist-needs-title").textContent = `To be looked at in follow-up ${followup}`;
    list("recist-notices", notices);
  }

  _fields() {
    const { lesion, followup, state } = this.page;
    $("entry").hidden = !lesion;
    if (!lesion) return;
    const several = state.orders.length > 1 ? ` in follow-up ${followup}` : "";
    $("entry-title").textContent = `${lesion.id}${several}`;
    const finding = state.recist.findings[followup - 1][lesion.id];
    const progression = $("finding").querySelector("[value=unequivocal_progression]");
    progression.hidden = progression.disabled = this.told?.parts?.[lesion.id] === "target";
    set("finding", finding?.status ?? (finding ? "diameter" : ""));
    set("finding-mm", finding?.parts_mm?.join(" + ") ?? finding?.diameter_mm ?? "");
    set("baseline-mm", state.recist.diameters[lesion.id] ?? "");
    const axis = lesion.nodal ? "short axis" : "long axis";
    $("finding-mm-label").textContent = `Diameter, mm (${axis})`;
    $("baseline-mm-label").textContent = `At baseline, mm (${axis})`;
    $("baseline-mm").placeholder = baselineOf(lesion);
    $("finding-mm").placeholder = measuredOf(lesion.followups[followup - 1], lesion.nodal);
    $("entry-by").textContent = finding ? `entered by ${finding.by}` : "";
    this._needMm();
  }

  _needMm() {
    const needs = ["", "diameter", "present", "unequivocal_progression"].includes($("finding").value);
    $("finding-mm").disabled = !needs;
  }

  _days() {
    const { days, days_told } = this.page.state.recist;
    if (typingIn("days")) return;
    $("days").replaceChildren(...days.map((day, place) => {
      const row = text("div", ""), id = `day-${place + 1}`;
      row.className = "field";
      const label = text("label", `Follow-up ${place + 1}`), input = document.createElement("input");
      label.htmlFor = input.id = id;
      Object.assign(input, { type: "number", min: 0, step: 1, value: day ?? "", placeholder: "day" });
      input.addEventListener("change", () => this._day(place, input.value));
      row.append(label, input);
      if (day === null && days_told[place] > 0) {
        const use = button(`${days_told[place]} by the images`, () => this._day(place, days_told[place]));
        use.setAttribute("aria-label", `Day of follow-up ${place + 1}: ${days_told[place]}, by the images`);
        row.append(use);
      }
      return row;
    }));
  }

  _day(place, value) {
    this.page.enter("day", "", value === "" ? null : Number(value), place + 1);
  }

  /** The new lesions up to this follow-up, with what holds now. */
  _new() {
    const { followup, state } = this.page, found = new Map();
    state.recist.new_lesions.slice(0, followup).forEach((told, place) => {
      for (const [id, one] of Object.entries(told)) {
        found.set(id, { ...found.get(id), ...one, id, since: found.get(id)?.since ?? place + 1, here: place + 1 === followup });
      }
    });
    if (typingIn("new-lesions")) return;
    $("new-lesions").replaceChildren(...[...found.values()].map((one) => this._newItem(one)));
    $("new-none").hidden = found.size > 0;
  }

  _newItem(one) {
    const item = document.createElement("li"), choice = document.createElement("select");
    const since = one.since < this.page.followup ? `since follow-up ${one.since}` : "";
    const name = text("b", one.id);
    item.append(name, text("span", [one.site, since, one.note].filter(Boolean).join(", ")));
    choice.setAttribute("aria-label", `Certainty of new lesion ${one.id}`);
    choice.append(...Object.entries(CERTAINTIES).map(([key, words]) => new Option(words, key, false, key === one.certainty)));
    const { site = "", note = "", center_mm = null } = one;
    choice.addEventListener("change", () => {
      choice.blur();
      this.page.enter("new_lesion", one.id, { site, note, center_mm: one.here ? center_mm : null, certainty: choice.value }, this.page.followup);
    });
    item.append(choice);
    if (one.here) {
      const remove = button("×", () => this.page.enter("new_lesion", one.id, null, this.page.followup));
      remove.setAttribute("aria-label", `Take back new lesion ${one.id}`);
      remove.title = "Take this entry back";
      item.append(remove);
    }
    return item;
  }

  _enterFinding() {
    const status = $("finding").value, typed = $("finding-mm").value.trim();
    this._needMm();
    let value = null;
    if (["too_small", "absent", "not_evaluable"].includes(status)) value = { status };
    else if (status === "diameter" && !typed) { $("finding-mm").focus(); return; }
    else if (typed || status) value = { ...(status && status !== "diameter" ? { status } : {}), ...(typed ? diameter(typed) : {}) };
    this.page.enter("finding", this.page.lesion.id, value, this.page.followup);
  }

  _wire() {
    $("finding").addEventListener("change", () => {
      if ($("finding").value === "") $("finding-mm").value = "";
      if ($("finding").value === "diameter" && !$("finding-mm").value) {
        this._needMm(); $("finding-mm").focus();
      } else {
        $("finding").blur();  // or it takes the next key for its own
        this._enterFinding();
      }
    });
    $("finding-mm").addEventListener("change", () => {
      if (!$("finding-mm").value.trim() && $("finding").value === "diameter") $("finding").value = "";
      this._enterFinding();
    });
    $("baseline-mm").addEventListener("change", () => {
      const typed = $("baseline-mm").value.trim();
      this.page.enter("diameter", this.page.lesion.id, typed ? number(typed) : null, null);
    });
    $("entry").addEventListener("submit", (event) => event.preventDefault());
    $("add-new").addEventListener("click", () => this.askNew());
    $("new-mark").addEventListener("click", () => { $("new-lesion").close(); this.page.mark(); });
    $("new-cancel").addEventListener("click", () => $("new-lesion").close());
    $("new-lesion").querySelector("form").addEventListener("submit", () => {
      const certainty = $("new-lesion").querySelector("[name=certainty]:checked").value;
      this.page.enter("new_lesion", $("new-id").value.trim(), {
        certainty, site: $("new-site").value, note: $("new-note").value, center_mm: this.center,
      }, this.page.followup);
    });
  }
}

const number = (typed) => {
  const value = Number(typed.trim().replace(",", "."));
  return Number.isFinite(value) && typed.trim() ? value : typed;
};

/** `12 + 7.5` are the diameters of parts. */
function diameter(typed) {
  const parts = typed.split("+").map(number);
  return parts.length > 1 ? { parts_mm: parts } : { diameter_mm: parts[0] };
}

function baselineOf(lesion) {
  const { size, radius_mm } = lesion.baseline;
  const value = size ? (lesion.nodal ? size.short_mm : size.long_mm) : lesion.nodal ? null : 2 * radius_mm;
  return value === null ? "not measured" : `${value.toFixed(1)} measured`;
}

function measuredOf(match, nodal) {
  const value = nodal ? match.size?.short_mm : match.size?.long_mm;
  return value ? `${value.toFixed(1)} measured` : "not measured";
}

function typingIn(id) {
  return $(id).contains(document.activeElement) && document.activeElement.matches("input, select");
}

function set(id, value) {
  // What is being typed is not taken away.
  if (document.activeElement !== $(id) || $(id).tagName === "SELECT") $(id).value = value;
}

function list(id, lines) {
  $(id).replaceChildren(...lines.map((line) => text("li", line)));
}

function why(decided) {
  const made = text("dd", decided.because ? `${decided.because}. ` : "");
  const rule = text("span", decided.rule);
  rule.className = "faint";
  made.append(rule);
  return made;
}

/** A response with its words; a question mark where a reader must look first. */
function chip(name, { response, words, title = words }, preliminary = false) {
  const made = text("li", name), strong = text("b", `${response}${preliminary ? " ?" : ""}`), faint = text("span", words);
  strong.className = response; faint.className = "faint";
  made.title = `${title}${preliminary ? ", preliminary" : ""}`;
  made.append(strong, faint);
  return made;
}

function button(words, action) {
  const made = text("button", words);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function text(tag, words) {
  const made = document.createElement(tag);
  made.textContent = words;
  return made;
}
