import Foundation
import PhantomGRPCCore
import XCTest

@testable import Phantom

final class StreamTests: XCTestCase {
    func testBytesBothWaysAndTheEndOfEachHalf() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let bytes = content(1, 3_000_000)
                async let echo: Int = {
                    let stream = try await there.acceptStream(timeout: limit)
                    var total = 0
                    for try await piece in stream.pieces {
                        try await stream.send(piece, timeout: limit)
                        total += piece.count
                    }
                    try await stream.finish()
                    try await stream.release()
                    return total
                }()
                let stream = try await here.openStream(priority: 7, timeout: limit)
                XCTAssertEqual(stream.id % 2, 1)
                XCTAssertGreaterThan(stream.maxUnreliableSize, 1000)
                async let sending: Void = {
                    try await stream.send(bytes, timeout: limit)
                    try await stream.finish()
                }()
                let back = try await stream.readToEnd(upTo: bytes.count, timeout: limit)
                XCTAssertTrue(back == bytes)
                try await sending
                let total = try await echo
                XCTAssertEqual(total, bytes.count)
                let end = try await stream.recv(timeout: limit)
                XCTAssertNil(end, "the end stays the end")
                await assertFails(.streamClosed) { try await stream.send([1]) }
                try await stream.release()
                try await stream.release()
            }
        }
    }

    func testResettingAndStoppingTellTheCode() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                let stream = try await here.openStream(timeout: limit)
                let other = try await there.acceptStream(timeout: limit)
                try await other.stop(code: 5)
                let deadline = Deadline(limit)
                var stopped: PhantomError?
                while stopped == nil, !deadline.isPast {
                    do throws(PhantomError) { try await stream.send([1], timeout: limit) } catch { stopped = error }
                }
                XCTAssertEqual(stopped?.code, .streamReset)
                XCTAssertEqual(stopped?.resetCode, 5)
                try await other.reset(code: 9)
                let reset = await assertFails(.streamReset) { try await stream.recv(timeout: limit) }
                XCTAssertEqual(reset?.resetCode, 9)
                try await stream.setPriority(3)
                try await stream.release()
                try await other.release()
            }
        }
    }

    func testABlockWithAStream() async throws {
        struct Failure: Error {}
        try await withClient { client in
            try await withPair(client) { here, there in
                try await here.withStream { stream in try await stream.send([1, 2, 3], timeout: limit) }
                let first = try await there.acceptStream(timeout: limit)
                let bytes = try await first.readToEnd(upTo: 10, timeout: limit)
                XCTAssertEqual(bytes, [1, 2, 3])
                do {
                    try await here.withStream { _ in throw Failure() }
                    XCTFail("the error is lost")
                } catch is Failure {}
                let second = try await there.acceptStream(timeout: limit)
                await assertFails(.streamReset) { try await second.recv(timeout: limit) }
            }
        }
    }

    func testKeysAndWhatIsMadeOfThem() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                try await here.send([1], timeout: limit)
                _ = try await there.recv(timeout: limit)
                try await there.send([2], timeout: limit)
                _ = try await here.recv(timeout: limit)
                let (mine, theirs) = (
                    try await here.exportKeyingMaterial(label: "test", length: 48),
                    try await there.exportKeyingMaterial(label: "test", length: 48)
                )
                XCTAssertEqual(mine, theirs)
                XCTAssertEqual(mine.count, 48)
                let other = try await here.exportKeyingMaterial(label: "else", length: 48)
                XCTAssertNotEqual(mine, other)
                let events = there.events
                let epoch = try await here.rekey(timeout: limit)
                XCTAssertEqual(epoch, 1)
                try await here.send([3], timeout: limit)
                _ = try await there.recv(timeout: limit)
                for await event in events {
                    if case .rekeyed(let rekeyed) = event {
                        XCTAssertEqual(rekeyed.epoch, 1)
                        XCTAssertTrue(rekeyed.byPeer)
                        break
                    }
                }
            }
        }
    }

    func testAClientProvesWhoItIs() async throws {
        try await withClient { client in
            let key = try await client.generateSigningKey()
            let stranger = try await client.generateSigningKey()
            let policy = V1.ClientPolicy(
                authentication: .required, authorized: [V1.Pin(pin: .key(key.verifyingKey.key))])
            let listener = try await client.listen(on: ["127.0.0.1:0"], clients: policy)
            let url = listener.urls[0]
            let here = try await client.connect(to: url, identity: key, timeout: limit)
            let there = try await listener.accept(timeout: limit)
            XCTAssertEqual(there.peerIdentity?.key, key.verifyingKey.key)
            await assertFails(.clientAuth) { try await client.connect(to: url, identity: stranger, timeout: limit) }
            async let gone = there.disconnect(timeout: limit)
            try await here.disconnect(timeout: limit)
            _ = try await gone
            try await listener.shutdown()
            for key in [key, stranger] { try await client.drop(key) }
        }
    }

    /// An open that nobody waits for any more leaves no stream behind: the peer sees it end.
    func testCancelledOpensLeaveNoStream() async throws {
        try await withClient { client in
            try await withPair(client) { here, there in
                for turn in 0..<rounds(300) {
                    let task = Task { try await here.openStream(timeout: limit) }
                    for _ in 0..<turn % 29 { await Task.yield() }
                    if turn % 3 == 0 { try await Task.sleep(nanoseconds: UInt64(turn % 31) * 50_000) }
                    task.cancel()
                    if let stream = try? await task.value { try await stream.release() }
                }
                // None is left open, so that as many as there may be can be opened.
                var open: [PhantomStream] = []
                for _ in 0..<200 { open.append(try await here.openStream(timeout: limit)) }
                for stream in open { try await stream.release() }
                try await there.send([1], timeout: limit)
                _ = try await here.recv(timeout: limit)
            }
        }
    }
}
