// Two websocket clients and a publish form, in plain browser JavaScript: this is all a client needs to know.

const ROOMS = [{ target: "news" }, { target: "car", car: 1 }, { target: "car", car: 2 }];
const USERS = { ada: [ROOMS[0], ROOMS[1]], grace: [ROOMS[0], ROOMS[2]] }; // what they subscribe to at first
const PING_MS = 30_000;
const KEPT_FRAMES = 100;

const element = (id) => document.getElementById(id);
const label = (room) => Object.values(room).join(" ");

/** JSON on one line with a blank after each colon and comma, as the gateway writes it. */
function json(value) {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, item]) => `"${key}": ${json(item)}`).join(", ")}}`;
}

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

class Client {
  constructor(panel, url, rooms) {
    this.name = panel.dataset.name;
    this.url = `${url}?token=${this.name}`;
    this.wanted = new Set(rooms); // entered again after each reconnect
    this.numbers = 0;
    panel.append(element("client").content.cloneNode(true));
    this.part = (selector) => panel.querySelector(selector);
    const shown = this.name[0].toUpperCase() + this.name.slice(1);
    this.part(".avatar").textContent = shown[0];
    this.part("h2").textContent = shown;
    this.part(".frames").ariaLabel = `Frames of ${shown}`;
    this.buttons = new Map(ROOMS.map((room) => [room, this.roomButton(room)]));
    this.part(".connect").onclick = () => (this.stay ? this.leave() : this.connect());
    this.connect();
  }

  roomButton(room) {
    const button = make("button", "room", label(room));
    button.type = "button";
    button.title = json(room);
    button.onclick = () => (this.entered.has(room) ? this.unsubscribe(room) : this.subscribe(room));
    this.part(".rooms").append(button);
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
    this.send({ type: "subscribe", requestId, room }, () => {
      this.wanted.add(room);
      this.entered.set(room, requestId);
    });
  }

  unsubscribe(room) {
    this.send({ type: "unsubscribe", requestId: this.entered.get(room) }, () => {
      this.wanted.delete(room);
      this.entered.delete(room);
    });
  }

  receive(text) {
    if (text === "pong") return;
    const message = JSON.parse(text);
    if (message.type === "publish") {
      const [room] = [...this.entered].find(([, requestId]) => requestId === message.requestId) ?? [{}];
      this.show("received publish", text, label(room));
    } else if ("allowed_rooms" in message) {
      this.show("received", text, "welcome");
      this.wanted.forEach((room) => this.subscribe(room));
    } else {
      const onSuccess = this.unanswered.shift();
      const succeeded = message.code === "success";
      if (succeeded) onSuccess?.();
      this.show(succeeded ? "received" : "received refused", text, message.code ?? "refused");
      if (message.message === "room-not-found") this.note("The API did not allow this room (see the welcome frame).");
      this.paintRooms();
    }
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
  }

  show(kind, text, about) {
    const [direction] = kind.split(" ");
    const frame = make("li", `frame ${kind}`);
    const head = make("div", "head");
    head.append(make("span", "direction", direction), make("span", "about", about));
    head.append(make("time", "", new Date().toLocaleTimeString([], { hour12: false })));
    frame.append(head, make("code", "", text));
    this.append(frame);
  }

  note(text) {
    this.append(make("li", "note", text));
  }

  append(item) {
    const frames = this.part(".frames");
    frames.append(item);
    while (frames.children.length > KEPT_FRAMES) frames.firstChild.remove();
    frames.scrollTop = frames.scrollHeight;
  }
}

function trigger() {
  return `{"rooms": [${json(ROOMS[element("room").value])}], "data": ${element("data").value.trim()}}`;
}

function checkData() {
  let problem = "";
  try {
    JSON.parse(element("data").value);
  } catch (error) {
    problem = `This is not JSON yet: ${error.message}`;
  }
  element("data-error").textContent = problem;
  element("data-error").hidden = !problem;
  element("data").ariaInvalid = Boolean(problem);
  return !problem;
}

function writeCurl(needsToken) {
  const lines = [`curl ${location.origin}/trigger/`, "-H 'Content-Type: application/json'"];
  if (needsToken) lines.push('-H "Authorization: Bearer $TRIO_TEMPLAR_TRIGGER_TOKEN"');
  lines.push(`-d '${trigger().replaceAll("'", "'\\''")}'`);
  element("curl").textContent = lines.join(" \\\n  ");
}

async function publish(needsToken) {
  const result = element("result");
  result.textContent = "";
  if (!checkData()) return element("data").focus();
  const headers = { "Content-Type": "application/json" };
  if (needsToken) headers.Authorization = `Bearer ${element("token").value}`;
  try {
    const response = await fetch("/trigger/", { method: "POST", headers, body: trigger() });
    result.textContent = `${response.status} ${await response.text()}`;
    result.className = response.ok ? "good" : "bad";
    if (response.status === 401) element("token").focus();
  } catch {
    result.textContent = "The gateway does not answer. Is it still running?";
    result.className = "bad";
  }
}

async function copy(button) {
  await navigator.clipboard.writeText(element(button.dataset.copy).textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

const config = await (await fetch("/demo.json")).json();
const url = `ws://${location.hostname}:${config.port}${config.path}`;
ROOMS.forEach((room, index) => element("room").add(new Option(json(room), index)));
element("address").textContent = url;
element("token-field").hidden = !config.needs_token;
element("publish").oninput = () => checkData() && writeCurl(config.needs_token);
element("publish").onsubmit = (event) => {
  event.preventDefault();
  publish(config.needs_token);
};
writeCurl(config.needs_token);
for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(button);
for (const [name, rooms] of Object.entries(USERS)) new Client(element(name), url, rooms);
