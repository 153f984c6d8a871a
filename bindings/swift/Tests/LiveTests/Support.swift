import Foundation
@testable import Phantom
import PhantomGRPCCore
import XCTest

let second = WireDuration.seconds(1)
let limit = WireDuration.seconds(20)

/// The command that starts Phantom: `phantom` on PATH unless PHANTOM_COMMAND says otherwise.
let command = (ProcessInfo.processInfo.environment["PHANTOM_COMMAND"] ?? "phantom").split(separator: " ").map(String.init)

/// How often loops go round: fewer under a sanitizer, which is slow.
let isSanitized = ProcessInfo.processInfo.environment["PHANTOM_SANITIZED"] != nil
func rounds(_ count: Int) -> Int { isSanitized ? max(count / 10, 1) : count }

/// One sidecar for all tests that do not harm it.
actor Shared {
    static let shared = Shared()
    private var starting: Task<SidecarProcess, any Error>?

    func sidecar() async throws -> SidecarProcess {
        _ = await MainActor.run { AtTheEnd.registered }
        if let starting { return try await starting.value }
        let task = Task { try await SidecarProcess.start(command: command, timeout: .seconds(60)) }
        starting = task
        return try await task.value
    }

    func stop() async { if let starting { try? await starting.value.stop() } }
}

/// A client of the shared sidecar; in the end it must hold nothing.
func withClient<Output: Sendable>(
    holding most: UInt32 = 0, _ body: @Sendable (PhantomClient) async throws -> Output
) async throws -> Output {
    let sidecar = try await Shared.shared.sidecar()
    return try await withPhantom(.running(sidecar.location)) { client in
        let output = try await body(client)
        try await nothingHeld(client)
        return output
    }
}

/// Handles return to zero: sessions that were let go of do so a moment later.
func nothingHeld(_ client: PhantomClient, file: StaticString = #filePath, line: UInt = #line) async throws {
    let deadline = Deadline(.seconds(10))
    var held = try await client.held()
    while held.sessions + held.listeners + held.signingKeys > 0, !deadline.isPast {
        try await Task.sleep(nanoseconds: 20_000_000)
        held = try await client.held()
    }
    XCTAssertEqual(held.sessions, 0, "sessions are left in the sidecar", file: file, line: line)
    XCTAssertEqual(held.listeners, 0, "listeners are left in the sidecar", file: file, line: line)
    XCTAssertEqual(held.signingKeys, 0, "keys are left in the sidecar", file: file, line: line)
}

/// Both ends of a session, over a listener of the same client.
func withPair<Output: Sendable>(
    _ client: PhantomClient, config: V1.PhantomConfig? = nil,
    _ body: @Sendable (_ here: PhantomSession, _ there: PhantomSession) async throws -> Output
) async throws -> Output {
    let listener = try await client.listen(on: ["127.0.0.1:0"], config: config)
    async let accepted = listener.accept(timeout: limit)
    let here = try await client.connect(to: listener.urls[0], config: config, timeout: limit)
    let there = try await accepted
    let output: Output
    do { output = try await body(here, there) } catch {
        _ = try? await here.disconnect(timeout: second)
        _ = try? await there.disconnect(timeout: second)
        try await listener.shutdown()
        throw error
    }
    // Both at once: each flushes what the other acknowledges.
    async let gone = there.disconnect(timeout: limit)
    try await here.disconnect(timeout: limit)
    _ = try await gone
    try await listener.shutdown()
    return output
}

/// Runs the block, which must fail with a PhantomError of this code.
@discardableResult
func assertFails<Output>(
    _ code: ErrorCode, file: StaticString = #filePath, line: UInt = #line, _ body: () async throws -> Output
) async -> PhantomError? {
    do {
        _ = try await body()
        XCTFail("it succeeded, expected \(code)", file: file, line: line)
    } catch let error as PhantomError {
        XCTAssertEqual(error.code, code, "\(error)", file: file, line: line)
        return error
    } catch { XCTFail("\(error) is no PhantomError", file: file, line: line) }
    return nil
}

/// Bytes that differ by word and place.
func content(_ word: UInt8, _ size: Int) -> [UInt8] {
    let page = (0..<4092).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8) ^ word }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(size + 4096)
    var number: UInt32 = 0
    while bytes.count < size {
        bytes += page
        withUnsafeBytes(of: number) { bytes += $0 }
        number += 1
    }
    bytes.removeLast(bytes.count - size)
    return bytes
}

/// A folder of this user alone, which is removed in the end.
func withFolder<Output>(_ body: (String) async throws -> Output) async throws -> Output {
    var template = Array("/tmp/phantom-test-XXXXXX".utf8CString)
    let made = try XCTUnwrap(mkdtemp(&template))
    let folder = String(cString: made)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    return try await body(folder)
}

/// Memory of a process in bytes.
func resident(_ process: String = "self") throws -> Int {
    let status = try String(contentsOfFile: "/proc/\(process)/status", encoding: .utf8)
    let line = try XCTUnwrap(status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
    return try XCTUnwrap(line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) }) * 1024
}

/// Stops the shared sidecar when the tests are over: it holds on to standard error, for which whoever runs them waits.
final class AtTheEnd: NSObject, XCTestObservation, @unchecked Sendable {
    static let registered: Void = XCTestObservationCenter.shared.addTestObserver(AtTheEnd())

    func testBundleDidFinish(_ testBundle: Bundle) {
        let done = DispatchSemaphore(value: 0)
        Task {
            await Shared.shared.stop()
            done.signal()
        }
        done.wait()
    }
}
