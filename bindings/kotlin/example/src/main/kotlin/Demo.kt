// Starts a server and a sidecar, connects, exchanges messages, sends a file of 16 MiB with progress, and shows that a
// server with another key than the pinned one is refused. PHANTOM_COMMAND says how Phantom is started.

import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import phantom.Phantom
import phantom.PhantomSession
import phantom.v1.ServerIdentityMismatchException
import java.nio.file.Files
import java.nio.file.Path
import java.security.MessageDigest
import kotlin.concurrent.thread
import kotlin.io.path.deleteExisting
import kotlin.io.path.fileSize
import kotlin.io.path.inputStream
import kotlin.io.path.outputStream
import kotlin.random.Random
import kotlin.time.Duration.Companion.seconds
import kotlin.time.DurationUnit
import kotlin.time.TimeSource
import kotlin.time.measureTime

private const val MIB = 1 shl 20
private const val FILE_SIZE = 16 * MIB
private const val PIECE = MIB / 4
private const val PINGS = 20

private val command = (System.getenv("PHANTOM_COMMAND") ?: "phantom").split(" ")

private fun step(text: String) = println("\n$text")

private fun fact(
    name: String,
    value: Any?,
) = println("  %-12s %s".format(name, value))

/** A server that echoes, in a process of its own and with a key of its own, and the URL that its clients need. */
private class Server : AutoCloseable {
    private val folder = Files.createTempDirectory("phantom-demo")
    private val key = folder.resolve("server.key").toString()
    private val process: Process
    val url: String

    init {
        check(start("keygen", "--out", key).waitFor() == 0) { "no key could be made" }
        process = start("serve", "--bind", "127.0.0.1:0", "--signing-key-file", key, "--log-filter", "error")
        val lines = process.inputStream.bufferedReader()
        val found = lines.lineSequence().firstNotNullOfOrNull { Regex("""phantom(\+\w+)?://\S+""").find(it)?.value }
        url = found ?: error("the server did not start (exit code ${process.waitFor()})")
        thread(isDaemon = true) { lines.forEachLine { } }
    }

    private fun start(vararg arguments: String): Process = ProcessBuilder(command + arguments).redirectErrorStream(true).start()

    override fun close() {
        process.destroy()
        process.waitFor()
        folder.toFile().deleteRecursively()
    }
}

private suspend fun greet(session: PhantomSession) {
    step("Messages: this program, sidecar, server, and back")
    session.send("hello from Kotlin".toByteArray())
    fact("echo", session.recv(10.seconds).decodeToString())
    val times =
        List(PINGS) {
            measureTime {
                session.send("ping".toByteArray())
                session.recv(10.seconds)
            }
        }.sorted()
    fact("round trip", "${times[PINGS / 2].toString(DurationUnit.MILLISECONDS, 2)} (median of $PINGS)")
}

private suspend fun sendFile(
    session: PhantomSession,
    file: Path,
) {
    step("A file of ${file.fileSize() / MIB} MiB to the server and back, both at once")
    val sent = MessageDigest.getInstance("SHA-256")
    val received = MessageDigest.getInstance("SHA-256")
    val begun = TimeSource.Monotonic.markNow()
    session.exchange { exchange ->
        withTimeout(60.seconds) {
            launch {
                val piece = ByteArray(PIECE)
                file.inputStream().use { input ->
                    while (true) {
                        val size = input.read(piece)
                        if (size < 0) break
                        sent.update(piece, 0, size)
                        exchange.send(piece.copyOf(size))
                    }
                }
            }
            var done = 0L
            while (done < FILE_SIZE) {
                val piece = exchange.recv()
                received.update(piece)
                done += piece.size
                progress(done)
            }
        }
    }
    val seconds = begun.elapsedNow().toDouble(DurationUnit.SECONDS)
    println()
    check(sent.digest().contentEquals(received.digest())) { "what came back is not what was sent" }
    fact("SHA-256", "equal")
    fact("rate", "%.0f MB/s each way, %.2f s".format(FILE_SIZE / seconds / 1e6, seconds))
}

private fun progress(done: Long) {
    val tenths = (done * 40 / FILE_SIZE).toInt()
    print("\r  %-40s %3d %%".format("#".repeat(tenths), done * 100 / FILE_SIZE))
    System.out.flush()
}

fun main(): Unit =
    runBlocking {
        step("A server that echoes")
        Server().use { server ->
            fact("url", server.url)
            step("A sidecar of this program's own")
            Phantom.launch(command).use { phantom ->
                phantom.waitReady(30.seconds)
                val info = phantom.info()
                fact("sidecar", "$phantom, version ${info.packageVersion}, pid ${info.pid}")

                step("A post-quantum handshake")
                phantom.withSession(server.url) { session ->
                    fact("algorithms", session.handshake.algorithms.joinToString())
                    fact("time", session.handshake.duration)
                    fact("server", session.peerIdentity?.fingerprint)
                    greet(session)
                    val file = Files.createTempFile("phantom", ".bin")
                    try {
                        file.outputStream().use { out -> repeat(FILE_SIZE / MIB) { out.write(Random.nextBytes(MIB)) } }
                        sendFile(session, file)
                    } finally {
                        file.deleteExisting()
                    }
                }

                step("A server with another key than the pinned one is refused")
                val stranger = phantom.generateSigningKey()
                try {
                    phantom.connect(server.url.substringAfter("@"), stranger.verifyingKey.fingerprint)
                    error("a wrong pin was not refused")
                } catch (refused: ServerIdentityMismatchException) {
                    fact("refused", refused.message)
                    fact("code", "${refused.code.code} ${refused.code}, final: ${refused.isFinal}")
                }
            }
        }
        println("\ndone")
    }
