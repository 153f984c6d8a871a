/// Bytes both ways, beside the messages of a session and beside its other streams. Made by
/// ``PhantomSession/openStream(priority:wait:timeout:)`` and ``PhantomSession/acceptStream(timeout:)``.
///
/// A stream has no messages: bytes may arrive in other pieces than they were sent in. Each side ends its own half:
/// ``finish(timeout:)`` in order, ``reset(code:timeout:)`` at once. One that is let go of before the peer's half was
/// read to its end is reset and stopped; otherwise it is finished.
public final class PhantomStream: Sendable {
    private struct State {
        /// The number of the last piece received; the sidecar keeps those after it.
        var received: UInt64 = 0
        var priority: UInt32 = 0
        var isAtEnd = false
        var isReleased = false
    }

    /// Data in one call.
    private static let pieceMax = 1 << 20

    /// Its id in the session; the same at both ends.
    public let id: UInt32
    /// The most bytes that ``sendUnreliable(_:timeout:)`` can carry.
    public let maxUnreliableSize: Int
    /// Every call of the interface definition that is about this stream.
    public let calls: V1.StreamCalls

    private let session: SessionCore
    private let state = Monitor(State())
    private let sending = Turn()
    private let receiving = Turn()

    init(_ session: SessionCore, _ stream: V1.Stream, _ ref: V1.StreamRef) {
        self.session = session
        id = stream.id
        maxUnreliableSize = Int(stream.maxUnreliableSize)
        calls = V1.StreamCalls(transport: session.calls.transport, ref: ref)
        state.change { $0.priority = stream.priority }
    }

    /// The priority of what this side sends.
    public var priority: UInt32 { state.change { $0.priority } }

    deinit {
        guard state.change({ !$0.isReleased }) else { return }
        Task { [calls] in try? await calls.release() }
    }

    /// Sends bytes, in order. Returns when all are queued, which waits while too much is.
    ///
    /// `streamClosed` after this half ended, `streamReset` after the peer asked to stop. A call that is cancelled may
    /// have sent the first of several megabytes.
    public func send(_ bytes: [UInt8], timeout: WireDuration? = nil) async throws(PhantomError) {
        let deadline = Deadline(timeout)
        try await sending.take(deadline)
        defer { sending.give() }
        do {
            var at = 0
            repeat {
                let size = min(bytes.count - at, Self.pieceMax)
                let piece = size == bytes.count ? bytes : Array(bytes[at..<at + size])
                _ = try await calls.send(data: piece, options: deadline.options)
                at += size
            } while at < bytes.count
        } catch { throw await session.reason(error) }
    }

    /// Sends bytes as one piece, at once, which may be lost or overtaken; `validation` above ``maxUnreliableSize``.
    public func sendUnreliable(_ bytes: [UInt8], timeout: WireDuration? = nil) async throws(PhantomError) {
        guard bytes.count <= maxUnreliableSize else {
            throw PhantomError(.validation, "one piece carries \(maxUnreliableSize) bytes, not \(bytes.count)")
        }
        do { _ = try await calls.send(data: bytes, unreliable: true, options: RPCOptions(timeout: timeout)) } catch {
            throw await session.reason(error)
        }
    }

    /// Waits for the next bytes, up to 256 KiB; nil when the peer finished and everything was received.
    ///
    /// `streamReset` when the peer reset its half. Cancelled or out of time, it has lost nothing.
    public func recv(timeout: WireDuration? = nil) async throws(PhantomError) -> [UInt8]? {
        let deadline = Deadline(timeout)
        try await receiving.take(deadline, "nothing arrived")
        defer { receiving.give() }
        if state.change({ $0.isAtEnd }) { return nil }
        do {
            let received = state.change { $0.received }
            let piece = try await calls.recv(ack: received, options: deadline.options).piece ?? V1.StreamData()
            state.change { state in
                state.received = piece.seq
                state.isAtEnd = piece.endOfStream
            }
            return piece.endOfStream ? nil : piece.data
        } catch { throw await session.reason(error) }
    }

    /// The bytes as they come, until the peer finished.
    public var pieces: PhantomPieces { PhantomPieces(stream: self) }

    /// Everything until the peer finished; `validation` if that is more than `most` bytes.
    public func readToEnd(upTo most: Int, timeout: WireDuration? = nil) async throws(PhantomError) -> [UInt8] {
        let deadline = Deadline(timeout)
        var bytes: [UInt8] = []
        while let piece = try await recv(timeout: deadline.left) {
            bytes += piece
            guard bytes.count <= most else { throw PhantomError(.validation, "the stream has more than \(most) bytes") }
        }
        return bytes
    }

