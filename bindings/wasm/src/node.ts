// The same package in Node.
import { Worker } from "node:worker_threads";
import { client } from "./client.js";

export * from "./api.js";

export const { load, connect, shutdown } = client((base) => {
  const worker = new Worker(new URL("./node-worker.js", base ?? import.meta.url));
  return {
    postMessage: (message, transfer) => worker.postMessage(message, transfer),
    listen(onMessage, onError) {
      worker.on("message", onMessage);
      worker.on("error", (error) => onError(error.message));
    },
    terminate: () => void worker.terminate(),
    hold: (busy) => (busy ? worker.ref() : worker.unref()),
  };
});
