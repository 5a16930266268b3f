// One image of the page: a slice on a canvas, marks as SVG over it, and what the mouse does there.
import { moved, nearest, place, position } from "./geometry.js";

const KEPT = 160;  // decoded slices
const SVG = "http://www.w3.org/2000/svg";

/** Slices that were fetched, the least recently used dropped first. */
class Slices {
  constructor() { this.bitmaps = new Map(); this.asked = new Map(); }

  get(url) {
    const bitmap = this.bitmaps.get(url);
    if (bitmap) { this.bitmaps.delete(url); this.bitmaps.set(url, bitmap); }
    return bitmap;
  }

  fetch(url) {
    if (!this.asked.has(url)) {
      this.asked.set(url, this._fetch(url).finally(() => this.asked.delete(url)));
    }
    return this.asked.get(url);
  }

  async _fetch(url) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error((await answer.json()).error);
    const bitmap = await createImageBitmap(await answer.blob());
    this.bitmaps.set(url, bitmap);
    if (this.bitmaps.size > KEPT) this.bitmaps.delete(this.bitmaps.keys().next().value);
    return bitmap;
  }
}

/**
 * A pane shows `image` (number of the server) about `focus` (LPS mm). The page is told what the
 * reader does: onFocus(point), onWindow(dLevel, dWidth), onZoom(factor), onClick(point), onHover.
 */
export class Pane {
  constructor(figure, page) {
    this.figure = figure; this.page = page; this.slices = new Slices();
    this.image = null; this.sheets = null; this.focus = [0, 0, 0]; this.marks = []; this.cursor = null;
    this.moving = false; this.failed = 0; this.first = null;
    this._build();
    this._listen();
    new ResizeObserver(() => this.draw()).observe(this.stage);
  }

  get sheet() { return this.sheets?.[this.page.plane]; }

  get index() { return nearest(this.sheet, this.focus); }

  /** The slice that is seen: while the next one is on its way, still the one before. */
  get seen() { return this.drawn?.sheet === this.sheet ? this.drawn.index : this.index; }

  /** Pixels a millimetre. */
  get scale() {
    const box = this.stage.getBoundingClientRect();
    return Math.min(box.width, box.height) / this.page.field || 1;
  }

  /** Another image; `facts` is what the server says of it. */
  show(number, facts) {
    const sheets = facts.status === "ready" ? facts.sheets : null;
    if (number !== this.image) { this.slices = new Slices(); this.drawn = null; }
    this.image = number; this.sheets = sheets; this.facts = facts;
    const waiting = facts.status === "failed" ? facts.message : "reading the image …";
    this.message.hidden = Boolean(sheets);
    this.message.textContent = sheets ? "" : waiting;
    this.message.classList.toggle("wrong", facts.status === "failed");
    this.slider.hidden = !sheets;
    this.draw();
  }

  /** Draw what is there now, and ask for what is not. */
  draw() {
    if (!this.sheet) { this.svg.replaceChildren(); this._words(); return; }
    const url = this._url(this.index);
    const bitmap = this.slices.get(url);
    if (bitmap) this.drawn = { bitmap, index: this.index, sheet: this.sheet };
    else this._ask(url);
    this._paint();
    this._draw_marks();
    this._words();
    if (bitmap) this._prefetch();
  }

  /** Leave out slices: a positive count goes towards the patient's head, left or back. */
  leaf(count) {
    const sheet = this.sheet;
    if (!sheet) return;
    const index = Math.min(Math.max(this.index + count, 0), sheet.count - 1);
    const step = position(sheet, index) - this.focus[sheet.normal_axis];
    this.page.onFocus(this, moved(sheet.plane, this.focus, 0, 0, step));
  }

  /** The point of the drawn slice under a place of the screen. */
  point(clientX, clientY) {
    const box = this.stage.getBoundingClientRect(), s = this.scale;
    const point = [...this.focus];
    point[this.sheet.normal_axis] = position(this.sheet, this.seen);
    return moved(this.sheet.plane, point,
      (clientX - box.left - box.width / 2) / s, (clientY - box.top - box.height / 2) / s);
  }

  /** The point in the middle of the drawn slice. */
  get middle() {
    const point = [...this.focus];
    point[this.sheet.normal_axis] = position(this.sheet, this.seen);
    return point;
  }

  async _ask(url) {
    // One at a time: while the wheel turns, slices that were passed by are not asked for.
    if (this.asking) return;
    this.asking = true;
    try {
      await this.slices.fetch(url);
      this.failed = 0;
    } catch (error) {
      this.failed += 1;
      this.page.onTrouble(error);
    }
    this.asking = false;
    if (this.failed) setTimeout(() => this.draw(), 1500);
    else this.draw();
  }

