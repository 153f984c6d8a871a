// What the page's worker does with `phantom_browser`, seen from JavaScript: node worker.mjs NODE_MODULES BRIDGE.mjs URL
// Prints one JSON object.
import { createRequire } from "node:module";
import { pathToFileURL, fileURLToPath } from "node:url";
import path from "node:path";

const [modules, bridgeFile, url] = process.argv.slice(2);
const require = createRequire(path.join(modules, "none.js"));
const { loadPyodide } = await import(pathToFileURL(require.resolve("pyodide/pyodide.mjs")));
const { createBridge } = await import(pathToFileURL(path.resolve(bridgeFile)));
const Socket = globalThis.WebSocket ?? require("ws").WebSocket;
globalThis.__noble = createBridge();
const py = await loadPyodide({ indexURL: path.dirname(require.resolve("pyodide/pyodide.mjs")) });
py.FS.mkdirTree("/tree");
py.mountNodeFS("/tree", fileURLToPath(new URL("../../../", import.meta.url)));
py.runPython("import sys; sys.path[:0] = ['/tree', '/tree/bindings/wasm/python']; sys.dont_write_bytecode = True");

const phantom = py.pyimport("phantom_browser");
const out = { tests: phantom.self_test().length, version: phantom.version() };
const sockets = [];
const open = (address, protocols) => {
  const socket = new Socket(address, protocols, { perMessageDeflate: false });
  socket.on?.("error", () => {});
  sockets.push(socket);
  return socket;
};
const failure = async (promise) => {
  try {
    await promise;
    return "nothing";
  } catch (error) {
    return [error instanceof Error, error.name, error.kind, error.code, error.retryable];
  }
};
const thrown = (call) => {
  try {
    call();
    return "nothing";
  } catch {
    const error = phantom.failure();
    return [error instanceof Error, error.name, error.kind, error.code, error.retryable];
  }
};

const states = [];
const channel = await phantom.connect(url, undefined, open, (state, reason) => states.push([state, reason]), {
  timeout: 10,
  suite: "chacha20-poly1305",
});
out.check = phantom.check(url, undefined);
out.info = channel.info();
out.state = channel.state;
out.id = channel.id.length;
await channel.send(new TextEncoder().encode("a Uint8Array"));
const echoed = await channel.recv();
out.echo = [echoed instanceof Uint8Array, echoed.byteLength === echoed.buffer.byteLength, new TextDecoder().decode(echoed)];
await channel.send(new Uint8Array([9, 1, 2, 9]).subarray(1, 3));
out.view = [...(await channel.recv())];
await channel.send(new Uint8Array([7]).buffer);
out.buffer = [...(await channel.recv())];
out.text = await failure(channel.send("text"));
out.timeout = await failure(channel.recv(0.05));
const stream = await channel.open_stream(3, undefined);
await stream.send(new Uint8Array(1000));
await stream.finish();
let got = 0;
for (let chunk; (chunk = await stream.recv()) !== undefined; ) got += chunk.length;
out.stream = [got, stream.id, stream.state];
out.finished = await failure(stream.send(new Uint8Array(1)));
stream.destroy();
out.epoch = await channel.rekey();
out.exported = channel.export("label", 16).length;
out.label = thrown(() => channel.export("x".repeat(300), 16));
out.metrics = Object.keys(channel.metrics());
out.closed = await channel.close();
out.end = (await channel.recv()) === undefined;
out.late = await failure(channel.send(new Uint8Array(1)));
channel.destroy();
const pending = phantom.begin(url, undefined, open, undefined, undefined);
const ready = pending.ready;
pending.cancel();
out.cancelled = await failure(ready);
out.nopin = await failure(phantom.connect("ws://127.0.0.1:1", null, open, null, null));
out.badsuite = await failure(phantom.connect(url, undefined, open, undefined, { suite: "rot13" }));
const refuse = () => {
  throw new Error("SecurityError");
};
out.factory = await failure(phantom.connect(url, undefined, refuse, undefined));
out.states = states.map(([state]) => state);
out.handlers = sockets.map((socket) => socket.onmessage ?? null);
process.stdout.write(JSON.stringify(out) + "\n");
process.exit(0);
