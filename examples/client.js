// A browser client without a library. It subscribes to rooms. When it loses the connection, it comes back and gets what
// it missed. It calls the third argument when the page must fetch from the API: once it is subscribed, and later where
// what it missed cannot be had.
//
//   const client = connect(`${location.protocol.replace("http", "ws")}//${location.host}/ws/`);
//   client.subscribe({ target: "car", car: 1 }, (data) => console.log(data), () => fetch("/api/car/1/"));

export function connect(url) {
  const subscriptions = new Map(); // requestId -> { room, onData, load, at: its position, socket: who told that }
  let socket, unanswered, number = 0;

  function send(message) {
    if (socket.readyState !== WebSocket.OPEN) return; // it is sent when it is open
    unanswered.push(message.requestId);
    socket.send(JSON.stringify(message));
  }
  const enter = (requestId, { room, at }) => send({ type: "subscribe", requestId, room, since: at ?? null });

  function hear(sub, { type, code, data, at, recovered }) {
    if (at) Object.assign(sub, { at, socket });
    if (type === "unsubscribed") sub.socket = null; // by an operator: what comes from now on it misses
    if (type === "publish") sub.onData(data);
    // Of a room that is not kept the gateway says nothing, and neither does an older gateway.
    if (type === "gap" || (code === "success" && !recovered)) sub.load?.();
  }

  function open() {
    socket = new WebSocket(url);
    unanswered = []; // replies come in the order of the messages, and not all of them have a requestId
    socket.onopen = () => subscriptions.forEach((sub, requestId) => enter(requestId, sub));
    socket.onmessage = ({ data }) => {
      if (data === "pong") return;
      const message = JSON.parse(data);
      const asked = message.code && unanswered.shift();
      const sub = subscriptions.get(message.requestId ?? asked);
      if (sub) hear(sub, message);
      // This one is for all that got a reply here: another may still miss what came before.
      if (message.type === "position") subscriptions.forEach((sub) => sub.socket === socket && (sub.at = message.at));
      if (message.code === "error") console.warn("gateway:", data);
    };
    // Each client waits for a random time, because after a restart all of them come back.
    socket.onclose = () => setTimeout(open, 1000 + Math.random() * 4000);
  }

  open();
  setInterval(() => socket.readyState === WebSocket.OPEN && socket.send("ping"), 30_000);
  return {
    subscribe(room, onData, load) {
      const requestId = ++number;
      subscriptions.set(requestId, { room, onData, load });
      enter(requestId, subscriptions.get(requestId));
      return () => subscriptions.delete(requestId) && send({ type: "unsubscribe", requestId });
    },
  };
}
