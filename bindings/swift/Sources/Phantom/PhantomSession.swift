/// A session with a peer, held by the sidecar. Made by ``PhantomClient/connect(to:pins:identity:config:timeout:)`` and
/// ``PhantomListener/accept(timeout:)``.
///
/// ``PhantomClient/withSession(to:pins:identity:config:timeout:isolation:_:)`` and ``use(isolation:_:)`` end it with a
/// block; otherwise ``disconnect(code:timeout:)`` does. One that is let go of without is disconnected behind the
/// scenes. Any number of tasks may use it: messages are sent in the order of the calls and received by one after the
/// other.
///
/// A call that was cancelled or out of time has lost nothing: what it would have received, the next one does.
public final class PhantomSession: Sendable {
    let core: SessionCore

    init(_ core: SessionCore) {
        self.core = core
        core.startWatching()
    }

    deinit { core.abandon() }

    /// Every call of the interface definition that is about this session.
    public var calls: V1.SessionCalls { core.calls }

    // MARK: What it is

    /// Its id, 64 hexadecimal characters; the same at both ends.
    public var id: String { core.id }

    /// The peer's address.
    public var peerAddress: String { core.latest.peerAddr }

    /// The key that the peer proved to hold; nil for a peer that proved none, as clients do unless asked.
    public var peerIdentity: V1.VerifyingKey? { core.latest.peerIdentity }

    /// Its state as the sidecar said last.
    public var state: V1.ConnectionState { core.connectionState }

    /// What the two sides agreed on, as the sidecar said last.
    public var negotiated: V1.Negotiated { core.latest.negotiated ?? V1.Negotiated() }

    /// How the handshake between the sidecar and the peer went.
    public var handshake: V1.HandshakeInfo { core.latest.handshake ?? V1.HandshakeInfo() }

    /// Why it failed, if it did.
    public var lastError: PhantomError? { core.lastError }

    /// Whether messages can be sent and received: from the moment it is connected until it ends.
    public var isReady: Bool { state == .connected }

    /// Asks the sidecar how the session is now. `sessionNotFound` after ``disconnect(code:timeout:)``.
    @discardableResult
    public func refresh(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) -> V1.Session {
        try await core.refresh(RPCOptions(timeout: timeout))
    }

    /// What went over this session.
    public func metrics(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) -> V1.MetricsSnapshot {
        try await calls.getMetrics(options: RPCOptions(timeout: timeout)).metrics ?? V1.MetricsSnapshot()
    }

    /// What happens to the session from now on: changes of its state and of its keys, each with its reason, until it
    /// is over. Who does not keep up gets the last 256.
    public var events: AsyncStream<V1.SessionEvent.EventChoice> { core.events() }

    /// Waits until the peer was heard under the session's keys, which an accepted session has not yet.
    public func awaitReady(timeout: WireDuration? = nil) async throws(PhantomError) {
        let deadline = Deadline(timeout)
        do {
            let reply = try await calls.awaitReady(options: deadline.options)
            if let session = reply.session { core.learn(session) }
        } catch { throw await core.reason(error) }
    }

    // MARK: Messages

    /// Queues one message (nothing to 16 MiB) whole; one over 1 MiB goes in chunks. Waits while too much is queued.
    ///
    /// A call that is out of time has nothing queued that will still be sent, unless the sidecar took the message at
    /// that very moment; one that is cancelled may have sent it or not.
    public func send(_ message: [UInt8], timeout: WireDuration? = nil) async throws(PhantomError) {
        try await core.send(message, Deadline(timeout))
    }

    /// Queues one message, such as `Data` or the UTF-8 of a text.
    public func send(
        _ message: some Sequence<UInt8>, timeout: WireDuration? = nil
    ) async throws(PhantomError) {
        try await core.send(Array(message), Deadline(timeout))
    }

    /// Waits for the next message, exactly as it was sent; one over 1 MiB comes in chunks.
    ///
    /// After the end of the session come first the messages that had arrived, then `connectionClosed` or what ended it.
    public func recv(timeout: WireDuration? = nil) async throws(PhantomError) -> [UInt8] {
        try await core.recv(Deadline(timeout))
    }

    /// The messages as they come, until the session ended in order; any other end is an error.
    public var messages: PhantomMessages { PhantomMessages { [self] () async throws(PhantomError) in try await recv() } }

    /// Waits until everything queued so far is acknowledged by the peer; the number of bytes it waited for.
    @discardableResult
    public func flush(timeout: WireDuration? = nil) async throws(PhantomError) -> UInt64 {
        let deadline = Deadline(timeout)
        do { return try await calls.flush(options: deadline.options).acknowledged } catch {
            throw await core.reason(error)
        }
    }

