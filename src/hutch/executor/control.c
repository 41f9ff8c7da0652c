/* What the outer process hears and says: messages with its owner, the container lane's end, barriers, the log. */
#include "executor.h"

void tell(u32 type, u32 lane, i32 index, i32 error, const i64 *values, int with_fds)
{
    struct message m = {.type = type, .lane = lane, .index = index, .error = error};
    union passed control;
    struct iovec io = {&m, sizeof m};
    struct packet packet = {.io = &io, .io_count = 1};
    if (values) {
        m.a = values[0];
        m.b = values[1];
        m.c = values[2];
        m.d = values[3];
    }
    memcpy(m.detail, talk.words, DETAIL);
    if (with_fds) {
        word n = 0;
        for (long i = 0; i < outer.exported_count; i++)
            if (slot_at(outer.exported[i]) >= 0) {
                control.head.fds[n++] = (i32)slot_at(outer.exported[i]);
                m.c |= 1 << i;
            }
        control.head.size = 16 + 4 * n;
        control.head.level = 1 /* SOL_SOCKET */;
        control.head.type = 1 /* SCM_RIGHTS */;
        if (n) {
            packet.control = &control;
            packet.control_size = (control.head.size + 7) & ~7UL;
        }
    }
    if (!outer.owner_gone) sys(__NR_sendmsg, CONTROL_FD, &packet, 0x4000 /* MSG_NOSIGNAL */);
}

static int take_over(void);

void kill_child(void)
{
    take_over();
    if (container.pidfd >= 0) sys(__NR_pidfd_send_signal, container.pidfd, SIGKILL, 0, 0);
    outer.killed = 1;
}

/* One word from the owner, or its end. Returns the type. */
u32 hear(i32 *error)
{
    struct message m;
    long n = sys(__NR_recvfrom, CONTROL_FD, &m, sizeof m, 0x40 /* MSG_DONTWAIT */, 0, 0);
    if (n == -EAGAIN || n == -EINTR) return 0;
    if (n < (long)__builtin_offsetof(struct message, detail)) {
        outer.owner_gone = 1;
        return 0;
    }
    if (m.type == SEND_SIGNAL) take_over(); /* what it went on in is meant, and not what has ended */
    if (m.type == SEND_SIGNAL && container.pidfd >= 0) sys(__NR_pidfd_send_signal, container.pidfd, m.error, 0, 0);
    if (m.type == KILL_TREE) kill_child();
    if (m.type == ANSWER && error) {
        *error = m.error;
        m.detail[DETAIL - 1] = 0;
        explain(m.detail);
    }
    return m.type;
}

static void save_log(void)
{
    LARGE static char buffer[16384];
    for (long i = 0; i < logged.count; i++) {
        if (logged.from[i] < 0) continue;
        long n = sys(__NR_read, logged.from[i], buffer, sizeof buffer);
        if (n == -EAGAIN || n == -EINTR) continue;
        if (n <= 0) {
            close_(logged.from[i]);
            logged.from[i] = -1;
            continue;
        }
        if (logged.limit && logged.size + n > logged.limit) {
            sys(__NR_ftruncate, logged.fd, 0);
            sys(__NR_lseek, logged.fd, 0, 0);
            logged.size = 0;
        }
        write_all(logged.fd, buffer, (word)n);
        logged.size += n;
    }
}

/* The container lane may go on in a sibling that it cloned (RESPAWN, CLONE_INSIDE): then that one is the container's process. */
static int take_over(void)
{
    u8 info[128];
    if (!plan.respawns || container.taken_over) return 0;
    i32 next = __atomic_load_n(&lanes.shared->respawned, __ATOMIC_SEQ_CST);
    if (!next || next == container.pid) return 0;
    /* a child of ours, or it is nobody whom we may signal */
    if (sys(__NR_waitid, 1 /* P_PID */, next, info, 4 | 1 | 0x01000000 /* WEXITED, WNOHANG, WNOWAIT */, 0) < 0) return 0;
    container.taken_over = 1;
    while (sys(__NR_wait4, container.pid, 0, 0, 0) == -EINTR) {}
    close_(container.pidfd);
    container.pid = next;
    container.pidfd = sys(__NR_pidfd_open, next, 0);
    /* the slot of the clone's pidfd was assigned from the first process: its number goes on, with the new process behind it */
    if (slot_at(container.pidfd_slot) >= 0 && container.pidfd >= 0 && container.pidfd != slot_at(container.pidfd_slot)) {
        sys(__NR_dup3, container.pidfd, slot_at(container.pidfd_slot), O_CLOEXEC);
        close_(container.pidfd);
        container.pidfd = slot_at(container.pidfd_slot);
    }
    return 1;
}

