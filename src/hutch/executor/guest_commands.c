/* Inside a machine: commands, each with an executor of its own. */
#include "executor.h"

LARGE struct guest_session guest_sessions[SESSIONS_MOST];

void forget_command(struct guest_session *s)
{
    const i32 fds[] = {s->plan, s->control, s->input, s->out[0], s->out[1], s->process};
    for (word i = 0; i < sizeof fds / sizeof *fds; i++) close_(fds[i]);
    s->used = 0;
}

void end_command(u32 number)
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

struct guest_session *new_command(u32 number)
{
    struct guest_session *s = guest_sessions + number;
    s->used = 1;
    s->started = s->terminal_session = s->gone = s->finished = s->input_closed = s->out_closed[0] = s->out_closed[1] = 0;
    s->plan = s->control = s->input = s->out[0] = s->out[1] = s->process = s->terminal = -1;
    s->executor = 0;
    s->open[0] = s->open[1] = s->in_size = s->in_from = s->in_costs = 0;
    s->group[0] = 0;
    s->last.type = 0;
    return s;
}

void add_plan(u32 number, struct framed *frame)
{
    struct guest_session *s = guest_sessions + number;
    if (!s->used) new_command(number);
    if (s->plan < 0) s->plan = (i32)sys(__NR_memfd_create, "hutch-plan", 1 /* MFD_CLOEXEC */);
    if (!s->started) write_all(s->plan, frame->data, frame->head.size);
}

/* An executor of its own for the command, as on any host: the same program, the plan on 3, the owner's socket on 4, and for a
 * command in the container that container's process on 5. */
void start_command(u32 number, struct framed *frame)
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
    s->started = 1;
    s->terminal_session = !!(how.flags & START_TERMINAL);
    s->terminal = how.terminal;
    if (how.flags & START_ENTER && (number == 1 || !guest_sessions[1].used || target < 0)) return command_failed(number, 0, "the container does not run");
    sys(__NR_pwrite64, s->plan, &one, 4, 8);
    long r = sys(__NR_socketpair, 1, 5 | SOCK_CLOEXEC_, 0, pair);
    if (r >= 0) r = sys(__NR_pipe2, in, O_CLOEXEC);
    if (r >= 0) r = sys(__NR_pipe2, out, O_CLOEXEC);
    if (r >= 0) r = sys(__NR_pipe2, err, O_CLOEXEC);
    if (r < 0) {
        const i32 made[] = {in[0], in[1], out[0], out[1], err[0], err[1]};
        for (u32 i = 0; i < 6; i++) close_(made[i]);
        return command_failed(number, r, "");
    }
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
    close_(in[0]);
    close_(out[1]);
    close_(err[1]);
    close_(pair[1]);
    close_(s->plan);
    s->plan = -1;
    s->control = pair[0];
    s->input = in[1];
    s->out[0] = out[0];
    s->out[1] = err[0];
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
    close_(s->input);
    s->input = -1;
}

void write_input(u32 number)
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
int read_output(u32 number, u32 stream)
{
    LARGE static char data[FRAME_MOST];
    struct guest_session *s = guest_sessions + number;
    if (s->open[stream] + cost(1) > WINDOW) return 0;
    u32 room = WINDOW - s->open[stream] - FRAME_COST;
    long n = sys(__NR_read, s->out[stream], data, room < FRAME_MOST ? room : FRAME_MOST);
    if (n == -EAGAIN || n == -EINTR) return 0;
    if (n <= 0) { /* of a terminal: EIO, when nobody holds its other side */
        if (!s->terminal_session) close_(s->out[stream]);
        s->out[stream] = -1;
        s->out_closed[stream] = 1;
        return 2;
    }
    if (s->gone) return 1; /* nobody listens, and nobody confirms */
    s->open[stream] += cost((u32)n);
    guest_send(stream ? ERRORS : OUTPUT, number, data, (u32)n);
    return 1;
}

/* When all is said that was written before its end, the end is told. */
void finish_command(u32 number)
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

void kill_group(struct guest_session *s)
{
    TEXT(path, 300);
    if (!s->group[0]) return;
    puts_(&path, s->group);
    puts_(&path, "/cgroup.kill");
    long fd = openat_(AT_FDCWD, path_, O_WRONLY | O_CLOEXEC, 0);
    sys(__NR_write, fd, "1", 1);
    close_(fd);
}
