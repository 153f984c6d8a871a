// swift-tools-version:6.0
import PackageDescription

// Phantom needs nothing but the Swift runtime and Foundation. PhantomGRPCCore needs the gRPC C core (libgrpc): where there is none, as on iOS,
// take Phantom alone and give it an RPCTransport of your own (README.md).
let package = Package(
    name: "Phantom",
    // The floors of Swift concurrency.
    platforms: [.macOS(.v10_15), .iOS(.v13), .tvOS(.v13), .watchOS(.v6)],
    products: [
        .library(name: "Phantom", targets: ["Phantom"]),
        .library(name: "PhantomGRPCCore", targets: ["PhantomGRPCCore"]),
    ],
    targets: [
        .target(name: "Phantom"),
        // No `pkgConfig: "grpc"`: it expands to more flags than a linker takes.
        .systemLibrary(name: "CGRPC", providers: [.apt(["libgrpc-dev"]), .brew(["grpc"])]),
        .target(name: "PhantomGRPCCore", dependencies: ["Phantom", "CGRPC"]),
        // Programs of this repository; none is a product.
        .executableTarget(name: "PhantomDemo", dependencies: ["PhantomGRPCCore"], path: "Programs/Demo"),
        .executableTarget(name: "PhantomBenchmark", dependencies: ["PhantomGRPCCore"], path: "Programs/Benchmark"),
        .executableTarget(name: "PhantomFuzz", dependencies: ["Phantom"], path: "Programs/Fuzz"),
        .executableTarget(
            name: "PhantomConformance", dependencies: ["PhantomGRPCCore"], path: "Programs/Conformance"),
        .testTarget(name: "PhantomTests", dependencies: ["Phantom"]),
        .testTarget(name: "LiveTests", dependencies: ["PhantomGRPCCore"]),
    ],
    swiftLanguageModes: [.v6]
)
