// The page's side of the worker: calls that are under way, and what each session tells.
import { PhantomError, local } from "./errors.js";
import { ErrorCode } from "./generated/errors.js";
import type { Answer, Notice, Port, Request } from "./protocol.js";

/** A worker that was started. */
export interface Spawned extends Port {
  listen(onMessage: (message: Answer) => void, onError: (message: string) => void): void;
  terminate(): void;
  /** Whether it keeps the process alive (Node). */
  hold(busy: boolean): void;
}

type Settle = { resolve(value: unknown): void; reject(error: unknown): void };

/** One worker with one core; all sessions of a page share it. */
export class Remote {
  readonly #port: Spawned;
  readonly #calls = new Map<number, Settle>();
  readonly #states = new Map<number, (state: string, reason: string) => void>();
  readonly #dropped = new FinalizationRegistry<number>((handle) => this.forget(handle));
  #last = 0;
  #dead: PhantomError | undefined;

  constructor(port: Spawned) {
    this.#port = port;
    port.listen(
      (message) => this.#take(message),
      (message) => this.end(local(ErrorCode.RUNTIME_INIT, `the worker of the core failed: ${message}`)),
    );
  }

  get dead(): boolean {
    return this.#dead !== undefined;
  }

  /** A number for something new. */
  handle(): number {
    return ++this.#last;
  }

  /** When `owner` is collected, the core forgets its object; a session ends with it. */
  adopt(owner: object, handle: number): void {
    this.#dropped.register(owner, handle);
  }

  watch(handle: number, onState: (state: string, reason: string) => void): void {
    this.#states.set(handle, onState);
    this.#hold();
  }

  request(request: Omit<Request, "id">, transfer: ArrayBuffer[] = []): Promise<unknown> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#port.postMessage({ ...request, id }, transfer); // throws for an array that was transferred before
      this.#calls.set(id, { resolve, reject });
      this.#hold();
    });
  }

  notify(notice: Notice): void {
    if (this.#dead === undefined) this.#port.postMessage(notice, []);
  }

  forget(handle: number): void {
    this.#states.delete(handle);
    this.notify({ op: "release", handle });
    this.#hold();
  }

  /** Ends the worker; whatever waits fails. */
  end(why: PhantomError): void {
    if (this.#dead !== undefined) return;
    this.#dead = why;
    this.#port.terminate();
    for (const call of this.#calls.values()) call.reject(why);
    for (const onState of this.#states.values()) onState("failed", why.message);
    this.#calls.clear();
    this.#states.clear();
  }

  #take(message: Answer): void {
    if ("state" in message) {
      this.#states.get(message.handle)?.(message.state, message.reason);
      if (["closed", "failed", "dead"].includes(message.state)) this.#states.delete(message.handle);
    } else {
      const call = this.#calls.get(message.id);
      this.#calls.delete(message.id);
      if ("failure" in message) call?.reject(new PhantomError(message.failure));
      else call?.resolve(message.result);
    }
    this.#hold();
  }

  #hold(): void {
    if (this.#dead === undefined) this.#port.hold(this.#calls.size + this.#states.size > 0);
  }
}
