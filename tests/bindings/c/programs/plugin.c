/* A plugin that uses the library; its host does not know the library. */
#include "check.h"

__attribute__((visibility("default"))) int plugin_main(void) {
    pair both = connected();
    send_text(both.client, "from a plugin");
    expect_text(both.server, "from a plugin");
    part(both);
    return 42;
}
