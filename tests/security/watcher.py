"""A container's debugger: a program that looks into every new process of its pid namespace at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.security import test_oci_tools as tools

SECRET = "a secret of the host's"
NAMESPACES = ("mnt", "user", "uts", "ipc", "net", "cgroup")

tools.SOURCES["watch"] = r"""
#include <stdint.h>
#include <sys/syscall.h>
enum { KINDS = 6, FDS = 24 };
static const char *kinds[KINDS] = {"mnt", "user", "uts", "ipc", "net", "cgroup"};
static char own[KINDS][64], host[KINDS][64], *secret, *word, *host_root;
static unsigned long long bound;
static FILE *out;
static int told;

static void tell(const char *kind, int pid, const char *detail)
{
    static struct { char text[40]; int count; } said[64];
    int i = 0;
    while (i < 63 && said[i].count && strncmp(said[i].text, kind, 39)) i++;
    strncpy(said[i].text, kind, 39);
    told++;
    if (said[i].count++ < 3) fprintf(out, "%s of %d: %s\n", kind, pid, detail);
}

static int secret_below(int dir, const char *start)
{
    char path[900], b[64] = {0};
    snprintf(path, sizeof path, "%s%s", start, secret);
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC), n;
    if (fd < 0) return 0;
    n = read(fd, b, 60), close(fd);
    return n > 0 && strstr(b, word) != 0;
}

static int holds_word(int pid, const char *name)
{
    static char b[65536];
    char path[64];
    snprintf(path, 64, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC), n = fd < 0 ? -1 : read(fd, b, sizeof b);
    close(fd);
    return n > 0 && memmem(b, n, word, strlen(word)) != 0;
}

/* What a descriptor taken from a process is: a directory, the engine's socket, a pidfd to take more by. */
static void taken(int pid, int fd, int number, int depth)
{
    char link[64], path[200] = {0}, what[300];
    struct stat st;
    if (fstat(fd, &st)) return;
    snprintf(link, 64, "/proc/self/fd/%d", fd);
    readlink(link, path, 190);
    snprintf(what, 300, "%d %s", number, path);
    if (S_ISDIR(st.st_mode) && secret_below(fd, "../../../../../../../..")) tell("DIRECTORY", pid, what);
    if (S_ISSOCK(st.st_mode) && number > 2) tell("SOCKET", pid, what);
    if (strstr(path, "[pidfd]") && depth < 1)
        for (int n = 0; n < FDS; n++) {
            int more = syscall(438 /* pidfd_getfd */, fd, n, 0);
            if (more >= 0) taken(pid, more, n + 1000, depth + 1), close(more);
        }
}

static void look(int pid)
{
    char path[900], line[400], what[200];
    struct stat st;
    snprintf(path, 900, "/proc/%d/root", pid);
    if (secret_below(-100, path)) tell("ROOT", pid, "the secret was read");
    if (stat(path, &st) == 0) {
        snprintf(what, 200, "%lx:%lu", (long)st.st_dev, (long)st.st_ino);
        if (!strcmp(what, host_root)) tell("ROOT", pid, "is the host's");
    }
    snprintf(path, 900, "/proc/%d/cwd/../../../../../../../..", pid);
    if (secret_below(-100, path)) tell("CWD", pid, "the secret was read");
    snprintf(path, 900, "/proc/%d/root", pid);
    int open_to_us = readlink(path, line, 9) > 0; /* what can't be touched may have what it likes */
    snprintf(path, 900, "/proc/%d/status", pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, 400, f)) {
        unsigned long long set;
        char name[16];
        if (!strncmp(line, "State:\tZ", 8) || !strncmp(line, "State:\tX", 8)) break;
        int found = open_to_us && sscanf(line, "Cap%3s: %llx", name, &set) == 2;
        if (found && strcmp(name, "Inh") && (set & ~bound)) {
            line[strlen(line) - 1] = 0;
            snprintf(path, 60, "CAPABILITIES %.3s", name), tell(path, pid, line);
        }
    }
    if (f) fclose(f);
    for (int i = 0; i < KINDS; i++) {
        char found[64] = {0};
        snprintf(path, 900, "/proc/%d/ns/%s", pid, kinds[i]);
        if (readlink(path, found, 63) > 0 && !strcmp(found, host[i]) && strcmp(found, own[i]))
            snprintf(path, 60, "NAMESPACE %s", kinds[i]), tell(path, pid, "is the host's");
    }
    for (int n = 0; n < FDS; n++) {
        snprintf(path, 900, "/proc/%d/fd/%d/../../../../../../../../..", pid, n);
        if (secret_below(-100, path)) tell("FD", pid, "the secret was read");
    }
    if (holds_word(pid, "environ")) tell("ENVIRON", pid, "the engine's");
    int process = syscall(SYS_pidfd_open, pid, 0);
    for (int n = 0; n < FDS && process >= 0; n++) {
        int fd = syscall(438, process, n, 0);
        if (fd >= 0) taken(pid, fd, n, 0), close(fd);
    }
    close(process);
}

