import Foundation
import PhantomGRPCCore
import XCTest

@testable import Phantom

final class SessionTests: XCTestCase {
    func testMessagesComeAsTheyWereSent() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let sizes = [0, 1, 1000, 256 << 10, 1 << 20, (1 << 20) + 1, 5 << 20, 16 << 20]
                async let sending: Void = {
                    for (number, size) in sizes.enumerated() {
                        try await here.send(content(UInt8(number), size), timeout: limit)
                    }
                }()
                for (number, size) in sizes.enumerated() {
                    let message = try await there.recv(timeout: limit)
                    XCTAssertTrue(message == content(UInt8(number), size), "message \(number)")
                }
                try await sending
                try await there.send(Data("Data goes, too".utf8), timeout: limit)
                let answer = try await here.recv(timeout: limit)
                XCTAssertEqual(String(decoding: answer, as: UTF8.self), "Data goes, too")
            }
        }
    }

    func testWhatASessionTellsOfItself() async throws {
        try await withClient { client in
            let config = V1.PhantomConfig(suite: .chacha20Poly1305)
            try await withPair(client, config: config) { here, there in
                try await here.send([1], timeout: limit)
                _ = try await there.recv(timeout: limit)
                try await there.awaitReady(timeout: limit)
                XCTAssertEqual(here.id, there.id)
                XCTAssertEqual(here.id.count, 64)
                XCTAssertEqual(here.state, .connected)
                XCTAssertTrue(here.isReady)
                XCTAssertNil(here.lastError)
                XCTAssertEqual(here.peerIdentity?.key.count, Int(V1.Constants.verifyingKeyBytes))
                XCTAssertNil(there.peerIdentity)
                XCTAssertTrue(here.peerAddress.hasPrefix("127.0.0.1:"), here.peerAddress)
                XCTAssertEqual(here.handshake.algorithms.count, 4)
                try await here.refresh()
                XCTAssertEqual(here.negotiated.suite, .chacha20Poly1305)
                XCTAssertEqual(here.negotiated.leg, .tcp)
                let metrics = try await here.metrics()
                XCTAssertEqual(metrics.messagesSent, 1)
                let acknowledged = try await here.flush(timeout: limit)
                XCTAssertGreaterThanOrEqual(acknowledged, 0)
            }
        }
    }

    func testMessagesAreASequenceUntilTheOrderlyEnd() async throws {
        try await withClient { client in
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            let here = try await client.connect(to: listener.urls[0], timeout: limit)
            let there = try await listener.accept(timeout: limit)
            for number in 0..<10 { try await here.send([UInt8(number)], timeout: limit) }
            async let gone = here.disconnect(timeout: limit)
            var seen: [UInt8] = []
            do throws(PhantomError) {
                for try await message in there.messages { seen += message }
            } catch { XCTFail("\(error)") }
            XCTAssertEqual(seen, Array(0..<10))
            let acknowledged = try await gone
            XCTAssertTrue(acknowledged)
            try await there.disconnect(timeout: limit)
            try await listener.shutdown()
        }
    }

    func testTheCodeOfThePeersCloseIsTold() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                try await here.send([7], timeout: limit)
                let events = there.events
                try await here.disconnect(code: 42, timeout: limit)
                let message = try await there.recv(timeout: limit)
                XCTAssertEqual(message, [7], "what had arrived comes first")
                let error = await assertFails(.connectionClosed) { try await there.recv(timeout: limit) }
                XCTAssertEqual(error?.peerCode, 42)
                XCTAssertEqual(error?.isRetryable, false)
                await assertFails(.connectionClosed) { for try await _ in there.messages {} }
                var last: V1.StateChanged?
                for await event in events { if case .stateChanged(let changed) = event { last = changed } }
                XCTAssertEqual(last?.state, .closed)
                XCTAssertEqual(last?.reason.isEmpty, false)
                await assertFails(.connectionClosed) { try await here.send([1], timeout: limit) }
                let again = try await here.disconnect()
                XCTAssertTrue(again, "the answer of the first disconnect")
            }
        }
    }

    func testAnExchangeCarriesMessagesBothWays() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let sizes = (0..<60).map { [0, 10, 70_000, 300_000, 2_000_000][$0 % 5] }
                async let echo: Void = there.withExchange { exchange in
                    for _ in sizes { try await exchange.send(try await exchange.recv(timeout: limit), timeout: limit) }
                }
                try await here.withExchange { exchange in
                    async let sending: Void = {
                        for (number, size) in sizes.enumerated() {
                            try await exchange.send(content(UInt8(number), size), timeout: limit)
                        }
                    }()
                    for (number, size) in sizes.enumerated() {
                        let message = try await exchange.recv(timeout: limit)
                        XCTAssertTrue(message == content(UInt8(number), size), "message \(number)")
                    }
                    try await sending
                }
                try await echo
                // The session goes on without it, and has lost nothing.
                try await here.send([9], timeout: limit)
                let last = try await there.recv(timeout: limit)
                XCTAssertEqual(last, [9])
            }
        }
    }

    func testManyTasksMayUseOneSession() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let received = try await withThrowingTaskGroup(of: [UInt8].self) { group in
                    for number in 0..<50 {
                        group.addTask {
                            try await here.send([UInt8(number)], timeout: limit)
                            return []
                        }
                        group.addTask { try await there.recv(timeout: limit) }
                    }
                    return try await group.reduce(into: []) { $0 += $1 }
                }
                XCTAssertEqual(received.sorted(), Array(0..<50))
            }
        }
    }

    func testListenersAndKeys() async throws {
        try await withClient { client in
            let key = try await client.generateSigningKey()
            XCTAssertTrue(key.verifyingKey.fingerprint.hasPrefix("phantom1:"))
            let seed = content(3, 64)
            let imported = try await client.importSigningKey(from: .seed(seed))
            let again = try await client.importSigningKey(from: .seed(seed))
            XCTAssertEqual(imported.verifyingKey, again.verifyingKey)
            let listener = try await client.listen(on: ["127.0.0.1:0"], key: imported)
            XCTAssertEqual(listener.verifyingKey, imported.verifyingKey)
            for key in [key, imported, again] { try await client.drop(key) }
            let port = try XCTUnwrap(Int(listener.addresses[0].split(separator: ":").last ?? ""))
            for pin: PhantomPin in [
                .fingerprint(imported.verifyingKey.fingerprint), .key(imported.verifyingKey.key),
            ] {
                let here = try await client.connectPinned(host: "127.0.0.1", port: port, pins: [pin], timeout: limit)
                let there = try await listener.accept(timeout: limit)
                XCTAssertEqual(here.id, there.id)
                async let gone = there.disconnect(timeout: limit)
                try await here.disconnect(timeout: limit)
                _ = try await gone
            }
            let metrics = try await listener.metrics()
            XCTAssertEqual(metrics.handshakesSuccess, 2)
            async let waiting = assertFails(.connectionClosed) { try await listener.accept(timeout: limit) }
            try await Task.sleep(nanoseconds: 20_000_000)
            try await listener.shutdown()
            _ = await waiting
            XCTAssertTrue(listener.isShutDown)
            for try await _ in listener.sessions { XCTFail("a session after the shutdown") }
            try await listener.shutdown()
        }
    }

    func testAListenerCanBeDrained() async throws {
        try await withClient { client in
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            let here = try await client.connect(to: listener.urls[0], timeout: limit)
            let there = try await listener.accept(timeout: limit)
            try await there.send([1], timeout: limit)
            async let received = here.recv(timeout: limit)
            try await listener.drain(grace: limit)
            let message = try await received
            XCTAssertEqual(message, [1])
            let error = await assertFails(.connectionClosed) { try await here.recv(timeout: limit) }
            XCTAssertEqual(error?.peerCode, 14)
            try await here.disconnect(timeout: limit)
        }
    }

    func testTheSidecarTellsOfItself() async throws {
        try await withClient { client in
            XCTAssertEqual(client.info.contractVersion, V1.contractVersion)
            XCTAssertFalse(client.info.packageVersion.isEmpty)
            let health = try await client.health()
            XCTAssertTrue(health.live && health.ready)
            try await client.waitReady(timeout: limit)
            let report = try await client.runSelfTests()
            XCTAssertFalse(report.tests.isEmpty)
        }
    }

    func testASessionThatIsLetGoOfIsDisconnected() async throws {
        try await withClient { client in
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            do {
                _ = try await client.connect(to: listener.urls[0], timeout: limit)
                _ = try await listener.accept(timeout: limit)
            }
            try await listener.shutdown()
        }  // which looks whether nothing is left
    }

    func testABlockThatFailsEndsItsSession() async throws {
        struct Failure: Error {}
        try await withClient { client in
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            do {
                try await client.withSession(to: listener.urls[0]) { _ in throw Failure() }
                XCTFail("the error is lost")
            } catch is Failure {}
            let there = try await listener.accept(timeout: limit)
            try await there.disconnect(timeout: limit)
            try await listener.shutdown()
        }
    }

    /// Every call of the definition reaches the sidecar, which answers it or says in its own words why not.
    func testEveryCallOfTheDefinitionReachesTheSidecar() async throws {
        try await withClient { client in
            for (path, call) in everyCall {
                do throws(PhantomError) { try await call(client.transport, RPCOptions(timeout: .seconds(60))) } catch {
                    XCTAssertNotNil(error.detail, "\(path): \(error)")
                }
            }
        }
    }
}
