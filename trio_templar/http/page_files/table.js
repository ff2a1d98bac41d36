// A table that lives: rows keep their place in the document, only what changed is written.

import { make, setText } from "./dom.js";

// So long after somebody pointed at a row no row moves: a click would hit another.
const HOLD_MS = 8000;

/**
 * columns: [{ title, text(item), hint(item), className, press(item), label(item) }]; with `press`, the text is a button.
 * key(item): what makes a row the same row.
 */
export class LiveTable {
  constructor(table, { columns, key, empty }) {
    this.table = table;
    this.columns = columns;
    this.key = key;
    this.rows = new Map(); // key → { row, item }
    const titles = columns.map(({ title, className = "" }) => make("th", { className, scope: "col" }, title));
    this.body = make("tbody");
    this.empty = empty;
    this.words = make("td", { colSpan: columns.length, className: "empty" });
    table.append(make("thead", {}, make("tr", {}, ...titles)), this.body, make("tfoot", {}, make("tr", {}, this.words)));
    this.touched = -Infinity;
    for (const event of ["pointermove", "focusin", "keydown"]) {
      this.body.addEventListener(event, () => (this.touched = performance.now()));
    }
  }

  get held() {
    return performance.now() - this.touched < HOLD_MS;
  }

  /** Show these, in this order. */
  show(items) {
    const held = this.held;
    const wanted = new Map(items.map((item) => [this.key(item), item]));
    for (const [key, { row }] of this.rows) {
      if (wanted.has(key)) continue;
      if (held || row.contains(document.activeElement)) this.mark(row, true);
      else {
        row.remove();
        this.rows.delete(key);
      }
    }
    items.forEach((item, place) => this.put(item, place, held));
    this.say(this.rows.size ? "" : this.empty);
  }

  put(item, place, held) {
    const key = this.key(item);
    const known = this.rows.get(key);
    const entry = known ?? this.add(key);
    entry.item = item;
    this.fill(entry);
    this.mark(entry.row, false);
    const there = this.body.children[place];
    if (held) {
      if (!known) this.body.append(entry.row);
    } else if (there !== entry.row && !entry.row.contains(document.activeElement)) {
      this.body.insertBefore(entry.row, there ?? null);
    }
  }

  add(key) {
    const entry = { row: make("tr"), item: null };
    for (const { className = "", press } of this.columns) {
      const cell = make("td", { className });
      if (press) cell.append(make("button", { type: "button", onclick: () => press(entry.item) }));
      entry.row.append(cell);
    }
    this.rows.set(key, entry);
    return entry;
  }

  fill({ row, item }) {
    this.columns.forEach(({ text, hint, press, label }, index) => {
      const cell = row.cells[index];
      const node = press ? cell.firstChild : cell;
      const words = text(item);
      setText(node, words);
      cell.classList.toggle("zero", /^0(?![.\d])/.test(words)); // what is not nothing stands out
      if (hint) cell.title = hint(item);
      if (label) node.ariaLabel = label(item);
    });
  }

  /** Rows of what has gone stay while the table is held, but cannot be pressed. */
  mark(row, gone) {
    row.classList.toggle("gone", gone);
    for (const button of row.querySelectorAll("button")) button.disabled = gone;
  }

  /** Show no rows, and why. */
  fail(text) {
    this.body.replaceChildren();
    this.rows.clear();
    this.say(text);
  }

  say(text) {
    this.table.tFoot.hidden = !text;
    setText(this.words, text);
  }
}
