// What a page does with the package, the same in Chromium and in Node. Each throws when something is not as it should be.
// `phantom` is the package; `at`: {serve, streams: urls with pins; wrong: a pin of nobody; closed: a url where nobody is}.

function same(actual, expected, what) {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a}, not ${b}`);
}

async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it did not fail");
}

const text = (data) => new TextDecoder().decode(data);
const bytes = (string) => new TextEncoder().encode(string);
const hex = (data) => Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
const sha256 = async (data) => hex(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));

function random(size) {
  const data = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(data.subarray(at, Math.min(size, at + 65536)));
  return data;
}

async function everything(readable) {
  const parts = [];
  for await (const part of readable) parts.push(part);
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export const scenarios = {
  async echo(phantom, at) {
    const states = [];
    const session = await phantom.connect(at.serve, { onState: (state, reason) => states.push([state, reason]) });
    same(session.state, "connected", "state");
    await session.send(bytes("ping from a page"));
    same(text(await session.recv()), "ping from a page", "echo");
    await session.send(new ArrayBuffer(0));
    same((await session.recv()).length, 0, "an empty message");
    same(session.handshake.fingerprint, (await session.info()).fingerprint, "fingerprint");
    if (!at.serve.includes(session.handshake.fingerprint)) throw new Error("the fingerprint is not the pin");
    same((await session.metrics()).messagesReceived >= 2, true, "counted");
    same(await session.close(), true, "acknowledged");
    same(await session.recv(), undefined, "after the end");
    same(session.state, "closed", "state");
    const told = states.map(([state]) => state);
    same([told[0], told.includes("connected"), told.at(-1)], ["handshake", true, "closed"], "states");
    return session.handshake;
  },

  async "1 MiB both ways"(phantom, at) {
    const session = await phantom.connect(at.serve);
    const data = random(1 << 20);
    await session.send(data);
    same(data.length, 1 << 20, "what was sent is kept");
    same(await sha256(await session.recv()), await sha256(data), "hash");
    const digest = await sha256(data);
    await session.send(data, { transfer: true });
    same(data.length, 0, "what was given away is gone");
    same(await sha256(await session.recv()), digest, "hash");
    const part = new Uint8Array(random(100).buffer, 10, 50);
    await session.send(part, { transfer: true });
    same(hex(await session.recv()), hex(part), "a part of a buffer is copied");
    await session.close();
  },

  async "messages as stream and iterable"(phantom, at) {
    const session = await phantom.connect(at.serve);
    for (const word of ["a", "b", "c", "d"]) await session.send(bytes(word));
    const seen = [];
    for await (const message of session.messages) {
      seen.push(text(message));
      if (seen.length === 2) break;
    }
    const reader = session.messages.getReader();
    seen.push(text((await reader.read()).value), text((await reader.read()).value));
    same(seen, ["a", "b", "c", "d"], "messages");
    await session.close();
    same((await reader.read()).done, true, "the end");
  },

  async streams(phantom, at) {
    const session = await phantom.connect(at.streams);
    const data = random(300_000);
    const one = await session.openStream({ priority: 3 });
    const two = await session.openStream();
    same([one.id % 2, two.id % 2, one.id !== two.id], [1, 1, true], "ids");
    await one.setPriority(1);
    const collected = Promise.all([everything(one.readable), everything(two.readable)]);
    await one.send(data);
    await two.send(bytes("beside it"));
    await Promise.all([one.finish(), two.finish()]);
    const [first, second] = await collected;
    same(await sha256(first), await sha256(data), "hash");
    same(text(second), "beside it", "the other");
    await session.send(bytes("message"));
    same(text(await session.recv()), "message", "a message beside the streams");
    const three = await session.openStream();
    await three.reset(7);
    same((await rejection(three.send(bytes("x")))).name, "PhantomError", "after a reset");
    await session.close();
  },

  async "keys"(phantom, at) {
    const session = await phantom.connect(at.streams);
    const before = hex(await session.exportKeyingMaterial("test", 32));
    same(before.length, 64, "exported");
    same(await session.rekey(), 1, "epoch");
    await session.send(bytes("after"));
    same(text(await session.recv()), "after", "echo");
    same((await session.info()).epoch, 1, "epoch");
    await session.close();
  },

  async "a wrong pin is refused"(phantom, at) {
    const error = await rejection(phantom.connect(at.serve.replace(/phantom1:[^@]*/, at.wrong)));
    same(error instanceof phantom.PhantomError, true, "class");
    same([error.name, error.code, error.codeName], ["PhantomError", 20, "SERVER_IDENTITY_MISMATCH"], "error");
    same(error.code, phantom.ErrorCode.SERVER_IDENTITY_MISMATCH, "code");
    same(error.retryable, false, "retryable");
  },

  async "bad arguments"(phantom, at) {
    const codes = [];
    for (const [url, pin] of [
      ["ws://127.0.0.1:1/phantom", undefined],
      ["ws://127.0.0.1:1/phantom", "phantom1:short"],
      [at.closed, at.wrong],
      ["tcp://127.0.0.1:1", at.wrong],
    ])
      codes.push((await rejection(phantom.connect(url, { pin }))).codeName);
    same(codes, ["CONFIG", "VALIDATION", "NETWORK", "UNSUPPORTED"], "errors");
    const session = await phantom.connect(at.serve);
    same((await rejection(session.send("text"))).codeName, "VALIDATION", "text");
    await session.send(bytes("still there"));
    same(text(await session.recv()), "still there", "echo");
    await session.close();
  },

  async "an aborted connect"(phantom, at) {
    const reason = new Error("no longer wanted");
    const before = new AbortController();
    before.abort(reason);
    same((await rejection(phantom.connect(at.serve, { signal: before.signal }))) === reason, true, "before");
    const during = new AbortController();
    const onState = (_, step) => step === "the WebSocket is open" && during.abort(reason);
    same((await rejection(phantom.connect(at.serve, { signal: during.signal, onState }))) === reason, true, "during");
  },

  async "an aborted receive loses nothing"(phantom, at) {
    const session = await phantom.connect(at.serve);
    const controller = new AbortController();
    const waiting = rejection(session.recv({ signal: controller.signal }));
    controller.abort();
    same((await waiting).name, "AbortError", "reason");
    await session.send(bytes("kept"));
    same(text(await session.recv()), "kept", "the next receive");
    await session.close();
  },

  async "the signal of a connect ends the session"(phantom, at) {
    const controller = new AbortController();
    const session = await phantom.connect(at.serve, { signal: controller.signal });
    const waiting = rejection(session.recv());
    controller.abort();
    same((await waiting).codeName, "SESSION_DEAD", "a receive that waits");
    same((await rejection(session.send(bytes("x")))).codeName, "SESSION_DEAD", "a send");
    same(session.state, "dead", "state");
  },

  async "8 sessions in one page"(phantom, at) {
    const sessions = await Promise.all(Array.from({ length: 8 }, () => phantom.connect(at.serve)));
    same(new Set(sessions.map((session) => session.id)).size, 8, "ids");
    await Promise.all(
      sessions.map(async (session, number) => {
        for (let round = 0; round < 5; round++) {
          await session.send(bytes(`${number}/${round}`));
          same(text(await session.recv()), `${number}/${round}`, "echo");
        }
        same(await session.close(), true, "acknowledged");
      }),
    );
  },

  async "64 sessions in one page"(phantom, at) {
    const sessions = await Promise.all(Array.from({ length: 64 }, () => phantom.connect(at.many)));
    const echoed = await Promise.all(
      sessions.map(async (session, number) => {
        await session.send(bytes(String(number)));
        return text(await session.recv());
      }),
    );
    same(echoed, Array.from({ length: 64 }, (_, number) => String(number)), "echoes");
    await Promise.all(sessions.map((session) => session.close()));
  },

  async "a page that does not read holds a bounded amount"(phantom, at) {
    const session = await phantom.connect(at.streams);
    const count = 1024; // 64 MiB
    await session.send(bytes(`down ${count}`));
    let [held, before] = [0, -1];
    while (held !== before) {
      before = held; // until nothing more comes
      await new Promise((resolve) => setTimeout(resolve, 400));
      held = (await session.metrics()).bytesReceived;
    }
    same(held > 0 && held < (count * 65536) / 2, true, `${held} bytes held`);
    for (let number = 0; number < count; number++) same((await session.recv()).length, 65536, "size");
    await session.close();
    return held;
  },

  async "a server that is gone is a typed error, and the next one is found"(phantom, at) {
    const session = await phantom.connect(at.streams);
    const waiting = rejection(session.recv());
    await at.stop();
    const error = await waiting;
    same([error.name, error.codeName], ["PhantomError", "SESSION_DEAD"], "a receive that waits");
    same(session.state, "dead", "state");
    same((await rejection(phantom.connect(at.streams))).codeName, "NETWORK", "a connect to nobody");
    const other = await phantom.connect(at.serve);
    await other.send(bytes("another"));
    same(text(await other.recv()), "another", "echo");
    await other.close();
  },

  async "shutdown ends the sessions, and a connect starts anew"(phantom, at) {
    const session = await phantom.connect(at.serve);
    const waiting = rejection(session.recv());
    phantom.shutdown();
    same((await waiting).codeName, "CONNECTION_CLOSED", "a receive that waits");
    same(session.state, "failed", "state");
    const again = await phantom.connect(at.serve);
    await again.send(bytes("anew"));
    same(text(await again.recv()), "anew", "echo");
    await again.close();
  },
};

/** name -> {ms, result?, error?} */
export async function run(phantom, at) {
  const results = {};
  const begun = performance.now();
  await phantom.load();
  results.load = { ms: Math.round(performance.now() - begun) };
  for (const [name, scenario] of Object.entries(scenarios)) {
    const start = performance.now();
    try {
      const result = await scenario(phantom, at);
      results[name] = { ms: Math.round(performance.now() - start), result };
    } catch (error) {
      results[name] = { ms: Math.round(performance.now() - start), error: String(error?.stack ?? error) };
    }
  }
  phantom.shutdown();
  return results;
}
