// node in-node.mjs DIST: says its origin, reads where the servers are, runs the scenarios, prints the results.
import { pathToFileURL } from "node:url";
import path from "node:path";
import { createInterface } from "node:readline";
import { run } from "./scenarios.mjs";

console.log(JSON.stringify({ origin: "http://none.invalid" }));
const [line] = await new Promise((resolve) => createInterface(process.stdin).once("line", (text) => resolve([text])));
process.stdin.pause();
const phantom = await import(pathToFileURL(path.resolve(process.argv[2], "node.js")).href);
console.log(JSON.stringify({ results: await run(phantom, JSON.parse(line)), violations: [] }));
