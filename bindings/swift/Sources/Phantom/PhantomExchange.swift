/// Messages both ways over one call. Made by ``PhantomSession/exchange(sendOnly:)``.
///
/// Calls that wait throw what ended the exchange; ``recv(timeout:)`` first gives what had arrived. A call that was
/// cancelled leaves the exchange whole and has lost nothing. The session goes on after it.
public final class PhantomExchange: Sendable {
    private let core: ExchangeCore

    init(_ core: ExchangeCore) { self.core = core }

    deinit { core.stop() }

    /// Queues one message; waits while more than 4 MiB are queued. Cancelled while waiting, nothing is queued.
    public func send(_ message: [UInt8], timeout: WireDuration? = nil) async throws(PhantomError) {
        try await core.send(message, Deadline(timeout))
    }

    /// Waits for the next message.
    public func recv(timeout: WireDuration? = nil) async throws(PhantomError) -> [UInt8] {
        try await core.recv(Deadline(timeout))
    }

    /// The messages as they come, until the session ended in order.
    public var messages: PhantomMessages { PhantomMessages { [self] () async throws(PhantomError) in try await recv() } }

    /// Returns when the session of the sidecar took everything that was sent.
    public func flush(timeout: WireDuration? = nil) async throws(PhantomError) {
        try await core.flush(Deadline(timeout))
    }

    /// Waits until the sidecar took everything that was sent, and ends the exchange.
    public func close(timeout: WireDuration? = nil) async throws(PhantomError) {
        defer { core.stop() }
        try await core.flush(Deadline(timeout))
    }

    /// Ends the exchange at once. Idempotent.
    public func cancel() { core.stop() }
}

/// The client's side of Exchange.
///
/// gRPC ends a call whose send or receive is cancelled, so the call belongs to two tasks of its own, and what users
/// wait for is in memory.
final class ExchangeCore: Sendable {
    typealias Call = RPCExchange<V1.ExchangeRequest, V1.ExchangeResponse>

    private struct Incoming {
        let number: UInt64
        let message: [UInt8]
        let cost: Int
    }

    private struct State {
        var outgoing = Queue<[UInt8]>()
        var outgoingBytes = 0
        /// How much of the first outgoing message was sent.
        var at = 0
        var sent: UInt64 = 0
        var taken: UInt64 = 0
        /// Bytes that may be sent.
        var credit = 0
        var incoming = Queue<Incoming>()
        /// Credit to grant.
        var owed = 0
        /// Bytes received since the last credit, which acknowledges them.
        var unacked = 0
        var isAsking = false
        var error: PhantomError?
        var tasks: [Task<Void, Never>] = []

        /// What is to be sent next, if anything can be.
        mutating func next(_ received: () -> UInt64) -> V1.ClientFrame.FrameChoice? {
            if owed >= ExchangeCore.grant || unacked >= ExchangeCore.grant {
                defer { (owed, unacked) = (0, 0) }
                return .credit(V1.Credit(bytes: UInt64(owed), ack: received()))
            }
            if let message = outgoing.first {
                let rest = message.count - at
                guard credit >= min(rest, ExchangeCore.chunkMin) + ExchangeCore.overhead else { return nil }
                let size = min(rest, ExchangeCore.chunk, credit - ExchangeCore.overhead)
                credit -= size + ExchangeCore.overhead
                let data = size == message.count ? message : Array(message[at..<at + size])
                at += size
                if size == rest {
                    at = 0
                    outgoingBytes -= message.count + ExchangeCore.overhead
                    _ = outgoing.popFirst()
                }
                return .chunk(V1.Chunk(data: data, more: size < rest))
            }
            guard isAsking else { return nil }
            isAsking = false
            return .credit(V1.Credit(ack: received()))
        }
    }

    static let window = 4 << 20
    static let grant = window / 4
    /// The best size of a frame, and the smallest one while more is queued.
    static let chunk = 256 << 10
    static let chunkMin = 64 << 10
    /// What a message costs beside its bytes.
    static let overhead = 64

