// A browser client without a library. It subscribes to rooms, and reconnects when it loses the connection.
//
//   const client = connect(`${location.protocol.replace("http", "ws")}//${location.host}/ws/`);
//   client.subscribe({ target: "car", car: 1 }, (data) => console.log(data));

export function connect(url) {
  const subscriptions = new Map(); // requestId -> [room, onData]
  let socket, number = 0;

  const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));
  const enter = (requestId, room) => send({ type: "subscribe", requestId, room });

  function open() {
    socket = new WebSocket(url);
    socket.onopen = () => subscriptions.forEach(([room], requestId) => enter(requestId, room));
    socket.onmessage = ({ data }) => {
      if (data === "pong") return;
      const message = JSON.parse(data);
      if (message.type === "publish") subscriptions.get(message.requestId)?.[1](message.data);
      if (message.code === "error") console.warn("gateway:", data);
    };
    // Each client waits for a random time, because after a restart all of them come back.
    socket.onclose = () => setTimeout(open, 1000 + Math.random() * 4000);
  }

  open();
  setInterval(() => socket.readyState === WebSocket.OPEN && socket.send("ping"), 30_000);
  return {
    subscribe(room, onData) {
      const requestId = ++number;
      subscriptions.set(requestId, [room, onData]);
      enter(requestId, room);
      return () => subscriptions.delete(requestId) && send({ type: "unsubscribe", requestId });
    },
  };
}
