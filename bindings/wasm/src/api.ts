// What a page calls.
import { local } from "./errors.js";
import { ErrorCode } from "./generated/errors.js";
import type { ConnectionState } from "./generated/messages.js";
import type { Remote } from "./remote.js";
import { Inbox, abortable, readable, type Readable } from "./waiting.js";

export { PhantomError } from "./errors.js";
export { ERRORS, ErrorCode, type Branch, type ErrorInfo, type ErrorName } from "./generated/errors.js";
export { PACKAGE_VERSION } from "./generated/constants.js";
export type { Readable } from "./waiting.js";

/** Where a session is in its life: the states of the definition, in lower case. */
export type State = Lowercase<keyof typeof ConnectionState>;

/** What `onState` is told: a state, a step of the handshake, or a change of keys. */
export type Progress = State | "handshake" | "rekeyed";

/** Bytes to send. */
export type Bytes = Uint8Array | ArrayBuffer;

export interface Waiting {
  /** Ends the waiting: the promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface ConnectOptions {
  /** The server's pin, `phantom1:…`, if the url has none. */
  pin?: string | undefined;
  /** Abandons the connect; later, ends the session at once. */
  signal?: AbortSignal | undefined;
  /** Told of each step of the handshake and of each change of state. */
  onState?: ((state: Progress, reason: string) => void) | undefined;
  /** Limit of the whole connect, in seconds; 20 by default. */
  timeout?: number | undefined;
  /** Seconds between signs of life of an idle session. */
  keepalive?: number | undefined;
  /** Largest message taken, in bytes. */
  maxMessage?: number | undefined;
}

export interface SendOptions extends Waiting {
  /** Gives `data` away instead of copying it: it is empty afterwards. */
  transfer?: boolean | undefined;
}

/** What was negotiated, and what it took. */
export interface SessionInfo {
  /** Seconds from the hello to the established session. */
  readonly seconds: number;
  /** Seconds until the WebSocket was open. */
  readonly openSeconds: number;
  /** Bytes of the handshake. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly retries: number;
  readonly algorithms: readonly string[];
  readonly suite: string;
  readonly receiveSuite?: string | undefined;
  readonly version: number;
  readonly leg: string;
  readonly epoch: number;
  /** Of the server's key, which is the pinned one. */
  readonly fingerprint?: string | undefined;
  readonly peer: string;
}

/** Counts of a session so far. */
export interface Metrics {
  readonly uptime: number;
  readonly packetsSent: number;
  readonly packetsReceived: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly messagesSent: number;
  readonly messagesReceived: number;
  readonly retransmissions: number;
  readonly rekeys: number;
  readonly rttMs?: number | undefined;
  /** Messages and bytes that wait to be sent. */
  readonly queued: number;
  readonly buffered: number;
}

/** The bytes alone, in a buffer that may be transferred. */
function own(data: Bytes, transfer: boolean | undefined): Uint8Array<ArrayBuffer> {
  if (data instanceof ArrayBuffer) return new Uint8Array(transfer ? data : data.slice(0));
  if (!(data instanceof Uint8Array)) throw local(ErrorCode.VALIDATION, "data is a Uint8Array or an ArrayBuffer");
  const whole = data.buffer instanceof ArrayBuffer && data.byteLength === data.buffer.byteLength;
  return transfer && whole ? (data as Uint8Array<ArrayBuffer>) : new Uint8Array(data);
}

/** What lives in the core. */
class Remoted {
  /** @internal */
  readonly remote: Remote;
  /** @internal */
  readonly handle: number;

  /** @internal */
  constructor(remote: Remote, handle: number) {
    this.remote = remote;
    this.handle = handle;
    remote.adopt(this, handle);
  }

  /** @internal */
  async call(method: string, args: readonly unknown[] = []): Promise<unknown> {
    return this.remote.request({ op: "call", handle: this.handle, method, args });
  }

  /** @internal */
  async give(method: string, data: Bytes, options: SendOptions): Promise<void> {
    options.signal?.throwIfAborted();
    const bytes = own(data, options.transfer);
    const sent = this.remote.request({ op: "call", handle: this.handle, method, args: [bytes] }, [bytes.buffer]);
    await abortable(sent, options.signal);
  }
}

/** A stream of bytes beside the messages of a session. */
export class Stream extends Remoted {
  /** Odd if this side opened it. */
  readonly id: number;
  /** The largest unreliable send, in bytes. */
  readonly maxUnreliableSize: number;
  /** A stream whose session was forgotten would end with it. */
  readonly session: Session;
  readonly #inbox = new Inbox<Uint8Array>(async () => (await this.call("recv")) as Uint8Array | undefined);

