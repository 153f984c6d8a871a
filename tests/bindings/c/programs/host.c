/* Loads a plugin, lets it work, unloads it while the library's thread runs, and loads it again: `host PLUGIN`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int round;
    for (round = 0; round < 2; round++) {
        void *plugin = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
        int (*run)(void);
        if (plugin == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        *(void **)&run = dlsym(plugin, "plugin_main");
        if (run == NULL || run() != 42) {
            return 1;
        }
        if (dlclose(plugin) != 0) {
            return 1;
        }
        usleep(50000);
    }
    return 0;
}
