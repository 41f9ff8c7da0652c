/* What the parts of the executor have in common: what they say to each other, what they keep, and what each offers the others.
 * The parts are compiled one by one and linked as one (setup.py). */
#ifndef HUTCH_EXECUTOR_H
#define HUTCH_EXECUTOR_H
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

#define SHARED_PAGES ((sizeof(struct shared) + 4095) & ~4095UL) /* bytes; `ended` is the page behind them, `report` the next */

/* What the container lane says of itself, to its end. It may be a lie by then: nothing but words is taken from it. */
struct report {
    volatile u32 position; /* the operation that it is at */
    volatile u32 failed;
    volatile i32 error;
    volatile i32 listener; /* a filter's listener, in its own table; -1: none yet */
    volatile u32 taken;    /* the outer process has it */
    char detail[DETAIL];
};

/* What the outer process knows of each of its operations: where it begins in the plan, a lock that it holds (the descriptor and
 * one), whether its directory was there before. */
struct begun {
    const u8 *at;
    i32 held;
    u8 was_there;
};

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

#define IN_ROOT (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

enum { PATH_SIZE = 4096 };

enum { FRAME_COST = 512, WINDOW = 65536, SESSIONS_MOST = 64 };

struct frame {
    u32 size;
    u16 type, session;
};

struct framed { /* a frame as it is received and sent */
    struct frame head;
    char data[FRAME_MOST];
};

struct setup { /* SETUP */
    i64 seconds, nanoseconds; /* since 1970 */
    u8 entropy[64];
    u32 disks, interfaces; /* how many disks the root's layers are on, the topmost first (0: it is shared); how many interfaces there are */
};

/* A machine may be copied while it is quiet: between QUIET, the last that its guest says, and RESUME, the first that it hears, its
 * stream has no frame that is half on its way. */
struct resume { /* RESUME, followed in a copy by the host name, then by files of the container's: each a path, and its content */
    struct setup setup;
    u32 fresh, pad; /* fresh: this is a copy, whose only command is the container's own */
};

struct start { /* START, followed by the path of the command's cgroup below the container's, if it has one */
    u32 flags;
    i32 terminal; /* which of the plan's exports is the terminal; -1: none */
};

/* A buffer that is read from and written to without waiting: what of a frame has come, or is still to go. */
struct partial {
    struct framed frame;
    u32 done;
};

enum { RELAY_CLIENTS = SESSIONS_MOST, CONSOLE_KEPT = 1024 };

enum { GOT_EVENT = 1, GOT_END = 2, GOT_EXEC = 4, GOT_LOG = 8 };

struct guest_session {
    u8 used, started, terminal_session, gone, finished, input_closed, out_closed[2];
    i32 plan, control, input, out[2], process, terminal; /* descriptors; process: a pidfd of the command's; terminal: an export's number */
    long executor;
    u32 open[2], in_size, in_from, in_costs;
    char group[256], in[WINDOW];
    struct message last;
};
extern struct guest_session guest_sessions[SESSIONS_MOST];

extern u8 netlink_answer[8192]; /* what `exchange` was answered */

/* The plan that is carried out. `inside`: its program is one of a machine's. `stays`: a process of ours stays with the container.
 * `respawns`, `goes_inside`: the container lane goes on in another process (RESPAWN or CLONE_INSIDE; CLONE_INSIDE). */
extern struct plan {
    struct header head;
    const u8 *start, *end, *lane[2];
    int respawns, goes_inside, inside, stays;
} plan;

/* What the two lanes have of each other. `slots` is where the slots are read and assigned: in the shared pages, until one side
 * goes on alone with a copy of its own. `kept` are slots whose descriptors the outer process needs to the end. `event` are
 * eventfds: [HOST] is signalled by the host lane, [CONTAINER] by the container lane. By `report_fd` the container lane tells `start`
 * of a failure, once the outer process has left. `trace` has nanoseconds: the begin, then the end of each operation, the host
 * lane's first. */
