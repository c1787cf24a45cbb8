// Echo server on ws for Node.js, with the library's defaults but for the limit of 16 MiB. Found through NODE_PATH, as is bufferutil,
// which ws uses where it is installed and its manual recommends. A second argument compresses every message: `deflate` without context
// takeover, `takeover` with it.
"use strict";

const { WebSocketServer } = require("ws");

const [host, port] = (process.argv[2] ?? "127.0.0.1:0").split(":");
const alone = process.argv[3] === "deflate";
const perMessageDeflate =
  process.argv[3] !== undefined && { threshold: 0, serverNoContextTakeover: alone, clientNoContextTakeover: alone };
const server = new WebSocketServer({ host, port: Number(port), maxPayload: 16 << 20, perMessageDeflate });

server.on("connection", (socket) => {
  // Without a listener an error of one connection would end the process.
  socket.on("error", () => {});
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
server.on("listening", () => console.log(`listening on ws://${host}:${server.address().port}/`));
