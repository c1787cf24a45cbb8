// Echo server on Bun's own WebSocket server, with its defaults but for the limits: 16 MiB a message, 64 MiB unsent.

const [hostname, port] = (process.argv[2] ?? "127.0.0.1:0").split(":");
const server = Bun.serve({
  hostname,
  port: Number(port),
  fetch(request, server) {
    if (server.upgrade(request)) return undefined;
    return new Response("a WebSocket handshake is needed\n", { status: 400 });
  },
  websocket: {
    maxPayloadLength: 16 << 20,
    backpressureLimit: 64 << 20,
    message: (socket, message) => void socket.send(message),
  },
});
console.log(`listening on ws://${hostname}:${server.port}/`);
