package phantom

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Job
import kotlinx.coroutines.async
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.filterNotNull
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.flow.transformWhile
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.withTimeoutOrNull
import phantom.v1.AwaitReadyRequest
import phantom.v1.ConnectionClosedException
import phantom.v1.ConnectionState
import phantom.v1.Contract
import phantom.v1.DisconnectRequest
import phantom.v1.ErrorCode
import phantom.v1.ErrorDetail
import phantom.v1.FrameTooLargeException
import phantom.v1.GetRequest
import phantom.v1.HandshakeInfo
import phantom.v1.Negotiated
import phantom.v1.NetworkException
import phantom.v1.PhantomConfig
import phantom.v1.PhantomException
import phantom.v1.PhantomLink
import phantom.v1.RecvRequest
import phantom.v1.SendRequest
import phantom.v1.Session
import phantom.v1.SessionEvent
import phantom.v1.SessionNotFoundException
import phantom.v1.SessionOperations
import phantom.v1.StreamServiceAcceptRequest
import phantom.v1.StreamServiceOpenRequest
import phantom.v1.StreamServiceReleaseRequest
import phantom.v1.TimeoutException
import phantom.v1.VerifyingKey
import phantom.v1.WatchEventsRequest
import phantom.v1.sent
import java.util.concurrent.atomic.AtomicLong
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds

private val MARGIN = 2.seconds // that the sidecar has to hear of what was cancelled
private val CLOSE_TIMEOUT = 5.seconds
private const val EVENTS_KEPT = 64
private const val MAX_CLOSE_CODE = 0xFFFFu
private val FINAL = setOf(ConnectionState.FAILED, ConnectionState.CLOSED, ConnectionState.DEAD)

/**
 * A session with a peer: messages, streams beside them, and what it is. Made by [Phantom.connect] and
 * [PhantomListener.accept]. Any coroutine may use it.
 *
 * What is read without waiting is as the sidecar said last; [refresh] asks it.
 */
