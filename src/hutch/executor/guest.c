/* Inside a machine: the first process of the guest's kernel. It loads the modules that it was given, mounts the container's
 * root, and starts an executor for every plan that comes through the control channel. There is no shell and no library here. */
#include "executor.h"

LARGE static struct partial guest_in;

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
        if (fd >= 0) {
            write_all(fd, content, length(content));
            close_(fd);
        }
        at = content + length(content) + 1;
    }
    exit_(0);
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
    LARGE static struct partial in;
    sys(__NR_sync);
    in.done = 0;
    guest_send(QUIET, 0, "", 0);
    for (;;) {
        long r = take_frame(vm.channel, &in);
        if (r == 1) {
            in.done = 0;
            if (in.frame.head.type == RESUME) return guest_resume(&in.frame);
        } else if (r == -EPIPE)
            pause_(1000000);
        else if (r < 0)
            guest_stop();
    }
}

/* A word from the executor of a command, and the descriptors that it hands over. */
static void from_executor(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    struct message m = {0};
    union passed control = {{0}};
    struct iovec io = {&m, sizeof m};
    struct packet packet = {.io = &io, .io_count = 1, .control = &control, .control_size = sizeof control};
    long n = sys(__NR_recvmsg, s->control, &packet, 0x40000000 /* MSG_CMSG_CLOEXEC */), fds[16] = {0};
    if (n == -EAGAIN || n == -EINTR) return;
    if (n < (long)sizeof m) { /* it was killed, and its container with it */
        int status;
        s->last = (struct message){.type = EXITED, .a = 9};
        sys(__NR_kill, s->executor, SIGKILL);
        sys(__NR_wait4, s->executor, &status, 0, 0);
        close_(s->control);
        s->control = -1;
        s->finished = 1;
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
            puts_(&words, "the guest's interface could not be set: error ");
            putn(&words, -error);
        }
        write_all(s->control, &answer, sizeof answer);
    } else if (m.type == READY) {
        s->process = (i32)sys(__NR_pidfd_open, m.a, 0);
        if (s->terminal_session && s->terminal >= 0 && s->terminal < 16 && fds[s->terminal]) {
            long master = sys(__NR_fcntl, fds[s->terminal], 1030, 0);
            close_(s->input);
            close_(s->out[0]);
            close_(s->out[1]);
            s->input = s->out[0] = (i32)master;
            s->out[1] = -1;
            sys(__NR_fcntl, master, F_SETFL, O_NONBLOCK);
        }
        m.c = 0;
        guest_send(FROM_EXECUTOR, number, &m, sizeof m);
    } else if (m.type == EXITED) {
        int status;
        s->last = m;
        sys(__NR_wait4, s->executor, &status, 0, 0);
        close_(s->control);
        s->control = -1;
        s->finished = 1;
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
    s->gone = 1;
    s->open[0] = s->open[1] = 0;
}

static void read_file(u32 number, struct framed *frame)
{
    LARGE static char content[FRAME_MOST];
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
    case SETUP:
        guest_setup((struct setup *)frame->data);
        break;
    case NETWORK:
        memcpy(vm_network, frame->data, size);
        vm.network_size = size;
        if (vm.netlink >= 0 && size) { /* in a copy: its interfaces are there, and become its own */
            long error = netlink_send(vm.netlink, vm_network, vm.network_size);
            if (error < 0) guest_failed("set the interfaces", "of a copy", error);
        }
        break;
    case PLAN:
        add_plan(number, frame);
        break;
    case START:
        start_command(number, frame);
        break;
    case INPUT:
        if (!s->used || !s->started || size > WINDOW - s->in_size) break;
        memcpy(s->in + s->in_size, frame->data, size);
        s->in_size += size;
        s->in_costs += cost(size);
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
    case HANG_UP:
        hang_up(number);
        break;
    case READ_FILE:
        read_file(number, frame);
        break;
    case QUIESCE:
        guest_quiesce();
        break;
    case SHUT_DOWN: guest_stop();
    default: break;
    }
}

_Noreturn void guest(void)
{
    LARGE static struct pollfd fds[1 + 4 * SESSIONS_MOST];
    struct sigaction_ ignore = {(void *)1, 0, 0, 0};
    sys(__NR_rt_sigaction, SIGPIPE, &ignore, 0, 8);
    sys(__NR_umask, 0);
    guest_boot();
    for (;;) {
        u32 count = 1;
        fds[0] = (struct pollfd){(int)vm.channel, POLLIN, 0};
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
            long r = take_frame(vm.channel, &guest_in);
            if (r == 1) {
                from_host();
                guest_in.done = 0;
            } else if (r < 0 && r != -EPIPE) guest_stop();
            else if (r == -EPIPE) /* nobody at the other end, for now */
                pause_(5000000);
        }
    }
}
