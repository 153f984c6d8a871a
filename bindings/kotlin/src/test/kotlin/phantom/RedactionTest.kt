package phantom

import phantom.v1.ExportKeyingMaterialResponse
import phantom.v1.GenerateSigningKeyResponse
import phantom.v1.Message
import phantom.v1.SendRequest
import phantom.v1.SigningKeySource
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFalse

/** No description shows a secret, a payload or the token. */
class RedactionTest {
    private val secret = ByteArray(64) { 0x5A }

    @Test
    fun `generated classes hide secrets and show sizes`() {
        val shown =
            listOf(
                "${GenerateSigningKeyResponse(seed = secret)}",
                "${SigningKeySource(SigningKeySource.SourceChoice.Seed(secret))}",
                "${ExportKeyingMaterialResponse(secret)}",
                "${SendRequest(data = secret)}",
                "${Message(1uL, secret)}",
            )
        for (text in shown) {
            assertFalse("90, 90" in text || "5a5a" in text.lowercase() || "ZZZ" in text, text)
            assertFalse("[B@" in text, text)
        }
        assertEquals(listOf(true, true, true), shown.take(3).map { "[redacted]" in it })
        assertEquals(listOf(true, true), shown.drop(3).map { "<64 bytes>" in it })
    }

    @Test
    fun `objects of the library show no secret`() =
        live {
            launched(listOf("--allow-seed-export")).use { phantom ->
                val key = phantom.generateSigningKey(exportSeed = true)
                assertEquals(64, key.seed.size)
                assertEquals("PhantomKey(${key.verifyingKey.fingerprint})", "$key")
                val again = phantom.importSigningKey(key.seed)
                assertEquals(key.verifyingKey, again.verifyingKey)
                val pair = phantom.pair()
                val token = phantom.connection().token
                for (thing in listOf<Any>(phantom, pair.here, pair.listener, phantom.connection(), key)) {
                    assertFalse(token in "$thing" || secret.decodeToString() in "$thing")
                }
            }
        }
}
