/* The executor: it carries a plan out and does nothing else. It has no options and parses no text; it is started from a
 * sealed memfd with the plan on descriptor 3 and its owner's socket on descriptor 4.
 *
 * The outer process is the host lane. It clones the container lane, which becomes the container's process by execve(2).
 * Afterwards the outer process waits: for the container's end, for its owner's word, or for its owner's death, and then
 * undoes, in reverse order, what the host lane did. Detached, it is the container's monitor: it outlives its owner,
 * keeps the log and the exit status. */
#include "executor.h"

static void container_lane(void);

/* Whoever makes a user namespace owns it, and all that is counted for a user (inotify instances, namespaces, pending signals) is
 * counted for its owner, too (user_namespaces(7), /proc/sys/user). A container of root's gets an owner whom no process belongs to, or
 * it could use up what the host's root has. Without SECBIT_NO_SETUID_FIXUP the capabilities would go with the id. */
static void own_user_namespace(i64 uid)
{
    if (uid && sys(__NR_prctl, PR_SET_SECUREBITS, 4 /* SECBIT_NO_SETUID_FIXUP */, 0, 0, 0) < 0) return;
    sys(__NR_setresuid, -1L, uid, -1L);
    if (!uid) sys(__NR_prctl, PR_SET_SECUREBITS, 0, 0, 0, 0);
}

static long op_clone(struct op *op)
{
    struct clone_args args = {.exit_signal = SIGCHLD};
    i32 pidfd = -1;
    args.flags = (u64)num(op) | CLONE_PIDFD | CLONE_FILES;
    i64 cgroup = num(op), target = num(op), owner = num(op);
    args.pidfd = (u64)(word)&pidfd;
    if (cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (u64)slot_at(cgroup);
    }
    if (owner >= 0) own_user_namespace(owner + outer.pid);
    long pid = sys(__NR_clone3, &args, sizeof args);
    if (pid == 0) container_lane();
    if (owner >= 0) own_user_namespace(0);
    if (pid < 0) return pid;
    container.pid = pid;
    container.pidfd = pidfd;
    container.pidfd_slot = target;
    return assign(target, pidfd);
}

static long op_call_owner(u32 index)
{
    i32 error = 0;
    i64 values[4] = {container.pid, outer.pid, 0, 0};
    tell(CALL, HOST, (i32)index, 0, values, 1);
    for (;;) {
        struct pollfd fds[2] = {{CONTROL_FD, POLLIN, 0}, {(int)outer.owner_pidfd, POLLIN, 0}};
        sys(__NR_ppoll, fds, 2, 0, 0, 8);
        if (fds[1].revents) outer.owner_gone = 1;
        if (hear(&error) == ANSWER) return -error;
        if (outer.owner_gone || outer.killed) return -ECANCELED;
    }
}

/* Once both lanes' tables are apart, what the container alone should hold is closed here, so that its pipes end when it
 * ends. */
