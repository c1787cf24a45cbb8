// Compressed messages (RFC 7692) between sparring and other people's ends, on Node.js with ws and
// on Bun. `deflate.cjs SERVER GENERATOR ENGINE...` starts both programs of ours, with each setting.
// A relay between the ends counts bytes, so that an end that does not compress fails.
// scripts/deflate-peers.sh runs it.
"use strict";

const { spawn } = require("node:child_process");
const { randomBytes } = require("node:crypto");
const net = require("node:net");

const bun = globalThis.Bun;
const { WebSocket: Ws, WebSocketServer } = bun ? {} : require("ws");
const host = "127.0.0.1";
const sizes = [0, 1, 5, 125, 126, 1000, 65535, 65536, 1 << 20];
const [server, generator, ...engines] = process.argv.slice(2);

/** Records with varying values, so that messages resemble each other without being equal. */
function records(seed, length) {
  let text = "";
  for (let n = seed; text.length < length; n++) {
    text += `{"id":${n},"name":"user-${(n * 2654435761) % 1048576}","score":${n % 97}},`;
  }
  return text.slice(0, length);
}

/** Messages of every size as text and as binary, `rounds` times. */
function* messages(rounds, isRandom) {
  for (let n = 0; n < rounds * sizes.length; n++) {
    const length = sizes[n % sizes.length];
    yield isRandom ? randomBytes(length).toString("hex").slice(length) : records(n, length);
    yield isRandom ? randomBytes(length) : Buffer.from(records(n, length));
  }
}

// Made once, because making them takes longer than sending them.
const alike = [...messages(8, false)];
const random = [...messages(2, true), randomBytes(16 << 20)];
const long = records(0, 16 << 20);
const short = alike.slice(0, 64).filter(({ length }) => length < 1 << 17);

/** Sends messages with several in flight, and checks that they come back as they were. */
async function exchange(socket, messages) {
  const expected = [];
  let bytes = 0;
  for (const message of messages) {
    bytes += message.length;
    socket.send(message);
    expected.push(message);
    if (expected.length === 4) check(expected.shift(), await socket.receive());
  }
  for (const message of expected) check(message, await socket.receive());
  return bytes;
}

function check(sent, echo) {
  const same = typeof sent === "string" ? sent === echo : sent.equals(Buffer.from(echo));
  if (!same) throw new Error(`the echo of ${sent.length} bytes of ${typeof sent} differs`);
}

/** An end of a WebSocket: `send`, `receive` and `close`, whatever library it is of. */
function end(send, close) {
  const arrived = [];
  const waiting = [];
  let ended;
  return {
    send,
    close,
    arrive(message) {
      if (waiting.length) waiting.shift().resolve(message);
      else arrived.push(message);
    },
    fail(why) {
      ended = new Error(`it ended: ${why}`);
      waiting.forEach(({ reject }) => reject(ended));
    },
    receive() {
      if (arrived.length) return arrived.shift();
      if (ended) throw ended;
      return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
    },
  };
}

function connect(url, options) {
  const socket = bun ? new WebSocket(url) : new Ws(url, { perMessageDeflate: options });
  const it = end((message) => void socket.send(message), () => socket.close(1000));
  socket.binaryType = bun ? "arraybuffer" : "nodebuffer";
  socket.onmessage = ({ data }) => it.arrive(data);
  socket.onclose = ({ code, reason }) => it.fail(`${code} ${reason}`);
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve(it);
    socket.onerror = (event) => reject(new Error(event.message));
  });
}

/** A server that hands over its connections; returns its port. */
function serve(options, opened) {
  if (bun) {
    const websocket = {
      perMessageDeflate: options,
      maxPayloadLength: 64 << 20,
      open: (socket) => {
        const it = end((message) => void socket.send(message, true), () => socket.close(1000));
        socket.data.it = it;
        opened(it);
      },
      message: ({ data }, message) => data.it.arrive(message),
      close: ({ data }, code, reason) => data.it.fail(`${code} ${reason}`),
    };
    const fetch = (request, server) => void server.upgrade(request, { data: {} });
    return bun.serve({ hostname: host, port: 0, fetch, websocket }).port;
  }
  const listener = new WebSocketServer({ host, port: 0, perMessageDeflate: options });
  listener.on("connection", (socket) => {
    const it = end((message) => socket.send(message), () => socket.close(1000));
    socket.on("message", (data, isBinary) => it.arrive(isBinary ? data : data.toString()));
    socket.on("close", (code, reason) => it.fail(`${code} ${reason}`));
    socket.on("error", (error) => it.fail(error.message));
    opened(it);
  });
  return new Promise((resolve) => listener.on("listening", () => resolve(listener.address().port)));
}