/* Stop at every system call, up to the program's own, and look, until there is something to tell. */
static void steps(int pid)
{
    int status, i, before = told;
    if (ptrace(PTRACE_SEIZE, pid, 0, 0x10 /* PTRACE_O_TRACEEXEC */)) return;
    ptrace(PTRACE_INTERRUPT, pid, 0, 0);
    for (i = 0; i < 400; i++) {
        if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) return;
        if (status >> 16 == PTRACE_EVENT_EXEC) break;
        look(pid);
        if (told > before) break;
        int signal = WSTOPSIG(status), plain = status >> 16 == 0 && signal != SIGTRAP;
        if (ptrace(PTRACE_SYSCALL, pid, 0, plain ? signal : 0)) return;
    }
    ptrace(PTRACE_DETACH, pid, 0, 0);
}

/* Write a number over all that a process shares with another, once it has come some way. */
static void scribble(int pid, int number)
{
    static int page[4096];
    static int some;
    char path[64], line[600];
    int status, i, wanted = some = (some + 5) % 31;
    for (i = 0; i < 4096; i++) page[i] = number;
    if (ptrace(PTRACE_SEIZE, pid, 0, 0x10)) return;
    ptrace(PTRACE_INTERRUPT, pid, 0, 0);
    for (i = 0; i <= wanted; i++) {
        if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) return;
        if (status >> 16 == PTRACE_EVENT_EXEC) break;
        if (i == wanted) {
            unsigned long from, to;
            snprintf(path, 64, "/proc/%d/maps", pid);
            FILE *maps = fopen(path, "re");
            snprintf(path, 64, "/proc/%d/mem", pid);
            int memory = open(path, O_RDWR | O_CLOEXEC);
            while (maps && fgets(line, 600, maps))
                if (strstr(line, "rw-s") && sscanf(line, "%lx-%lx", &from, &to) == 2)
                    for (; from < to; from += 4096)
                        if (pwrite(memory, page, 4096, from) == 4096) tell("WROTE", pid, "a shared page");
            if (maps) fclose(maps);
            close(memory);
        } else if (ptrace(PTRACE_SYSCALL, pid, 0, 0)) return;
    }
    ptrace(PTRACE_DETACH, pid, 0, 0);
}

/* watch SECRET WORD HOST_ROOT NAMESPACES... [NUMBER] HOST_ROOT NAMESPACES... */
int main(int c, char **v)
{
    char path[64], line[400];
    secret = v[1], word = v[2], host_root = v[3];
    for (int i = 0; i < KINDS; i++) {
        strcpy(host[i], v[4 + i]);
        snprintf(path, 64, "/proc/self/ns/%s", kinds[i]), readlink(path, own[i], 63);
    }
    FILE *f = fopen("/proc/self/status", "re");
    while (fgets(line, 400, f)) sscanf(line, "CapBnd: %llx", &bound);
    fclose(f);
    int stepper = fork() == 0, last = stepper ? getpid() : getpid() + 1;
    out = fopen(stepper ? "/tmp/seen.steps" : "/tmp/seen", "w");
    setvbuf(out, 0, _IOLBF, 0);
    close(creat(stepper ? "/tmp/ready.steps" : "/tmp/ready", 0644));
    while (told < 100) {
        for (int pid = last + 1; pid < last + 6; pid++)
            if (kill(pid, 0) == 0 || errno == EPERM) {
                if (stepper && c > 4 + KINDS) scribble(pid, atoi(v[4 + KINDS]));
                else if (stepper) steps(pid);
                last = pid;
                break;
            }
        if (!stepper && c == 4 + KINDS)
            for (int pid = last; pid > last - 3 && pid > getpid() + 1; pid--)
                if (kill(pid, 0) == 0 || errno == EPERM) look(pid);
    }
    for (;;) pause();
}
"""

tools.SOURCES["hold"] = r"""
#include <sys/syscall.h>
/* Takes the writing ends of every new process's pipes, and never lets them go. */
int main(void)
{
    int last = getpid(), status, held = 0;
    close(creat("/tmp/ready", 0644));
    for (;;)
        for (int pid = last + 1; pid < last + 6; pid++) {
            if (kill(pid, 0) && errno != EPERM) continue;
            last = pid;
            if (ptrace(PTRACE_SEIZE, pid, 0, 0)) break;
            ptrace(PTRACE_INTERRUPT, pid, 0, 0);
            if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) break;
            int process = syscall(SYS_pidfd_open, pid, 0);
            for (int n = 3; n < 64; n++) {
                int fd = syscall(438 /* pidfd_getfd */, process, n, 0);
                struct stat st;
                if (fd < 0) continue;
                if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) held++;
                else close(fd);
            }
            close(process);
            FILE *f = fopen("/tmp/held", "w");
            fprintf(f, "%d", held), fclose(f);
            ptrace(PTRACE_DETACH, pid, 0, 0);
            break;
        }
}
"""


def install(root: Path, name: str = "watch") -> None:
    """Put one of the programs into a root file system."""
    shutil.copy(tools.program(name), root / name)


def command(secret: Path, *number: str) -> list[str]:
    """The program with what it has to know of the host: its secret, its root, its namespaces. With a number
    it writes that over whatever memory a new process shares, and looks no further."""
    root = os.stat("/")
    spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES]
    return ["/watch", str(secret), SECRET, f"{root.st_dev:x}:{root.st_ino}", *spaces, *number]


def seen(read: Callable[[str], str]) -> list[str]:
    """What it has found that is the host's; `read` gives a file of the container's."""
    return [line for name in ("seen", "seen.steps") for line in read(f"/tmp/{name}").splitlines()]
