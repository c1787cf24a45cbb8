// Echo server on Bun's own WebSocket server, with its defaults but for the limits: 16 MiB a message, 64 MiB unsent. A second argument
// compresses every message: `deflate` with a shared compressor, which takes no context over, `takeover` with one for each connection.

const [hostname, port] = (process.argv[2] ?? "127.0.0.1:0").split(":");
const compressor = { deflate: "shared", takeover: "dedicated" }[process.argv[3]];
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
    perMessageDeflate: compressor !== undefined && { compress: compressor, decompress: compressor },
    message: (socket, message) => void socket.send(message, compressor !== undefined),
  },
});
console.log(`listening on ws://${hostname}:${server.port}/`);
