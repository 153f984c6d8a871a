// Pyodide under Node with the sources of this tree: node host.mjs NODE_MODULES BRIDGE.mjs SCRIPT.py [ARGUMENTS...]
// The script defines `async def main()` and imports from `host`: arguments, socket_factory, report, load_ms, memory, heap.
import { createRequire } from "node:module";
import { pathToFileURL, fileURLToPath } from "node:url";
import path from "node:path";
import { readFileSync } from "node:fs";

const [modules, bridgeFile, script, ...args] = process.argv.slice(2);
const require = createRequire(path.join(modules, "none.js"));
const root = fileURLToPath(new URL("../../../", import.meta.url));
const { loadPyodide } = await import(pathToFileURL(require.resolve("pyodide/pyodide.mjs")));
const { createBridge } = await import(pathToFileURL(path.resolve(bridgeFile)));
const Socket = globalThis.WebSocket ?? require("ws").WebSocket;
globalThis.WebSocket = Socket;
globalThis.__noble = createBridge();

const begun = performance.now();
const py = await loadPyodide({ indexURL: path.dirname(require.resolve("pyodide/pyodide.mjs")) });
const loaded = performance.now() - begun;
py.FS.mkdirTree("/tree");
py.mountNodeFS("/tree", root);
py.registerJsModule("host", {
  arguments: args,
  load_ms: loaded,
  socket_factory(url, protocols) {
    const socket = new Socket(url, protocols, { perMessageDeflate: false });
    socket.on?.("error", () => {}); // `ws` throws what nobody listens for; a page's socket does not
    return socket;
  },
  report: (text) => process.stdout.write(text + "\n"),
  memory: () => process.memoryUsage().rss,
  heap: () => py._module.HEAPU8.length,
});
py.runPython("import sys; sys.path[:0] = ['/tree', '/tree/bindings/wasm/python']; sys.dont_write_bytecode = True");
try {
  py.runPython(readFileSync(script, "utf8"));
  await py.runPythonAsync("await main()");
  process.exit(0);
} catch (error) {
  process.stderr.write(String(error.message ?? error) + "\n");
  process.exit(1);
}