extern struct lanes {
    struct shared *shared;
    struct report *report;
    struct begun *begun;
    struct ended *ended;
    volatile i32 *slots;
    u64 *trace;
    long event[2], report_fd;
    u8 kept[MAX_SLOTS];
    i32 own_slots[MAX_SLOTS];
} lanes;

/* What is said: words of the next message to the owner, and why the operation at hand failed. */
extern struct talk {
    struct text detail;
    char buffer[DETAIL], words[DETAIL];
} talk;

/* The outer process. `done` are the host's operations that were begun: what undo goes back over. `never_started`: what is kept of a
 * container that ran is not kept of one that failed before. `watched_pidfd` is of a container that is another executor's: its end
 * ends this one, which never ends it. `exported` are slots: their values may come later. */
extern struct outer {
    long pid, pidfd, owner_pidfd, watched_pidfd, exported[16], exported_count;
    u32 done;
    int owner_gone, killed, never_started;
    const char *exit_file;
} outer;

/* The container's process. `waited_for_pipe`: its pipe has not told of its execve for a while, and may be held by somebody. */
extern struct container {
    long pid, pidfd, exec_pipe[2];
    i64 pidfd_slot;
    int taken_over, waited_for_pipe, went_inside, umask_set, unarmed;
} container;

/* The log of a detached container: where its output comes from, and how much has been written. */
extern struct logged {
    long from[3], count, fd, limit, size;
} logged;

/* In a machine: the channel to the host, and the container's network there: netlink messages for its namespace, and a socket in it. */
extern struct vm {
    long channel, netlink;
    u32 interfaces, network_size;
} vm;
extern char vm_network[FRAME_MOST];


/* plan.c */
const char *str(struct op *op, word *size);
void go_on_alone(void);
long assign(i64 n, long value);
u64 clock(void);
void stamp(int lane, u32 index);

/* paths.c */
long in_root(long root, const char *path, u64 flags, u64 resolve);
long make_path(long root, const char *path, int file, u64 resolve);
int dots(const char *name);
long remove_tree(const char *path);
long copy_tree(long from, long to, int depth);

/* files.c */
long owned(long dir, const char *path, i64 uid, i64 gid);
long op_socket_pair(struct op *op);
long op_listen(struct op *op);
long op_tap(struct op *op);
long op_memory(struct op *op);
long op_make_directory(struct op *op);
long op_make_symlink(struct op *op);
long op_make_file(struct op *op);
long op_make_node(struct op *op);
long op_set_xattr(struct op *op);
long op_open_at(struct op *op);
long op_open(struct op *op);
long op_write_at(struct op *op);

/* host.c */
void pause_(i64 nanoseconds);
long host_directory(struct op *op, int undo);
long host_write(struct op *op);
long host_record(struct op *op);
long host_reserve(struct op *op, int undo);
long host_check_room(struct op *op);
long proc_open(const char *name, word flags);
long host_proc_write(struct op *op);
long host_write_pid(struct op *op);
long host_map_helper(struct op *op);
long host_device_program(struct op *op);
long undo_kill(const char *path, const char *kill_file);
long host_take_descriptor(struct op *op);
long host_make_user_namespace(struct op *op);
long host_hold_layer(struct op *op, int undo);
long exchange(long fd, const void *data, word size);
long netlink(i64 protocol, const char *data, word size);
long host_hold_shared(struct op *op, int undo);
long op_join(struct op *op);
long host_enter_user_network(struct op *op);
long op_pipe(struct op *op);

/* devices.c */
long host_return_device(struct op *op, int undo);

/* ports.c */
long host_publish(struct op *op);
void undo_publish(void);

/* process.c */
long op_set_ids(struct op *op);
long op_capabilities(struct op *op);
long op_rlimit(struct op *op, long pid);
long op_loopback(void);
long op_terminal(struct op *op);
long op_stdio(struct op *op);
long op_change_directory(struct op *op);
long op_affinity(struct op *op);
long op_memory_policy(struct op *op);
long op_own_stdio(struct op *op);
long op_home(struct op *op);
long op_seccomp(struct op *op);
long op_enter_cgroup(struct op *op);
long op_find_program(struct op *op);
long op_execute(struct op *op);
void reset_signals(void);
long op_init(struct op *op);

