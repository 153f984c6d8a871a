// node drive.mjs PAGE_URL [FOLDER]: does what a person would do with the demo, in headless Chromium (PHANTOM_CHROMIUM), and fails where
// the page does not show what it should. With FOLDER it leaves screenshots there.
import { createRequire } from "node:module";
import path from "node:path";

const [url, folder] = process.argv.slice(2);
const { chromium } = createRequire(new URL("../../bindings/wasm/package.json", import.meta.url))("playwright-core");
const browser = await chromium.launch({
  executablePath: process.env.PHANTOM_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
});

async function text(page, selector, expected) {
  await page.waitForFunction(
    ([where, what]) => document.querySelector(where)?.textContent.includes(what),
    [selector, expected],
    { timeout: 90_000 },
  );
}

try {
  const page = await browser.newPage({ viewport: { width: 1180, height: 1010 } });
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  const shoot = async (name) => {
    if (folder) await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
  };
  await page.goto(url);
  await page.focus("#connect");
  await page.keyboard.press("Enter"); // all of it works by keyboard
  await text(page, "#state", "connected");
  await text(page, "#facts", "phantom1:");
  await page.focus("#text");
  await page.keyboard.press("Enter");
  await text(page, "#log", "ping from a page");
  await page.focus("#random");
  await page.keyboard.press("Enter");
  await text(page, "#hashes", "the same, byte for byte");
  await text(page, "#trip-now", "median");
  await shoot("wasm-demo");
  await page.setViewportSize({ width: 390, height: 844 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  if (wide > 390) throw new Error(`the page is ${wide} px wide on a phone`);
  await shoot("wasm-demo-phone");
  await page.click("#close");
  await text(page, "#state", "closed");
  await page.setViewportSize({ width: 1180, height: 500 });
  await page.focus("#wrong");
  await page.keyboard.press("Space");
  await page.click("#connect");
  await text(page, "#state", "refused");
  await text(page, "#verdict", "SERVER_IDENTITY_MISMATCH (20)");
  await shoot("wasm-demo-refused");
  if (faults.length > 0) throw new Error(faults.join("\n"));
} finally {
  await browser.close();
}