/** Passes everything on to a port, counts bytes in both directions, keeps the server's answer. */
async function relay(port) {
  const counted = { up: 0, down: 0, answer: "" };
  const listener = net.createServer((near) => {
    const far = net.connect(port, host);
    near.on("data", (bytes) => (counted.up += bytes.length));
    far.on("data", (bytes) => {
      counted.down += bytes.length;
      if (!counted.answer.includes("\r\n\r\n")) counted.answer += bytes.toString("latin1");
    });
    near.pipe(far).pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
  });
  await new Promise((resolve) => listener.listen(0, host, resolve));
  return { counted, port: listener.address().port, close: () => listener.close() };
}

/** Exchanges messages of all kinds. Fails unless those that can be compressed are. */
async function talk(socket, counted) {
  const before = { ...counted };
  const bytes = await exchange(socket, alike);
  const agreed = /^sec-websocket-extensions: *(.*)\r$/im.exec(counted.answer)?.[1] ?? "nothing";
  for (const way of ["up", "down"]) {
    const share = (counted[way] - before[way]) / bytes;
    if (share > 0.5) throw new Error(`${way}: ${share.toFixed(2)} of the bytes, agreed: ${agreed}`);
  }
  await exchange(socket, [...random, long]);
  return agreed;
}

/** Starts a program; `line` is the first output, and `ended` its exit code. */
function start(program, flags) {
  const child = spawn(program, flags, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.on("exit", (code, by) => resolve(code ?? by)));
  const line = new Promise((resolve) => child.stdout.once("data", (bytes) => resolve(`${bytes}`)));
  const early = ended.then((code) => `${program} ended with ${code}`);
  return { child, ended, line: Promise.race([line, early]) };
}

/** Their client and our server: one connection with everything, then many at the same time. */
async function tryClient(engine, flags, options) {
  const always = ["--listen", `${host}:0`, "--engine", engine, "--log", "warn"];
  const { child, ended, line } = start(server, [...always, ...flags]);
  const between = await relay(Number(/:(\d+)\//.exec(await line)[1]));
  const url = `ws://${host}:${between.port}/`;
  try {
    const first = await connect(url, options);
    const agreed = await talk(first, between.counted);
    const many = await Promise.all(Array.from({ length: 30 }, () => connect(url, options)));
    await Promise.all(many.map((socket) => exchange(socket, short)));
    [first, ...many].forEach((socket) => socket.close());
    child.kill();
    if ((await ended) !== 0) throw new Error(`the server ended with ${await ended}`);
    return agreed;
  } finally {
    child.kill();
    between.close();
  }
}

/** Their server and our client. The server sends, and the client echoes. */
async function tryServer(engine, flags, options) {
  let between;
  const talked = new Promise((resolve, reject) => {
    const opened = (it) => talk(it, between.counted).then(resolve, reject).finally(it.close);
    Promise.resolve(serve(options, opened)).then(async (port) => {
      between = await relay(port);
      const url = `ws://${host}:${between.port}/`;
      const { ended, line } = start(generator, ["echo", url, "--engine", engine, ...flags]);
      const wanted = /^\d+ messages echoed; the server closed it with 1000/;
      if (!wanted.test(await line) || (await ended) !== 0) reject(new Error(await line));
      resolve();
    });
  });
  return talked.finally(() => between.close());
}

async function main() {
  const name = bun ? `Bun ${bun.version}` : `ws ${require("ws/package.json").version}`;
  // Without its threshold ws compresses the smallest messages too.
  const all = { threshold: 0 };
  const window = { ...all, serverMaxWindowBits: 9 };
  const clients = bun ? [true] : [all, { ...all, serverNoContextTakeover: true }, window];
  const servers = bun
    ? [true, { compress: "dedicated", decompress: "shared" }, { compress: "3KB", decompress: true }]
    : [all, { ...all, clientNoContextTakeover: true }, window];
  const recompress = ["--deflate", "takeover", "--deflate-echo", "recompress"];
  const narrow = ["--deflate", "takeover", "--deflate-window-bits", "10"];
  let failed = 0;
  async function attempt(run, role, engine, flags, options) {
    const what = `${name} ${role} ${JSON.stringify(options)}, ours ${engine} ${flags.join(" ")}`;
    try {
      const late = new Promise((_, reject) => setTimeout(reject, 60000, new Error("it hangs")));
      console.log(`ok   ${what}: ${await Promise.race([run(engine, flags, options), late])}`);
    } catch (error) {
      failed++;
      console.log(`FAIL ${what}: ${error.message}`);
    }
  }
  for (const engine of engines) {
    for (const options of clients) {
      for (const flags of [["--deflate", "on"], ["--deflate", "takeover"], recompress, narrow]) {
        await attempt(tryClient, "client", engine, flags, options);
      }
    }
    for (const options of servers) {
      await attempt(tryServer, "server", engine, ["--deflate", "takeover"], options);
    }
  }
  process.exit(failed ? 1 : 0);
}
main();
