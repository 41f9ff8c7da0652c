/* What a process is: its ids, capabilities, limits, terminal, filter, and at last its program. */
#include "executor.h"

long op_set_ids(struct op *op)
{
    i64 uid = num(op), gid = num(op), set_groups = num(op), count = num(op);
    LARGE static u32 groups[65536];
    if (count > 65536) return -EINVAL;
    for (i64 i = 0; i < count; i++) groups[i] = (u32)num(op);
    long r = set_groups ? sys(__NR_setgroups, count, groups) : 0;
    if (r == 0) r = sys(__NR_setresgid, gid, gid, gid);
    if (r == 0) r = sys(__NR_setresuid, uid, uid, uid);
    return r;
}

enum { CAPS_BOUNDING = 1, CAPS_SETS = 2, CAPS_AMBIENT = 4, CAPS_KEEP = 8 };

/* In the order that the kernel needs: the bounding set while CAP_SETPCAP is held, KEEPCAPS before the user changes, the
 * sets after it, the ambient set last (capabilities(7)). */
long op_capabilities(struct op *op)
{
    i64 parts = num(op);
    u64 bounding = (u64)num(op), effective = (u64)num(op), permitted = (u64)num(op), inheritable = (u64)num(op),
        ambient = (u64)num(op);
    long r = 0;
    if (parts & CAPS_KEEP) r = sys(__NR_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (r == 0 && (parts & CAPS_BOUNDING))
        for (int cap = 0; cap < 64 && r == 0; cap++)
            if (!(bounding >> cap & 1) && (r = sys(__NR_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0)) == -EINVAL) {
                r = 0; /* beyond the kernel's last capability */
                break;
            }
    if (r == 0 && (parts & CAPS_SETS)) {
        struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct data[2] = {{(u32)effective, (u32)permitted, (u32)inheritable},
                                                 {(u32)(effective >> 32), (u32)(permitted >> 32), (u32)(inheritable >> 32)}};
        r = sys(__NR_capset, &head, data);
    }
    if (r == 0 && (parts & CAPS_AMBIENT)) {
        r = sys(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        for (int cap = 0; cap < 64 && r == 0; cap++)
            if (ambient >> cap & 1) r = sys(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    }
    return r;
}

long op_rlimit(struct op *op, long pid)
{
    i64 resource = num(op);
    struct rlimit64 {
        u64 soft, hard;
    } limit = {(u64)num(op), (u64)num(op)};
    return sys(__NR_prlimit64, pid, resource, &limit, 0);
}

long op_loopback(void)
{
    struct { /* struct ifreq, netdevice(7); linux/if.h drags a C library's headers in */
        char name[16];
        i16 flags;
        char rest[22];
    } request = {"lo", 1 | 0x40 /* IFF_UP | IFF_RUNNING */, {0}};
    long fd = sys(__NR_socket, 2 /* AF_INET */, 2 | SOCK_CLOEXEC_, 0), r;
    if (fd < 0) return fd;
    r = sys(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
    close_(fd);
    return r;
}

long op_terminal(struct op *op)
{
    long pts = slot(op), master, peer, r;
    i64 target = num(op), rows = num(op), columns = num(op), peer_slot = num(op), control = num(op);
    int locked = 0;
    master = openat_(pts, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
    if (master < 0) return master;
    if ((r = sys(__NR_ioctl, master, TIOCSPTLCK, &locked)) < 0) return r;
    if (rows && columns) {
        struct winsize size = {(u16)rows, (u16)columns, 0, 0};
        sys(__NR_ioctl, master, TIOCSWINSZ, &size);
    }
    /* TIOCGPTPEER opens the other end without a path, so /dev/pts cannot be swapped under it (ioctl_tty(2)). */
    peer = sys(__NR_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (peer < 0) return peer;
    if (control && (r = sys(__NR_ioctl, peer, TIOCSCTTY, 0)) < 0) return r;
    for (int fd = 0; fd < 3; fd++)
        if ((r = sys(__NR_dup3, peer, fd, 0)) < 0) return r;
    sys(__NR_fchown, peer, -1L, -1L);
    if ((r = assign(target, master)) < 0) return r;
    return assign(peer_slot, peer);
}

long op_stdio(struct op *op)
{
    for (int fd = 0; fd < 3; fd++) {
        long from = slot(op), r;
        if (from >= 0 && (r = sys(__NR_dup3, from, fd, 0)) < 0) return r;
    }
    return 0;
}

long op_change_directory(struct op *op)
{
    const char *path = str(op, 0);
    i64 make = num(op), first = num(op);
    LARGE static char where[PATH_SIZE];
    static int entered;
    if (entered) return 0;
    long r = sys(__NR_chdir, path);
    if (r == -ENOENT && make) {
        long root = openat_(AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
        long made = make_path(root, path, 0, 0);
        close_(root);
        close_(made);
        r = made < 0 ? made : sys(__NR_chdir, path);
    }
    if (first && (r == -EACCES || r == -EPERM)) return 0; /* the user may be let in where root is not */
    if (r < 0) return r;
    entered = 1;
    /* A working directory outside the root (reached through a leaked descriptor) reads "(unreachable)...":
     * CVE-2024-21626. */
    r = sys(__NR_getcwd, where, sizeof where);
    if (r > 0 && where[0] == '/') return 0;
    explain("the working directory lies outside the container");
    return -ENOENT;
}

long op_affinity(struct op *op)
{
    word size;
    const char *mask = str(op, &size);
    return sys(__NR_sched_setaffinity, 0, size, mask);
}

long op_memory_policy(struct op *op)
{
    word size;
    i64 mode = num(op);
    const char *nodes = str(op, &size);
    return sys(__NR_set_mempolicy, mode, size ? nodes : 0, size ? size * 8 + 1 : 0);
}

static int is_null(struct statx *st)
{
    return (st->stx_mode & S_IFMT) == S_IFCHR && st->stx_rdev_major == 1 && st->stx_rdev_minor == 3;
}

/* The standard streams become the user's, who could not open /dev/stdout otherwise. The null device is everybody's: the
 * host's is exchanged for the container's. */
long op_own_stdio(struct op *op)
{
    i64 uid = num(op);
    for (int fd = 0; fd < 3; fd++) {
        struct statx st;
        if (sys(__NR_statx, fd, "", AT_EMPTY_PATH_, STATX_BASIC_STATS, &st) < 0) continue;
        if (is_null(&st)) { /* the host's own would be the container's to change, and a checkpoint could not save it */
            long own = openat_(AT_FDCWD, "/dev/null", O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
            struct statx found;
            if (own >= 0 && sys(__NR_statx, own, "", AT_EMPTY_PATH_, STATX_BASIC_STATS, &found) == 0 && is_null(&found))
                sys(__NR_dup3, own, fd, 0);
            close_(own);
            continue;
        }
        if (st.stx_uid == (u32)uid) continue;
        sys(__NR_fchown, fd, uid, -1L); /* refused for a file of another user namespace, or of a read-only mount: left */
    }
    return 0;
}

LARGE static char home[1024]; /* HOME=..., what op_home found */

/* HOME from the container's own /etc/passwd, as login(1) would: by the user's number, "/" where there is no line. */
long op_home(struct op *op)
{
    LARGE static char buffer[65536];
    u64 wanted = (u64)num(op);
    TEXT(found, 1000);
    long fd = openat_(AT_FDCWD, "/etc/passwd", O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0), n = 0;
    struct statx st;
    u64 uid = 0;
    int field = 0, digits = 0;
    if (fd >= 0 && (sys(__NR_statx, fd, "", AT_EMPTY_PATH_, STATX_TYPE, &st) < 0 || (st.stx_mode & S_IFMT) != S_IFREG)) {
        close_(fd);
        fd = -1;
    }
    /* the file is the image's, and may be of any size: no more than 4 MB of it are believed */
    for (long total = 0; fd >= 0 && total < 4 << 20 && (n = sys(__NR_read, fd, buffer, sizeof buffer)) > 0; total += n)
        for (long i = 0; i < n; i++) {
            char c = buffer[i];
            if (c == '\n') {
                if (field >= 5 && digits && uid == wanted && found.used) goto done;
                field = digits = 0;
                uid = 0;
                found.used = 0;
                found_[0] = 0;
            } else if (c == ':') {
                field++;
            } else if (field == 2) {
                if (c < '0' || c > '9' || digits > 9) field = 99;
                else {
                    uid = uid * 10 + (u64)(c - '0');
                    digits++;
                }
            } else if (field == 5 && digits && uid == wanted)
                put(&found, &c, 1);
        }
    if (!(field >= 5 && digits && uid == wanted && found.used)) found.used = 0;
done:
    close_(fd);
    struct text line = {home, 0, sizeof home, 0};
    puts_(&line, "HOME=");
    puts_(&line, found.used && !found.full ? found_ : "/");
    return 0;
}

long op_seccomp(struct op *op)
{
    word size;
    i64 flags = num(op), target = num(op);
    struct sock_fprog program;
    program.filter = (struct sock_filter *)str(op, &size);
    if (size / sizeof(struct sock_filter) > 0xffff) return -E2BIG;
    program.len = (u16)(size / sizeof(struct sock_filter));
    long r = sys(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (target < 0 || r < 0) return r;
    /* No system call from here on: each may be one that waits for the agent. Nothing of the container's runs before the
     * listener is where it belongs: a program could put another file in its place. */
    __atomic_store_n(&lanes.report->listener, (i32)r, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&lanes.report->taken, __ATOMIC_SEQ_CST)) {}
    return 0;
}

/* A thread that moves itself alone needs no lock over all thread groups, which would wait for an RCU grace period; the
 * executor has one thread. The descriptor is the v1 hierarchy's `tasks`, or v2's cgroup.procs. */
long op_enter_cgroup(struct op *op)
{
    long r = sys(__NR_write, slot(op), "0", 1);
    return r < 0 ? r : 0;
}

static const char *program; /* what op_find_program chose */

/* Why a program that exists cannot start: what its first line or its ELF header asks for is not there. */
static void diagnose(const char *path)
{
    LARGE static char head[4096];
    long fd = openat_(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    long n = fd < 0 ? fd : sys(__NR_read, fd, head, sizeof head - 1);
    close_(fd);
    if (n < 4) return;
    head[n] = 0;
    const char *want = 0;
    if (head[0] == '#' && head[1] == '!') {
        word i = 2, end;
        while (head[i] == ' ' || head[i] == '\t') i++;
        for (end = i; head[end] > ' '; end++);
        head[end] = 0;
        want = head + i;
    } else if (head[0] == 0x7f && head[1] == 'E' && n > 64 && head[4] == 2) {
        u64 offset;
        u16 size, count;
        memcpy(&offset, head + 32, 8);
        memcpy(&size, head + 54, 2);
        memcpy(&count, head + 56, 2);
        if (offset > (u64)n) return; /* the numbers are the file's: an end that is computed from them could wrap */
        for (u64 i = 0; i < count; i++) {
            u64 at = offset + i * size, where;
            u32 type;
            if (at + 40 > (u64)n) break;
            memcpy(&type, head + at, 4);
            memcpy(&where, head + at + 8, 8);
            if (type == 3 && where < (u64)n) want = head + where; /* PT_INTERP */
        }
    }
    if (want && sys(__NR_faccessat, AT_FDCWD, want, 1 /* X_OK */, 0) < 0) {
        puts_(&talk.detail, path);
        puts_(&talk.detail, " needs ");
        puts_(&talk.detail, want);
        puts_(&talk.detail, ", which does not exist");
    }
}

long op_find_program(struct op *op)
{
    i64 count = num(op);
    long worst = -ENOENT;
    for (i64 i = 0; i < count; i++) {
        const char *path = str(op, 0);
        struct statx st;
        long r = sys(__NR_statx, AT_FDCWD, path, 0, STATX_TYPE, &st);
        if (r == 0 && (st.stx_mode & S_IFMT) == S_IFDIR) {
            worst = -EISDIR;
            continue;
        }
        if (r == 0) r = sys(__NR_faccessat, AT_FDCWD, path, 1 /* X_OK */, 0);
        if (r == 0) {
            program = path;
            /* Of a container that waits for its start, now: it should be one that can start. Others say it when execve fails. */
            if (plan.head.flags & FLAG_LEAVE) diagnose(path);
            return talk.detail.used ? -ELIBACC : 0;
        }
        if (r != -ENOENT && r != -ENOTDIR) worst = r;
    }
    return worst;
}

long op_execute(struct op *op)
{
    LARGE static const char *pointers[65536];
    i64 argc = num(op), envc = num(op), n = 0;
    if (argc + envc + 3 > 65536) return -E2BIG;
    for (i64 i = 0; i < argc; i++) pointers[n++] = str(op, 0);
    pointers[n++] = 0;
    for (i64 i = 0; i < envc; i++) pointers[n++] = str(op, 0);
    if (home[0]) pointers[n++] = home;
    pointers[n] = 0;
    if (op->broken) return -EINVAL;
    if (!program) program = pointers[0];
    long r = sys(__NR_execve, program, pointers, pointers + argc + 1);
    if (r == -ENOENT) diagnose(program);
    return talk.detail.used ? -ELIBACC : r;
}

void reset_signals(void)
{
    struct sigaction_ plain = {0};
    u64 none = 0;
    for (int n = 1; n <= 64; n++) sys(__NR_rt_sigaction, n, &plain, 0, 8); /* Python ignores SIGPIPE: do not hand it on */
    sys(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

/* PID 1 of its own: adopts and reaps, passes signals on to the one child that it starts (none: it only holds the
 * namespaces open), and ends when that child ends. Returns in the child, which goes on to its program. */
long op_init(struct op *op)
{
    i64 with_child = num(op), child = 0;
    u64 all = ~0UL;
    sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
    if (with_child) {
        child = sys(__NR_clone, SIGCHLD, 0, 0, 0, 0); /* not clone3, which the default filter refuses */
        if (child < 0) return child;
        if (child == 0) {
            i32 group = (i32)sys(__NR_getpid);
            sys(__NR_setpgid, 0, 0);
            sys(__NR_ioctl, 0, TIOCSPGRP, &group); /* the terminal's foreground is the child's, where there is one */
            reset_signals();
            return 0;
        }
    }
    sys(__NR_close_range, 0, ~0U, 0);
    sys(__NR_munmap, lanes.shared, SHARED_PAGES);
    sys(__NR_prctl, PR_SET_NAME, "hutch-init", 0, 0, 0);
    for (;;) {
        struct {
            i32 number, error, code, pad[29];
        } info;
        long signal = sys(__NR_rt_sigtimedwait, &all, &info, 0, 8);
        if (signal == SIGCHLD) {
            int status;
            for (long pid; (pid = sys(__NR_wait4, -1L, &status, WNOHANG, 0)) > 0;)
                if (pid == child) {
                    lanes.ended->status = status;
                    exit_(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
                }
        } else if (signal > 0 && child)
            sys(__NR_kill, child, signal);
    }
}
