extension PhantomError {
    /// The code that the peer gave when it closed the connection (``ErrorCode/connectionClosed``); nil if it gave none.
    public var peerCode: UInt32? { detail?.peerCode }

    /// Bytes of this side that the peer had not acknowledged when the connection ended.
    public var unacknowledged: UInt64 { detail?.unacknowledged ?? 0 }

    /// The code with which the peer reset its half of a stream, or asked to stop this side's
    /// (``ErrorCode/streamReset``).
    public var resetCode: UInt32? { detail?.resetCode }

    /// The same call may succeed later.
    public var isRetryable: Bool { code.isRetryable }

    /// An error of the sidecar's, told in the course of a call that goes on.
    init(_ detail: V1.ErrorDetail) {
        self.init(detail.code.code ?? .internal, detail.message, detail: detail)
    }

    /// The peer or this side ended the session, and nothing went wrong.
    var isOrderlyEnd: Bool { code == .connectionClosed && (peerCode ?? 0) == 0 }

    /// As a transport would say it.
    var asStatus: RPCStatus {
        RPCStatus(
            status ?? .failedPrecondition, message,
            detail: (detail ?? V1.ErrorDetail(code: V1.ErrorNumber(rawValue: Int32(code.rawValue)), message: message))
                .serialized())
    }
}

extension ErrorCode {
    /// Whether it is `code` or a special case of it.
    public func isKind(of code: ErrorCode) -> Bool { self == code || base?.isKind(of: code) ?? false }
}
