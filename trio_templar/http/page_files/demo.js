// The demo: two websocket clients in plain browser JavaScript. `Client` is all that a client needs to know.

import { ask } from "./api.js";
import { element, json, make } from "./dom.js";
import { clock } from "./numbers.js";

const ROOMS = [{ target: "news" }, { target: "car", car: 1 }, { target: "car", car: 2 }];
const USERS = { ada: [ROOMS[0], ROOMS[1]], grace: [ROOMS[0], ROOMS[2]] }; // what they subscribe to at first
const PING_MS = 30_000;
const KEPT_FRAMES = 100;
const FETCH = "What was missed cannot be recovered: an application fetches it from its API now.";

const label = (room) => Object.values(room).join(" ");

class Client {
  constructor(name, url, rooms) {
    this.name = name;
    this.url = `${url}?token=${this.name}`;
    this.wanted = new Set(rooms); // entered again after each reconnect
    this.positions = new Map(); // room -> up to where this client has received what was published there
    this.numbers = 0;
    const shown = name[0].toUpperCase() + name.slice(1);
    this.panel = make("section", { className: "card client", id: name, ariaLabel: `Client ${shown}` });
    this.panel.append(element("demo-client").content.cloneNode(true));
    this.part = (selector) => this.panel.querySelector(selector);
    this.part(".avatar").textContent = shown[0];
    this.part("h2").textContent = shown;
    this.part(".frames").ariaLabel = `Frames of ${shown}`;
    this.buttons = new Map(ROOMS.map((room) => [room, this.roomButton(room)]));
    this.part(".connect").onclick = () => (this.stay ? this.leave() : this.connect());
    this.part(".away").onclick = () => this.goAway();
    this.connect();
  }

  roomButton(room) {
    const button = make("button", { className: "room", type: "button", title: json(room) }, label(room));
    button.onclick = () => (this.entered.has(room) ? this.unsubscribe(room) : this.subscribe(room));
    this.part(".choices").append(button);
    return button;
  }

  connect() {
    clearTimeout(this.retry);
    this.stay = true;
    this.entered = new Map(); // room -> requestId
    this.unanswered = []; // replies come in the order of the messages
    this.state("connecting", "connecting");
    const socket = (this.socket = new WebSocket(this.url));
    socket.onopen = () => this.state("open", "connected");
    socket.onmessage = ({ data }) => this.receive(data);
    socket.onclose = (event) => this.closed(event);
    clearInterval(this.pinging);
    this.pinging = setInterval(() => socket.readyState === WebSocket.OPEN && socket.send("ping"), PING_MS);
  }

  leave() {
    this.stay = false;
    this.socket.close(1000);
  }

  /** Leave, publish meanwhile, and come back to what was missed. */
  async goAway() {
    const [room] = this.entered.keys();
    const gone = new Promise((over) => this.socket.addEventListener("close", over));
    this.leave();
    await gone;
    try {
      for (const number of [1, 2, 3]) {
        const body = json({ rooms: [room], data: { text: `While ${this.name} was away: ${number}` } });
        await ask("trigger/", { method: "POST", body, accept: "application/json" });
      }
      this.note(`Three times published to ${label(room)} meanwhile.`);
    } catch (error) {
      this.note(`Not published: ${error.message}.`);
    }
    if (!this.stay) this.connect(); // somebody may have been faster
  }

  closed({ code, reason }) {
    clearInterval(this.pinging);
    this.entered = new Map();
    const why = [code === 1006 ? "no answer" : code, reason].filter(Boolean).join(", ");
    this.state("closed", this.stay ? `trying again (${why})` : "disconnected");
    this.note(`closed: ${why}`);
    // Not all at the same moment: after a restart of the gateway everybody comes back.
    if (this.stay) this.retry = setTimeout(() => this.connect(), 1000 + Math.random() * 2000);
  }

  send(message, onSuccess) {
    const text = json(message);
    this.unanswered.push(onSuccess);
    this.socket.send(text);
    this.show("sent", text, message.room ? label(message.room) : "");
  }

