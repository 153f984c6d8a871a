// The same as worker.ts, in Node.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parentPort } from "node:worker_threads";
import { WebSocket } from "ws";
import { serve } from "./core.js";
import type { Port } from "./protocol.js";

const port = parentPort as NonNullable<typeof parentPort>;
(globalThis as { WebSocket?: unknown }).WebSocket = WebSocket;

port.on(
  "message",
  serve(port as unknown as Port, {
    async loadPyodide() {
      const folder = new URL("./pyodide/", import.meta.url);
      const { loadPyodide } = await import(new URL("pyodide.mjs", folder).href);
      return loadPyodide({ indexURL: fileURLToPath(folder), stdout: console.log, stderr: console.error });
    },
    async wheel() {
      return new Uint8Array(await readFile(new URL("./core.whl", import.meta.url)));
    },
    socket: (url, protocols) => new WebSocket(url, protocols, { perMessageDeflate: false }),
  }),
);
