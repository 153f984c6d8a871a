import Foundation
import PhantomGRPCCore
import XCTest

@testable import Phantom

/// What goes wrong with the sidecar, and what a caller sees of it.
final class FaultTests: XCTestCase {
    private static let quiet = ["sidecar", "--log-filter", "critical"]

    private static func start(_ socket: String) async throws -> SidecarProcess {
        try await SidecarProcess.start(command: command + quiet, socket: socket, timeout: .seconds(60))
    }

    func testNoSidecarIsThere() async throws {
        try await withFolder { folder in
            let location = SidecarLocation(address: "unix:\(folder)/s.sock")
            let error = await assertFails(.network) { try await PhantomClient.open(.running(location)) }
            XCTAssertEqual(error?.message.contains("there is no sidecar at \(folder)/s.sock"), true)
            let late = await assertFails(.timeout) {
                try await PhantomClient.open(.running(location), waiting: true, timeout: .seconds(0.3))
            }
            XCTAssertEqual(late?.message.contains("there is no sidecar"), true, "it says what is missing")
            // A socket that nobody serves any more.
            let sidecar = try await Self.start("\(folder)/s.sock")
            let token = try String(contentsOfFile: sidecar.location.tokenFile, encoding: .utf8)
            await sidecar.kill()
            try token.write(toFile: location.tokenFile, atomically: false, encoding: .utf8)
            try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: location.tokenFile)
            await assertFails(.network) { try await PhantomClient.open(.running(location)) }
        }
    }

    func testASidecarThatDoesNotStart() async throws {
        for command in [["/does/not/exist"], ["false"], ["echo", "no line of JSON"]] {
            await assertFails(.network) { try await PhantomClient.open(.launched(command: command)) }
        }
        let slow = await assertFails(.timeout) {
            try await PhantomClient.open(.launched(command: ["sh", "-c", "exec sleep 60"]), timeout: .seconds(0.3))
        }
        XCTAssertEqual(slow?.message, "the sidecar was not ready in time")
    }

    func testASidecarThatStartsSlowlyIsWaitedFor() async throws {
        try await withFolder { folder in
            let socket = "\(folder)/s.sock"
            let slowly = ["sh", "-c", "sleep 1; exec \(command.joined(separator: " ")) sidecar --log-filter critical \"$@\"", "sh"]
            async let starting = SidecarProcess.start(command: slowly, socket: socket, timeout: .seconds(60))
            let client = try await PhantomClient.open(
                .running(SidecarLocation(address: "unix:\(socket)")), waiting: true, timeout: .seconds(60))
            let health = try await client.health()
            XCTAssertTrue(health.ready)
            await client.close()
            let sidecar = try await starting
            await sidecar.stop()
            XCTAssertFalse(sidecar.isRunning)
        }
    }

    /// Killed in the middle: one error, the same for every call that waits and for every later one.
    func testEveryCallThatWaitsEndsWithTheSidecar() async throws {
        try await withFolder { folder in
            let socket = "\(folder)/s.sock"
            let sidecar = try await Self.start(socket)
            let client = try await PhantomClient.open(.running(sidecar.location))
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            let here = try await client.connect(to: listener.urls[0], timeout: limit)
            let there = try await listener.accept(timeout: limit)
            let other = try await client.connect(to: listener.urls[0], timeout: limit)
            let otherEnd = try await listener.accept(timeout: limit)
            let exchange = try await otherEnd.exchange()
            let events = here.events
            let full = try await other.exchange(sendOnly: true)

            let pending: [@Sendable () async throws -> Void] = [
                { _ = try await here.recv() },
                { for try await _ in there.messages {} },
                { while true { _ = try await exchange.recv(); try await Task.sleep(nanoseconds: 10_000_000) } },
                { while true { try await full.send(content(1, 1 << 20)) } },
                { _ = try await other.recv() },
                { _ = try await listener.accept() },
                { for try await _ in listener.sessions {} },
                { while true { _ = try await client.runSelfTests() } },
            ]
            let errors = await withTaskGroup(of: PhantomError?.self) { group in
                for call in pending {
                    group.addTask {
                        do { try await call() } catch { return error as? PhantomError }
                        return nil
                    }
                }
                try? await Task.sleep(nanoseconds: 300_000_000)
                await sidecar.kill()
                return await group.reduce(into: []) { $0.append($1) }
            }
            XCTAssertEqual(errors.map { $0?.code }, pending.map { _ in .network }, "\(errors)")

            for await _ in events {}  // ends
            XCTAssertEqual(here.state, .dead)
            XCTAssertEqual(here.lastError?.code, .network)
            let begun = Deadline.now
            await assertFails(.network) { try await here.send([1]) }
            await assertFails(.network) { try await client.connect(to: listener.urls[0]) }
            await assertFails(.network) { try await client.held() }
            await assertFails(.network) { try await client.health() }
            XCTAssertLessThan(Deadline.now - begun, 5_000_000_000, "later calls fail at once")
            XCTAssertFalse(client.isOpen)
            let acknowledged = try await here.disconnect()
            XCTAssertFalse(acknowledged)
            try await listener.shutdown()

            // Another sidecar at the same place, with another token: the old client is none of its clients.
            let next = try await Self.start(socket)
            let error = await assertFails(.network) { try await client.health() }
            XCTAssertEqual(error?.isRetryable, true)
            await client.close()
            let again = try await PhantomClient.open(.running(next.location))
            try await withPair(again) { here, there in
                try await here.send([5], timeout: limit)
                let message = try await there.recv(timeout: limit)
                XCTAssertEqual(message, [5])
            }
            try await nothingHeld(again)
            await again.close()
            await assertFails(.runtimeInit) { try await again.health() }
            await again.close()
            await next.stop()
        }
    }

    func testAWrongTokenIsRefused() async throws {
        let sidecar = try await Shared.shared.sidecar()
        try await withFolder { folder in
            let file = "\(folder)/token"
            try String(repeating: "ab", count: 32).write(toFile: file, atomically: false, encoding: .utf8)
            try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: file)
            let location = SidecarLocation(address: sidecar.location.address, tokenFile: file)
            let error = await assertFails(.accessDenied) { try await PhantomClient.open(.running(location)) }
            XCTAssertEqual(error?.detail?.code.code, .accessDenied, "the sidecar says so")
            await assertFails(.accessDenied) {
                try await PhantomClient.open(.running(location), waiting: true)
            }
        }
        await assertFails(.accessDenied) { try GRPCCoreTransport(address: sidecar.location.address, token: "a\nb") }
    }

    func testAnotherContractVersionIsATypedError() async throws {
        try await withClient { client in
            for version in [V1.contractVersion - 1, V1.contractVersion + 1] where version != 0 {
                await assertFails(.contractVersion) {
                    try await client.calls.sidecar.getInfo(V1.GetInfoRequest(contractVersion: version))
                }
            }
        }
    }

    func testAWrongPinIsRefusedAndAMissingOneToo() async throws {
        try await withClient { client in
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            let other = try await client.generateSigningKey()
            let address = String(listener.addresses[0])
            let error = await assertFails(.serverIdentityMismatch) {
                try await client.connect(to: address, pins: [.fingerprint(other.verifyingKey.fingerprint)])
            }
            XCTAssertEqual(error?.code.isKind(of: .handshake), true)
            await assertFails(.config) { try await client.connect(to: address) }
            await assertFails(.validation) { try await client.connect(to: address, pins: [.fingerprint("phantom1:no")]) }
            await assertFails(.validation) { try await client.connect(to: address, pins: [.key([1, 2, 3])]) }
            await assertFails(.validation) { try await client.connect(to: "no://such:leg", pins: [.key([])]) }
            try await client.drop(other)
            try await listener.shutdown()
        }
    }

    func testAServerThatIsGone() async throws {
        let server = try await SidecarProcess.start(command: command + Self.quiet, timeout: .seconds(60))
        let holder = try await PhantomClient.open(.running(server.location))
        let listener = try await holder.listen(on: ["127.0.0.1:0"])
        let url = listener.urls[0]
        try await withClient { client in
            let session = try await client.connect(to: url, timeout: limit)
            async let waiting = session.recv(timeout: .seconds(60))
            await server.kill()
            do {
                _ = try await waiting
                XCTFail("a message from nobody")
            } catch {
                XCTAssertEqual((error as? PhantomError)?.code.branch, .transport, "\(error)")
            }
            let again = await assertFails(.network) { try await client.connect(to: url, timeout: limit) }
            XCTAssertEqual(again?.isRetryable, true)
            try await session.disconnect(timeout: second)
        }
        await holder.close()
    }

    func testAMessageAboveEveryLimit() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let large = content(1, (16 << 20) + 1)
                await assertFails(.validation) { try await here.send(large, timeout: limit) }
                // The one call that carries 1 MiB, and gRPC itself.
                await assertFails(.frameTooLarge) {
                    try await here.calls.send(data: content(1, (1 << 20) + (128 << 10)))
                }
                await assertFails(.validation) {
                    try await here.withExchange { exchange in
                        try await exchange.send(large)
                        try await exchange.flush(timeout: limit)
                    }
                }
                await assertFails(.validation) { try await here.disconnect(code: 65536) }
                await assertFails(.validation) { try await here.exportKeyingMaterial(label: "x", length: 0) }
                // None of that harmed the session.
                try await here.send([3], timeout: limit)
                let message = try await there.recv(timeout: limit)
                XCTAssertEqual(message, [3])
            }
        }
    }

    func testDeadlines() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                for _ in 0..<10 { await assertFails(.timeout) { try await there.recv(timeout: .milliseconds(5)) } }
                await assertFails(.timeout) { try await there.recv(timeout: .milliseconds(0)) }
                // Behind another one that waits, too.
                async let first = there.recv(timeout: limit)
                await assertFails(.timeout) { try await there.recv(timeout: .milliseconds(20)) }
                try await here.send([1], timeout: limit)
                let message = try await first
                XCTAssertEqual(message, [1])
                let exchange = try await there.exchange()
                let error = await assertFails(.timeout) { try await exchange.recv(timeout: .milliseconds(20)) }
                XCTAssertEqual(error?.isRetryable, true)
                try await here.send([2], timeout: limit)
                let second = try await exchange.recv(timeout: limit)
                XCTAssertEqual(second, [2], "nothing is lost")
                exchange.cancel()
                await assertFails(.connectionClosed) { try await exchange.recv() }
            }
            let listener = try await client.listen(on: ["127.0.0.1:0"])
            await assertFails(.timeout) { try await listener.accept(timeout: .milliseconds(20)) }
            try await listener.shutdown()
        }
    }

    func testAHundredSessionsAtOnce() async throws {
        try await withClient { client in
            let config = V1.PhantomConfig(maxSessions: 256, maxSessionsPerIp: 0)
            let listener = try await client.listen(on: ["127.0.0.1:0"], config: config)
            let serving = Task {
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for try await session in listener.sessions {
                        group.addTask {
                            for try await message in session.messages { try await session.send(message) }
                            _ = try await session.disconnect(timeout: limit)
                        }
                    }
                    try await group.waitForAll()
                }
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<100 {
                    group.addTask {
                        try await client.withSession(to: listener.urls[0], timeout: .seconds(60)) { session in
                            for round in 0..<5 {
                                let message = content(UInt8(number), 1000 * round)
                                try await session.send(message, timeout: .seconds(60))
                                let answer = try await session.recv(timeout: .seconds(60))
                                XCTAssertTrue(answer == message)
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
            try await listener.shutdown()
            try await serving.value
        }
    }

    /// Nobody receives: the sender waits, and memory stays where it is, here and in the sidecar.
    func testASlowConsumerStallsTheSender() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let sidecar = String(client.info.pid)
                let (before, sidecarBefore) = (try resident(), try resident(sidecar))
                let message = content(1, 256 << 10)
                let exchange = try await here.exchange(sendOnly: true)
                var accepted = 0
                while accepted < 4096 {  // 1 GiB, if nobody stops it
                    do throws(PhantomError) { try await exchange.send(message, timeout: .seconds(2)) } catch {
                        XCTAssertEqual(error.code, .timeout)
                        break
                    }
                    accepted += 1
                }
                let bytes = accepted * message.count
                let grown = try resident() - before
                let sidecarGrown = try resident(sidecar) - sidecarBefore
                print("slow consumer: \(bytes >> 20) MiB accepted, +\(grown >> 20) MiB here, +\(sidecarGrown >> 20) MiB in the sidecar")
                XCTAssertLessThan(bytes, 96 << 20, "what stands in all queues between the two")
                XCTAssertLessThan(grown, 32 << 20)
                XCTAssertLessThan(sidecarGrown, 192 << 20)
                // All that was accepted arrives once somebody receives.
                async let closing: Void = exchange.close(timeout: .seconds(60))
                for _ in 0..<accepted {
                    let arrived = try await there.recv(timeout: .seconds(30))
                    XCTAssertTrue(arrived == message)
                }
                try await closing
            }
        }
    }
}