    /// Messages of any size both ways over one call, at full speed. End it with ``PhantomExchange/close()``.
    ///
    /// While it receives, it takes over from ``recv(timeout:)``.
    /// - Parameter sendOnly: Leaves receiving to ``recv(timeout:)``.
    public func exchange(sendOnly: Bool = false) async throws(PhantomError) -> PhantomExchange {
        PhantomExchange(try await core.exchange(sendOnly: sendOnly))
    }

    /// Runs the block with an exchange; waits in the end until the sidecar took all that was sent, if it succeeded.
    public func withExchange<Output: Sendable>(
        sendOnly: Bool = false, isolation: isolated (any Actor)? = #isolation,
        _ body: (PhantomExchange) async throws -> Output
    ) async throws -> Output {
        let exchange = try await exchange(sendOnly: sendOnly)
        let result: Output
        do { result = try await body(exchange) } catch {
            exchange.cancel()
            throw error
        }
        try await exchange.close()
        return result
    }

    // MARK: Keys

    /// Changes the traffic keys of both directions, and returns the new epoch when that has begun; data goes on.
    @discardableResult
    public func rekey(timeout: WireDuration? = nil) async throws(PhantomError) -> UInt32 {
        do { return try await calls.rekey(options: RPCOptions(timeout: timeout)).epoch } catch {
            throw await core.reason(error)
        }
    }

    /// Bytes that both ends of this session can derive and nobody else: the same at both for the same label and
    /// length.
    public func exportKeyingMaterial(
        label: String, length: Int = 32, timeout: WireDuration? = .seconds(10)
    ) async throws(PhantomError) -> [UInt8] {
        guard let size = UInt32(exactly: length), size > 0 else {
            throw PhantomError(.validation, "\(length) bytes of keying material cannot be had; take 1 to 8160")
        }
        do {
            return try await calls.exportKeyingMaterial(
                label: label, length: size, options: RPCOptions(timeout: timeout)
            ).keyingMaterial
        } catch { throw await core.reason(error) }
    }

    // MARK: The end

    /// Sends what is queued, closes the session with a code (0 to 65535, 0 is a normal end) and frees it. Idempotent.
    ///
    /// True if the peer acknowledged everything; false as well if the sidecar or the lease is gone, and the session
    /// with it. Cancelled, it ends the session at once. `timeout`: how long it may take in all; nil for as long as the
    /// peer acknowledges something every 5 s.
    @discardableResult
    public func disconnect(code: UInt32 = 0, timeout: WireDuration? = nil) async throws(PhantomError) -> Bool {
        try await core.disconnect(code, timeout)
    }

    /// Runs the block with the session and disconnects it, whatever becomes of the block.
    ///
    /// If the block succeeded and the peer did not acknowledge everything, that is the error `connectionClosed`.
    public func use<Output: Sendable>(
        isolation: isolated (any Actor)? = #isolation, _ body: (PhantomSession) async throws -> Output
    ) async throws -> Output {
        let result: Output
        do { result = try await body(self) } catch {
            // Out of a failed block it says no more; a cancelled task ends the session at once.
            _ = try? await disconnect()
            throw error
        }
        guard try await disconnect() else {
            throw lastError
                ?? PhantomError(.connectionClosed, "the session ended before the peer acknowledged everything")
        }
        return result
    }
}

/// Messages as they come.
public struct PhantomMessages: AsyncSequence, Sendable {
    /// What the sequence is made of.
    public typealias Element = [UInt8]

    let receive: @Sendable () async throws(PhantomError) -> [UInt8]

    /// Goes through the messages.
    public func makeAsyncIterator() -> Iterator { Iterator(receive: receive) }

    /// Goes through messages.
    public struct Iterator: AsyncIteratorProtocol {
        let receive: @Sendable () async throws(PhantomError) -> [UInt8]

        /// Waits for the next message; nil at an orderly end.
        public mutating func next() async throws(PhantomError) -> [UInt8]? {
            do { return try await receive() } catch {
                if error.isOrderlyEnd { return nil }
                throw error
            }
        }

        /// Waits for the next message; nil at an orderly end.
        @available(macOS 15, iOS 18, tvOS 18, watchOS 11, *)
        public mutating func next(isolation actor: isolated (any Actor)?) async throws(PhantomError) -> [UInt8]? {
            do { return try await receive() } catch {
                if error.isOrderlyEnd { return nil }
                throw error
            }
        }
    }
}

