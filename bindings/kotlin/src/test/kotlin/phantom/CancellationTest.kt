package phantom

import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.withTimeoutOrNull
import kotlinx.coroutines.yield
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.BeforeAll
import org.junit.jupiter.api.TestInstance
import phantom.v1.PhantomConfig
import phantom.v1.PhantomException
import phantom.v1.TimeoutException
import java.util.Collections
import kotlin.random.Random
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.microseconds
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

private const val ROUNDS = 1000
private const val MESSAGES = 300

/** Cancels what runs after up to [most] microseconds of its life; whether it had not ended by then. */
private suspend fun Job.cancelledSometime(
    random: Random,
    most: Int = 1500,
): Boolean {
    val end = System.nanoTime() + random.nextLong(most * 1000L)
    while (isActive && System.nanoTime() < end) yield()
    return isActive.also { cancelAndJoin() }
}

/** Cancellation at every place where something waits, again and again: nothing is lost, nothing comes twice. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CancellationTest {
    private lateinit var phantom: Phantom

    @BeforeAll
    fun start() = live { phantom = launched() }

    @AfterAll
    fun stop() = phantom.close()

    /** Runs [receive] in [ROUNDS] coroutines that are cancelled at random, and until [count] messages came. */
    private fun received(
        count: Int,
        most: Int,
        receive: suspend (PhantomSession, MutableList<String>) -> Unit,
    ) = live {
        val pair = phantom.pair()
        val got = Collections.synchronizedList(mutableListOf<String>())
        val random = Random(1)
        val sending =
            launch(Dispatchers.Default) {
                repeat(count) { number ->
                    while (number - got.size > 4) yield() // few at a time: what was not taken is sent to the next receiver again
                    pair.here.send("$number".toByteArray())
                }
            }
        var rounds = 0
        var cancelled = 0
        while (got.size < count || rounds < ROUNDS) {
            val receiver = launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) { receive(pair.there, got) }
            if (receiver.cancelledSometime(random, most)) cancelled++
            rounds++
        }
        sending.join()
        assertEquals(List(count) { "$it" }, got.toList())
        assertTrue(cancelled >= ROUNDS / 4, "$cancelled of $rounds cancelled")
        assertTrue(pair.here.disconnect())
        pair.there.disconnect()
    }

    @Test
    fun `receiving, cancelled`() = received(MESSAGES, 1500) { session, got -> got += session.recv().decodeToString() }

    @Test
    fun `collecting, cancelled`() =
        received(MESSAGES, 4000) { session, got ->
            session.messages().collect {
                got += it.decodeToString()
                yield()
            }
        }

    @Test
    fun `receiving out of time`() =
        live {
            val pair = phantom.pair()
            val sending = launch { repeat(ROUNDS) { pair.here.send("$it".toByteArray()) } }
            val got = mutableListOf<String>()
            var late = 0
            while (got.size < ROUNDS) {
                try {
                    got += pair.there.recv(Random.nextInt(1, 2000).microseconds).decodeToString()
                } catch (_: TimeoutException) {
                    late++
                }
            }
            sending.join()
            assertEquals(List(ROUNDS) { "$it" }, got)
            assertTrue(late > 0)
        }

    @Test
    fun `one exchange, its receivers and senders cancelled`() =
        live {
            val pair = phantom.pair()
            val kept = Collections.synchronizedList(mutableListOf<String>())
            val got = Collections.synchronizedList(mutableListOf<String>())
            val random = Random(3)
            val receiving =
                async(Dispatchers.Default) {
                    pair.there.exchange { exchange ->
                        while (got.lastOrNull() != "end") {
                            val receiver = launch { got += exchange.recv().decodeToString() }
                            receiver.cancelledSometime(random)
                        }
                    }
                }
            pair.here.exchange { exchange ->
                repeat(ROUNDS) { number ->
                    val sender =
                        launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) {
                            exchange.send("$number".toByteArray())
                            kept += "$number"
                        }
                    sender.cancelAndJoin()
                }
                exchange.send("end".toByteArray())
            }
            receiving.await()
            assertEquals(kept + "end", got.toList()) // what was not cancelled came once, in order
        }

    @Test
    fun `sending, cancelled - whole messages in order, none twice`() =
        live {
            val pair = phantom.pair()
            val kept = Collections.synchronizedList(mutableListOf<Int>())
            val got = Channel<Int>(Channel.UNLIMITED)
            val receiving = launch { while (true) got.send(pair.there.recv().decodeToString().substringBefore(":").toInt()) }
            val random = Random(2)
            repeat(ROUNDS) { number ->
                val sender =
                    launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) {
                        pair.here.send("$number:${"x".repeat(random.nextInt(5000))}".toByteArray())
                        kept += number
                    }
                sender.cancelledSometime(random)
            }
            pair.here.send("$ROUNDS:".toByteArray())
            val all = mutableListOf<Int>()
            while (all.lastOrNull() != ROUNDS) all += got.receive()
            receiving.cancelAndJoin()
            assertEquals(all.distinct().sorted(), all)
            assertTrue(all.containsAll(kept))
        }

    @Test
    fun `accepting, cancelled`() =
        live {
            val listener = phantom.listen("127.0.0.1:0", config = PhantomConfig(maxSessionsPerIp = 0u))
            val got = Collections.synchronizedList(mutableListOf<PhantomSession>())
            val connecting =
                async(Dispatchers.Default) { List(50) { phantom.connect(listener.urls.first(), timeout = 60.seconds) } }
            var rounds = 0
            val random = Random(4)
            while (got.size < 50 || rounds < ROUNDS) {
                val accepting = launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) { got += listener.accept() }
                accepting.cancelledSometime(random)
                rounds++
            }
            val there = connecting.await()
            assertEquals(there.map { it.id }.toSet(), got.map { it.id }.toSet())
            assertEquals(50, got.size)
            (there + got).map { async { it.disconnect(timeout = 5.seconds) } }.forEach { it.await() }
            listener.shutdown()
        }

    @Test
    fun `streams, cancelled while they are opened, accepted and read`() =
        live {
            launched().use { own ->
                val pair = own.pair()
                val random = Random(6)
                val got = Collections.synchronizedList(mutableListOf<PhantomStream>())
                repeat(200) {
                    val opening =
                        launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) { got += pair.here.openStream(timeout = 30.seconds) }
                    opening.cancelledSometime(random, most = 3000)
                    while (got.size > 20) got.removeAt(0).release()
                }
                got.forEach { it.release() }
                val mine = pair.here.openStream(timeout = 30.seconds)
                val sent = Random(7).nextBytes(200_000)
                val sending =
                    launch {
                        for (from in sent.indices step 500) mine.send(sent.copyOfRange(from, from + 500))
                        mine.finish()
                    }
                val theirs = mutableListOf<PhantomStream>()
                while (theirs.lastOrNull()?.id != mine.id) {
                    val accepting =
                        launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) { theirs += pair.there.acceptStream() }
                    accepting.cancelledSometime(random, most = 3000)
                }
                val received = java.io.ByteArrayOutputStream()
                var rounds = 0
                var ended = false
                while (!ended) {
                    val reading =
                        launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) {
                            theirs.last().recv()?.let { received.write(it) } ?: run { ended = true }
                        }
                    reading.cancelledSometime(random, most = 2000)
                    rounds++
                }
                sending.join()
                assertContentEquals(sent, received.toByteArray())
                assertEquals(theirs.map { it.id }.distinct().sorted(), theirs.map { it.id })
                theirs.forEach { it.release() }
                mine.release()
                val held = withTimeoutOrNull(60.seconds) { while (own.lease().streams > 0u) delay(20.milliseconds) }
                assertTrue(held != null, "${own.lease()} after a minute and $rounds reads")
            }
        }

    @Test
    fun `connecting and disconnecting, cancelled, leave no handle`() =
        live {
            launched().use { own ->
                val listener = own.listen("127.0.0.1:0", config = PhantomConfig(maxSessionsPerIp = 0u, maxInflightPerSource = 1000u))
                val made = Collections.synchronizedList(mutableListOf<PhantomSession>())
                val accepting =
                    launch {
                        listener.sessions().collect {
                            made += it
                            it.close()
                        }
                    }
                val random = Random(5)
                repeat(100) {
                    val connecting =
                        launch(Dispatchers.Default, CoroutineStart.UNDISPATCHED) {
                            val session = own.connect(listener.urls.first(), timeout = 60.seconds)
                            made += session
                            try {
                                session.send(ByteArray(1000))
                            } catch (_: PhantomException) {
                                // the other end is closing it
                            } finally {
                                session.close()
                            }
                        }
                    connecting.cancelledSometime(random, most = 20_000)
                }
                listener.shutdown() // an Accept that waits counts as a session that is being opened
                accepting.join()
                val held = withTimeoutOrNull(60.seconds) { while (own.lease().sessions > 0u) delay(20.milliseconds) }
                assertTrue(held != null, "${own.lease()} after a minute; ${made.filter { it.watching.isActive }}")
                assertEquals(0u, own.lease().listeners)
            }
        }
}
