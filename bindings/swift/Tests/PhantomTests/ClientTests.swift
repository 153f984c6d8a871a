import Foundation
import XCTest

@testable import Phantom

/// A sidecar in memory: answers by path.
struct Answers: RPCTransport {
    let contractVersion: UInt32
    let hasLease: Bool
    let stream: Silent?

    init(contractVersion: UInt32 = V1.contractVersion, hasLease: Bool = true, stream: Silent? = nil) {
        self.contractVersion = contractVersion
        self.hasLease = hasLease
        self.stream = stream
    }

    func unary(_ method: RPCMethod, _ request: [UInt8], options: RPCOptions) async throws(RPCStatus) -> [UInt8] {
        switch method.path.split(separator: "/").last {
        case "GetInfo": V1.GetInfoResponse(info: V1.Info(contractVersion: contractVersion)).serialized()
        case "OpenLease": V1.OpenLeaseResponse(lease: hasLease ? V1.Lease(id: 7) : nil).serialized()
        default: throw RPCStatus(.unimplemented)
        }
    }

    func stream(_ method: RPCMethod, options: RPCOptions) async throws(RPCStatus) -> any RPCStream {
        guard let stream else { throw RPCStatus(.unavailable) }
        return stream
    }
}

/// A stream that answers every request, until it is cut.
final class Silent: RPCStream {
    private let answers = Monitor((count: 0, isCut: false))
    func cut() { answers.change { $0.isCut = true } }
    func send(_ request: [UInt8]) async throws(RPCStatus) { answers.change { $0.count += 1 } }
    func finish() async throws(RPCStatus) {}
    func cancel() { cut() }
    func receive() async throws(RPCStatus) -> [UInt8]? {
        let isCut: Bool
        do {
            isCut = try await answers.wait { answers -> Bool? in
                if answers.isCut { return true }
                guard answers.count > 0 else { return nil }
                answers.count -= 1
                return false
            }
        } catch { throw RPCStatus(.cancelled) }
        if isCut { throw RPCStatus(.unavailable) }
        return V1.KeepLeaseResponse(state: V1.LeaseState(sessions: 3)).serialized()
    }
}

final class ClientTests: XCTestCase {
    private func assertFails(
        _ code: ErrorCode, _ words: String, line: UInt = #line, _ body: () async throws -> Void
    ) async {
        do {
            try await body()
            XCTFail("it succeeded", line: line)
        } catch {
            XCTAssertEqual((error as? PhantomError)?.code, code, "\(error)", line: line)
            XCTAssertEqual((error as? PhantomError)?.message.contains(words), true, "\(error)", line: line)
        }
    }

    func testASidecarOfAnotherContractVersion() async {
        for version in [V1.contractVersion + 1, 0] {
            await assertFails(.contractVersion, "the sidecar has contract version \(version) and this client") {
                _ = try await PhantomClient.open(over: Answers(contractVersion: version))
            }
        }
    }

    func testASidecarThatGivesNoLease() async {
        await assertFails(.internal, "gives no lease") {
            _ = try await PhantomClient.open(over: Answers(hasLease: false))
        }
        await assertFails(.network, "cannot be reached") { _ = try await PhantomClient.open(over: Answers()) }
    }

    func testALostLeaseEndsTheClient() async throws {
        let stream = Silent()
        let client = try await PhantomClient.open(over: Answers(stream: stream))
        let held = try await client.held()
        XCTAssertEqual(held.sessions, 3)
        XCTAssertTrue(client.isOpen)
        await assertFails(.unsupported, "is it too old?") { _ = try await client.health() }
        stream.cut()
        await assertFails(.network, "cannot be reached") { _ = try await client.held() }
        XCTAssertFalse(client.isOpen)
        await assertFails(.network, "cannot be reached") { _ = try await client.health() }
        await client.close()
    }

