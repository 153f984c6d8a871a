import { connect, load, PhantomError } from "/dist/index.js";
import { URL_WITH_PIN } from "./config.js"; // the one constant: written by serve.py, by your build in earnest

const CHUNK = 65536;
const WRONG_PIN = `phantom1:${"a".repeat(52)}`;
const $ = (id) => document.getElementById(id);

// --- small things to draw ---------------------------------------------------------------------------------------------

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function facts(list, rows) {
  list.replaceChildren(...rows.flatMap(([term, text, name]) => [element("dt", term), element("dd", text, name)]));
}

function show(state, kind = "") {
  $("state").textContent = state;
  $("state").dataset.kind = kind;
}

/** A line that grows to the right; old points leave on the left. */
class Plot {
  constructor(canvas, unit, keep) {
    Object.assign(this, { canvas, unit, keep, points: [] });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  add(value) {
    this.points.push(value);
    if (this.points.length > this.keep) this.points.shift();
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { canvas, points } = this;
    const scale = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "12px system-ui";
    pen.textAlign = "right";
    const { color: accent, caretColor: soft, outlineColor: line } = getComputedStyle(canvas); // what the theme says
    const top = Math.max(...points, 0.001) * 1.15;
    pen.fillStyle = soft;
    pen.strokeStyle = line;
    for (const share of [0, 0.5, 1]) {
      const y = height - 8 - share * (height - 24);
      pen.beginPath();
      pen.moveTo(0, y);
      pen.lineTo(width, y);
      pen.stroke();
      if (points.length > 0 && share > 0) pen.fillText(`${(top * share).toPrecision(2)} ${this.unit}`, width, y - 3);
    }
    if (points.length < 2) return;
    const at = (index) => [
      (index / (this.keep - 1)) * width,
      height - 8 - (points[index] / top) * (height - 24),
    ];
    pen.beginPath();
    points.forEach((_, index) => pen.lineTo(...at(index)));
    pen.strokeStyle = accent;
    pen.lineWidth = 2;
    pen.stroke();
    pen.lineTo(at(points.length - 1)[0], height - 8);
    pen.lineTo(0, height - 8);
    pen.globalAlpha = 0.15;
    pen.fillStyle = accent;
    pen.fill();
  }
}

const rates = new Plot($("rate"), "MB/s", 60);
const trips = new Plot($("trip"), "ms", 60);

// --- the session ------------------------------------------------------------------------------------------------------

let session;
let waiting = [];

function ready(connected) {
  for (const control of [$("close"), $("file"), $("random"), $("echo").querySelector("button")])
    control.disabled = !connected;
  $("connect").disabled = connected;
}

/** Sends a message and waits for its echo; its milliseconds. */
async function trip(data) {
  const begun = performance.now();
  const back = new Promise((resolve, reject) => waiting.push({ resolve, reject }));
  await Promise.all([back, session.send(data)]);
  return [await back, performance.now() - begun];
}

async function listen(current) {
  try {
    for await (const message of current.messages) waiting.shift()?.resolve(message);
    show("closed");
  } catch (error) {
    refused(error);
  }
  for (const { reject } of waiting.splice(0)) reject(new Error("the session has ended"));
  if (session === current) {
    session = undefined;
    ready(false);
  }
}

async function ping(current) {
  while (session === current) {
    const ms = await trip(new Uint8Array(64)).then(
      ([, time]) => time,
      () => undefined,
    );
    if (ms === undefined) return;
    trips.add(ms);
    const sorted = trips.points.toSorted((a, b) => a - b);
    $("trip-now").textContent =
      `64 bytes: now ${ms.toFixed(1)} ms, median ${sorted[sorted.length >> 1].toFixed(1)} ms, worst ${sorted.at(-1).toFixed(1)} ms`;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

function refused(error) {
  const verdict = $("verdict");
  const known = error instanceof PhantomError;
  verdict.replaceChildren(element("b", known ? `${error.codeName} (${error.code})` : error.name), ` ${error.message}`);
  verdict.hidden = false;
  show(known && error.codeName === "SERVER_IDENTITY_MISMATCH" ? "refused" : "failed", "bad");
}

async function open() {
  const begun = performance.now();
  const steps = [];
  const step = (name) => {
    steps.push([name, performance.now() - begun]);
    const whole = steps.at(-1)[1];
    $("steps").replaceChildren(
      ...steps.map(([text, ms], index) => {
        const row = element("li", text);
        const bar = element("span", "", "bar");
        const fill = element("i");
        const from = index > 0 ? steps[index - 1][1] : 0;
        fill.style.marginLeft = `${(100 * from) / whole}%`;
        fill.style.width = `${Math.max(0.5, (100 * (ms - from)) / whole)}%`;
        bar.append(fill);
        row.append(bar, element("span", `${(ms - from).toFixed(1)} ms`, "ms"));
        return row;
      }),
    );
  };
  $("verdict").hidden = true;
  $("connect").disabled = true;
  facts($("facts"), []);
  show("connecting");
  try {
    await load();
    step("the core is loaded");
    const url = $("wrong").checked ? URL_WITH_PIN.replace(/phantom1:[^@]+/, WRONG_PIN) : URL_WITH_PIN;
    session = await connect(url, {
      onState: (state, reason) => {
        if (state === "handshake") step(reason);
        if (state === "connected") step("the server proved its key");
      },
    });
    const { algorithms, bytesSent, bytesReceived, seconds, suite, fingerprint, peer, version } = session.handshake;
    facts($("facts"), [
      ["server", peer],
      ["fingerprint, as pinned", fingerprint, "mono good"],
      ["algorithms", algorithms.join(", ")],
      ["packets", `${suite}, version ${version} of the protocol`],
      ["handshake", `${bytesSent} bytes there, ${bytesReceived} back, ${(1000 * seconds).toFixed(1)} ms`],
    ]);
    show("connected", "good");
    ready(true);
    waiting = [];
    void listen(session);
    void ping(session);
  } catch (error) {
    refused(error);
    ready(false);
  }
}

// --- a file, there and back -------------------------------------------------------------------------------------------

async function sha256(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function transfer(data) {
  ready(true);
  $("file").disabled = $("random").disabled = true;
  facts($("hashes"), []);
  let sent = 0;
  let received = 0;
  const back = new Uint8Array(data.length);
  const begun = performance.now();
  let [lastTime, lastBytes] = [begun, 0];
  const sample = setInterval(() => {
    const now = performance.now();
    const rate = (received - lastBytes) / 1e3 / (now - lastTime);
    [lastTime, lastBytes] = [now, received];
    rates.add(rate);
    $("rate-now").textContent = `there and back: now ${rate.toFixed(1)} MB/s`;
    $("up").value = sent / data.length;
    $("down").value = received / data.length;
  }, 100);
  try {
    const carrier = await connect(URL_WITH_PIN); // a session of its own, so that the pings beside it go on
    const up = (async () => {
      for (; sent < data.length; sent += CHUNK) await carrier.send(data.subarray(sent, sent + CHUNK));
    })();
    while (received < data.length) {
      const chunk = await carrier.recv();
      if (chunk === undefined) throw new Error("the server closed the session");
      back.set(chunk, received);
      received += chunk.length;
    }
    await up;
    const seconds = (performance.now() - begun) / 1000;
    await carrier.close();
    const [there, here] = [await sha256(data), await sha256(back)];
    facts($("hashes"), [
      ["sent", there, "mono"],
      ["back", here, "mono"],
      ["verdict", there === here ? "the same, byte for byte" : "different", there === here ? "good" : ""],
    ]);
    $("rate-now").textContent =
      `${(data.length / 1e6).toFixed(1)} MB there and back in ${seconds.toFixed(2)} s: ${(data.length / 1e6 / seconds).toFixed(1)} MB/s each way`;
    $("up").value = $("down").value = 1;
  } catch (error) {
    refused(error);
  } finally {
    clearInterval(sample);
    ready(session !== undefined);
  }
}

// --- what a person does -----------------------------------------------------------------------------------------------

$("connect").addEventListener("click", () => void open());
$("close").addEventListener("click", () => void session?.close());
$("echo").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [back, ms] = await trip(new TextEncoder().encode($("text").value)).catch((error) => [undefined, refused(error)]);
  if (back === undefined) return;
  const line = element("li", new TextDecoder().decode(back));
  line.append(element("span", `${ms.toFixed(1)} ms`));
  $("log").prepend(line);
});
$("random").addEventListener("click", () => {
  const data = new Uint8Array(8 << 20);
  for (let at = 0; at < data.length; at += CHUNK) crypto.getRandomValues(data.subarray(at, at + CHUNK));
  void transfer(data);
});
$("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) await transfer(new Uint8Array(await file.arrayBuffer()));
  event.target.value = "";
});
