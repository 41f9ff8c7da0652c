/* Host operations: those that change the host have an inverse, which runs in reverse order when the container ends, when
 * an operation fails, and when the owner dies. An inverse succeeds when its work is already done. */
#include "executor.h"

enum { UNDO_NOTHING = 0, UNDO_REMOVE_DIRECTORY = 1, UNDO_REMOVE_TREE = 2, UNDO_IF_FAILED = 3 };

void pause_(i64 nanoseconds)
{
    struct {
        i64 seconds, nanoseconds;
    } time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    sys(__NR_clock_nanosleep, 1, 0, &time, 0);
}

enum { MEMBERS = 256 };

/* The first pids of a cgroup; how many, or an error. */
static long members(long dir, const char *path, i32 *pids)
{
    LARGE static char text[4096];
    long fd = openat_(dir, path, O_RDONLY | O_CLOEXEC, 0), count = 0, pid = 0, n;
    if (fd < 0) return fd;
    while (count < MEMBERS && (n = sys(__NR_read, fd, text, sizeof text)) > 0)
        for (long i = 0; i < n && count < MEMBERS; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                pid = pid * 10 + (text[i] - '0');
                continue;
            }
            if (pid > 1 && pid != outer.pid) pids[count++] = (i32)pid;
            pid = 0;
        }
    close_(fd);
    return count;
}

/* SIGKILL for the processes of a cgroup, by pidfd: a number may be somebody else's by now. It is not if it is still listed
 * after it was opened. Returns how many there were. */
static long kill_members(long dir, const char *path)
{
    LARGE static i32 pids[MEMBERS], fds[MEMBERS], still[MEMBERS];
    long count = members(dir, path, pids), listed;
    for (long i = 0; i < count; i++) fds[i] = (i32)sys(__NR_pidfd_open, pids[i], 0);
    listed = members(dir, path, still);
    for (long i = 0; i < count; i++) {
        for (long k = 0; k < listed; k++)
            if (still[k] == pids[i]) sys(__NR_pidfd_send_signal, fds[i], SIGKILL, 0, 0);
        close_(fds[i]);
    }
    return count;
}

