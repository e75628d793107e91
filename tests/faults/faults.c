/* What may happen to a program at any of its operations on files, made to happen at one of them.

   Loaded before the C library (LD_PRELOAD), this counts the calls that change files beneath a
   folder and at the N-th of them does what it was told to: ends the process as kill -9 does,
   reports a full disk, sends a signal. Each call becomes the system call that the C library would
   have made. For Linux with 64-bit file offsets. What is written by a memory map, or by C's own
   buffered files (fwrite), is not seen: a test compares with what strace sees.

   MODE is one of
     none   count only
     kill   end the process before the operation
     half   write half of the data, or do the operation, and then end the process
     full   report a full disk, there and wherever room is needed from then on
     eio    report an error of the disk, once
     dead   report an error of the disk, there and from then on
     eintr  report an interrupted call, once
     short  write half of the data, and say so
     stop, int, term, hup   send the signal of that name before the operation

   FAULTS_FOLDER, FAULTS_AT, FAULTS_MODE and FAULTS_LOG in the environment set it up as a program
   starts, faults_set in a program that runs. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

static char folder[PATH_MAX]; /* the folder that is watched, an absolute path; "" for none */
static char mode[16] = "none";
static long at = 0; /* the number of the operation, from 1 */
static long count = 0;
static int log_file = -1;

enum kind { OPEN, WRITE, SYNC, NAME, REMOVE }; /* of operations */
enum verdict { GO, FAIL, HALF, SHORT, GO_AND_END };

static int is(const char *name) { return strcmp(mode, name) == 0; }

static void end_process(void) {
    syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

PUBLIC void faults_set(const char *new_folder, long new_at, const char *new_mode, int new_log) {
    snprintf(folder, sizeof folder, "%s", new_folder);
    snprintf(mode, sizeof mode, "%s", new_mode);
    at = new_at;
    count = 0;
    log_file = new_log;
}

PUBLIC long faults_count(void) { return count; }

__attribute__((constructor)) static void begin(void) {
    const char *place = getenv("FAULTS_FOLDER"), *number = getenv("FAULTS_AT");
    const char *what = getenv("FAULTS_MODE"), *log = getenv("FAULTS_LOG");
    int file = -1;
    if (!place)
        return;
    if (log)
        file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    faults_set(place, number ? atol(number) : 0, what ? what : "none", file);
}

/* ---- which operations count ------------------------------------------------------------------ */

static int path_of_file(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

/* The absolute form of `name`, which is relative to the folder that is open as `place`. */
static void absolute(int place, const char *name, char *path) {
    char base[PATH_MAX] = "";
    if (name && name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (place == AT_FDCWD)
        syscall(SYS_getcwd, base, sizeof base);
    else
        path_of_file(place, base);
    if (snprintf(path, PATH_MAX, "%s/%s", base, name ? name : "") >= PATH_MAX)
        path[0] = 0;
}

static int watched(const char *path) {
    size_t length = strlen(folder);
    if (!length || strncmp(path, folder, length) != 0)
        return 0;
    return path[length] == '/' || path[length] == 0;
}

static void note(long number, const char *name, const char *path) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path);
    if (log_file >= 0 && length > 0)
        syscall(SYS_write, log_file, line, (size_t)length);
}

/* ---- what is to happen ----------------------------------------------------------------------- */

static enum verdict fail(int number) {
    errno = number;
    return FAIL;
}

static enum verdict judge(enum kind kind, const char *name, const char *path) {
    int saved = errno;
    if (!watched(path))
        return GO;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    note(number, name, path);
    errno = saved;
    if (at <= 0 || number < at)
        return GO;
    if (is("full") && kind != REMOVE) /* from now on: removing a file needs no room */
        return fail(ENOSPC);
    if (is("dead"))
        return fail(EIO);
    if (number != at)
        return GO;
    if (is("kill"))
        end_process();
    if (is("half"))
        return kind == WRITE ? HALF : GO_AND_END;
    if (is("eio"))
        return fail(EIO);
    if (is("eintr") && (kind == OPEN || kind == WRITE || kind == SYNC))
        return fail(EINTR);
    if (is("short") && kind == WRITE)
        return SHORT;
    if (is("stop"))
        raise(SIGSTOP);
    if (is("int"))
        raise(SIGINT);
    if (is("term"))
        raise(SIGTERM);
    if (is("hup"))
        raise(SIGHUP);
    errno = saved;
    return GO;
}

static enum verdict judge_name(enum kind kind, const char *name, int place, const char *file) {
    char path[PATH_MAX];
    if (!folder[0])
        return GO;
    absolute(place, file, path);
    return judge(kind, name, path);
}

static enum verdict judge_file(enum kind kind, const char *name, int file) {
    char path[PATH_MAX];
    if (!folder[0] || file <= 2 || !path_of_file(file, path))
        return GO;
    return judge(kind, name, path);
}

/* Returns what `call` returns, unless judge's answer forbids it. */
#define CALL(judged, call)                                                                       \
    do {                                                                                         \
        enum verdict found = (judged);                                                           \
        if (found == FAIL)                                                                       \
            return -1;                                                                           \
        long result = (call);                                                                    \
        if (found == GO_AND_END)                                                                 \
            end_process();                                                                       \
        return result;                                                                           \
    } while (0)

/* ---- open ------------------------------------------------------------------------------------ */

static int open_at(const char *name, int place, const char *file, int flags, mode_t rights) {
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) == 0)
        return (int)syscall(SYS_openat, place, file, flags, rights);
    CALL(judge_name(OPEN, name, place, file), syscall(SYS_openat, place, file, flags, rights));
}

