import { ERRORS, ErrorCode, type ErrorName } from "./generated/errors.js";
import type { Failure } from "./protocol.js";

/** What every failure of Phantom is. `code` is stable; see `ErrorCode`. */
export class PhantomError extends Error {
  override readonly name = "PhantomError";
  /** The stable number. */
  readonly code: ErrorCode;
  /** The number's name, such as "SERVER_IDENTITY_MISMATCH". */
  readonly codeName: ErrorName;
  /** The same call may succeed later. */
  readonly retryable: boolean;
  /** The code of the peer's close, if it said one. */
  readonly peerCode: number | undefined;
  /** The code of the reset, if a stream was reset. */
  readonly resetCode: number | undefined;

  constructor(failure: Failure) {
    super(failure.message);
    this.code = failure.code as ErrorCode;
    this.codeName = (ERRORS[this.code] ?? ERRORS[ErrorCode.INTERNAL]).name as ErrorName;
    this.retryable = failure.retryable;
    this.peerCode = failure.peerCode;
    this.resetCode = failure.resetCode;
  }
}

/** An error that arises on this side of the worker. */
export function local(code: ErrorCode, message: string): PhantomError {
  const { retryable, name } = ERRORS[code];
  return new PhantomError({ code, kind: name, message, retryable, peerCode: undefined, resetCode: undefined });
}