  subscribe(room) {
    const requestId = `${this.name}-${++this.numbers}`;
    const since = this.positions.get(room) ?? null;
    this.send({ type: "subscribe", requestId, room, since }, ({ recovered }) => {
      this.wanted.add(room);
      this.entered.set(room, requestId);
      if (since !== null) this.note(recovered ? `Back in ${label(room)}: nothing is lost.` : FETCH);
    });
  }

  unsubscribe(room) {
    this.send({ type: "unsubscribe", requestId: this.entered.get(room) }, () => {
      this.forget(room);
    });
  }

  forget(room) {
    this.wanted.delete(room);
    this.entered.delete(room);
    this.positions.delete(room);
  }

  receive(text) {
    if (text === "pong") return;
    const message = JSON.parse(text);
    if (message.type === "publish") {
      this.show("received publish", text, label(this.roomOf(message)));
    } else if ("allowed_rooms" in message) {
      this.show("received", text, "welcome");
      this.wanted.forEach((room) => this.subscribe(room));
    } else if (message.type === "unsubscribed") {
      this.forget(this.roomOf(message));
      this.show("received refused", text, "unsubscribed");
      this.paintRooms();
    } else if (message.type === "gap") {
      this.show("received refused", text, "gap");
      this.note(FETCH);
    } else if (message.type === "position") {
      this.show("received", text, "position");
      this.entered.forEach((_, room) => this.positions.has(room) && this.positions.set(room, message.at));
      return;
    } else {
      this.answered(message, text);
    }
    if (message.at) this.positions.set(this.roomOf(message), message.at);
  }

  answered(message, text) {
    const onSuccess = this.unanswered.shift();
    const succeeded = message.code === "success";
    this.show(succeeded ? "received" : "received refused", text, message.code ?? "refused");
    if (succeeded) onSuccess?.(message);
    if (message.message === "room-not-found") this.note("The API did not allow this room (see the welcome frame).");
    this.paintRooms();
  }

  roomOf({ requestId }) {
    const [room] = [...this.entered].find(([, known]) => known === requestId) ?? [{}];
    return room;
  }

  state(name, words) {
    this.part(".status").dataset.state = name;
    this.part(".words").textContent = words;
    this.part(".connect").textContent = this.stay ? "Disconnect" : "Connect";
    this.paintRooms();
  }

  paintRooms() {
    for (const [room, button] of this.buttons) {
      button.ariaPressed = this.entered.has(room);
      button.disabled = this.socket?.readyState !== WebSocket.OPEN;
    }
    this.part(".away").disabled = !this.entered.size;
  }

  show(kind, text, about) {
    const [direction] = kind.split(" ");
    const head = [
      make("span", { className: "direction" }, direction),
      make("span", { className: "about" }, about),
      make("time", {}, clock(new Date())),
    ];
    this.append(make("li", { className: `frame ${kind}` }, make("div", { className: "head" }, ...head), make("code", {}, text)));
  }

  note(text) {
    this.append(make("li", { className: "note" }, text));
  }

  append(item) {
    const frames = this.part(".frames");
    frames.append(item);
    while (frames.children.length > KEPT_FRAMES) frames.firstChild.remove();
    frames.scrollTop = frames.scrollHeight;
  }
}

/** Put the clients beside the form that publishes, its rooms ready to be chosen, and what comes next below. */
export function start({ scheme, port, path }, publish) {
  const url = `${scheme}://${location.hostname}:${port}${path}`;
  const clients = Object.entries(USERS).map(([name, rooms]) => new Client(name, url, rooms));
  element("demo-place").append(element("publish-card"), ...clients.map(({ panel }) => panel));
  const choose = (room) => make("button", { type: "button", title: json(room), onclick: () => publish.choose(room) }, label(room));
  element("room-choices").append(...ROOMS.map(choose));
  element("room-choices").hidden = false;
  element("next-place").append(element("demo-next").content.cloneNode(true));
  element("address").textContent = url;
}