    /// Ends this half, after everything that was sent. Done once, it does nothing more.
    public func finish(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) {
        do { _ = try await calls.finish(options: RPCOptions(timeout: timeout)) } catch {
            throw await session.reason(error)
        }
    }

    /// Abandons this half: the peer drops what it had not read, and is told the code (0 to 65535).
    public func reset(code: UInt32 = 0, timeout: WireDuration? = .seconds(10)) async throws(PhantomError) {
        do { _ = try await calls.reset(code: code, options: RPCOptions(timeout: timeout)) } catch {
            throw await session.reason(error)
        }
    }

    /// Asks the peer to abandon its half, of which no more is wanted.
    public func stop(code: UInt32 = 0, timeout: WireDuration? = .seconds(10)) async throws(PhantomError) {
        do { _ = try await calls.stop(code: code, options: RPCOptions(timeout: timeout)) } catch {
            throw await session.reason(error)
        }
    }

    /// Sets the priority of what this side sends: the higher, the sooner it is served.
    public func setPriority(
        _ priority: UInt32, timeout: WireDuration? = .seconds(10)
    ) async throws(PhantomError) {
        do { _ = try await calls.setPriority(priority: priority, options: RPCOptions(timeout: timeout)) } catch {
            throw await session.reason(error)
        }
        state.change { $0.priority = priority }
    }

    /// Gives the stream back. Idempotent; one that ended with its session is no error.
    public func release(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) {
        let isFirst = state.change { state in
            defer { state.isReleased = true }
            return !state.isReleased
        }
        guard isFirst else { return }
        do { _ = try await calls.release(options: RPCOptions(timeout: timeout)) } catch {
            if ![.network, .sessionNotFound, .runtimeInit].contains(error.code) { throw error }
        }
    }
}

/// Bytes of a stream as they come.
public struct PhantomPieces: AsyncSequence, Sendable {
    /// What the sequence is made of.
    public typealias Element = [UInt8]

    let stream: PhantomStream

    /// Goes through the pieces.
    public func makeAsyncIterator() -> Iterator { Iterator(stream: stream) }

    /// Goes through pieces.
    public struct Iterator: AsyncIteratorProtocol {
        let stream: PhantomStream

        /// Waits for the next bytes; nil when the peer finished.
        public mutating func next() async throws(PhantomError) -> [UInt8]? { try await stream.recv() }

        /// Waits for the next bytes; nil when the peer finished.
        @available(macOS 15, iOS 18, tvOS 18, watchOS 11, *)
        public mutating func next(isolation actor: isolated (any Actor)?) async throws(PhantomError) -> [UInt8]? {
            try await stream.recv()
        }
    }
}

extension PhantomSession {
    /// Opens a stream. The peer hears of it at once, even if nothing is sent, so that it may speak first.
    ///
    /// - Parameters:
    ///   - priority: The higher, the sooner it is served; equals take turns.
    ///   - wait: Wait for another stream to end if too many are open; `streamLimit` otherwise.
    public func openStream(
        priority: UInt32 = 0, wait: Bool = true, timeout: WireDuration? = nil
    ) async throws(PhantomError) -> PhantomStream {
        let number = core.nextOpening()
        do {
            let reply = try await calls.openStream(
                priority: priority, noWait: !wait, opening: number, options: RPCOptions(timeout: timeout))
            return try core.stream(reply.stream)
        } catch {
            // Whether it was opened is not known: the sidecar is told that nobody has it.
            if error.isCancelled || error.code == .timeout {
                let client = V1.StreamServiceClient(transport: calls.transport)
                let release = V1.StreamServiceReleaseRequest(session: calls.ref, opening: number)
                Task { try? await client.release(release) }
                throw error
            }
            throw await core.reason(error)
        }
    }

    /// Opens a stream, runs the block with it, finishes it and gives it back; resets it if the block fails.
    public func withStream<Output: Sendable>(
        priority: UInt32 = 0, isolation: isolated (any Actor)? = #isolation,
        _ body: (PhantomStream) async throws -> Output
    ) async throws -> Output {
        let stream = try await openStream(priority: priority)
        let output: Output
        do { output = try await body(stream) } catch {
            _ = try? await stream.release()
            throw error
        }
        try await stream.finish()
        try await stream.release()
        return output
    }

    /// Waits for the next stream that the peer opens. Cancelled or out of time, it loses none.
    public func acceptStream(timeout: WireDuration? = nil) async throws(PhantomError) -> PhantomStream {
        try await core.acceptStream(Deadline(timeout))
    }
}