public class PhantomSession internal constructor(
    private val client: Phantom,
    private val connection: Connection,
    session: Session,
    config: PhantomConfig?,
) : SessionOperations(session.ref.sent("ref")),
    AutoCloseable {
    /** Its id, 64 hexadecimal characters; the same at both ends. */
    public val id: String = session.id

    /** The peer's address. */
    public val peerAddress: String = session.peerAddr

    /** The key that the peer proved to hold; null for a peer that proved none, as clients do unless asked. */
    public val peerIdentity: VerifyingKey? = session.peerIdentity

    /** How the handshake went. */
    public val handshake: HandshakeInfo = session.handshake ?: HandshakeInfo()

    /** What the two sides agreed on. */
    @Volatile
    public var negotiated: Negotiated = session.negotiated ?: Negotiated()
        private set

    /** Messages not yet handed to the network in full. */
    @Volatile
    public var queued: ULong = session.queued
        private set

    /** Why the session failed, if it did. */
    @Volatile
    public var lastError: PhantomException? = null
        private set

    private val currentState = MutableStateFlow(session.state)

    /** Its state. */
    public val state: StateFlow<ConnectionState> = currentState.asStateFlow()

    private val happened =
        MutableSharedFlow<SessionEvent>(replay = 1, extraBufferCapacity = EVENTS_KEPT, onBufferOverflow = BufferOverflow.DROP_OLDEST)

    /** Number of the last message received; the sidecar keeps those after it. */
    @Volatile
    internal var received: ULong = 0uL
    private val maxMessage = maxOf(Contract.MAX_MESSAGE, config?.maxMessage?.toULong() ?: 0uL)
    private val sending = Mutex()
    private val receiving = Mutex()
    private val acceptingStream = Mutex()
    private var takenStreams = 0uL
    private val openings = AtomicLong()
    private var ending: Deferred<Boolean>? = null

    /** Follows the session to its end. */
    internal val watching: Job

    init {
        learn(session)
        watching = connection.scope.launch { watch() }
    }

    override suspend fun <T> call(block: suspend (PhantomLink) -> T): T = explaining { block(connection.link) }

    // --- readiness and facts -----------------------------------------------------------------------------------------

    /** Waits until the peer is authenticated; on an accepted session until its first packet has opened. */
    public suspend fun awaitReady(timeout: Duration? = null) {
        val answer =
            Limit(timeout, "the peer sent nothing").run {
                explaining { connection.clients.session.awaitReady(AwaitReadyRequest(ref)) }
            }
        learn(answer.session.sent("session"))
    }

    /** Asks the sidecar for everything that this object knows. */
    public suspend fun refresh(timeout: Duration? = null) {
        learn(connection.clients.session.get(GetRequest(ref), timeout).session.sent("session"))
    }

    /**
     * What happens to the session: what happened last (at first its state), then everything, until it ends. A collector
     * that is more than 64 events behind misses the oldest.
     */
    public fun events(): Flow<SessionEvent> =
        happened.transformWhile { event ->
            emit(event)
            (event.event as? SessionEvent.EventChoice.StateChanged)?.value?.state !in FINAL
        }

    // --- messages ----------------------------------------------------------------------------------------------------

    /**
     * Queues one message (0 bytes to 16 MiB) whole; waits while too much is queued. One over 1 MiB goes in chunks.
     *
     * Out of time, nothing is queued that will still be sent, unless the sidecar took the message at that very moment;
     * cancelled, it may be sent or not.
     */
    public suspend fun send(
        data: ByteArray,
        timeout: Duration? = null,
    ) {
        if (data.size.toULong() > maxMessage) {
            throw failure(ErrorCode.VALIDATION, "the message has ${data.size} bytes; the limit is $maxMessage")
        }
        val limit = Limit(timeout, "the sidecar did not confirm the message")
        try {
            limit.exclusive(sending) { limit.run { explaining { sendWhole(data) } } }
        } catch (late: TimeoutException) {
            overtake()
            throw late
        }
    }

    private suspend fun sendWhole(data: ByteArray) {
        if (data.size > MESSAGE_CAP) {
            exchange(sendOnly = true) { it.send(data) }
        } else {
            queued = connection.clients.session.send(SendRequest(ref, data)).queued
        }
    }

    /** Returns when the sidecar has heard of what was cancelled before: from then on it no longer tries to send. */
    private suspend fun overtake() {
        try {
            connection.clients.session.get(GetRequest(ref), MARGIN)
        } catch (_: PhantomException) {
            // nobody is there to send anything
        }
    }

    /**
     * The next message, exactly as it was sent. After the end of the session come first the messages that had arrived,
     * then [ConnectionClosedException] or what ended it.
     *
     * A call that is cancelled or out of time loses nothing: who waits gives up [timeout], or is cancelled, and the
     * message goes to the next call. (`withTimeout { recv() }` can drop one that comes in that very instant, as it can
     * drop any result; use the parameter.)
     */
    public suspend fun recv(timeout: Duration? = null): ByteArray {
        val limit = Limit(timeout, "no message arrived")
        return limit.exclusive(receiving) {
            val message =
                try {
                    limit.run { explaining { connection.clients.session.recv(RecvRequest(ref, received)) } }.message.sent("message")
                } catch (_: FrameTooLargeException) {
                    return@exclusive exchange { it.recv(limit.left()) }
                }
            received = message.seq
            message.data
        }
    }

    /**
     * The messages of the peer at full speed, to the normal end of the session; another end throws what ended it. The
     * collector's pace is the sender's: at most 4 MiB wait here. A collector that ends or is cancelled leaves what it
     * did not get to the next one, and to [recv].
     */
    public fun messages(): Flow<ByteArray> =
        flow {
            val exchange = PhantomExchange(this@PhantomSession, connection, sendOnly = false)
            try {
                while (true) emit(exchange)
            } finally {
                exchange.end()
            }
        }.map { it.recvOrNull() }.takeWhile { it != null }.filterNotNull()

    /**
     * Messages of any size both ways at full speed, while [block] runs; then waits until the sidecar took everything
     * that was sent, unless the block threw. While an exchange receives, it takes over from [recv].
     */
    public suspend fun <R> exchange(
        sendOnly: Boolean = false,
        block: suspend (PhantomExchange) -> R,
    ): R {
        val exchange = PhantomExchange(this, connection, sendOnly)
        try {
            return block(exchange).also { exchange.flush() }
        } finally {
            exchange.end()
        }
    }

    // --- streams -----------------------------------------------------------------------------------------------------

    /**
     * Opens a stream, of which the peer hears at once.
     *
     * @param priority the higher, the sooner it is served; equals take turns
     * @param wait for another one to end if too many are open; else [phantom.v1.StreamLimitException]
     */
    public suspend fun openStream(
        priority: UInt = 0u,
        wait: Boolean = true,
        timeout: Duration? = null,
    ): PhantomStream {
        val request = StreamServiceOpenRequest(ref, priority, noWait = !wait, opening = openings.incrementAndGet().toULong())
        return connection.making(client, { it.release() }) {
            val opened =
                try {
                    explaining { connection.clients.stream.open(request, timeout) }
                } catch (late: TimeoutException) {
                    giveUp(request)
                    throw late
                }
            PhantomStream(client, connection, opened.stream.sent("stream"))
        }
    }

    /** Of an Open whose answer did not come: the sidecar closes what it opened, or is about to. */
    private suspend fun giveUp(open: StreamServiceOpenRequest) {
        try {
            connection.clients.stream.release(StreamServiceReleaseRequest(session = ref, opening = open.opening), MARGIN)
        } catch (_: PhantomException) {
            // the session is over, and its streams with it
        }
    }

    /** The next stream that the peer opened. Cancelled or out of time, it loses none. */
    public suspend fun acceptStream(timeout: Duration? = null): PhantomStream {
        val limit = Limit(timeout, "no stream was opened")
        return limit.exclusive(acceptingStream) {
            val request = StreamServiceAcceptRequest(ref, takenStreams)
            val accepted = limit.run { explaining { connection.clients.stream.accept(request) } }.accepted.sent("accepted")
            takenStreams = accepted.seq
            PhantomStream(client, connection, accepted.stream.sent("stream"))
        }
    }

    /** One stream of the peer after the other, to the normal end of the session. */
    public fun streams(): Flow<PhantomStream> = forever().map { orderly { acceptStream() } }.takeWhile { it != null }.filterNotNull()

    // --- the end -----------------------------------------------------------------------------------------------------

    /**
     * Sends what is queued, closes the session with [code] (0 to 65535) and frees it in the sidecar. True if the peer
     * acknowledged everything; false as well if the sidecar is gone, and the session with it. Idempotent.
     *
     * Cancelled, it ends the session at once.
     *
     * @param timeout upper bound of the whole; null: it goes on while the peer acknowledges something
     */
    public suspend fun disconnect(
        code: UInt = 0u,
        timeout: Duration? = null,
    ): Boolean {
        if (code > MAX_CLOSE_CODE) throw failure(ErrorCode.VALIDATION, "a close code is a number from 0 to 65535")
        var begins = false
        val closing =
            synchronized(currentState) {
                ending ?: connection.scope.async { disconnecting(code, timeout) }.also {
                    ending = it
                    begins = true
                    client.ends(it)
                }
            }
        if (!begins && timeout != null) hurry(code, timeout)
        try {
            closing.join()
        } catch (cancelled: CancellationException) {
            hurry(code, Duration.ZERO)
            throw cancelled
        }
        return !closing.isCancelled && closing.await()
    }

    private suspend fun disconnecting(
        code: UInt,
        timeout: Duration?,
    ): Boolean {
        val acknowledged =
            try {
                connection.clients.session.disconnect(DisconnectRequest(ref, code, timeout)).allAcknowledged
            } catch (failed: PhantomException) {
                if (failed !is NetworkException && failed !is SessionNotFoundException) throw failed
                false
            }
        watching.join()
        return acknowledged
    }

    /** Gives a disconnect that is under way less time. */
    private fun hurry(
        code: UInt,
        timeout: Duration,
    ) {
        connection.scope.launch {
            try {
                connection.clients.session.disconnect(DisconnectRequest(ref, code, timeout))
            } catch (_: PhantomException) {
                // it is over
            }
        }
    }

    /** [disconnect] in the background, within 5 s; [Phantom.close] waits for it. */
    override fun close() {
        client.ends(
            connection.scope.launch {
                try {
                    disconnect(timeout = CLOSE_TIMEOUT)
                } catch (_: PhantomException) {
                    // it is over
                }
            },
        )
    }

    override fun toString(): String = "PhantomSession($id, $peerAddress, ${state.value})"

    // --- following the sidecar ---------------------------------------------------------------------------------------

    private fun learn(session: Session) {
        session.negotiated?.let { negotiated = it }
        queued = session.queued
        session.lastError?.let { lastError = exceptionOf(it) }
    }

    /** Follows the session until it is over, or until nobody can say any more. */
    private suspend fun watch() {
        try {
            connection.clients.session.watchEvents(WatchEventsRequest(ref)).collect { answer ->
                val event = answer.event ?: return@collect
                (event.event as? SessionEvent.EventChoice.StateChanged)?.let { enter(it.value.state) }
                happened.emit(event)
            }
        } catch (_: SessionNotFoundException) {
            end(ConnectionState.CLOSED)
        } catch (failed: PhantomException) {
            lastError = connection.lost ?: failed
            end(ConnectionState.DEAD)
        }
    }

    private suspend fun end(state: ConnectionState) {
        if (currentState.value in FINAL) return
        enter(state)
        val reason = lastError?.message ?: "the session is over"
        happened.emit(SessionEvent(SessionEvent.EventChoice.StateChanged(phantom.v1.StateChanged(state, reason))))
    }

    private suspend fun enter(state: ConnectionState) {
        if (state in FINAL && lastError == null) isOver() // the reason is there before the state is
        currentState.value = state
    }

    private suspend fun isOver(): Boolean =
        try {
            val session = connection.clients.session.get(GetRequest(ref), MARGIN).session.sent("session")
            learn(session)
            session.state in FINAL
        } catch (_: PhantomException) {
            true
        }

    /** Runs a call; its failure is told once the state tells it, too. */
    internal suspend fun <T> explaining(block: suspend () -> T): T =
        try {
            block()
        } catch (failed: PhantomException) {
            throw explained(failed)
        }

    private suspend fun explained(failed: PhantomException): PhantomException {
        if (isOver()) withTimeoutOrNull(MARGIN) { watching.join() }
        return when (failed) {
            is SessionNotFoundException ->
                lastError ?: failure(ErrorCode.CONNECTION_CLOSED, "the session is closed: this side closed it", failed)
            else -> failed
        }
    }
}

/** The result of [block], null after the normal end of a session. */
internal suspend fun <T : Any> orderly(block: suspend () -> T): T? =
    try {
        block()
    } catch (closed: ConnectionClosedException) {
        if ((closed.detail?.peerCode ?: 0u) != 0u) throw closed
        null
    }

internal fun exceptionOf(detail: ErrorDetail): PhantomException =
    PhantomException.of(detail.code ?: ErrorCode.INTERNAL, detail.message, detail, null)
