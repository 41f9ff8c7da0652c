/* A relay's client: the process that stands for a command outside of the machine. It has the caller's streams, hands signals and the
 * window's size on, and ends as the command in the guest did. The first client is PID 1 of the machine's pid namespace,
 * whose end is the end of all of it. */
#include "executor.h"

#define LAST_WORDS 300000000UL /* nanoseconds */

static struct {
    char data[WINDOW];
    u32 from, size, costs; /* costs: confirmed when all of it is written */
    u8 closed;
} client_out[2] LARGE;

static void client_failed(i32 error, u32 lane, i32 index, const char *what)
{
    TEXT(words, DETAIL);
    lanes.ended->error = error;
    lanes.ended->lane = lane;
    lanes.ended->index = index;
    puts_(&words, what);
    memcpy((char *)lanes.ended->detail, words_, DETAIL);
    __atomic_store_n(&lanes.ended->kind, FAILED, __ATOMIC_SEQ_CST);
    exit_(125);
}

/* What a machine's end looks like from outside: the last that it, or QEMU, wrote. */
static void machine_gone(const char *who)
{
    TEXT(words, DETAIL);
    puts_(&words, who);
    u32 size = lanes.ended->console_size < CONSOLE_KEPT ? lanes.ended->console_size : CONSOLE_KEPT, from = size > 400 ? size - 400 : 0;
    while (size > from && (lanes.ended->console[size - 1] == '\n' || lanes.ended->console[size - 1] == '\r')) size--;
    if (lanes.ended->panic[0]) {
        puts_(&words, ": its kernel gave up: ");
        puts_(&words, (char *)lanes.ended->panic);
        client_failed(EREMOTEIO, 0, 0, words_);
    }
    if (lanes.ended->broken) puts_(&words, ": the guest broke the protocol of its control channel");
    if (size > from) {
        puts_(&words, "; its console ends with: ");
        put(&words, (char *)lanes.ended->console + from, size - from);
    }
    client_failed(EREMOTEIO, 0, 0, words_);
}

static void raw_terminal(void)
{
    struct termios state;
    if (sys(__NR_ioctl, 0, TCGETS, &state) < 0) return;
    state.c_iflag &= ~(word)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    state.c_oflag &= ~(word)OPOST;
    state.c_lflag &= ~(word)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    sys(__NR_ioctl, 0, TCSETS, &state);
}

static void send_size(long relay)
{
    struct winsize size = {0};
    if (sys(__NR_ioctl, 0, TIOCGWINSZ, &size) == 0 && size.ws_row) send_packet(relay, RESIZE, 0, &size, sizeof size, 0);
}

static void write_out(u32 stream, long relay)
{
    u32 left = client_out[stream].size - client_out[stream].from;
    long n = sys(__NR_write, 1 + stream, client_out[stream].data + client_out[stream].from, left < 4096 ? left : 4096);
    if (n == -EAGAIN || n == -EINTR) return;
    if (n < 0) client_out[stream].closed = 1; /* nobody reads: the rest is thrown away, as a pipe's would be */
    client_out[stream].from += n < 0 ? left : (u32)n;
    if (client_out[stream].from < client_out[stream].size) return;
    u32 part[2] = {stream, client_out[stream].costs};
    send_packet(relay, CREDIT, 0, part, sizeof part, 0);
    client_out[stream].from = client_out[stream].size = client_out[stream].costs = 0;
}

