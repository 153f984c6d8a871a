// Driver of the conformance suite (tests/conformance/README.md): one command a line comes in, one answer a line goes out,
// every command in a task of its own.

import Foundation
import Phantom
import PhantomGRPCCore

struct Missing: Error { let why: String }
struct BadCase: Error { let why: String }

typealias Answer = [String: any Sendable]

/// The arguments of a command: texts, whole numbers and booleans.
struct Arguments: @unchecked Sendable {
    let values: [String: Any]

    init(_ values: [String: Any]) { self.values = values }

    func text(_ name: String) throws -> String {
        guard let value = values[name] as? String else { throw BadCase(why: "no text \(name)") }
        return value
    }
    func text(_ name: String, or other: String) -> String { values[name] as? String ?? other }
    func number(_ name: String, or other: Int) -> Int { (values[name] as? NSNumber)?.intValue ?? other }
    func flag(_ name: String) -> Bool { (values[name] as? NSNumber)?.boolValue ?? false }
    func flag(_ name: String, or other: Bool) -> Bool { (values[name] as? NSNumber)?.boolValue ?? other }
    var limit: WireDuration { .milliseconds(Int64(number("timeout_ms", or: 10_000))) }

    /// `config.FIELD`, and `config.FIELD_ms` for times.
    func config() throws -> V1.PhantomConfig {
        var config = V1.PhantomConfig()
        for (name, value) in values where name.hasPrefix("config.") {
            let number = (value as? NSNumber)?.int64Value ?? 0
            let size = UInt32(clamping: number)
            switch name.dropFirst(7) {
            case "bulk_chunk": config.bulkChunk = size
            case "frame_cap": config.frameCap = size
            case "max_message": config.maxMessage = size
            case "max_sessions": config.maxSessions = size
            case "max_sessions_per_ip": config.maxSessionsPerIp = size
            case "max_inflight_handshakes": config.maxInflightHandshakes = size
            case "max_inflight_per_source": config.maxInflightPerSource = size
            case "send_segments": config.sendSegments = size
            case "recv_segments": config.recvSegments = size
            case "offer_version": config.offerVersion = size
            case "accept_versions":
                config.acceptVersions = (value as? String ?? "\(number)").split(separator: " ").compactMap { UInt32($0) }
            case "recv_window": config.recvWindow = UInt64(clamping: number)
            case "recv_memory": config.recvMemory = UInt64(clamping: number)
            case "handshake_timeout_ms": config.handshakeTimeout = .milliseconds(number)
            case "keepalive_interval_ms": config.keepaliveInterval = .milliseconds(number)
            case "connect_timeout_ms": config.connectTimeout = .milliseconds(number)
            case "close_timeout_ms": config.closeTimeout = .milliseconds(number)
            case "silence_floor_ms": config.silenceFloor = .milliseconds(number)
            case "suite": config.suite = value as? String == "aes-256-gcm" ? .aes256Gcm : .chacha20Poly1305
            case "cookie": config.cookie = value as? String == "always" ? .always : .auto
            case "padding": config.padding = value as? String == "pade" ? .pade : .none
            case "provider": config.provider = value as? String ?? ""
            default: throw Missing(why: "the driver does not know \(name)")
            }
        }
        return config
    }

    /// Several texts, separated by a space.
    func pins(_ name: String, form: String = "text") throws -> [PhantomPin] {
        try text(name, or: "").split(separator: " ").map {
            form == "text" ? .fingerprint(String($0)) : .key(try bytes(String($0)))
        }
    }
}

func bytes(_ hex: String) throws -> [UInt8] {
    let digits = Array(hex.utf8)
    guard digits.count % 2 == 0 else { throw BadCase(why: "no hexadecimal characters") }
    return try stride(from: 0, to: digits.count, by: 2).map {
        guard let byte = UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16) else {
            throw BadCase(why: "no hexadecimal characters")
        }
        return byte
    }
}

