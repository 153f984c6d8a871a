package phantom

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.delay
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeoutOrNull
import phantom.v1.BindRequest
import phantom.v1.ClientPolicy
import phantom.v1.ConnectRequest
import phantom.v1.Contract
import phantom.v1.ErrorCode
import phantom.v1.GenerateSigningKeyRequest
import phantom.v1.ImportSigningKeyRequest
import phantom.v1.Info
import phantom.v1.LeaseState
import phantom.v1.PhantomClients
import phantom.v1.PhantomConfig
import phantom.v1.PhantomException
import phantom.v1.PhantomLink
import phantom.v1.PhantomOperations
import phantom.v1.Pin
import phantom.v1.SigningKeySource
import phantom.v1.sent
import java.nio.file.Path
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

private val AGAIN = 50.milliseconds // between two looks for a sidecar that is being started
private val OPEN_TIMEOUT = 10.seconds
private val CONNECT_TIMEOUT = 20.seconds
private val MARGIN = 2.seconds // that the sidecar has to say how a call ended whose limit it keeps itself
private val CLOSE_TIMEOUT = 7.seconds
private val RELEASE_TIMEOUT = 2.seconds

/**
 * A client of a sidecar: of one that runs ([connect]), or of one of its own ([launch]).
 *
 * It opens its connection at the first call, and a new one when the sidecar was lost: what was opened through the lost
 * one is gone, and says so by [phantom.v1.NetworkException]; calls of this object work again as soon as a sidecar
 * is there, under whatever token it has. [waitReady] waits for that. Any coroutine may use it and what it makes.
 *
 * Every `timeout` that is null is no limit. Calls throw the errors of the sidecar as [PhantomException].
 */
