package phantom

import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.withTimeoutOrNull
import phantom.v1.ErrorCode
import phantom.v1.PhantomException
import kotlin.time.Duration
import kotlin.time.TimeMark
import kotlin.time.TimeSource

/** What is left of a limit that several waits share. */
internal class Limit(
    private val timeout: Duration?,
    private val what: String,
) {
    private val end: TimeMark? = timeout?.let { TimeSource.Monotonic.markNow() + it }

    /** What is left; null for no limit. */
    fun left(): Duration? = end?.let { (-it.elapsedNow()).coerceAtLeast(Duration.ZERO) }

    /** Runs [block] for what is left, then throws that [what] did not happen. */
    suspend fun <T> run(block: suspend () -> T): T {
        val left = left() ?: return block()
        // Boxed: null is the answer of a limit that is over, and may be one of the block.
        return (withTimeoutOrNull(left) { listOf(block()) } ?: throw expired()).single()
    }

    /** That it is over. */
    fun expired(): PhantomException = PhantomException.of(ErrorCode.TIMEOUT, "$what within $timeout")

    /** Runs [block], which has its own look at the limit, while nobody else is in [mutex]. */
    suspend fun <T> exclusive(
        mutex: Mutex,
        block: suspend () -> T,
    ): T {
        val owner = Any()
        try {
            run { mutex.lock(owner) }
            return block()
        } finally {
            if (mutex.holdsLock(owner)) mutex.unlock(owner)
        }
    }
}
