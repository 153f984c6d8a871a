// node in-chromium.mjs DIST: serves the page with the CSP of the docs, says its origin, reads where the servers are, runs
// the scenarios in headless Chromium (PHANTOM_CHROMIUM), prints the results and what the policy or the page complained of.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";

const dist = path.resolve(process.argv[2]);
const { chromium } = createRequire(path.join(dist, "none.js"))("playwright-core");
const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const policy =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self' ws://127.0.0.1:*";

const server = createServer(async (request, response) => {
  const strict = request.url.startsWith("/strict/"); // the same files without leave to compile WebAssembly
  const { pathname } = new URL(strict ? request.url.slice(7) : request.url, "http://page");
  const allowed = strict ? policy.replace(" 'wasm-unsafe-eval'", "") : policy;
  const file = pathname.startsWith("/dist/")
    ? path.join(dist, pathname.slice(6))
    : path.join(import.meta.dirname, pathname === "/" ? "index.html" : pathname);
  try {
    const body = await readFile(file);
    const type = types[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "content-type": type, "content-security-policy": allowed }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
console.log(JSON.stringify({ origin }));
const lines = createInterface(process.stdin)[Symbol.asyncIterator]();
const next = async () => (await lines.next()).value;
const at = JSON.parse(await next());

const browser = await chromium.launch({
  executablePath: process.env.PHANTOM_CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
});
try {
  const page = await browser.newPage();
  const violations = [];
  page.on("console", (message) => {
    if (/Content.Security.Policy/i.test(message.text())) violations.push(message.text());
  });
  page.on("pageerror", (error) => violations.push(String(error)));
  await page.exposeFunction("stopServer", () => {
    console.log(JSON.stringify({ stop: true }));
    return next();
  });
  const open = async () => {
    await page.waitForFunction(() => "run" in globalThis);
    return page.evaluate(async (url) => {
      globalThis.session = await globalThis.phantom.connect(url);
      await globalThis.session.send(new Uint8Array([1, 2, 3]));
      return (await globalThis.session.recv()).length;
    }, at.serve);
  };
  await page.goto(origin);
  await page.waitForFunction(() => "run" in globalThis);
  const forbidden = await page.evaluate(() =>
    globalThis.phantom.load({ base: `${location.origin}/strict/dist/` }).catch((error) => [error.codeName, error.message]),
  );
  const noWorker = await page.evaluate(async () => {
    globalThis.phantom.shutdown();
    const error = await globalThis.phantom.load({ base: `${location.origin}/nowhere/` }).catch((thrown) => thrown);
    return error.codeName;
  });
  const expected = violations.splice(0).filter((text) => !/Content.Security.Policy/i.test(text));
  violations.push(...expected);
  const reloaded = [await open()];
  await page.reload();
  reloaded.push(await open());
  await page.context().setOffline(true);
  const offline = await page.evaluate(
    (url) => globalThis.phantom.connect(url).then(() => "connected", (error) => error.codeName),
    at.serve,
  );
  await page.context().setOffline(false);
  reloaded.push(await open());
  const results = await page.evaluate((servers) => globalThis.run(servers), at);
  // the header is there: what it forbids does not run
  const evaluated = await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "globalThis.inline = true";
    document.head.append(script);
    return "inline" in globalThis;
  });
  const seen = violations.filter((text) => !/inline script/i.test(text));
  console.log(JSON.stringify({ results, violations: seen, evaluated, reloaded, offline, forbidden, noWorker }));
} finally {
  await browser.close();
  server.close();
  process.stdin.destroy();
}
