// The worker's side: Pyodide with the core in it, and the calls of the page.
import { createBridge } from "./noble.js";
import { ErrorCode } from "./generated/errors.js";
import type { Answer, Failure, Notice, Port, Request } from "./protocol.js";

/** A Python object; every method of it that is used here. */
interface Proxy {
  destroy(): void;
  cancel(): void;
  abort(): void;
  readonly id: unknown;
  readonly [method: string]: unknown;
}

interface PhantomBrowser {
  self_test(): string[];
  begin(url: string, pin: unknown, factory: SocketFactory, onState: (state: string, reason: string) => void, options: unknown): Proxy;
}

/** `phantom_browser.settled`: a failure is a value, an Error. */
interface Settled {
  call(method: unknown, ...args: readonly unknown[]): PromiseLike<unknown>;
  ready(connecting: Proxy): PromiseLike<Proxy | Error>;
}

interface Core {
  readonly phantom: PhantomBrowser;
  readonly settled: Settled;
}

interface Pyodide {
  unpackArchive(buffer: Uint8Array, format: string, options: { extractDir: string }): void;
  runPython(code: string): unknown;
  pyimport(name: string): unknown;
}

export type SocketFactory = (url: string, protocols: string[]) => unknown;

/** Where the parts of the package are, and how this kind of worker gets at them. */
export interface Platform {
  /** `loadPyodide` of the copy in this package. */
  loadPyodide(): Promise<unknown>;
  wheel(): Promise<Uint8Array>;
  socket: SocketFactory;
}

/** The empty module. Where a policy forbids to compile, this says so, and Pyodide would wait for ever. */
const EMPTY = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);

async function boot(platform: Platform): Promise<Core> {
  await WebAssembly.compile(EMPTY);
  const [loaded, wheel] = await Promise.all([platform.loadPyodide(), platform.wheel()]);
  const pyodide = loaded as Pyodide;
  (globalThis as { __noble?: unknown }).__noble = createBridge();
  pyodide.unpackArchive(wheel, "wheel", { extractDir: "/phantom" });
  pyodide.runPython("import sys; sys.path.insert(0, '/phantom')");
  const phantom = pyodide.pyimport("phantom_browser") as PhantomBrowser;
  phantom.self_test();
  return { phantom, settled: pyodide.pyimport("phantom_browser.settled") as Settled };
}

function failure(error: unknown, otherwise: number): Failure {
  const seen = error as Partial<Failure> & { name?: string };
  if (seen.name === "PhantomError" && typeof seen.code === "number")
    return {
      code: seen.code,
      kind: String(seen.kind),
      message: String(seen.message),
      retryable: seen.retryable === true,
      peerCode: seen.peerCode,
      resetCode: seen.resetCode,
    };
  const kind = otherwise === ErrorCode.RUNTIME_INIT ? "RuntimeInitError" : "InternalError";
  return { code: otherwise, kind, message: String(seen.message ?? error), retryable: false, peerCode: undefined, resetCode: undefined };
}

/** Answers what comes from the page. */
export function serve(port: Port, platform: Platform): (message: Request | Notice) => void {
  const objects = new Map<number, Proxy>();
  const connecting = new Map<number, Proxy>();
  let core: Promise<Core> | undefined;

  const answer = (message: Answer, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer);

  function object(handle: number): Proxy {
    const found = objects.get(handle);
    if (found === undefined) throw new Error(`no object ${handle}`);
    return found;
  }

  async function connect({ phantom, settled }: Core, handle: number, args: readonly unknown[]): Promise<unknown> {
    const [url, pin, options] = args as [string, unknown, unknown];
    const onState = (state: string, reason: string): void => answer({ handle, state, reason });
    const begun = phantom.begin(url, pin, platform.socket, onState, options);
    connecting.set(handle, begun);
    try {
      const channel = await settled.ready(begun);
      if (channel instanceof Error) throw channel;
      objects.set(handle, channel);
      return { id: channel.id, info: (channel["info"] as () => unknown)() };
    } finally {
      connecting.delete(handle);
      begun.destroy();
    }
  }

  async function call({ settled }: Core, { handle, method, args, made }: Request): Promise<unknown> {
    const value = await settled.call(object(handle)[method as string], ...args);
    if (value instanceof Error) throw value;
    if (made === undefined || value === undefined) return value;
    const stream = value as Proxy;
    objects.set(made, stream);
    return { id: stream.id, maxUnreliableSize: stream["max_unreliable_size"] };
  }

  async function perform(request: Request): Promise<void> {
    let otherwise: number = ErrorCode.RUNTIME_INIT;
    try {
      const booted = await (core ??= boot(platform));
      otherwise = ErrorCode.INTERNAL;
      const { op, handle, args } = request;
      const result = op === "load" ? undefined : op === "connect" ? await connect(booted, handle, args) : await call(booted, request);
      answer({ id: request.id, result }, result instanceof Uint8Array ? [result.buffer as ArrayBuffer] : []);
    } catch (error) {
      if (otherwise === ErrorCode.RUNTIME_INIT) core = undefined; // the next call tries again
      answer({ id: request.id, failure: failure(error, otherwise) });
    }
  }

  return (message) => {
    if ("id" in message) {
      void perform(message);
      return;
    }
    connecting.get(message.handle)?.cancel();
    const proxy = objects.get(message.handle);
    if (proxy === undefined) return;
    if ("abort" in proxy) proxy.abort();
    if (message.op === "abandon") return;
    objects.delete(message.handle);
    proxy.destroy();
  };
}
