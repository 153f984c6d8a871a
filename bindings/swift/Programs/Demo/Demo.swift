// A server and a sidecar, each a process of its own, and this program, which speaks with the one through the other:
//
//     swift run PhantomDemo
//
// `phantom` must be on PATH (pip install '.[sidecar,cli]' in a clone of the repository).

import Foundation
import Phantom
import PhantomGRPCCore

@main
struct Demo {
    static func main() async {
        do { try await tell() } catch {
            print("\nit failed: \(error)")
            exit(1)
        }
    }

    static func tell() async throws {
        step("A server that echoes, in a process of its own")
        let server = try Server()
        defer { server.stop() }
        fact("url", server.url)

        step("A sidecar, started by this program and stopped by it")
        try await withPhantom(.launched()) { phantom in
            fact("version", phantom.info.packageVersion)
            fact("process", "\(phantom.info.pid)")

            step("A session: the server has to prove that it holds the pinned key")
            try await phantom.withSession(to: server.url) { session in
                fact("handshake", session.handshake.algorithms.joined(separator: ", "))
                fact("server", session.peerIdentity?.fingerprint ?? "?")
                try await exchangeMessages(session)
                try await sendFile(session)
            }

            try await beRefused(phantom, server)
            let held = try await phantom.held()
            step("The end")
            fact("left in the sidecar", "\(held.sessions) sessions, \(held.listeners) listeners")
        }
    }

    static func exchangeMessages(_ session: PhantomSession) async throws {
        step("Messages, there and back")
        for text in ["Hello, post-quantum world!", "Grüße aus Swift"] {
            try await session.send(text.utf8, timeout: .seconds(10))
            let answer = try await session.recv(timeout: .seconds(10))
            fact("echoed", String(decoding: answer, as: UTF8.self))
        }
    }

    /// 16 MiB in pieces, sent by one task while another receives and checks what comes back.
    static func sendFile(_ session: PhantomSession) async throws {
        step("A file of 16 MiB, there and back")
        let file = (0..<16 << 20).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        let piece = 256 << 10
        let begun = DispatchTime.now().uptimeNanoseconds
        try await session.withExchange { exchange in
            async let sending: Void = {
                for at in stride(from: 0, to: file.count, by: piece) {
                    try await exchange.send(Array(file[at..<at + piece]))
                }
            }()
            var arrived = 0
            while arrived < file.count {
                let message = try await exchange.recv(timeout: .seconds(30))
                guard message[...] == file[arrived..<arrived + message.count] else {
                    throw PhantomError(.internal, "the file came back changed")
                }
                arrived += message.count
                if arrived % (4 << 20) == 0 { fact("progress", "\(arrived >> 20) of \(file.count >> 20) MiB") }
            }
            try await sending
        }
        let seconds = Double(DispatchTime.now().uptimeNanoseconds - begun) / 1e9
        fact("intact", String(format: "in %.2f s, %.0f MB/s each way", seconds, Double(file.count) / seconds / 1e6))
    }

    /// Another key than the server's: the connect ends before anything was sent.
    static func beRefused(_ phantom: PhantomClient, _ server: Server) async throws {
        step("A server that does not hold the pinned key is refused")
        let other = try await phantom.generateSigningKey()
        do {
            let pin = PhantomPin.fingerprint(other.verifyingKey.fingerprint)
            _ = try await phantom.connect(to: server.address, pins: [pin])
            throw PhantomError(.internal, "a wrong pin was accepted")
        } catch let error as PhantomError where error.code == .serverIdentityMismatch {
            fact("refused", error.description)
        }
    }

    static func step(_ text: String) { print("\n\(text)") }
    static func fact(_ name: String, _ value: String) {
        print("  \(name.padding(toLength: 20, withPad: " ", startingAt: 0))\(value)")
    }
}

/// `phantom serve` as a child process.
final class Server {
    let url: String
    private let process = Process()
    private let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("phantom-demo-\(getpid())")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        let key = folder.appendingPathComponent("server.key").path
        process.arguments = ["phantom", "serve", "--bind", "127.0.0.1:0", "--signing-key-file", key, "--log-filter", "error"]
        let output = Pipe()
        process.standardOutput = output
        // A child inherits that the threads of tasks take no signals, and could not be stopped by one.
        var none = sigset_t()
        sigemptyset(&none)
        pthread_sigmask(SIG_SETMASK, &none, nil)
        try process.run()
        var line = ""
        while !line.contains("\n") {
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else { throw PhantomError(.network, "the server did not start") }
            line += String(decoding: data, as: UTF8.self)
        }
        guard let found = line.split(whereSeparator: \.isWhitespace).first(where: { $0.hasPrefix("phantom") }) else {
            throw PhantomError(.network, "the server said: \(line)")
        }
        url = String(found)
    }

    /// Without the pin.
    var address: String { String(url.split(separator: "@").last ?? "") }

    func stop() {
        process.terminate()
        process.waitUntilExit()
        try? FileManager.default.removeItem(at: folder)
    }
}