/* Stand for a command: until it has ended. `children`: this is PID 1, and the end of any child is the machine's. */
_Noreturn void client(long relay, const char *encoded, word encoded_size, struct start *how, const char *group, i64 patience, int children)
{
    LARGE static struct framed frame;
    struct message last = {0};
    u64 all = ~0UL, began = clock(), dying = 0;
    u32 sent = 0;
    int input = 1, heard = 0, over = 0;
    sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
    long signals = sys(__NR_signalfd4, -1L, &all, 8, O_CLOEXEC | O_NONBLOCK);
    for (int status; children && sys(__NR_wait4, -1L, &status, WNOHANG, 0) > 0;) dying = clock() + LAST_WORDS; /* before it could be told of */
    if (how->flags & START_TERMINAL) raw_terminal();
    for (word at = 0; at < encoded_size && !(how->flags & START_RESUMED); at += FRAME_MOST) {
        word part = encoded_size - at < FRAME_MOST ? encoded_size - at : FRAME_MOST;
        if (send_packet(relay, PLAN, 0, encoded + at, (u32)part, 0) < 0) break; /* its end is seen below */
    }
    memcpy(frame.data, how, sizeof *how);
    memcpy(frame.data + sizeof *how, group, length(group) + 1);
    send_packet(relay, START, 0, frame.data, (u32)(sizeof *how + length(group) + 1), 0);
    for (;;) {
        int waiting = client_out[0].size || client_out[1].size;
        if (over && !waiting) {
            lanes.ended->usage[0] = last.b;
            lanes.ended->usage[1] = last.c;
            lanes.ended->usage[2] = last.d;
            memcpy((char *)lanes.ended->detail, last.detail, DETAIL);
            lanes.ended->status = (i32)last.a;
            __atomic_store_n(&lanes.ended->kind, EXITED, __ATOMIC_SEQ_CST);
            exit_(last.a & 0x7f ? 128 + (last.a & 0x7f) : last.a >> 8 & 0xff);
        }
        struct pollfd fds[5] = {{(int)signals, POLLIN, 0},
                                {over ? -1 : (int)relay, POLLIN, 0},
                                {input && sent + cost(1) < WINDOW && !over ? 0 : -1, POLLIN, 0},
                                {client_out[0].size ? 1 : -1, POLLOUT, 0},
                                {client_out[1].size ? 2 : -1, POLLOUT, 0}};
        i64 left = -1;
        if (patience && !heard && (left = patience - (i64)((clock() - began) / 1000000)) <= 0) machine_gone("the guest did not come up in time");
        if (dying && !over) { /* QEMU, virtiofsd or the relay has ended: what was said before is still to be heard */
            if (clock() > dying) machine_gone("the machine ended");
            left = 20;
        }
        poll_(fds, 5, left);
        for (u32 stream = 0; stream < 2; stream++)
            if (fds[3 + stream].revents) write_out(stream, relay);
        if (fds[0].revents) {
            u32 info[32];
            while (sys(__NR_read, signals, info, sizeof info) == (long)sizeof info) {
                struct message m = {.type = SEND_SIGNAL, .error = (i32)info[0]};
                if (info[0] == SIGWINCH) send_size(relay);
                else if (info[0] == SIGCHLD && children) {
                    for (int status; sys(__NR_wait4, -1L, &status, WNOHANG, 0) > 0;) dying = dying ? dying : clock() + LAST_WORDS;
                } else if (info[0] != SIGCHLD && info[0] != SIGPIPE && !over)
                    send_packet(relay, TO_EXECUTOR, 0, &m, sizeof m, 0);
            }
        }
        if (fds[2].revents && !over) {
            u32 room = WINDOW - sent - FRAME_COST;
            long n = sys(__NR_read, 0, frame.data, room < FRAME_MOST ? room : FRAME_MOST);
            if (n != -EAGAIN && n != -EINTR) {
                u32 size = n > 0 ? (u32)n : 0;
                if (!size) input = 0;
                sent += cost(size);
                send_packet(relay, INPUT, 0, frame.data, size, 0);
            }
        }
        if (!fds[1].revents || over) continue;
        long r = receive_packet(relay, &frame, 0x40);
        if (r == -EAGAIN) continue;
        if (r < 0) machine_gone(children ? "the machine ended" : "the machine ended, or has no room for another command");
        u32 size = frame.head.size, part;
        if (frame.head.type == OUTPUT || frame.head.type == ERRORS) {
            u32 stream = frame.head.type == ERRORS, at = client_out[stream].size;
            if (size > WINDOW - at) machine_gone("the machine's relay failed");
            memcpy(client_out[stream].data + at, frame.data, size);
            client_out[stream].size += size;
            client_out[stream].costs += cost(size);
            if (!client_out[stream].size || client_out[stream].closed) {
                client_out[stream].from = client_out[stream].size;
                write_out(stream, relay);
            }
        } else if (frame.head.type == INPUT_CREDIT) {
            memcpy(&part, frame.data, sizeof part);
            sent -= part < sent ? part : sent;
        } else if (frame.head.type == GUEST_FAILED) {
            frame.data[size < DETAIL ? size : DETAIL - 1] = 0;
            client_failed(EREMOTEIO, 0, 0, frame.data);
        } else if (frame.head.type == FROM_EXECUTOR && size == sizeof last) {
            struct message m;
            memcpy(&m, frame.data, sizeof m);
            m.detail[DETAIL - 1] = 0;
            heard = 1;
            if (m.type == READY) {
                lanes.ended->began = 1;
                close_(container.exec_pipe[1]);
                container.exec_pipe[1] = -1;
                if (how->flags & START_TERMINAL) send_size(relay);
            } else if (m.type == FAILED)
                client_failed(m.error, m.lane + 1, m.index, m.detail);
            else if (m.type == EXITED) {
                last = m;
                over = 1;
            }
        }
    }
}

