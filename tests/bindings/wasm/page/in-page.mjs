import * as phantom from "/dist/index.js";
import { run } from "/scenarios.mjs";

globalThis.run = (at) => run(phantom, { ...at, stop: globalThis.stopServer });
globalThis.phantom = phantom;
