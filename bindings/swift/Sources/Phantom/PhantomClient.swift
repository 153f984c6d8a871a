/// A connection to a sidecar, and a lease: all that it opens is closed when it goes.
///
/// Open one over the gRPC C core with `PhantomClient.open` of the module PhantomGRPCCore, or over a transport of your
/// own with ``open(over:timeout:)``; close it with ``close()``. Any number of tasks may use it.
///
/// Every call throws ``PhantomError``: the errors of the sidecar as they are; `network` if it cannot be reached or is
/// gone. A task that is cancelled while it waits gets one whose ``PhantomError/isCancelled`` is true, and nothing is
/// lost by that. A `timeout` of nil is no limit, and one that is over is the error `timeout`.
///
/// When the sidecar is lost, every call that waits and every later one fails with `network`. Open another client then:
/// sessions do not outlive the sidecar that holds them.
public final class PhantomClient: Sendable {
    /// What the sidecar is.
    public let info: V1.Info
    /// The lease.
    public let leaseID: UInt64
    /// Every call of the interface definition. Calls that take a lease take ``leaseID``.
    public let calls: V1.Clients

    let transport: LeasedTransport
    private let lease: Lease
    private let whenClosed: @Sendable () async -> Void

    private init(
        info: V1.Info, lease: Lease, transport: LeasedTransport, whenClosed: @escaping @Sendable () async -> Void
    ) {
        self.info = info
        self.lease = lease
        self.leaseID = lease.id
        self.transport = transport
        self.calls = V1.Clients(transport: transport)
        self.whenClosed = whenClosed
    }

    deinit { lease.drop() }

    /// Compares the contract version with the sidecar's, and opens a lease. The transport brings address and token.
    ///
    /// `network` if no sidecar is there, `accessDenied` if it refuses the token, `contractVersion` if it speaks
    /// another version of the interface.
    /// - Parameter whenClosed: Runs after ``close()`` has ended the lease.
    public static func open(
        over transport: any RPCTransport, timeout: WireDuration? = .seconds(10),
        whenClosed: @escaping @Sendable () async -> Void = {}
    ) async throws(PhantomError) -> PhantomClient {
        let deadline = Deadline(timeout)
        let sidecar = V1.SidecarServiceClient(transport: transport)
        let request = V1.GetInfoRequest(contractVersion: V1.contractVersion)
        guard let info = try await sidecar.getInfo(request, options: deadline.options).info else {
            throw PhantomError(.internal, "the sidecar does not say what it is")
        }
        guard info.contractVersion == V1.contractVersion else {
            throw PhantomError(
                .contractVersion,
                "the sidecar has contract version \(info.contractVersion) and this client \(V1.contractVersion);"
                    + " install the same version of Phantom on both sides")
        }
        guard let id = try await sidecar.openLease(V1.OpenLeaseRequest(), options: deadline.options).lease?.id else {
            throw PhantomError(.internal, "the sidecar gives no lease")
        }
        let lease = Lease(id: id, keeping: try await sidecar.keepLease())
        do { try await lease.ping(deadline: deadline) } catch {
            lease.drop()
            throw error
        }
        let leased = LeasedTransport(inner: transport, lease: lease)
        return PhantomClient(info: info, lease: lease, transport: leased, whenClosed: whenClosed)
    }

    /// Ends the lease, which closes everything that this client opened. Idempotent.
    public func close() async {
        guard lease.beginClosing() else { return }
        // What the task has become does not matter: the lease is to be ended.
        await Task { [lease] in
            // It may be gone, and the lease with it.
            _ = try? await lease.ping(release: true, deadline: Deadline(.seconds(10)))
            lease.drop()
        }.value
        await whenClosed()
    }

    /// Whether calls can be made: until ``close()``, or until the sidecar is lost.
    public var isOpen: Bool { lease.failure == nil }

    /// What the lease holds now.
    public func held(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) -> V1.LeaseState {
        try await lease.ping(deadline: Deadline(timeout))
    }

    // MARK: The sidecar

    /// Whether the sidecar is up and can serve, and what it misses.
    public func health(timeout: WireDuration? = .seconds(5)) async throws(PhantomError) -> V1.HealthStatus {
        try await calls.sidecar.health(V1.HealthRequest(), options: RPCOptions(timeout: timeout)).status
            ?? V1.HealthStatus()
    }

    /// Returns when the sidecar can serve. `timeout`, which says what is missing, if that is not so in time.
    public func waitReady(timeout: WireDuration) async throws(PhantomError) {
        let deadline = Deadline(timeout)
        while true {
            let status = try await health(timeout: deadline.left)
            if status.ready { return }
            guard !deadline.isPast else {
                throw PhantomError(.timeout, "the sidecar is not ready: \(status.missing.joined(separator: ", "))")
            }
            do { try await Task.sleep(nanoseconds: 50_000_000) } catch { throw .cancelled }
        }
    }