/* PID 1 of a machine: the relay as a child, the container's own command as the first client. */
long op_machine(struct op *op)
{
    word plan_size;
    long channel = slot(op), console = slot(op), door = slot(op);
    struct start how = {(u32)num(op), (i32)num(op)};
    i64 patience = num(op), disks = num(op), interfaces = num(op);
    word network_size, identity_size;
    const char *encoded = str(op, &plan_size), *network = str(op, &network_size), *identity = str(op, &identity_size);
    i32 pair[2];
    sys(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* QEMU may be the same user, where there is one id alone */
    if (op->broken || network_size > FRAME_MOST || identity_size + sizeof(struct resume) >= FRAME_MOST) return -EBADMSG;
    long r = sys(__NR_socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | SOCK_CLOEXEC_, 0, pair);
    if (r < 0) return r;
    i32 most = 212992;
    sys(__NR_setsockopt, pair[0], 1 /* SOL_SOCKET */, 7 /* SO_SNDBUF */, &most, sizeof most);
    r = sys(__NR_clone, SIGCHLD, 0, 0, 0, 0); /* not clone3, which the default filter refuses */
    if (r < 0) return r;
    sys(__NR_munmap, lanes.shared, SHARED_PAGES);
    if (r == 0) {
        close_(container.exec_pipe[1]);
        close_(pair[1]);
        for (int fd = 0; fd < 3; fd++) close_(fd); /* the caller's streams are the client's alone */
        relay(channel, door, console, pair[0], (u32)disks, (u32)interfaces, identity, identity_size);
    }
    close_(pair[0]);
    close_(channel);
    close_(console);
    close_(door);
    if (network_size) send_packet(pair[1], NETWORK, 0, network, (u32)network_size, 0);
    sys(__NR_prctl, PR_SET_NAME, "hutch-machine", 0, 0, 0);
    client(pair[1], encoded, plan_size, &how, "", patience, 1);
}

/* A command in a machine that runs. */
long op_remote(struct op *op)
{
    word plan_size;
    long relay = slot(op);
    struct start how = {(u32)num(op), (i32)num(op)};
    const char *group = str(op, 0), *encoded = str(op, &plan_size);
    if (op->broken || length(group) > 4096) return -EBADMSG;
    sys(__NR_munmap, lanes.shared, SHARED_PAGES);
    client(relay, encoded, plan_size, &how, group, 0, 0);
}
