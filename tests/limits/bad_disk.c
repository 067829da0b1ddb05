/* Loaded before the C library: a disk that takes as long to write as there is a file named "stalled" in the working
   directory of the process, and that refuses every write by the error whose number a file named "failing" holds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int refuses(void) {
    char number[8] = {0};
    int file = open("failing", O_RDONLY);
    if (file < 0)
        return 0;
    if (read(file, number, sizeof number - 1) < 0)
        number[0] = 0;
    close(file);
    errno = atoi(number);
    return errno != 0;
}

static ssize_t written(int file, const void *bytes, size_t count, off64_t at) {
    ssize_t (*write_at)(int, const void *, size_t, off64_t) =
        (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return refuses() ? -1 : write_at(file, bytes, count, at);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    return written(file, bytes, count, at);
}
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    return written(file, bytes, count, at);
}

static int after_stall(const char *name, int file) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    while (access("stalled", F_OK) == 0)
        usleep(5000);
    return refuses() ? -1 : sync(file);
}

int fsync(int file) { return after_stall("fsync", file); }
int fdatasync(int file) { return after_stall("fdatasync", file); }