    private let session: SessionCore
    private let call: Call
    private let state = Monitor(State())

    init(session: SessionCore, call: Call, sendOnly: Bool) {
        self.session = session
        self.call = call
        let tasks = [Task { await read() }, Task { await write(sendOnly: sendOnly) }]
        state.change { $0.tasks = tasks }
    }

    func send(_ message: [UInt8], _ deadline: Deadline) async throws(PhantomError) {
        try await state.wait(deadline, "the sidecar did not take the messages before") { state in
            if let error = state.error { return Result<Void, PhantomError>.failure(error) }
            guard state.outgoingBytes <= Self.window else { return nil }
            state.outgoing.append(message)
            state.outgoingBytes += message.count + Self.overhead
            state.sent += 1
            return .success(())
        }.get()
    }

    func recv(_ deadline: Deadline) async throws(PhantomError) -> [UInt8] {
        try await state.wait(deadline, "no message arrived") { [session] state in
            if let incoming = state.incoming.popFirst() {
                session.received = incoming.number
                state.owed += incoming.cost
                state.unacked += incoming.message.count + Self.overhead
                return Result<[UInt8], PhantomError>.success(incoming.message)
            }
            return state.error.map { .failure($0) }
        }.get()
    }

    func flush(_ deadline: Deadline) async throws(PhantomError) {
        state.change { $0.isAsking = $0.taken < $0.sent }
        try await state.wait(deadline, "the sidecar did not take everything") { state in
            if state.taken >= state.sent { return Result<Void, PhantomError>.success(()) }
            return state.error.map { .failure($0) }
        }.get()
    }

    /// Ends the call.
    func stop() {
        let tasks = state.change { state in
            state.error = state.error ?? PhantomError(.connectionClosed, "the exchange is over: this side ended it")
            defer { state.tasks = [] }
            return state.tasks
        }
        call.cancel()
        tasks.forEach { $0.cancel() }
    }

    private func read() async {
        var parts: [UInt8] = []
        var failure = PhantomError(.connectionClosed, "the sidecar ended the exchange")
        do throws(PhantomError) {
            while let response = try await call.responses.receive() {
                switch response.frame?.frame {
                case .chunk(let chunk): take(chunk, &parts)
                case .credit(let credit):
                    state.change { state in
                        state.credit += Int(clamping: credit.bytes)
                        state.taken = credit.ack
                    }
                case .opened(let opened): state.change { $0.credit += Int(clamping: opened.window) }
                case .failed(let detail): failure = PhantomError(detail)
                case nil: break
                }
            }
        } catch { if failure.detail == nil { failure = error } }
        state.change { $0.error = $0.error ?? failure }
    }

    private func take(_ chunk: V1.Chunk, _ parts: inout [UInt8]) {
        let cost = chunk.data.count + Self.overhead
        if chunk.more || !parts.isEmpty { parts += chunk.data }
        if chunk.more {
            state.change { $0.owed += cost }
            return
        }
        let message = parts.isEmpty ? chunk.data : parts
        parts = []
        state.change { $0.incoming.append(Incoming(number: chunk.seq, message: message, cost: cost)) }
    }

    private func write(sendOnly: Bool) async {
        let session = session
        let opening = V1.ExchangeOpen(session: session.calls.ref, ack: session.received, sendOnly: sendOnly)
        // When the call is over, the reader learns why.
        do throws(PhantomError) {
            try await call.send(V1.ExchangeRequest(frame: V1.ClientFrame(frame: .open(opening))))
            while true {
                let frame = try await state.wait { state in
                    if state.error != nil { return Result<V1.ClientFrame.FrameChoice, PhantomError>.failure(.cancelled) }
                    return state.next { session.received }.map { .success($0) }
                }.get()
                try await call.send(V1.ExchangeRequest(frame: V1.ClientFrame(frame: frame)))
            }
        } catch {}
    }
}
