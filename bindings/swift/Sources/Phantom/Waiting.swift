import Dispatch
import Foundation

/// When a call must be over.
package struct Deadline: Sendable {
    /// On the clock of ``now``; nil for never.
    package let at: UInt64?

    package static let never = Deadline(at: nil)

    package init(at: UInt64?) { self.at = at }

    /// So much from now on; nil for never.
    package init(_ timeout: WireDuration?) { at = timeout.map { Deadline.now &+ $0.inNanoseconds } }

    /// What is left; zero when it is past, nil without an end.
    package var left: WireDuration? {
        at.map { end in
            let left = end - min(end, Deadline.now)
            return WireDuration(seconds: Int64(left / 1_000_000_000), nanoseconds: Int32(left % 1_000_000_000))
        }
    }

    package var isPast: Bool { at.map { $0 <= Deadline.now } ?? false }

    /// For a call that must be over by then.
    package var options: RPCOptions { RPCOptions(timeout: left) }

    /// Nanoseconds of a clock that only goes forward.
    package static var now: UInt64 { DispatchTime.now().uptimeNanoseconds }
}

extension WireDuration {
    /// Nanoseconds, none for a negative span and about 146 years at most.
    package var inNanoseconds: UInt64 {
        guard seconds >= 0, nanoseconds >= 0 else { return 0 }
        return UInt64(min(seconds, 4_611_686_018)) * 1_000_000_000 + UInt64(nanoseconds)
    }

    /// The same span.
    @available(macOS 13, iOS 16, tvOS 16, watchOS 9, *)
    public init(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        self.init(seconds: seconds, nanoseconds: Int32(attoseconds / 1_000_000_000))
    }
}

extension PhantomError {
    /// The task of the caller was cancelled.
    package static let cancelled = PhantomError(RPCStatus(.cancelled))
}

/// State behind a lock, whose changes tasks can wait for.
///
/// Whoever waits says what it takes from the state, and waits until it can; those that wait are asked in the order in
/// which they came. A wait that is cancelled or out of time has taken nothing.
package final class Monitor<State>: @unchecked Sendable {
    private enum Outcome<Value> {
        case value(Value)
        case cancelled
        case late
    }

    private struct Waiter {
        let id: UInt64
        /// Takes from the state and resumes the task, if it can.
        let attempt: (inout State) -> Bool
        let giveUp: (_ late: Bool) -> Void
    }

    private let lock = NSLock()
    private var state: State
    private var waiters: [Waiter] = []
    private var lastID: UInt64 = 0

    package init(_ state: State) { self.state = state }

    /// Reads or changes the state.
    @discardableResult
    package func change<Value>(_ body: (inout State) -> Value) -> Value {
        lock.lock()
        defer { lock.unlock() }
        let value = body(&state)
        settle()
        return value
    }

    /// Waits until `take` gives something, and returns it. `what`: what did not happen, if the time is up.
    package func wait<Value: Sendable>(
        _ deadline: Deadline = .never, _ what: @autoclosure () -> String = "it did not happen",
        take: @escaping @Sendable (inout State) -> Value?
    ) async throws(PhantomError) -> Value {
        if let value = change(take) { return value }
        let id = change { _ in
            lastID += 1
            return lastID
        }
        var timer: Task<Void, Never>?
        if let left = deadline.left {
            timer = Task {
                try? await Task.sleep(nanoseconds: left.inNanoseconds)
                self.giveUp(id, late: true)
            }
        }
        defer { timer?.cancel() }
        let outcome = await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Outcome<Value>, Never>) in
                enter(id, take, continuation, late: deadline.isPast)
            }
        } onCancel: {
            giveUp(id, late: false)
        }
        switch outcome {
        case .value(let value): return value
        case .cancelled: throw .cancelled
        case .late: throw PhantomError(.timeout, "\(what()) in time")
        }
    }

    private func enter<Value: Sendable>(
        _ id: UInt64, _ take: @escaping @Sendable (inout State) -> Value?,
        _ continuation: CheckedContinuation<Outcome<Value>, Never>, late: Bool
    ) {
        lock.lock()
        defer { lock.unlock() }
        // Whoever cancels from here on finds the waiter; before, it left its mark on the task.
        if Task.isCancelled { return continuation.resume(returning: .cancelled) }
        if let value = take(&state) {
            continuation.resume(returning: .value(value))
            return settle()
        }
        if late { return continuation.resume(returning: .late) }
        waiters.append(
            Waiter(
                id: id,
                attempt: { state in
                    guard let value = take(&state) else { return false }
                    continuation.resume(returning: .value(value))
                    return true
                },
                giveUp: { late in continuation.resume(returning: late ? .late : .cancelled) }))
    }

    private func giveUp(_ id: UInt64, late: Bool) {
        lock.lock()
        defer { lock.unlock() }
        guard let index = waiters.firstIndex(where: { $0.id == id }) else { return }
        waiters.remove(at: index).giveUp(late)
    }

    /// Serves who waits. What one takes may be what the next one waited for.
    private func settle() {
        var index = 0
        while index < waiters.count {
            if waiters[index].attempt(&state) {
                waiters.remove(at: index)
                index = 0
            } else {
                index += 1
            }
        }
    }
}

/// One task at a time, in the order in which they came.
package struct Turn: Sendable {
    private let isTaken = Monitor(false)

    package init() {}

    /// Waits for the turn.
    package func take(_ deadline: Deadline = .never, _ what: @autoclosure () -> String = "the others did not finish")
        async throws(PhantomError)
    {
        _ = try await isTaken.wait(deadline, what()) { isTaken -> Bool? in
            if isTaken { return nil }
            isTaken = true
            return true
        }
    }

    /// Ends it.
    package func give() { isTaken.change { $0 = false } }
}

/// First in, first out.
struct Queue<Element> {
    private var items: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == items.count }
    var first: Element? { isEmpty ? nil : items[head] }

    mutating func append(_ item: Element) { items.append(item) }

    mutating func popFirst() -> Element? {
        guard !isEmpty else { return nil }
        let item = items[head]
        items[head] = nil
        head += 1
        if head > 32, head * 2 > items.count {
            items.removeFirst(head)
            head = 0
        }
        return item
    }
}