static void release_descriptors(void)
{
    if (container.exec_pipe[1] >= 0) {
        close_(container.exec_pipe[1]);
        container.exec_pipe[1] = -1;
    }
    long null = openat_(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    for (int fd = 0; fd < 3; fd++)
        if (null < 0) close_(fd);
        else sys(__NR_dup3, null, fd, 0);
    close_(null);
    /* Detached mounts are taken apart when their last descriptor closes: now, beside the program, and not after its end. */
    for (u32 i = 0; i < plan.head.slots && !(plan.head.flags & FLAG_DETACH); i++)
        if (!lanes.kept[i] && lanes.slots[i] >= 0 && lanes.slots[i] != container.pidfd)
            close_(lanes.slots[i]);
}

static long common_op(struct op *op)
{
    i64 a, b;
    switch (op->code) {
    case OPEN_TREE: return op_open_tree(op);
    case OPEN: return op_open(op);
    case JOIN: return op_join(op);
    case PIPE: return op_pipe(op);
    case MAKE_FILESYSTEM: return op_make_filesystem(op);
    case MAKE_DIRECTORY: return op_make_directory(op);
    case MAKE_SYMLINK: return op_make_symlink(op);
    case MAKE_FILE: return op_make_file(op);
    case MAKE_NODE: return op_make_node(op);
    case SET_XATTR: return op_set_xattr(op);
    case OPEN_AT: return op_open_at(op);
    case AFFINITY: return op_affinity(op);
    case INHERIT:
        a = num(op);
        b = num(op);
        return sys(__NR_fcntl, b, F_SETFD, FD_CLOEXEC) < 0 ? -EBADF : assign(a, b);
    case SOCKET_PAIR: return op_socket_pair(op);
    case LISTEN: return op_listen(op);
    case PROTECT: return sys(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    default: return -EOPNOTSUPP;
    }
}

static long host_op(struct op *op)
{
    i64 a, b;
    switch (op->code) {
    case WAIT:
        a = num(op);
        b = num(op);
        if ((a = wait_host((u32)a)) == 0 && b) {
            go_on_alone(); /* before anything of the container's can run beside the other lane */
            release_descriptors();
        }
        return a;
    case TAKE_OVER: return host_take_over();
    case CHECK_ROOM: return host_check_room(op);
    case SIGNAL:
        signal_barrier(HOST, (u32)num(op));
        return 0;
    case RLIMIT: return op_rlimit(op, container.pid);
    case HOST_DIRECTORY: return host_directory(op, 0);
    case HOST_WRITE: return host_write(op);
    case HOST_RECORD: return host_record(op);
    case RESERVE: return host_reserve(op, 0);
    case CLONE: return op_clone(op);
    case PROC_WRITE: return host_proc_write(op);
    case MAP_HELPER: return host_map_helper(op);
    case OPEN_NAMESPACE: {
        const char *name = str(op, 0);
        return assign(num(op), proc_open(name, O_RDONLY));
    }
    case DEVICE_PROGRAM: return host_device_program(op);
    case HOLD_LAYER: return host_hold_layer(op, 0);
    case HOLD_SHARED: return host_hold_shared(op, 0);
    case PUBLISH: return host_publish(op);
    case ENTER_USER_NETWORK: return host_enter_user_network(op);
    case RETURN_DEVICE: return host_return_device(op, 0);
    case WATCH:
        outer.watched_pidfd = slot(op);
        /* nothing is going to be executed: it runs already */
        close_(container.exec_pipe[1]);
        container.exec_pipe[1] = -1;
        return outer.watched_pidfd < 0 ? -EBADF : 0;
    case READ_AT_EXIT: case KILL_AT_EXIT: return 0;
    case WRITE_PID: return host_write_pid(op);
    case CALL_OWNER: return op_call_owner(op->index);
    case EXPORT:
        if (outer.exported_count == 16) return -E2BIG;
        outer.exported[outer.exported_count++] = a = num(op); /* the slot: its value may come later */
        keep(a);
        return 0;
    case LOG: {
        const char *path = str(op, 0);
        logged.limit = num(op);
        for (logged.count = 0; logged.count < 3; logged.count++) {
            logged.from[logged.count] = slot(op);
            if (logged.from[logged.count] >= 0) sys(__NR_fcntl, logged.from[logged.count], F_SETFL, O_NONBLOCK);
        }
        logged.fd = openat_(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        return logged.fd < 0 ? logged.fd : 0;
    }
    case EXIT_FILE:
        outer.exit_file = str(op, 0);
        return 0;
    case TAKE_DESCRIPTOR: return host_take_descriptor(op);
    case MAKE_USER_NAMESPACE: return host_make_user_namespace(op);
    case HOST_WRITE_PID: {
        TEXT(pid, 24);
        putn(&pid, container.pid);
        long fd = openat_(AT_FDCWD, str(op, 0), O_WRONLY | O_CLOEXEC, 0);
        a = fd < 0 ? fd : write_all(fd, pid_, pid.used);
        close_(fd);
        return a;
    }
    default: return common_op(op);
    }
}

static long beside_end = -1; /* of a program beside the container's process: what its start is waited for by */

/* Closed now, not at execve: a program or directory named /proc/self/fd/N would be looked up before (CVE-2024-21626).
 * What stays is what the plan names: descriptors for the container, moved to 3 and on, and the two that a container waits
 * for its start with; and ours, the pipes that tell of an execve and the barriers' eventfds. */
static long op_close_descriptors(struct op *op)
{
    long keep[8] = {lanes.event[HOST], lanes.event[CONTAINER], container.exec_pipe[1], beside_end}, r, kept_count = 4;
    i64 preserved = num(op);
    u32 from = 3;
    /* the table is the container's own from here on */
    if ((r = sys(__NR_close_range, 3, ~0U, CLOSE_RANGE_UNSHARE_ | CLOSE_RANGE_CLOEXEC_)) < 0) return r;
    for (i64 i = 0; i < preserved; i++, from++)
        if ((r = slot(op)) < 0 || (r = r == (long)from ? sys(__NR_fcntl, r, F_SETFD, 0) : sys(__NR_dup3, r, from, 0)) < 0) return r;
    for (i64 i = num(op); i > 0; i--) {
        if (kept_count == 8) return -E2BIG;
        keep[kept_count++] = slot(op);
    }
    for (int round = 0; round <= kept_count; round++) {
        u32 next = ~0U;
        for (int i = 0; i < kept_count; i++)
            if (keep[i] >= (long)from && keep[i] < (long)next) next = (u32)keep[i];
        if (next > from || next == ~0U) sys(__NR_close_range, from, next == ~0U ? ~0U : next - 1, 0);
        if (next == ~0U) break;
        from = next + 1;
    }
    return 0;
}

/* A child carries out the operations that follow, to a program's execve, and this lane goes on behind them once it runs.
 * Returns 0 in the child, the number of its operations in the parent. */
static long op_beside(struct op *op)
{
    i64 count = num(op);
    i32 pair[2];
    u8 byte;
    long r = sys(__NR_pipe2, pair, O_CLOEXEC), pid;
    if (r < 0) return r;
    pid = fork_(0);
    if (pid == 0) {
        close_(pair[0]);
        beside_end = pair[1];
        return 0;
    }
    close_(pair[1]);
    if (pid > 0) /* the end comes with the execve, or with the child's own; a failure is in the shared page by then */
        while (sys(__NR_read, pair[0], &byte, 1) == -EINTR) {}
    close_(pair[0]);
    return pid < 0 ? pid : count;
}

static long container_op(struct op *op)
{
    switch (op->code) {
    case WAIT: return wait_container((u32)num(op));
    case SIGNAL:
        signal_barrier(CONTAINER, (u32)num(op));
        return 0;
    case RLIMIT: return op_rlimit(op, 0);
    case SET_IDS: return op_set_ids(op);
    case PROPAGATION: return op_propagation(op);
    case ATTACH: return op_attach(op);
    case SET_ATTRIBUTES: return op_set_attributes(op);
    case PIVOT: return op_pivot(op);
    case MASK: return op_mask(op);
    case READ_ONLY: return op_read_only(op);
    case HOSTNAME: case DOMAINNAME: {
        word size;
        const char *name = str(op, &size);
        return sys(op->code == HOSTNAME ? __NR_sethostname : __NR_setdomainname, name, size);
    }
    case WRITE_AT: return op_write_at(op);
    case LOOPBACK: return op_loopback();
    case UNSHARE: return sys(__NR_unshare, num(op));
    case ENTER_CGROUP: return op_enter_cgroup(op);
    case KEYRING: {
        long r = sys(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING_, 0, 0, 0, 0);
        return r == -ENOSYS || r == -EPERM ? 0 : r; /* no keys here, or a filter around us forbids them */
    }
    case NEW_SESSION: return sys(__NR_setsid);
    case TERMINAL: return op_terminal(op);
    case STDIO: return op_stdio(op);
    case CLOSE_DESCRIPTORS: return op_close_descriptors(op);
    case CAPABILITIES: return op_capabilities(op);
    case NO_NEW_PRIVILEGES: return sys(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    case SECCOMP: return op_seccomp(op);
    case UMASK:
        sys(__NR_umask, num(op));
        container.umask_set = 1;
        return 0;
    case CHANGE_DIRECTORY: return op_change_directory(op);
    case PERSONALITY: return sys(__NR_personality, num(op));
    case SCHEDULER: return sys(__NR_sched_setattr, 0, str(op, 0), 0);
    case IO_PRIORITY: return sys(__NR_ioprio_set, 1, 0, num(op));
    case FIND_PROGRAM: return op_find_program(op);
    case EXECUTE: case INIT:
        if (!container.umask_set) sys(__NR_umask, 022); /* not the caller's: a container is the same wherever it is started */
        return op->code == INIT ? op_init(op) : op_execute(op);
    case PARENT_DEATH: {
        i64 signal = num(op);
        container.unarmed = !signal;
        return sys(__NR_prctl, PR_SET_PDEATHSIG, signal, 0, 0, 0);
    }
    case AWAIT_START: return op_await_start(op);
    case RUN_HOOK: return op_run_hook(op);
    case RESPAWN: return op_respawn(op);
    case CLONE_INSIDE: return op_clone_inside();
    case CONTROLLING_TERMINAL: return sys(__NR_ioctl, 0, TIOCSCTTY, 0);
    case HOME: return op_home(op);
    case OWN_STDIO: return op_own_stdio(op);
    case CHANGE_ROOT: return op_change_root(op);
    case MEMORY_POLICY: return op_memory_policy(op);
    case NETLINK: return assign(num(op), sys(__NR_socket, 16 /* AF_NETLINK */, 3 /* SOCK_RAW */ | SOCK_CLOEXEC_, 0 /* NETLINK_ROUTE */));
    case COPY_UP: return op_copy_up(op);
    case MEMORY: return op_memory(op);
    case TAP: return op_tap(op);
    case DETACH: return sys(__NR_umount2, str(op, 0), MNT_DETACH_);
    case MACHINE: return op_machine(op);
    case REMOTE: return op_remote(op);
    default: return common_op(op);
    }
}

/* Die with the outer process, whatever ends it. A change of ids or capabilities clears this (prctl(2)), so it is set
 * again after each; an end in between is seen by the outer process's pidfd. */
static void arm(void)
{
    struct pollfd fd = {(int)outer.pidfd, POLLIN, 0};
    struct {
        i64 seconds, nanoseconds;
    } now = {0, 0};
    if (container.unarmed) return;
    sys(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (outer.pidfd >= 0 && sys(__NR_ppoll, &fd, 1, &now, 0, 8) > 0) exit_(126);
    /* its descriptor is closed: from another pid namespace a parent is 0, and whoever adopts an orphan is not */
    long parent = container.went_inside ? sys(__NR_getppid) : 0;
    if (parent != 0 && parent != outer.pid) exit_(126);
}

_Noreturn static void container_lane(void)
{
    const u8 *at = plan.lane[CONTAINER];
    struct op op;
    arm();
    reset_signals();
    for (u32 i = 0; i < plan.head.count[CONTAINER] && next_op(&at, &op, i); i++) {
        lanes.report->position = i;
        long r = op.code == BESIDE ? op_beside(&op) : container_op(&op);
        if (op.code == CLOSE_DESCRIPTORS) outer.pidfd = -1;
        if (op.code == SET_IDS || op.code == CAPABILITIES || op.code == JOIN || op.code == RESPAWN || op.code == CLONE_INSIDE) arm();
        stamp(CONTAINER, i);
        if (op.code == BESIDE && r > 0 && lanes.report->failed) exit_(126);
        /* these are the child's */
        for (; op.code == BESIDE && r > 0; r--) {
            next_op(&at, &op, ++i);
            op.code = BESIDE;
        }
        if (r >= 0 && op.broken) r = -EBADMSG;
        if (r < 0) {
            lanes.report->error = (i32)-r;
            memcpy(lanes.report->detail, talk.buffer, DETAIL);
            if (lanes.report_fd >= 0) {
                struct message m = {.type = FAILED, .lane = CONTAINER, .index = (i32)i, .error = (i32)-r};
                memcpy(m.detail, talk.buffer, DETAIL);
                write_all(lanes.report_fd, &m, sizeof m);
            }
            __atomic_store_n(&lanes.report->failed, 1, __ATOMIC_SEQ_CST);
            exit_(126);
        }
    }
    exit_(0);
}

static long start(void)
{
    struct statx st;
    memset(&st, 0, sizeof st);
    if (sys(__NR_statx, PLAN_FD, "", AT_EMPTY_PATH_, STATX_SIZE, &st) < 0) return -EBADF;
    long r = sys(__NR_mmap, 0, st.stx_size, 3 /* read, write */, 2 /* MAP_PRIVATE */, PLAN_FD, 0);
    if (r < 0 || st.stx_size < sizeof plan.head) return -EBADMSG;
    plan.start = (const u8 *)r;
    plan.end = plan.start + st.stx_size;
    memcpy(&plan.head, plan.start, sizeof plan.head);
    if (plan.head.magic != PLAN_MAGIC || plan.head.version != PLAN_VERSION || plan.head.slots > MAX_SLOTS) return -EBADMSG;
    plan.lane[HOST] = plan.start + sizeof plan.head;
    const u8 *at = plan.lane[HOST];
    struct op op;
    for (u32 i = 0; i < plan.head.count[HOST]; i++)
        if (!next_op(&at, &op, i)) return -EBADMSG;
    plan.lane[CONTAINER] = at;
    for (u32 i = 0; i < plan.head.count[CONTAINER]; i++) {
        if (!next_op(&at, &op, i)) return -EBADMSG;
        if (op.code == RESPAWN || op.code == CLONE_INSIDE) plan.respawns = 1;
        if (op.code == CLONE_INSIDE) plan.goes_inside = 1;
        if (op.code == MACHINE || op.code == REMOTE) plan.inside = 1;
        if (op.code == MACHINE || op.code == REMOTE || op.code == INIT) plan.stays = 1;
    }
    close_(PLAN_FD);
    r = sys(__NR_mmap, 0, SHARED_PAGES + 4096 + 4096, 3, 1 | 32 /* MAP_SHARED | MAP_ANONYMOUS */, -1L, 0);
    if (r < 0) return r;
    lanes.shared = (void *)r;
    lanes.ended = (void *)(r + SHARED_PAGES);
    lanes.report = (void *)(r + SHARED_PAGES + 4096);
    for (u32 i = 0; i < plan.head.slots; i++) lanes.shared->slot[i] = -1;
    lanes.slots = lanes.shared->slot;
    lanes.report->listener = -1;
    r = sys(__NR_mmap, 0, ((word)plan.head.count[HOST] + 1) * sizeof *lanes.begun, 3, 2 | 32 /* MAP_PRIVATE | MAP_ANONYMOUS */, -1L, 0);
    if (r < 0) return r;
    lanes.begun = (void *)r;
    lanes.ended->status = -1;
    sys(__NR_fcntl, CONTROL_FD, F_SETFD, FD_CLOEXEC);
    outer.pid = sys(__NR_getpid);
    if (plan.head.owner) {
        outer.owner_pidfd = sys(__NR_pidfd_open, plan.head.owner, 0);
        if (sys(__NR_getppid) != (long)plan.head.owner) return -ECANCELED;
    }
    if (plan.head.flags & FLAG_DETACH) {
        r = fork_(0);
        if (r != 0) exit_(r < 0 ? 1 : 0);
        sys(__NR_setsid);
        outer.pid = sys(__NR_getpid);
    }
    if (plan.head.trace) {
        word size = 8 * (1 + (word)plan.head.count[HOST] + plan.head.count[CONTAINER]);
        r = sys(__NR_mmap, 0, size, 3, 1 /* MAP_SHARED */, (long)plan.head.trace, 0);
        if (r < 0) return r;
        lanes.trace = (u64 *)r;
        lanes.trace[0] = clock();
        close_((long)plan.head.trace);
    }
    outer.pidfd = sys(__NR_pidfd_open, outer.pid, 0);
    lanes.event[HOST] = sys(__NR_eventfd2, 0, EFD_CLOEXEC);
    lanes.event[CONTAINER] = sys(__NR_eventfd2, 0, EFD_CLOEXEC);
    i32 pair[2];
    r = sys(__NR_pipe2, pair, O_CLOEXEC);
    if (r < 0 || lanes.event[HOST] < 0 || lanes.event[CONTAINER] < 0) return -EMFILE;
    container.exec_pipe[0] = pair[0];
    container.exec_pipe[1] = pair[1];
    return 0;
}

__attribute__((used)) int main(void) /* by _start alone */
{
    struct sigaction_ ignore = {(void *)1, 0, 0, 0};
    const int passed_over[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
    struct sigaction_ plain = {0};
    for (word i = 0; i < sizeof passed_over / sizeof *passed_over; i++) sys(__NR_rt_sigaction, passed_over[i], &ignore, 0, 8);
    sys(__NR_rt_sigaction, SIGCHLD, &plain, 0, 8); /* an owner that ignores SIGCHLD would have the kernel reap for us */
    sys(__NR_prctl, PR_SET_NAME, "hutch-executor", 0, 0, 0); /* or it would be called by its memfd's number */
    sys(__NR_umask, 0);
    /* no plan, as the first process of a kernel: they come through a machine's control channel */
    if (sys(__NR_getpid) == 1 && sys(__NR_fcntl, PLAN_FD, 1 /* F_GETFD */) == -EBADF && in_ramdisk()) guest();
    long r = start();
    if (r < 0) exit_(100);
    const u8 *at = plan.lane[HOST];
    struct op op;
    for (u32 i = 0; i < plan.head.count[HOST]; i++) {
        lanes.begun[i].at = at;
        if (!next_op(&at, &op, i)) break;
        outer.done = i + 1;
        talk.detail.used = 0;
        if (container.pid <= 0 && !outer.owner_gone) {
            if (outer.owner_pidfd >= 0) {
                struct pollfd fd = {(int)outer.owner_pidfd, POLLIN, 0};
                struct {
                    i64 seconds, nanoseconds;
                } now = {0, 0};
                if (sys(__NR_ppoll, &fd, 1, &now, 0, 8) > 0) outer.owner_gone = 1;
            }
        }
        r = outer.owner_gone ? -ECANCELED : host_op(&op);
        stamp(HOST, i);
        if (r >= 0 && op.broken) r = -EBADMSG;
        if (r == -ECANCELED && lanes.report->failed) failed(CONTAINER, lanes.report->position, lanes.report->error);
        if (r == -ECHILD && (op.code == WAIT || op.code == TAKE_OVER)) failed(CONTAINER, lanes.report->position, 0);
        if (r < 0) {
            outer.done = i; /* what failed made nothing: a directory that was there before is somebody else's */
            failed(HOST, i, -r);
        }
    }
    supervise();
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp,%ebp\n and $-16,%rsp\n call main\n mov %eax,%edi\n mov $231,%eax\n syscall\n");
#else
__asm__(".globl _start\n_start: mov x29,#0\n mov x30,#0\n bl main\n mov x8,#94\n svc 0\n");
#endif
