/* Loaded before the C library: a disk that takes as long to write as there is a file named "stalled" in the working
   directory of the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static int after_stall(const char *name, int file) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    while (access("stalled", F_OK) == 0)
        usleep(5000);
    return sync(file);
}

int fsync(int file) { return after_stall("fsync", file); }
int fdatasync(int file) { return after_stall("fdatasync", file); }
