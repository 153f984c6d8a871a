// Decodes what comes on standard input and writes it encoded again: the other half of test_codec_agreement.py.
// In: index of the message (2 bytes), length (4 bytes), bytes. Out: 1 or 0 (refused), length (4 bytes), bytes. Little endian.
// Arguments: the compiled messages.js, then the names of the messages.
import { readFileSync, writeSync } from "node:fs";
import { inspect } from "node:util";

const [path, ...names] = process.argv.slice(2);
const messages = await import(path);
const { WireError } = await import(path.replace("messages.js", "wire.js"));
const input = readFileSync(0);
const output = [];
let at = 0;
while (at < input.length) {
  const type = messages[names[input.readUInt16LE(at)]];
  const length = input.readUInt32LE(at + 2);
  const bytes = new Uint8Array(input.subarray(at + 6, at + 6 + length));
  at += 6 + length;
  let answer;
  try {
    const message = type.decode(bytes);
    answer = type.encode(message);
    inspect(message); // whatever came, showing it must not fail
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
  }
  const head = Buffer.alloc(5);
  head.writeUInt8(answer ? 1 : 0);
  head.writeUInt32LE(answer?.length ?? 0, 1);
  output.push(head, answer ?? new Uint8Array());
}
const all = Buffer.concat(output);
for (let written = 0; written < all.length; ) written += writeSync(1, all, written);