/// What a session is made of. Outlives the ``PhantomSession`` only as long as calls are under way.
final class SessionCore: Sendable {
    private struct State {
        var latest: V1.Session
        var state: V1.ConnectionState
        var error: PhantomError?
        /// The number of the last message received; the sidecar keeps those after it.
        var received: UInt64 = 0
        /// The number of the last stream accepted, and of the last one opened.
        var accepted: UInt64 = 0
        var openings: UInt64 = 0
        var isOver = false
        var isEnding = false
        var ended: Result<Bool, PhantomError>?
        var listeners: [Int: AsyncStream<V1.SessionEvent.EventChoice>.Continuation] = [:]
        var lastListener = 0
        var watching: Task<Void, Never>?
    }

    /// Data in one message of gRPC.
    static let messageCap = 1 << 20
    private static let finalStates: [V1.ConnectionState] = [.failed, .closed, .dead]
    /// What the sidecar has to say how a call ended whose limit it keeps itself.
    private static let margin = WireDuration.seconds(2)

    let calls: V1.SessionCalls
    let id: String
    private let largest: Int
    private let state: Monitor<State>
    private let sending = Turn()
    private let receiving = Turn()
    private let accepting = Turn()

    init(transport: any RPCTransport, ref: V1.SessionRef, session: V1.Session, config: V1.PhantomConfig?) {
        calls = V1.SessionCalls(transport: transport, ref: ref)
        id = session.id
        largest = max(Int(V1.Constants.maxMessage), Int(config?.maxMessage ?? 0))
        state = Monitor(
            State(latest: session, state: session.state, error: session.lastError.map { PhantomError($0) }))
    }

    var latest: V1.Session { state.change { $0.latest } }
    var connectionState: V1.ConnectionState { state.change { $0.state } }
    var lastError: PhantomError? { state.change { $0.error } }

    var received: UInt64 {
        get { state.change { $0.received } }
        set { state.change { $0.received = newValue } }
    }

    // MARK: Following the sidecar

    func learn(_ session: V1.Session) {
        state.change { state in
            state.latest = session
            if let error = session.lastError { state.error = PhantomError(error) }
        }
    }

    func refresh(_ options: RPCOptions) async throws(PhantomError) -> V1.Session {
        let session = try await calls.get(options: options).session ?? V1.Session()
        learn(session)
        return session
    }

    func startWatching() {
        let task = Task { await watch() }
        state.change { $0.watching = task }
    }

    /// Follows the state until the session is over, or until nobody can say any more.
    private func watch() async {
        do throws(PhantomError) {
            let events = try await calls.watchEvents()
            while let answer = try await events.receive() {
                guard let event = answer.event?.event else { continue }
                await enter(event)
            }
        } catch {
            if error.code == .sessionNotFound {
                await enter(closed: .closed, error.message)
            } else if !error.isCancelled {
                state.change { $0.error = $0.error ?? error }
                await enter(closed: .dead, error.message)
            }
        }
        let listeners = state.change { state in
            state.isOver = true
            return state.listeners.values
        }
        listeners.forEach { $0.finish() }
    }

    private func enter(closed: V1.ConnectionState, _ reason: String) async {
        await enter(.stateChanged(V1.StateChanged(state: closed, reason: reason)))
    }

    private func enter(_ event: V1.SessionEvent.EventChoice) async {
        if case .stateChanged(let changed) = event {
            // The first answer of a stream says where it begins.
            if changed.state == connectionState { return }
            // The reason is there before the event is.
            if Self.finalStates.contains(changed.state), lastError == nil { await checkWhetherOver() }
            state.change { $0.state = changed.state }
        }
        let listeners = state.change { $0.listeners.values }
        listeners.forEach { $0.yield(event) }
    }

    func events() -> AsyncStream<V1.SessionEvent.EventChoice> {
        AsyncStream(bufferingPolicy: .bufferingNewest(256)) { continuation in
            let number: Int? = state.change { state in
                if state.isOver { return nil }
                state.lastListener += 1
                state.listeners[state.lastListener] = continuation
                return state.lastListener
            }
            guard let number else { return continuation.finish() }
            continuation.onTermination = { [weak self] _ in
                self?.state.change { $0.listeners[number] = nil }
            }
        }
    }

    @discardableResult
    private func checkWhetherOver() async -> Bool {
        do throws(PhantomError) {
            return Self.finalStates.contains(try await refresh(RPCOptions(timeout: Self.margin)).state)
        } catch { return !error.isCancelled }
    }

    /// The error for the caller, once the state says so, too.
    func reason(_ error: PhantomError) async -> PhantomError {
        if error.isCancelled { return error }
        if await checkWhetherOver() {
            _ = try? await state.wait(Deadline(Self.margin)) { $0.isOver ? true : nil }
        }
        if error.code == .sessionNotFound {
            return lastError ?? PhantomError(.connectionClosed, "the session is closed: this side closed it")
        }
        return error
    }

    // MARK: Messages