/* Remove the cgroups below one, the deepest first, with what still lives in them. */
static void remove_children(const char *path)
{
    LARGE static char buffer[4096] __attribute__((aligned(8)));
    LARGE static char names[64][256]; /* of the way down: nothing nests cgroups deeper here */
    long fd = openat_(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0), depth = 0;
    for (int steps = 0; fd >= 0 && steps < 100000; steps++) {
        long child = -1, n;
        sys(__NR_lseek, fd, 0, 0);
        while (child < 0 && (n = sys(__NR_getdents64, fd, buffer, sizeof buffer)) > 0)
            for (struct entry *e = (void *)buffer; child < 0 && (char *)e < buffer + n; e = (void *)((char *)e + e->size)) {
                if (e->type != 4 /* DT_DIR */ || dots(e->name) || depth == 64) continue;
                child = openat_(fd, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
                if (child >= 0) memcpy(names[depth], e->name, length(e->name) + 1);
            }
        if (child >= 0) {
            kill_members(child, "cgroup.procs");
            depth++;
        } else if (depth) {
            child = openat_(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
            depth--;
            long r = -EBUSY;
            for (int tries = 0; child >= 0 && r == -EBUSY && tries < 200; tries++) { /* until its last task is gone */
                r = sys(__NR_unlinkat, child, names[depth], AT_REMOVEDIR);
                if (r == -EBUSY) pause_(1000000);
            }
            if (r < 0) steps = 100000; /* it stays, and so does what it lies in */
        }
        close_(fd);
        fd = child;
    }
    close_(fd);
}

/* Rootless: what belongs to subordinate ids can be removed by the container's root alone. */
static long remove_tree_as(const char *path, i64 userns)
{
    long r = remove_tree(path);
    if (r < 0 && userns >= 0 && sys(__NR_setns, slot_at(userns), CLONE_NEWUSER) == 0) r = remove_tree(path);
    return r;
}

long host_directory(struct op *op, int undo)
{
    const char *path = str(op, 0);
    i64 mode = num(op), uid = num(op), gid = num(op), inverse = num(op), exist_ok = num(op), userns = num(op);
    long r;
    if (!undo) {
        keep(userns);
        r = sys(__NR_mkdirat, AT_FDCWD, path, mode);
        if (r == -EEXIST && exist_ok) {
            lanes.begun[op->index].was_there = 1;
            return 0;
        }
        return r < 0 ? r : owned(AT_FDCWD, path, uid, gid);
    }
    if (lanes.begun[op->index].was_there) return 0; /* somebody else's */
    if (inverse == UNDO_REMOVE_TREE || (inverse == UNDO_IF_FAILED && outer.never_started)) return remove_tree_as(path, userns);
    if (inverse != UNDO_REMOVE_DIRECTORY) return 0;
    for (int tries = 0; tries < 500; tries++) { /* a cgroup is busy until its last task is gone */
        r = sys(__NR_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
        if (r != -EBUSY) return r;
        if (tries == 20) remove_children(path);
        pause_(tries < 20 ? 100000 : 2000000);
    }
    return r;
}

long host_write(struct op *op)
{
    word size;
    const char *path = str(op, 0), *data = str(op, &size);
    i64 flags = num(op), tolerated = num(op);
    long fd = openat_(AT_FDCWD, path, flags | O_WRONLY | O_CLOEXEC, 0600), r;
    r = fd < 0 ? fd : sys(__NR_write, fd, data, size);
    close_(fd);
    return r == -tolerated ? 0 : r < 0 ? r : 0;
}

/* A lock on a whole file that belongs to the open file, and goes with its last descriptor: others can ask whether it is held without
 * taking it (fcntl(2), "Open file description locks"). SHARED_LOCK waits, the others do not. */
enum { SHARED_LOCK = 0 /* F_RDLCK */, EXCLUSIVE_LOCK = 1 /* F_WRLCK */, NO_LOCK = 2 /* F_UNLCK */ };

static long lock_file(long fd, i16 type)
{
    struct {
        i16 type, whence;
        i64 start, size;
        i32 pid;
    } lock = {type, 0, 0, 0, 0};
    long r;
    while ((r = sys(__NR_fcntl, fd, type == SHARED_LOCK ? 38 /* F_OFD_SETLKW */ : 37 /* F_OFD_SETLK */, &lock)) == -EINTR) {}
    return r;
}

/* The container's record: locked for as long as this process lives, so that the living are told from the dead. */
long host_record(struct op *op)
{
    word size;
    const char *path = str(op, 0), *data = str(op, &size);
    i64 target = num(op);
    keep(target); /* its lock is the sign of life */
    long fd = openat_(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), r;
    if (fd < 0) return fd;
    r = lock_file(fd, EXCLUSIVE_LOCK);
    if (r == 0) r = write_all(fd, data, size);
    return r < 0 ? r : assign(target, fd);
}

/* The container's name is its record by another name: whoever links first has it. */
long host_reserve(struct op *op, int undo)
{
    const char *record = str(op, 0), *name = str(op, 0);
    i64 stays = num(op);
    struct statx own, found;
    if (!undo) {
        long r = sys(__NR_linkat, AT_FDCWD, record, AT_FDCWD, name, 0);
        if (r == -EEXIST) explain("another container has it");
        return r;
    }
    if (stays && !outer.never_started) return 0;
    if (sys(__NR_statx, AT_FDCWD, record, AT_SYMLINK_NOFOLLOW, STATX_INO, &own) < 0) return 0;
    if (sys(__NR_statx, AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, STATX_INO, &found) < 0) return 0;
    if (own.stx_ino != found.stx_ino || own.stx_dev_minor != found.stx_dev_minor || own.stx_dev_major != found.stx_dev_major) return 0;
    return sys(__NR_unlinkat, AT_FDCWD, name, 0);
}

static i64 number_in(const char *path)
{
    char text[32];
    long fd = openat_(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0), n = fd < 0 ? fd : sys(__NR_read, fd, text, sizeof text);
    i64 value = -1; /* "max", or no such file */
    close_(fd);
    for (long i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++) value = (value < 0 ? 0 : value * 10) + (text[i] - '0');
    return value;
}

/* Who moves into a cgroup of v1's is not held by its limit: who forks there is (pids.rst). So a full one is not entered. */
long host_check_room(struct op *op)
{
    const char *current = str(op, 0);
    i64 most = number_in(str(op, 0));
    return most >= 0 && number_in(current) >= most ? -EAGAIN : 0;
}

long proc_open(const char *name, word flags)
{
    TEXT(path, 64);
    puts_(&path, "/proc/");
    putn(&path, container.pid);
    puts_(&path, "/");
    puts_(&path, name);
    return openat_(AT_FDCWD, path_, (long)(flags | O_CLOEXEC), 0);
}

long host_proc_write(struct op *op)
{
    word size;
    const char *name = str(op, 0), *data = str(op, &size);
    long fd = proc_open(name, O_WRONLY), r = fd < 0 ? fd : sys(__NR_write, fd, data, size);
    close_(fd);
    return r < 0 ? r : 0;
}

/* When the container's process began, in clock ticks since boot: with the pid it names a process for ever (proc_pid_stat(5)). */
static i64 start_time(void)
{
    char text[512];
    long fd = proc_open("stat", O_RDONLY), n = fd < 0 ? fd : sys(__NR_read, fd, text, sizeof text - 1), at, field = 2;
    i64 value = 0;
    close_(fd);
    if (n < 0) return 0;
    for (at = n; at > 0 && text[at - 1] != ')'; at--) {}
    for (; at < n && field < 22; at++)
        if (text[at] == ' ' && ++field == 22) break;
    for (at++; at < n && text[at] >= '0' && text[at] <= '9'; at++) value = value * 10 + (text[at] - '0');
    return value;
}

long host_write_pid(struct op *op)
{
    TEXT(line, 96);
    puts_(&line, "{\"pid\":");
    putn(&line, container.pid);
    puts_(&line, ",\"executor\":");
    putn(&line, outer.pid);
    puts_(&line, ",\"started\":");
    putn(&line, start_time());
    puts_(&line, "}\n");
    return write_all(slot(op), line_, line.used);
}

/* newuidmap(1) and newgidmap(1): the only other program that a plan may run on the host. */
long host_map_helper(struct op *op)
{
    LARGE static const char *argv[1024];
    static const char *environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", 0};
    TEXT(pid, 24);
    i64 count = num(op), n = 0;
    int status = 0;
    if (count > 1000) return -E2BIG;
    argv[n++] = str(op, 0);
    putn(&pid, container.pid);
    argv[n++] = pid_;
    for (i64 i = 1; i < count; i++) argv[n++] = str(op, 0);
    argv[n] = 0;
    long helper = fork_(0), r;
    if (helper < 0) return helper;
    if (helper == 0) {
        sys(__NR_execve, argv[0], argv, environment);
        exit_(127);
    }
    while ((r = sys(__NR_wait4, helper, &status, 0, 0)) == -EINTR) {}
    if (r < 0) return r;
    if (status) explain(status == 127 << 8 ? "the helper could not be run" : "the helper refused the mapping");
    return status ? -EPERM : 0;
}

long host_device_program(struct op *op)
{
    word size;
    long cgroup = slot(op), fd;
    const char *code = str(op, &size);
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (u64)(word)code;
    attr.insn_cnt = (u32)(size / sizeof(struct bpf_insn));
    attr.license = (u64)(word) "GPL";
    fd = sys(__NR_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
    if (fd < 0) return fd;
    memset(&attr, 0, sizeof attr);
    attr.target_fd = (u32)cgroup;
    attr.attach_bpf_fd = (u32)fd;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    long r = sys(__NR_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
    close_(fd);
    return r;
}

/* Kill what lives in a cgroup: by cgroup.kill where there is one (5.14, v2), else pid by pid until none is left. A
 * container with a pid namespace of its own is dead already; one that shares the host's is not. */
long undo_kill(const char *path, const char *kill_file)
{
    if (*kill_file) {
        long fd = openat_(AT_FDCWD, kill_file, O_WRONLY | O_CLOEXEC, 0);
        long r = fd < 0 ? fd : sys(__NR_write, fd, "1", 1);
        close_(fd);
        if (r >= 0 || r == -ENOENT) return 0;
    }
    for (int round = 0; round < 200; round++) {
        long found = kill_members(AT_FDCWD, path);
        if (found <= 0) return 0;
        while (sys(__NR_wait4, -1L, 0, WNOHANG, 0) > 0) {}
        pause_(1000000);
    }
    return -EBUSY;
}

/* The container lane's descriptor table is its own by now, and what it says may be forbidden to it by the very filter whose
 * listener this is: so the number is looked for in the shared page, and the descriptor taken by pidfd_getfd(2). */
long host_take_descriptor(struct op *op)
{
    i64 target = num(op);
    for (;;) {
        if (lanes.report->failed) return -ECANCELED;
        i32 number = __atomic_load_n(&lanes.report->listener, __ATOMIC_SEQ_CST);
        if (number >= 0) {
            long r = assign(target, sys(__NR_pidfd_getfd, container.pidfd, (long)number, 0));
            if (r == 0) __atomic_store_n(&lanes.report->taken, 1, __ATOMIC_SEQ_CST);
            return r;
        }
        struct pollfd fd = {(int)container.pidfd, POLLIN, 0};
        struct {
            i64 seconds, nanoseconds;
        } time = {0, 200000};
        if (sys(__NR_ppoll, &fd, 1, &time, 0, 8) > 0) return lanes.report->failed ? -ECANCELED : -ECHILD;
    }
}

/* A user namespace for the sake of its mapping alone, which an idmapped mount takes (mount_setattr(2)). */
long host_make_user_namespace(struct op *op)
{
    const char *maps[2] = {str(op, 0), str(op, 0)}, *names[2] = {"uid_map", "gid_map"};
    i64 target = num(op);
    long holder = fork_(CLONE_NEWUSER), r = 0, own = container.pid;
    if (holder < 0) return holder;
    if (holder == 0) {
        sys(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        for (;;) pause_(1000000000);
    }
    container.pid = holder;
    for (int i = 0; i < 2 && r >= 0; i++) {
        long fd = proc_open(names[i], O_WRONLY);
        r = fd < 0 ? fd : sys(__NR_write, fd, maps[i], length(maps[i]));
        close_(fd);
    }
    if (r >= 0) r = assign(target, proc_open("ns/user", O_RDONLY));
    container.pid = own;
    sys(__NR_kill, holder, SIGKILL);
    while (sys(__NR_wait4, holder, 0, 0, 0) == -EINTR) {}
    return r;
}

static int is_mount_point(const char *path)
{
    struct statx st;
    return sys(__NR_statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &st) == 0 && (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static long mount_index(const char *index, const char *tar, const char *place)
{
    long context = sys(__NR_fsopen, "erofs", FSOPEN_CLOEXEC), mount = -1, r;
    if (context < 0) return context;
    r = sys(__NR_fsconfig, context, FSCONFIG_SET_STRING, "source", index, 0);
    if (r == 0) r = sys(__NR_fsconfig, context, FSCONFIG_SET_STRING, "device", tar, 0);
    if (r == 0) r = sys(__NR_fsconfig, context, FSCONFIG_SET_FLAG, "ro", 0, 0);
    if (r == 0) r = sys(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (r == 0) r = mount = sys(__NR_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
    if (r < 0) explain("the layer's index cannot be mounted");
    if (mount >= 0) r = sys(__NR_move_mount, mount, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH);
    close_(mount);
    close_(context);
    return r;
}

/* A layer that several containers use: who comes first mounts it, who leaves last unmounts it. The lock is held, shared, by
 * every user; getting it exclusively means that nobody else is one. Page cache belongs to a mounted file system, so that
 * sharing the mount is sharing the memory. */
long host_hold_layer(struct op *op, int undo)
{
    const char *lock = str(op, 0), *index = str(op, 0), *tar = str(op, 0), *place = str(op, 0);
    i64 inverse = num(op), userns = num(op); /* 0: nothing, 1: remove the tree, 2: if the container never started */
    long fd, r = 0, serial;
    if (undo) {
        int removes = inverse == 1 || (inverse == 2 && outer.never_started);
        if ((fd = lanes.begun[op->index].held - 1) < 0) return 0;
        int alone = (*index || removes) && sys(__NR_flock, fd, 2 | 4 /* LOCK_EX | LOCK_NB */) == 0;
        if (alone && *index && is_mount_point(place)) r = sys(__NR_umount2, place, 2 /* MNT_DETACH */);
        if (alone && removes) r = remove_tree_as(place, userns);
        lanes.begun[op->index].held = 0;
        close_(fd);
        return r;
    }
    keep(userns);
    fd = openat_(AT_FDCWD, lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return fd;
    while ((r = sys(__NR_flock, fd, 1 /* LOCK_SH */)) == -EINTR) {}
    if (r < 0) {
        close_(fd);
        return r;
    }
    lanes.begun[op->index].held = (i32)fd + 1;
    if (!*index) return 0;
    serial = openat_(AT_FDCWD, index, O_RDONLY | O_CLOEXEC, 0); /* one mounts, the others wait for it */
    if (serial < 0) return serial;
    while ((r = sys(__NR_flock, serial, 2 /* LOCK_EX */)) == -EINTR) {}
    if (r == 0 && !is_mount_point(place)) r = mount_index(index, tar, place);
    close_(serial);
    return r;
}

LARGE u8 netlink_answer[8192];

/* A datagram to the kernel, which takes it before send returns; its answer is there by then. */
long exchange(long fd, const void *data, word size)
{
    i32 error = 0;
    long n = sys(__NR_sendto, fd, data, size, 0, 0, 0);
    if (n >= 0) n = sys(__NR_recvfrom, fd, netlink_answer, sizeof netlink_answer, 0x40 /* MSG_DONTWAIT */, 0, 0);
    if (n < 20) return n < 0 ? n : -EBADMSG;
    if (netlink_answer[4] == 2 /* NLMSG_ERROR */ && netlink_answer[5] == 0) memcpy(&error, netlink_answer + 16, 4);
    return error;
}

long netlink(i64 protocol, const char *data, word size)
{
    long fd = sys(__NR_socket, 16 /* AF_NETLINK */, 3 /* SOCK_RAW */ | SOCK_CLOEXEC_, protocol), r;
    if (fd < 0) return fd;
    r = exchange(fd, data, size);
    close_(fd);
    return r;
}

/* Lines of a value and a path: what settings were before they were changed. */
static void restore_settings(long notes, const char *unless)
{
    LARGE static char text[65536];
    char now = '0';
    long file = *unless ? openat_(AT_FDCWD, unless, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file >= 0) {
        sys(__NR_read, file, &now, 1);
        close_(file);
    }
    sys(__NR_lseek, notes, 0, 0);
    long size = sys(__NR_read, notes, text, sizeof text - 1);
    sys(__NR_ftruncate, notes, 0);
    for (char *line = text, *end; now == '0' && line < text + size; line = end + 1) {
        for (end = line; end < text + size && *end != '\n'; end++) {}
        *end = 0;
        if (end - line < 3 || line[1] != ' ') continue;
        file = openat_(AT_FDCWD, line + 2, O_WRONLY | O_CLOEXEC, 0);
        if (file >= 0) write_all(file, line, 1);
        close_(file);
    }
}

/* What several containers use: the lock is held, shared, by every user, and getting it exclusively means to be the last. */
long host_hold_shared(struct op *op, int undo)
{
    const char *lock = str(op, 0), *unless, *data;
    i64 restore = num(op);
    long fd, r = 0;
    int last = 0;
    word size;
    unless = str(op, 0);
    if (!undo) {
        fd = openat_(AT_FDCWD, lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) return fd;
        r = lock_file(fd, SHARED_LOCK);
        if (r < 0) {
            close_(fd);
            return r;
        }
        lanes.begun[op->index].held = (i32)fd + 1;
        return 0;
    }
    if ((fd = lanes.begun[op->index].held - 1) < 0) return 0;
    for (int round = 0; round < 2; round++) {
        i64 count = num(op);
        if (round == 1) {
            /* ours goes first: a refused exchange would leave it, and of two that end at once each would be refused for the other's */
            lock_file(fd, NO_LOCK);
            last = lock_file(fd, EXCLUSIVE_LOCK) == 0;
        }
        for (; count > 0 && !op->broken; count--) {
            i64 protocol = num(op);
            data = str(op, &size);
            if (round == 0 || last) r = netlink(protocol, data, size);
        }
    }
    if (last && restore && (r == 0 || r == -ENOENT)) restore_settings(fd, unless); /* somebody may have flushed all tables */
    lanes.begun[op->index].held = 0;
    close_(fd);
    return 0;
}

long op_join(struct op *op)
{
    long fd = slot(op);
    return sys(__NR_setns, fd, num(op));
}

long host_enter_user_network(struct op *op)
{
    long user = slot(op), net = slot(op), r = sys(__NR_setns, user, CLONE_NEWUSER);
    if (r == 0) r = sys(__NR_setns, net, CLONE_NEWNET);
    /* New rights make a process undumpable, and its files in /proc root's, the container's mappings among them: they are to be
     * written by the user's own root. */
    if (r == 0) r = sys(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    return r;
}

long op_pipe(struct op *op)
{
    i32 pair[2];
    i64 reader = num(op), writer = num(op);
    long r = sys(__NR_pipe2, pair, O_CLOEXEC);
    if (r == 0) r = assign(reader, pair[0]);
    if (r == 0) r = assign(writer, pair[1]);
    return r;
}
