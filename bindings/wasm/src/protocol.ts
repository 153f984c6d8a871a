// What the page and the core's worker say to each other. Handles are numbers that the page chooses.

/** A call: `id` comes back with the answer. */
export interface Request {
  readonly id: number;
  readonly op: "load" | "connect" | "call" | "make";
  /** What is called; in `connect` the new channel. */
  readonly handle: number;
  readonly method?: string;
  /** In `make`: the handle of what the call returns. */
  readonly made?: number;
  readonly args: readonly unknown[];
}

/** No answer comes: `abandon` ends a connect or a session at once, `release` forgets an object. */
export interface Notice {
  readonly op: "abandon" | "release";
  readonly handle: number;
}

/** A failure, as data. */
export interface Failure {
  readonly code: number;
  readonly kind: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly peerCode: number | undefined;
  readonly resetCode: number | undefined;
}

export type Answer =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly failure: Failure }
  | { readonly handle: number; readonly state: string; readonly reason: string };

/** Both ends of a worker look like this. */
export interface Port {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
}
