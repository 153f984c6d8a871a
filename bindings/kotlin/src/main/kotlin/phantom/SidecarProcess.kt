package phantom

import kotlinx.coroutines.CompletableDeferred
import phantom.v1.ErrorCode
import java.io.IOException
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.attribute.PosixFilePermissions
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread

private const val STOP_SECONDS = 5L
private const val KEPT_CHARACTERS = 2000
private val ADDRESS = Regex(""""address":\s*"(127\.0\.0\.1:\d+|[^"\\]*)"""")

/**
 * A sidecar of this program's own: started in a directory that only this user can enter, stopped with [stop], and with
 * the JVM at the latest.
 */
internal class SidecarProcess(
    private val command: List<String>,
    private val options: List<String>,
    private val environment: Map<String, String>,
    private val unix: Boolean,
) {
    private val directory: Path =
        if (unix) {
            val own = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"))
            Files.createTempDirectory("phantom-", own)
        } else {
            Files.createTempDirectory("phantom-")
        }
    private val socket = directory.resolve("s.sock")
    private val tokenFile = directory.resolve("token")
    private val hook = thread(start = false, name = "phantom-sidecar-end") { process?.destroy() }

    @Volatile
    private var process: Process? = null
    private var ready = CompletableDeferred<String>()

    init {
        Runtime.getRuntime().addShutdownHook(hook)
    }

    val pid: Process? get() = process

    /** Starts it unless it runs. RuntimeInit if the program cannot be started. */
    @Synchronized
    fun start() {
        if (process?.isAlive == true) return
        val where = if (unix) listOf("--socket", socket.toString()) else listOf("--tcp-port", "0")
        val builder = ProcessBuilder(command + "sidecar" + where + listOf("--token-file", "$tokenFile") + options + "--print-ready")
        builder.environment().putAll(environment)
        Files.deleteIfExists(tokenFile) // of one that did not end well
        val started =
            try {
                builder.start()
            } catch (failed: IOException) {
                throw failure(ErrorCode.RUNTIME_INIT, "`${command.joinToString(" ")}` cannot be started; is Phantom installed?", failed)
            }
        started.outputStream.close()
        process = started
        val line = CompletableDeferred<String>()
        ready = line
        val said = StringBuilder()
        val errors =
            thread(isDaemon = true, name = "phantom-sidecar-stderr") {
                drain(started.errorStream) { text ->
                    synchronized(said) {
                        said.appendLine(text)
                        if (said.length > KEPT_CHARACTERS) said.delete(0, said.length - KEPT_CHARACTERS)
                    }
                }
            }
        thread(isDaemon = true, name = "phantom-sidecar-stdout") {
            drain(started.inputStream) { line.complete(it) }
            val code = started.waitFor()
            errors.join()
            val why = synchronized(said) { said.toString().trim() }
            line.completeExceptionally(failure(ErrorCode.RUNTIME_INIT, "the sidecar ended with exit code $code: $why"))
        }
    }

    /** Where it is, as soon as it says so. RuntimeInit if it ends before. */
    suspend fun place(): Place {
        val line = synchronized(this) { ready }.await()
        val found = ADDRESS.find(line)?.groupValues?.get(1)
        val address = if (unix) "unix:$socket" else found
        return Place(
            address ?: throw failure(ErrorCode.RUNTIME_INIT, "the sidecar did not say where it is, but: $line"),
            tokenFile,
        )
    }

    /** Ends it: asks it to, and kills it if it does not within 5 s. Idempotent. */
    @Synchronized
    fun stop() {
        val running = process
        process = null
        if (running != null) {
            running.destroy()
            if (!running.waitFor(STOP_SECONDS, TimeUnit.SECONDS)) running.destroyForcibly().waitFor()
        }
        try {
            Runtime.getRuntime().removeShutdownHook(hook)
        } catch (_: IllegalStateException) {
            // the JVM is ending, and the hook with it
        }
        directory.toFile().deleteRecursively()
    }
}

private fun drain(
    stream: java.io.InputStream,
    take: (String) -> Unit,
) {
    try {
        stream.bufferedReader().useLines { lines -> lines.forEach(take) }
    } catch (_: IOException) {
        // it ended
    }
}
