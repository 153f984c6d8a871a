// What the generated Kotlin does against a server in the same process: redaction, equality, errors, flows, cancellation. Toy.

import io.grpc.Metadata
import io.grpc.Status
import io.grpc.StatusException
import io.grpc.inprocess.InProcessChannelBuilder
import io.grpc.inprocess.InProcessServerBuilder
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.count
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOf
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import toy.v1.BoxRef
import toy.v1.Colour
import toy.v1.EchoRequest
import toy.v1.ErrorCode
import toy.v1.Everything
import toy.v1.FillRequest
import toy.v1.GluedException
import toy.v1.InternalException
import toy.v1.PutRequest
import toy.v1.PutResponse
import toy.v1.ShutException
import toy.v1.TakeRequest
import toy.v1.Thing
import toy.v1.TimeoutException
import toy.v1.ToyClients
import toy.v1.ToyException
import toy.v1.TransportException
import toy.v1.WatchRequest
import toy.v1.toFacade
import toy.v1.toWire

private val detailKey = Metadata.Key.of("toy-error-bin", Metadata.BINARY_BYTE_MARSHALLER)

private fun failure(detail: toy.v1.wire.ErrorDetail): StatusException =
    StatusException(Status.FAILED_PRECONDITION, Metadata().apply { put(detailKey, detail.toByteArray()) })

private class Server : toy.v1.wire.BoxServiceGrpcKt.BoxServiceCoroutineImplBase() {
    val taking = CompletableDeferred<Unit>()
    val cancelled = CompletableDeferred<Unit>()

    override suspend fun put(request: toy.v1.wire.PutRequest): toy.v1.wire.PutResponse =
        when (request.label) {
            "glued" ->
                throw failure(
                    toy.v1.wire.ErrorDetail.newBuilder().setCode(toy.v1.wire.ErrorCode.ERROR_CODE_GLUED).setMessage("glued!").build(),
                )
            "newer" -> throw failure(toy.v1.wire.ErrorDetail.newBuilder().setCodeValue(999).setMessage("new").build())
            "bare" -> throw StatusException(Status.DATA_LOSS)
            else -> toy.v1.wire.PutResponse.newBuilder().setRoom(-1).build()
        }

    override suspend fun take(request: toy.v1.wire.TakeRequest): toy.v1.wire.TakeResponse =
        try {
            taking.complete(Unit)
            awaitCancellation()
        } finally {
            cancelled.complete(Unit)
        }

    override fun watch(request: toy.v1.wire.WatchRequest): Flow<toy.v1.wire.WatchResponse> =
        flow {
            emit(toy.v1.wire.WatchResponse.newBuilder().setSeen("one").build())
            emit(toy.v1.wire.WatchResponse.newBuilder().setSeen("two").build())
            if (request.box.handle == 13L) throw StatusException(Status.UNAVAILABLE)
        }

    override fun echo(requests: Flow<toy.v1.wire.EchoRequest>): Flow<toy.v1.wire.EchoResponse> =
        requests.map { toy.v1.wire.EchoResponse.newBuilder().setEverything(it.everything).build() }

    override suspend fun fill(requests: Flow<toy.v1.wire.FillRequest>): toy.v1.wire.FillResponse =
        toy.v1.wire.FillResponse.newBuilder().setThings(requests.count()).build()
}

private suspend inline fun <reified E : ToyException> refused(crossinline call: suspend () -> Unit): E {
    try {
        call()
    } catch (error: ToyException) {
        check(error is E) { "$error" }
        return error
    }
    error("nothing was thrown")
}

private fun values() {
    val everything =
        Everything(
            password = "hunter2",
            choice = Everything.ChoiceChoice.Secret(byteArrayOf(77, 78)),
            byNumber = mapOf(-1 to Everything.Inner(depth = -3)),
            moods = listOf(Everything.Mood.GOOD),
            perhaps = 0u,
            fixed = ULong.MAX_VALUE,
            span = (-2.5).seconds,
        )
    check(everything.toWire().toFacade() == everything) { "round trip" }
    check(everything.toWire().toFacade().hashCode() == everything.hashCode()) { "equal messages have equal hashes" }
    for (shown in listOf("$everything", "${everything.choice}", "${listOf(everything)}")) {
        check("hunter2" !in shown && "77" !in shown && "[redacted]" in shown) { shown }
    }
    check("${Thing(data = byteArrayOf(1, 2), colour = Colour.BLUE)}" == "Thing(seq=0, data=<2 bytes>, colour=BLUE, age=null)")
    check(Thing(data = byteArrayOf(1)) == Thing(data = byteArrayOf(1)) && Thing(data = byteArrayOf(1)) != Thing(data = byteArrayOf(2)))
    check(Thing(colour = Colour.BLUE).toWire().colourValue == 2 && Colour.BLUE.code == 1) { "the wire has the number plus one" }
    val newer = toy.v1.wire.Thing.newBuilder().setColourValue(17).build()
    check(newer.toFacade().colour == Colour.UNRECOGNIZED && Thing().toWire().colourValue == 0) { "enums are open" }
}

public fun main(): Unit =
    runBlocking {
        values()
        val service = Server()
        val server = InProcessServerBuilder.forName("toy").addService(service).build().start()
        val clients = ToyClients(InProcessChannelBuilder.forName("toy").build())
        clients.use {
            withTimeout(30.seconds) {
                val box = it.box
                check(box.put(PutRequest(box = BoxRef(7u))) == PutResponse(room = UInt.MAX_VALUE))
                val glued = refused<GluedException> { box.put(PutRequest(label = "glued")) }
                check(glued.message == "glued!" && glued.code == ErrorCode.GLUED && glued.isFinal && !glued.isRetryable)
                check(glued as Any is ShutException && glued as Any is TransportException) { "special cases are what they are of" }
                check(refused<InternalException> { box.put(PutRequest(label = "newer")) }.detail?.message == "new")
                check(refused<InternalException> { box.put(PutRequest(label = "bare")) }.detail == null)
                refused<TimeoutException> { box.take(TakeRequest(), timeout = 50.milliseconds) }

                check(box.watch(WatchRequest()).map { answer -> answer.seen }.toList() == listOf("one", "two"))
                val seen = mutableListOf<String>()
                refused<ToyException> { box.watch(WatchRequest(BoxRef(13u))).collect { answer -> seen += answer.seen } }
                check(seen == listOf("one", "two")) { "what came before a failure is delivered" }
                val sent = (1u..3u).map { number -> EchoRequest(Everything(which = number)) }
                val echoed = box.echo(flowOf(*sent.toTypedArray())).toList()
                check(echoed.map { answer -> answer.everything } == sent.map { request -> request.everything })
                check(box.fill(flowOf(FillRequest(Thing(seq = 1u)), FillRequest())).things == 2u)
                val own = runCatching { box.fill(flow { throw IllegalStateException("mine") }) }.exceptionOrNull()
                check(own is IllegalStateException && own.message == "mine") { "$own" }
            }
        }
        val slow = Server()
        val second = InProcessServerBuilder.forName("slow").addService(slow).build().start()
        ToyClients(InProcessChannelBuilder.forName("slow").build()).use {
            val job = launch { it.box.take(TakeRequest()) }
            slow.taking.await()
            job.cancelAndJoin()
            withTimeout(30.seconds) { slow.cancelled.await() }
            check(job.isCancelled)
        }
        listOf(server, second).forEach { running -> running.shutdownNow() }
        println("ok")
    }