    /// Tests the cryptography of the sidecar anew; `selfTestFailure` if something is wrong.
    public func runSelfTests(
        provider: String = "", timeout: WireDuration? = .seconds(60)
    ) async throws(PhantomError) -> V1.SelfTestReport {
        let request = V1.RunSelfTestsRequest(provider: provider)
        return try await calls.sidecar.runSelfTests(request, options: RPCOptions(timeout: timeout)).report
            ?? V1.SelfTestReport()
    }

    // MARK: Sessions

    /// Connects to a server, and returns when it proved to hold one of the pinned keys; a wrong one is
    /// `serverIdentityMismatch`.
    ///
    /// - Parameters:
    ///   - target: `phantom://PIN@HOST:PORT`, or `HOST:PORT` or `LEG://HOST:PORT` with `pins`.
    ///   - pins: What the server must prove to hold one of.
    ///   - identity: Proves to the server who this client is.
    ///   - config: The configuration.
    ///   - timeout: The whole connect, handshake included; nil for 20 s.
    public func connect(
        to target: String, pins: [PhantomPin] = [], identity: SigningKey? = nil, config: V1.PhantomConfig? = nil,
        timeout: WireDuration? = nil
    ) async throws(PhantomError) -> PhantomSession {
        let limit = timeout ?? .seconds(20)
        let request = V1.ConnectRequest(
            leaseId: leaseID, target: target, pins: pins.map { V1.Pin(pin: $0) }, identity: identity?.ref,
            config: config, timeout: limit)
        // The sidecar keeps the limit itself, and gets a moment to say how it ended.
        let margin = RPCOptions(timeout: WireDuration(seconds: limit.seconds + 2, nanoseconds: limit.nanoseconds))
        return try await make { [self] () async throws(PhantomError) in
            try session(try await calls.session.connect(request, options: margin).session, config)
        } undo: { session in
            _ = try? await session.disconnect(timeout: WireDuration())
        }
    }

    /// The same as ``connect(to:pins:identity:config:timeout:)`` to `LEG://HOST:PORT`.
    public func connectPinned(
        host: String, port: Int, pins: [PhantomPin], leg: String = "tcp", identity: SigningKey? = nil,
        config: V1.PhantomConfig? = nil, timeout: WireDuration? = nil
    ) async throws(PhantomError) -> PhantomSession {
        let named = host.contains(":") && !host.hasPrefix("[") ? "[\(host)]" : host
        return try await connect(
            to: "\(leg)://\(named):\(port)", pins: pins, identity: identity, config: config, timeout: timeout)
    }

    /// Connects, runs the block with the session and disconnects it, whatever becomes of the block.
    ///
    /// If the block succeeded and the peer did not acknowledge everything, that is the error `connectionClosed`.
    public func withSession<Output: Sendable>(
        to target: String, pins: [PhantomPin] = [], identity: SigningKey? = nil, config: V1.PhantomConfig? = nil,
        timeout: WireDuration? = nil, isolation: isolated (any Actor)? = #isolation,
        _ body: (PhantomSession) async throws -> Output
    ) async throws -> Output {
        let session = try await connect(to: target, pins: pins, identity: identity, config: config, timeout: timeout)
        return try await session.use(body)
    }

    func session(_ session: V1.Session?, _ config: V1.PhantomConfig?) throws(PhantomError) -> PhantomSession {
        guard let session, let ref = session.ref else { throw PhantomError(.internal, "the sidecar gives no session") }
        return PhantomSession(SessionCore(transport: transport, ref: ref, session: session, config: config))
    }

    // MARK: Listeners

    /// Binds addresses under one identity.
    ///
    /// - Parameters:
    ///   - addresses: `HOST:PORT` or `LEG://HOST:PORT`; port 0 for any free one.
    ///   - key: The identity; nil for a fresh one that lives as long as the listener.
    ///   - clients: Which clients it takes; nil for all, and none is asked who it is.
    ///   - reusePort: Share the port with other processes that ask for the same.
    ///   - config: The configuration.
    public func listen(
        on addresses: [String], key: SigningKey? = nil, clients: V1.ClientPolicy? = nil, reusePort: Bool = false,
        config: V1.PhantomConfig? = nil, timeout: WireDuration? = .seconds(20)
    ) async throws(PhantomError) -> PhantomListener {
        let request = V1.BindRequest(
            leaseId: leaseID, addresses: addresses, key: key?.ref, config: config, clients: clients,
            reusePort: reusePort)
        return try await make { [self] () async throws(PhantomError) in
            let reply = try await calls.listener.bind(request, options: RPCOptions(timeout: timeout))
            guard let listener = reply.listener, let ref = listener.ref else {
                throw PhantomError(.internal, "the sidecar gives no listener")
            }
            return PhantomListener(client: self, listener: listener, ref: ref, config: config)
        } undo: { listener in
            try? await listener.shutdown()
        }
    }

    // MARK: Keys

    /// A new signing key, which stays inside the sidecar.
    public func generateSigningKey(timeout: WireDuration? = .seconds(10)) async throws(PhantomError) -> SigningKey {
        let request = V1.GenerateSigningKeyRequest(leaseId: leaseID)
        return try await make { [self] () async throws(PhantomError) in
            let reply = try await calls.identity.generateSigningKey(request, options: RPCOptions(timeout: timeout))
            return try SigningKey(reply.key, reply.verifyingKey)
        } undo: { [self] key in
            try? await drop(key)
        }
    }

