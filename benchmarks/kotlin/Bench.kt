// The client of benchmarks/kotlin/run.py: one measurement, as a line of JSON. bulk|ping|unary|connect ADDRESS TARGET SECONDS

import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Semaphore
import phantom.Phantom
import phantom.PhantomExchange
import phantom.PhantomSession
import phantom.pinOf
import java.nio.file.Files
import java.nio.file.Paths
import kotlin.random.Random
import kotlin.system.exitProcess

private const val SIZE = 256 shl 10
private const val WINDOW = 4 shl 20 // of bytes under way
private const val PINGS_BEFORE = 2000
private const val CONNECTS = 20
private const val IN_MEMORY = "127.0.0.1:9" // a sidecar that answers itself
private const val WARM_SECONDS = 10.0

private fun now() = System.nanoTime()

private suspend fun Phantom.open(target: String): PhantomSession =
    connect(target, if (target == IN_MEMORY) listOf(pinOf(ByteArray(1984))) else emptyList())

/** Echo both ways at once. */
private suspend fun echo(
    exchange: PhantomExchange,
    seconds: Double,
): Double {
    val message = Random.nextBytes(SIZE)
    val room = Semaphore(WINDOW / SIZE)
    val begun = now()
    val end = begun + (seconds * 1e9).toLong()
    var received = 0L
    kotlinx.coroutines.coroutineScope {
        val sending =
            async {
                var sent = 0L
                while (now() < end) {
                    room.acquire()
                    exchange.send(message)
                    sent++
                }
                sent
            }
        while (!sending.isCompleted || received < sending.await()) {
            check(exchange.recv().size == SIZE)
            received++
            room.release()
        }
    }
    return received * SIZE / ((now() - begun) / 1e9) / 1e6
}

private suspend fun times(
    seconds: Double,
    once: suspend () -> Unit,
): Map<String, Double> {
    repeat(PINGS_BEFORE) { once() }
    val found = mutableListOf<Long>()
    val end = now() + (seconds * 1e9).toLong()
    while (true) {
        val begun = now()
        if (begun >= end) break
        once()
        found += now() - begun
    }
    found.sort()
    return mapOf("p50 µs" to found[found.size / 2] / 1e3, "p99 µs" to found[found.size * 99 / 100] / 1e3)
}

private fun resident(): Double =
    Files.readAllLines(Paths.get("/proc/self/status")).first { it.startsWith("VmHWM") }.filter(Char::isDigit).toLong() / 1024.0

private fun heap(): Double {
    repeat(3) { System.gc() }
    return Runtime.getRuntime().let { it.totalMemory() - it.freeMemory() } / 1048576.0
}

private suspend fun firstByte(
    address: String,
    target: String,
): Double {
    val begun = now()
    val phantom = Phantom.connect(address)
    val session = phantom.open(target)
    session.send(ByteArray(1))
    session.recv()
    val took = now() - begun
    phantom.close()
    return took / 1e6
}

fun main(arguments: Array<String>) {
    val (work, address, target, text) = arguments
    val seconds = text.toDouble()
    val figures: Map<String, Double> =
        runBlocking {
            if (work == "connect") {
                val first = firstByte(address, target)
                val rest = List(CONNECTS) { firstByte(address, target) }.sorted()
                return@runBlocking mapOf("first ms" to first, "ms" to rest[CONNECTS / 2])
            }
            Phantom.connect(address).use { phantom ->
                val session = phantom.open(target)
                when (work) {
                    "unary" -> times(seconds) { session.refresh() }
                    "ping" ->
                        session.exchange { exchange ->
                            val message = Random.nextBytes(64)
                            times(seconds) {
                                exchange.send(message)
                                exchange.recv()
                            }
                        }
                    else -> {
                        val rate =
                            session.exchange { exchange ->
                                echo(exchange, WARM_SECONDS)
                                echo(exchange, seconds)
                            }
                        mapOf("MB/s each way" to rate, "peak RSS MiB" to resident(), "heap MiB" to heap())
                    }
                }
            }
        }
    println(figures.entries.joinToString(", ", "{", "}") { "\"${it.key}\": ${it.value}" })
    exitProcess(0)
}
