// The client of benchmarks/swift/run.py: one measurement, as a line of JSON. bulk|ping|unary|connect ADDRESS TARGET SECONDS

import Foundation
import Phantom
import PhantomGRPCCore

let size = 256 << 10
/// Bytes under way.
let window = 4 << 20
let callsBefore = 50
let connects = 20
/// The target that a sidecar answers itself.
let inMemory = "127.0.0.1:9"

func now() -> UInt64 { DispatchTime.now().uptimeNanoseconds }

@main
struct Benchmark {
    static func main() async throws {
        let arguments = CommandLine.arguments
        let (work, location, target) = (arguments[1], SidecarLocation(address: arguments[2]), arguments[3])
        let span = UInt64((Double(arguments[4]) ?? 1) * 1e9)
        let figures: [String: Double]
        if work == "connect" {
            let first = try await firstByte(location, target)
            var rest: [Double] = []
            for _ in 0..<connects { rest.append(try await firstByte(location, target)) }
            figures = ["first ms": first, "ms": rest.sorted()[connects / 2]]
        } else {
            figures = try await withPhantom(.running(location)) { phantom in
                let session = try await connect(phantom, target)
                switch work {
                case "unary": return try await times(span) { try await session.refresh() }
                case "ping":
                    let exchange = try await session.exchange()
                    let message = [UInt8](repeating: 7, count: 64)
                    return try await times(span) {
                        try await exchange.send(message)
                        _ = try await exchange.recv()
                    }
                default:
                    let exchange = try await session.exchange()
                    _ = try await echo(exchange, 200_000_000)
                    return ["MB/s each way": try await echo(exchange, span), "peak RSS MiB": peak()]
                }
            }
        }
        let data = try JSONSerialization.data(withJSONObject: figures)
        print(String(decoding: data, as: UTF8.self))
    }

    static func connect(_ phantom: PhantomClient, _ target: String) async throws -> PhantomSession {
        let pins: [PhantomPin] = target == inMemory ? [.key([UInt8](repeating: 0, count: 1984))] : []
        return try await phantom.connect(to: target, pins: pins)
    }

    /// Echo both ways at once.
    static func echo(_ exchange: PhantomExchange, _ span: UInt64) async throws -> Double {
        let message = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 17 >> 4) }
        let begun = now()
        let room = Room(window / size)
        let sending = Task {
            var sent = 0
            while now() - begun < span {
                await room.enter()
                try await exchange.send(message)
                sent += 1
            }
            await room.last(sent)
        }
        var received = 0
        while await !room.isDone(received) {
            let message = try await exchange.recv()
            precondition(message.count == size)
            received += 1
            await room.leave()
        }
        try await sending.value
        return Double(received * size) / (Double(now() - begun) / 1e9) / 1e6
    }

    static func times(_ span: UInt64, _ once: @Sendable () async throws -> Void) async throws -> [String: Double] {
        for _ in 0..<callsBefore { try await once() }
        var found: [Double] = []
        let end = now() + span
        while true {
            let begun = now()
            if begun >= end { break }
            try await once()
            found.append(Double(now() - begun) / 1e3)
        }
        found.sort()
        return ["p50 µs": found[found.count / 2], "p99 µs": found[found.count * 99 / 100]]
    }

    static func firstByte(_ location: SidecarLocation, _ target: String) async throws -> Double {
        let begun = now()
        return try await withPhantom(.running(location)) { phantom in
            let session = try await connect(phantom, target)
            try await session.send([120])
            _ = try await session.recv()
            return Double(now() - begun) / 1e6
        }
    }

    static func peak() -> Double {
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM") } ?? ""
        return (Double(line.filter(\.isNumber)) ?? 0) / 1024
    }
}

/// So many messages under way.
actor Room {
    private var free: Int
    private var waiting: CheckedContinuation<Void, Never>?
    private var total: Int?

    init(_ free: Int) { self.free = free }

    func enter() async {
        if free == 0 { await withCheckedContinuation { waiting = $0 } }
        free -= 1
    }

    func leave() {
        free += 1
        waiting?.resume()
        waiting = nil
    }

    func last(_ count: Int) { total = count }

    /// Whether all that was sent has come back. While it is sent, something always comes.
    func isDone(_ received: Int) async -> Bool {
        while total == nil, free == window / size { await Task.yield() }
        return total.map { received >= $0 } ?? false
    }
}
