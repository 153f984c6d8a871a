// The module worker of a page.
import { serve } from "./core.js";
import type { Notice, Request } from "./protocol.js";

const scope = globalThis as unknown as {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  onmessage: (event: MessageEvent<Request | Notice>) => void;
};

const take = serve(scope, {
  async loadPyodide() {
    const indexURL = new URL("./pyodide/", import.meta.url).href;
    const { loadPyodide } = await import(`${indexURL}pyodide.mjs`);
    return loadPyodide({ indexURL, stdout: console.log, stderr: console.error });
  },
  async wheel() {
    const response = await fetch(new URL("./core.whl", import.meta.url));
    if (!response.ok) throw new Error(`${response.url}: HTTP status ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  },
  socket: (url, protocols) => new WebSocket(url, protocols),
});
scope.onmessage = (event) => take(event.data);
