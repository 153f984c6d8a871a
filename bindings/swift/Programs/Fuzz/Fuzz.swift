// Feeds the decoder of every message bytes that are none: noise, and valid messages that were damaged. It must answer by
// a message or by an error, never crash, read past the end or take long; what it takes must survive another round.
//
//     PhantomFuzz [ROUNDS] [SEED]

import Foundation
import Phantom

/// Numbers that follow from a seed (splitmix64).
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}

@main
struct Fuzz {
    /// Messages that hold most kinds of fields; what decodes as one of them is a start for the next damage.
    static let types: [any WireMessage.Type] = [
        V1.ConnectRequest.self, V1.BindRequest.self, V1.GetResponse.self, V1.ExchangeRequest.self,
        V1.ExchangeResponse.self, V1.WatchEventsResponse.self, V1.SessionServiceGetMetricsResponse.self,
        V1.ErrorDetail.self, V1.ImportSigningKeyRequest.self, V1.RecvResponse.self, V1.AcceptResponse.self,
        V1.GetInfoResponse.self, V1.SelfTestReport.self, V1.StreamServiceExchangeRequest.self,
    ]

    static func main() {
        let rounds = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 300_000
        let seed = CommandLine.arguments.dropFirst(2).first.flatMap { UInt64($0) } ?? 20_261_124
        var random = Seeded(state: seed)
        var corpus: [[UInt8]] = [
            V1.ConnectRequest(
                leaseId: 7, target: "tcp://127.0.0.1:1", pins: [V1.Pin(pin: .key([1, 2, 3]))],
                config: V1.PhantomConfig(loadTiers: [V1.LoadTier(hellos: 1, difficulty: 2)]), timeout: .seconds(2)
            ).serialized(),
            V1.SessionServiceGetMetricsResponse(metrics: V1.MetricsSnapshot(droppedTotal: ["a": 1, "b": 2])).serialized(),
            V1.ExchangeResponse(frame: V1.ServerFrame(frame: .chunk(V1.Chunk(data: [1, 2, 3], more: true)))).serialized(),
        ]
        var (taken, refused) = (0, 0)
        for round in 0..<rounds {
            let type = types[Int.random(in: 0..<types.count, using: &random)]
            var bytes = corpus[Int.random(in: 0..<corpus.count, using: &random)]
            for _ in 0..<Int.random(in: 0...4, using: &random) { damage(&bytes, &random) }
            if round % 8 == 0 {
                bytes = (0..<Int.random(in: 0..<64, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            }
            do {
                let message = try type.init(serialized: bytes)
                taken += 1
                precondition(!message.description.isEmpty)
                let again = message.serialized()
                precondition((try? type.init(serialized: again).serialized()) == again, "\(type) does not survive: \(bytes)")
                if corpus.count < 500, round % 16 == 0, bytes.count < 4096 { corpus.append(bytes) }
            } catch { refused += 1 }
        }
        print("fuzz: seed \(seed): \(taken) taken, \(refused) refused, corpus \(corpus.count)")
        precondition(taken > rounds / 20 && refused > rounds / 20, "the corpus asks nothing")
    }

    static func damage(_ bytes: inout [UInt8], _ random: inout Seeded) {
        let at = bytes.isEmpty ? 0 : Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<7, using: &random) {
        case 0 where !bytes.isEmpty: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        case 1 where !bytes.isEmpty: bytes.removeSubrange(at...)
        case 2 where !bytes.isEmpty: bytes.remove(at: at)
        case 3: bytes.insert(UInt8.random(in: 0...255, using: &random), at: at)
        case 4: bytes.insert(contentsOf: [UInt8](repeating: 0xFF, count: Int.random(in: 1...11, using: &random)), at: at)
        case 5: bytes.insert(contentsOf: bytes.prefix(64), at: at)
        default:
            // Nested, up to beyond what may be.
            let tag = UInt8.random(in: 0..<16, using: &random) << 3 | UInt8.random(in: 2...3, using: &random)
            for _ in 0..<Int.random(in: 1...120, using: &random) {
                let length = bytes.count
                guard length < 16_000 else { break }
                bytes = [tag] + (length < 128 ? [UInt8(length)] : [UInt8(length & 127 | 128), UInt8(length >> 7)]) + bytes
            }
        }
    }
}
