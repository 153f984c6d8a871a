/// Addresses at which peers can open sessions. Made by
/// ``PhantomClient/listen(on:key:clients:reusePort:config:timeout:)``.
public final class PhantomListener: Sendable {
    private struct State {
        var taken: UInt64 = 0
        /// The last accept did not end well: a session may have been given that nobody got.
        var mayBeGiven = false
        var isShutDown = false
        var sessions: [Weak] = []
    }

    private struct Weak: Sendable {
        weak var core: SessionCore?
    }

    /// Addresses bound, as URLs with the real port.
    public let addresses: [String]
    /// The same with the pin, to be given to clients as they are.
    public let urls: [String]
    /// What clients pin.
    public let verifyingKey: V1.VerifyingKey
    /// Every call of the interface definition that is about this listener.
    public let calls: V1.ListenerCalls

    private let client: PhantomClient
    private let config: V1.PhantomConfig?
    private let state = Monitor(State())
    private let turn = Turn()

    init(client: PhantomClient, listener: V1.Listener, ref: V1.ListenerRef, config: V1.PhantomConfig?) {
        self.client = client
        self.config = config
        addresses = listener.addresses
        urls = listener.urls
        verifyingKey = listener.verifyingKey ?? V1.VerifyingKey()
        calls = V1.ListenerCalls(transport: client.transport, ref: ref)
    }

    private static let shutDownError = PhantomError(.connectionClosed, "the listener was shut down")

    /// Whether it was shut down.
    public var isShutDown: Bool { state.change { $0.isShutDown } }

    /// Waits for the next session; `connectionClosed` after ``shutdown()``. Cancelled or out of time, it loses none.
    public func accept(timeout: WireDuration? = nil) async throws(PhantomError) -> PhantomSession {
        let deadline = Deadline(timeout)
        if isShutDown { throw Self.shutDownError }
        return try await take(deadline)
    }

    private func take(_ deadline: Deadline) async throws(PhantomError) -> PhantomSession {
        try await turn.take(deadline, "no session arrived")
        defer { turn.give() }
        let accepted: V1.Accepted
        do {
            let reply = try await calls.accept(ack: state.change { $0.taken }, options: deadline.options)
            accepted = reply.accepted ?? V1.Accepted()
        } catch {
            state.change { $0.mayBeGiven = true }
            if error.code == .sessionNotFound { throw Self.shutDownError }
            if error.code == .timeout { throw PhantomError(.timeout, "no session arrived in time", status: error.status) }
            throw error
        }
        let session = try client.session(accepted.session, config)
        state.change { state in
            state.taken = accepted.seq
            state.mayBeGiven = false
            state.sessions.removeAll { $0.core == nil }
            state.sessions.append(Weak(core: session.core))
        }
        return session
    }

    /// The sessions as they come, until the listener is shut down.
    public var sessions: PhantomSessions { PhantomSessions(listener: self) }

    /// What went through this listener and its sessions.
    public func metrics(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) -> V1.MetricsSnapshot {
        try await calls.getMetrics(options: RPCOptions(timeout: timeout)).metrics ?? V1.MetricsSnapshot()
    }

    /// Stops accepting and frees the addresses; who waits in ``accept(timeout:)`` gets `connectionClosed`. Sessions that
    /// were accepted go on. Idempotent; one that ended with the sidecar or the lease is no error.
    public func shutdown(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) {
        let (isFirst, mayBeGiven) = state.change { state in
            defer { state.isShutDown = true }
            return (!state.isShutDown, state.mayBeGiven)
        }
        guard isFirst else { return }
        if mayBeGiven, let session = try? await take(Deadline(.milliseconds(500))) {
            _ = try? await session.disconnect(timeout: WireDuration())
        }
        do { _ = try await calls.shutdown(options: RPCOptions(timeout: timeout)) } catch {
            if ![.network, .sessionNotFound, .runtimeInit].contains(error.code) { throw error }
        }
    }

    /// ``shutdown(timeout:)``, then ends every session that was accepted here with code 14, within `grace`.
    public func drain(grace: WireDuration) async throws(PhantomError) {
        try await shutdown()
        let sessions = state.change { $0.sessions.compactMap(\.core) }
        await withTaskGroup(of: Void.self) { group in
            for session in sessions {
                group.addTask { _ = try? await session.disconnect(ErrorCode.connectionClosed.rawValue, grace) }
            }
        }
    }
}

/// Sessions as they come.
public struct PhantomSessions: AsyncSequence, Sendable {
    /// What the sequence is made of.
    public typealias Element = PhantomSession

    let listener: PhantomListener

    /// Goes through the sessions.
    public func makeAsyncIterator() -> Iterator { Iterator(listener: listener) }

    /// Goes through sessions.
    public struct Iterator: AsyncIteratorProtocol {
        let listener: PhantomListener

        /// Waits for the next session; nil after the shutdown.
        public mutating func next() async throws(PhantomError) -> PhantomSession? {
            do { return try await listener.accept() } catch {
                if error.isOrderlyEnd { return nil }
                throw error
            }
        }

        /// Waits for the next session; nil after the shutdown.
        @available(macOS 15, iOS 18, tvOS 18, watchOS 11, *)
        public mutating func next(isolation actor: isolated (any Actor)?) async throws(PhantomError) -> PhantomSession? {
            do { return try await listener.accept() } catch {
                if error.isOrderlyEnd { return nil }
                throw error
            }
        }
    }
}