    /// Takes a signing key in.
    public func importSigningKey(
        from source: V1.SigningKeySource.SourceChoice, timeout: WireDuration? = .seconds(10)
    ) async throws(PhantomError) -> SigningKey {
        let request = V1.ImportSigningKeyRequest(leaseId: leaseID, source: V1.SigningKeySource(source: source))
        return try await make { [self] () async throws(PhantomError) in
            let reply = try await calls.identity.importSigningKey(request, options: RPCOptions(timeout: timeout))
            return try SigningKey(reply.key, reply.verifyingKey)
        } undo: { [self] key in
            try? await drop(key)
        }
    }

    /// Wipes a signing key. Listeners that were bound with it keep working.
    public func drop(_ key: SigningKey, timeout: WireDuration? = .seconds(10)) async throws(PhantomError) {
        _ = try await calls.identity.dropSigningKey(
            V1.DropSigningKeyRequest(key: key.ref), options: RPCOptions(timeout: timeout))
    }
}

/// What a server must prove to hold: `.fingerprint("phantom1:…")` or `.key(bytes)`.
public typealias PhantomPin = V1.Pin.PinChoice

/// A signing key that the sidecar keeps: this program has its handle and its public half.
public struct SigningKey: Sendable, Hashable {
    /// The handle.
    public let ref: V1.SigningKeyRef
    /// The public half, which peers pin.
    public let verifyingKey: V1.VerifyingKey

    init(_ ref: V1.SigningKeyRef?, _ verifyingKey: V1.VerifyingKey?) throws(PhantomError) {
        guard let ref, let verifyingKey else { throw PhantomError(.internal, "the sidecar gives no key") }
        self.ref = ref
        self.verifyingKey = verifyingKey
    }
}

/// The stream that keeps a lease. A lease that ends by itself means that the sidecar is lost.
final class Lease: Sendable {
    private struct State {
        var answer: V1.LeaseState?
        var failure: PhantomError?
        var isClosing = false
    }

    let id: UInt64
    private let keeping: RPCExchange<V1.KeepLeaseRequest, V1.KeepLeaseResponse>
    private let state: Monitor<State>
    private let turn = Turn()
    private let reading: Task<Void, Never>

    init(id: UInt64, keeping: RPCExchange<V1.KeepLeaseRequest, V1.KeepLeaseResponse>) {
        self.id = id
        self.keeping = keeping
        let state = Monitor(State())
        self.state = state
        reading = Task {
            var failure = PhantomError(.network, "the sidecar ended the lease; open a new client")
            do throws(PhantomError) {
                while let response = try await keeping.responses.receive() {
                    state.change { $0.answer = response.state ?? V1.LeaseState() }
                }
            } catch { failure = error.isCancelled ? failure : error }
            state.change { $0.failure = $0.failure ?? ($0.isClosing ? Self.closed : failure) }
        }
    }

    private static let closed = PhantomError(.runtimeInit, "the client is closed; open a new one")

    /// Why no call can be made any more.
    var failure: PhantomError? { state.change { $0.failure } }

    /// True once: who gets it ends the lease.
    func beginClosing() -> Bool {
        state.change { state in
            if state.isClosing { return false }
            state.isClosing = true
            return true
        }
    }

    @discardableResult
    func ping(release: Bool = false, deadline: Deadline) async throws(PhantomError) -> V1.LeaseState {
        try await turn.take(deadline)
        defer { turn.give() }
        if let failure { throw failure }
        state.change { $0.answer = nil }
        // In a task of its own: who is cancelled while it sends must not take the lease along.
        let request = V1.KeepLeaseRequest(ping: V1.LeasePing(leaseId: id, release: release))
        Task { [keeping] in try? await keeping.send(request) }
        return try await state.wait(deadline, "the sidecar did not answer") { state -> Result<V1.LeaseState, PhantomError>? in
            if let answer = state.answer { return .success(answer) }
            return state.failure.map { .failure($0) }
        }.get()
    }

    /// Lets go of the stream; the lease ends after its grace unless it was released.
    func drop() {
        state.change { $0.failure = $0.failure ?? Self.closed }
        reading.cancel()
        keeping.cancel()
    }
}

/// The transport of a client: none of its calls outlives the lease.
struct LeasedTransport: RPCTransport {
    let inner: any RPCTransport
    let lease: Lease

    func unary(_ method: RPCMethod, _ request: [UInt8], options: RPCOptions) async throws(RPCStatus) -> [UInt8] {
        if let failure = lease.failure { throw failure.asStatus }
        return try await inner.unary(method, request, options: options)
    }

    func stream(_ method: RPCMethod, options: RPCOptions) async throws(RPCStatus) -> any RPCStream {
        if let failure = lease.failure { throw failure.asStatus }
        return try await inner.stream(method, options: options)
    }
}
