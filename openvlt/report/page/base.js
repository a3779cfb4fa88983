// What every part of the page uses: elements, text, pictures, the address.
"use strict";

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);

const CONTROLS = {
  "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO", "\u2066": "LRI",
  "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\u200e": "LRM", "\u200f": "RLM", "\u061c": "ALM",
};
const SIGNS = { correct: "✓", wrong: "✗", no_answer: "∅", unparsed: "?", timeout: "⏱" };
const VERDICTS = Object.keys(SIGNS);

/** The text with control characters that turn its direction replaced by their names. */
function plain(text) {
  return String(text).replace(/[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]/g, (c) => `⟦${CONTROLS[c]}⟧`);
}

/** An element. `props` are attributes, `on…` listeners and `class`; children are elements or text. */
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
  return node;
}

const number = (value, digits = 3) =>
  value === null || value === undefined ? "–"
    : typeof value !== "number" ? String(value)
      : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(digits - 1)
        : Number(value.toPrecision(Math.max(digits, 3))).toLocaleString("en", { maximumFractionDigits: 6 });
const signed = (value, digits = 2) => value === null ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
const moment = (seconds) => (seconds ? new Date(1000 * seconds).toLocaleString() : "–");

function verdictMark(verdict, short) {
  const name = (verdict || "none").replace("_", " ");
  const word = el("b", { class: `verdict is-${verdict || "none"}`, title: name }, SIGNS[verdict] || "·");
  if (!short) word.append(` ${name}`);
  return word;
}

// --- pictures: parsed when the first one is shown ---------------------------------------------------------

let shelf = null;
function pictureShelf() {
  if (!shelf) shelf = byId("pictures") ? JSON.parse(byId("pictures").textContent) : { items: [], outside: 0 };
  return shelf;
}

/** The pictures of a row, or why there is none. */
function pictures(numbers, className) {
  const items = (numbers || []).map((n) => pictureShelf().items[n]).filter(Boolean);
  if (!items.length) return el("span", { class: `${className} nopicture`, title: "no picture was kept" }, className === "thumb" ? "no picture" : "no picture was kept");
  return el("span", { class: className }, items.map((item) => item.missing
    ? el("span", { class: "nopicture" }, item.missing)
    : el("img", {
      src: item.src, loading: "lazy", decoding: "async", width: item.w, height: item.h,
      alt: "picture of the question", class: item.small ? "small" : null,
    })));
}

/** A response with its thinking and its answer set apart. */
function responseText(text) {
  const box = el("pre", { class: "response" });
  let rest = plain(text);
  const tag = /<(think|answer)>([\s\S]*?)(<\/\1>|$)/;
  for (let found = tag.exec(rest); found; found = tag.exec(rest)) {
    box.append(rest.slice(0, found.index), el("span", { class: found[1] }, found[0]));
    rest = rest.slice(found.index + found[0].length);
  }
  box.append(rest);
  return box;
}

/** How the verdict was reached, one line per step, as `python -m openvlt.verify` prints it. */
function explanation(lines) {
  if (!lines || !lines.length) return null;
  return el("dl", { class: "why" }, lines.filter((line) => !line.startsWith("verdict")).flatMap((line) => [
    el("dt", {}, line.slice(0, 18).trim()), el("dd", {}, line.slice(18)),
  ]));
}

function select(label, options, value, change) {
  const list = el("select", { "aria-label": label, onchange: (event) => change(event.target.value) },
    options.map(([key, name]) => el("option", { value: key, selected: String(key) === String(value) }, name)));
  return el("label", { class: "field" }, `${label} `, list);
}

function download(name, text, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function copyButton(text) {
  const button = el("button", { type: "button", class: "copy" }, "copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      button.textContent = "select it and press Ctrl-C";
    }
  });
  return button;
}

/** Shows `items` 50 at a time: more when the end of the list comes into sight, or by its button. */
function longList(box, items, make, step = 50) {
  box.textContent = "";
  let shown = 0;
  const more = el("button", { type: "button", class: "more" });
  const grow = () => {
    const part = document.createDocumentFragment();
    for (const item of items.slice(shown, shown + step)) part.append(make(item));
    shown = Math.min(items.length, shown + step);
    more.before(part);
    more.hidden = shown >= items.length;
    more.textContent = `${shown} of ${items.length}: show more`;
  };
  box.append(more);
  more.addEventListener("click", grow);
  grow();
  if (typeof IntersectionObserver === "function") {
    if (box.watcher) box.watcher.disconnect();
    box.watcher = new IntersectionObserver((seen) => {
      if (seen.some((entry) => entry.isIntersecting) && !more.hidden) {
        grow();
        box.watcher.unobserve(more);
        box.watcher.observe(more);
      }
    }, { rootMargin: "600px" });
    box.watcher.observe(more);
  }
}

// --- the address: #section/part/part?key=value ------------------------------------------------------------

function readAddress() {
  const [path, query] = location.hash.slice(1).split("?");
  const parts = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return { section: parts[0], parts: parts.slice(1), query: new URLSearchParams(query || "") };
}

function writeAddress(section, parts, query) {
  const kept = new URLSearchParams(Object.entries(query || {}).filter(([, value]) => value));
  const path = [section, ...parts].map((part) => encodeURIComponent(part)).join("/");
  history.replaceState(null, "", `#${path}${kept.size ? `?${kept}` : ""}`);
}