  /** @internal */
  constructor(session: Session, handle: number, made: { id: number; maxUnreliableSize: number }) {
    super(session.remote, handle);
    this.session = session;
    this.id = made.id;
    this.maxUnreliableSize = made.maxUnreliableSize;
  }

  /** Queues bytes; waits for room. */
  send(data: Bytes, options: SendOptions = {}): Promise<void> {
    return this.give("send", data, options);
  }

  /** One chunk that need not arrive. */
  sendUnreliable(data: Bytes, options: SendOptions = {}): Promise<void> {
    return this.give("send_unreliable", data, options);
  }

  /** The next bytes; undefined when the peer has finished and all was read. */
  recv({ signal }: Waiting = {}): Promise<Uint8Array | undefined> {
    return this.#inbox.take(signal);
  }

  /** What comes, as a ReadableStream and an async iterable. */
  get readable(): Readable<Uint8Array> {
    return readable(() => this.recv());
  }

  /** Ends the sending half. */
  async finish(): Promise<void> {
    await this.call("finish");
  }

  /** Abandons the sending half; what was not delivered is not. */
  async reset(code = 0): Promise<void> {
    await this.call("reset", [code]);
  }

  /** Asks the peer to abandon its half. */
  async stop(code = 0): Promise<void> {
    await this.call("stop", [code]);
  }

  /** Higher is served first. */
  async setPriority(priority: number): Promise<void> {
    await this.call("set_priority", [priority]);
  }
}

/** A session with a pinned server. */
export class Session extends Remoted {
  /** The session id in hex. */
  readonly id: string;
  /** What the handshake negotiated, and what it took. */
  readonly handshake: SessionInfo;
  #state: State = "connected";
  readonly #inbox = new Inbox<Uint8Array>(async () => (await this.call("recv")) as Uint8Array | undefined);
  readonly #streams = new Inbox<Stream>(() => this.#make("accept_stream", []));

  /** @internal */
  constructor(remote: Remote, handle: number, made: { id: string; info: SessionInfo }) {
    super(remote, handle);
    this.id = made.id;
    this.handshake = made.info;
  }

  /** Where it is in its life. */
  get state(): State {
    return this.#state;
  }

  /** @internal */
  follow(state: State): void {
    this.#state = state;
  }

  async #make(method: string, args: readonly unknown[]): Promise<Stream | undefined> {
    const made = this.remote.handle();
    const request = { op: "make", handle: this.handle, method, made, args } as const;
    const stream = (await this.remote.request(request)) as { id: number; maxUnreliableSize: number } | undefined;
    return stream && new Stream(this, made, stream);
  }

  /** Queues one message; waits for room. It may still be sent when the signal aborts. */
  send(data: Bytes, options: SendOptions = {}): Promise<void> {
    return this.give("send", data, options);
  }

  /** The next message; undefined after the peer's orderly end. */
  recv({ signal }: Waiting = {}): Promise<Uint8Array | undefined> {
    return this.#inbox.take(signal);
  }

  /** What comes, as a ReadableStream and an async iterable. */
  get messages(): Readable<Uint8Array> {
    return readable(() => this.recv());
  }

  /** A stream of this side. */
  openStream({ priority = 0, signal }: { priority?: number | undefined } & Waiting = {}): Promise<Stream> {
    const opening = this.#make("open_stream", [priority]) as Promise<Stream>;
    const undo = (): void => void opening.then((stream) => stream.reset()).catch(() => undefined);
    return abortable(opening, signal, undo);
  }

  /** A stream of the peer; undefined after its orderly end. */
  acceptStream({ signal }: Waiting = {}): Promise<Stream | undefined> {
    return this.#streams.take(signal);
  }

  /** Changes the keys; the new epoch. */
  async rekey({ signal }: Waiting = {}): Promise<number> {
    return (await abortable(this.call("rekey"), signal)) as number;
  }

  /** Keying material that only the two ends of this session can make. */
  async exportKeyingMaterial(label: string, length = 32): Promise<Uint8Array> {
    return (await this.call("export", [label, length])) as Uint8Array;
  }

  /** Waits until the peer has acknowledged everything. */
  async flush({ signal }: Waiting = {}): Promise<void> {
    await abortable(this.call("flush"), signal);
  }

  /** What is negotiated now. */
  async info(): Promise<SessionInfo> {
    return (await this.call("info")) as SessionInfo;
  }

  async metrics(): Promise<Metrics> {
    return (await this.call("metrics")) as Metrics;
  }

  /** Sends what is queued and ends the session; whether the peer acknowledged everything. */
  async close(code = 0, { signal }: Waiting = {}): Promise<boolean> {
    return (await abortable(this.call("close", [code]), signal, () => this.abort())) as boolean;
  }

  /** Ends the session at once. */
  abort(): void {
    this.remote.notify({ op: "abandon", handle: this.handle });
  }
}
