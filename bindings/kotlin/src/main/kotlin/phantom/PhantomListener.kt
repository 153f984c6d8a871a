package phantom

import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.filterNotNull
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import phantom.v1.AcceptRequest
import phantom.v1.ConnectionClosedException
import phantom.v1.ErrorCode
import phantom.v1.Listener
import phantom.v1.ListenerOperations
import phantom.v1.PhantomConfig
import phantom.v1.PhantomException
import phantom.v1.PhantomLink
import phantom.v1.SessionNotFoundException
import phantom.v1.ShutdownRequest
import phantom.v1.VerifyingKey
import phantom.v1.sent
import kotlin.time.Duration

/** Takes the sessions that peers open. Made by [Phantom.listen]. */
public class PhantomListener internal constructor(
    private val client: Phantom,
    private val connection: Connection,
    listener: Listener,
    private val config: PhantomConfig?,
) : ListenerOperations(listener.ref.sent("ref")),
    AutoCloseable {
    /** Addresses bound, as URLs with the real port. */
    public val addresses: List<String> = listener.addresses

    /** The same as URLs with the pin, to be given to clients as they are. */
    public val urls: List<String> = listener.urls

    /** What clients pin. */
    public val verifyingKey: VerifyingKey = listener.verifyingKey.sent("verifyingKey")

    /** Whether it was shut down. */
    @Volatile
    public var isShutDown: Boolean = false
        private set

    private val accepting = Mutex()
    private var taken = 0uL
    private val open = mutableSetOf<PhantomSession>()
    private val stopping = lazy { connection.scope.async { stop() }.also(client::ends) }

    override suspend fun <T> call(block: suspend (PhantomLink) -> T): T = block(connection.link)

    /**
     * The next session. [ConnectionClosedException] after the shutdown. Cancelled or out of time, it loses none.
     */
    public suspend fun accept(timeout: Duration? = null): PhantomSession {
        val limit = Limit(timeout, "no session arrived")
        return limit.exclusive(accepting) {
            val accepted =
                try {
                    if (isShutDown) throw closed()
                    limit.run { connection.clients.listener.accept(AcceptRequest(ref, taken)) }.accepted.sent("accepted")
                } catch (unknown: SessionNotFoundException) {
                    throw closed(unknown)
                }
            taken = accepted.seq
            val session = accepted.session.sent("session")
            val known = session.copy(peerIdentity = session.peerIdentity ?: accepted.clientIdentity)
            PhantomSession(client, connection, known, config).also(::follow)
        }
    }

    private fun follow(session: PhantomSession) {
        synchronized(open) { open.add(session) }
        session.watching.invokeOnCompletion { synchronized(open) { open.remove(session) } }
    }

    /** One session after the other, until the listener is shut down. */
    public fun sessions(): Flow<PhantomSession> =
        forever()
            .map {
                try {
                    accept()
                } catch (_: ConnectionClosedException) {
                    null
                }
            }.takeWhile { it != null }
            .filterNotNull()

    /** Stops accepting, wakes whoever waits in [accept], frees the addresses. Established sessions go on. Idempotent. */
    public suspend fun shutdown() {
        isShutDown = true
        stopping.value.join()
    }

    /** [shutdown], then ends every session that was accepted here with code 14, within [grace] each. */
    public suspend fun drain(grace: Duration) {
        shutdown()
        val left = synchronized(open) { open.toList() }
        coroutineScope { left.forEach { launch { it.disconnect(ErrorCode.CONNECTION_CLOSED.code.toUInt(), grace) } } }
    }

    private suspend fun stop() {
        try {
            connection.clients.listener.shutdown(ShutdownRequest(ref))
        } catch (_: PhantomException) {
            // it ended with the sidecar or the lease
        }
    }

    /** [shutdown] that does not wait for the sidecar. */
    override fun close() {
        isShutDown = true
        stopping.value
    }

    private fun closed(cause: Throwable? = null) = failure(ErrorCode.CONNECTION_CLOSED, "the listener was shut down", cause)

    override fun toString(): String = "PhantomListener($urls)"
}

/**
 * Turns without end. What is made of one by `map` reaches the collector without a look at cancellation in between, which
 * could drop what was taken; `flow { emit(take()) }` could.
 */
internal fun forever(): Flow<Unit> = flow { while (true) emit(Unit) }
