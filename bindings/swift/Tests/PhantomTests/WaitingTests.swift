import XCTest
@testable import Phantom
