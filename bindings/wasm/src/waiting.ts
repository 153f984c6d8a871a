// Waiting that an AbortSignal ends.

/** `work`, or a rejection with the signal's reason as soon as it aborts; `onAbort` runs then. */
export function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined, onAbort?: () => void): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      onAbort?.();
      reject(signal.reason);
    };
    if (signal.aborted) {
      work.catch(() => undefined);
      abort();
      return;
    }
    signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

interface Waiter<T> {
  resolve(item: T | undefined): void;
  reject(error: unknown): void;
}

/** Takes items one after another from the core. What an aborted call would have got goes to the next: nothing is lost. */
export class Inbox<T> {
  readonly #fetch: () => Promise<T | undefined>;
  #waiting: Waiter<T>[] = [];
  readonly #kept: T[] = [];
  #running = false;

  constructor(fetch: () => Promise<T | undefined>) {
    this.#fetch = fetch;
  }

  /** The next item; undefined at the end. */
  take(signal: AbortSignal | undefined): Promise<T | undefined> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#kept.length > 0) return Promise.resolve(this.#kept.shift());
    let waiter: Waiter<T> | undefined;
    const item = new Promise<T | undefined>((resolve, reject) => this.#waiting.push((waiter = { resolve, reject })));
    if (!this.#running) void this.#run();
    return abortable(item, signal, () => {
      this.#waiting = this.#waiting.filter((other) => other !== waiter);
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    try {
      while (this.#waiting.length > 0) {
        const item = await this.#fetch();
        if (item === undefined) for (const waiter of this.#waiting.splice(0)) waiter.resolve(undefined);
        else if (this.#waiting.length > 0) this.#waiting.shift()?.resolve(item);
        else this.#kept.push(item);
      }
    } catch (error) {
      for (const waiter of this.#waiting.splice(0)) waiter.reject(error);
    } finally {
      this.#running = false;
    }
  }
}

/** A stream that pulls one item when one is read, and an async iterable also where streams are none. */
export type Readable<T> = ReadableStream<T> & AsyncIterable<T>;

export function readable<T>(take: () => Promise<T | undefined>): Readable<T> {
  const stream = new ReadableStream<T>(
    {
      async pull(controller) {
        const item = await take();
        if (item === undefined) controller.close();
        else controller.enqueue(item);
      },
    },
    { highWaterMark: 0 },
  );
  const iterable = stream as Readable<T>;
  if (!(Symbol.asyncIterator in stream))
    Object.defineProperty(stream, Symbol.asyncIterator, {
      async *value(this: ReadableStream<T>) {
        const reader = this.getReader();
        try {
          for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
        } finally {
          await reader.cancel();
        }
      },
    });
  return iterable;
}