    func testAClosedClient() async throws {
        let closed = Monitor(0)
        let client = try await PhantomClient.open(over: Answers(stream: Silent())) { closed.change { $0 += 1 } }
        await client.close()
        await client.close()
        XCTAssertEqual(closed.change { $0 }, 1)
        await assertFails(.runtimeInit, "the client is closed") { _ = try await client.health() }
        await assertFails(.runtimeInit, "the client is closed") { _ = try await client.connect(to: "x") }
    }

    func testErrorsSayMore() {
        let detail = V1.ErrorDetail(code: .connectionClosed, message: "gone", peerCode: 9, unacknowledged: 5)
        let error = PhantomError(detail)
        XCTAssertEqual(error.peerCode, 9)
        XCTAssertEqual(error.unacknowledged, 5)
        XCTAssertFalse(error.isOrderlyEnd)
        XCTAssertTrue(PhantomError(.connectionClosed, "").isOrderlyEnd)
        XCTAssertEqual(PhantomError(error.asStatus).detail, detail)
        XCTAssertEqual(PhantomError(PhantomError(.busy, "full").asStatus).code, .busy)
        XCTAssertTrue(ErrorCode.sessionClosing.isKind(of: .connectionClosed))
        XCTAssertFalse(ErrorCode.connectionClosed.isKind(of: .sessionClosing))
        XCTAssertTrue(PhantomError.cancelled.isCancelled)
    }
}

final class WaitingTests: XCTestCase {
    func testWhoWaitsIsServedInOrder() async throws {
        let turn = Turn()
        try await turn.take()
        let order = Monitor<[Int]>([])
        let begun = Monitor(0)
        let tasks = (0..<20).map { number in
            Task {
                _ = try await begun.wait { $0 == number ? true : nil }
                async let mine: Void = {
                    try await turn.take()
                    order.change { $0.append(number) }
                    turn.give()
                }()
                // The next one begins when this one waits.
                try await Task.sleep(nanoseconds: 2_000_000)
                begun.change { $0 += 1 }
                try await mine
            }
        }
        _ = try await begun.wait { $0 == 20 ? true : nil }
        turn.give()
        for task in tasks { try await task.value }
        XCTAssertEqual(order.change { $0 }, Array(0..<20))
    }

    /// Ten thousand times: one cancels while another one grants. Whoever got something has it, and nobody hangs.
    func testGrantingAndCancellingAtOnce() async throws {
        for _ in 0..<10_000 {
            let monitor = Monitor(0)
            let task = Task { try await monitor.wait { $0 > 0 ? { $0 -= 1; return true }(&$0) : nil } }
            async let granting: Void = { monitor.change { $0 += 1 } }()
            task.cancel()
            await granting
            switch await task.result {
            case .success: XCTAssertEqual(monitor.change { $0 }, 0)
            case .failure(let error):
                XCTAssertTrue((error as? PhantomError)?.isCancelled ?? false)
                XCTAssertEqual(monitor.change { $0 }, 1)
            }
        }
    }

    func testDeadlines() async throws {
        let monitor = Monitor(0)
        do {
            _ = try await monitor.wait(Deadline(.milliseconds(5)), "the thing did not come") { $0 == 1 ? true : nil }
            XCTFail("it came")
        } catch {
            XCTAssertEqual(error.code, .timeout)
            XCTAssertEqual(error.message, "the thing did not come in time")
        }
        XCTAssertEqual(WireDuration.seconds(-1).inNanoseconds, 0)
        XCTAssertGreaterThan(WireDuration.seconds(.infinity).inNanoseconds, 4_000_000_000_000_000_000)
        XCTAssertNil(Deadline.never.left)
        XCTAssertTrue(Deadline(.seconds(0)).isPast)
    }

    func testAQueueGivesBackWhatItWasGiven() {
        var queue = Queue<Int>()
        var expected: [Int] = []
        for number in 0..<1000 {
            queue.append(number)
            expected.append(number)
            if number % 3 != 0 { XCTAssertEqual(queue.popFirst(), expected.removeFirst()) }
        }
        while let next = queue.popFirst() { XCTAssertEqual(next, expected.removeFirst()) }
        XCTAssertTrue(expected.isEmpty && queue.isEmpty && queue.first == nil)
    }
}
