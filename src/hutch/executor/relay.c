/* Beside QEMU and virtiofsd: the relay. It owns the stream that leads into the guest and passes frames on, from and to its clients, one for
 * each command. It believes the guest nothing: what does not keep to the windows ends the machine. */
#include "executor.h"

static struct relay_client {
    i32 fd;
    u32 open[2], input; /* what the guest has sent, of each stream, that the client has not confirmed; the other way round */
    u8 started, gone, unsaid; /* the guest knows of it; the client has left, and the guest has not said yet that it is over, or been told */
} relay_clients[RELAY_CLIENTS] LARGE;

LARGE static struct partial relay_in, relay_out;

/* The machine is being copied: whose doing it is, and whether its guest has fallen silent. Nothing is sent meanwhile. */
static struct {
    u32 client;
    u8 asked, silent, over;
} quiet;

/* "Kernel panic - not syncing: WHY": the line that says why a machine has ended, before all that follows it. */
static void find_panic(char c)
{
    static const char words[] = "Kernel panic - not syncing: ";
    static u32 found, kept;
    if (lanes.ended->panic[0] && !kept) return; /* the first one */
    if (found < sizeof words - 1) {
        found = c == words[found] ? found + 1 : c == words[0];
        return;
    }
    if (c == '\n' || c == '\r' || kept == sizeof lanes.ended->panic - 1) found = kept = 0;
    else lanes.ended->panic[kept++] = c;
}

static void keep_console(long fd)
{
    LARGE static char text[4096];
    long n = sys(__NR_read, fd, text, sizeof text);
    if (n <= 0) return;
    for (long i = 0; i < n; i++) {
        find_panic(text[i]);
        if (lanes.ended->console_size == CONSOLE_KEPT) {
            for (u32 k = 0; k < CONSOLE_KEPT / 2; k++) lanes.ended->console[k] = lanes.ended->console[k + CONSOLE_KEPT / 2];
            lanes.ended->console_size = CONSOLE_KEPT / 2;
        }
        lanes.ended->console[lanes.ended->console_size] = text[i];
        lanes.ended->console_size = lanes.ended->console_size + 1;
    }
}

static void relay_queue(u32 type, u32 session, const void *data, u32 size)
{
    relay_out.frame.head = (struct frame){size, (u16)type, (u16)session};
    memcpy(relay_out.frame.data, data, size);
    relay_out.done = 0;
}

static void renewed(struct setup *setup)
{
    sys(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, &setup->seconds);
    sys(__NR_getrandom, setup->entropy, sizeof setup->entropy, 0);
}

/* Go on. There is nothing on its way to the guest, since nothing was let through. */
static void relay_resume(void)
{
    struct resume how = {0};
    renewed(&how.setup);
    relay_queue(RESUME, 0, &how, sizeof how);
    close_(relay_clients[quiet.client].fd);
    relay_clients[quiet.client] = (struct relay_client){.fd = -1};
    memset(&quiet, 0, sizeof quiet);
}

/* From the guest. An error ends the machine: nothing that comes after it could be believed. */
static long relay_from_guest(void)
{
    struct framed *frame = &relay_in.frame;
    u32 session = frame->head.session, type = frame->head.type, size = frame->head.size;
    if (session >= RELAY_CLIENTS) return -EPROTO;
    struct relay_client *client = relay_clients + session;
    if (session == 0) {
        if (type == HELLO) return 0;
        if (type == QUIET && quiet.asked && !quiet.silent) {
            quiet.silent = 1;
            if (!quiet.over) quiet.over = send_packet(relay_clients[quiet.client].fd, QUIET, 0, "", 0, 0x40) < 0;
            return 0;
        }
        if (type == GUEST_FAILED) { /* everybody's first client hears it */
            client = relay_clients + 1;
            return client->fd >= 0 ? send_packet(client->fd, type, 1, frame->data, size, 0x40 /* MSG_DONTWAIT */) : 0;
        }
        return -EPROTO;
    }
    if (!client->started) return -EPROTO;
    if (type == ENDED) {
        close_(client->fd);
        *client = (struct relay_client){.fd = -1};
        return 0;
    }
    if (type == OUTPUT || type == ERRORS) {
        u32 stream = type == ERRORS;
        client->open[stream] += cost(size);
        if (client->open[stream] > WINDOW) return -EPROTO;
    } else if (type == INPUT_CREDIT) {
        u32 amount = 0;
        if (size != sizeof amount) return -EPROTO;
        memcpy(&amount, frame->data, sizeof amount);
        if (amount > client->input) return -EPROTO;
        client->input -= amount;
    } else if (type == FROM_EXECUTOR) {
        if (size != sizeof(struct message)) return -EPROTO;
    } else if (type != FILE_CONTENT)
        return -EPROTO;
    if (client->gone) return 0;
    /* the windows bound what waits in the socket; who fills it with messages alone is cut off */
    if (send_packet(client->fd, type, session, frame->data, size, 0x40) < 0) {
        client->gone = client->unsaid = 1;
        close_(client->fd);
        client->fd = -1;
    }
    return 0;
}

