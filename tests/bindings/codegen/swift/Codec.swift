// Decodes what comes on standard input and writes it encoded again: the other half of test_codec_agreement.py.
// In: index of the message (2 bytes), length (4 bytes), bytes. Out: 1 or 0 (refused), length (4 bytes), bytes. Little endian.
import Foundation

func number(_ bytes: Data) -> Int { bytes.reversed().reduce(0) { $0 << 8 | Int($1) } }

let input = FileHandle.standardInput.readDataToEndOfFile()
var output = Data()
var at = 0
while at < input.count {
    let type = types[number(input[at..<at + 2])]
    let length = number(input[at + 2..<at + 6])
    let bytes = [UInt8](input[at + 6..<at + 6 + length])
    at += 6 + length
    var answer: [UInt8] = []
    if let message = try? type.init(serialized: bytes) {
        answer = message.serialized()
        output.append(1)
        // Whatever came, showing it must not fail.
        precondition(!message.description.isEmpty)
    } else {
        output.append(0)
    }
    withUnsafeBytes(of: UInt32(answer.count).littleEndian) { output.append(contentsOf: $0) }
    output.append(contentsOf: answer)
}
FileHandle.standardOutput.write(output)
