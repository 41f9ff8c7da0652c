/* Inside a machine: the first process of the guest's kernel. It loads the modules that it was given, mounts the container's
 * root, and starts an executor for every plan that comes through the control channel. There is no shell and no library here. */
#ifndef HUTCH_GUEST_H
#define HUTCH_GUEST_H
#include "frames.h"

static struct guest_session {
    u8 used, started, terminal_session, gone, finished, input_closed, out_closed[2];
    i32 plan, control, input, out[2], process, terminal; /* descriptors; process: a pidfd of the command's; terminal: an export's number */
    long executor;
    u32 open[2], in_size, in_from, in_costs;
    char group[256], in[WINDOW];
    struct message last;
} guest_sessions[SESSIONS_MOST];
static struct partial guest_in;
static long guest_channel;
static char network[FRAME_MOST]; /* what the container's interfaces are given: netlink messages for its namespace */
static u32 network_size, interface_count;
static long container_netlink = -1; /* a socket in the container's network namespace */

static void guest_send(u32 type, u32 session, const void *data, u32 size)
{
    struct frame head = {size, (u16)type, (u16)session};
    /* waits for as long as the host takes: the relay always reads */
    if (write_all(guest_channel, &head, sizeof head) < 0 || write_all(guest_channel, data, size) < 0) sys(__NR_sched_yield);
}

_Noreturn static void guest_stop(void)
{
    sys(__NR_sync);
    if (sys(__NR_getpid) == 1) sys(__NR_reboot, 0xfee1dead, 672274793, 0x4321fedc /* LINUX_REBOOT_CMD_POWER_OFF */, 0);
    exit_(0);
}

/* By the kernel's log, which the console shows: its own device waits for interrupts that a machine without firmware has not. */
static void guest_say(const char *what)
{
    TEXT(line, DETAIL);
    long fd = openat_(AT_FDCWD, "/dev/kmsg", O_WRONLY | O_CLOEXEC, 0);
    puts_(&line, "<1>hutch: "), puts_(&line, what);
    write_all(fd, line_, line.used);
    close_(fd);
}

/* What went wrong before anything could be run, to the host; to the console, too, where a broken channel leaves it. */
_Noreturn static void guest_failed(const char *what, const char *which, long error)
{
    TEXT(words, DETAIL);
    puts_(&words, "the guest: "), puts_(&words, what), puts_(&words, " "), puts_(&words, which);
    puts_(&words, ": error "), putn(&words, -error);
    guest_say(words_);
    if (guest_channel > 0) guest_send(GUEST_FAILED, 0, words_, (u32)words.used);
    pause_(500000000);
    guest_stop();
}

static void guest_mount(const char *type, const char *place, word flags, const char *options)
{
    sys(__NR_mkdirat, AT_FDCWD, place, 0755);
    long r = sys(__NR_mount, type, place, type, flags, options);
    if (r < 0) guest_failed("mount", type, r);
}

/* A line each: the modules' files, in the order of their dependencies. */
static void load_modules(void)
{
    static char names[16384];
    long fd = openat_(AT_FDCWD, "/modules/order", O_RDONLY | O_CLOEXEC, 0), n = fd < 0 ? 0 : sys(__NR_read, fd, names, sizeof names - 1);
    close_(fd);
    for (long at = 0; at < n;) {
        TEXT(path, 256);
        long end = at;
        while (end < n && names[end] != '\n') end++;
        puts_(&path, "/modules/"), put(&path, names + at, (word)(end - at));
        fd = openat_(AT_FDCWD, path_, O_RDONLY | O_CLOEXEC, 0);
        long r = fd < 0 ? fd : sys(__NR_finit_module, fd, "", 0);
        close_(fd);
        if (r < 0 && r != -EEXIST) guest_failed("load the module", path_, r);
        at = end + 1;
    }
}