/* Wait for whatever comes first. The owner's death is seen through its pidfd, not its socket alone: a child that the
 * owner forked may hold a copy of the socket. */
int wait_for_news(i32 timeout)
{
    /* Of a process that goes on in another one, the end is nothing to wake for: we would be in the way of that one, right before its
     * execve. The pipe tells of that, and of both processes' ends, as soon as nobody but they has it. Whoever debugs the new one may
     * hold the pipe, so that is trusted for a moment only. */
    int taken_over = container.taken_over, goes_inside = plan.goes_inside && !taken_over && container.exec_pipe[1] < 0 && !container.waited_for_pipe;
    if (goes_inside && timeout < 0) timeout = 5;
    struct pollfd fds[8] = {{(int)lanes.event[CONTAINER], POLLIN, 0},
                            {goes_inside ? -1 : (int)(container.pidfd < 0 ? outer.watched_pidfd : container.pidfd), POLLIN, 0},
                            {(int)container.exec_pipe[0], POLLIN, 0},
                            {outer.owner_gone ? -1 : CONTROL_FD, POLLIN, 0},
                            {outer.owner_gone ? -1 : (int)outer.owner_pidfd, POLLIN, 0}};
    struct {
        i64 seconds, nanoseconds;
    } time = {timeout / 1000, timeout % 1000 * 1000000};
    for (long i = 0; i < 3; i++) fds[5 + i] = (struct pollfd){i < logged.count ? (int)logged.from[i] : -1, POLLIN, 0};
    long n = sys(__NR_ppoll, fds, 8, timeout < 0 ? 0 : (word)&time, 0, 8);
    if (n == 0 && goes_inside) container.waited_for_pipe = 1;
    if (n <= 0) return 0;
    int news = 0;
    if (fds[3].revents & POLLIN) hear(0);
    else if (fds[3].revents) outer.owner_gone = 1;
    if (fds[4].revents) outer.owner_gone = 1;
    if (fds[5].revents | fds[6].revents | fds[7].revents) {
        save_log();
        news |= GOT_LOG;
    }
    if (outer.owner_gone && !(plan.head.flags & FLAG_DETACH)) kill_child();
    if (fds[0].revents) {
        u64 count;
        sys(__NR_read, lanes.event[CONTAINER], &count, 8);
        news |= GOT_EVENT;
    }
    if (fds[2].revents) news |= GOT_EXEC;
    if (fds[1].revents || (goes_inside && fds[2].revents)) {
        take_over();
        /* taken over by now, for a word of the owner's or for this: it was the first process that has ended */
        news |= container.taken_over != taken_over ? GOT_EVENT : GOT_END;
    }
    return news;
}

void signal_barrier(int lane, u32 number)
{
    u64 one = 1;
    __atomic_store_n(&lanes.shared->barrier[lane], number, __ATOMIC_SEQ_CST);
    sys(__NR_write, lanes.event[lane], &one, 8);
}

long wait_host(u32 number)
{
    while (__atomic_load_n(&lanes.shared->barrier[CONTAINER], __ATOMIC_SEQ_CST) < number)
        if (wait_for_news(-1) & GOT_END) { /* it may have gone on and ended meanwhile */
            if (__atomic_load_n(&lanes.shared->barrier[CONTAINER], __ATOMIC_SEQ_CST) >= number) break;
            return lanes.report->failed ? -ECANCELED : -ECHILD;
        }
    take_over();
    return 0;
}

/* The process that the joined pid namespace sees is there (CLONE_INSIDE). */
long host_take_over(void)
{
    while (!container.taken_over && !take_over())
        if (wait_for_news(-1) & GOT_END) return lanes.report->failed ? -ECANCELED : -ECHILD;
    return 0;
}

long wait_container(u32 number)
{
    u64 count;
    while (__atomic_load_n(&lanes.shared->barrier[HOST], __ATOMIC_SEQ_CST) < number) {
        long r = sys(__NR_read, lanes.event[HOST], &count, 8);
        if (r < 0 && r != -EINTR) return r;
    }
    return 0;
}
