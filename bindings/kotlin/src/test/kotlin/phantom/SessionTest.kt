package phantom

import kotlinx.coroutines.async
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.BeforeAll
import org.junit.jupiter.api.TestInstance
import phantom.v1.ClientAuthException
import phantom.v1.ClientAuthentication
import phantom.v1.ClientPolicy
import phantom.v1.ConnectionClosedException
import phantom.v1.ConnectionState
import phantom.v1.ServerIdentityMismatchException
import phantom.v1.SessionEvent
import phantom.v1.StreamClosedException
import phantom.v1.StreamResetException
import phantom.v1.TimeoutException
import phantom.v1.ValidationException
import kotlin.random.Random
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

/** What a session does, against a live sidecar. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SessionTest {
    private lateinit var phantom: Phantom

    @BeforeAll
    fun start() = live { phantom = launched() }

    @AfterAll
    fun stop() = phantom.close()

    @Test
    fun `messages of every size go both ways`() =
        live {
            val pair = phantom.pair()
            for (size in listOf(0, 1, 4096, MESSAGE_CAP, MESSAGE_CAP + 1, 3 * MESSAGE_CAP + 7)) {
                val data = Random(size).nextBytes(size)
                pair.here.send(data, 30.seconds)
                assertContentEquals(data, pair.there.recv(30.seconds))
                pair.there.send(data, 30.seconds)
                assertContentEquals(data, pair.here.recv(30.seconds))
            }
            assertEquals(pair.here.id, pair.there.id)
            assertEquals(pair.listener.verifyingKey, pair.here.peerIdentity)
            assertTrue(pair.here.disconnect())
        }

    @Test
    fun `a server with another key is refused`() =
        live {
            val listener = phantom.listen("127.0.0.1:0")
            val stranger = phantom.generateSigningKey()
            val address = listener.urls.first().substringAfter("@")
            val refused = assertFailsWith<ServerIdentityMismatchException> { phantom.connect(address, stranger.verifyingKey.fingerprint) }
            assertEquals(20, refused.code.code)
            assertTrue(refused.isFinal)
            assertFailsWith<ServerIdentityMismatchException> { phantom.connect(address, listOf(pinOf(stranger.verifyingKey.key))) }
            val pins = listOf(stranger.verifyingKey.toPin(), listener.verifyingKey.toPin())
            assertTrue(phantom.connect(address, pins).disconnect())
        }

    @Test
    fun `the fingerprint of a key is computed here as there`() =
        live {
            val key = phantom.generateSigningKey().verifyingKey
            assertEquals(key.fingerprint, fingerprintOf(key.key))
            assertFailsWith<ValidationException> { fingerprintOf(ByteArray(3)) }
        }

    @Test
    fun `the flow of messages ends with the session`() =
        live {
            val pair = phantom.pair()
            val all = async { pair.there.messages().toList() }
            repeat(300) { pair.here.send("message $it".toByteArray()) }
            assertTrue(pair.here.disconnect())
            assertEquals(List(300) { "message $it" }, all.await().map { it.decodeToString() })
            assertEquals(ConnectionState.CLOSED, pair.there.state.first { it == ConnectionState.CLOSED })
            assertFailsWith<ConnectionClosedException> { pair.there.recv() }
        }

    @Test
    fun `a flow that ends early leaves the rest`() =
        live {
            val pair = phantom.pair()
            repeat(100) { pair.here.send("$it".toByteArray()) }
            val first = pair.there.messages().take(3).toList().map { it.decodeToString() }
            val then = pair.there.recv(30.seconds).decodeToString()
            val rest = pair.there.messages().take(96).toList().map { it.decodeToString() }
            assertEquals(List(100) { "$it" }, first + then + rest)
        }

    @Test
    fun `a code of the peer is told`() =
        live {
            val pair = phantom.pair()
            pair.here.disconnect(code = 7u)
            val closed = assertFailsWith<ConnectionClosedException> { pair.there.messages().toList() }
            assertEquals(7u, closed.detail?.peerCode)
            assertFailsWith<ValidationException> { pair.there.disconnect(code = 0x10000u) }
        }

    @Test
    fun `out of time loses nothing`() =
        live {
            val pair = phantom.pair()
            assertFailsWith<TimeoutException> { pair.there.recv(50.milliseconds) }
            assertFailsWith<TimeoutException> { pair.listener.accept(50.milliseconds) }
            pair.here.send("late".toByteArray())
            assertEquals("late", pair.there.recv(30.seconds).decodeToString())
        }

    @Test
    fun `events tell the state and what happens to the keys`() =
        live {
            val pair = phantom.pair()
            val events = async { pair.here.events().toList() }
            pair.there.events().first() // it is followed
            pair.here.send("x".toByteArray())
            pair.there.recv(30.seconds)
            pair.here.rekey(30.seconds)
            pair.there.send("y".toByteArray())
            pair.here.recv(30.seconds)
            pair.here.disconnect()
            val seen = events.await().map { it.event }
            assertTrue(seen.any { it is SessionEvent.EventChoice.Rekeyed }, "$seen")
            val last = seen.last() as SessionEvent.EventChoice.StateChanged
            assertEquals(ConnectionState.CLOSED, last.value.state)
        }

    @Test
    fun `both ends export the same keying material`() =
        live {
            val pair = phantom.pair()
            val here = pair.here.exportKeyingMaterial("test", 48u)
            assertEquals(48, here.size)
            assertContentEquals(here, pair.there.exportKeyingMaterial("test", 48u))
            assertFalse(here.contentEquals(pair.here.exportKeyingMaterial("else", 48u)))
        }

    @Test
    fun `streams carry bytes beside messages`() =
        live {
            val pair = phantom.pair()
            val mine = pair.here.openStream(priority = 3u)
            val sent = Random(1).nextBytes(2 * MESSAGE_CAP + 5)
            val sending =
                launch {
                    mine.send(sent)
                    mine.finish()
                }
            val theirs = pair.there.acceptStream(30.seconds)
            assertEquals(mine.id, theirs.id)
            val received = theirs.bytes().toList().fold(ByteArray(0)) { all, piece -> all + piece }
            sending.join()
            assertContentEquals(sent, received)
            assertNull(theirs.recv(1.seconds))
            theirs.send("back".toByteArray())
            assertEquals("back", mine.recv(30.seconds)?.decodeToString())
            theirs.finish()
            mine.close()
            theirs.close()
        }

    @Test
    fun `a stream that the peer reset says with which code, and unreliable pieces have a limit`() =
        live {
            val pair = phantom.pair()
            val mine = pair.here.openStream()
            mine.send("x".toByteArray())
            val theirs = pair.there.acceptStream(30.seconds)
            assertEquals("x", theirs.recv(30.seconds)?.decodeToString())
            mine.reset(code = 7u)
            val reset = assertFailsWith<StreamResetException> { theirs.recv(30.seconds) }
            assertEquals(7u, reset.detail?.resetCode)
            assertFailsWith<StreamClosedException> { mine.send(ByteArray(1)) }
            assertFailsWith<ValidationException> { theirs.sendUnreliable(ByteArray(theirs.maxUnreliableSize.toInt() + 1)) }
            theirs.setPriority(9u)
            assertEquals(9u, theirs.priority)
            assertFailsWith<TimeoutException> { pair.there.acceptStream(50.milliseconds) }
        }

    @Test
    fun `a server that asks for identities takes only those it knows`() =
        live {
            val known = phantom.generateSigningKey()
            val policy = ClientPolicy(ClientAuthentication.REQUIRED, authorized = listOf(known.verifyingKey.toPin()))
            val listener = phantom.listen("127.0.0.1:0", clients = policy)
            val accepting = async { listener.accept(30.seconds) }
            val session = phantom.connect(listener.urls.first(), identity = known)
            assertEquals(known.verifyingKey, accepting.await().peerIdentity)
            assertTrue(session.disconnect())
            val stranger = phantom.generateSigningKey()
            assertFailsWith<ClientAuthException> { phantom.connect(listener.urls.first(), identity = stranger) }
        }

    @Test
    fun `a session is closed by its block`() =
        live {
            val listener = phantom.listen("127.0.0.1:0")
            val echo =
                launch {
                    val session = listener.accept()
                    session.send(session.recv())
                    session.flushQueue()
                }
            val answer =
                phantom.withSession(listener.urls.first()) { session ->
                    session.send("hello".toByteArray())
                    session.recv(30.seconds).decodeToString()
                }
            assertEquals("hello", answer)
            echo.join()
            listener.shutdown()
            assertFailsWith<ConnectionClosedException> { listener.accept() }
            assertTrue(listener.isShutDown)
        }
}
