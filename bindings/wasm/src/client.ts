// The functions of the package.
import { Session, type ConnectOptions, type Progress, type SessionInfo, type State } from "./api.js";
import { local } from "./errors.js";
import { ErrorCode } from "./generated/errors.js";
import { Remote, type Spawned } from "./remote.js";
import { abortable } from "./waiting.js";

/** The functions of the package over one kind of worker. */
export function client(spawn: (base: string | URL | undefined) => Spawned) {
  let remote: Remote | undefined;

  function running(base?: string | URL): Remote {
    if (remote === undefined || remote.dead) remote = new Remote(spawn(base));
    return remote;
  }

  /**
   * Starts the worker and loads the core, so that the first connect need not. `base` is where the files of `dist/` are,
   * if not beside this module.
   */
  async function load({ base }: { base?: string | URL | undefined } = {}): Promise<void> {
    await running(base).request({ op: "load", handle: 0, args: [] });
  }

  /** A session with the server behind `url` (`ws://`, `wss://`, or `phantom+wss://` with the pin in it). */
  async function connect(url: string, options: ConnectOptions = {}): Promise<Session> {
    const { pin, signal, onState, timeout, keepalive, maxMessage } = options;
    signal?.throwIfAborted();
    const core = running();
    const handle = core.handle();
    let session: Session | undefined;
    let ended: State | undefined;
    const held = { get: (): Session | undefined => undefined };
    core.watch(handle, (state, reason) => {
      if (state !== "handshake" && state !== "rekeyed") {
        ended = state as State;
        held.get()?.follow(ended);
      }
      onState?.(state as Progress, reason);
    });
    const abandon = (): void => core.notify({ op: "abandon", handle });
    signal?.addEventListener("abort", abandon, { once: true });
    try {
      const given = Object.fromEntries(
        Object.entries({ timeout, keepalive, maxMessage }).filter(([, value]) => value !== undefined),
      );
      const connecting = core.request({ op: "connect", handle, args: [url, pin, given] });
      connecting.then(() => signal?.aborted && core.forget(handle)).catch(() => undefined);
      const made = await abortable(connecting, signal);
      session = new Session(core, handle, made as { id: string; info: SessionInfo });
      const weak = new WeakRef(session); // a session that nobody holds any more is forgotten, and so ends
      held.get = () => weak.deref();
      if (ended !== undefined) session.follow(ended);
      return session;
    } catch (error) {
      signal?.removeEventListener("abort", abandon);
      core.forget(handle);
      throw error;
    }
  }

  /** Ends the worker and every session with it. The next connect starts another. */
  function shutdown(): void {
    remote?.end(local(ErrorCode.CONNECTION_CLOSED, "the core was shut down"));
    remote = undefined;
  }

  return { load, connect, shutdown };
}
