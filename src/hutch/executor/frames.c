/* What a machine's two sides tell each other, over one byte stream: a virtio port of the guest's, a socket of QEMU's.
 *
 * A frame is a head and `size` bytes. Every command has a session of its own, whose number the relay gives; 0 is the machine
 * itself. The streams of a session have windows: no side sends more than the other has room for, so that a reader who stands
 * still holds up nobody else, and nobody's memory grows. What a frame takes of a window is its size and FRAME_COST, as many
 * small ones take as much room as a few large ones. */
#include "executor.h"

/* One frame, as far as it has come. 1: it is whole; 0: not yet; or an error: the stream has ended, or is none of ours. */
long take_frame(long fd, struct partial *in)
{
    for (;;) {
        u32 whole = in->done < sizeof(struct frame) ? sizeof(struct frame) : sizeof(struct frame) + in->frame.head.size;
        if (in->done == whole && in->done >= sizeof(struct frame)) {
            if (in->frame.head.size > FRAME_MOST) return -EPROTO;
            if (whole == sizeof(struct frame) + in->frame.head.size) return 1;
        }
        if (in->done >= sizeof(struct frame) && in->frame.head.size > FRAME_MOST) return -EPROTO;
        long n = sys(__NR_read, fd, (char *)&in->frame + in->done, whole - in->done);
        if (n == -EAGAIN || n == -EINTR) return 0;
        if (n <= 0) return n < 0 ? n : -EPIPE;
        in->done += (u32)n;
    }
}

/* Go on sending a frame. 1: it is gone; 0: not yet. */
long give_frame(long fd, struct partial *out)
{
    u32 whole = sizeof(struct frame) + out->frame.head.size;
    while (out->done < whole) {
        long n = sys(__NR_write, fd, (char *)&out->frame + out->done, whole - out->done);
        if (n == -EAGAIN || n == -EINTR) return 0;
        if (n < 0) return n;
        out->done += (u32)n;
    }
    out->done = 0;
    out->frame.head.size = 0;
    out->frame.head.type = 0;
    return 1;
}

/* A frame as one packet. */
long send_packet(long fd, u32 type, u32 session, const void *data, u32 size, long flags)
{
    struct frame head = {size, (u16)type, (u16)session};
    struct iovec io[2] = {{&head, sizeof head}, {(void *)data, size}};
    struct packet packet = {.io = io, .io_count = 2};
    long r;
    while ((r = sys(__NR_sendmsg, fd, &packet, 0x4000 /* MSG_NOSIGNAL */ | flags)) == -EINTR) {}
    return r < 0 ? r : 0;
}

long receive_packet(long fd, struct framed *into, long flags)
{
    long n;
    /* a peer that closed with something unread is told of first, once, and what it had sent comes behind (unix(7)) */
    while ((n = sys(__NR_recvfrom, fd, into, sizeof *into, flags, 0, 0)) == -EINTR || n == -ECONNRESET) {}
    if (n < 0) return n;
    return n < (long)sizeof into->head || into->head.size != (u32)n - sizeof into->head ? -EPIPE : 0;
}

void poll_(struct pollfd *fds, word count, i64 milliseconds)
{
    struct {
        i64 seconds, nanoseconds;
    } time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    long n = sys(__NR_ppoll, fds, count, milliseconds < 0 ? 0 : (word)&time, 0, 8);
    if (n <= 0)
        for (word i = 0; i < count; i++) fds[i].revents = 0;
}