public class Phantom private constructor(
    private val find: suspend () -> Place,
    private val process: SidecarProcess?,
) : PhantomOperations(),
    AutoCloseable {
    private val opening = Mutex()

    @Volatile
    private var current: Connection? = null

    @Volatile
    private var closed = false
    private val ending = mutableSetOf<Job>()

    // --- the connection ----------------------------------------------------------------------------------------------

    internal suspend fun connection(): Connection {
        current?.takeIf { it.lost == null && !closed }?.let { return it }
        return opening.withLock {
            if (closed) throw failure(ErrorCode.RUNTIME_INIT, "the client is closed")
            current?.takeIf { it.lost == null } ?: withContext(Dispatchers.IO) { open() }
        }
    }

    private suspend fun open(): Connection {
        current?.abandon()
        current = null
        process?.start()
        val place = find()
        val limit = Limit(OPEN_TIMEOUT, "the sidecar at ${place.address} did not answer")
        return limit.run { Connection.open(place).also { current = it } }
    }

    override suspend fun <T> call(block: suspend (PhantomLink) -> T): T = block(connection().link)

    /**
     * Returns when there is a sidecar and it can serve; opens the connection, after a loss a new one.
     *
     * [phantom.v1.TimeoutException], which says what is missing, if that is not so in time. What waiting does not cure
     * is thrown at once: another contract version, files that others could reach, a wrong token, a sidecar of this
     * program's own that cannot be started.
     */
    public suspend fun waitReady(timeout: Duration) {
        var missing = "the sidecar did not answer"
        withTimeoutOrNull(timeout) {
            while (true) {
                try {
                    val status = health()
                    if (status.ready) break
                    missing = status.missing.joinToString()
                } catch (failed: PhantomException) {
                    if (!isPassing(failed)) throw failed
                    missing = failed.message.orEmpty()
                }
                delay(AGAIN)
            }
        } ?: throw failure(ErrorCode.TIMEOUT, "the sidecar was not ready within $timeout: $missing")
    }

    /** Whether a failure is one that a sidecar that is just being started explains. */
    private suspend fun isPassing(failed: PhantomException): Boolean =
        when (failed.code) {
            ErrorCode.NETWORK, ErrorCode.TIMEOUT -> true
            ErrorCode.ACCESS_DENIED -> failed.detail == null && !find().hasTokenFile()
            else -> false
        }

    /** What the sidecar is. */
    public suspend fun info(): Info = connection().info

    /** What the sidecar holds for this client: sessions, listeners, keys. */
    public suspend fun lease(timeout: Duration? = null): LeaseState =
        Limit(timeout, "the sidecar did not answer").run { connection().ping(release = false) }

    /** Every call of the definition as it is, and the lease to name in those that make something. */
    public suspend fun calls(): Pair<PhantomClients, ULong> = connection().link.let { it.clients to it.leaseId }

    // --- sessions and listeners --------------------------------------------------------------------------------------

    /**
     * Connects to a server, and returns after it proved to hold a pinned key; otherwise
     * [phantom.v1.ServerIdentityMismatchException].
     *
     * @param target `HOST:PORT`, `LEG://HOST:PORT` or `phantom://PIN@HOST:PORT`
     * @param pins what the server must prove to hold one of; none with a pinned URL
     * @param identity proves to the server who this client is
     * @param timeout the whole of it, handshake included; null: 20 s
     */
    public suspend fun connect(
        target: String,
        pins: List<Pin> = emptyList(),
        config: PhantomConfig? = null,
        identity: PhantomKey? = null,
        timeout: Duration? = null,
    ): PhantomSession =
        connect(ConnectRequest(target = target, pins = pins, config = config, identity = identity?.ref, timeout = timeout))

    /** The same with one pin, a fingerprint or a key in hexadecimal characters. */
    public suspend fun connect(
        target: String,
        pin: String,
        config: PhantomConfig? = null,
        identity: PhantomKey? = null,
        timeout: Duration? = null,
    ): PhantomSession = connect(target, listOf(pinOf(pin)), config, identity, timeout)

    /** The same with all that the definition knows of; its lease is set here. */
    public suspend fun connect(request: ConnectRequest): PhantomSession {
        val connection = connection()
        val limit = request.timeout ?: CONNECT_TIMEOUT
        val complete = request.copy(leaseId = connection.link.leaseId, timeout = limit)
        return connection.making(this, { it.disconnect(timeout = Duration.ZERO) }) {
            val session = connection.clients.session.connect(complete, limit + MARGIN).session.sent("session")
            PhantomSession(this, connection, session, request.config)
        }
    }

    /**
     * Connects, gives the session to [block], and closes it: with everything acknowledged by the peer, else
     * [phantom.v1.ConnectionClosedException], unless the block threw.
     */
    public suspend fun <R> withSession(
        target: String,
        pins: List<Pin> = emptyList(),
        config: PhantomConfig? = null,
        identity: PhantomKey? = null,
        timeout: Duration? = null,
        block: suspend (PhantomSession) -> R,
    ): R {
        val session = connect(target, pins, config, identity, timeout)
        val result =
            try {
                block(session)
            } catch (failed: Throwable) {
                withContext(NonCancellable) { session.disconnect(timeout = RELEASE_TIMEOUT) }
                throw failed
            }
        if (!session.disconnect()) {
            throw session.lastError
                ?: failure(ErrorCode.CONNECTION_CLOSED, "the session ended before the peer acknowledged everything")
        }
        return result
    }

    /**
     * Binds addresses under one identity.
     *
     * @param addresses `HOST:PORT` or `LEG://HOST:PORT`, port 0 for any free one
     * @param key the identity; null: a fresh one that lives as long as the listener
     * @param clients which clients it takes; null: all
     */
    public suspend fun listen(
        vararg addresses: String,
        key: PhantomKey? = null,
        config: PhantomConfig? = null,
        clients: ClientPolicy? = null,
        reusePort: Boolean = false,
    ): PhantomListener =
        listen(
            BindRequest(
                addresses = addresses.toList(),
                key = key?.ref,
                config = config,
                clients = clients,
                reusePort = reusePort,
            ),
        )

    /** The same with all that the definition knows of; its lease is set here. */
    public suspend fun listen(request: BindRequest): PhantomListener {
        val connection = connection()
        val complete = request.copy(leaseId = connection.link.leaseId)
        return connection.making(this, PhantomListener::shutdown) {
            val listener = connection.clients.listener.bind(complete, CONNECT_TIMEOUT).listener.sent("listener")
            PhantomListener(this, connection, listener, request.config)
        }
    }

    // --- keys --------------------------------------------------------------------------------------------------------

    /** Makes a new signing key that stays inside the sidecar; with [exportSeed] its seed comes out, if that is allowed. */
    public suspend fun generateSigningKey(exportSeed: Boolean = false): PhantomKey {
        val connection = connection()
        val request = GenerateSigningKeyRequest(connection.link.leaseId, exportSeed)
        return connection.making(this, { it.free() }) {
            val made = connection.clients.identity.generateSigningKey(request)
            PhantomKey(this, connection, made.key.sent("key"), made.verifyingKey.sent("verifyingKey"), made.seed)
        }
    }

    /** Takes in a signing key from its seed, 64 bytes. */
    public suspend fun importSigningKey(seed: ByteArray): PhantomKey =
        importSigningKey(SigningKeySource(SigningKeySource.SourceChoice.Seed(seed)))

    /** Takes in a signing key from a key file on the sidecar's host, which it reads itself. */
    public suspend fun importSigningKey(file: Path): PhantomKey =
        importSigningKey(SigningKeySource(SigningKeySource.SourceChoice.Path(file.toAbsolutePath().toString())))

    private suspend fun importSigningKey(source: SigningKeySource): PhantomKey {
        val connection = connection()
        val request = ImportSigningKeyRequest(connection.link.leaseId, source)
        return connection.making(this, { it.free() }) {
            val made = connection.clients.identity.importSigningKey(request)
            PhantomKey(this, connection, made.key.sent("key"), made.verifyingKey.sent("verifyingKey"), ByteArray(0))
        }
    }

    // --- the end -----------------------------------------------------------------------------------------------------

    /** Has [close] wait for what ends something in the background. */
    internal fun ends(work: Job) {
        synchronized(ending) { ending.add(work) }
        work.invokeOnCompletion { synchronized(ending) { ending.remove(work) } }
    }

    /**
     * Ends the lease, which closes everything that this client opened, and stops a sidecar of its own. Waits for that a
     * few seconds, first for sessions that were closed before it. Idempotent.
     */
    override fun close() {
        if (closed) return
        closed = true
        val connection = current
        if (connection != null) {
            runBlocking {
                val open = synchronized(ending) { ending.toList() }
                withTimeoutOrNull(CLOSE_TIMEOUT) { open.joinAll() }
                try {
                    withTimeoutOrNull(RELEASE_TIMEOUT) { connection.ping(release = true) }
                } catch (_: PhantomException) {
                    // it is gone, and the lease with it
                }
            }
            connection.abandon()
        }
        process?.stop()
    }

    override fun toString(): String = "Phantom(${current?.address ?: "not connected"})"

    /** Finds and starts sidecars. */
    public companion object {
        /** The version of this package. */
        public const val VERSION: String = Contract.PACKAGE_VERSION

        /**
         * A client of a sidecar that runs, or will: nothing is sent yet, see [waitReady].
         *
         * @param address `unix:PATH` or `127.0.0.1:PORT`; null: PHANTOM_SIDECAR_ADDRESS, else the user's runtime
         * directory, where `phantom sidecar` serves unless told otherwise
         * @param tokenFile null: PHANTOM_SIDECAR_TOKEN_FILE, else beside the socket
         * @param environment where the two variables are looked up
         */
        public fun connect(
            address: String? = null,
            tokenFile: Path? = null,
            environment: Map<String, String> = System.getenv(),
        ): Phantom {
            val place = Place.find(address, tokenFile, environment)
            return Phantom({ place }, null)
        }

        /**
         * A client with a sidecar of its own, which is started now and stopped by [close], with the JVM at the latest.
         * It serves in a directory that only this user can enter. See [waitReady].
         *
         * @param command the program, such as `listOf("python3", "-m", "phantom")`
         * @param options further options of `phantom sidecar`
         * @param environment variables that it gets in addition
         * @param unix over a unix socket; false, and where the JVM has none: 127.0.0.1
         */
        public fun launch(
            command: List<String> = listOf("phantom"),
            options: List<String> = emptyList(),
            environment: Map<String, String> = emptyMap(),
            unix: Boolean = true,
        ): Phantom {
            val process = SidecarProcess(command, options, environment, unix && reachesUnixSockets)
            try {
                process.start()
            } catch (failed: PhantomException) {
                process.stop()
                throw failed
            }
            return Phantom(process::place, process)
        }
    }
}
