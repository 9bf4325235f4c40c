/* Preloaded into a program, has the files below $ODD_FOLDER answer like those of an odd file system, as $ODD says:
   no-locks: flock fails; no-folder-sync: fsync of a folder fails, as on some folders shared by a virtual machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int odd(const char *way, int file) {
    const char *wanted = getenv("ODD"), *folder = getenv("ODD_FOLDER");
    char link[32], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return wanted && folder && !strcmp(wanted, way) && readlink(link, path, sizeof path - 1) > 0 &&
           !strncmp(path, folder, strlen(folder));
}

int flock(int file, int operation) {
    if (odd("no-locks", file)) {
        errno = ENOLCK;
        return -1;
    }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}

int fsync(int file) {
    struct stat about;
    if (odd("no-folder-sync", file) && fstat(file, &about) == 0 && S_ISDIR(about.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}
