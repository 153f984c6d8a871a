// What generated Swift does, apart from the codec: redaction, typed errors, clients over a transport of the test. Toy.
import Foundation

func check(_ truth: Bool, _ what: String) {
    if !truth {
        print("FAILED: \(what)")
        exit(1)
    }
}

/// Echoes requests; answers /…/Put by what it is told.
final class Loop: RPCTransport, Sendable {
    let failure: RPCStatus?
    let answer: [UInt8]
    init(failure: RPCStatus? = nil, answer: [UInt8] = []) {
        self.failure = failure
        self.answer = answer
    }
    func unary(_ method: RPCMethod, _ request: [UInt8], options: RPCOptions) async throws(RPCStatus) -> [UInt8] {
        check(!method.streamsRequests && !method.streamsResponses, "unary")
        if let failure { throw failure }
        return answer
    }
    func stream(_ method: RPCMethod, options: RPCOptions) async throws(RPCStatus) -> any RPCStream {
        if let failure, failure.code == .unavailable { throw failure }
        return LoopStream(failure: failure)
    }
}

actor LoopStream: RPCStream {
    var queue: [[UInt8]] = []
    let failure: RPCStatus?
    init(failure: RPCStatus?) { self.failure = failure }
    func send(_ request: [UInt8]) async throws(RPCStatus) { queue.append(request) }
    func finish() async throws(RPCStatus) {}
    func receive() async throws(RPCStatus) -> [UInt8]? {
        if queue.isEmpty {
            if let failure { throw failure }
            return nil
        }
        return queue.removeFirst()
    }
    nonisolated func cancel() {}
}

func redaction() {
    let secret: [UInt8] = [222, 173, 190, 239]
    var everything = V1.Everything(password: "hunter2")
    everything.choice = .secret(secret)
    var shown = ["\(everything)", everything.debugDescription, "\(everything.choice!)", "\(Optional(everything) as Any)"]
    shown += [String(reflecting: everything.choice!), "\([everything])"]
    for value in [everything as Any, everything.choice as Any, [everything.choice!] as Any] {
        var dumped = ""
        dump(value, to: &dumped)
        shown.append(dumped)
    }
    for text in shown {
        check(!text.contains("222") && !text.contains("hunter2") && !text.contains("239"), "secret shown: \(text)")
    }
    check("\(everything)" == "Everything(secret: [redacted], password: [redacted])", "\(everything)")
    check("\(V1.Everything())" == "Everything()", "absent secrets are not shown")
    let thing = V1.Thing(seq: 3, data: [1, 2, 3], colour: .blue, age: .milliseconds(1500))
    check("\(thing)" == "Thing(seq: 3, data: <3 bytes>, colour: blue, age: WireDuration(1.5 s))", "\(thing)")
    check(V1.Colour.blue.code == 1 && "\(V1.Colour(rawValue: 9))" == "9", "enums are open")
}

func values() throws {
    var first = V1.Everything(words: ["a"], byNumber: [-1: .init(depth: -3)], perhaps: 0, span: .seconds(-2.5))
    first.inner = .init(depth: 2, children: [.init(depth: 1)])
    let again = try V1.Everything(serialized: first.serialized())
    check(again == first && again.perhaps == 0 && again.span?.inSeconds == -2.5, "round trip")
    do {
        _ = try V1.Thing(serialized: [0x12, 5, 1])
        check(false, "truncated bytes were taken")
    } catch { check(error == WireError.truncated, "\(error)") }
    check(WireDuration.seconds(.infinity).seconds == .max / 1000 && WireDuration.seconds(.nan).seconds == 0, "spans")
}

func calls() async throws {
    let box = V1.BoxRef(handle: 7)
    let client = V1.Clients(transport: Loop(answer: V1.PutResponse(room: 5).serialized())).box
    let room = try await client.put(V1.PutRequest(box: box), options: RPCOptions(timeout: .seconds(1))).room
    check(room == 5, "unary")

    let watch = try await client.watch(V1.WatchRequest(box: box))
    var seen = 0
    for try await _ in watch { seen += 1 }
    check(seen == 1, "the request comes back as the one response")

    let exchange = try await client.echo()
    try await exchange.send(V1.EchoRequest(everything: .init(which: 4)))
    check(try await exchange.responses.receive()?.everything?.which == 4, "both ways")
    try await exchange.finish()
    check(try await exchange.responses.receive() == nil, "the end")

    let fill = try await client.fill()
    do {
        _ = try await fill.finish()
        check(false, "no answer is an answer")
    } catch { check(error.code == .internal, "\(error)") }

    let detail = V1.ErrorDetail(code: .glued, message: "glued with care")
    let failing = Loop(failure: RPCStatus(.failedPrecondition, "x", detail: detail.serialized()))
    do {
        _ = try await V1.BoxServiceClient(transport: failing).put(V1.PutRequest())
        check(false, "a failure is an answer")
    } catch {
        check(error.code == .glued && error.detail == detail && error.status == .failedPrecondition, "\(error)")
        check("\(error)" == "glued: glued with care", "\(error)")
    }
    let strange = Loop(failure: RPCStatus(.aborted, detail: V1.ErrorDetail(code: .init(rawValue: 999)).serialized()))
    do { _ = try await V1.BoxServiceClient(transport: strange).put(V1.PutRequest()) } catch {
        check(error.code == .internal && error.detail?.code.rawValue == 999, "an error of a newer sidecar")
    }
    let late = Loop(failure: RPCStatus(.deadlineExceeded))
    do { _ = try await V1.BoxServiceClient(transport: late).put(V1.PutRequest()) } catch {
        check(error.code == .timeout && error.detail == nil, "\(error)")
    }
    do {
        for try await _ in try await V1.BoxServiceClient(transport: late).watch(V1.WatchRequest()) {}
        check(false, "a stream that fails ends")
    } catch { check((error as? ToyError)?.code == .timeout, "\(error)") }
    let garbled = Loop(answer: [0xFF])
    do { _ = try await V1.BoxServiceClient(transport: garbled).put(V1.PutRequest()) } catch {
        check(error.code == .internal && error.message.contains("toy.v1.PutResponse"), "\(error)")
    }
}

@main
struct Behaviour {
    static func main() async throws {
        redaction()
        try values()
        try await calls()
        print("ok")
    }
}
