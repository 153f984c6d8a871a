"""Phantom sessions for a page: what the module worker calls in Pyodide.

JavaScript sets the bridge first (``globalThis.__noble = createBridge()`` of ``src/noble.ts``), then::

    const phantom = py.pyimport("phantom_browser")
    phantom.self_test()                       // once; throws if a primitive fails its known answers
    const channel = await phantom.connect(url, pin, socketFactory, onState)

Signatures, as JavaScript sees them (T? = may be undefined; every number of seconds may be undefined = no limit)::

    self_test(): string[]                                        names of the tests that passed
    version(): string
    check(url: string, pin: string?): {host, port, leg, path, fingerprints: string[]}      throws what connect would
    connect(url: string, pin: string?, socketFactory, onState, options: {timeout?: number, suite?: string,
            keepalive?: number, maxMessage?: number}?): Promise<Channel>
    socketFactory(url: string, protocols: string[]): WebSocket   a socket that is connecting; this module sets its handlers
    onState(state: string, reason: string): void                 "connecting" | "connected" | ... (ConnectionState in lower case)
                                                                 and "handshake" with the step as reason, for demos

    Channel:
      send(data: Uint8Array, timeout: number?): Promise<void>    copies data before it returns; waits for room
      recv(timeout: number?): Promise<Uint8Array | undefined>    a message with an ArrayBuffer of its own (transfer it);
                                                                 undefined after the peer's orderly end
      open_stream(priority: number?, timeout: number?): Promise<Stream>
      accept_stream(timeout: number?): Promise<Stream | undefined>         undefined at the session's orderly end
      rekey(timeout: number?): Promise<number>                   the new epoch
      export(label: string, length: number): Uint8Array
      flush(timeout: number?): Promise<number>                   waits for the peer's acknowledgements
      close(code: number?, timeout: number?): Promise<boolean>   true: the peer acknowledged everything; never throws for
                                                                 a session that is over
      abort(): void                                              ends it at once (AbortSignal)
      state: string;  id: string
      info(): {seconds, bytesSent, bytesReceived, retries, algorithms: string[], suite, receiveSuite?, version, leg,
               epoch, fingerprint, peer}
      metrics(): {uptime, packetsSent, packetsReceived, bytesSent, bytesReceived, messagesSent, messagesReceived,
                  retransmissions, rekeys, rttMs?, queued, buffered}
    Stream:
      send(data: Uint8Array, timeout: number?): Promise<void>
      send_unreliable(data: Uint8Array, timeout: number?): Promise<void>
      recv(timeout: number?): Promise<Uint8Array | undefined>    undefined: the peer finished and all was read
      finish(): Promise<void>;  reset(code: number): void;  stop(code: number): void;  set_priority(priority: number): void
      id: number;  state: string;  max_unreliable_size: number

``close`` of the page's connect while it is under way: ``connect`` returns a Python coroutine's promise; to abandon it,
call ``cancel()`` of the object that ``begin(url, pin, socketFactory, onState, options)`` returns: {ready: Promise<Channel>,
cancel(): void}. ``connect`` is ``begin(...).ready``.

Every failure reaches JavaScript as a JavaScript ``Error`` whose ``name`` is "PhantomError", with ``code`` (the stable
number), ``kind`` (the class, e.g. "ServerIdentityMismatchError"), ``message``, ``retryable`` and, where there is one,
``peerCode`` or ``resetCode``. Objects returned by ``info``, ``metrics`` and ``check`` are plain JavaScript objects;
a Channel and a Stream are PyProxies: call ``destroy()`` when done with them.
"""