/* lifecycle.c */
long op_await_start(struct op *op);
long op_respawn(struct op *op);
long op_clone_inside(void);
long op_run_hook(struct op *op);

/* mounts.c */
long op_make_filesystem(struct op *op);
long op_open_tree(struct op *op);
long op_attach(struct op *op);
long op_set_attributes(struct op *op);
long op_mask(struct op *op);
long op_read_only(struct op *op);
long op_copy_up(struct op *op);
long op_pivot(struct op *op);
long op_change_root(struct op *op);
long op_propagation(struct op *op);

/* frames.c */
long take_frame(long fd, struct partial *in);
long give_frame(long fd, struct partial *out);
long send_packet(long fd, u32 type, u32 session, const void *data, u32 size, long flags);
long receive_packet(long fd, struct framed *into, long flags);
void poll_(struct pollfd *fds, word count, i64 milliseconds);

/* relay.c */
_Noreturn void relay(long channel, long door, long console, long first, u32 disks, u32 interfaces, const char *identity, word identity_size);

/* machine.c */
_Noreturn void client(long relay, const char *encoded, word encoded_size, struct start *how, const char *group, i64 patience, int children);
long op_machine(struct op *op);
long op_remote(struct op *op);

/* guest_boot.c */
void guest_send(u32 type, u32 session, const void *data, u32 size);
_Noreturn void guest_stop(void);
int in_ramdisk(void);
_Noreturn void guest_failed(const char *what, const char *which, long error);
void guest_boot(void);
void guest_renew(struct setup *setup);
void guest_setup(struct setup *setup);

/* guest_commands.c */
void forget_command(struct guest_session *s);
void end_command(u32 number);
struct guest_session *new_command(u32 number);
void add_plan(u32 number, struct framed *frame);
void start_command(u32 number, struct framed *frame);
void write_input(u32 number);
int read_output(u32 number, u32 stream);
void finish_command(u32 number);
void kill_group(struct guest_session *s);

/* guest_network.c */
long netlink_send(long fd, char *data, u32 size);
long connect_container(long pid, long netlink);

/* guest.c */
_Noreturn void guest(void);

/* control.c */
void tell(u32 type, u32 lane, i32 index, i32 error, const i64 *values, int with_fds);
void kill_child(void);
u32 hear(i32 *error);
int wait_for_news(i32 timeout);
void signal_barrier(int lane, u32 number);
long wait_host(u32 number);
long host_take_over(void);
long wait_container(u32 number);


/* supervise.c */
void undo(int pack, int only_shared);
_Noreturn void failed(u32 lane, u32 index, long error);
_Noreturn void supervise(void);

static inline i64 num(struct op *op)
{
    i64 value = 0;
    if (op->end - op->at < 8) {
        op->broken = 1;
        return 0;
    }
    memcpy(&value, op->at, 8);
    op->at += 8;
    return value;
}

static inline long slot_at(i64 n) { return n < 0 || n >= plan.head.slots ? -1 : lanes.slots[n]; }

static inline long slot(struct op *op) { return slot_at(num(op)); }

static inline void keep(i64 n)
{
    if (n >= 0 && n < plan.head.slots) lanes.kept[n] = 1;
}

static inline int next_op(const u8 **at, struct op *op, u32 index)
{
    struct op_header h;
    if (plan.end - *at < (long)sizeof h) return 0;
    memcpy(&h, *at, sizeof h);
    if (h.size > (word)(plan.end - *at) - sizeof h) return 0;
    *op = (struct op){h.code, index, *at + sizeof h, *at + sizeof h + h.size, 0};
    *at += sizeof h + h.size;
    return 1;
}

static inline void explain(const char *what)
{
    if (!talk.detail.used) puts_(&talk.detail, what);
}

static inline u32 cost(u32 size) { return size + FRAME_COST; }

#endif