/* From a client, as long as there is room for one more frame on the way to the guest. */
static void relay_from_client(u32 session)
{
    struct relay_client *client = relay_clients + session;
    struct framed *frame = &relay_out.frame;
    long r = receive_packet(client->fd, frame, 0x40);
    if (r == -EAGAIN) return;
    relay_out.done = 0;
    frame->head.session = (u16)session;
    if (quiet.asked) { /* it is the one who did: whatever it says, or its end, ends it */
        quiet.over = 1;
        frame->head.type = 0;
        return;
    }
    if (r == 0 && frame->head.type == QUIESCE && !client->started) {
        quiet.client = session;
        quiet.asked = 1;
        return;
    }
    /* what comes behind a command's end must not begin another */
    if (r == 0 && !client->started && frame->head.type != PLAN && frame->head.type != READ_FILE && frame->head.type != NETWORK) r = -EPROTO;
    if (r == 0 && frame->head.type == CREDIT) {
        u32 part[2] = {0, 0};
        memcpy(part, frame->data, sizeof part);
        if (part[0] > 1 || part[1] > client->open[part[0]]) r = -EPROTO;
        else client->open[part[0]] -= part[1];
    }
    if (r == 0 && frame->head.type == INPUT && (client->input += cost(frame->head.size)) > WINDOW) r = -EPROTO;
    if (r < 0) {
        close_(client->fd);
        client->fd = -1;
        client->gone = 1;
        frame->head.type = 0;
        if (!client->started) *client = (struct relay_client){.fd = -1};
        else relay_queue(HANG_UP, session, "", 0);
        return;
    }
    client->started = 1;
}

static void relay_accept(long door)
{
    long fd = sys(__NR_accept4, door, 0, 0, SOCK_CLOEXEC_);
    i32 most = 212992; /* the default's most, doubled by the kernel: all that the windows let through */
    if (fd < 0) return;
    sys(__NR_setsockopt, fd, 1 /* SOL_SOCKET */, 7 /* SO_SNDBUF */, &most, sizeof most);
    for (u32 i = 1; i < RELAY_CLIENTS; i++) {
        if (relay_clients[i].fd >= 0 || relay_clients[i].started) continue;
        relay_clients[i] = (struct relay_client){.fd = (i32)fd};
        return;
    }
    close_(fd); /* as many as there can be are there: the new one sees its socket end */
}

/* `identity`: of a copy, what is its own (struct resume). */
_Noreturn void relay(long channel, long door, long console, long first, u32 disks, u32 interfaces, const char *identity, word identity_size)
{
    LARGE static struct pollfd fds[3 + RELAY_CLIENTS];
    struct resume how = {.setup = {.disks = disks, .interfaces = interfaces}, .fresh = 1};
    sys(__NR_prctl, PR_SET_NAME, "hutch-relay", 0, 0, 0);
    sys(__NR_fcntl, channel, F_SETFL, O_NONBLOCK);
    for (u32 i = 0; i < RELAY_CLIENTS; i++) relay_clients[i].fd = -1;
    relay_clients[1].fd = (i32)first;
    renewed(&how.setup);
    relay_queue(identity_size ? RESUME : SETUP, 0, &how, identity_size ? sizeof how : sizeof how.setup);
    if (identity_size) {
        memcpy(relay_out.frame.data + sizeof how, identity, identity_size);
        relay_out.frame.head.size += (u32)identity_size;
        relay_clients[1].started = 1;
    }
    for (;;) {
        if (quiet.silent && quiet.over) relay_resume();
        for (u32 i = 1; i < RELAY_CLIENTS && !relay_out.frame.head.type && !quiet.asked; i++) {
            if (relay_clients[i].unsaid) {
                relay_clients[i].unsaid = 0;
                relay_queue(HANG_UP, i, "", 0);
            }
        }
        int busy = relay_out.frame.head.type != 0;
        fds[0] = (struct pollfd){(int)channel, busy ? POLLIN | POLLOUT : POLLIN, 0};
        fds[1] = (struct pollfd){(int)console, POLLIN, 0};
        fds[2] = (struct pollfd){(int)door, POLLIN, 0};
        for (u32 i = 0; i < RELAY_CLIENTS; i++) fds[3 + i] = (struct pollfd){busy || (quiet.asked && (i != quiet.client || quiet.over)) ? -1 : relay_clients[i].fd, POLLIN, 0};
        poll_(fds, 3 + RELAY_CLIENTS, -1);
        if (fds[1].revents & POLLIN) keep_console(console);
        else if (fds[1].revents) console = -1;
        if (fds[2].revents) relay_accept(door);
        if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            long r = take_frame(channel, &relay_in);
            if (r == 1) {
                r = relay_from_guest();
                relay_in.done = 0;
            }
            if (r < 0) {
                if (r == -EPROTO) lanes.ended->broken = 1;
                for (int i = 0; i < 100 && console >= 0; i++) { /* QEMU's last words, if it has gone */
                    struct pollfd last = {(int)console, POLLIN, 0};
                    poll_(&last, 1, 20);
                    if (!(last.revents & POLLIN)) break;
                    keep_console(console);
                }
                exit_(1);
            }
        }
        if (busy) {
            if (fds[0].revents & POLLOUT && give_frame(channel, &relay_out) < 0) exit_(1);
            continue;
        }
        for (u32 i = 1; i < RELAY_CLIENTS && !relay_out.frame.head.type; i++) {
            static u32 turn; /* everybody's turn comes */
            u32 session = 1 + (turn + i - 1) % (RELAY_CLIENTS - 1);
            if (fds[3 + session].revents) {
                turn = session;
                relay_from_client(session);
            }
        }
    }
}
