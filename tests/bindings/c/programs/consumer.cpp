// The header and the library from C++.
#include <phantom.h>

#include <cstring>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

void check(phantom_status status) {
    if (status != PHANTOM_OK) {
        throw std::runtime_error(std::string(phantom_status_name(status)) + ": " + phantom_last_error_message());
    }
}

class Session {
  public:
    explicit Session(phantom_session handle) : handle_(handle) {}
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
    ~Session() { phantom_session_release(handle_); }

    void send(const std::string &text) { check(phantom_session_send(handle_, text.data(), text.size(), 20000)); }

    std::string receive() {
        phantom_buffer message = {};
        check(phantom_session_recv(handle_, 20000, &message));
        std::string text(static_cast<const char *>(message.data), message.len);
        phantom_buffer_free(&message);
        return text;
    }

  private:
    phantom_session handle_;
};

} // namespace

int main() {
    phantom_listener listener = {};
    char url[512];
    check(phantom_listener_bind("127.0.0.1:0", 20000, &listener));
    check(phantom_listener_url(listener, 0, url, sizeof url, nullptr));
    std::thread server([listener] {
        phantom_outcome outcome = {};
        phantom_session handle = {};
        check(phantom_listener_accept(listener, 20000, &outcome));
        check(phantom_outcome_session(outcome, &handle));
        check(phantom_outcome_release(outcome));
        Session session(handle);
        session.send(session.receive() + " from C++");
        try {
            session.receive();
        } catch (const std::runtime_error &error) {
            std::cout << error.what() << "\n";
        }
    });
    {
        phantom_session handle = {};
        check(phantom_connect(url, nullptr, 20000, &handle));
        Session session(handle);
        session.send("hello");
        std::cout << session.receive() << "\n";
        phantom_session_disconnect(handle, 0, 20000, nullptr);
    }
    server.join();
    check(phantom_listener_release(listener));
    return 0;
}
