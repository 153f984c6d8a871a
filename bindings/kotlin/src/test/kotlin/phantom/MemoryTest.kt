package phantom

import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch
import phantom.v1.PhantomConfig
import java.nio.file.Files
import java.nio.file.Paths
import java.util.concurrent.atomic.AtomicLong
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.milliseconds

private const val MESSAGE = 256 shl 10
private const val MIB = 1L shl 20

/** What can be on its way between a sender and a consumer that stands still: windows and queues of both sidecars. */
private const val ON_ITS_WAY = 64 * MIB

/** The resident memory of a process, in bytes. */
private fun resident(pid: UInt): Long =
    Files.readAllLines(Paths.get("/proc/$pid/status")).first { it.startsWith("VmRSS") }.filter(Char::isDigit).toLong() shl 10

private fun heap(): Long {
    repeat(3) { System.gc() }
    return Runtime.getRuntime().let { it.totalMemory() - it.freeMemory() }
}

/** Memory does not grow with what a slow consumer has not read, and handles do not stay. */
class MemoryTest {
    @Test
    fun `a slow consumer stalls the sender, and memory stays bounded`() =
        live {
            launched().use { server ->
                launched().use { phantom ->
                    val listener = server.listen("127.0.0.1:0", config = PhantomConfig(recvWindow = (4 * MIB).toULong()))
                    val sender = phantom.connect(listener.urls.first())
                    val consumer = listener.accept()
                    val sent = AtomicLong()
                    val data = ByteArray(MESSAGE)
                    val before = heap()
                    val held = resident(server.info().pid) to resident(phantom.info().pid)
                    val sending =
                        launch {
                            while (true) {
                                sender.send(data)
                                sent.addAndGet(data.size.toLong())
                            }
                        }
                    var read = 0L
                    val reading =
                        launch {
                            consumer.messages().collect {
                                read += it.size
                                if (read > 4 * MIB) kotlinx.coroutines.awaitCancellation()
                            }
                        }
                    var seen = -1L
                    while (seen != sent.get() || seen == 0L) { // until the sender stands still
                        seen = sent.get()
                        delay(500.milliseconds)
                    }
                    val grown = heap() - before
                    val resident = (resident(server.info().pid) - held.first) to (resident(phantom.info().pid) - held.second)
                    println(
                        "slow consumer: ${seen / MIB} MiB sent, ${read / MIB} MiB read; heap of this JVM +${grown / MIB} MiB, " +
                            "sidecar of the consumer +${resident.first / MIB} MiB, of the sender +${resident.second / MIB} MiB",
                    )
                    assertTrue(seen - read < ON_ITS_WAY, "${(seen - read) / MIB} MiB are on their way")
                    assertTrue(grown < 16 * MIB, "the heap grew by ${grown / MIB} MiB")
                    assertTrue(resident.first < ON_ITS_WAY, "the sidecar of the consumer grew by ${resident.first / MIB} MiB")
                    assertTrue(resident.second < ON_ITS_WAY, "the sidecar of the sender grew by ${resident.second / MIB} MiB")
                    reading.cancelAndJoin()
                    // What was not read is still there, and reading it lets the sender go on.
                    val target = seen + 8 * MIB
                    val rest = launch { consumer.messages().collect { read += it.size } }
                    while (sent.get() < target) delay(10.milliseconds)
                    sending.cancelAndJoin()
                    rest.cancelAndJoin()
                }
            }
        }

    @Test
    fun `handles and threads return to what they were`() =
        live {
            launched().use { phantom ->
                suspend fun round() {
                    val pair = phantom.pair()
                    val key = phantom.generateSigningKey()
                    pair.here.send(ByteArray(MESSAGE_CAP + 1))
                    pair.there.recv()
                    pair.here.disconnect()
                    pair.there.disconnect()
                    pair.listener.shutdown()
                    key.free()
                }
                round()
                val sidecar = resident(phantom.info().pid)
                val before = heap()
                repeat(50) { round() }
                val left = phantom.lease()
                assertEquals(listOf(0u, 0u, 0u), listOf(left.sessions, left.listeners, left.signingKeys))
                val grown = heap() - before
                println("50 rounds: heap of this JVM +${grown / 1024} KiB, sidecar +${(resident(phantom.info().pid) - sidecar) / 1024} KiB")
                assertTrue(grown < 4 * MIB, "the heap grew by ${grown / 1024} KiB")
            }
            repeat(5) { launched().use { it.info() } }
            val threads = Thread.getAllStackTraces().keys.map { it.name }.filter { Regex("phantom-\\d.*").matches(it) }
            assertTrue(threads.size <= 4, "$threads") // of Netty, shared by all clients that ever were
            assertEquals(0, Thread.getAllStackTraces().keys.count { it.name.startsWith("phantom-sidecar-std") && it.isAlive })
        }
}
