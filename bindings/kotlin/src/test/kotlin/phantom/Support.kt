// What the tests need: sidecars that run, can be killed, and are none.

package phantom

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.attribute.PosixFilePermissions
import java.util.concurrent.TimeUnit
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds

/** How long a test may take on a busy machine before it counts as hanging. */
val PATIENCE: Duration = 90.seconds

/** How Phantom is started: PHANTOM_COMMAND, words separated by a space. */
val COMMAND: List<String> = (System.getenv("PHANTOM_COMMAND") ?: "phantom").split(" ")

/** Runs a test, which must end. */
fun live(block: suspend CoroutineScope.() -> Unit): Unit = runBlocking { withTimeout(PATIENCE) { block() } }

/** A client with a sidecar of its own that serves. */
suspend fun launched(
    options: List<String> = emptyList(),
    unix: Boolean = true,
): Phantom = Phantom.launch(COMMAND, options, unix = unix).apply { waitReady(60.seconds) }

/** Two sessions with each other, through one sidecar. */
class Pair(
    val here: PhantomSession,
    val there: PhantomSession,
    val listener: PhantomListener,
)

suspend fun Phantom.pair(config: phantom.v1.PhantomConfig? = null): Pair {
    val listener = listen("127.0.0.1:0", config = config)
    val here = connect(listener.urls.first())
    return Pair(here, listener.accept(30.seconds), listener)
}

/** A private directory that is gone with the test. */
class Home : AutoCloseable {
    val path: Path =
        Files.createTempDirectory("ph", PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")))
    val socket: Path = path.resolve("s.sock")

    fun client(): Phantom = Phantom.connect("unix:$socket", environment = emptyMap())

    override fun close() {
        path.toFile().deleteRecursively()
    }
}

/** A sidecar that a test starts, kills and starts again. */
class RawSidecar(
    private val home: Home,
) : AutoCloseable {
    private var process: Process? = null

    fun start() {
        val builder = ProcessBuilder(COMMAND + listOf("sidecar", "--socket", home.socket.toString(), "--print-ready", "--log-filter", "error"))
        process = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start()
    }

    /** Returns when it serves. */
    fun awaitLine() {
        checkNotNull(checkNotNull(process).inputStream.bufferedReader().readLine())
    }

    fun kill() {
        process?.destroyForcibly()?.waitFor()
    }

    /** As at a shutdown of the machine. */
    fun terminate() {
        process?.destroy()
        check(process?.waitFor(30, TimeUnit.SECONDS) != false)
    }

    override fun close() = kill()
}