    func send(_ message: [UInt8], _ deadline: Deadline) async throws(PhantomError) {
        guard message.count <= largest else {
            throw PhantomError(.validation, "the message has \(message.count) bytes; the limit is \(largest)")
        }
        try await sending.take(deadline, "the messages before were not taken")
        defer { sending.give() }
        do {
            if message.count > Self.messageCap {
                let exchange = try await exchange(sendOnly: true)
                defer { exchange.stop() }
                try await exchange.send(message, deadline)
                try await exchange.flush(deadline)
            } else {
                _ = try await calls.send(data: message, options: deadline.options)
            }
        } catch {
            if error.code == .timeout, error.detail == nil {
                // The sidecar has heard of the end of the call when it answers this: from then on it does not try.
                _ = try? await calls.get(options: RPCOptions(timeout: Self.margin))
                throw PhantomError(.timeout, "the sidecar did not take the message in time", status: error.status)
            }
            throw await reason(error)
        }
    }

    func recv(_ deadline: Deadline) async throws(PhantomError) -> [UInt8] {
        try await receiving.take(deadline, "no message arrived")
        defer { receiving.give() }
        do {
            let reply = try await calls.recv(ack: received, options: deadline.options)
            let message = reply.message ?? V1.Message()
            received = message.seq
            return message.data
        } catch {
            if error.code == .frameTooLarge { return try await receiveLarge(deadline) }
            if error.code == .timeout, error.detail == nil {
                throw PhantomError(.timeout, "no message arrived in time", status: error.status)
            }
            throw await reason(error)
        }
    }

    private func receiveLarge(_ deadline: Deadline) async throws(PhantomError) -> [UInt8] {
        do {
            let exchange = try await exchange(sendOnly: false)
            defer { exchange.stop() }
            return try await exchange.recv(deadline)
        } catch { throw error.code == .timeout ? error : await reason(error) }
    }

    func exchange(sendOnly: Bool) async throws(PhantomError) -> ExchangeCore {
        let client = V1.SessionServiceClient(transport: calls.transport)
        return ExchangeCore(session: self, call: try await client.exchange(), sendOnly: sendOnly)
    }

    // MARK: Streams

    func nextOpening() -> UInt64 {
        state.change { state in
            state.openings += 1
            return state.openings
        }
    }

    func stream(_ stream: V1.Stream?) throws(PhantomError) -> PhantomStream {
        guard let stream, let ref = stream.ref else { throw PhantomError(.internal, "the sidecar gives no stream") }
        return PhantomStream(self, stream, ref)
    }

    func acceptStream(_ deadline: Deadline) async throws(PhantomError) -> PhantomStream {
        try await accepting.take(deadline, "no stream arrived")
        defer { accepting.give() }
        do {
            let ack = state.change { $0.accepted }
            let accepted = try await calls.acceptStream(ack: ack, options: deadline.options).accepted
            let stream = try stream(accepted?.stream)
            state.change { $0.accepted = accepted?.seq ?? ack }
            return stream
        } catch { throw await reason(error) }
    }

    // MARK: The end

    func disconnect(_ code: UInt32, _ timeout: WireDuration?) async throws(PhantomError) -> Bool {
        guard code <= 0xFFFF else { throw PhantomError(.validation, "a close code is a number from 0 to 65535") }
        let isFirst = state.change { state in
            defer { state.isEnding = true }
            return !state.isEnding
        }
        if isFirst {
            Task { await end(code, timeout) }
        } else if let timeout {
            shorten(code, timeout)
        }
        do {
            return try await state.wait { $0.ended }.get()
        } catch {
            if error.isCancelled { shorten(code, WireDuration()) }
            throw error
        }
    }

    private func end(_ code: UInt32, _ timeout: WireDuration?) async {
        let outcome: Result<Bool, PhantomError>
        do throws(PhantomError) {
            outcome = .success(try await calls.disconnect(code: code, timeout: timeout).allAcknowledged)
        } catch {
            // Without the sidecar or the lease there is no session.
            let isGone = [.network, .sessionNotFound, .runtimeInit].contains(error.code)
            outcome = isGone ? .success(false) : .failure(error)
        }
        _ = try? await state.wait(Deadline(Self.margin)) { $0.isOver ? true : nil }
        state.change { $0.ended = outcome }
    }

    /// Gives a disconnect that is under way less time.
    private func shorten(_ code: UInt32, _ timeout: WireDuration) {
        guard state.change({ $0.ended == nil }) else { return }
        Task { try? await calls.disconnect(code: code, timeout: timeout) }
    }

    /// Nobody has the session any more.
    func abandon() {
        let (wasOpen, watching) = state.change { state in
            defer { state.isEnding = true }
            return (!state.isEnding, state.watching)
        }
        guard wasOpen else { return }
        watching?.cancel()
        Task { [calls] in try? await calls.disconnect() }
    }
}