/* The kernel's first root is a ramfs, which pivot_root(2) refuses to exchange: go on in a tmpfs over it. */
static void guest_boot(void)
{
    sys(__NR_mkdirat, AT_FDCWD, "/n", 0755);
    sys(__NR_mkdirat, AT_FDCWD, "/proc", 0755), sys(__NR_mount, "proc", "/proc", "proc", 0, 0);
    load_modules();
    long r = sys(__NR_mount, "tmpfs", "/n", "tmpfs", 0, "mode=0755");
    if (r < 0) guest_failed("mount", "tmpfs", r);
    guest_mount("proc", "/n/proc", 2 | 4 | 8 /* MS_NOSUID, MS_NODEV, MS_NOEXEC */, 0);
    guest_mount("devtmpfs", "/n/dev", 2 | 8, 0);
    guest_mount("sysfs", "/n/sys", 2 | 4 | 8, 0);
    guest_mount("cgroup2", "/n/sys/fs/cgroup", 2 | 4 | 8, 0);
    sys(__NR_mkdirat, AT_FDCWD, "/n/run", 0755), sys(__NR_mkdirat, AT_FDCWD, "/n/root", 0755), sys(__NR_mkdirat, AT_FDCWD, "/n/tmp", 01777);
    if ((r = sys(__NR_chdir, "/n")) < 0 || (r = sys(__NR_mount, ".", "/", 0, 8192 /* MS_MOVE */, 0)) < 0 || (r = sys(__NR_chroot, ".")) < 0)
        guest_failed("change the root", "", r);
    sys(__NR_chdir, "/");
    const char *const controllers[] = {"+cpuset", "+cpu", "+io", "+memory", "+pids", "+hugetlb"};
    long fd = openat_(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", O_WRONLY | O_CLOEXEC, 0);
    for (word i = 0; i < sizeof controllers / sizeof *controllers; i++) sys(__NR_write, fd, controllers[i], length(controllers[i]));
    close_(fd);
    /* the container's limit says when memory has run out, not the machine's size: as on a host that has more of it */
    fd = openat_(AT_FDCWD, "/proc/sys/vm/overcommit_memory", O_WRONLY | O_CLOEXEC, 0);
    sys(__NR_write, fd, "1", 1);
    close_(fd);
    for (int tries = 0; (guest_channel = openat_(AT_FDCWD, "/dev/vport0p1", O_RDWR | O_CLOEXEC, 0)) < 0; tries++) {
        if (tries > 2000) guest_failed("open", "/dev/vport0p1", guest_channel);
        pause_(1000000);
    }
}

/* What is as it was when a machine is copied, and must not be: the time, and what the random numbers come from. */
static void guest_renew(struct setup *setup)
{
    struct {
        i32 bits, size;
        u8 bytes[64];
    } entropy = {512, 64, {0}};
    memcpy(entropy.bytes, setup->entropy, 64);
    if (sys(__NR_getpid) != 1) return;
    sys(__NR_clock_settime, 0, &setup->seconds);
    long fd = openat_(AT_FDCWD, "/dev/urandom", O_RDWR | O_CLOEXEC, 0);
    sys(__NR_ioctl, fd, 0x40085203 /* RNDADDENTROPY */, &entropy);
    sys(__NR_ioctl, fd, 0x5207 /* RNDRESEEDCRNG */, 0);
    close_(fd);
}

static void guest_setup(struct setup *setup)
{
    static u8 done;
    guest_renew(setup);
    if (sys(__NR_getpid) == 1 && !done) {
        long r = setup->disks ? 0 : sys(__NR_mount, "root", "/root", "virtiofs", 0, 0);
        if (r < 0) guest_failed("mount the root by", "virtiofs", r);
        for (u32 i = 0; i < setup->disks && i < 26; i++) {
            TEXT(place, 32);
            char disk[] = "/dev/vda";
            disk[7] = (char)('a' + i);
            puts_(&place, "/layers/"), putn(&place, i);
            sys(__NR_mkdirat, AT_FDCWD, "/layers", 0755), sys(__NR_mkdirat, AT_FDCWD, place_, 0755);
            for (int tries = 0; (r = sys(__NR_mount, disk, place_, "erofs", 1 /* MS_RDONLY */, 0)) == -ENOENT && tries < 2000; tries++) pause_(1000000);
            if (r < 0) guest_failed("mount the disk", disk, r);
        }
    }
    interface_count = setup->interfaces;
    done = 1;
    guest_send(HELLO, 0, "", 0);
}

static void forget_command(struct guest_session *s)
{
    const i32 fds[] = {s->plan, s->control, s->input, s->out[0], s->out[1], s->process};
    for (word i = 0; i < sizeof fds / sizeof *fds; i++) close_(fds[i]);
    s->used = 0;
}

static void end_command(u32 number)
{
    forget_command(guest_sessions + number);
    guest_send(ENDED, number, "", 0);
}

static void command_failed(u32 number, long error, const char *what)
{
    struct message m = {.type = FAILED, .lane = ~0U, .error = error < 0 ? (i32)-error : EREMOTEIO}; /* in no lane of its plan */
    struct text words = {m.detail, 0, DETAIL, 0};
    puts_(&words, what);
    guest_send(FROM_EXECUTOR, number, &m, sizeof m);
    end_command(number);
}

static struct guest_session *new_command(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    s->used = 1, s->started = s->terminal_session = s->gone = s->finished = s->input_closed = s->out_closed[0] = s->out_closed[1] = 0;
    s->plan = s->control = s->input = s->out[0] = s->out[1] = s->process = s->terminal = -1;
    s->executor = 0, s->open[0] = s->open[1] = s->in_size = s->in_from = s->in_costs = 0, s->group[0] = 0;
    s->last.type = 0;
    return s;
}

static void add_plan(u32 number, struct framed *frame)
{
    struct guest_session *s = guest_sessions + number;
    if (!s->used) new_command(number);
    if (s->plan < 0) s->plan = (i32)sys(__NR_memfd_create, "hutch-plan", 1 /* MFD_CLOEXEC */);
    if (!s->started) write_all(s->plan, frame->data, frame->head.size);
}

/* An executor of its own for the command, as on any host: the same program, the plan on 3, the owner's socket on 4, and for a
 * command in the container that container's process on 5. */
static void start_command(u32 number, struct framed *frame)
{
    struct guest_session *s = guest_sessions + number;
    struct start how = {0};
    i32 in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, pair[2];
    u32 one = (u32)sys(__NR_getpid);
    long target = guest_sessions[1].process;
    if (!s->used || frame->head.size < sizeof how) return;
    memcpy(&how, frame->data, sizeof how);
    if (how.flags & START_RESUMED) { /* it was started before this machine was copied */
        struct message ready = {.type = READY};
        return guest_send(FROM_EXECUTOR, number, &ready, sizeof ready);
    }
    if (s->started) return;
    struct text group = {s->group, 0, sizeof s->group, 0};
    frame->data[frame->head.size < FRAME_MOST ? frame->head.size : FRAME_MOST - 1] = 0;
    puts_(&group, frame->data + sizeof how);
    s->started = 1, s->terminal_session = !!(how.flags & START_TERMINAL), s->terminal = how.terminal;
    if (how.flags & START_ENTER && (number == 1 || !guest_sessions[1].used || target < 0)) return command_failed(number, 0, "the container does not run");
    sys(__NR_pwrite64, s->plan, &one, 4, 8);
    long r = sys(__NR_socketpair, 1, 5 | SOCK_CLOEXEC_, 0, pair);
    if (r >= 0) r = sys(__NR_pipe2, in, O_CLOEXEC);
    if (r >= 0) r = sys(__NR_pipe2, out, O_CLOEXEC);
    if (r >= 0) r = sys(__NR_pipe2, err, O_CLOEXEC);
    if (r < 0) return command_failed(number, r, "");
    s->executor = fork_(0);
    if (s->executor == 0) {
        static const char *const argv[] = {"hutch-executor", 0}, *const none[] = {0};
        const i32 wanted[] = {in[0], out[1], err[1], s->plan, pair[1], how.flags & START_ENTER ? (i32)target : -1};
        long high[6];
        for (u32 i = 0; i < 6; i++) high[i] = wanted[i] < 0 ? -1 : sys(__NR_fcntl, wanted[i], 1030 /* F_DUPFD_CLOEXEC */, 64);
        for (u32 i = 0; i < 6; i++)
            if (high[i] >= 0) sys(__NR_dup3, high[i], i, 0);
        sys(__NR_setsid);
        sys(__NR_execve, "/proc/self/exe", argv, none);
        exit_(127);
    }
    close_(in[0]), close_(out[1]), close_(err[1]), close_(pair[1]), close_(s->plan);
    s->plan = -1, s->control = pair[0], s->input = in[1], s->out[0] = out[0], s->out[1] = err[0];
    if (s->executor < 0) return command_failed(number, s->executor, "");
    sys(__NR_fcntl, s->input, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 2; i++) sys(__NR_fcntl, s->out[i], F_SETFL, O_NONBLOCK);
}

static void close_input(struct guest_session *s)
{
    if (s->terminal_session) { /* the end of input, as a terminal says it */
        if (s->input >= 0) sys(__NR_write, s->input, "\4", 1);
        return;
    }
    close_(s->input), s->input = -1;
}

static void write_input(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    long n = s->input < 0 ? -EPIPE : sys(__NR_write, s->input, s->in + s->in_from, s->in_size - s->in_from);
    if (n == -EAGAIN || n == -EINTR) return;
    s->in_from = n < 0 ? s->in_size : s->in_from + (u32)n;
    if (s->in_from < s->in_size) return;
    guest_send(INPUT_CREDIT, number, &s->in_costs, sizeof s->in_costs);
    s->in_size = s->in_from = s->in_costs = 0;
    if (s->input_closed) close_input(s);
}

/* Bytes of the command's, as far as its window goes. 0: nothing more for now; 1: some; 2: it has ended. */
static int read_output(u32 number, u32 stream)
{
    static char data[FRAME_MOST];
    struct guest_session *s = guest_sessions + number;
    if (s->open[stream] + cost(1) > WINDOW) return 0;
    u32 room = WINDOW - s->open[stream] - FRAME_COST;
    long n = sys(__NR_read, s->out[stream], data, room < FRAME_MOST ? room : FRAME_MOST);
    if (n == -EAGAIN || n == -EINTR) return 0;
    if (n <= 0) { /* of a terminal: EIO, when nobody holds its other side */
        if (!s->terminal_session) close_(s->out[stream]);
        s->out[stream] = -1, s->out_closed[stream] = 1;
        return 2;
    }
    if (s->gone) return 1; /* nobody listens, and nobody confirms */
    s->open[stream] += cost((u32)n);
    guest_send(stream ? ERRORS : OUTPUT, number, data, (u32)n);
    return 1;
}

/* When all is said that was written before its end, the end is told. */
static void finish_command(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    for (u32 stream = 0; stream < 2; stream++) {
        if (s->out[stream] < 0) continue;
        int r = 1;
        while (r == 1) r = read_output(number, stream);
        if (r == 0 && s->open[stream] + cost(1) > WINDOW) return; /* there may be more than the window lets through */
    }
    if (number == 1) sys(__NR_sync); /* what was mapped and written to is the host's to see */
    guest_send(FROM_EXECUTOR, number, &s->last, sizeof s->last);
    end_command(number);
}

static long netlink_open(void) { return sys(__NR_socket, 16 /* AF_NETLINK */, 3 | SOCK_CLOEXEC_, 0); }

/* Send messages that each ask for an acknowledgement; 0, or the first error. */
static long netlink_send(long fd, char *data, u32 size)
{
    static char answer[8192];
    for (u32 at = 0; at + 16 <= size;) {
        u32 one;
        memcpy(&one, data + at, 4);
        if (!one) break; /* the room for them is larger */
        if (one < 16 || one > size - at) return -EBADMSG;
        long r = sys(__NR_sendto, fd, data + at, one, 0, 0, 0);
        if (r >= 0) r = sys(__NR_recvfrom, fd, answer, sizeof answer, 0, 0, 0);
        i32 error = 0;
        if (r >= 20) memcpy(&error, answer + 16, 4); /* struct nlmsgerr */
        if (r < 0) return r;
        if (error && error != -EEXIST) return error;
        at += (one + 3) & ~3U;
    }
    return 0;
}

/* The interface whose MAC is the one that QEMU was told to give number i, by its name; 0: there is none (yet). */
static int interface_named(u32 i, char *name)
{
    for (u32 candidate = 0; candidate < 16; candidate++) {
        TEXT(path, 64);
        char mac[18];
        puts_(&path, "/sys/class/net/eth"), putn(&path, candidate), puts_(&path, "/address");
        long fd = openat_(AT_FDCWD, path_, O_RDONLY | O_CLOEXEC, 0), n = fd < 0 ? fd : sys(__NR_read, fd, mac, sizeof mac);
        close_(fd);
        if (n < 17 || (u32)(mac[15] - '0') != i / 10 || (u32)(mac[16] - '0') != i % 10) continue;
        struct text found = {name, 0, 16, 0};
        puts_(&found, "eth"), putn(&found, candidate);
        return 1;
    }
    return 0;
}

/* The machine's interfaces go to the container's network namespace, and are set there as the host has said. */
static long connect_container(long pid, long netlink)
{
    long own = netlink_open(), r = own < 0 ? own : 0;
    for (u32 i = 0; i < interface_count && r == 0; i++) {
        struct {
            u32 size;
            u16 type, flags;
            u32 sequence, port;
            u8 family, pad;
            u16 device_type;
            i32 index;
            u32 up, change;
            u16 name_size, name_type;
            char name[16];
            u16 pid_size, pid_type;
            u32 pid;
            u16 new_size, new_type;
            u32 new_index;
        } move = {.size = sizeof move, .type = 16 /* RTM_NEWLINK */, .flags = 1 | 4 /* NLM_F_REQUEST | NLM_F_ACK */, .name_size = 20,
                  .name_type = 3 /* IFLA_IFNAME */, .pid_size = 8, .pid_type = 19 /* IFLA_NET_NS_PID */, .pid = (u32)pid, .new_size = 8,
                  .new_type = 49 /* IFLA_NEW_IFINDEX */, .new_index = 2 + i};
        for (int tries = 0; !interface_named(i, move.name); tries++) {
            if (tries > 1000) return close_(own), -ENODEV;
            pause_(1000000);
        }
        r = netlink_send(own, (char *)&move, sizeof move);
    }
    close_(own);
    if (r == 0) container_netlink = sys(__NR_fcntl, netlink, 1030 /* F_DUPFD_CLOEXEC */, 0);
    return r == 0 ? netlink_send(netlink, network, network_size) : r;
}

/* In a copy of a machine: the container's host name and its files of /etc become its own. Done by a child, in its namespaces. */
static void rename_container(char *at, char *end)
{
    long process = guest_sessions[1].process, pid = fork_(0);
    int status;
    if (pid > 0) while (sys(__NR_wait4, pid, &status, 0, 0) == -EINTR) {}
    if (pid) return;
    if (sys(__NR_setns, process, 0x04000000 | 0x00020000 /* CLONE_NEWUTS | CLONE_NEWNS */) < 0) exit_(1);
    sys(__NR_sethostname, at, length(at));
    for (at += length(at) + 1; at < end && *at;) {
        char *content = at + length(at) + 1;
        if (content >= end) break;
        long fd = openat_(AT_FDCWD, at, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
        if (fd >= 0) write_all(fd, content, length(content)), close_(fd);
        at = content + length(content) + 1;
    }
    exit_(0);
}

static void kill_group(struct guest_session *s)
{
    TEXT(path, 300);
    if (!s->group[0]) return;
    puts_(&path, s->group), puts_(&path, "/cgroup.kill");
    long fd = openat_(AT_FDCWD, path_, O_WRONLY | O_CLOEXEC, 0);
    sys(__NR_write, fd, "1", 1);
    close_(fd);
}

static void guest_resume(struct framed *frame)
{
    struct resume how;
    if (frame->head.size < sizeof how || frame->head.size >= FRAME_MOST) return;
    memcpy(&how, frame->data, sizeof how);
    guest_renew(&how.setup);
    if (!how.fresh) return;
    frame->data[frame->head.size] = 0;
    for (u32 i = 2; i < SESSIONS_MOST; i++) { /* their clients are the first machine's; executors kill what they lose their owner of */
        if (!guest_sessions[i].used) continue;
        kill_group(guest_sessions + i);
        forget_command(guest_sessions + i);
    }
    struct guest_session *own = guest_sessions + 1;
    own->open[0] = own->open[1] = own->in_costs = 0;
    rename_container(frame->data + sizeof how, frame->data + frame->head.size);
}

/* Say nothing more, and hear nothing but RESUME: this kernel may be stopped now, and go on elsewhere, more than once. */
static void guest_quiesce(void)
{
    static struct partial in;
    sys(__NR_sync);
    in.done = 0;
    guest_send(QUIET, 0, "", 0);
    for (;;) {
        long r = take_frame(guest_channel, &in);
        if (r == 1) {
            in.done = 0;
            if (in.frame.head.type == RESUME) return guest_resume(&in.frame);
        } else if (r == -EPIPE) {
            if (sys(__NR_getpid) != 1) exit_(0);
            pause_(1000000);
        } else if (r < 0)
            guest_stop();
    }
}

/* A word from the executor of a command, and the descriptors that it hands over. */
static void from_executor(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    struct message m = {0};
    union {
        struct {
            word size;
            i32 level, type, fds[16];
        } head;
        u64 align[12];
    } control = {{0}};
    struct iovec io = {&m, sizeof m};
    struct {
        void *name;
        i32 name_size;
        struct iovec *io;
        word io_count;
        void *control;
        word control_size;
        i32 flags;
    } packet = {0, 0, &io, 1, &control, sizeof control, 0};
    long n = sys(__NR_recvmsg, s->control, &packet, 0x40000000 /* MSG_CMSG_CLOEXEC */), fds[16] = {0};
    if (n == -EAGAIN || n == -EINTR) return;
    if (n < (long)sizeof m) { /* it was killed, and its container with it */
        int status;
        s->last = (struct message){.type = EXITED, .a = 9};
        sys(__NR_kill, s->executor, SIGKILL), sys(__NR_wait4, s->executor, &status, 0, 0);
        close_(s->control), s->control = -1, s->finished = 1;
        return;
    }
    u32 count = control.head.size >= 16 && packet.control_size >= 16 ? (u32)(control.head.size - 16) / 4 : 0, next = 0;
    for (u32 export = 0; export < 16 && next < count; export++)
        if (m.c >> export & 1) fds[export] = control.head.fds[next++];
    if (m.type == CALL) {
        struct message answer = {.type = ANSWER};
        long error = count ? connect_container(m.a, control.head.fds[0]) : -EBADF;
        struct text words = {answer.detail, 0, DETAIL, 0};
        if (error < 0) {
            answer.error = EREMOTEIO;
            puts_(&words, "the guest's interface could not be set: error "), putn(&words, -error);
        }
        write_all(s->control, &answer, sizeof answer);
    } else if (m.type == READY) {
        s->process = (i32)sys(__NR_pidfd_open, m.a, 0);
        if (s->terminal_session && s->terminal >= 0 && s->terminal < 16 && fds[s->terminal]) {
            long master = sys(__NR_fcntl, fds[s->terminal], 1030, 0);
            close_(s->input), close_(s->out[0]), close_(s->out[1]);
            s->input = s->out[0] = (i32)master, s->out[1] = -1;
            sys(__NR_fcntl, master, F_SETFL, O_NONBLOCK);
        }
        m.c = 0;
        guest_send(FROM_EXECUTOR, number, &m, sizeof m);
    } else if (m.type == EXITED) {
        int status;
        s->last = m;
        sys(__NR_wait4, s->executor, &status, 0, 0);
        close_(s->control), s->control = -1, s->finished = 1;
    } else if (m.type == FAILED) {
        int status;
        guest_send(FROM_EXECUTOR, number, &m, sizeof m);
        sys(__NR_wait4, s->executor, &status, 0, 0);
        end_command(number);
    } else if (m.type == DATA)
        guest_send(FROM_EXECUTOR, number, &m, sizeof m);
    for (u32 i = 0; i < count; i++) close_(control.head.fds[i]);
}

static void hang_up(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    struct message kill = {.type = KILL_TREE};
    if (!s->used) return; /* it ended at the same moment, and that has been told */
    kill_group(s);
    if (!s->started) return end_command(number);
    if (s->control >= 0) write_all(s->control, &kill, sizeof kill);
    s->gone = 1, s->open[0] = s->open[1] = 0;
}

static void read_file(u32 number, struct framed *frame)
{
    static char content[FRAME_MOST];
    if (!guest_sessions[number].used) new_command(number); /* its end is the client's */
    frame->data[frame->head.size < FRAME_MOST ? frame->head.size : FRAME_MOST - 1] = 0;
    long fd = openat_(AT_FDCWD, frame->data, O_RDONLY | O_CLOEXEC, 0), n = fd < 0 ? fd : sys(__NR_read, fd, content, sizeof content);
    close_(fd);
    guest_send(FILE_CONTENT, number, content, n < 0 ? 0 : (u32)n);
}

static void from_host(void)
{
    struct framed *frame = &guest_in.frame;
    u32 number = frame->head.session, size = frame->head.size;
    if (number >= SESSIONS_MOST) return;
    struct guest_session *s = guest_sessions + number;
    switch (frame->head.type) {
    case SETUP: guest_setup((struct setup *)frame->data); break;
    case NETWORK:
        memcpy(network, frame->data, size);
        network_size = size;
        if (container_netlink >= 0 && size) { /* in a copy: its interfaces are there, and become its own */
            long error = netlink_send(container_netlink, network, network_size);
            if (error < 0) guest_failed("set the interfaces", "of a copy", error);
        }
        break;
    case PLAN: add_plan(number, frame); break;
    case START: start_command(number, frame); break;
    case INPUT:
        if (!s->used || !s->started || size > WINDOW - s->in_size) break;
        memcpy(s->in + s->in_size, frame->data, size);
        s->in_size += size, s->in_costs += cost(size);
        if (!size) s->input_closed = 1;
        write_input(number);
        break;
    case CREDIT: {
        u32 part[2];
        memcpy(part, frame->data, sizeof part);
        if (s->used && part[0] < 2) s->open[part[0]] -= part[1] < s->open[part[0]] ? part[1] : s->open[part[0]];
        break;
    }
    case TO_EXECUTOR:
        if (s->used && s->control >= 0 && size == sizeof(struct message)) write_all(s->control, frame->data, size);
        break;
    case RESIZE:
        if (s->used && s->terminal_session && s->input >= 0) sys(__NR_ioctl, s->input, TIOCSWINSZ, frame->data);
        break;
    case HANG_UP: hang_up(number); break;
    case READ_FILE: read_file(number, frame); break;
    case QUIESCE: guest_quiesce(); break;
    case SHUT_DOWN: guest_stop();
    default: break;
    }
}

_Noreturn static void guest(void)
{
    static struct pollfd fds[1 + 4 * SESSIONS_MOST];
    struct sigaction_ ignore = {(void *)1, 0, 0, 0};
    sys(__NR_rt_sigaction, SIGPIPE, &ignore, 0, 8);
    sys(__NR_umask, 0);
    if (sys(__NR_getpid) == 1) guest_boot();
    else guest_channel = CONTROL_FD; /* beside its peer, on one kernel: as it is tried without a machine */
    for (;;) {
        u32 count = 1;
        fds[0] = (struct pollfd){(int)guest_channel, POLLIN, 0};
        for (u32 i = 0; i < SESSIONS_MOST; i++) {
            struct guest_session *s = guest_sessions + i;
            int live = s->used && s->started;
            fds[count++] = (struct pollfd){live && !s->finished ? s->control : -1, POLLIN, 0};
            for (u32 stream = 0; stream < 2; stream++)
                fds[count++] = (struct pollfd){live && s->out[stream] >= 0 && s->open[stream] + cost(1) <= WINDOW ? s->out[stream] : -1, POLLIN, 0};
            fds[count++] = (struct pollfd){live && s->in_size && s->input >= 0 ? s->input : -1, POLLOUT, 0};
        }
        poll_(fds, count, -1);
        for (u32 i = 0; i < SESSIONS_MOST; i++) {
            struct guest_session *s = guest_sessions + i;
            struct pollfd *own = fds + 1 + 4 * i;
            if (!s->used || !s->started) continue;
            if (own[3].revents) write_input(i);
            for (u32 stream = 0; stream < 2; stream++)
                if (own[1 + stream].revents && s->out[stream] >= 0) read_output(i, stream);
            if (own[0].revents && s->control >= 0) from_executor(i);
            if (s->used && s->finished) finish_command(i);
        }
        for (int status; sys(__NR_wait4, -1L, &status, WNOHANG, 0) > 0;) {} /* executors, and orphans */
        if (fds[0].revents) {
            long r = take_frame(guest_channel, &guest_in);
            if (r == 1) from_host(), guest_in.done = 0;
            else if (r < 0 && r != -EPIPE) guest_stop();
            else if (r == -EPIPE) { /* nobody at the other end, for now */
                if (sys(__NR_getpid) != 1) exit_(0);
                pause_(5000000);
            }
        }
    }
}
#endif
