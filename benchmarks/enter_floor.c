/* The floor of a command in a running container: enter its namespaces, execute.
 *
 * usage: enter_floor PID PROGRAM [ARG...]     (as root; PID is a process of the container, the exit code is the program's)
 *
 * All namespaces at once through a pidfd, then a child, since a pid namespace is entered by one's children alone. No cgroup,
 * no seccomp filter, no dropped capabilities, no streams: an engine has all of that to add. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

static int fail(const char *what)
{
    perror(what);
    return 125;
}

int main(int argc, char **argv)
{
    int status;

    if (argc < 3) return fprintf(stderr, "usage: enter_floor PID PROGRAM [ARG...]\n"), 125;
    int pidfd = (int)syscall(SYS_pidfd_open, atoi(argv[1]), 0);
    if (pidfd < 0) return fail("pidfd_open");
    if (setns(pidfd, NAMESPACES) < 0) return fail("setns");
    close(pidfd);
    pid_t child = vfork();
    if (child < 0) return fail("vfork");
    if (child == 0) {
        if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || chdir("/") < 0) _exit(125);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    if (waitpid(child, &status, 0) < 0) return fail("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
