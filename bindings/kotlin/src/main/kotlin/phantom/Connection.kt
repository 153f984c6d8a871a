package phantom

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.async
import kotlinx.coroutines.cancel
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.isActive
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.consumeAsFlow
import kotlinx.coroutines.launch
import phantom.v1.Contract
import phantom.v1.ErrorCode
import phantom.v1.GetInfoRequest
import phantom.v1.Info
import phantom.v1.KeepLeaseRequest
import phantom.v1.LeasePing
import phantom.v1.LeaseState
import phantom.v1.OpenLeaseRequest
import phantom.v1.PhantomClients
import phantom.v1.PhantomException
import phantom.v1.PhantomLink
import phantom.v1.sent
import phantom.v1.wire.SessionServiceGrpcKt.SessionServiceCoroutineStub

/**
 * An open connection to a sidecar and its lease, kept by a stream in the background. When that stream ends the lease is
 * lost: every call under way ends with NetworkException, and a new connection is needed.
 */
internal class Connection private constructor(
    private val transport: Transport,
    val clients: PhantomClients,
    val address: String,
    val token: String,
    val info: Info,
    leaseId: ULong,
) {
    /** Where work runs that no caller waits for, at the longest until this connection ends. */
    val scope: CoroutineScope = CoroutineScope(SupervisorJob() + Dispatchers.IO)
    val link: PhantomLink = PhantomLink(clients, leaseId)

    /** Exchange as it is on the wire: bulk is not copied into the façade's classes and back. */
    val exchangeStub: SessionServiceCoroutineStub = SessionServiceCoroutineStub(transport.channel).withOnReadyThreshold(MESSAGE_CAP)

    @Volatile
    var lost: PhantomException? = null
        private set

    private val pings = Channel<KeepLeaseRequest>(Channel.UNLIMITED)
    private val asked = ArrayDeque<CompletableDeferred<LeaseState>>()
    private val keeping: Job = scope.launch { keep() }

    private suspend fun keep() {
        val why =
            try {
                clients.sidecar.keepLease(pings.consumeAsFlow()).collect { answer ->
                    synchronized(asked) { asked.removeFirstOrNull() }?.complete(answer.state ?: LeaseState())
                }
                failure(ErrorCode.NETWORK, "the sidecar at $address ended the lease")
            } catch (ended: PhantomException) {
                if (ended.code == ErrorCode.NETWORK) ended else failure(ErrorCode.NETWORK, "the lease ended: ${ended.message}", ended)
            }
        lose(why)
    }

    private fun lose(why: PhantomException) {
        val waiting =
            synchronized(asked) {
                if (lost == null) lost = why
                asked.toList().also { asked.clear() }
            }
        waiting.forEach { it.completeExceptionally(why) }
        transport.close()
    }

    /** Says that this client is there (or, with [release], no more), and hears what its lease holds. */
    suspend fun ping(release: Boolean): LeaseState {
        val answer = CompletableDeferred<LeaseState>()
        synchronized(asked) {
            lost?.let { throw it }
            asked.addLast(answer)
            pings.trySend(KeepLeaseRequest(LeasePing(link.leaseId, release)))
        }
        return answer.await()
    }

    /**
     * Runs a call that makes something in the sidecar. Cancelled, it returns at once; the call goes on, and what it
     * makes after all is given to [discard], since nobody else will ever have its handle.
     */
    suspend fun <T> making(
        client: Phantom,
        discard: suspend (T) -> Unit,
        make: suspend () -> T,
    ): T {
        val work = scope.async { make() }
        try {
            return work.await()
        } catch (cancelled: CancellationException) {
            if (currentCoroutineContext().isActive) throw failure(ErrorCode.NETWORK, "the client was closed", cancelled)
            client.ends(
                scope.launch {
                    try {
                        discard(work.await())
                    } catch (_: PhantomException) {
                        // nothing was made, or it is gone
                    }
                },
            )
            throw cancelled
        }
    }

    /** Ends everything at once; the sidecar learns of it by the end of the connection. */
    fun abandon() {
        lose(failure(ErrorCode.NETWORK, "the client was closed"))
        scope.cancel()
    }

    companion object {
        suspend fun open(place: Place): Connection {
            val token = place.token()
            val transport = Transport(place, token)
            try {
                val clients = PhantomClients(transport.channel)
                val info = clients.sidecar.getInfo(GetInfoRequest(Contract.VERSION)).info.sent("info")
                if (info.contractVersion != Contract.VERSION) {
                    throw failure(
                        ErrorCode.CONTRACT_VERSION,
                        "the sidecar has contract version ${info.contractVersion} and this client ${Contract.VERSION}; " +
                            "install the same version of Phantom on both sides",
                    )
                }
                val lease = clients.sidecar.openLease(OpenLeaseRequest()).lease.sent("lease")
                val made = Connection(transport, clients, place.address, token, info, lease.id)
                try {
                    made.ping(release = false)
                } catch (stopped: Throwable) {
                    made.abandon()
                    throw stopped
                }
                return made
            } catch (stopped: Throwable) {
                transport.close()
                throw stopped
            }
        }
    }
}
