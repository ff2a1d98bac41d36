// The little that the page needs on top of the DOM. Text is only ever set as text.

/** Return the element with this id; every id that is asked for is in index.html. */
export const element = (id) => document.getElementById(id);

/** Return a new element with properties and children (nodes or texts). */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Set a text only where it differs: what is selected stays selected, and nothing is announced twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show `text` in `node`, or hide it where there is none. */
export function tell(node, text) {
  setText(node, text);
  node.hidden = !text;
}

/** JSON on one line with a blank after each colon and comma, as the gateway writes it. */
export function json(value) {
  if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${json(item)}`).join(", ")}}`;
}

/** Make every button with `data-copy` in `root` copy the text of the element it names. */
export function enableCopying(root) {
  for (const button of root.querySelectorAll("[data-copy]")) {
    button.onclick = async () => {
      await navigator.clipboard.writeText(element(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    };
  }
}
