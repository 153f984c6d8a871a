import Foundation
import XCTest

@testable import Phantom

/// Finding the sidecar, and not falling for another one.
final class LocationTests: XCTestCase {
    private func withFolder(_ body: (String) throws -> Void) throws {
        var template = Array("/tmp/phantom-test-XXXXXX".utf8CString)
        let folder = String(cString: try XCTUnwrap(mkdtemp(&template)))
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try body(folder)
    }

    private func assertRefused(_ location: SidecarLocation, _ code: ErrorCode, _ words: String, line: UInt = #line) {
        XCTAssertThrowsError(try location.token(), line: line) { error in
            XCTAssertEqual((error as? PhantomError)?.code, code, "\(error)", line: line)
            XCTAssertEqual((error as? PhantomError)?.message.contains(words), true, "\(error)", line: line)
        }
    }

    private func write(_ text: String, to path: String, mode: Int = 0o600) throws {
        try text.write(toFile: path, atomically: false, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
    }

    func testWhereItIsLookedFor() {
        let user = "\(getuid())"
        for (environment, address, tokenFile) in [
            (["XDG_RUNTIME_DIR": "/run/me"], "unix:/run/me/phantom/sidecar.sock", "/run/me/phantom/sidecar.sock.token"),
            (["XDG_RUNTIME_DIR": "run"], "unix:/tmp/phantom-\(user)/sidecar.sock", "/tmp/phantom-\(user)/sidecar.sock.token"),
            (["TMPDIR": "/t"], "unix:/t/phantom-\(user)/sidecar.sock", "/t/phantom-\(user)/sidecar.sock.token"),
            (["PHANTOM_SIDECAR_ADDRESS": "unix:/a"], "unix:/a", "/a.token"),
            (["PHANTOM_SIDECAR_ADDRESS": ""], "unix:/tmp/phantom-\(user)/sidecar.sock", "/tmp/phantom-\(user)/sidecar.sock.token"),
            (["PHANTOM_SIDECAR_ADDRESS": "unix:/a", "PHANTOM_SIDECAR_TOKEN_FILE": "/b"], "unix:/a", "/b"),
            (
                ["PHANTOM_SIDECAR_ADDRESS": "127.0.0.1:7", "XDG_RUNTIME_DIR": "/run/me"], "127.0.0.1:7",
                "/run/me/phantom/tcp-7.token"
            ),
        ] {
            let found = SidecarLocation(environment: environment)
            XCTAssertEqual(found.address, address)
            XCTAssertEqual(found.tokenFile, tokenFile)
        }
        let given = SidecarLocation(address: "unix:/x", tokenFile: "/y", environment: ["PHANTOM_SIDECAR_ADDRESS": "unix:/a"])
        XCTAssertEqual([given.address, given.tokenFile], ["unix:/x", "/y"])
    }

    func testFilesThatOthersCouldReachAreRefused() throws {
        try withFolder { folder in
            let socket = "\(folder)/s.sock"
            let location = SidecarLocation(address: "unix:\(socket)", environment: [:])
            assertRefused(location, .network, "there is no sidecar at \(socket)")
            try write("", to: socket)
            assertRefused(location, .accessDenied, "there is no token file")
            XCTAssertFalse(location.hasTokenFile)
            let token = String(repeating: "0f", count: 32)
            try write("\(token)\n", to: location.tokenFile)
            XCTAssertEqual(try location.token(), token)

            try write(token, to: location.tokenFile, mode: 0o640)
            assertRefused(location, .accessDenied, "must belong to you and to nobody else: chmod 600")
            try write("no token", to: location.tokenFile)
            assertRefused(location, .accessDenied, "does not hold 64 hexadecimal characters")
            try write(token + "0", to: location.tokenFile)
            assertRefused(location, .accessDenied, "does not hold 64 hexadecimal characters")
            try write(String(repeating: "g", count: 64), to: location.tokenFile)
            assertRefused(location, .accessDenied, "does not hold 64 hexadecimal characters")
            try write(token, to: "\(folder)/elsewhere")
            try FileManager.default.removeItem(atPath: location.tokenFile)
            try FileManager.default.createSymbolicLink(atPath: location.tokenFile, withDestinationPath: "\(folder)/elsewhere")
            assertRefused(location, .accessDenied, "cannot be opened")
            try FileManager.default.removeItem(atPath: location.tokenFile)
            try FileManager.default.createDirectory(atPath: location.tokenFile, withIntermediateDirectories: false)
            assertRefused(location, .accessDenied, "is not a regular file")

            try FileManager.default.setAttributes([.posixPermissions: 0o750], ofItemAtPath: folder)
            assertRefused(location, .config, "other users can enter the folder")
            try FileManager.default.setAttributes([.posixPermissions: 0o700], ofItemAtPath: folder)
            let inner = "\(folder)/inner"
            try FileManager.default.createDirectory(
                atPath: inner, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
            try write("", to: "\(inner)/s.sock")
            try FileManager.default.createSymbolicLink(atPath: "\(folder)/link", withDestinationPath: inner)
            let linked = SidecarLocation(address: "unix:\(folder)/link/s.sock", environment: [:])
            assertRefused(linked, .config, "links are not followed")
            try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: folder)
            let shared = SidecarLocation(address: "unix:\(inner)/s.sock", environment: [:])
            assertRefused(shared, .config, "other users can write")
        }
    }

    func testASidecarOfAnotherMachineIsRefused() {
        for address in ["10.0.0.1:7", "example.com:7", "localhost", ""] {
            assertRefused(SidecarLocation(address: address, tokenFile: "/t"), .config, "is not on this machine")
        }
    }
}
