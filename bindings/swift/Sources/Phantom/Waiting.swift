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

    /// Resumes a task. Never under the lock: cancelling holds a lock of the task while it waits for ours.
    private typealias Resumption = () -> Void

    private struct Waiter {
        let id: UInt64
        /// Takes from the state, if it can, and says how to resume the task.
        let attempt: (inout State) -> Resumption?
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
        let value = body(&state)
        let resumptions = settle()
        lock.unlock()
        resumptions.forEach { $0() }
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
        var resumptions: [Resumption] = []
        // Whoever cancels from here on finds the waiter; before, it left its mark on the task.
        if Task.isCancelled {
            resumptions.append { continuation.resume(returning: .cancelled) }
        } else if let value = take(&state) {
            resumptions = settle()
            resumptions.append { continuation.resume(returning: .value(value)) }
        } else if late {
            resumptions.append { continuation.resume(returning: .late) }
        } else {
            waiters.append(
                Waiter(
                    id: id,
                    attempt: { state in take(&state).map { value in { continuation.resume(returning: .value(value)) } } },
                    giveUp: { late in continuation.resume(returning: late ? .late : .cancelled) }))
        }
        lock.unlock()
        resumptions.forEach { $0() }
    }

    private func giveUp(_ id: UInt64, late: Bool) {
        lock.lock()
        let waiter = waiters.firstIndex { $0.id == id }.map { waiters.remove(at: $0) }
        lock.unlock()
        waiter?.giveUp(late)
    }

    /// Serves who waits. What one takes may be what the next one waited for.
    private func settle() -> [Resumption] {
        var resumptions: [Resumption] = []
        var index = 0
        while index < waiters.count {
            if let resumption = waiters[index].attempt(&state) {
                resumptions.append(resumption)
                waiters.remove(at: index)
                index = 0
            } else {
                index += 1
            }
        }
        return resumptions
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

private struct Making<Value: Sendable> {
    var outcome: Result<Value, PhantomError>?
    var isWanted = true
}

/// Makes something in the sidecar that would be left there if its maker were cancelled while the answer is under way.
///
/// Who is cancelled is told so at once; the call gets a moment to end behind the scenes, and what it made is undone.
func make<Value: Sendable>(
    _ call: @escaping @Sendable () async throws(PhantomError) -> Value,
    undo: @escaping @Sendable (Value) async -> Void
) async throws(PhantomError) -> Value {
    if Task.isCancelled { throw .cancelled }
    let making = Monitor(Making<Value>())
    let task = Task {
        let outcome: Result<Value, PhantomError>
        do throws(PhantomError) { outcome = .success(try await call()) } catch { outcome = .failure(error) }
        let isWanted = making.change { making in
            making.outcome = outcome
            return making.isWanted
        }
        if !isWanted, case .success(let value) = outcome { await undo(value) }
    }
    do { return try await making.wait { $0.outcome }.get() } catch {
        guard error.isCancelled else { throw error }
        let outcome = making.change { making in
            making.isWanted = false
            return making.outcome
        }
        Task {
            if case .success(let value)? = outcome { return await undo(value) }
            try? await Task.sleep(nanoseconds: 2_000_000_000)
            task.cancel()
        }
        throw error
    }
}
