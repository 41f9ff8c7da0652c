/* What lies between create and start: the wait, the hooks that run in the container, and a process that takes over. */
#include "executor.h"

static void leave_by_signal(int number) { exit_(128 + number); }

/* Ready, and nobody's child: from here on the container waits for a byte from `start`, which learns from the second pipe
 * whether the program began: its end closes at the execve, and carries a message when there is none. The outer process sees
 * its own pipe close, and goes. */
long op_await_start(struct op *op)
{
    long commands = slot(op), r;
    struct sigaction_ leave = {(void *)leave_by_signal, SA_RESTORER_, (word)leave_by_signal, 0};
    u8 byte;
    lanes.report_fd = slot(op);
    /* the first process of a pid namespace ignores what it has no handler for: it should be killable before it starts, too */
    const int fatal[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM};
    for (word i = 0; i < sizeof fatal / sizeof *fatal; i++) sys(__NR_rt_sigaction, fatal[i], &leave, 0, 8);
    close_(container.exec_pipe[1]);
    container.exec_pipe[1] = -1;
    close_(lanes.event[HOST]);
    close_(lanes.event[CONTAINER]);
    while ((r = sys(__NR_read, commands, &byte, 1)) == -EINTR) {} /* execve resets the handlers */
    return r < 0 ? r : r == 0 ? -EPIPE : 0;
}

/* Go on in a new sibling: a pid namespace begins with a child, and one that belongs to a joined user namespace can be made
 * only from inside that. CLONE_PARENT: the outer process stays the parent. */
long op_respawn(struct op *op)
{
    struct clone_args args = {.flags = (u64)num(op) | CLONE_PARENT | CLONE_FILES};
    long pid = sys(__NR_clone3, &args, sizeof args);
    if (pid < 0) return pid;
    if (pid == 0) { /* no barrier before the outer process can know whose it is */
        while (!__atomic_load_n(&lanes.shared->respawned, __ATOMIC_SEQ_CST)) sys(__NR_sched_yield);
        return 0;
    }
    __atomic_store_n(&lanes.shared->respawned, (i32)pid, __ATOMIC_SEQ_CST);
    exit_(0);
}

long op_clone_inside(void)
{
    container.went_inside = 1;
    close_(lanes.event[HOST]);
    close_(lanes.event[CONTAINER]);
    lanes.event[HOST] = lanes.event[CONTAINER] = -1;
    go_on_alone();
    sys(__NR_madvise, lanes.shared, SHARED_PAGES + (plan.stays ? 0 : 4096), 10 /* MADV_DONTFORK */);
    long pid = sys(__NR_clone, CLONE_PARENT, 0, 0, 0, 0); /* not clone3: a filter may be on already, and most refuse that */
    if (pid == -EPERM || pid == -ENOSYS) explain("its filter forbids clone(2), by which a command enters a pid namespace");
    if (pid <= 0) return pid;
    __atomic_store_n(&lanes.shared->respawned, (i32)pid, __ATOMIC_SEQ_CST);
    exit_(0);
}

static long memory_file(const char *name) { return sys(__NR_memfd_create, name, 1 /* MFD_CLOEXEC */); }

/* A hook's program, as a child: the container's state on its standard input, what it says kept for the error. */
long op_run_hook(struct op *op)
{
    LARGE static const char *pointers[4096];
    const char *path = str(op, 0);
    i64 seconds = num(op), argc = num(op), envc = num(op), n = 0;
    if (argc + envc + 2 > 4096) return -E2BIG;
    for (i64 i = 0; i < argc; i++) pointers[n++] = str(op, 0);
    pointers[n++] = 0;
    for (i64 i = 0; i < envc; i++) pointers[n++] = str(op, 0);
    pointers[n] = 0;
    word head_size, tail_size;
    const char *head = str(op, &head_size), *tail = str(op, &tail_size);
    if (op->broken) return -EINVAL;
    TEXT(pid, 24);
    putn(&pid, sys(__NR_getpid));
    long state = memory_file("state"), said = memory_file("said"), child, r;
    int status = 0;
    if (state < 0 || said < 0) return state < 0 ? state : said;
    write_all(state, head, head_size);
    write_all(state, pid_, pid.used);
    write_all(state, tail, tail_size);
    sys(__NR_lseek, state, 0, 0);
    child = sys(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child < 0) return child;
    if (child == 0) {
        sys(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        sys(__NR_umask, 022);
        sys(__NR_dup3, state, 0, 0);
        sys(__NR_dup3, said, 1, 0);
        sys(__NR_dup3, said, 2, 0);
        sys(__NR_close_range, 3, ~0U, 0);
        r = sys(__NR_execve, path, pointers, pointers + argc + 1);
        exit_(r == -ENOENT ? 127 : 126);
    }
    struct pollfd fd = {(int)sys(__NR_pidfd_open, child, 0), POLLIN, 0};
    struct {
        i64 seconds, nanoseconds;
    } time = {seconds, 0};
    while (fd.fd >= 0 && (r = sys(__NR_ppoll, &fd, 1, seconds > 0 ? (word)&time : 0, 0, 8)) == -EINTR) {}
    if (fd.fd < 0) r = 1; /* a filter that forbids pidfds: then without a time limit */
    if (r == 0) sys(__NR_kill, child, SIGKILL);
    while (sys(__NR_wait4, child, &status, 0, 0) == -EINTR) {}
    close_(fd.fd);
    close_(state);
    if (r == 0) {
        puts_(&talk.detail, "not done after ");
        putn(&talk.detail, seconds);
        puts_(&talk.detail, " s");
        r = -EREMOTEIO;
    } else if (status) {
        char line[300];
        int signal = status & 0x7f;
        if (status == 127 << 8) {
            puts_(&talk.detail, path);
            puts_(&talk.detail, ": no such program, or ");
        }
        puts_(&talk.detail, signal ? "killed by signal " : "exit code ");
        putn(&talk.detail, signal ? signal : status >> 8 & 0xff);
        sys(__NR_lseek, said, 0, 0);
        long got = sys(__NR_read, said, line, sizeof line);
        if (got > 0) {
            puts_(&talk.detail, ": ");
            put(&talk.detail, line, (word)got);
        }
        r = -EREMOTEIO;
    } else
        r = 0;
    close_(said);
    return r;
}
