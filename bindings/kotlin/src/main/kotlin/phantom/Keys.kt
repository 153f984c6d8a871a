package phantom

import kotlinx.coroutines.launch
import phantom.v1.Contract
import phantom.v1.ErrorCode
import phantom.v1.PhantomException
import phantom.v1.PhantomLink
import phantom.v1.Pin
import phantom.v1.SigningKeyOperations
import phantom.v1.SigningKeyRef
import phantom.v1.VerifyingKey
import java.security.MessageDigest

private const val ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
private const val BITS = 5

/** A signing key that the sidecar keeps: this program has its handle and its public half. */
public class PhantomKey internal constructor(
    private val client: Phantom,
    private val connection: Connection,
    ref: SigningKeyRef,
    /** The public half, which is what peers pin. */
    public val verifyingKey: VerifyingKey,
    /** Its seed, 64 bytes; empty unless it was asked for and allowed. Whoever has it has the key. */
    public val seed: ByteArray,
) : SigningKeyOperations(ref),
    AutoCloseable {
    override suspend fun <T> call(block: suspend (PhantomLink) -> T): T = block(connection.link)

    /** Has the sidecar wipe the key; listeners that were bound with it keep working. Returns at once. */
    override fun close() {
        client.ends(
            connection.scope.launch {
                try {
                    free()
                } catch (_: PhantomException) {
                    // it is gone
                }
            },
        )
    }

    override fun toString(): String = "PhantomKey(${verifyingKey.fingerprint})"
}

/** A pin of a text: a fingerprint, or a key in hexadecimal characters. */
public fun pinOf(text: String): Pin = Pin(Pin.PinChoice.Fingerprint(text))

/** A pin of the 1984 bytes of a verifying key. */
public fun pinOf(key: ByteArray): Pin = Pin(Pin.PinChoice.Key(key))

/** The key as a pin. */
public fun VerifyingKey.toPin(): Pin = pinOf(key)

/**
 * The fingerprint of the 1984 bytes of a verifying key, its short form as a pin: `phantom1:` and 52 characters.
 * [phantom.v1.ValidationException] for another length.
 */
public fun fingerprintOf(key: ByteArray): String {
    val length = Contract.VERIFYING_KEY_BYTES.toInt()
    if (key.size != length) throw failure(ErrorCode.VALIDATION, "a verifying key has $length bytes, not ${key.size}")
    val digest = MessageDigest.getInstance("SHA-256").apply { update("phantom-pin-v1".toByteArray()) }.digest(key)
    val text = StringBuilder("phantom1:")
    var held = 0
    var bits = 0
    for (byte in digest) {
        held = (held shl Byte.SIZE_BITS) or (byte.toInt() and 0xFF)
        bits += Byte.SIZE_BITS
        while (bits >= BITS) {
            bits -= BITS
            text.append(ALPHABET[(held shr bits) and (ALPHABET.length - 1)])
        }
    }
    if (bits > 0) text.append(ALPHABET[(held shl (BITS - bits)) and (ALPHABET.length - 1)])
    return text.toString()
}