func hex(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

/// The content that a word and a size stand for.
func content(_ word: String, _ size: Int) -> [UInt8] {
    var tail: [UInt8] = []
    for number in 0..<UInt32(4096 / 32) {
        tail += SHA256.digest(Array(word.utf8) + withUnsafeBytes(of: number.bigEndian) { Array($0) })
    }
    tail.removeLast(8)
    var made: [UInt8] = []
    made.reserveCapacity(size + 4096)
    var page: UInt64 = 0
    while made.count < size {
        made += tail
        withUnsafeBytes(of: page.bigEndian) { made += $0 }
        page += 1
    }
    made.removeLast(made.count - size)
    return made
}

func described(_ bytes: [UInt8]) -> Answer { ["size": bytes.count, "sha256": hex(SHA256.digest(bytes))] }

/// Events of a session from the moment it is watched.
actor Watch {
    private var iterator: AsyncStream<V1.SessionEvent.EventChoice>.Iterator
    init(_ events: AsyncStream<V1.SessionEvent.EventChoice>) { iterator = events.makeAsyncIterator() }
    func next() async -> V1.SessionEvent.EventChoice? {
        var own = iterator
        defer { iterator = own }
        return await own.next(isolation: self)
    }
}

enum Thing: Sendable {
    case session(PhantomSession)
    case listener(PhantomListener)
    case stream(PhantomStream)
    case key(SigningKey)
}

actor Driver {
    private var things: [String: Thing] = [:]
    private var watches: [String: Watch] = [:]
    private var opening: Task<PhantomClient, any Error>?

    private func client() async throws -> PhantomClient {
        if let opening { return try await opening.value }
        let task = Task { try await PhantomClient.open(waiting: true) }
        opening = task
        return try await task.value
    }

    // MARK: Things by name

    private static let nothing = PhantomError(.sessionNotFound, "the case has nothing of that name and kind")

    private func session(_ arguments: Arguments, _ name: String = "session") throws -> PhantomSession {
        guard case .session(let session)? = things[try arguments.text(name)] else { throw Self.nothing }
        return session
    }
    private func listener(_ arguments: Arguments, _ name: String = "listener") throws -> PhantomListener {
        guard case .listener(let listener)? = things[try arguments.text(name)] else { throw Self.nothing }
        return listener
    }
    private func stream(_ name: String) throws -> PhantomStream {
        guard case .stream(let stream)? = things[name] else { throw Self.nothing }
        return stream
    }
    private func key(_ arguments: Arguments, _ name: String) throws -> SigningKey? {
        guard let given = arguments.values[name] as? String else { return nil }
        guard case .key(let key)? = things[given] else { throw Self.nothing }
        return key
    }

    func close() async {
        await reset()
        if let client = try? await opening?.value { await client.close() }
    }

    private func reset() async {
        let left = things.values
        things = [:]
        watches = [:]
        for thing in left {
            switch thing {
            case .session(let session): _ = try? await session.disconnect(timeout: .milliseconds(1))
            case .listener(let listener): try? await listener.shutdown()
            case .stream(let stream): try? await stream.release()
            case .key(let key): try? await client().drop(key)
            }
        }
    }

    // MARK: Commands

    func run(_ command: String, _ given: Arguments) async throws -> Answer {
        switch command {
        case "hello": return ["version": try await client().info.packageVersion]
        case "reset":
            await reset()
            return [:]
        case "contract":
            let version = UInt32(given.number("version", or: 0))
            _ = try await client().calls.sidecar.getInfo(V1.GetInfoRequest(contractVersion: version))
            return [:]
        case "token":
            let transport = try GRPCCoreTransport(address: SidecarLocation().address, token: given.text("token"))
            try await PhantomClient.open(over: transport).close()
            return [:]
        case "key": return try await makeKey(given)
        case "check_key": throw Missing(why: "keys are checked in the sidecar, where they are used")
        case "listen", "accept", "answer", "shutdown", "shutting_down", "drain":
            return try await listening(command, given)
        case "open_stream", "accept_stream", "open_streams", "accept_streams", "fill_streams", "drain_streams":
            return try await streams(command, given)
        case let command where command.hasPrefix("stream_"):
            return try await onStream(command, try stream(given.text("stream")), given)
        default: return try await onSession(command, given)
        }
    }

    private func makeKey(_ given: Arguments) async throws -> Answer {
        let key =
            if let seed = given.values["seed_hex"] as? String {
                try await client().importSigningKey(from: .seed(bytes(seed)))
            } else { try await client().generateSigningKey() }
        things[try given.text("name")] = .key(key)
        return ["verifying_key": hex(key.verifyingKey.key), "fingerprint": key.verifyingKey.fingerprint]
    }

    private func listening(_ command: String, _ given: Arguments) async throws -> Answer {
        switch command {
        case "listen":
            let addresses = given.text("address", or: "tcp://127.0.0.1:0").split(separator: " ").map(String.init)
            let listener = try await client().listen(
                on: addresses, key: key(given, "key"), clients: policy(given), reusePort: given.flag("reuse_port"),
                config: given.config())
            things[try given.text("name")] = .listener(listener)
            let parts = listener.urls[0].components(separatedBy: "://")
            let rest = parts[1].components(separatedBy: "@")
            let port = rest[1].components(separatedBy: ":").last ?? ""
            return [
                "url": listener.urls[0], "urls": listener.urls.count, "scheme": parts[0], "fingerprint": rest[0],
                "address": rest[1], "host": String(rest[1].dropLast(port.count + 1)), "port": Int(port) ?? 0,
                "verifying_key": hex(listener.verifyingKey.key),
            ]
        case "accept", "answer":
            let session = try await listener(given).accept(timeout: given.limit)
            things[try given.text("name")] = .session(session)
            if command == "accept" {
                return [
                    "id": session.id, "peer_addr": session.peerAddress,
                    "client_identity": hex(session.peerIdentity?.key ?? []),
                ]
            }
            let message = try await session.recv(timeout: given.limit)
            try await session.send(message, timeout: given.limit)
            try await session.flush(timeout: given.limit)
            return described(message)
        case "shutdown": try await listener(given).shutdown()
        case "shutting_down": return ["value": try listener(given).isShutDown]
        default: try await listener(given).drain(grace: given.limit)
        }
        return [:]
    }

    private func policy(_ given: Arguments) throws -> V1.ClientPolicy? {
        guard let name = given.values["clients"] as? String else { return nil }
        let kinds: [String: V1.ClientAuthentication] = ["none": .none, "optional": .optional, "required": .required]
        return V1.ClientPolicy(
            authentication: kinds[name] ?? .init(), authorized: try given.pins("authorized").map { V1.Pin(pin: $0) },
            authorizedFile: given.text("authorized_file", or: ""))
    }

    private func connect(_ given: Arguments) async throws -> PhantomSession {
        let session = try await client().connect(
            to: given.text("target"), pins: given.pins("pin", form: given.text("pin_form", or: "text")),
            identity: key(given, "identity"), config: given.config(), timeout: given.limit)
        things[try given.text("name")] = .session(session)
        return session
    }

    private func onSession(_ command: String, _ given: Arguments) async throws -> Answer {
        let limit = given.limit
        switch command {
        case "connect":
            let session = try await connect(given)
            return ["id": session.id, "peer_addr": session.peerAddress]
        case "echo":
            let session = try await connect(given)
            try await session.send(given.text("text").utf8, timeout: limit)
            let message = try await session.recv(timeout: limit)
            try await session.disconnect(timeout: limit)
            return described(message)
        case "metrics": return try await metrics(given)
        default: break
        }
        let session = try session(given)
        switch command {
        case "await_ready": try await session.awaitReady(timeout: limit)
        case "send":
            try await session.send(content(given.text("word", or: ""), given.number("size", or: 0)), timeout: limit)
        case "recv": return described(try await session.recv(timeout: limit))
        case "send_many":
            for number in 0..<given.number("count", or: 0) {
                let message = content("\(try given.text("word"))/\(number)", given.number("size", or: 0))
                try await session.send(message, timeout: limit)
            }
        case "recv_many": return try await receiveMany(session, given)
        case "flush": return ["acknowledged": Int(clamping: try await session.flush(timeout: limit))]
        case "info":
            let now = try await session.refresh()
            let (negotiated, cost) = (session.negotiated, session.handshake)
            return [
                "id": session.id, "peer_addr": session.peerAddress,
                "peer_identity": hex(session.peerIdentity?.key ?? []), "queued": Int(clamping: now.queued),
                "version": Int(negotiated.version), "suite": Int(negotiated.suite.rawValue),
                "receive_suite": Int(negotiated.receiveSuite.rawValue), "leg": "\(negotiated.leg)",
                "epoch": Int(negotiated.epoch), "handshake_us": Int((cost.duration?.inSeconds ?? 0) * 1e6),
                "handshake_bytes_sent": Int(clamping: cost.bytesSent),
                "handshake_bytes_received": Int(clamping: cost.bytesReceived),
                "handshake_retries": Int(cost.retries), "algorithms": cost.algorithms.joined(separator: " "),
            ]
        case "state":
            return ["state": Int(session.state.code), "last_error": Int(session.lastError?.code.rawValue ?? 0)]
        case "ready":
            let code = session.state.code
            return ["data_ready": (1...4).contains(code), "pqc_ready": (3...4).contains(code)]
        case "disconnect":
            let code = UInt32(clamping: given.number("code", or: 0))
            return ["all_acknowledged": try await session.disconnect(code: code, timeout: limit)]
        case "stale":
            var ref = session.calls.ref
            ref.handle &+= 1 << 20
            _ = try await V1.SessionCalls(transport: session.calls.transport, ref: ref).get()
        case "rekey": return ["epoch": Int(try await session.rekey(timeout: limit))]
        case "export":
            let material = try await session.exportKeyingMaterial(
                label: given.text("label"), length: given.number("length", or: 32))
            return ["material": hex(material)]
        case "watch": watches[try given.text("session")] = Watch(session.events)
        case "event": return try await event(given)
        default: throw Missing(why: "no command '\(command)'")
        }
        return [:]
    }

    private func receiveMany(_ session: PhantomSession, _ given: Arguments) async throws -> Answer {
        let poll = given.number("poll_ms", or: 0)
        let end = DispatchTime.now().uptimeNanoseconds + UInt64(given.number("timeout_ms", or: 0)) * 1_000_000
        var (count, digests): (Int, [UInt8]) = (0, [])
        while count < given.number("count", or: 0) {
            let limit = poll > 0 ? WireDuration.milliseconds(Int64(poll)) : given.limit
            do throws(PhantomError) {
                digests += SHA256.digest(try await session.recv(timeout: limit))
                count += 1
            } catch {
                let isPoll = poll > 0 && error.code == .timeout
                if !isPoll || DispatchTime.now().uptimeNanoseconds >= end { throw error }
            }
        }
        return ["count": count, "sha256": hex(SHA256.digest(digests))]
    }

    private func metrics(_ given: Arguments) async throws -> Answer {
        let found: V1.MetricsSnapshot
        switch things[try given.text("of")] {
        case .session(let session): found = try await session.metrics()
        case .listener(let listener): found = try await listener.metrics()
        default: throw Self.nothing
        }
        let counts: [String: UInt64] = [
            "packets_sent": found.packetsSent, "packets_recv": found.packetsRecv, "bytes_sent": found.bytesSent,
            "bytes_recv": found.bytesRecv, "messages_sent": found.messagesSent, "messages_recv": found.messagesRecv,
            "retransmissions": found.retransmissions, "encrypt_count": found.encryptCount,
            "decrypt_count": found.decryptCount, "rtt_us_path_0": found.rttUsPath0,
            "active_sessions": found.activeSessions, "handshakes_success": found.handshakesSuccess,
            "handshakes_failure": found.handshakesFailure, "handshake_latency_ns_sum": found.handshakeLatencyNsSum,
            "handshake_latency_count": found.handshakeLatencyCount, "replay_rejected_total": found.replayRejectedTotal,
            "aead_failure_total": found.aeadFailureTotal, "unencrypted_dropped_total": found.unencryptedDroppedTotal,
            "active_streams": found.activeStreams, "rekeys_local_total": found.rekeysLocalTotal,
            "rekeys_peer_total": found.rekeysPeerTotal,
        ]
        var answer = counts.mapValues { Int(clamping: $0) as any Sendable }
        answer["uptime_ms"] = Int((found.uptime?.inSeconds ?? 0) * 1000)
        return answer
    }

    private func event(_ given: Arguments) async throws -> Answer {
        guard let watch = watches[try given.text("session")] else { throw BadCase(why: "the session is not watched") }
        let kind = try given.text("kind")
        let limit = UInt64(given.number("timeout_ms", or: 10_000)) * 1_000_000
        let reading = Task { () async -> Answer? in
            while let event = await watch.next() {
                switch event {
                case .stateChanged(let changed) where kind == "state":
                    return ["state": Int(changed.state.code), "reason": changed.reason]
                case .rekeyed(let rekeyed) where kind == "rekeyed":
                    return ["epoch": Int(rekeyed.epoch), "by_peer": rekeyed.byPeer, "reason": rekeyed.reason]
                default: continue
                }
            }
            return nil
        }
        let timer = Task {
            try await Task.sleep(nanoseconds: limit)
            reading.cancel()
        }
        defer { timer.cancel() }
        guard let answer = await reading.value else { throw PhantomError(.timeout, "no such event came in time") }
        return answer
    }

    // MARK: Streams

    private func streams(_ command: String, _ given: Arguments) async throws -> Answer {
        let count = given.number("count", or: 0)
        switch command {
        case "open_stream", "accept_stream":
            let session = try session(given)
            let stream =
                command == "open_stream"
                ? try await session.openStream(
                    priority: UInt32(given.number("priority", or: 0)), wait: given.flag("wait", or: true),
                    timeout: given.limit)
                : try await session.acceptStream(timeout: given.limit)
            things[try given.text("name")] = .stream(stream)
            return ["stream_id": Int(stream.id)]
        case "open_streams", "accept_streams":
            let session = try session(given)
            for number in 0..<count {
                let stream =
                    command == "open_streams"
                    ? try await session.openStream(timeout: given.limit)
                    : try await session.acceptStream(timeout: given.limit)
                things["\(try given.text("name"))/\(number)"] = .stream(stream)
            }
            return ["count": count]
        case "fill_streams":
            for number in 0..<count {
                let stream = try stream("\(given.text("streams"))/\(number)")
                let data = content("\(try given.text("word"))/\(number)", given.number("size", or: 0))
                try await stream.send(data, timeout: given.limit)
                try await stream.finish()
            }
            return [:]
        default:
            var digests: [UInt8] = []
            for number in 0..<count {
                let stream = try stream("\(given.text("streams"))/\(number)")
                digests += SHA256.digest(try await stream.readToEnd(upTo: 1 << 30, timeout: given.limit))
            }
            return ["count": count, "sha256": hex(SHA256.digest(digests))]
        }
    }

    private var rests: [UInt32: [UInt8]] = [:]

    private func onStream(_ command: String, _ stream: PhantomStream, _ given: Arguments) async throws -> Answer {
        let code = UInt32(clamping: given.number("code", or: 0))
        switch command {
        case "stream_send":
            let data = content(given.text("word", or: ""), given.number("size", or: 0))
            if given.flag("unreliable") {
                try await stream.sendUnreliable(data, timeout: given.limit)
            } else {
                try await stream.send(data, timeout: given.limit)
            }
        case "stream_recv":
            let piece = try await stream.recv(timeout: given.limit)
            return described(piece ?? []).merging(["end": piece == nil]) { $1 }
        case "stream_read":
            let size = given.number("size", or: .max)
            var read = rests.removeValue(forKey: stream.id) ?? []
            var isAtEnd = false
            while read.count < size, !isAtEnd {
                if let piece = try await stream.recv(timeout: given.limit) { read += piece } else { isAtEnd = true }
            }
            if read.count > size { rests[stream.id] = Array(read[size...]) }
            return described(Array(read.prefix(size))).merging(["end": isAtEnd]) { $1 }
        case "stream_info":
            return [
                "stream_id": Int(stream.id), "priority": Int(stream.priority),
                "max_unreliable_size": stream.maxUnreliableSize,
            ]
        case "stream_priority": try await stream.setPriority(UInt32(clamping: given.number("priority", or: 0)))
        case "stream_finish": try await stream.finish()
        case "stream_release":
            things[try given.text("stream")] = nil
            try await stream.release()
        case "stream_reset": try await stream.reset(code: code)
        case "stream_stop": try await stream.stop(code: code)
        default: throw Missing(why: "no command '\(command)'")
        }
        return [:]
    }
}

func answer(_ driver: Driver, _ command: String, _ given: Arguments) async -> Answer {
    do { return ["result": try await driver.run(command, given)] } catch let missing as Missing {
        return ["missing": missing.why]
    } catch let error as PhantomError {
        if error.isCancelled { return ["error": ["code": -1, "message": "cancelled"] as Answer] }
        var told: Answer = ["code": Int(error.code.rawValue), "message": error.message]
        if error.code.isKind(of: .connectionClosed) { told["peer_code"] = error.peerCode.map(Int.init) ?? -1 }
        if let code = error.resetCode { told["reset_code"] = Int(code) }
        return ["error": told]
    } catch { return ["error": ["code": 0, "message": "\(error)"] as Answer] }
}

@main
struct Conformance {
    static func main() async {
        let driver = Driver()
        var tasks: [Int: Task<Void, Never>] = [:]
        let output = Output()
        let lines = AsyncStream<[String: Any]>.lines()
        for await boxed in lines {
            let command = boxed.values
            let number = (command["id"] as? NSNumber)?.intValue ?? 0
            let name = command["do"] as? String ?? ""
            if name == "cancel" {
                tasks[(command["command"] as? NSNumber)?.intValue ?? 0]?.cancel()
                await output.write(number, ["result": Answer()])
                continue
            }
            tasks[number] = Task { await output.write(number, await answer(driver, name, boxed)) }
        }
        tasks.values.forEach { $0.cancel() }
        await driver.close()
    }
}

extension AsyncStream where Element == [String: Any] {
    /// Standard input, a JSON object a line, read by a thread of its own.
    static func lines() -> AsyncStream<Arguments> {
        AsyncStream<Arguments> { continuation in
            let thread = Thread {
                while let line = readLine() {
                    let parsed = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
                    continuation.yield(Arguments(parsed ?? [:]))
                }
                continuation.finish()
            }
            thread.start()
        }
    }
}

actor Output {
    func write(_ number: Int, _ answer: Answer) {
        var whole: [String: Any] = answer
        whole["id"] = number
        guard var data = try? JSONSerialization.data(withJSONObject: whole) else { return }
        data.append(10)
        FileHandle.standardOutput.write(data)
    }
}

enum SHA256 {
    private static let constants: [UInt32] = primes(64).map { fraction(Double($0), root: 3) }
    private static let start: [UInt32] = primes(8).map { fraction(Double($0), root: 2) }

    private static func primes(_ count: Int) -> [Int] {
        Array((2...400).lazy.filter { number in (2..<number).allSatisfy { number % $0 != 0 } }.prefix(count))
    }
    /// The first 32 bits behind the point of a root, found with whole numbers, as doubles are too coarse.
    private static func fraction(_ number: Double, root: Int) -> UInt32 {
        let whole = UInt64(root == 2 ? number.squareRoot() : cbrt(number))
        var bits = whole << 32
        for bit in (0..<32).reversed() {
            let candidate = bits | 1 << UInt64(bit)
            if !exceeds(candidate, UInt64(number), root) { bits = candidate }
        }
        return UInt32(truncatingIfNeeded: bits)
    }
    /// Whether (value / 2^32)^root > number.
    private static func exceeds(_ value: UInt64, _ number: UInt64, _ root: Int) -> Bool {
        let square = value.multipliedFullWidth(by: value)
        if root == 2 { return square.high > number || square.high == number && square.low > 0 }
        // square / 2^64 * value / 2^32, with the low half's carry.
        let high = square.high.multipliedFullWidth(by: value)
        let low = square.low.multipliedFullWidth(by: value).high
        let (sum, carried) = high.low.addingReportingOverflow(low)
        let top = high.high << 32 | sum >> 32
        return carried ? top + 1 << 32 > number : top >= number
    }

    static func digest(_ message: [UInt8]) -> [UInt8] {
        var state = start
        let rest = message.count % 64
        var tail = Array(message[(message.count - rest)...]) + [0x80]
        tail += [UInt8](repeating: 0, count: (120 - tail.count) % 64)
        withUnsafeBytes(of: UInt64(message.count * 8).bigEndian) { tail += $0 }
        var words = [UInt32](repeating: 0, count: 64)
        constants.withUnsafeBufferPointer { k in
            words.withUnsafeMutableBufferPointer { w in
                state.withUnsafeMutableBufferPointer { h in
                    message.withUnsafeBufferPointer { bytes in
                        for at in stride(from: 0, to: message.count - rest, by: 64) { block(bytes, at, k, w, h) }
                    }
                    tail.withUnsafeBufferPointer { bytes in
                        for at in stride(from: 0, to: bytes.count, by: 64) { block(bytes, at, k, w, h) }
                    }
                }
            }
        }
        return state.flatMap { word in withUnsafeBytes(of: word.bigEndian) { Array($0) } }
    }

    @inline(__always)
    private static func block(
        _ bytes: UnsafeBufferPointer<UInt8>, _ at: Int, _ k: UnsafeBufferPointer<UInt32>,
        _ w: UnsafeMutableBufferPointer<UInt32>, _ h: UnsafeMutableBufferPointer<UInt32>
    ) {
        func turn(_ word: UInt32, _ by: UInt32) -> UInt32 { word >> by | word << (32 - by) }
        for i in 0..<16 {
            let b = at + 4 * i
            w[i] =
                UInt32(bytes[b]) << 24 | UInt32(bytes[b + 1]) << 16 | UInt32(bytes[b + 2]) << 8 | UInt32(bytes[b + 3])
        }
        for i in 16..<64 {
            let low = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3
            let high = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10
            w[i] = w[i - 16] &+ low &+ w[i - 7] &+ high
        }
        var (a, b, c, d, e, f, g, z) = (h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7])
        for i in 0..<64 {
            let first = z &+ (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) &+ (e & f ^ ~e & g) &+ k[i] &+ w[i]
            let second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) &+ (a & b ^ a & c ^ b & c)
            (z, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
        }
        for (i, value) in [a, b, c, d, e, f, g, z].enumerated() { h[i] = h[i] &+ value }
    }
}
