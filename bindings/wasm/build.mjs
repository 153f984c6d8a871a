// Builds dist/ from src/, Pyodide of node_modules and the wheel (argument: its path, by wheel.py).
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { build } from "esbuild";

const [wheel] = process.argv.slice(2);
const pyodide = path.dirname(createRequire(import.meta.url).resolve("pyodide/pyodide.mjs"));

await rm("dist", { recursive: true, force: true });
await mkdir("dist/pyodide", { recursive: true });
const common = { bundle: true, format: "esm", target: "es2022", minify: true, legalComments: "eof", outdir: "dist", logLevel: "warning" };
await build({ ...common, entryPoints: ["src/index.ts", "src/worker.ts"], platform: "browser" });
await build({ ...common, entryPoints: ["src/node.ts", "src/node-worker.ts"], platform: "node", external: ["ws"] });

for (const name of ["pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip"])
  await copyFile(path.join(pyodide, name), path.join("dist/pyodide", name));
// the core needs no package of Pyodide's, so its list of them stays empty
const lock = JSON.parse(await readFile(path.join(pyodide, "pyodide-lock.json"), "utf8"));
await writeFile("dist/pyodide/pyodide-lock.json", JSON.stringify({ ...lock, packages: {} }));
await copyFile(wheel, "dist/core.whl");
