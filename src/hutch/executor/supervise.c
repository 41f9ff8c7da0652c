/* How it ends: the inverses in reverse order, what is read on the way, the last message. */
#include "executor.h"

/* How a machine ended (EXITED, FAILED); 0 for one that runs, and for what is no machine: others may write to the page. */
static u32 machine_end(void) { return plan.inside ? lanes.ended->kind : 0; }

LARGE static char packed[DETAIL]; /* the files read at the end: tag, length, content */

static long packed_size;

/* Go back over the host lane and undo it: all but what is shared with others, or that alone. */
void undo(int pack, int only_shared)
{
    struct op op;
    for (u32 n = outer.done; n-- > 0;) {
        const u8 *at = lanes.begun[n].at;
        if (!next_op(&at, &op, n) || (op.code == HOLD_SHARED) != only_shared) continue;
        if (op.code == HOST_DIRECTORY) {
            talk.detail.used = 0;
            host_directory(&op, 1);
        } else if (op.code == RESERVE) {
            host_reserve(&op, 1);
        } else if (op.code == HOLD_LAYER) {
            host_hold_layer(&op, 1);
        } else if (op.code == HOLD_SHARED) {
            host_hold_shared(&op, 1);
        } else if (op.code == RETURN_DEVICE) {
            host_return_device(&op, 1);
        } else if (op.code == PUBLISH) {
            undo_publish();
        } else if (op.code == KILL_AT_EXIT) {
            const char *path = str(&op, 0);
            undo_kill(path, str(&op, 0));
        } else if (op.code == READ_AT_EXIT) {
            const char *path = str(&op, 0);
            i64 tag = num(&op), values[4] = {0, 0, 0, 0};
            long fd = openat_(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
            long size = fd < 0 ? fd : sys(__NR_read, fd, talk.words, DETAIL - 1);
            close_(fd);
            if (size < 0) continue;
            if (pack && packed_size + size + 4 <= DETAIL) { /* what fits goes with the last message: one to be read, not five */
                u16 head[2] = {(u16)tag, (u16)size};
                memcpy(packed + packed_size, head, 4);
                memcpy(packed + packed_size + 4, talk.words, (word)size);
                packed_size += size + 4;
            } else {
                values[0] = size;
                talk.words[size] = 0;
                tell(DATA, HOST, (i32)tag, 0, values, 0);
            }
        }
    }
}

static int has_shared(void)
{
    for (u32 i = 0; i < outer.done; i++)
        if (lanes.begun[i].held) return 1;
    return 0;
}

/* Rules and bridges take the kernel longer to remove than most programs run, as it waits until nobody looks at them any more.
 * Nobody else waits for that: addresses, whose locks are open here, are free before the end is told, and what is shared has locks. */
static void release_all_but_shared(void)
{
    for (i32 from = 0, kept;; from = kept + 1) {
        kept = from <= CONTROL_FD ? CONTROL_FD : 0x7fffffff;
        for (u32 i = 0; i < outer.done; i++)
            if (lanes.begun[i].held && lanes.begun[i].held - 1 >= from && lanes.begun[i].held - 1 < kept) kept = lanes.begun[i].held - 1;
        if (kept == 0x7fffffff) return (void)sys(__NR_close_range, from, ~0U, 0);
        if (kept > from) sys(__NR_close_range, from, kept - 1, 0);
    }
}

_Noreturn static void finish(i32 status, i64 *usage)
{
    undo(!machine_end(), 0);
    memcpy(talk.words, machine_end() ? lanes.ended->detail : packed, DETAIL);
    int lost = machine_end() == FAILED; /* a machine's end, and not its container's */
    if (outer.exit_file) {
        TEXT(line, 32 + DETAIL);
        long fd = openat_(AT_FDCWD, outer.exit_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        putn(&line, status);
        puts_(&line, "\n");
        if (lost) {
            talk.words[DETAIL - 1] = 0;
            puts_(&line, talk.words);
        }
        write_all(fd, line_, line.used);
        close_(fd);
    }
    usage[0] = status;
    int shares = has_shared();
    if (shares) release_all_but_shared();
    tell(EXITED, 0, 0, lost ? (lanes.ended->error > 0 ? lanes.ended->error : EREMOTEIO) : 0, usage, 0);
    if (shares && fork_(0) <= 0) undo(0, 1);
    exit_(0);
}

static i32 reap(i64 *usage)
{
    struct rusage u;
    int status = 0;
    memset(&u, 0, sizeof u);
    while (container.pid > 0 && sys(__NR_wait4, container.pid, &status, 0, &u) == -EINTR) {}
    usage[1] = u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec;
    usage[2] = u.ru_stime.tv_sec * 1000000 + u.ru_stime.tv_usec;
    usage[3] = u.ru_maxrss;
    for (int i = 0; i < 3 && machine_end(); i++) usage[1 + i] = lanes.ended->usage[i]; /* of the command in the machine, not of what stands for it */
    return plan.stays && lanes.ended->status >= 0 ? lanes.ended->status : status;
}

_Noreturn void failed(u32 lane, u32 index, long error)
{
    i64 usage[4] = {0, 0, 0, 0};
    kill_child();
    i32 status = reap(usage);
    LARGE static char said[DETAIL];
    memcpy(said, lane == HOST ? talk.buffer : lanes.report->detail, DETAIL);
    if (lane == CONTAINER && index >= plan.head.count[CONTAINER]) index = plan.head.count[CONTAINER] - 1; /* not what the lane was at */
    if (error < 0 || error > 4095) error = EPROTO;
    outer.never_started = 1;
    undo(0, 0);
    undo(0, 1);
    memcpy(talk.words, said, DETAIL);
    usage[0] = status;
    if (outer.killed && outer.owner_gone) error = ECANCELED;
    tell(FAILED, lane, (i32)index, (i32)error, usage, 0);
    exit_(1);
}

/* What was carried out in a machine failed there: the operation is one of the plan within this one's last. */
_Noreturn static void failed_inside(void)
{
    i64 usage[4] = {0, lanes.ended->lane, lanes.ended->index, 0};
    u32 index = lanes.report->position < plan.head.count[CONTAINER] ? lanes.report->position : plan.head.count[CONTAINER] - 1;
    i64 none[4];
    usage[0] = reap(none);
    outer.never_started = 1;
    undo(0, 0);
    undo(0, 1);
    memcpy(talk.words, lanes.ended->detail, DETAIL);
    tell(FAILED, CONTAINER, (i32)index, outer.killed && outer.owner_gone ? ECANCELED : lanes.ended->error, usage, 0);
    exit_(1);
}

_Noreturn void supervise(void)
{
    i64 usage[4] = {0, 0, 0, 0};
    int started = 0;
    for (;;) {
        int news = wait_for_news(-1);
        if (!started && (news & (GOT_EXEC | GOT_END))) {
            /* The pipe ends at the exec, or when the child dies before it. A debugger in the container can hold its end open:
             * then the end of the child is all that is seen. */
            if (news & GOT_EXEC) {
                close_(container.exec_pipe[0]);
                container.exec_pipe[0] = -1;
            }
            if (!(news & GOT_END)) news |= wait_for_news(0);
            /* A short program may have ended by now: it began all the same. Where we leave, its end is somebody else's to
             * see, and it is not reaped. */
            int began = !(news & GOT_END) || lanes.report->position + 1 == plan.head.count[CONTAINER];
            if (plan.inside) began = (int)lanes.ended->began;
            if (!lanes.report->failed && began) {
                i64 values[4] = {container.pid, outer.pid, 0, 0};
                tell(READY, 0, 0, 0, values, 1);
                started = 1;
                if (plan.head.flags & FLAG_LEAVE) exit_(0); /* the container goes on without us, and nothing is undone */
                if (plan.head.flags & FLAG_DETACH) {
                    outer.owner_gone = 1;
                    close_(CONTROL_FD);
                    close_(outer.owner_pidfd);
                    outer.owner_pidfd = -1;
                }
            }
        }
        if (news & GOT_END) break;
    }
    if (!started && lanes.report->failed) failed(CONTAINER, lanes.report->position, lanes.report->error);
    if (machine_end() == FAILED && !started) failed_inside();
    i32 status = reap(usage);
    if (!started && !outer.killed && status) {
        /* Dead before its program ran, without a word: killed from outside, for one by the memory limit. */
        i64 last = plan.head.count[CONTAINER] ? plan.head.count[CONTAINER] - 1 : 0;
        if (lanes.report->position < last || plan.inside) failed(CONTAINER, lanes.report->position, 0);
    }
    for (int round = 0; logged.count && round < 1000 && (wait_for_news(0) & GOT_LOG); round++) {}
    finish(status, usage);
}