  _prefetch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      for (const step of [1, -1, 2, -2]) {
        if (!this.sheet) return;
        const index = this.index + step;
        if (index < 0 || index >= this.sheet.count) continue;
        const url = this._url(index);
        if (!this.slices.get(url)) await this.slices.fetch(url).catch(() => null);
      }
    }, 150);
  }

  _url(index) {
    const { level, width } = this.page.window;
    const query = new URLSearchParams({ plane: this.page.plane, index, level, width });
    return `/api/images/${this.image}/slice?${query}`;
  }

  _paint() {
    const box = this.stage.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    const width = Math.round(box.width * ratio), height = Math.round(box.height * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width; this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (this.drawn?.sheet !== this.sheet) return;
    const { bitmap, sheet } = this.drawn, s = this.scale * ratio;
    const [right, down] = place(sheet.plane, this.focus);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (sheet.left_mm - right) * s + width / 2,
      (sheet.top_mm - down) * s + height / 2, sheet.width * sheet.pixel_mm * s,
      sheet.height * sheet.pixel_mm * s);
    if (this.first === null) {
      this.first = performance.now();
      this.figure.dataset.firstPicture = this.first.toFixed(0);
    }
    this.figure.dataset.slice = this.drawn.index;
  }

  _draw_marks() {
    const box = this.stage.getBoundingClientRect(), s = this.scale;
    const [right, down] = place(this.sheet.plane, this.focus);
    const w = box.width / s, h = box.height / s;
    this.svg.setAttribute("viewBox", `${right - w / 2} ${down - h / 2} ${w} ${h}`);
    const shapes = this.page.marksShown ? this.marks.flatMap((mark) => this._shape(mark, s)) : [];
    if (this.cursor) shapes.push(...this._cross(this.cursor, "cursor", 5 / s, 0));
    if (this.moving) shapes.push(...this._cross(this.middle, "target", 12 / s, 3 / s));
    this.svg.replaceChildren(...shapes);
  }

  /** How far a point is from the drawn slice. */
  _off(point) {
    return Math.abs(point[this.sheet.normal_axis] - position(this.sheet, this.seen));
  }

  _shape(mark, s) {
    const near = this.sheet.step_mm / 2 + 0.01;
    if (mark.kind === "sphere") {
      const off = this._off(mark.center);
      // A lesion thinner than a slice is still seen in its own slice.
      const radius = Math.sqrt(Math.max(mark.radius ** 2 - off ** 2, off <= near ? 1 : 0));
      if (!radius) return [];
      const [cx, cy] = place(this.sheet.plane, mark.center);
      const dashed = mark.dashed ? " dashed" : "";
      const shapes = both("circle", { cx, cy, r: radius }, mark.tone + dashed);
      if (mark.text) shapes.push(caption(mark.text, cx + radius + 6 / s, cy - radius - 4 / s, s));
      return off <= near ? [...shapes, ...this._ticks(mark, radius, s)] : shapes;
    }
    if (mark.kind === "diamond") {
      if (this._off(mark.center) > near) return [];
      const [x, y] = place(this.sheet.plane, mark.center), r = 6 / s;
      return both("path", { d: `M${x - r} ${y}L${x} ${y - r}L${x + r} ${y}L${x} ${y + r}Z` }, mark.tone);
    }
    if (Math.max(this._off(mark.from), this._off(mark.to)) > near + 0.5) return [];
    const [x1, y1] = place(this.sheet.plane, mark.from), [x2, y2] = place(this.sheet.plane, mark.to);
    const lines = both("line", { x1, y1, x2, y2 }, mark.tone);
    if (mark.text) lines.push(caption(mark.text, Math.max(x1, x2) + 6 / s, (x1 > x2 ? y1 : y2) + 4 / s, s));
    return lines;
  }

  /** Short lines that point at the middle and leave the lesion free. */
  _ticks(mark, radius, s) {
    const [x, y] = place(this.sheet.plane, mark.center), a = radius + 5 / s, b = a + 13 / s;
    const d = `M${x - b} ${y}H${x - a}M${x + a} ${y}H${x + b}M${x} ${y - b}V${y - a}M${x} ${y + a}V${y + b}`;
    return both("path", { d }, mark.tone);
  }

  _cross(point, tone, arm, gap) {
    const [x, y] = place(this.sheet.plane, point), a = gap, b = gap + arm;
    const d = `M${x - b} ${y}H${x - a}M${x + a} ${y}H${x + b}M${x} ${y - b}V${y - a}M${x} ${y + a}V${y + b}`;
    return both("path", { d }, tone);
  }

  _words() {
    const sheet = this.sheet;
    for (const side of this.sides) side.hidden = !sheet;
    this.corners.tr.hidden = this.corners.bl.hidden = this.corners.br.hidden = !sheet;
    if (!sheet) return;
    const index = this.seen, axis = "xyz"[sheet.normal_axis];
    const where = `${axis} ${position(sheet, index).toFixed(1)} mm`;
    this.corners.tr.textContent = `slice ${index + 1} of ${sheet.count} · ${where}`;
    const { name, level, width } = this.page.window;
    this.corners.bl.textContent = `${name ? name + " · " : ""}W ${Math.round(width)} L ${Math.round(level)}`;
    this.sides.forEach((side, i) => { side.textContent = sheet.plane.letters[i]; });
    const length = this.page.field < 120 ? 10 : this.page.field < 300 ? 20 : 50;
    this.bar.style.width = `${length * this.scale}px`;
    this.bar_text.textContent = `${length} mm`;
    this.slider.max = sheet.count - 1;
    this.slider.value = this.index;
    this.slider.setAttribute("aria-valuetext", `slice ${index + 1} of ${sheet.count}, ${where}`);
  }

  _build() {
    const name = this.figure.getAttribute("aria-label");
    this.stage = this._add("div", "stage", this.figure);
    this.canvas = this._add("canvas", "", this.stage);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${name}, CT slice`);
    this.svg = element("svg", { "aria-hidden": "true" });
    this.stage.append(this.svg);
    this.corners = {};
    for (const at of ["tl", "tr", "bl", "br"]) this.corners[at] = this._add("div", `corner ${at}`, this.stage);
    this.bar = this._add("i", "", this.corners.br);
    this.bar_text = this._add("span", "", this.corners.br);
    this.sides = ["l", "r", "t", "b"].map((at) => this._add("div", `side ${at}`, this.stage));
    this.message = this._add("div", "message", this.stage);
    this.hint = this._add("div", "hint", this.stage);
    this.hint.hidden = true;
    this.slider = this._add("input", "", this.figure);
    Object.assign(this.slider, { type: "range", min: 0, step: 1 });
    this.slider.setAttribute("aria-label", `${name}: slice`);
  }

  _add(tag, name, parent) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    parent.append(made);
    return made;
  }

  _listen() {
    const stage = this.stage;
    this.slider.addEventListener("input", () => this.leaf(Number(this.slider.value) - this.index));
    stage.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this._down(event));
    stage.addEventListener("pointermove", (event) => this._hover(event));
    stage.addEventListener("pointerleave", () => this.page.onHover(this, null));
  }

  _wheel(event) {
    event.preventDefault();
    if (event.ctrlKey) { this.page.onZoom(event.deltaY > 0 ? 1.15 : 1 / 1.15); return; }
    // A notch of a wheel is a slice; a touch pad sends many small steps.
    this.turned = (this.turned || 0) + event.deltaY * (event.deltaMode ? 40 : 1);
    const notch = Math.abs(event.deltaY) >= 50 || event.deltaMode ? Math.sign(this.turned) : Math.trunc(this.turned / 40);
    if (!notch) return;
    this.turned = 0;
    this.leaf(-notch);
  }

  _hover(event) {
    if (!this.sheet || this.drag) return;
    this.page.onHover(this, this.point(event.clientX, event.clientY));
  }

  _down(event) {
    if (event.button !== 0 || !this.sheet) return;
    this.stage.setPointerCapture(event.pointerId);
    const start = { x: event.clientX, y: event.clientY, shift: event.shiftKey, far: false };
    this.drag = start;
    this.page.onHover(this, null);
    const move = (at) => {
      const dx = at.clientX - start.x, dy = at.clientY - start.y;
      // A hand that clicks moves the mouse by a pixel or two.
      if (!start.far && Math.hypot(dx, dy) < 4) return;
      start.far = true;
      this.stage.classList.add("dragging");
      start.x = at.clientX; start.y = at.clientY;
      if (start.shift) this.page.onWindow(dy * 2, dx * 4);
      else this.page.onFocus(this, moved(this.sheet.plane, this.focus, -dx / this.scale, -dy / this.scale));
    };
    const up = (at) => {
      this.stage.removeEventListener("pointermove", move);
      this.stage.classList.remove("dragging");
      this.drag = null;
      if (at.type === "pointerup" && !start.far && !start.shift) {
        this.page.onClick(this, this.point(at.clientX, at.clientY));
      }
    };
    this.stage.addEventListener("pointermove", move);
    this.stage.addEventListener("pointerup", up, { once: true });
    this.stage.addEventListener("pointercancel", up, { once: true });
  }
}

function caption(words, x, y, s) {
  const text = element("text", { x, y });
  text.style.fontSize = `${12 / s}px`;
  text.textContent = words;
  return text;
}

function element(tag, attributes, name) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (name) made.setAttribute("class", name);
  return made;
}

/** A shape with a dark edge under it, so that it is seen on bright tissue too. */
function both(tag, attributes, tone) {
  return [element(tag, attributes, "edge"), element(tag, attributes, `m ${tone}`)];
}
