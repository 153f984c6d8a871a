// The package in a page.
import { client } from "./client.js";
import type { Answer } from "./protocol.js";

export * from "./api.js";

export const { load, connect, shutdown } = client((base) => {
  const worker = new Worker(new URL("./worker.js", base ?? import.meta.url), { type: "module", name: "phantom" });
  return {
    postMessage: (message, transfer) => worker.postMessage(message, transfer),
    listen(onMessage, onError) {
      worker.onmessage = (event: MessageEvent<Answer>) => onMessage(event.data);
      worker.onerror = (event) => onError(event.message || "it could not be loaded");
      worker.onmessageerror = () => onError("a message could not be read");
    },
    terminate: () => worker.terminate(),
    hold: () => undefined,
  };
});
