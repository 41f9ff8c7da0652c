/* The plan as it arrives (hutch/plan/plan.py writes it) and what the two lanes share while they carry it out. */
#ifndef HUTCH_PLAN_H
#define HUTCH_PLAN_H
#include "numbers.h"
#include "sys.h"

enum { HOST = 0, CONTAINER = 1 };
enum { PLAN_FD = 3, CONTROL_FD = 4 };

struct header {
    u32 magic, version, owner, flags, slots, count[2];
    u32 trace; /* a descriptor to write the time of every operation to; 0: none */
};
struct op_header {
    u32 size; /* of the arguments, a multiple of 8 */
    u16 code, reserved;
};
struct op {
    u16 code;
    u32 index;
    const u8 *at, *end;
    int broken; /* an argument was read beyond the operation's end */
};
struct message {
    u32 type, lane;
    i32 index, error;
    i64 a, b, c, d;
    char detail[DETAIL];
};

/* Pages that both lanes have (MAP_SHARED), made before the clone. Descriptor numbers in slots mean the same in both lanes
 * because the container lane is cloned with CLONE_FILES and unshares its table only after the last barrier. A process that can
 * be seen in somebody's pid namespace does not have them: whoever debugs it could choose what the outer process uses. */
struct shared {
    volatile u32 barrier[2]; /* the highest barrier that each lane has signalled */
    volatile i32 respawned;  /* the process that took the container lane over */
    volatile i32 slot[MAX_SLOTS];
};
static i32 own_slots[MAX_SLOTS]; /* the last of what is small: compilers lay out the first last */
static struct shared *shared;
#define SHARED_PAGES ((sizeof(struct shared) + 4095) & ~4095UL) /* bytes; `ended` is the page behind them, `report` the next */
/* Where the slots are read and assigned: in the shared pages, until one side goes on alone with a copy of its own. */
static volatile i32 *slots;
/* What the container lane says of itself, to its end. It may be a lie by then: nothing but words is taken from it. */
struct report {
    volatile u32 position; /* the operation that it is at */
    volatile u32 failed;
    volatile i32 error;
    volatile i32 listener; /* a filter's listener, in its own table; -1: none yet */
    volatile u32 taken;    /* the outer process has it */
    char detail[DETAIL];
};
static struct report *report;
/* What the outer process knows of each of its operations: where it begins in the plan, a lock that it holds (the descriptor and
 * one), whether its directory was there before. */
struct begun {
    const u8 *at;
    i32 held;
    u8 was_there;
};
static struct begun *begun;
/* What a process of ours that stays in the container has to say of its end, in a page of its own: it is all that it keeps,
 * so that whoever debugs it from inside cannot reach what the executor outside goes by. `status` is the wait status of
 * --init's child, or of the command in a machine; -1: none. The rest is a machine's: how the command there ended (`kind` is
 * EXITED or FAILED), what it used, where its plan failed (`lane` is one more than the lane's number; 0: not in a plan), and
 * the last that the console said, and why its kernel gave up. */
struct ended {
    volatile i32 status;
    volatile u32 kind, lane;
    volatile i32 index, error;
    volatile i64 usage[3];
    volatile u32 console_size, broken, began;
    char detail[DETAIL], console[1024], panic[256];
};
static struct ended *ended;
static const u8 *plan_start, *plan_end, *lane_start[2];
static struct header plan;
static u8 kept[MAX_SLOTS]; /* slots whose descriptors the outer process needs to the end */
static char words[DETAIL]; /* of the next message to the owner */
static long event[2]; /* eventfds: [HOST] is signalled by the host lane, [CONTAINER] by the container lane */
static char detail_[DETAIL];
static struct text detail = {detail_, 0, DETAIL, 0};
static long self_pid, self_pidfd = -1, child_pid, child_pidfd = -1, owner_pidfd = -1, exec_pipe[2] = {-1, -1};
static int plan_respawns, plan_goes_inside, plan_inside, plan_stays; /* inside: the program is one of a machine's; stays: a process of ours stays with the container */
static long report_fd = -1; /* where the container lane tells `start` of a failure, once the outer process has left */
static u64 *trace;          /* nanoseconds: the begin, then the end of each operation, the host lane's first */

static i64 num(struct op *op)
{
    i64 value = 0;
    if (op->end - op->at < 8) return op->broken = 1, 0;
    memcpy(&value, op->at, 8);
    op->at += 8;
    return value;
}
/* A string or bytes: length, content, a NUL that the length does not count, padding to 8. */
static const char *str(struct op *op, word *size)
{
    word n = (word)num(op), room = (word)(op->end - op->at), padded;
    if (op->broken || n >= room) return op->broken = 1, "";
    padded = (n + 8) & ~7UL;
    if (padded > room) return op->broken = 1, "";
    const char *s = (const char *)op->at;
    op->at += padded;
    if (size) *size = n;
    return s;
}
static long slot_at(i64 n) { return n < 0 || n >= plan.slots ? -1 : slots[n]; }
static long slot(struct op *op) { return slot_at(num(op)); }
static void keep(i64 n)
{
    if (n >= 0 && n < plan.slots) kept[n] = 1;
}
static void go_on_alone(void)
{
    for (u32 i = 0; i < plan.slots; i++) own_slots[i] = slots[i];
    slots = own_slots;
}
/* A slot is assigned once: a second assignment is a mistake of the compiler's. */
static long assign(i64 n, long value)
{
    if (value < 0) return value;
    if (n < 0 || n >= plan.slots || slots[n] != -1) return -EBADSLT;
    slots[n] = (i32)value;
    return 0;
}
static int next_op(const u8 **at, struct op *op, u32 index)
{
    struct op_header h;
    if (plan_end - *at < (long)sizeof h) return 0;
    memcpy(&h, *at, sizeof h);
    if (h.size > (word)(plan_end - *at) - sizeof h) return 0;
    *op = (struct op){h.code, index, *at + sizeof h, *at + sizeof h + h.size, 0};
    *at += sizeof h + h.size;
    return 1;
}
static u64 clock(void)
{
    struct {
        i64 seconds, nanoseconds;
    } now = {0, 0};
    sys(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
    return (u64)now.seconds * 1000000000 + (u64)now.nanoseconds;
}
static void stamp(int lane, u32 index)
{
    if (trace) trace[1 + (lane == CONTAINER ? plan.count[HOST] : 0) + index] = clock();
}
static void explain(const char *what)
{
    if (!detail.used) puts_(&detail, what);
}
#endif
