import CGRPC
import Foundation
import Phantom

/// Calls to a sidecar over the gRPC C core.
public final class GRPCCoreTransport: RPCTransport {
    private let channel: CoreChannel

    /// A transport to a sidecar. Does not connect yet.
    ///
    /// `accessDenied` for a token that is no visible ASCII: the core would write it into its log.
    /// - Parameters:
    ///   - address: `unix:PATH` or `HOST:PORT`.
    ///   - token: The content of the token file.
    ///   - messageMax: The largest message in bytes, envelope included.
    public init(address: String, token: String, messageMax: Int = (1 << 20) + (64 << 10)) throws(PhantomError) {
        guard !token.isEmpty, token.utf8.allSatisfy({ 0x21...0x7E ~= $0 }) else {
            throw PhantomError(.accessDenied, "the token holds other characters than visible ASCII")
        }
        channel = CoreChannel(address, token: token, messageMax: messageMax)
    }

    /// Sends one request and waits for the one response. Cancelling the task cancels the call.
    public func unary(
        _ method: RPCMethod, _ request: [UInt8], options: RPCOptions
    ) async throws(RPCStatus) -> [UInt8] {
        let call = CoreCall(channel, method, options.timeout)
        await withTaskCancellationHandler {
            await withCheckedContinuation { (done: CheckedContinuation<Void, Never>) in
                call.unary(request) { _ in done.resume() }
            }
        } onCancel: {
            call.cancel()
        }
        guard call.isOK else { throw call.status() }
        guard let response = call.received() else { throw RPCStatus(.internal, "the answer cannot be read") }
        return response
    }

    /// Begins a call with a stream of requests, a stream of responses, or both.
    public func stream(_ method: RPCMethod, options: RPCOptions) async throws(RPCStatus) -> any RPCStream {
        CoreStream(CoreCall(channel, method, options.timeout))
    }
}

/// A call with streams. Cancelling a task that sends or receives ends the call; so does letting go of it.
final class CoreStream: RPCStream {
    private enum Ending: Sendable {
        case none
        case ok
        case failed(RPCStatus)
    }

    private let call: CoreCall
    private let ending = Monitor(Ending.none)
    private let sending = Turn()
    private let receiving = Turn()

    init(_ call: CoreCall) {
        self.call = call
        let ending = ending
        // A token that the core refuses would leave the status waiting for ever.
        call.begin { isGood in if !isGood { call.cancel() } }
        call.awaitStatus {
            let end: Ending = call.isOK ? .ok : .failed(call.status())
            ending.change { $0 = end }
        }
    }

    deinit { call.cancel() }

    func cancel() { call.cancel() }

    func send(_ request: [UInt8]) async throws(RPCStatus) {
        try await one(sending) { call, done in call.send(request, completed: done) }
    }

    func finish() async throws(RPCStatus) {
        try await one(sending) { call, done in call.finish(completed: done) }
    }

    /// One batch that sends something; what ended the call, if it could not be sent.
    private func one(
        _ turn: Turn, _ start: @Sendable (CoreCall, @escaping @Sendable (Bool) -> Void) -> Void
    ) async throws(RPCStatus) {
        try await take(turn)
        defer { turn.give() }
        if await batch(start) { return }
        throw try await status() ?? RPCStatus(.unavailable, "the call is over")
    }

    func receive() async throws(RPCStatus) -> [UInt8]? {
        try await take(receiving)
        defer { receiving.give() }
        if await batch({ call, done in call.receive(completed: done) }), let response = call.received() {
            return response
        }
        if let status = try await status() { throw status }
        return nil
    }

    private func take(_ turn: Turn) async throws(RPCStatus) {
        do { try await turn.take() } catch {
            call.cancel()
            throw RPCStatus(.cancelled, "the task was cancelled")
        }
    }

    private func batch(_ start: @Sendable (CoreCall, @escaping @Sendable (Bool) -> Void) -> Void) async -> Bool {
        let call = call
        return await withTaskCancellationHandler {
            await withCheckedContinuation { (done: CheckedContinuation<Bool, Never>) in
                start(call) { done.resume(returning: $0) }
            }
        } onCancel: {
            call.cancel()
        }
    }

    /// How the call ended, once it has: nil if well.
    private func status() async throws(RPCStatus) -> RPCStatus? {
        do {
            return try await ending.wait { end -> RPCStatus?? in
                switch end {
                case .none: return .none
                case .ok: return .some(nil)
                case .failed(let status): return .some(status)
                }
            }
        } catch { throw RPCStatus(.cancelled, "the task was cancelled") }
    }
}
