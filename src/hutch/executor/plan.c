/* The plan as it arrives (hutch/plan/plan.py writes it) and what the two lanes share while they carry it out. */
#include "executor.h"

struct plan plan;
struct lanes lanes = {.report_fd = -1};
struct talk talk = {.detail = {talk.buffer, 0, DETAIL, 0}};
struct outer outer = {.pidfd = -1, .owner_pidfd = -1, .watched_pidfd = -1};
struct container container = {.pidfd = -1, .exec_pipe = {-1, -1}, .pidfd_slot = -1};
struct logged logged = {.fd = -1};
struct vm vm = {.netlink = -1};
LARGE char vm_network[FRAME_MOST];

/* A string or bytes: length, content, a NUL that the length does not count, padding to 8. */
const char *str(struct op *op, word *size)
{
    word n = (word)num(op), room = (word)(op->end - op->at), padded;
    if (op->broken || n >= room) {
        op->broken = 1;
        return "";
    }
    padded = (n + 8) & ~7UL;
    if (padded > room) {
        op->broken = 1;
        return "";
    }
    const char *s = (const char *)op->at;
    op->at += padded;
    if (size) *size = n;
    return s;
}

void go_on_alone(void)
{
    for (u32 i = 0; i < plan.head.slots; i++) lanes.own_slots[i] = lanes.slots[i];
    lanes.slots = lanes.own_slots;
}

/* A slot is assigned once: a second assignment is a mistake of the compiler's. */
long assign(i64 n, long value)
{
    if (value < 0) return value;
    if (n < 0 || n >= plan.head.slots || lanes.slots[n] != -1) return -EBADSLT;
    lanes.slots[n] = (i32)value;
    return 0;
}

u64 clock(void)
{
    struct {
        i64 seconds, nanoseconds;
    } now = {0, 0};
    sys(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
    return (u64)now.seconds * 1000000000 + (u64)now.nanoseconds;
}

void stamp(int lane, u32 index)
{
    if (lanes.trace) lanes.trace[1 + (lane == CONTAINER ? plan.head.count[HOST] : 0) + index] = clock();
}