#define RIGHTS                                                                                   \
    mode_t rights = 0;                                                                           \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list more;                                                                            \
        va_start(more, flags);                                                                   \
        rights = va_arg(more, mode_t);                                                           \
        va_end(more);                                                                            \
    }

PUBLIC int open(const char *file, int flags, ...) {
    RIGHTS
    return open_at("open", AT_FDCWD, file, flags, rights);
}
PUBLIC int open64(const char *file, int flags, ...) {
    RIGHTS
    return open_at("open", AT_FDCWD, file, flags, rights);
}
PUBLIC int openat(int place, const char *file, int flags, ...) {
    RIGHTS
    return open_at("open", place, file, flags, rights);
}
PUBLIC int openat64(int place, const char *file, int flags, ...) {
    RIGHTS
    return open_at("open", place, file, flags, rights);
}
PUBLIC int creat(const char *file, mode_t rights) {
    return open_at("open", AT_FDCWD, file, O_CREAT | O_WRONLY | O_TRUNC, rights);
}
PUBLIC int creat64(const char *file, mode_t rights) { return creat(file, rights); }

/* ---- write ----------------------------------------------------------------------------------- */

/* Writes all of the data, or half of it; an offset below 0 is where the file is. */
static ssize_t write_some(enum verdict found, int file, const void *data, size_t size,
                          off_t offset) {
    size_t some = found == GO ? size : (size + 1) / 2;
    ssize_t done = offset < 0 ? syscall(SYS_write, file, data, some)
                              : syscall(SYS_pwrite64, file, data, some, offset);
    if (found == HALF)
        end_process();
    return done;
}

