// node in-node.mjs DIST: says its origin, reads where the servers are, runs the scenarios, prints the results.
import { pathToFileURL } from "node:url";
import path from "node:path";
import { createInterface } from "node:readline";
import { run } from "./scenarios.mjs";

const lines = createInterface(process.stdin)[Symbol.asyncIterator]();
const next = async () => (await lines.next()).value;

console.log(JSON.stringify({ origin: "http://none.invalid" }));
const at = JSON.parse(await next());
at.stop = () => {
  console.log(JSON.stringify({ stop: true }));
  return next();
};
const phantom = await import(pathToFileURL(path.resolve(process.argv[2], "node.js")).href);
console.log(JSON.stringify({ results: await run(phantom, at), violations: [] }));
process.stdin.destroy();
