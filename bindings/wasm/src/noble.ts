/**
 * The bridge between the Python core and noble: what `phantom.crypto.bridge` calls, synchronous and without state.
 *
 * Python fills Uint8Arrays that it reuses (`assign` is cheap, `to_js` is not) and gets Uint8Arrays back. Secret keys stay
 * on this side, in a `Secret` or `AeadKey` that Python wipes when its own handle goes. Expected failures are return
 * values (`undefined`, `false`): an exception that crosses the boundary costs more and says less.
 */
import { gcm } from "@noble/ciphers/aes.js";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { blake3 } from "@noble/hashes/blake3.js";
import { ml_dsa65 } from "@noble/post-quantum/ml-dsa.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";

type Bytes = Uint8Array<ArrayBuffer>;

const AES_256_GCM = 1;

/** Secret bytes on this side of the boundary. */
export class Secret {
  constructor(
    readonly bytes: Uint8Array,
    readonly public_key: Uint8Array,
  ) {}

  wipe(): void {
    this.bytes.fill(0);
  }
}

/** One key of one suite; `AES_256_GCM` is 1, `CHACHA20_POLY1305` is 2. */
export class AeadKey {
  private readonly key: Uint8Array;

  constructor(
    private readonly suite: number,
    key: Uint8Array,
  ) {
    this.key = Uint8Array.from(key);
  }

  /** Ciphertext and tag of `input` into `output`, which is 16 bytes longer. */
  seal(nonce: Uint8Array, aad: Uint8Array, input: Uint8Array, output: Uint8Array): void {
    if (this.suite === AES_256_GCM) output.set(gcm(this.key, nonce, aad).encrypt(input)); // it takes no output
    else chacha20poly1305(this.key, nonce, aad).encrypt(input as Bytes, output as Bytes);
  }

  /** The plaintext of `input` into `output`; false if it does not open, and then `output` holds nothing of it. */
  open(nonce: Uint8Array, aad: Uint8Array, input: Uint8Array, output: Uint8Array): boolean {
    try {
      if (this.suite === AES_256_GCM) {
        const opened = gcm(this.key, nonce, aad).decrypt(input);
        output.set(opened);
        opened.fill(0);
      } else chacha20poly1305(this.key, nonce, aad).decrypt(input as Bytes, output as Bytes);
      return true;
    } catch {
      output.fill(0);
      return false;
    }
  }

  wipe(): void {
    this.key.fill(0);
  }
}

function verdict(verify: () => boolean): boolean {
  try {
    return verify();
  } catch {
    return false; // a key or a signature that is none
  }
}

/** What Python finds as `globalThis.__noble`. */
export class Bridge {
  bytes(length: number): Uint8Array {
    return new Uint8Array(length);
  }

  aead(suite: number, key: Uint8Array): AeadKey {
    return new AeadKey(suite, key);
  }

  x25519_private(key: Uint8Array): Secret {
    const own = Uint8Array.from(key);
    return new Secret(own, x25519.getPublicKey(own));
  }

  /** The shared secret; undefined if it would be all zero. */
  x25519_exchange(secret: Secret, peer: Uint8Array): Uint8Array | undefined {
    try {
      return x25519.getSharedSecret(secret.bytes, peer);
    } catch {
      return undefined;
    }
  }

  ed25519_private(seed: Uint8Array): Secret {
    const own = Uint8Array.from(seed);
    return new Secret(own, ed25519.getPublicKey(own));
  }

  ed25519_sign(secret: Secret, message: Uint8Array): Uint8Array {
    return ed25519.sign(message, secret.bytes);
  }

  /** By RFC 8032, not by ZIP 215. */
  ed25519_verify(key: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
    return verdict(() => ed25519.verify(signature, message, key, { zip215: false }));
  }

  ml_kem_private(seed: Uint8Array): Secret {
    const pair = ml_kem768.keygen(seed);
    return new Secret(pair.secretKey, pair.publicKey);
  }

  /** Ciphertext (1088 B) and shared secret (32 B) in one array; undefined for a key that FIPS 203 refuses. */
  ml_kem_encapsulate(key: Uint8Array, random: Uint8Array): Uint8Array | undefined {
    try {
      const { cipherText, sharedSecret } = ml_kem768.encapsulate(key, random);
      const both = new Uint8Array(cipherText.length + sharedSecret.length);
      both.set(cipherText);
      both.set(sharedSecret, cipherText.length);
      sharedSecret.fill(0);
      return both;
    } catch {
      return undefined;
    }
  }

  ml_kem_decapsulate(secret: Secret, ciphertext: Uint8Array): Uint8Array {
    return ml_kem768.decapsulate(ciphertext, secret.bytes);
  }

  ml_dsa_private(seed: Uint8Array): Secret {
    const pair = ml_dsa65.keygen(seed);
    return new Secret(pair.secretKey, pair.publicKey);
  }

  /** Pure mode, empty context, hedged with the 32 bytes of `random`. */
  ml_dsa_sign(secret: Secret, message: Uint8Array, random: Uint8Array): Uint8Array {
    return ml_dsa65.sign(message, secret.bytes, { extraEntropy: random });
  }

  ml_dsa_verify(key: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
    return verdict(() => ml_dsa65.verify(signature, message, key));
  }

  blake3(data: Uint8Array): Uint8Array {
    return blake3(data);
  }

  blake3_keyed(key: Uint8Array, data: Uint8Array): Uint8Array {
    return blake3(data, { key });
  }

  blake3_derive(context: Uint8Array, material: Uint8Array): Uint8Array {
    return blake3(material, { context });
  }

  /**
   * Proof of work (wire-native §8.5): the offset from `start` (low and high half) of the first of `count` values whose
   * BLAKE3(nonce || value u64le) begins with `difficulty` zero bits, or -1.
   */
  solve(nonce: Uint8Array, difficulty: number, low: number, high: number, count: number): number {
    const input = new Uint8Array(nonce.length + 8);
    input.set(nonce);
    const value = new DataView(input.buffer, nonce.length);
    for (let offset = 0; offset < count; offset++) {
      value.setUint32(0, low, true);
      value.setUint32(4, high, true);
      if (leadingZeros(blake3(input)) >= difficulty) return offset;
      low = (low + 1) >>> 0;
      if (low === 0) high = (high + 1) >>> 0;
    }
    return -1;
  }
}

function leadingZeros(digest: Uint8Array): number {
  let bits = 0;
  for (const byte of digest) {
    if (byte !== 0) return bits + Math.clz32(byte) - 24;
    bits += 8;
  }
  return bits;
}

export function createBridge(): Bridge {
  return new Bridge();
}