PUBLIC ssize_t write(int file, const void *data, size_t size) {
    enum verdict found = judge_file(WRITE, "write", file);
    return found == FAIL ? -1 : write_some(found, file, data, size, -1);
}
PUBLIC ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) {
    enum verdict found = judge_file(WRITE, "write", file);
    return found == FAIL ? -1 : write_some(found, file, data, size, offset);
}
PUBLIC ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return pwrite64(file, data, size, offset);
}
PUBLIC ssize_t writev(int file, const struct iovec *parts, int number) {
    enum verdict found = judge_file(WRITE, "write", file);
    if (found == FAIL)
        return -1;
    if (found == GO || number < 1)
        return syscall(SYS_writev, file, parts, number);
    return write_some(found, file, parts[0].iov_base, parts[0].iov_len, -1);
}
PUBLIC int ftruncate64(int file, off_t length) {
    CALL(judge_file(SYNC, "truncate", file), syscall(SYS_ftruncate, file, length));
}
PUBLIC int ftruncate(int file, off_t length) { return ftruncate64(file, length); }
PUBLIC int truncate64(const char *file, off_t length) {
    CALL(judge_name(SYNC, "truncate", AT_FDCWD, file), syscall(SYS_truncate, file, length));
}
PUBLIC int truncate(const char *file, off_t length) { return truncate64(file, length); }
PUBLIC ssize_t sendfile64(int out, int in, off_t *offset, size_t size) {
    CALL(judge_file(SYNC, "sendfile", out), syscall(SYS_sendfile, out, in, offset, size));
}
PUBLIC ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    return sendfile64(out, in, offset, size);
}
PUBLIC ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size,
                               unsigned flags) {
    CALL(judge_file(SYNC, "copy", out),
         syscall(SYS_copy_file_range, in, from, out, to, size, flags));
}

/* ---- sync ------------------------------------------------------------------------------------ */

PUBLIC int fsync(int file) { CALL(judge_file(SYNC, "fsync", file), syscall(SYS_fsync, file)); }
PUBLIC int fdatasync(int file) {
    CALL(judge_file(SYNC, "fsync", file), syscall(SYS_fdatasync, file));
}

/* ---- names ----------------------------------------------------------------------------------- */

static int rename_at(int from_place, const char *from, int to_place, const char *to,
                     unsigned flags) {
    CALL(judge_name(NAME, "rename", to_place, to),
         syscall(SYS_renameat2, from_place, from, to_place, to, flags));
}
PUBLIC int rename(const char *from, const char *to) {
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}
PUBLIC int renameat(int from_place, const char *from, int to_place, const char *to) {
    return rename_at(from_place, from, to_place, to, 0);
}
PUBLIC int renameat2(int from_place, const char *from, int to_place, const char *to,
                     unsigned flags) {
    return rename_at(from_place, from, to_place, to, flags);
}

static int unlink_at(const char *name, int place, const char *file, int flags) {
    CALL(judge_name(REMOVE, name, place, file), syscall(SYS_unlinkat, place, file, flags));
}
PUBLIC int unlinkat(int place, const char *file, int flags) {
    return unlink_at(flags & AT_REMOVEDIR ? "rmdir" : "unlink", place, file, flags);
}
PUBLIC int unlink(const char *file) { return unlink_at("unlink", AT_FDCWD, file, 0); }
PUBLIC int rmdir(const char *file) { return unlink_at("rmdir", AT_FDCWD, file, AT_REMOVEDIR); }

PUBLIC int mkdirat(int place, const char *file, mode_t rights) {
    CALL(judge_name(NAME, "mkdir", place, file), syscall(SYS_mkdirat, place, file, rights));
}
PUBLIC int mkdir(const char *file, mode_t rights) { return mkdirat(AT_FDCWD, file, rights); }
PUBLIC int linkat(int from_place, const char *from, int place, const char *file, int flags) {
    CALL(judge_name(NAME, "link", place, file),
         syscall(SYS_linkat, from_place, from, place, file, flags));
}
PUBLIC int link(const char *from, const char *file) {
    return linkat(AT_FDCWD, from, AT_FDCWD, file, 0);
}
PUBLIC int symlinkat(const char *from, int place, const char *file) {
    CALL(judge_name(NAME, "symlink", place, file), syscall(SYS_symlinkat, from, place, file));
}
PUBLIC int symlink(const char *from, const char *file) {
    return symlinkat(from, AT_FDCWD, file);
}
