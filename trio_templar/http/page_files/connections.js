// The connections, the slowest first, and the dialog that ends one.

import { Refused, ask, post, withQuery } from "./api.js";
import { element, json, make, setText, tell } from "./dom.js";
import * as numbers from "./numbers.js";
import { LiveTable } from "./table.js";

const SHOWN = 12;
const CODE = 4000;

const user = (connection) => connection.user || "anonymous";
const ago = (seconds) => (seconds == null ? numbers.NOTHING : `${numbers.duration(seconds)} ago`);
const waits = ({ waiting_bytes, waiting_frames }) =>
  waiting_frames || waiting_bytes ? `${numbers.bytes(waiting_bytes)} in ${numbers.count(waiting_frames)}` : "0";

/** What the dialog says about a connection. */
const FACTS = [
  ["Connection", (it) => it.id],
  ["User", user],
  ["Peer", (it) => it.peer],
  ["Agent", (it) => it.agent || numbers.NOTHING],
  ["Connected", (it) => `${ago(it.age_seconds)}, ${new Date(it.since).toLocaleString()}`],
  ["Last alive", (it) => ago(it.last_alive_seconds)],
  ["Waiting", (it) => `${waits(it)} frames, the oldest for ${numbers.duration(it.oldest_seconds)}`],
  ["Most that waited", (it) => numbers.bytes(it.peak_bytes)],
  ["Sent", (it) => `${numbers.bytes(it.sent_bytes)} in ${numbers.count(it.frames)} frames, ${numbers.count(it.lost)} lost`],
  ["Rooms", (it) => it.rooms.map(json).join(", ") || "none"],
];

/** An address without its port: 1.2.3.4:5 → 1.2.3.4, [::1]:5 → ::1 */
const host = (peer) => peer.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");

/** Whom one can disconnect from the row of a connection: how it is called, what is posted, and how many they are. */
function whom(it) {
  const choices = [{ words: "this connection", target: { connection: it.id } }];
  if (it.user) choices.push({ words: `every connection of user ${it.user}`, target: { user: it.user } });
  if (it.peer) choices.push({ words: `every connection from ${host(it.peer)}`, target: { peer: host(it.peer) } });
  return choices;
}

async function showCount(target, place) {
  try {
    const { total } = await ask(withQuery("connections/", { ...target, limit: 1 }));
    place.textContent = `: ${numbers.count(total)}`; // all of them may come through one proxy
  } catch {
    place.textContent = ""; // the choice stands without it
  }
}

class DisconnectDialog {
  constructor(after) {
    this.dialog = element("disconnect");
    element("disconnect-no").onclick = () => this.dialog.close();
    element("disconnect-form").onsubmit = (event) => {
      event.preventDefault();
      this.disconnect(after);
    };
  }

  open(connection) {
    setText(element("disconnect-title"), `Disconnect ${user(connection)}?`);
    element("disconnect-facts").replaceChildren(
      ...FACTS.flatMap(([title, say]) => [make("dt", {}, title), make("dd", {}, String(say(connection)))]),
    );
    this.choices = whom(connection);
    const choices = this.choices.map(({ words, target }, index) => {
      const count = make("span");
      if (index) showCount(target, count);
      return make("label", {}, make("input", { type: "radio", name: "whom", value: index, checked: index === 0 }), ` ${words}`, count);
    });
    element("disconnect-whom").replaceChildren(element("disconnect-whom").firstElementChild, ...choices);
    element("disconnect-reason").value = "";
    tell(element("disconnect-error"), "");
    this.dialog.showModal();
    element("disconnect-no").focus(); // a stray Enter disconnects nobody
  }

  async disconnect(after) {
    const chosen = new FormData(element("disconnect-form")).get("whom");
    const { target } = this.choices[Number(chosen)];
    element("disconnect-yes").disabled = true;
    try {
      const { disconnected } = await post("disconnect/", { ...target, code: CODE, reason: element("disconnect-reason").value });
      this.dialog.close();
      after(`Disconnected ${numbers.count(disconnected)} ${disconnected === 1 ? "connection" : "connections"}.`);
    } catch (error) {
      const gone = error instanceof Refused && error.status === 404;
      tell(element("disconnect-error"), gone ? "It has left already." : `Not done: ${error.message}`);
    } finally {
      element("disconnect-yes").disabled = false;
    }
  }
}

/** The table and its filters. `changed()` is called when it should look again, `said(text)` with what was done. */
export class Connections {
  constructor(changed, said) {
    this.form = element("connections-form");
    this.form.oninput = changed;
    this.form.onsubmit = (event) => event.preventDefault();
    const dialog = new DisconnectDialog((text) => {
      said(text);
      changed();
    });
    const open = (connection) => dialog.open(connection);
    this.table = new LiveTable(element("connections"), {
      key: (it) => it.id,
      empty: "Nobody is connected.",
      columns: [
        { title: "User", text: user, hint: (it) => it.agent || it.id, className: "name" },
        { title: "Waiting", text: (it) => numbers.bytes(it.waiting_bytes), hint: (it) => `${it.waiting_frames} frames`, className: "number" },
        { title: "Oldest", text: (it) => numbers.latency(it.oldest_seconds), className: "number wide" },
        { title: "Peak", text: (it) => numbers.bytes(it.peak_bytes), className: "number wide" },
        { title: "Sent", text: (it) => numbers.bytes(it.sent_bytes), className: "number wide" },
        { title: "Lost", text: (it) => numbers.count(it.lost), className: "number wide" },
        { title: "Rooms", text: (it) => numbers.count(it.subscriptions), hint: (it) => it.rooms.map(json).join("\n"), className: "number wide" },
        { title: "Connected", text: (it) => numbers.duration(it.age_seconds), className: "number medium" },
        { title: "Last alive", text: (it) => ago(it.last_alive_seconds), className: "number wide" },
        { title: "Peer", text: (it) => it.peer, className: "code medium" },
        { title: "", text: () => "Disconnect…", press: open, label: (it) => `Disconnect ${user(it)} from ${it.peer}`, className: "action" },
      ],
    });
  }

  async look() {
    const filters = Object.fromEntries(new FormData(this.form));
    try {
      const { total, connections } = await ask(withQuery("connections/", { ...filters, limit: SHOWN }));
      this.table.show(connections);
      const filtered = filters.user || filters.peer;
      if (!total && filtered) this.table.fail("No connection is like this.");
      setText(element("connections-count"), total > connections.length ? `${connections.length} of ${numbers.count(total)}` : "");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.table.fail(error.message);
    }
  }
}
