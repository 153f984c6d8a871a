/* Calls that break inside the library: `broken WAY...` calls phantom_self_test(WAY) and says status and text. */
#include <phantom.h>
#include <stdio.h>

int main(int argc, char **argv) {
    int at;
    for (at = 1; at < argc; at++) {
        phantom_status status = phantom_self_test(argv[at]);
        printf("%d %s\n", (int)status, phantom_last_error_message());
    }
    return 0;
}
