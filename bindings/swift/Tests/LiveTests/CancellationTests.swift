import Foundation
import PhantomGRPCCore
import XCTest

@testable import Phantom

/// A task that is cancelled, wherever it stands, loses nothing and breaks nothing.
final class CancellationTests: XCTestCase {
    /// Runs the call and cancels it somewhere on its way: at once, or after so many turns of the scheduler.
    private static func cutOff<Output: Sendable>(
        after turns: Int, pausing microseconds: Int = 0, _ call: @escaping @Sendable () async throws -> Output
    ) async throws -> Output? {
        let task = Task { try await call() }
        for _ in 0..<turns { await Task.yield() }
        if microseconds > 0 { try await Task.sleep(nanoseconds: UInt64(microseconds) * 1000) }
        task.cancel()
        do { return try await task.value } catch let error as PhantomError where error.isCancelled { return nil }
    }

    func testReceivingLosesNoMessage() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let count = rounds(1000)
                let sending = Task {
                    for number in 0..<count { try await here.send(withUnsafeBytes(of: UInt32(number)) { Array($0) }) }
                }
                var numbers: [UInt32] = []
                var cancelled = 0
                var turn = 0
                while numbers.count < count {
                    turn += 1
                    if let message = try await Self.cutOff(after: turn % 61, pausing: turn % 7 * 40, { try await there.recv(timeout: limit) }) {
                        numbers.append(message.withUnsafeBytes { $0.load(as: UInt32.self) })
                    } else {
                        cancelled += 1
                    }
                    // Now and then one that is left in peace, so that it ends.
                    if turn % 5 == 0, numbers.count < count {
                        numbers.append(
                            try await there.recv(timeout: limit).withUnsafeBytes { $0.load(as: UInt32.self) })
                    }
                }
                try await sending.value
                XCTAssertEqual(numbers, Array(0..<UInt32(count)), "each message once, in order")
                XCTAssertGreaterThan(cancelled, count / 20)
            }
        }
    }

    func testAnExchangeStaysWhole() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let count = rounds(1000)
                try await there.withExchange { exchange in
                    let sending = Task {
                        for number in 0..<count { try await here.send([UInt8(number % 251)]) }
                    }
                    var seen = 0
                    var turn = 0
                    while seen < count {
                        turn += 1
                        if let message = try await Self.cutOff(after: turn % 31, pausing: turn % 7 * 40, { try await exchange.recv(timeout: limit) }) {
                            XCTAssertEqual(message, [UInt8(seen % 251)])
                            seen += 1
                        }
                        if turn % 3 == 0, seen < count {
                            let message = try await exchange.recv(timeout: limit)
                            XCTAssertEqual(message, [UInt8(seen % 251)])
                            seen += 1
                        }
                        _ = try await Self.cutOff(after: turn % 5) { try await exchange.flush() }
                    }
                    try await sending.value
                }
            }
        }
    }

    /// A message that is cut off while it is sent came whole or not at all, and those after it come.
    func testSendingIsWholeOrNothing() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let count = rounds(1000)
                let receiving = Task {
                    var last = -1
                    while true {
                        let message = try await there.recv(timeout: limit)
                        if message.isEmpty { return last }
                        let number = Int(message.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) })
                        XCTAssertGreaterThan(number, last, "in order, and none twice")
                        XCTAssertTrue(message.count == 4 || message.count == (1 << 20) + 100, "\(message.count)")
                        last = number
                    }
                }
                for number in 0..<count {
                    var message = withUnsafeBytes(of: UInt32(number)) { Array($0) }
                    if number % 50 == 9 { message += content(1, (1 << 20) + 96) }
                    let whole = message
                    _ = try await Self.cutOff(after: number % 41, pausing: number % 7 * 40) { try await here.send(whole, timeout: limit) }
                }
                try await here.send([], timeout: limit)
                let last = try await receiving.value
                XCTAssertGreaterThan(last, 0)
            }
        }
    }

    /// `withClient` looks whether nothing is left.
    func testOpeningAndClosingLeavesNothingBehind() async throws {
        try await withClient { client in
            let config = V1.PhantomConfig(maxSessions: 0, maxSessionsPerIp: 0)
            let listener = try await client.listen(on: ["127.0.0.1:0"], config: config)
            var opened = 0
            for turn in 0..<rounds(1000) {
                let url = listener.urls[0]
                if let session = try await Self.cutOff(after: turn % 53, pausing: turn % 29 * 600, { try await client.connect(to: url, timeout: limit) }) {
                    opened += 1
                    _ = try await Self.cutOff(after: turn % 11, pausing: turn % 5 * 300) { try await session.disconnect() }
                }
                if let session = try await Self.cutOff(after: turn % 43, pausing: turn % 11 * 200, { try await listener.accept(timeout: limit) }) {
                    _ = try await Self.cutOff(after: turn % 13) { try await session.disconnect(timeout: .milliseconds(10)) }
                }
                if turn % 10 == 0 {
                    _ = try await Self.cutOff(after: turn % 17) { try await client.held() }
                    _ = try await Self.cutOff(after: turn % 19) { try await client.generateSigningKey() }
                }
            }
            try await listener.shutdown()
            XCTAssertGreaterThan(opened, 0)
        }
    }

    func testACancelledTaskDoesNotEvenBegin() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let task = Task {
                    withUnsafeCurrentTask { $0?.cancel() }
                    return try await there.recv()
                }
                do {
                    _ = try await task.value
                    XCTFail("a message")
                } catch let error as PhantomError {
                    XCTAssertTrue(error.isCancelled)
                    XCTAssertNil(error.detail)
                }
                try await here.send([1], timeout: limit)
                let message = try await there.recv(timeout: limit)
                XCTAssertEqual(message, [1])
            }
        }
    }
}
