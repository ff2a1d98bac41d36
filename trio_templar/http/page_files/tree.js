// The nursery tree. What was opened or closed by hand stays so.

import { Refused, ask } from "./api.js";
import { element, make } from "./dom.js";
import * as numbers from "./numbers.js";

const OPEN_DEPTH = 5;

export class Tree {
  constructor() {
    this.place = element("tree");
    this.shown = "";
    this.turned = new Map(); // path → whether it is open
    this.visible = false;
    new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting)).observe(this.place.parentElement);
  }

  /** Walking all tasks costs the gateway more than counting: only who sees the tree asks. */
  async look() {
    if (!this.visible) return;
    try {
      this.show(await ask("tree"));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.place.textContent = error.message;
    }
  }

  show(tree) {
    const text = JSON.stringify(tree);
    if (text === this.shown) return;
    this.shown = text;
    const focused = document.activeElement?.dataset?.path;
    this.place.replaceChildren(this.node(tree, "", 0));
    if (focused !== undefined) this.place.querySelector(`[data-path="${CSS.escape(focused)}"]`)?.focus();
  }

  node({ name, count, children = [] }, above, depth) {
    const path = `${above}/${name}`;
    const words = [make("span", { className: "task" }, name)];
    if (count > 1) words.push(make("span", { className: "times" }, `× ${numbers.count(count)}`));
    if (!children.length) return make("p", { className: "leaf" }, ...words);
    const summary = make("summary", {}, ...words);
    summary.dataset.path = path;
    const open = this.turned.get(path) ?? depth < OPEN_DEPTH;
    const details = make("details", { open }, summary, ...children.map((child) => this.node(child, path, depth + 1)));
    summary.onclick = () => this.turned.set(path, !details.open);
    return details;
  }
}
