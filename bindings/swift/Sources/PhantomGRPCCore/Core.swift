import CGRPC
import Foundation
import Phantom

/// The one completion queue of the process, and the thread that empties it.
enum Completions {
    /// What waits for a batch: called once, on the queue's thread, with whether it was good.
    typealias Completed = @Sendable (Bool) -> Void

    private struct Waiting {
        var lastTag: UInt = 0
        var byTag: [UInt: Completed] = [:]
    }

    private struct Queue: @unchecked Sendable {
        let pointer: OpaquePointer

        init() {
            pointer = cgrpc_queue_new()
            let queue = self
            let thread = Thread {
                while true {
                    var isGood: Int32 = 0
                    guard let tag = cgrpc_next(queue.pointer, &isGood) else { return }
                    Completions.end(UInt(bitPattern: tag), isGood != 0)
                }
            }
            thread.name = "phantom-grpc"
            thread.start()
        }
    }

    private static let shared = Queue()
    private static let waiting = Guarded(Waiting())

    static var queue: OpaquePointer { shared.pointer }

    /// Starts a batch; `completed` is called in any case, at once with false if the core refuses it.
    static func start(_ completed: @escaping Completed, _ batch: (UnsafeMutableRawPointer?) -> grpc_call_error) {
        let tag = waiting.withLock { waiting in
            waiting.lastTag += 1
            waiting.byTag[waiting.lastTag] = completed
            return waiting.lastTag
        }
        // No event comes for a batch that was refused.
        if batch(UnsafeMutableRawPointer(bitPattern: tag)) != GRPC_CALL_OK { end(tag, false) }
    }

    private static func end(_ tag: UInt, _ isGood: Bool) {
        waiting.withLock { $0.byTag.removeValue(forKey: tag) }?(isGood)
    }
}

/// A call of the core, with what it gives back. Its memory lives as long as a batch of it is under way.
final class CoreCall: @unchecked Sendable {
    private let call: OpaquePointer
    private let results: UnsafeMutablePointer<cgrpc_results>
    /// The channel stays as long as its calls.
    private let channel: CoreChannel

    init(_ channel: CoreChannel, _ method: RPCMethod, _ timeout: WireDuration?) {
        self.channel = channel
        results = cgrpc_results_new()
        let limit = timeout.map { max(0, Int64(min($0.inSeconds, 1e9) * 1e6)) } ?? -1
        call = cgrpc_call_new(channel.pointer, Completions.queue, method.path, limit)
    }

    deinit {
        grpc_call_unref(call)
        cgrpc_results_free(results)
    }

    /// Ends the call. Right at any time and from any thread.
    func cancel() { grpc_call_cancel(call, nil) }

    func unary(_ request: [UInt8], completed: @escaping @Sendable (Bool) -> Void) {
        request.withUnsafeBytes { bytes in
            Completions.start({ [self] isGood in withExtendedLifetime(self) { completed(isGood) } }) {
                cgrpc_unary(call, results, channel.metadata, 1, bytes.baseAddress, bytes.count, $0)
            }
        }
    }

    /// Sends the token; `completed` with false if the core refuses it.
    func begin(completed: @escaping @Sendable (Bool) -> Void) {
        Completions.start({ [self] isGood in withExtendedLifetime(self) { completed(isGood) } }) {
            cgrpc_begin(call, results, channel.metadata, 1, $0)
        }
    }

    func awaitStatus(completed: @escaping @Sendable () -> Void) {
        Completions.start({ [self] _ in withExtendedLifetime(self) { completed() } }) {
            cgrpc_status(call, results, $0)
        }
    }

    func send(_ request: [UInt8], completed: @escaping @Sendable (Bool) -> Void) {
        request.withUnsafeBytes { bytes in
            Completions.start({ [self] isGood in withExtendedLifetime(self) { completed(isGood) } }) {
                cgrpc_send(call, results, bytes.baseAddress, bytes.count, $0)
            }
        }
    }

    func finish(completed: @escaping @Sendable (Bool) -> Void) {
        Completions.start({ [self] isGood in withExtendedLifetime(self) { completed(isGood) } }) {
            cgrpc_half_close(call, $0)
        }
    }

    func receive(completed: @escaping @Sendable (Bool) -> Void) {
        Completions.start({ [self] isGood in withExtendedLifetime(self) { completed(isGood) } }) {
            cgrpc_receive(call, results, $0)
        }
    }

    /// What a receive brought; nil if it brought nothing. Between the batch and the next one.
    func received() -> [UInt8]? {
        guard results.pointee.received != nil else { return nil }
        let size = cgrpc_received_size(results)
        var isWhole = true
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { room, count in
            let taken = cgrpc_take(results, room.baseAddress, size)
            isWhole = taken == size
            count = isWhole ? size : 0
        }
        return isWhole ? bytes : nil
    }

    /// How the call ended. After the batch of the status.
    func status() -> RPCStatus {
        var length = 0
        let details = cgrpc_details(results, &length)
        let message = String(decoding: UnsafeBufferPointer(start: details, count: length), as: UTF8.self)
        let trailer = cgrpc_trailer(results, RPCStatus.detailTrailer, &length)
        let detail = trailer.map { Array(UnsafeBufferPointer(start: $0, count: length)) }
        return RPCStatus(RPCStatus.Code(rawValue: Int32(results.pointee.status.rawValue)), message, detail: detail)
    }

    /// Whether the call ended well.
    var isOK: Bool { results.pointee.status == GRPC_STATUS_OK }
}

/// A connection, and the metadata that every call over it carries.
final class CoreChannel: @unchecked Sendable {
    let pointer: OpaquePointer
    let metadata: UnsafeMutablePointer<grpc_metadata>

    init(_ address: String, token: String, messageMax: Int) {
        _ = Completions.queue
        pointer = cgrpc_channel_new(address, Int32(clamping: messageMax))
        metadata = cgrpc_metadata_new("authorization", "Bearer \(token)")
    }

    deinit {
        grpc_channel_destroy(pointer)
        cgrpc_metadata_free(metadata)
    }
}

/// State behind a lock.
final class Guarded<State>: @unchecked Sendable {
    private let lock = NSLock()
    private var state: State

    init(_ state: State) { self.state = state }

    func withLock<Value>(_ body: (inout State) -> Value) -> Value {
        lock.lock()
        defer { lock.unlock() }
        return body(&state)
    }
}
